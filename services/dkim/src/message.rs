//! Raw octets to header fields (RFC 5322 2.2). Original octets are kept: simple canonicalization needs them.
use std::io::BufRead as _;

/// Why a message could not be taken as it is. `line` counts from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A CR without LF, or an LF without CR where that is not repaired.
    #[error("line {line}: bare {what}; lines end in CRLF (RFC 5322 2.3)")]
    BareLineEnd {
        /// `CR` or `LF`.
        what: &'static str,
        /// Line number.
        line: usize,
    },
    /// A NUL octet.
    #[error("line {line}: NUL octet (RFC 5322 2.3)")]
    Nul {
        /// Line number.
        line: usize,
    },
    /// A line over 998 octets (RFC 5322 2.1.1).
    #[error(
        "line {line}: {length} octets, at most 998 are allowed (RFC 5322 2.1.1); send this part as quoted-printable or base64"
    )]
    LongLine {
        /// Line number.
        line: usize,
        /// Octets without CRLF.
        length: usize,
    },
    /// A line of the header that is neither field nor continuation.
    #[error("line {line}: not a header field (RFC 5322 2.2)")]
    NotAField {
        /// Line number.
        line: usize,
    },
    /// An octet above 127 in the header.
    #[error("line {line}: field {name:?} has raw 8-bit octets; use encoded-words (RFC 2047)")]
    EightBitHeader {
        /// Field name as written.
        name: String,
        /// Line number.
        line: usize,
    },
    /// No header at all.
    #[error("the message has no header fields")]
    NoHeader,
}

/// One header field.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// All octets, with folds and the final CRLF.
    pub raw: &'a [u8],
    /// The name as written, without WSP before the colon.
    pub name: &'a str,
    /// Octets after the colon, with folds, without the final CRLF.
    pub value: &'a [u8],
    /// Line of the message on which the field begins, from 1.
    pub line: usize,
}

impl Field<'_> {
    /// ASCII case-insensitive.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// A parsed message that borrows its octets.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// Fields from top to bottom.
    pub fields: Vec<Field<'a>>,
    /// Body octets after the empty line; empty if there is none.
    pub body: &'a [u8],
    /// Offset of the body in the raw octets.
    pub body_offset: usize,
}

impl<'a> Message<'a> {
    /// Splits `raw` (CRLF line ends) into fields and body. Lenient on purpose about 8-bit and long lines (verification must
    /// work on what arrived); an obs-style `Name :` is accepted. A malformed header line is an error, and so is a CR or LF
    /// on its own or a NUL in the header: other programs would see other fields there. The body is not looked at.
    /// RFC 5322 2.1, 2.2, 4.5.
    pub fn parse(raw: &'a [u8]) -> Result<Self, MessageError> {
        let mut fields: Vec<Field<'a>> = Vec::new();
        let mut start = 0;
        let mut number = 0;
        // Where the field begins that the lines so far belong to, and its line.
        let mut open: Option<(usize, usize)> = None;
        let body_offset = loop {
            number += 1;
            let end = line_end(raw, start);
            let line = strip_crlf(&raw[start..end]);
            check_line(line, number)?;
            let is_continuation = matches!(line.first(), Some(b' ' | b'\t'));
            if is_continuation && open.is_none() {
                return Err(MessageError::NotAField { line: number });
            }
            if !is_continuation {
                if let Some((from, line)) = open.replace((start, number)) {
                    fields.push(field(&raw[from..start], line)?);
                }
                if line.is_empty() {
                    break end;
                }
            }
            start = end;
        };
        match fields.is_empty() {
            true => Err(MessageError::NoHeader),
            false => Ok(Self { fields, body: &raw[body_offset..], body_offset }),
        }
    }

    /// Fields of that name, top to bottom.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Field<'a>> + 's {
        self.fields.iter().filter(move |f| f.is(name))
    }
}

/// Offset behind the CRLF that ends the line at `start`, or of the end. An LF without CR ends no line.
fn line_end(raw: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < raw.len() {
        // Many octets at a time, as `position` is not.
        let mut rest = &raw[at..];
        let Ok(length) = rest.skip_until(b'\n') else { break };
        at += length;
        if at - start >= 2 && raw[at - 2..at] == *b"\r\n" {
            return at;
        }
    }
    raw.len()
}

fn strip_crlf(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r\n").unwrap_or(line)
}

