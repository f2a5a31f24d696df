//! The octets of an SMTP client's connection: replies in bounded memory, writes with time-outs, an abort that is heard
//! at every wait.
use super::reply::{Reply, ReplyLine, assemble};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// RFC 5321 4.5.3.1.5 allows 512 octets a reply line; real servers send longer ones.
const MAX_REPLY_LINE: usize = 4096;
/// No honest reply has more lines.
const MAX_REPLY_LINES: usize = 100;

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Why a dialogue ended without a reply. None of these says anything about a recipient: never a bounce.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The connection could not be made.
    #[error("cannot connect to {host}: {cause}")]
    Connect {
        /// Host and address.
        host: String,
        /// What the system said.
        cause: String,
    },
    /// The connection ended.
    #[error("connection lost while waiting for {awaiting}: {cause}")]
    Lost {
        /// Which reply or write.
        awaiting: &'static str,
        /// What the system said.
        cause: String,
    },
    /// A time-out of RFC 5321 4.5.3.2.
    #[error("no answer within {seconds} s while waiting for {awaiting}")]
    Timeout {
        /// Which reply or write.
        awaiting: &'static str,
        /// Limit.
        seconds: u64,
    },
    /// The server does not speak SMTP.
    #[error("the server broke the protocol while we waited for {awaiting}: {cause}")]
    Protocol {
        /// Which reply.
        awaiting: &'static str,
        /// What was wrong.
        cause: String,
    },
    /// TLS is required and could not be had.
    #[error("TLS is required and cannot be had: {0}")]
    Tls(String),
    /// The relay did not take our credentials.
    #[error("the relay refused the login: {0}; check user and password of SIGNPOST_SMTP_RELAY")]
    Login(String),
    /// There is nothing to connect to now: DNS trouble, or guarded addresses.
    #[error("{0}")]
    Route(String),
    /// We stop, or the lease is lost.
    #[error("this process is stopping")]
    Aborted,
}

/// What a bounded wait is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub(super) awaiting: &'static str,
    pub(super) limit: Duration,
}

/// Reads and writes of one connection.
pub(super) struct Wire {
    io: Box<dyn Io>,
    received: Vec<u8>,
    abort: CancellationToken,
}

/// Why no reply could be read.
enum Fault {
    Io(io::Error),
    Protocol(String),
}

impl Wire {
    pub(super) fn new(io: Box<dyn Io>, abort: CancellationToken) -> Self {
        Self { io, received: Vec::new(), abort }
    }

    /// Gives the connection away for a TLS handshake. `None` if the server has already sent octets that would then be
    /// taken for protected ones (RFC 3207 4.2).
    pub(super) fn into_io(self) -> Option<Box<dyn Io>> {
        self.received.is_empty().then_some(self.io)
    }

    pub(super) fn abort(&self) -> &CancellationToken {
        &self.abort
    }

    /// True if the server spoke before it was asked.
    pub(super) fn has_unread(&self) -> bool {
        !self.received.is_empty()
    }

    /// Writes and flushes.
    pub(super) async fn write(&mut self, octets: &[u8], wait: Wait) -> Result<(), Trouble> {
        let io = &mut self.io;
        within(&self.abort, wait, async {
            io.write_all(octets).await?;
            io.flush().await
        })
        .await?
        .map_err(|cause| lost(wait, &cause))
    }

    /// Reads one complete reply; the limit holds for all of its lines together.
    pub(super) async fn reply(&mut self, wait: Wait) -> Result<Reply, Trouble> {
        let (io, received) = (&mut self.io, &mut self.received);
        match within(&self.abort, wait, read_reply(io.as_mut(), received)).await? {
            Ok(reply) => Ok(reply),
            Err(Fault::Io(cause)) => Err(lost(wait, &cause)),
            Err(Fault::Protocol(cause)) => Err(Trouble::Protocol { awaiting: wait.awaiting, cause }),
        }
    }
}

fn lost(wait: Wait, cause: &io::Error) -> Trouble {
    Trouble::Lost { awaiting: wait.awaiting, cause: cause.to_string() }
}

/// Bounds `future` by the limit and by the abort.
pub(super) async fn within<T>(
    abort: &CancellationToken,
    wait: Wait,
    future: impl Future<Output = T>,
) -> Result<T, Trouble> {
    tokio::select! {
        biased;
        () = abort.cancelled() => Err(Trouble::Aborted),
        done = tokio::time::timeout(wait.limit, future) => {
            done.map_err(|_| Trouble::Timeout { awaiting: wait.awaiting, seconds: wait.limit.as_secs() })
        }
    }
}

async fn read_reply(io: &mut dyn Io, received: &mut Vec<u8>) -> Result<Reply, Fault> {
    let mut lines = Vec::new();
    loop {
        let line = read_line(io, received).await?;
        let line =
            ReplyLine::parse(&line).ok_or_else(|| Fault::Protocol(format!("not a reply line: {}", excerpt(&line))))?;
        let last = line.last;
        lines.push(line);
        if last {
            return assemble(lines).map_err(|cause| Fault::Protocol(cause.to_owned()));
        }
        if lines.len() >= MAX_REPLY_LINES {
            return Err(Fault::Protocol(format!("a reply of more than {MAX_REPLY_LINES} lines")));
        }
    }
}

/// One line without its line end. A bare LF is taken as one: old servers send it, and a reply carries nothing to smuggle.
async fn read_line(io: &mut dyn Io, received: &mut Vec<u8>) -> Result<Vec<u8>, Fault> {
    loop {
        if let Some(end) = received.iter().position(|octet| *octet == b'\n') {
            let mut line: Vec<u8> = received.drain(..=end).collect();
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(line);
        }
        if received.len() > MAX_REPLY_LINE {
            return Err(Fault::Protocol(format!("a reply line of more than {MAX_REPLY_LINE} octets")));
        }
        let mut chunk = [0_u8; 2048];
        match io.read(&mut chunk).await {
            Ok(0) => return Err(Fault::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => received.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(cause) => return Err(Fault::Io(cause)),
        }
    }
}

fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
