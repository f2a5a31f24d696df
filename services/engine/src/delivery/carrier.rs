//! Transactions over one route: the targets in their order, connections kept over several transactions.
use super::backoff::HostBackoff;
use super::crowd::Crowd;
use super::session::{OpenError, Opening, RecipientResult, Session, TlsState, Transaction};
use super::tls::{ClientTls, Security};
use super::wire::{Limits, Trouble, Wait, within};
use super::{Target, reply::Reply, retry};
use crate::Clock;
use signpost_keys::Random;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// RFC 5321 names none; longer than a few lost SYN packets.
const CONNECT: Wait = Wait { awaiting: "the connection", limit: Duration::from_secs(30) };

/// A message's way to one destination takes no longer than this, but for the wait for the reply to its final dot: else a
/// server that uses up the time-out of every command (RFC 5321 4.5.3.2) holds a place for hours.
pub(super) const OVERALL: Duration = Duration::from_secs(20 * 60);

/// Where and how to connect.
#[derive(Clone)]
pub struct Route {
    /// In the order in which they are tried.
    pub targets: Vec<Target>,
    /// TLS.
    pub security: Security,
    /// Login of the relay.
    pub credentials: Option<(String, String)>,
    /// True for the operator's relay: its name is not shown to tenants, what it says of the set-up bounces nothing, and it
    /// may have all deliveries.
    pub relay: bool,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Route");
        shown.field("targets", &self.targets).field("security", &self.security).field("relay", &self.relay);
        shown.finish_non_exhaustive()
    }
}

/// What a recipient's attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was tried.
    Tried(RecipientResult),
    /// Every host rests after a 421, or has as many messages under way as we send at once: nothing was tried before this time.
    Resting {
        /// Milliseconds.
        until: i64,
    },
}

/// A verdict and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// `host [address]`, if one was spoken to and it is not the relay.
    pub host: Option<String>,
    /// Encryption, if there was a session.
    pub tls: Option<TlsState>,
}

impl Report {
    /// Without a host.
    pub fn unrouted(result: RecipientResult) -> Self {
        Self { verdict: Verdict::Tried(result), host: None, tls: None }
    }
}

/// Opens connections and carries transactions.
#[derive(Clone)]
pub struct Carrier {
    /// EHLO name.
    pub helo: String,
    /// TLS configurations.
    pub tls: ClientTls,
    /// Ends every wait.
    pub abort: CancellationToken,
    /// Shared by all carriers of the process.
    pub backoff: Arc<HostBackoff>,
    /// As well.
    pub crowd: Arc<Crowd>,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Rng.
    pub random: Arc<dyn Random>,
}

/// Whether another target may still help.
enum Flow {
    NextTarget,
    Done,
}

