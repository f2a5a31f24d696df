//! The SMTP client's session (RFC 5321 3.1, 3.2): greeting, EHLO, STARTTLS, login. Transactions are in `transaction`.
use super::reply::{Reply, ReplyClass};
use super::tls::{ClientTls, Security, server_name};
use super::wire::{Io, Limits, Trouble, Wait, Wire, within};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use smtp_proto::{
    AUTH_LOGIN, AUTH_PLAIN, EXT_8BIT_MIME, EXT_PIPELINING, EXT_SIZE, EXT_SMTP_UTF8, EXT_START_TLS, EhloResponse,
};
use std::net::SocketAddr;
use std::time::Duration;
use tokio_rustls::TlsConnector;

pub use super::transaction::{RecipientResult, Transaction};

/// RFC 5321 4.5.3.2.1.
const GREETING: Wait = Wait { awaiting: "the greeting", limit: Duration::from_secs(300) };
/// RFC 5321 names no time-out for EHLO; it is that of MAIL.
const EHLO: Wait = Wait { awaiting: "the reply to EHLO", limit: Duration::from_secs(300) };
const HELO: Wait = Wait { awaiting: "the reply to HELO", limit: Duration::from_secs(300) };
const STARTTLS: Wait = Wait { awaiting: "the reply to STARTTLS", limit: Duration::from_secs(120) };
const HANDSHAKE: Wait = Wait { awaiting: "the TLS handshake", limit: Duration::from_secs(60) };
const AUTH: Wait = Wait { awaiting: "the reply to AUTH", limit: Duration::from_secs(120) };
const QUIT: Wait = Wait { awaiting: "the reply to QUIT", limit: Duration::from_secs(5) };

/// Encryption of a session, as events tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsState {
    /// None offered.
    None,
    /// Encrypted, certificate not verified.
    Unverified,
    /// Encrypted and verified.
    Verified,
    /// Offered, failed, and given up, as it was opportunistic.
    FailedFallback,
}

impl TlsState {
    /// For the `tls` of an event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unverified => "unverified",
            Self::Verified => "verified",
            Self::FailedFallback => "failed_fallback",
        }
    }
}

/// What a session is opened with.
pub struct Opening<'a> {
    /// Our name.
    pub helo: &'a str,
    /// Server's name, for TLS.
    pub host: &'a str,
    /// Server's address, for TLS where the name is none.
    pub address: SocketAddr,
    /// What is asked of TLS.
    pub security: Security,
    /// True after a failed opportunistic handshake: STARTTLS is not tried again.
    pub without_tls: bool,
    /// User and password.
    pub credentials: Option<(&'a str, &'a str)>,
    /// Client configurations.
    pub tls: &'a ClientTls,
    /// True if the server is the operator's relay.
    pub relay: bool,
    /// Of all waits.
    pub limits: &'a Limits,
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// The server refuses the connection, EHLO or HELO.
    Refused(Reply),
    /// Opportunistic TLS failed: connect again without it (RFC 7435 3).
    Handshake(String),
    /// No verdict.
    Trouble(Trouble),
}

impl From<Trouble> for OpenError {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Service extensions of the server (RFC 5321 2.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    pub(super) pipelining: bool,
    pub(super) eight_bit_mime: bool,
    pub(super) smtputf8: bool,
    pub(super) starttls: bool,
    /// Announced at all.
    pub(super) size: bool,
    /// The announced limit, if it has one.
    pub(super) max_size: Option<usize>,
    auth: u64,
}

/// An open session, ready for a transaction unless `is_closed`.
pub struct Session {
    pub(super) wire: Wire,
    pub(super) extensions: Extensions,
    pub(super) needs_reset: bool,
    pub(super) closed: bool,
    pub(super) relay: bool,
    tls: TlsState,
}

impl Session {
    /// Brings a fresh connection to the point where MAIL may be said.
    pub async fn open(io: impl Io + 'static, opening: &Opening<'_>) -> Result<Self, OpenError> {
        let mut io: Box<dyn Io> = Box::new(io);
        let mut tls = if opening.without_tls { TlsState::FailedFallback } else { TlsState::None };
        if opening.security == Security::Implicit {
            io = handshake(io, opening).await?;
            tls = TlsState::Verified;
        }
        let mut wire = Wire::new(io, opening.limits.clone());
        expect_completion(wire.reply(GREETING).await?)?;
        let mut extensions = hello(&mut wire, opening.helo).await?;
        if tls == TlsState::None
            && let Wanted::Start = wanted(opening.security, extensions.starttls)?
        {
            wire.write(b"STARTTLS\r\n", STARTTLS).await?;
            let reply = wire.reply(STARTTLS).await?;
            if reply.code == 220 {
                wire = start_tls(wire, opening).await?;
                // RFC 3207 4.2: everything learnt before the handshake is forgotten.
                extensions = hello(&mut wire, opening.helo).await?;
                tls = established(opening.security);
            } else {
                refused_tls(opening.security, &reply)?;
                tls = TlsState::FailedFallback;
            }
        }
        let mut session = Self { wire, extensions, needs_reset: false, closed: false, relay: opening.relay, tls };
        if let Some((user, password)) = opening.credentials {
            session.log_in(user, password).await?;
        }
        Ok(session)
    }

    /// Encryption.
    pub fn tls(&self) -> TlsState {
        self.tls
    }

    /// True if no further transaction is possible.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// RFC 5321 4.1.1.10. What the server says to it changes nothing.
    pub async fn quit(mut self) {
        if !self.closed && self.wire.write(b"QUIT\r\n", QUIT).await.is_ok() {
            let _ignored = self.wire.reply(QUIT).await;
        }
    }

