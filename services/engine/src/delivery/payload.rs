//! The octets of a message on their way through DATA.
use signpost_dkim::message::{Message, MessageError, check_sendable_utf8};

/// A message that may go through DATA: only CRLF line ends, no NUL, no line over 998 octets. Nothing changes it any more.
#[derive(Debug, Clone)]
pub struct Payload {
    octets: Vec<u8>,
    eight_bit: bool,
    utf8_header: bool,
}

impl Payload {
    /// `prefix` (our Received and DKIM-Signature fields) and then the message. RFC 5321 2.3.8: a bare CR or LF is an
    /// error here and never repaired, as the signature would not survive the repair.
    pub fn new(prefix: Vec<u8>, raw: impl Into<Vec<u8>>) -> Result<Self, MessageError> {
        // Moved up where it lies: the message may be large.
        let mut octets = raw.into();
        octets.splice(..0, prefix);
        let utf8_header = check_sendable_utf8(&octets)?;
        let eight_bit = !octets.is_ascii();
        Ok(Self { octets, eight_bit, utf8_header })
    }

    /// Octets for SIZE= (RFC 1870 3): with CRLF, without dot-stuffing.
    pub fn size(&self) -> usize {
        self.octets.len() + if self.octets.ends_with(b"\r\n") { 0 } else { 2 }
    }

    /// True if BODY=8BITMIME is needed (RFC 6152 3).
    pub fn is_eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// Received fields, ours among them (RFC 5321 6.3).
    pub fn hops(&self) -> usize {
        Message::parse(&self.octets).map_or(0, |message| message.all("Received").count())
    }

    /// True if the header holds UTF-8 (a To or Cc with a non-ASCII local part): SMTPUTF8 is needed whoever the recipient is
    /// (RFC 6531 3.4).
    pub fn has_utf8_header(&self) -> bool {
        self.utf8_header
    }

    /// The octets, not stuffed.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }
}

/// RFC 5321 4.5.2: a dot at the beginning of a line is doubled. Chunks may be cut anywhere.
#[derive(Debug)]
pub(super) struct DotStuffer {
    line_start: bool,
}

impl DotStuffer {
    pub(super) fn new() -> Self {
        Self { line_start: true }
    }

    /// Appends `chunk` to `out`. The chunks together hold only CRLF line ends (`Payload`).
    pub(super) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        for piece in chunk.split_inclusive(|octet| *octet == b'\n') {
            if self.line_start && piece.first() == Some(&b'.') {
                out.push(b'.');
            }
            out.extend_from_slice(piece);
            self.line_start = piece.last() == Some(&b'\n');
        }
    }

    /// Appends the end of data. A missing last CRLF is added: no canonicalization tells the two apart (RFC 6376 3.4.3).
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.line_start { b".\r\n" } else { b"\r\n.\r\n" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuffed(message: &[u8], chunk: usize) -> Vec<u8> {
        let mut stuffer = DotStuffer::new();
        let mut out = Vec::new();
        for piece in message.chunks(chunk) {
            stuffer.push(piece, &mut out);
        }
        stuffer.finish(&mut out);
        out
    }

    /// A16: wherever the chunks are cut.
    #[test]
    fn a_line_of_one_dot_is_doubled_at_every_chunk_size() {
        let table: &[(&[u8], &[u8])] = &[
            (
                b"before\r\n.\r\nMAIL FROM:<x@example.org>\r\nafter\r\n",
                b"before\r\n..\r\nMAIL FROM:<x@example.org>\r\nafter\r\n.\r\n",
            ),
            (b".\r\n..\r\n...\r\n", b"..\r\n...\r\n....\r\n.\r\n"),
            (b"a.b\r\n .c\r\n", b"a.b\r\n .c\r\n.\r\n"),
            (b"no line end", b"no line end\r\n.\r\n"),
            (b"ends in dot line\r\n.", b"ends in dot line\r\n..\r\n.\r\n"),
            (b"", b".\r\n"),
            (b"\r\n\r\n.", b"\r\n\r\n..\r\n.\r\n"),
        ];
        for (message, wire) in table {
            for chunk in 1..=message.len().max(1) + 1 {
                assert_eq!(
                    stuffed(message, chunk),
                    *wire,
                    "chunks of {chunk} of {:?}",
                    String::from_utf8_lossy(message)
                );
            }
        }
    }

    /// G37: what ends a message for a lax server never leaves.
    #[test]
    fn bare_line_ends_are_refused() {
        for body in
            ["x\n.\r\nMAIL FROM:<admin@example.com>\r\n", "x\r\n.\nquit\r\n", "x\r.\r\n", "x\r\n.\r", "\u{0}\r\n"]
        {
            let raw = format!("From: a@example.com\r\n\r\n{body}");
            assert!(Payload::new(Vec::new(), raw.as_bytes()).is_err(), "{body:?}");
        }
    }

    #[test]
    fn size_and_eight_bit() {
        let payload =
            Payload::new(b"Received: x\r\n".to_vec(), "From: a@example.com\r\n\r\ngrüße".as_bytes()).expect("sendable");
        assert!(payload.is_eight_bit());
        assert!(!payload.has_utf8_header());
        assert_eq!(payload.size(), payload.octets().len() + 2);
    }

    #[test]
    fn a_header_may_hold_utf8_and_nothing_else_above_127() {
        let payload = Payload::new(Vec::new(), "From: a@example.com\r\nTo: grüße@example.net\r\n\r\nx\r\n".as_bytes());
        assert!(payload.expect("sendable").has_utf8_header());
        assert!(Payload::new(Vec::new(), b"From: a@example.com\r\nSubject: gr\xfc\xdfe\r\n\r\nx\r\n").is_err());
    }
}
