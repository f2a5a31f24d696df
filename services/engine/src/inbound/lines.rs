//! Lines and message content from a client, strict about line ends (RFC 5321 2.3.8): a server that takes anything else
//! than CRLF for a line end can be made to see two messages where the sender's server saw one (SMTP smuggling).
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// RFC 5321 4.5.3.1.4 allows 512 octets a command; extensions add parameters.
const MAX_COMMAND_LINE: usize = 2048;
/// Octets of an over-long message that are read and dropped before the connection is.
const MAX_DROPPED: u64 = 256 * 1024 * 1024;

/// A connection to a client.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Without CRLF.
    Complete(Vec<u8>),
    /// Too long, or with a bare CR or LF.
    Malformed(&'static str),
}

/// The content after DATA.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Without dot-stuffing and final dot, else exactly the octets sent.
    Complete(Vec<u8>),
    /// Read to its end and dropped: over the limit.
    TooLarge,
    /// Read to its end and dropped: a bare CR or LF.
    BareLineEnd,
}

pub(super) struct Reader {
    io: Box<dyn Io>,
    received: Vec<u8>,
    /// Octets of `received` already used.
    used: usize,
}

impl Reader {
    pub(super) fn new(io: Box<dyn Io>) -> Self {
        Self { io, received: Vec::new(), used: 0 }
    }

    /// Gives the connection away for a TLS handshake; `None` if octets came before it (RFC 3207 4.2).
    pub(super) fn into_io(self) -> Option<Box<dyn Io>> {
        (self.used == self.received.len()).then_some(self.io)
    }

