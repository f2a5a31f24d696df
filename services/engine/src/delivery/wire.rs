//! The octets of an SMTP client's connection: replies in bounded memory, writes with time-outs, an abort that is heard
//! at every wait.
use super::reply::{Reply, ReplyLine, assemble};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
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
    /// Each reply came in time, and all of them together took too long.
    #[error("the dialogue took too long and was broken off while we waited for {awaiting}")]
    Overlong {
        /// Which reply or write.
        awaiting: &'static str,
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
    /// What tenants are told of trouble with the operator's relay: neither its name nor how we log in is theirs to know.
    #[error("{0}")]
    Relay(&'static str),
    /// Our own code broke off.
    #[error("a fault of this server broke the attempt off")]
    Fault,
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

/// What bounds all waits of a delivery together.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Ends every wait.
    pub abort: CancellationToken,
    /// No wait goes on beyond it, but the one for the reply to the final dot.
    pub deadline: Instant,
}

/// Reads and writes of one connection.
pub(super) struct Wire {
    io: Box<dyn Io>,
    received: Vec<u8>,
    limits: Limits,
}

/// Why no reply could be read.
enum Fault {
    Io(io::Error),
    Protocol(String),
}

impl Wire {
    pub(super) fn new(io: Box<dyn Io>, limits: Limits) -> Self {
        Self { io, received: Vec::new(), limits }
    }

    /// Gives the connection away for a TLS handshake. `None` if the server has already sent octets that would then be
    /// taken for protected ones (RFC 3207 4.2).
    pub(super) fn into_io(self) -> Option<Box<dyn Io>> {
        self.received.is_empty().then_some(self.io)
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// True if the server spoke before it was asked.
    pub(super) fn has_unread(&self) -> bool {
        !self.received.is_empty()
    }

    /// Writes and flushes.
    pub(super) async fn write(&mut self, octets: &[u8], wait: Wait) -> Result<(), Trouble> {
        let io = &mut self.io;
        within(&self.limits, wait, async {
            io.write_all(octets).await?;
            io.flush().await
        })
        .await?
        .map_err(|cause| lost(wait, &cause))
    }

    /// Reads one complete reply; the limit holds for all of its lines together.
    pub(super) async fn reply(&mut self, wait: Wait) -> Result<Reply, Trouble> {
        let limits = self.limits.clone();
        self.reply_within(&limits, wait).await
    }

    /// The reply to the final dot has its whole time: to give up early would make a duplicate (RFC 5321 4.5.3.2.6).
    pub(super) async fn reply_to_dot(&mut self, wait: Wait) -> Result<Reply, Trouble> {
        let deadline = self.limits.deadline.max(Instant::now() + wait.limit);
        let limits = Limits { deadline, ..self.limits.clone() };
        self.reply_within(&limits, wait).await
    }

    async fn reply_within(&mut self, limits: &Limits, wait: Wait) -> Result<Reply, Trouble> {
        let (io, received) = (&mut self.io, &mut self.received);
        match within(limits, wait, read_reply(io.as_mut(), received)).await? {
            Ok(reply) => Ok(reply),
            Err(Fault::Io(cause)) => Err(lost(wait, &cause)),
            Err(Fault::Protocol(cause)) => Err(Trouble::Protocol { awaiting: wait.awaiting, cause }),
        }
    }
}

fn lost(wait: Wait, cause: &io::Error) -> Trouble {
    Trouble::Lost { awaiting: wait.awaiting, cause: cause.to_string() }
}

/// Bounds `future` by its own limit and by those of the whole delivery.
pub(super) async fn within<T>(limits: &Limits, wait: Wait, future: impl Future<Output = T>) -> Result<T, Trouble> {
    let Wait { awaiting, limit } = wait;
    let left = limits.deadline.saturating_duration_since(Instant::now());
    tokio::select! {
        biased;
        () = limits.abort.cancelled() => Err(Trouble::Aborted),
        done = tokio::time::timeout(limit.min(left), future) => done.map_err(|_| {
            if left < limit { Trouble::Overlong { awaiting } } else { Trouble::Timeout { awaiting, seconds: limit.as_secs() } }
        }),
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
