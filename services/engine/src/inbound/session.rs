//! One SMTP server session (RFC 5321 4.1.4): the order of commands, the envelope, the replies.
use super::command::{Command, parse};
use super::lines::{Content, Io, Line, Reader};
use async_trait::async_trait;
use rustls::ServerConfig;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// RFC 5321 4.5.3.2.7.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// For the whole content: a client that drips octets does not hold a connection for ever.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(600);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);
/// RFC 5321 4.5.3.1.8: at least 100.
const MAX_RECIPIENTS: usize = 100;
/// Refused commands before the connection is closed.
const MAX_ERRORS: usize = 20;

/// What the client said about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Where it connected from.
    pub client_ip: IpAddr,
    /// Its name in EHLO or HELO.
    pub helo: String,
    /// Reverse-path without angle brackets, as sent; empty for the null one.
    pub mail_from: String,
    /// Forward-paths without angle brackets, as sent; at least one.
    pub rcpts: Vec<String>,
    /// True if it came through TLS.
    pub tls: bool,
}

/// A failure after which the client shall try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TryLater;

/// Takes messages.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// `octets` are what the client sent, without dot-stuffing. `Ok` only when the message is stored for every recipient;
    /// its text follows `250 2.0.0 `. An error becomes 451 4.3.0 (RFC 5321 4.2.1, 6.1).
    async fn message(&self, envelope: Envelope, octets: Vec<u8>) -> Result<String, TryLater>;
}

/// What every session of a listener shares.
#[derive(Clone)]
pub struct ServerSettings {
    /// Our name in greeting and EHLO.
    pub hostname: String,
    /// Largest message in octets.
    pub max_size: u64,
    /// STARTTLS, if any.
    pub tls: Option<Arc<ServerConfig>>,
    /// Sessions at a time.
    pub max_sessions: usize,
}

/// Why a session goes on or ends.
enum Flow {
    Continue,
    Quit,
}

/// The state of RFC 5321 4.1.4.
struct State {
    client_ip: IpAddr,
    helo: Option<String>,
    tls: bool,
    mail: Option<Mail>,
    errors: usize,
}

struct Mail {
    from: String,
    smtputf8: bool,
    rcpts: Vec<String>,
}

/// Serves one connection until QUIT, a time-out, an error, or the shutdown (then 421, between commands only).
pub async fn serve_session(
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    client_ip: IpAddr,
    settings: &ServerSettings,
    handler: &dyn Handler,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let state = State { client_ip, helo: None, tls: false, mail: None, errors: 0 };
    let io: Box<dyn Io> = Box::new(io);
    let mut session = Server { reader: Some(Reader::new(io)), state, settings, handler };
    session.reply(&format!("220 {} ESMTP", settings.hostname)).await?;
    loop {
        let line = tokio::select! {
            biased;
            () = shutdown.cancelled() => return session.reply("421 4.3.2 this server is stopping, try again").await,
            line = limited(COMMAND_TIMEOUT, session.reader()?.line()) => line,
        };
        let line = match line {
            Ok(line) => line,
            Err(cause) if cause.kind() == io::ErrorKind::TimedOut => {
                return session.reply("421 4.4.2 no command for too long").await;
            }
            Err(cause) => return Err(cause),
        };
        match session.take(line).await? {
            Flow::Continue => {}
            Flow::Quit => return Ok(()),
        }
    }
}

struct Server<'a> {
    /// Absent only while a handshake goes on.
    reader: Option<Reader>,
    state: State,
    settings: &'a ServerSettings,
    handler: &'a dyn Handler,
}

