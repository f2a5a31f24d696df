//! Rounds to medians and ratios.
use std::io::Write as _;

use crate::Result;

/// One comparison: what is ours stands in column 0, its reference in column `reference`.
pub(crate) struct Comparison<'t> {
    /// What is measured, with its unit.
    pub(crate) title: &'t str,
    /// Names of the columns.
    pub(crate) columns: &'t [&'t str],
    /// The column that the goal speaks of.
    pub(crate) reference: usize,
    /// The ratio that is hoped for.
    pub(crate) goal: f64,
    /// Digits after the point.
    pub(crate) digits: usize,
}

impl Comparison<'_> {
    /// Prints every round, the medians, and ours by the reference: the median of the rounds' own ratios.
    pub(crate) fn print(&self, rounds: &[Vec<f64>]) -> Result<()> {
        table(self.title, self.columns, self.digits, rounds)?;
        let mut out = std::io::stdout().lock();
        for (at, name) in self.columns.iter().enumerate().skip(1) {
            let ratio = median(rounds.iter().map(|round| round[0] / round[at]));
            let goal = if at == self.reference { format!(" (goal: at least {:.2})", self.goal) } else { String::new() };
            writeln!(out, "  {} / {name}: {ratio:.3}{goal}", self.columns[0])?;
        }
        Ok(())
    }
}

/// Prints every round and the medians, and gives these.
pub(crate) fn table(title: &str, columns: &[&str], digits: usize, rounds: &[Vec<f64>]) -> Result<Vec<f64>> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{title}")?;
    write!(out, "{:12}", "")?;
    for name in columns {
        write!(out, "{name:>24}")?;
    }
    writeln!(out)?;
    let mut line = |name: &str, values: &[f64]| -> Result<()> {
        write!(out, "{name:12}")?;
        for value in values {
            write!(out, "{value:>24.digits$}")?;
        }
        Ok(writeln!(out)?)
    };
    for (number, round) in rounds.iter().enumerate() {
        line(&format!("  round {}", number + 1), round)?;
    }
    let medians: Vec<f64> = (0..columns.len()).map(|at| median(rounds.iter().map(|round| round[at]))).collect();
    line("  median", &medians)?;
    Ok(medians)
}

/// One line below a table.
pub(crate) fn note(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "  {text}")?)
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}
