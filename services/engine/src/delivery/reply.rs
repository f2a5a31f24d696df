//! Replies of an SMTP server (RFC 5321 4.2) and their enhanced status codes (RFC 3463).
//!
//! Reply lines are read here and not by smtp-proto: it keeps the parts of an enhanced code in one octet, so that the
//! `5.7.512` of a large receiver would be reported as `5.7.255`.
use std::fmt;

/// Longest text of a reply that is kept for people.
const SHOWN_TEXT: usize = 1000;

/// An enhanced status code, `class.subject.detail` (RFC 3463 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u16,
    /// 0-999.
    pub subject: u16,
    /// 0-999.
    pub detail: u16,
}

impl EnhancedCode {
    /// From its parts.
    pub const fn new(class: u16, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// The code at the start of `text` and what follows it; `None` if there is none of this class.
    fn strip(text: &str, class: u16) -> Option<(Self, &str)> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = word.split('.').map(number);
        let found = Self { class: parts.next()??, subject: parts.next()??, detail: parts.next()?? };
        (parts.next().is_none() && found.class == class).then_some((found, rest))
    }
}

/// One to three digits.
fn number(text: &str) -> Option<u16> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// A complete reply, of one or more lines. Display gives it on one line, shortened, free of control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200-599.
    pub code: u16,
    /// Of the first line that has one whose class fits the code (RFC 2034 4).
    pub enhanced: Option<EnhancedCode>,
    /// Lines without codes, joined by LF.
    pub text: String,
}

/// First digit of a reply code (RFC 5321 4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyClass {
    /// 2yz.
    Completion,
    /// 3yz.
    Intermediate,
    /// 4yz.
    Transient,
    /// 5yz.
    Permanent,
}

impl Reply {
    /// A verdict of our own in the form of a reply, where the message could not even be offered.
    pub fn ours(code: u16, enhanced: EnhancedCode, text: impl Into<String>) -> Self {
        Self { code, enhanced: Some(enhanced), text: text.into() }
    }

    /// The class of the code.
    pub fn class(&self) -> ReplyClass {
        match self.code / 100 {
            2 => ReplyClass::Completion,
            3 => ReplyClass::Intermediate,
            4 => ReplyClass::Transient,
            // `ReplyLine::parse` lets nothing above 5 through.
            _ => ReplyClass::Permanent,
        }
    }

    /// True for 421: the server closes the connection (RFC 5321 3.8).
    pub fn closes(&self) -> bool {
        self.code == 421
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if self.text.is_empty() {
            return Ok(());
        }
        f.write_str(" ")?;
        for c in self.text.chars().take(SHOWN_TEXT) {
            fmt::Write::write_char(f, if c.is_control() { ' ' } else { c })?;
        }
        Ok(())
    }
}

/// One line of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReplyLine {
    pub(super) code: u16,
    pub(super) last: bool,
    pub(super) text: String,
}

impl ReplyLine {
    /// RFC 5321 4.2: three digits, then space, hyphen or nothing, then text. `line` is without its line end.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let (digits, rest) = line.split_at_checked(3)?;
        let code = number(std::str::from_utf8(digits).ok()?)?;
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return None,
        };
        let text = String::from_utf8_lossy(text).into_owned();
        (200..=599).contains(&code).then_some(Self { code, last, text })
    }
}

/// Puts the lines of one reply together. An error says which rule the lines break.
pub(super) fn assemble(lines: Vec<ReplyLine>) -> Result<Reply, &'static str> {
    let code = lines.first().map(|line| line.code).ok_or("a reply without lines")?;
    // RFC 5321 4.2.1: the code of every line is the same.
    if lines.iter().any(|line| line.code != code) {
        return Err("a reply whose lines have different codes");
    }
    let mut enhanced = None;
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let shown = match EnhancedCode::strip(&line.text, code / 100) {
            Some((found, rest)) if *enhanced.get_or_insert(found) == found => rest,
            Some(_) | None => line.text.as_str(),
        };
        if index > 0 {
            text.push('\n');
        }
        text.push_str(shown);
    }
    Ok(Reply { code, enhanced, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Result<Reply, &'static str> {
        assemble(lines.iter().map(|line| ReplyLine::parse(line.as_bytes()).expect("a reply line")).collect())
    }

    #[test]
    fn replies_and_their_enhanced_codes() {
        type Row = (&'static [&'static str], u16, Option<(u16, u16, u16)>, &'static str);
        let table: &[Row] = &[
            (&["250 ok"], 250, None, "ok"),
            (&["250"], 250, None, ""),
            (&["550 5.1.1 unknown"], 550, Some((5, 1, 1)), "unknown"),
            (&["550-5.1.1 no such user", "550 5.1.1 here"], 550, Some((5, 1, 1)), "no such user\nhere"),
            (&["550 5.7.512 too long for one octet"], 550, Some((5, 7, 512)), "too long for one octet"),
            (&["550 4.7.1 class does not fit"], 550, None, "4.7.1 class does not fit"),
            (&["250 2 recipients"], 250, None, "2 recipients"),
            (&["250 1.2.3.4 greets you"], 250, None, "1.2.3.4 greets you"),
            (&["250 2.0.0"], 250, Some((2, 0, 0)), ""),
            (&["451 4.7.1"], 451, Some((4, 7, 1)), ""),
        ];
        for (lines, code, enhanced, text) in table {
            let reply = read(lines).expect("a reply");
            assert_eq!((reply.code, reply.text.as_str()), (*code, *text), "{lines:?}");
            assert_eq!(reply.enhanced.map(|e| (e.class, e.subject, e.detail)), *enhanced, "{lines:?}");
        }
    }

    #[test]
    fn lines_that_are_no_reply_are_refused() {
        for line in ["", "25", "25x ok", "250_ok", "999 ok", "099 ok", "100 wait", "+OK", "\u{ff}\u{ff}\u{ff}"] {
            assert_eq!(ReplyLine::parse(line.as_bytes()), None, "{line:?}");
        }
        assert!(read(&["250-a", "550 b"]).is_err());
    }

    #[test]
    fn shown_text_is_one_bounded_line_without_control_characters() {
        let reply = Reply { code: 550, enhanced: None, text: format!("a\r\nb\u{0}{}", "x".repeat(9000)) };
        let shown = reply.to_string();
        assert!(shown.starts_with("550 a  b x") && shown.len() < 1100 && !shown.contains(char::is_control));
    }
}