impl Carrier {
    /// A report for each recipient of each transaction, in their order. A recipient without a verdict at one target is
    /// tried at the next (RFC 5321 5.1), unless the message may already have been taken.
    pub async fn carry(&self, route: &Route, transactions: &[Transaction<'_>]) -> Vec<Vec<Report>> {
        let mut ledger = Ledger::new(transactions);
        let limits = Limits { abort: self.abort.clone(), deadline: Instant::now() + OVERALL };
        for target in &route.targets {
            if Instant::now() >= limits.deadline {
                break;
            }
            if let Some(until) = self.backoff.resting_until(&target.host, self.clock.now_ms()) {
                ledger.rests(until);
                continue;
            }
            let _place = if route.relay {
                None
            } else {
                match self.crowd.enter(&target.address.ip().to_string(), self.clock.now_ms()) {
                    Ok(place) => Some(place),
                    // It is not down: its backup is not asked instead (RFC 5321 5.1).
                    Err(until) => {
                        ledger.rests(until);
                        break;
                    }
                }
            };
            match self.at_target(route, target, &limits, transactions, &mut ledger).await {
                Flow::NextTarget => {}
                Flow::Done => break,
            }
        }
        ledger.close()
    }

    async fn at_target(
        &self,
        route: &Route,
        target: &Target,
        limits: &Limits,
        transactions: &[Transaction<'_>],
        ledger: &mut Ledger,
    ) -> Flow {
        let mut session = None;
        // A connection that has already carried a transaction may be closed by the server at any time: it is made anew.
        let mut fresh = true;
        while let Some((index, recipients)) = ledger.first_open() {
            let mut open = match session.take() {
                Some(open) => open,
                None => match self.connect(route, target, limits).await {
                    Ok(open) => open,
                    Err(error) => return self.no_session(route, target, error, ledger),
                },
            };
            let Some(whole) = transactions.get(index) else { return Flow::Done };
            let chosen = recipients.iter().filter_map(|recipient| whole.recipients.get(*recipient).copied()).collect();
            let results = open.send(&Transaction { recipients: chosen, ..*whole }).await;
            let entry = Entry { host: public_host(route, target), tls: open.tls(), fresh };
            let mut left_open = false;
            let mut turned_away = None;
            for (recipient, result) in recipients.into_iter().zip(results) {
                match ledger.enter(index, recipient, result, &entry) {
                    Entered::Closed => {}
                    Entered::Open => left_open = true,
                    Entered::Taken => self.backoff.recovered(&target.host),
                    Entered::TurnedAway(reply) => turned_away = Some(reply),
                }
            }
            if let Some(reply) = turned_away {
                self.rest(target);
                ledger.turned_away(&reply, &entry);
                return Flow::Done;
            }
            if left_open && fresh {
                return Flow::NextTarget;
            }
            fresh = open.is_closed();
            if !fresh {
                session = Some(open);
            }
        }
        if let Some(open) = session {
            // The outcome does not wait for the farewell.
            tokio::spawn(open.quit());
        }
        Flow::Done
    }

    fn rest(&self, target: &Target) {
        self.backoff.rest(&target.host, self.clock.now_ms(), self.random.as_ref());
    }

    fn no_session(&self, route: &Route, target: &Target, error: OpenError, ledger: &mut Ledger) -> Flow {
        if route.relay {
            tracing::warn!(host = %shown(target), ?error, "no session with the relay of SIGNPOST_SMTP_RELAY");
        }
        let result = match error {
            OpenError::Refused(reply) => {
                if reply.closes() {
                    self.rest(target);
                }
                if route.relay {
                    let text = "the relay of this server does not take mail from it now".to_owned();
                    return self.unopened(
                        route,
                        target,
                        RecipientResult::Rejected { reply: Reply { text, ..reply }, permanent: false },
                        ledger,
                    );
                }
                let permanent = retry::is_permanent(retry::Command::Opening, &reply);
                RecipientResult::Rejected { reply, permanent }
            }
            OpenError::Handshake(cause) if !route.relay => trouble(Trouble::Tls(cause)),
            OpenError::Trouble(cause) if !route.relay => trouble(cause),
            OpenError::Handshake(cause) => trouble(of_the_relay(Trouble::Tls(cause))),
            OpenError::Trouble(cause) => trouble(of_the_relay(cause)),
        };
        self.unopened(route, target, result, ledger)
    }

    fn unopened(&self, route: &Route, target: &Target, result: RecipientResult, ledger: &mut Ledger) -> Flow {
        let aborted = result == trouble(Trouble::Aborted);
        ledger.unopened(Report { verdict: Verdict::Tried(result), host: public_host(route, target), tls: None });
        if aborted { Flow::Done } else { Flow::NextTarget }
    }

    /// RFC 7435 3: after a failed opportunistic handshake once more, without TLS.
    async fn connect(&self, route: &Route, target: &Target, limits: &Limits) -> Result<Session, OpenError> {
        match self.open(route, target, limits, false).await {
            Err(OpenError::Handshake(cause)) => {
                tracing::info!(host = %target.host, %cause, "STARTTLS failed, sending without TLS");
                self.open(route, target, limits, true).await
            }
            other => other,
        }
    }

    async fn open(
        &self,
        route: &Route,
        target: &Target,
        limits: &Limits,
        without_tls: bool,
    ) -> Result<Session, OpenError> {
        let failed = |cause: String| Trouble::Connect { host: shown(target), cause };
        let stream = match within(limits, CONNECT, TcpStream::connect(target.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(cause)) => return Err(failed(cause.to_string()).into()),
            Err(Trouble::Aborted) => return Err(Trouble::Aborted.into()),
            Err(slow) => return Err(failed(slow.to_string()).into()),
        };
        // Commands are written whole; waiting for more would only slow them down.
        if let Err(cause) = stream.set_nodelay(true) {
            tracing::debug!(%cause, "TCP_NODELAY not set");
        }
        let opening = Opening {
            helo: &self.helo,
            host: &target.host,
            address: target.address,
            security: route.security,
            without_tls,
            credentials: route.credentials.as_ref().map(|(user, password)| (user.as_str(), password.as_str())),
            tls: &self.tls,
            relay: route.relay,
            limits,
        };
        Session::open(stream, &opening).await
    }
}

fn trouble(trouble: Trouble) -> RecipientResult {
    RecipientResult::ConnectionTrouble { trouble, uncertain: false }
}

fn shown(target: &Target) -> String {
    format!("{} [{}]", target.host, target.address.ip())
}

/// For events: that of the relay is the operator's.
fn public_host(route: &Route, target: &Target) -> Option<String> {
    (!route.relay).then(|| shown(target))
}

/// What tenants may read of it; the log has the rest.
fn of_the_relay(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Connect { .. } => Trouble::Relay("cannot connect to the relay of this server"),
        Trouble::Tls(_) => Trouble::Relay("no verified TLS with the relay of this server"),
        Trouble::Login(_) => Trouble::Relay("the relay of this server refused our login"),
        other @ (Trouble::Lost { .. }
        | Trouble::Timeout { .. }
        | Trouble::Overlong { .. }
        | Trouble::Protocol { .. }
        | Trouble::Relay(_)
        | Trouble::Fault
        | Trouble::Route(_)
        | Trouble::Aborted) => other,
    }
}

struct Entry {
    host: Option<String>,
    tls: TlsState,
    fresh: bool,
}

impl Entry {
    fn report(&self, result: RecipientResult) -> Report {
        Report { verdict: Verdict::Tried(result), host: self.host.clone(), tls: Some(self.tls) }
    }
}

/// What entering a result meant.
enum Entered {
    /// A verdict.
    Closed,
    /// A verdict, and the host took the message.
    Taken,
    /// 421 on a fresh connection.
    TurnedAway(Reply),
    /// No verdict yet.
    Open,
}

#[derive(Default)]
struct Row {
    report: Option<Report>,
    /// The latest reason why there is none, for this recipient.
    missing: Option<Report>,
}

/// Reports while they come in.
struct Ledger {
    rows: Vec<Vec<Row>>,
    /// Why hosts could not be spoken to: the latest temporary reason, else the latest permanent one.
    unopened: Option<Report>,
    resting: Option<i64>,
}

impl Ledger {
    fn new(transactions: &[Transaction<'_>]) -> Self {
        let rows = transactions.iter().map(|t| t.recipients.iter().map(|_| Row::default()).collect()).collect();
        Self { rows, unopened: None, resting: None }
    }

    /// The first transaction with recipients that have no report, and these recipients.
    fn first_open(&self) -> Option<(usize, Vec<usize>)> {
        self.rows.iter().enumerate().find_map(|(index, rows)| {
            let open: Vec<usize> = rows
                .iter()
                .enumerate()
                .filter(|(_, row)| row.report.is_none())
                .map(|(recipient, _)| recipient)
                .collect();
            (!open.is_empty()).then_some((index, open))
        })
    }

    fn enter(&mut self, index: usize, recipient: usize, result: RecipientResult, entry: &Entry) -> Entered {
        let Some(row) = self.rows.get_mut(index).and_then(|rows| rows.get_mut(recipient)) else {
            return Entered::Closed;
        };
        let report = entry.report(result.clone());
        match result {
            RecipientResult::Accepted { .. } => {
                row.report = Some(report);
                Entered::Taken
            }
            RecipientResult::Rejected { reply, .. } if reply.closes() && entry.fresh => {
                row.report = Some(report);
                Entered::TurnedAway(reply)
            }
            // After a number of messages many servers want a new connection.
            RecipientResult::Rejected { reply, .. } if reply.closes() => {
                row.missing = Some(report);
                Entered::Open
            }
            RecipientResult::Rejected { .. }
            | RecipientResult::ConnectionTrouble { uncertain: true, .. }
            | RecipientResult::ConnectionTrouble { trouble: Trouble::Aborted, .. } => {
                row.report = Some(report);
                Entered::Closed
            }
            RecipientResult::ConnectionTrouble { .. } => {
                row.missing = Some(report);
                Entered::Open
            }
        }
    }

    /// 421 holds for everybody who has not been asked yet (RFC 5321 3.8).
    fn turned_away(&mut self, reply: &Reply, entry: &Entry) {
        let report = entry.report(RecipientResult::Rejected { reply: reply.clone(), permanent: false });
        for row in self.rows.iter_mut().flatten() {
            row.report.get_or_insert_with(|| report.clone());
        }
    }

    fn rests(&mut self, until: i64) {
        self.resting = Some(self.resting.map_or(until, |earlier| earlier.min(until)));
    }

    fn unopened(&mut self, report: Report) {
        let permanent = matches!(report.verdict, Verdict::Tried(RecipientResult::Rejected { permanent: true, .. }));
        if !permanent || self.unopened.is_none() {
            self.unopened = Some(report);
        }
    }

    /// Whoever has no report gets the best reason there is; a permanent one only if every host gave one.
    fn close(self) -> Vec<Vec<Report>> {
        let resting = self.resting.map(|until| Report { verdict: Verdict::Resting { until }, host: None, tls: None });
        let permanent = matches!(
            self.unopened,
            Some(Report { verdict: Verdict::Tried(RecipientResult::Rejected { permanent: true, .. }), .. })
        );
        let general = if permanent { resting.or(self.unopened) } else { self.unopened.or(resting) };
        let general = general.unwrap_or_else(|| {
            Report::unrouted(trouble(Trouble::Route("there is no address to connect to".to_owned())))
        });
        let reason = |row: Row| row.report.or(row.missing).unwrap_or_else(|| general.clone());
        self.rows.into_iter().map(|rows| rows.into_iter().map(reason).collect()).collect()
    }
}