    pub(super) async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.io.write_all(octets).await?;
        self.io.flush().await
    }

    async fn octet(&mut self) -> io::Result<u8> {
        loop {
            if let Some(octet) = self.received.get(self.used) {
                self.used += 1;
                return Ok(*octet);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.received.clear();
        self.used = 0;
        self.received.resize(16 * 1024, 0);
        let count = match self.io.read(&mut self.received).await {
            Ok(count) => count,
            Err(cause) => {
                self.received.clear();
                return Err(cause);
            }
        };
        self.received.truncate(count);
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// One command line. A malformed one is read to its LF and dropped.
    pub(super) async fn line(&mut self) -> io::Result<Line> {
        let mut line = Vec::new();
        let mut malformed = None;
        let mut dropped = 0_u64;
        loop {
            let octet = self.octet().await?;
            let after_cr = line.last() == Some(&b'\r');
            match octet {
                b'\n' if malformed.is_some() || !after_cr => {
                    return Ok(Line::Malformed(malformed.unwrap_or("bare LF")));
                }
                b'\n' => {
                    line.pop();
                    return Ok(Line::Complete(line));
                }
                _ if after_cr => malformed = malformed.or(Some("bare CR")),
                _ => {}
            }
            if line.len() < MAX_COMMAND_LINE {
                line.push(octet);
            } else {
                malformed = malformed.or(Some("line too long"));
                dropped += 1;
                if dropped > MAX_DROPPED {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }

    /// RFC 5321 4.1.1.4, 4.5.2: only CRLF . CRLF ends the content.
    pub(super) async fn content(&mut self, max_size: u64) -> io::Result<Content> {
        let mut content = ContentReader::new(max_size);
        loop {
            if self.used == self.received.len() {
                self.fill().await?;
            }
            let rest = self.received.get(self.used..).unwrap_or_default();
            let (used, ended) = content.push(rest);
            self.used += used;
            if ended {
                return Ok(content.finish());
            }
            if content.dropped > MAX_DROPPED {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}

/// Where in a line the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    LineStart,
    Dot,
    DotCr,
    Inside,
    Cr,
}

struct ContentReader {
    octets: Vec<u8>,
    at: At,
    max_size: u64,
    dropped: u64,
    bare: bool,
    too_large: bool,
}

impl ContentReader {
    fn new(max_size: u64) -> Self {
        Self { octets: Vec::new(), at: At::LineStart, max_size, dropped: 0, bare: false, too_large: false }
    }

    /// Octets used, and whether the end was among them.
    fn push(&mut self, chunk: &[u8]) -> (usize, bool) {
        let mut used = 0;
        while let Some(rest) = chunk.get(used..).filter(|rest| !rest.is_empty()) {
            if self.at == At::Inside {
                // The inner octets of a line are taken at once.
                let run = rest.iter().position(|octet| matches!(octet, b'\r' | b'\n')).unwrap_or(rest.len());
                let (run, tail) = rest.split_at(run);
                self.keep(run);
                used += run.len();
                if tail.is_empty() {
                    break;
                }
            }
            let Some(octet) = chunk.get(used) else { break };
            used += 1;
            if self.octet(*octet) {
                return (used, true);
            }
        }
        (used, false)
    }

    /// True at the end of the content.
    fn octet(&mut self, octet: u8) -> bool {
        let (next, keep): (At, &[u8]) = match (self.at, octet) {
            (At::DotCr, b'\n') => return true,
            (At::LineStart, b'.') => (At::Dot, b""),
            (At::Dot, b'\r') => (At::DotCr, b""),
            // The dot was followed by a CR that ended nothing: it is the stuffed dot of a line that begins with CR.
            (At::DotCr, b'\r') => (At::Cr, b"\r\r"),
            (At::DotCr, _) => (At::Inside, &[b'\r', octet]),
            (At::Cr, b'\n') => (At::LineStart, b"\n"),
            (At::LineStart | At::Inside | At::Cr, b'\r') => (At::Cr, b"\r"),
            (At::LineStart | At::Dot | At::Inside | At::Cr, _) => (At::Inside, std::slice::from_ref(&octet)),
        };
        let bare_lf = octet == b'\n' && self.at != At::Cr;
        let bare_cr = matches!(self.at, At::Cr | At::DotCr) && octet != b'\n';
        self.bare |= bare_lf || bare_cr;
        self.at = next;
        self.keep(keep);
        false
    }

    fn keep(&mut self, octets: &[u8]) {
        let length = u64::try_from(self.octets.len() + octets.len()).unwrap_or(u64::MAX);
        if self.too_large || length > self.max_size {
            self.too_large = true;
            self.octets = Vec::new();
        } else if !self.bare {
            self.octets.extend_from_slice(octets);
            return;
        }
        self.dropped += u64::try_from(octets.len()).unwrap_or(u64::MAX);
    }

    fn finish(self) -> Content {
        match self {
            Self { too_large: true, .. } => Content::TooLarge,
            Self { bare: true, .. } => Content::BareLineEnd,
            Self { octets, .. } => Content::Complete(octets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `wire` in chunks of every size; the rest after the end must be untouched.
    async fn content(wire: &[u8], max_size: u64) -> Content {
        let mut results = Vec::new();
        for chunk in 1..=wire.len() {
            let (client, server) = tokio::io::duplex(chunk);
            let mut reader = Reader::new(Box::new(server));
            let octets = wire.to_vec();
            let writer = tokio::spawn(async move {
                let mut client = client;
                client.write_all(&octets).await.expect("write");
                client.write_all(b"NOOP\r\n").await.expect("write");
            });
            results.push(reader.content(max_size).await.expect("content"));
            assert_eq!(reader.line().await.expect("line"), Line::Complete(b"NOOP".to_vec()), "chunks of {chunk}");
            writer.await.expect("writer");
        }
        let first = results.swap_remove(0);
        assert!(results.iter().all(|result| *result == first));
        first
    }

    #[tokio::test]
    async fn content_ends_only_at_crlf_dot_crlf() {
        let table: &[(&str, &str)] = &[
            (".\r\n", ""),
            ("a\r\n.\r\n", "a\r\n"),
            ("a\r\n..\r\n.\r\n", "a\r\n.\r\n"),
            ("..\r\n...\r\n.b\r\n.\r\n", ".\r\n..\r\nb\r\n"),
            ("\r\n\r\n.\r\n", "\r\n\r\n"),
            ("a.\r\n.\r\n", "a.\r\n"),
        ];
        for (wire, octets) in table {
            assert_eq!(content(wire.as_bytes(), 100).await, Content::Complete(octets.as_bytes().to_vec()), "{wire:?}");
        }
    }

    /// G37.
    #[tokio::test]
    async fn bare_line_ends_neither_end_the_content_nor_pass() {
        let table = [
            "x\n.\r\nMAIL",
            "x\r\n.\nMAIL",
            "x\n.\nMAIL",
            "x\r.\r\nMAIL",
            "x\r\n.\rMAIL",
            "x\r.\rMAIL",
            "x\r\n.\r\rMAIL",
            "x\r\r\n",
            "\n",
            "\r",
        ];
        for smuggled in table {
            let wire = format!("{smuggled}\r\n.\r\n");
            assert_eq!(content(wire.as_bytes(), 100).await, Content::BareLineEnd, "{smuggled:?}");
        }
    }

    #[tokio::test]
    async fn content_over_the_limit_is_read_to_its_end() {
        assert_eq!(content(b"123456\r\n.\r\n", 8).await, Content::Complete(b"123456\r\n".to_vec()));
        assert_eq!(content(b"1234567\r\n.\r\n", 8).await, Content::TooLarge);
    }

    #[tokio::test]
    async fn command_lines_end_in_crlf() {
        let long = [vec![b'x'; MAX_COMMAND_LINE + 1], b"\r\n".to_vec()].concat();
        let table: Vec<(Vec<u8>, Line)> = vec![
            (b"NOOP\r\n".to_vec(), Line::Complete(b"NOOP".to_vec())),
            (b"NOOP\n".to_vec(), Line::Malformed("bare LF")),
            (b"NO\rOP\r\n".to_vec(), Line::Malformed("bare CR")),
            (long, Line::Malformed("line too long")),
        ];
        for (wire, line) in table {
            let mut reader = Reader::new(Box::new(tokio::io::join(std::io::Cursor::new(wire), tokio::io::sink())));
            assert_eq!(reader.line().await.expect("line"), line);
        }
    }
}
