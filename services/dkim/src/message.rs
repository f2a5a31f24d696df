//! Raw octets to header fields (RFC 5322 2.2). Original octets are kept: simple canonicalization needs them.

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
    /// work on what arrived); an obs-style `Name :` is accepted. A malformed header line is an error.
    pub fn parse(_raw: &'a [u8]) -> Result<Self, MessageError> {
        todo!()
    }
    /// Fields of that name, top to bottom.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Field<'a>> + 's {
        self.fields.iter().filter(move |f| f.is(name))
    }
}

/// Turns each bare LF into CRLF, and adds a final CRLF where it is missing; refuses bare CR and NUL (RFC 6376 5.3, RFC 5321 2.3.8).
/// Returns the input unchanged (no copy) when nothing was to be done.
pub fn normalize_line_ends(_raw: Vec<u8>) -> Result<Vec<u8>, MessageError> {
    todo!()
}

/// The sending rules: no bare CR or LF, no NUL, no line over 998 octets, no 8-bit octets in the header.
pub fn check_sendable(_raw: &[u8]) -> Result<(), MessageError> {
    todo!()
}