impl Server<'_> {
    fn reader(&mut self) -> io::Result<&mut Reader> {
        self.reader.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    async fn reply(&mut self, text: &str) -> io::Result<()> {
        let line = format!("{text}\r\n");
        limited(WRITE_TIMEOUT, self.reader()?.write(line.as_bytes())).await
    }

    async fn take(&mut self, line: Line) -> io::Result<Flow> {
        let command = match line {
            Line::Complete(line) => parse(&line),
            // What stands around a bare CR or LF was meant to be read differently by two servers.
            Line::Malformed(what) => {
                self.reply(&format!("500 5.5.2 {what}; lines end in CRLF and have at most 2048 octets")).await?;
                return Ok(Flow::Quit);
            }
        };
        match command {
            Command::Quit => {
                self.reply("221 2.0.0 bye").await?;
                return Ok(Flow::Quit);
            }
            Command::StartTls => return self.start_tls().await,
            Command::Data => return self.data().await,
            Command::Ehlo(name) => {
                let text = self.extensions();
                self.greeted(name);
                self.reply(&text).await?;
            }
            Command::Helo(name) => {
                self.greeted(name);
                self.reply(&format!("250 {}", self.settings.hostname)).await?;
            }
            Command::Mail { path, size, smtputf8 } => {
                let text = self.mail(path, size, smtputf8);
                return self.answer(text).await;
            }
            Command::Rcpt { path } => {
                let text = self.rcpt(path);
                return self.answer(text).await;
            }
            Command::Rset => {
                self.state.mail = None;
                self.reply("250 2.0.0 ok").await?;
            }
            Command::Noop => self.reply("250 2.0.0 ok").await?,
            Command::Vrfy => self.reply("252 2.1.5 cannot verify, but will take the message").await?,
            Command::Refused(text) => return self.answer(text).await,
        }
        Ok(Flow::Continue)
    }

    /// Sends the reply and counts the refusals.
    async fn answer(&mut self, text: &str) -> io::Result<Flow> {
        if text.starts_with('5') {
            self.state.errors += 1;
            if self.state.errors > MAX_ERRORS {
                self.reply("421 4.7.0 too many errors").await?;
                return Ok(Flow::Quit);
            }
        }
        self.reply(text).await?;
        Ok(Flow::Continue)
    }

    /// RFC 5321 4.1.4: EHLO and HELO reset everything.
    fn greeted(&mut self, name: String) {
        self.state.helo = Some(name);
        self.state.mail = None;
    }

    fn extensions(&self) -> String {
        let starttls = if self.settings.tls.is_some() && !self.state.tls { "250-STARTTLS\r\n" } else { "" };
        format!(
            "250-{}\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n{starttls}250 SIZE {}",
            self.settings.hostname, self.settings.max_size
        )
    }

    /// RFC 5321 4.1.1.2.
    fn mail(&mut self, path: String, size: u64, smtputf8: bool) -> &'static str {
        if self.state.helo.is_none() {
            return "503 5.5.1 say EHLO first";
        }
        if self.state.mail.is_some() {
            return "503 5.5.1 a transaction is open already";
        }
        if size > self.settings.max_size {
            return "552 5.3.4 the message is too large";
        }
        if !smtputf8 && !path.is_ascii() {
            return "553 5.6.7 a non-ASCII address needs SMTPUTF8";
        }
        self.state.mail = Some(Mail { from: path, smtputf8, rcpts: Vec::new() });
        "250 2.1.0 ok"
    }

    /// RFC 5321 4.1.1.3, 4.5.3.1.10.
    fn rcpt(&mut self, path: String) -> &'static str {
        let Some(mail) = self.state.mail.as_mut() else { return "503 5.5.1 say MAIL first" };
        if !mail.smtputf8 && !path.is_ascii() {
            return "553 5.6.7 a non-ASCII address needs SMTPUTF8";
        }
        if mail.rcpts.len() >= MAX_RECIPIENTS {
            return "452 4.5.3 too many recipients";
        }
        mail.rcpts.push(path);
        "250 2.1.5 ok"
    }

    /// RFC 5321 4.1.1.4.
    async fn data(&mut self) -> io::Result<Flow> {
        let (Some(mail), Some(helo)) =
            (self.state.mail.take_if(|mail| !mail.rcpts.is_empty()), self.state.helo.clone())
        else {
            let text =
                if self.state.mail.is_some() { "554 5.5.1 no valid recipients" } else { "503 5.5.1 say MAIL first" };
            return self.answer(text).await;
        };
        self.reply("354 end with CRLF . CRLF").await?;
        let max_size = self.settings.max_size;
        let content = limited(CONTENT_TIMEOUT, self.reader()?.content(max_size)).await;
        let octets = match content {
            Ok(Content::Complete(octets)) => octets,
            Ok(Content::TooLarge) => return self.answer("552 5.3.4 the message is too large").await,
            Ok(Content::BareLineEnd) => {
                return self.answer("554 5.6.0 a bare CR or LF; lines end in CRLF (RFC 5321 2.3.8)").await;
            }
            Err(cause) if cause.kind() == io::ErrorKind::TimedOut => {
                self.reply("421 4.4.2 the message took too long").await?;
                return Ok(Flow::Quit);
            }
            Err(cause) => return Err(cause),
        };
        let State { client_ip, tls, .. } = self.state;
        let envelope = Envelope { client_ip, helo, mail_from: mail.from, rcpts: mail.rcpts, tls };
        match self.handler.message(envelope, octets).await {
            Ok(text) => self.reply(&format!("250 2.0.0 {}", one_line(&text))).await?,
            Err(TryLater) => self.reply("451 4.3.0 cannot store the message now, try again").await?,
        }
        Ok(Flow::Continue)
    }

    /// RFC 3207 4.
    async fn start_tls(&mut self) -> io::Result<Flow> {
        let Some(config) = self.settings.tls.clone().filter(|_| !self.state.tls) else {
            return self.answer("502 5.5.1 TLS is not available").await;
        };
        self.reply("220 2.0.0 go ahead").await?;
        // Octets sent before the handshake would be taken for protected ones: the connection ends.
        let Some(io) = self.reader.take().and_then(Reader::into_io) else { return Ok(Flow::Quit) };
        let stream = limited(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(io)).await?;
        self.reader = Some(Reader::new(Box::new(stream)));
        self.state = State { client_ip: self.state.client_ip, helo: None, tls: true, mail: None, errors: 0 };
        Ok(Flow::Continue)
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
}

async fn limited<T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(limit, future).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
