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
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{}", self.title)?;
        write!(out, "{:12}", "")?;
        for name in self.columns {
            write!(out, "{name:>24}")?;
        }
        writeln!(out)?;
        for (number, round) in rounds.iter().enumerate() {
            self.line(&mut out, &format!("  round {}", number + 1), round)?;
        }
        let columns = 0..self.columns.len();
        let medians: Vec<f64> = columns.map(|at| median(rounds.iter().map(|round| round[at]))).collect();
        self.line(&mut out, "  median", &medians)?;
        for (at, name) in self.columns.iter().enumerate().skip(1) {
            let ratio = median(rounds.iter().map(|round| round[0] / round[at]));
            let goal = if at == self.reference { format!(" (goal: at least {:.2})", self.goal) } else { String::new() };
            writeln!(out, "  {} / {name}: {ratio:.3}{goal}", self.columns[0])?;
        }
        Ok(())
    }

    fn line(&self, out: &mut impl std::io::Write, name: &str, values: &[f64]) -> Result<()> {
        write!(out, "{name:12}")?;
        for value in values {
            write!(out, "{value:>24.*}", self.digits)?;
        }
        Ok(writeln!(out)?)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}