/// RFC 5322 2.3: CR and LF only together; RFC 5322 4.1: no NUL.
fn check_line(line: &[u8], number: usize) -> Result<(), MessageError> {
    // Without an early end a compiler looks at many octets at a time.
    if !line.iter().fold(false, |found, b| found | (*b == b'\r') | (*b == b'\n') | (*b == 0)) {
        return Ok(());
    }
    match line.iter().find(|b| matches!(b, b'\r' | b'\n' | 0)) {
        None => Ok(()),
        Some(b'\r') => Err(MessageError::BareLineEnd { what: "CR", line: number }),
        Some(b'\n') => Err(MessageError::BareLineEnd { what: "LF", line: number }),
        Some(_) => Err(MessageError::Nul { line: number }),
    }
}

/// RFC 5322 2.2: name of 1*ftext, colon, value; RFC 5322 4.5.8: white space before the colon.
fn field(raw: &[u8], line: usize) -> Result<Field<'_>, MessageError> {
    let not_a_field = || MessageError::NotAField { line };
    let colon = raw.iter().position(|&b| b == b':').ok_or_else(not_a_field)?;
    let name = std::str::from_utf8(&raw[..colon]).map_err(|_| not_a_field())?;
    let name = name.trim_end_matches([' ', '\t']);
    if !is_field_name(name) {
        return Err(not_a_field());
    }
    Ok(Field { raw, name, value: strip_crlf(&raw[colon + 1..]), line })
}

/// RFC 5322 3.6.8: printable ASCII except the colon.
pub fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (33..=126).contains(&b) && b != b':')
}

/// Turns each bare LF into CRLF, and adds a final CRLF where it is missing; refuses bare CR and NUL (RFC 6376 5.3, RFC 5321 2.3.8).
/// Returns the input unchanged (no copy) when nothing was to be done.
pub fn normalize_line_ends(raw: Vec<u8>) -> Result<Vec<u8>, MessageError> {
    let mut line = 1;
    let mut bare = 0;
    let mut previous = 0;
    for (i, &b) in raw.iter().enumerate() {
        match b {
            b'\n' => {
                bare += usize::from(previous != b'\r');
                line += 1;
            }
            b'\r' if raw.get(i + 1) != Some(&b'\n') => return Err(MessageError::BareLineEnd { what: "CR", line }),
            0 => return Err(MessageError::Nul { line }),
            _ => {}
        }
        previous = b;
    }
    let unterminated = !raw.is_empty() && previous != b'\n';
    if bare == 0 && !unterminated {
        return Ok(raw);
    }
    let mut out = Vec::with_capacity(raw.len() + bare + 2);
    for piece in raw.split_inclusive(|&b| b == b'\n') {
        let content = piece.strip_suffix(b"\n").unwrap_or(piece);
        out.extend_from_slice(content.strip_suffix(b"\r").unwrap_or(content));
        out.extend_from_slice(b"\r\n");
    }
    Ok(out)
}

/// Octets of a line without its CRLF (RFC 5322 2.1.1).
const LINE_MAX: usize = 998;

/// The sending rules: no bare CR or LF, no NUL, no line over 998 octets, no 8-bit octets in the header.
/// RFC 5322 2.1.1, 2.2, 2.3; a message that needs 8-bit headers would need SMTPUTF8 at every hop.
pub fn check_sendable(raw: &[u8]) -> Result<(), MessageError> {
    check_lines(raw, false).map(|_| ())
}

/// The sending rules for a host that may offer SMTPUTF8: as `check_sendable`, but the header may hold UTF-8 (RFC 6532 3.2).
/// True if it does: then the message may only go to hosts that offer SMTPUTF8 (RFC 6531 3.4).
pub fn check_sendable_utf8(raw: &[u8]) -> Result<bool, MessageError> {
    check_lines(raw, true)
}

/// True if the header has octets above 127, which is an error unless `utf8_header` and they are UTF-8.
fn check_lines(raw: &[u8], utf8_header: bool) -> Result<bool, MessageError> {
    let mut found = false;
    let mut in_header = true;
    let mut name: &[u8] = &[];
    let mut start = 0;
    let mut number = 0;
    while start < raw.len() {
        number += 1;
        let end = line_end(raw, start);
        let line = strip_crlf(&raw[start..end]);
        check_line(line, number)?;
        if line.len() > LINE_MAX {
            return Err(MessageError::LongLine { line: number, length: line.len() });
        }
        in_header &= !line.is_empty();
        if in_header {
            if !matches!(line.first(), Some(b' ' | b'\t')) {
                name = line.split(|&b| b == b':').next().unwrap_or(line);
            }
            let allowed = utf8_header && std::str::from_utf8(line).is_ok();
            found |= !line.is_ascii();
            if !line.is_ascii() && !allowed {
                let name = String::from_utf8_lossy(name.trim_ascii_end()).into_owned();
                return Err(MessageError::EightBitHeader { name, line: number });
            }
        }
        start = end;
    }
    Ok(found)
}