    /// RFC 4954 4, RFC 4616; LOGIN where only that is offered. Only under verified TLS.
    async fn log_in(&mut self, user: &str, password: &str) -> Result<(), Trouble> {
        if self.tls != TlsState::Verified {
            return Err(Trouble::Tls("credentials are never sent without verified TLS".to_owned()));
        }
        let steps = if self.extensions.auth & AUTH_PLAIN != 0 {
            vec![format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}")))]
        } else if self.extensions.auth & AUTH_LOGIN != 0 {
            vec!["AUTH LOGIN".to_owned(), STANDARD.encode(user), STANDARD.encode(password)]
        } else {
            return Err(Trouble::Login("it offers neither AUTH PLAIN nor AUTH LOGIN".to_owned()));
        };
        let last = steps.len() - 1;
        for (index, step) in steps.into_iter().enumerate() {
            self.wire.write(format!("{step}\r\n").as_bytes(), AUTH).await?;
            let reply = self.wire.reply(AUTH).await?;
            let wanted = if index == last { ReplyClass::Completion } else { ReplyClass::Intermediate };
            if reply.class() != wanted {
                return Err(Trouble::Login(reply.to_string()));
            }
        }
        Ok(())
    }
}

enum Wanted {
    Start,
    Skip,
}

fn wanted(security: Security, offered: bool) -> Result<Wanted, Trouble> {
    match (security, offered) {
        (Security::Opportunistic | Security::StartTls, true) => Ok(Wanted::Start),
        (Security::Opportunistic, false) | (Security::Implicit, _) => Ok(Wanted::Skip),
        (Security::StartTls, false) => Err(Trouble::Tls("the server does not offer STARTTLS".to_owned())),
    }
}

fn established(security: Security) -> TlsState {
    match security {
        Security::Opportunistic => TlsState::Unverified,
        Security::StartTls | Security::Implicit => TlsState::Verified,
    }
}

/// RFC 3207 4: the client decides whether it goes on without TLS.
fn refused_tls(security: Security, reply: &Reply) -> Result<(), OpenError> {
    match security {
        _ if reply.closes() => Err(OpenError::Refused(reply.clone())),
        Security::Opportunistic => Ok(()),
        Security::StartTls | Security::Implicit => Err(OpenError::Trouble(Trouble::Tls(reply.to_string()))),
    }
}

fn expect_completion(reply: Reply) -> Result<Reply, OpenError> {
    match reply.class() {
        ReplyClass::Completion => Ok(reply),
        ReplyClass::Transient | ReplyClass::Permanent => Err(OpenError::Refused(reply)),
        ReplyClass::Intermediate => Err(OpenError::Trouble(Trouble::Protocol {
            awaiting: GREETING.awaiting,
            cause: format!("{} is no answer to it", reply.code),
        })),
    }
}

/// RFC 5321 3.2, 4.1.1.1: EHLO; HELO, without extensions, where EHLO is not known.
async fn hello(wire: &mut Wire, helo: &str) -> Result<Extensions, OpenError> {
    wire.write(format!("EHLO {helo}\r\n").as_bytes(), EHLO).await?;
    let reply = wire.reply(EHLO).await?;
    if reply.class() != ReplyClass::Permanent {
        return expect_completion(reply).map(|reply| extensions(&reply));
    }
    wire.write(format!("HELO {helo}\r\n").as_bytes(), HELO).await?;
    expect_completion(wire.reply(HELO).await?)?;
    Ok(Extensions::default())
}

/// Each line is read by itself, so that one that nobody understands does not hide the others.
fn extensions(reply: &Reply) -> Extensions {
    let mut found = Extensions::default();
    for line in reply.text.split('\n').skip(1) {
        let lone = format!("250-host\r\n250 {line}\r\n");
        let Ok(parsed) = EhloResponse::parse(&mut lone.as_bytes().iter()) else { continue };
        found.pipelining |= parsed.has_capability(EXT_PIPELINING);
        found.eight_bit_mime |= parsed.has_capability(EXT_8BIT_MIME);
        found.smtputf8 |= parsed.has_capability(EXT_SMTP_UTF8);
        found.starttls |= parsed.has_capability(EXT_START_TLS);
        found.size |= parsed.has_capability(EXT_SIZE);
        // RFC 1870 4: 0 and no number at all are no limit.
        found.max_size = found.max_size.or((parsed.size > 0).then_some(parsed.size));
        found.auth |= parsed.auth_mechanisms;
    }
    found
}

async fn start_tls(wire: Wire, opening: &Opening<'_>) -> Result<Wire, OpenError> {
    let limits = wire.limits().clone();
    let Some(io) = wire.into_io() else {
        return Err(Trouble::Protocol {
            awaiting: STARTTLS.awaiting,
            cause: "octets after it that would have been taken for protected ones".to_owned(),
        }
        .into());
    };
    Ok(Wire::new(handshake(io, opening).await?, limits))
}

async fn handshake(io: Box<dyn Io>, opening: &Opening<'_>) -> Result<Box<dyn Io>, OpenError> {
    let config = opening
        .tls
        .config(opening.security)
        .ok_or_else(|| Trouble::Tls("the system's trust store was not loaded".to_owned()))?;
    let name = server_name(opening.host, opening.address);
    let connecting = TlsConnector::from(config).connect(name, io);
    let failure = match within(opening.limits, HANDSHAKE, connecting).await {
        Ok(Ok(stream)) => return Ok(Box::new(stream)),
        Ok(Err(cause)) => cause.to_string(),
        Err(Trouble::Aborted) => return Err(Trouble::Aborted.into()),
        Err(trouble) => trouble.to_string(),
    };
    match opening.security {
        Security::Opportunistic => Err(OpenError::Handshake(failure)),
        Security::StartTls | Security::Implicit => Err(Trouble::Tls(failure).into()),
    }
}
