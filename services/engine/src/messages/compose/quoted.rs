//! Transfer encodings of text, chosen so that no hop has a reason to change a line (RFC 6376 5.3).
use base64::Engine;
use std::borrow::Cow;

/// Octets of an encoded line, the soft line break included (RFC 2045 6.7 rule 5).
const MAX_LINE: usize = 76;

/// Octets that quoted-printable may cost before base64 is taken.
const SHORT_TEXT: usize = 50;

/// A text in the encoding that suits it.
pub(super) enum Encoded<'a> {
    /// As it is: ASCII, lines of 76 or less.
    SevenBit(Cow<'a, str>),
    /// RFC 2045 6.7.
    QuotedPrintable(String),
    /// RFC 2045 6.8, shorter where most of the text is not ASCII: the octets that are still to be encoded.
    Base64(Cow<'a, str>),
}

/// Line ends become CRLF (RFC 2046 4.1.1). `close`: the last line gets one too, where nothing follows the part.
pub(super) fn encode(text: &str, close: bool) -> Encoded<'_> {
    if is_plain(text) {
        return Encoded::SevenBit(canonical(text, close));
    }
    let quoted: usize = text.chars().map(unit_length).sum();
    // a line of 78 octets with its end carries 75 units as quoted-printable, 57 octets of text as base64; a short text stays readable
    if quoted * 57 > (text.len() + SHORT_TEXT) * 75 {
        return Encoded::Base64(canonical(text, close));
    }
    Encoded::QuotedPrintable(quoted_printable(text, close, quoted))
}

/// Lines of any convention, without their ends; one more than there are line ends.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(at) = text.find(['\r', '\n']) else {
            rest = None;
            return Some(text);
        };
        let length = if text[at..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[at + length..]);
        Some(&text[..at])
    })
}

/// True for text that every hop leaves alone: no line that is long, ends in white space, or begins with `From ` or a dot.
fn is_plain(text: &str) -> bool {
    lines(text).all(|line| {
        line.len() <= MAX_LINE
            && line.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~'))
            && !line.ends_with([' ', '\t'])
            && !line.starts_with('.')
            && !line.starts_with("From ")
    })
}

fn canonical(text: &str, close: bool) -> Cow<'_, str> {
    let open = close && !text.is_empty() && !text.ends_with(['\r', '\n']);
    let bare = |pair: &[u8]| (pair[0] == b'\r') != (pair[1] == b'\n');
    let is_canonical = !text.as_bytes().windows(2).any(bare) && !text.starts_with('\n') && !text.ends_with('\r');
    if is_canonical && !open {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + text.len() / 32 + 2);
    for (index, line) in lines(text).enumerate() {
        if index > 0 {
            out.push_str("\r\n");
        }
        out.push_str(line);
    }
    if open {
        out.push_str("\r\n");
    }
    Cow::Owned(out)
}

fn is_literal(c: char) -> bool {
    matches!(c, '\t' | ' '..='<' | '>'..='~')
}

fn unit_length(c: char) -> usize {
    if is_literal(c) || matches!(c, '\r' | '\n') { 1 } else { 3 * c.len_utf8() }
}

/// Characters are never split over two lines, though RFC 2045 would allow it.
fn quoted_printable(text: &str, close: bool, length: usize) -> String {
    let mut out = String::with_capacity(length + length / 16 + 16);
    for (index, line) in lines(text).enumerate() {
        if index > 0 {
            out.push_str("\r\n");
        }
        quoted_line(&mut out, line);
    }
    if close && !text.is_empty() && !text.ends_with(['\r', '\n']) {
        out.push_str("\r\n");
    }
    out
}

fn quoted_line(out: &mut String, line: &str) {
    let mut column = 0;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        let is_last = chars.as_str().is_empty();
        // a soft break may put any character first, so what is unsafe there is encoded wherever it would come to stand
        let mut literal = is_literal(c) && !(is_last && matches!(c, ' ' | '\t'));
        let mut length = if literal { 1 } else { 3 * c.len_utf8() };
        if column + length > MAX_LINE - 1 {
            out.push_str("=\r\n");
            column = 0;
        }
        if column == 0 && (c == '.' || line[at..].starts_with("From ")) {
            (literal, length) = (false, 3);
        }
        if literal {
            out.push(c);
        } else {
            escape(out, c);
        }
        column += length;
    }
}

/// Every octet of the character as `=XX` (RFC 2045 6.7 rule 1; the Q of RFC 2047 4.2 does the same).
pub(super) fn escape(out: &mut String, c: char) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for octet in c.encode_utf8(&mut [0; 4]).bytes() {
        out.push('=');
        out.push(char::from(HEX[usize::from(octet >> 4)]));
        out.push(char::from(HEX[usize::from(octet & 15)]));
    }
}

/// Base64 without line breaks, for encoded-words.
pub(super) fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}
