//! The client against our own server, over loopback: octets, TLS, several hosts, reused connections.
use super::backoff::HostBackoff;
use super::carrier::{Carrier, Report, Route, Verdict};
use super::crowd::Crowd;
use super::payload::Payload;
use super::session::{RecipientResult, TlsState, Transaction};
use super::tls::{ClientTls, Security};
use super::{Target, Trouble};
use crate::Clock;
use crate::inbound::serve;
use crate::inbound::session::{Envelope, Handler, ServerSettings, TryLater};
use async_trait::async_trait;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use signpost_dkim::Mailbox;
use signpost_keys::Random;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Fixed;
impl Random for Fixed {
    fn fill(&self, dest: &mut [u8]) {
        dest.fill(7);
    }
}
impl Clock for Fixed {
    fn now_ms(&self) -> i64 {
        1_000_000
    }
}

/// Keeps what it gets; `full` makes it say 451.
#[derive(Default)]
struct Inbox {
    messages: Mutex<Vec<(Envelope, Vec<u8>)>>,
    full: bool,
}

#[async_trait]
impl Handler for Inbox {
    async fn message(&self, envelope: Envelope, octets: Vec<u8>) -> Result<String, TryLater> {
        if self.full {
            return Err(TryLater);
        }
        self.messages.lock().expect("lock").push((envelope, octets));
        Ok("stored".to_owned())
    }
}

struct Server {
    address: SocketAddr,
    inbox: Arc<Inbox>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(inbox: Inbox, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let settings = ServerSettings { hostname: "mx.test".to_owned(), max_size: 4_000_000, tls, max_sessions: 10 };
        let (inbox, shutdown) = (Arc::new(inbox), CancellationToken::new());
        let task = tokio::spawn(serve(listener, settings, Arc::clone(&inbox) as Arc<dyn Handler>, shutdown.clone()));
        Self { address, inbox, shutdown, task }
    }

    /// Waits for the sessions and gives what arrived.
    async fn stop(self) -> Vec<(Envelope, Vec<u8>)> {
        self.shutdown.cancel();
        self.task.await.expect("server");
        std::mem::take(&mut *self.inbox.messages.lock().expect("lock"))
    }
}

fn certificate(name: &str) -> (Arc<ServerConfig>, ClientConfig) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("certificate");
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("key");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("server certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("root");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), client)
}

fn carrier(tls: ClientTls) -> Carrier {
    Carrier {
        helo: "out.example.com".to_owned(),
        tls,
        abort: CancellationToken::new(),
        backoff: Arc::new(HostBackoff::default()),
        crowd: Arc::new(Crowd::new(64)),
        clock: Arc::new(Fixed),
        random: Arc::new(Fixed),
    }
}

fn plain() -> Carrier {
    carrier(ClientTls::new(false).expect("TLS"))
}

fn route(addresses: &[SocketAddr], security: Security) -> Route {
    let targets = addresses.iter().enumerate();
    let targets =
        targets.map(|(index, address)| Target { host: format!("mx{index}.test"), address: *address }).collect();
    Route { targets, security, credentials: None, relay: false }
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox::parse_address(address).expect("mailbox")
}

fn payload(body: &[u8]) -> Payload {
    Payload::new(b"Received: by us\r\n".to_vec(), [b"From: ann@example.com\r\n\r\n", body].concat()).expect("sendable")
}

/// One transaction to one recipient.
async fn send(carrier: &Carrier, route: &Route, payload: &Payload) -> Report {
    let (from, to) = (mailbox("ann@example.com"), mailbox("b@example.net"));
    let transaction = Transaction { mail_from: &from, recipients: vec![&to], payload };
    carrier.carry(route, &[transaction]).await.remove(0).remove(0)
}

fn accepted(report: &Report) -> bool {
    matches!(report.verdict, Verdict::Tried(RecipientResult::Accepted { .. }))
}

fn trouble(report: &Report) -> &Trouble {
    match &report.verdict {
        Verdict::Tried(RecipientResult::ConnectionTrouble { trouble, uncertain: false }) => trouble,
        other => panic!("not connection trouble: {other:?}"),
    }
}

/// Address of a port on which nobody listens.
async fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("address")
}

/// A server for one connection after another. Each is a list of replies: the greeting, then one for each line that is heard,
/// empty for none.
async fn scripted(connections: Vec<Vec<&'static str>>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let task = tokio::spawn(async move {
        let mut heard = Vec::new();
        for script in connections {
            let (stream, _) = listener.accept().await.expect("accept");
            let mut stream = BufReader::new(stream);
            for (index, text) in script.iter().enumerate() {
                if index > 0 {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.expect("line");
                    heard.push(line.trim_end().to_owned());
                }
                if !text.is_empty() {
                    stream.write_all(format!("{text}\r\n").as_bytes()).await.expect("write");
                }
            }
        }
        heard
    });
    (address, task)
}

#[tokio::test]
async fn nasty_bodies_arrive_octet_for_octet() {
    let server = Server::start(Inbox::default(), None).await;
    let (carrier, route) = (plain(), route(&[server.address], Security::Opportunistic));
    let bodies: Vec<Vec<u8>> = vec![
        b"before\r\n.\r\nMAIL FROM:<x@example.org>\r\nafter\r\n".to_vec(),
        b".\r\n.\r\n..\r\n...\r\n".to_vec(),
        b"\r\n\r\n\r\n".to_vec(),
        b"QUIT\r\nDATA\r\nRSET\r\n".to_vec(),
        "grüße\r\n".as_bytes().to_vec(),
        // Dots at every position of the client's block borders.
        b".\r\n".repeat(100_000),
        [b"x".repeat(998), b"\r\n".to_vec()].concat().repeat(300),
    ];
    for body in &bodies {
        let report = send(&carrier, &route, &payload(body)).await;
        assert!(accepted(&report), "{report:?}");
    }
    let arrived = server.stop().await;
    assert_eq!(arrived.len(), bodies.len());
    for (body, (envelope, octets)) in bodies.iter().zip(&arrived) {
        assert!(octets == payload(body).octets(), "a body of {} octets changed", body.len());
        assert_eq!(
            (envelope.mail_from.as_str(), envelope.rcpts.as_slice()),
            ("ann@example.com", ["b@example.net".to_owned()].as_slice())
        );
        assert_eq!((envelope.helo.as_str(), envelope.tls), ("out.example.com", false));
    }
}

#[tokio::test]
async fn starttls_is_used_where_offered_whatever_the_certificate() {
    let (tls, _) = certificate("somebody-else.test");
    let server = Server::start(Inbox::default(), Some(tls)).await;
    let report = send(&plain(), &route(&[server.address], Security::Opportunistic), &payload(b"x\r\n")).await;
    assert!(accepted(&report) && report.tls == Some(TlsState::Unverified), "{report:?}");
    assert!(server.stop().await[0].0.tls);
}

/// G14.
#[tokio::test]
async fn a_failed_handshake_is_followed_by_a_plain_connection() {
    let (address, heard) = scripted(vec![
        vec!["220 mx", "250-mx\r\n250 STARTTLS", "220 go"],
        vec!["220 mx", "250-mx\r\n250 STARTTLS", "250 ok", "450 4.2.0 later"],
    ])
    .await;
    let report = send(&plain(), &route(&[address], Security::Opportunistic), &payload(b"x\r\n")).await;
    assert!(matches!(report.verdict, Verdict::Tried(RecipientResult::Rejected { permanent: false, .. })), "{report:?}");
    assert_eq!(report.tls.map(TlsState::as_str), Some("failed_fallback"));
    let heard = heard.await.expect("server");
    assert_eq!(heard[heard.len() - 2..], ["MAIL FROM:<ann@example.com>", "RCPT TO:<b@example.net>"]);
}

#[tokio::test]
async fn required_tls_wants_a_certificate_that_verifies() {
    let (tls, trusting) = certificate("mx0.test");
    let server = Server::start(Inbox::default(), Some(tls)).await;
    let route = route(&[server.address], Security::StartTls);
    let verified = carrier(ClientTls::trusting(trusting).expect("TLS"));
    let report = send(&verified, &route, &payload(b"x\r\n")).await;
    assert!(accepted(&report) && report.tls == Some(TlsState::Verified), "{report:?}");

    // The same server, not trusted: trouble, and nothing in plain text.
    let (_, other) = certificate("mx0.test");
    let suspicious = carrier(ClientTls::trusting(other).expect("TLS"));
    let report = send(&suspicious, &route, &payload(b"x\r\n")).await;
    assert!(matches!(trouble(&report), Trouble::Tls(_)), "{report:?}");
    assert_eq!(server.stop().await.len(), 1);
}

#[tokio::test]
async fn implicit_tls_begins_before_the_greeting_and_logs_in() {
    let (tls, trusting) = certificate("mx0.test");
    for (mechanisms, expected) in
        [("PLAIN LOGIN", vec!["AUTH PLAIN AGFubgBzZWNyZXQ="]), ("LOGIN", vec!["AUTH LOGIN", "YW5u", "c2VjcmV0"])]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let mut route = route(&[listener.local_addr().expect("address")], Security::Implicit);
        route.credentials = Some(("ann".to_owned(), "secret".to_owned()));
        let tls = Arc::clone(&tls);
        let logins = expected.len();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let mut stream = BufReader::new(tokio_rustls::TlsAcceptor::from(tls).accept(stream).await.expect("TLS"));
            let mut heard = Vec::new();
            let mut replies = vec!["220 mx".to_owned(), format!("250-mx\r\n250 AUTH {mechanisms}")];
            replies.extend((1..logins).map(|_| "334 ".to_owned()));
            replies.push("535 5.7.8 no".to_owned());
            for (index, reply) in replies.iter().enumerate() {
                if index > 0 {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.expect("line");
                    heard.push(line.trim_end().to_owned());
                }
                stream.write_all(format!("{reply}\r\n").as_bytes()).await.expect("write");
                stream.flush().await.expect("flush");
            }
            heard
        });
        let report =
            send(&carrier(ClientTls::trusting(trusting.clone()).expect("TLS")), &route, &payload(b"x\r\n")).await;
        let text = trouble(&report).to_string();
        assert!(text.contains("535 5.7.8") && !text.contains("secret"), "a refused login is no bounce: {text}");
        assert_eq!(server.await.expect("server")[1..], expected);
    }
}

/// G20: every address is tried before the message is deferred.
#[tokio::test]
async fn hosts_are_tried_in_turn() {
    let (refusing, _) = scripted(vec![vec!["554 5.7.1 not here"]]).await;
    let (dropping, _) = scripted(vec![vec!["220 mx"]]).await;
    let server = Server::start(Inbox::default(), None).await;
    let addresses = [dead().await, refusing, dropping, server.address];
    let report = send(&plain(), &route(&addresses, Security::Opportunistic), &payload(b"x\r\n")).await;
    assert!(accepted(&report), "{report:?}");
    assert_eq!(report.host.as_deref(), Some("mx3.test [127.0.0.1]"));
    assert_eq!(server.stop().await.len(), 1);
}

#[tokio::test]
async fn a_refused_connection_is_permanent_only_if_every_host_refuses() {
    let refuse = || scripted(vec![vec!["554 5.7.1 not here"]]);
    let (one, _) = refuse().await;
    let (two, _) = refuse().await;
    let report = send(&plain(), &route(&[one, two], Security::Opportunistic), &payload(b"x\r\n")).await;
    assert!(matches!(report.verdict, Verdict::Tried(RecipientResult::Rejected { permanent: true, .. })), "{report:?}");
    let (one, _) = refuse().await;
    let report = send(&plain(), &route(&[dead().await, one], Security::Opportunistic), &payload(b"x\r\n")).await;
    assert!(matches!(trouble(&report), Trouble::Connect { .. }), "{report:?}");
}

/// What the operator's relay says of the set-up is the operator's: nobody bounces for it, and tenants learn no name and no login.
#[tokio::test]
async fn trouble_with_the_relay_bounces_nothing_and_is_not_shown() {
    let (greeting, _) = scripted(vec![vec!["554 5.7.1 10.0.0.7 may not send here"]]).await;
    let (hello, _) = scripted(vec![vec!["220 mx", "550 5.7.1 who is 10.0.0.7", "550 5.7.1 who"]]).await;
    let (mail, _) = scripted(vec![vec!["220 mx", "250 mx", "550 5.7.1 relaying denied"]]).await;
    let mut relay = route(&[], Security::Opportunistic);
    relay.relay = true;
    relay.credentials = Some(("ann".to_owned(), "secret".to_owned()));
    assert!(!format!("{relay:?}").contains("secret"));
    relay.credentials = None;
    for address in [dead().await, greeting, hello, mail] {
        relay.targets = vec![Target { host: "relay.internal".to_owned(), address }];
        let report = send(&plain(), &relay, &payload(b"x\r\n")).await;
        let shown = format!("{report:?}");
        assert!(report.host.is_none(), "{shown}");
        assert!(!["internal", "10.0.0.7", "127.0.0.1"].iter().any(|name| shown.contains(name)), "{shown}");
        match report.verdict {
            Verdict::Tried(RecipientResult::Rejected { permanent, .. }) => assert!(!permanent, "{shown}"),
            Verdict::Tried(RecipientResult::ConnectionTrouble { trouble, .. }) => {
                assert_eq!(trouble.to_string(), "cannot connect to the relay of this server");
            }
            Verdict::Tried(RecipientResult::Accepted { .. }) | Verdict::Resting { .. } => panic!("{shown}"),
        }
    }
}

/// A slow host must not have all deliveries; its backup is not asked in its place, and a relay may have all of them.
#[tokio::test]
async fn a_host_with_enough_messages_under_way_gets_no_further_one() {
    let server = Server::start(Inbox::default(), None).await;
    let carrier = plain();
    let mut route = route(&[server.address, server.address], Security::Opportunistic);
    let places: Vec<_> = (0..16).map(|_| carrier.crowd.enter("127.0.0.1", 0).expect("place")).collect();
    let report = send(&carrier, &route, &payload(b"x\r\n")).await;
    assert_eq!(report.verdict, Verdict::Resting { until: 1_001_050 });
    route.relay = true;
    assert!(accepted(&send(&carrier, &route, &payload(b"x\r\n")).await));
    route.relay = false;
    drop(places);
    assert!(accepted(&send(&carrier, &route, &payload(b"x\r\n")).await));
    server.stop().await;
}

/// VERP: one connection carries a transaction for each recipient; after a 421 to a used connection a new one is made.
#[tokio::test]
async fn a_connection_is_used_again_and_made_anew_after_421() {
    let (address, heard) = scripted(vec![
        // The message is one line, and then comes the dot.
        vec!["220 mx", "250 mx", "250 ok", "250 ok", "354 go", "", "250 2.0.0 one", "421 4.7.0 one is enough"],
        vec!["220 mx", "250 mx", "250 ok", "550 5.1.1 unknown", "250 reset", "250 ok", "451 4.3.0 later"],
    ])
    .await;
    let payload = Payload::new(Vec::new(), b"From: a@example.com\r\n").expect("sendable");
    let senders: Vec<Mailbox> = (0..3).map(|n| mailbox(&format!("bounce+r{n}@bounce.mail.example"))).collect();
    let to = mailbox("b@example.net");
    let transactions: Vec<Transaction<'_>> =
        senders.iter().map(|from| Transaction { mail_from: from, recipients: vec![&to], payload: &payload }).collect();
    let reports = plain().carry(&route(&[address], Security::Opportunistic), &transactions).await;
    let shown: Vec<&str> = reports
        .iter()
        .map(|report| match &report[0].verdict {
            Verdict::Tried(RecipientResult::Accepted { .. }) => "accepted",
            Verdict::Tried(RecipientResult::Rejected { permanent: true, .. }) => "bounced",
            Verdict::Tried(RecipientResult::Rejected { permanent: false, .. }) => "deferred",
            Verdict::Tried(RecipientResult::ConnectionTrouble { .. }) | Verdict::Resting { .. } => "trouble",
        })
        .collect();
    assert_eq!(shown, ["accepted", "bounced", "deferred"]);
    let heard = heard.await.expect("server");
    let mails: Vec<&String> = heard.iter().filter(|line| line.starts_with("MAIL")).collect();
    assert_eq!(mails.len(), 4, "{heard:?}");
}

/// G03: after 421 nobody else is tried at this host, and the next message waits for it.
#[tokio::test]
async fn a_host_that_says_421_rests() {
    let (address, heard) = scripted(vec![vec!["220 mx", "250 mx", "250 ok", "421 4.7.0 [TS04] deferred"]]).await;
    let carrier = plain();
    let route = route(&[address], Security::Opportunistic);
    let (from, b, c) = (mailbox("ann@example.com"), mailbox("b@example.net"), mailbox("c@example.net"));
    let payload = payload(b"x\r\n");
    let transaction = |to| Transaction { mail_from: &from, recipients: vec![to], payload: &payload };
    let reports = carrier.carry(&route, &[transaction(&b), transaction(&c)]).await.concat();
    for report in &reports {
        assert!(
            matches!(&report.verdict, Verdict::Tried(RecipientResult::Rejected { reply, permanent: false }) if reply.code == 421)
        );
    }
    assert_eq!(heard.await.expect("server").len(), 3, "one connection, one RCPT");
    let next = send(&carrier, &route, &payload).await;
    assert!(matches!(next.verdict, Verdict::Resting { until } if until > 1_000_000 + 60_000 - 1), "{next:?}");
}

/// G49.
#[tokio::test]
async fn a_message_that_cannot_be_stored_is_451() {
    let server = Server::start(Inbox { full: true, ..Inbox::default() }, None).await;
    let report = send(&plain(), &route(&[server.address], Security::Opportunistic), &payload(b"x\r\n")).await;
    match report.verdict {
        Verdict::Tried(RecipientResult::Rejected { reply, permanent: false }) => {
            assert_eq!((reply.code, reply.enhanced.map(|code| code.to_string()).as_deref()), (451, Some("4.3.0")));
        }
        other => panic!("{other:?}"),
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stop_gives_back_what_was_not_tried() {
    let carrier = plain();
    carrier.abort.cancel();
    let report = send(&carrier, &route(&[dead().await], Security::Opportunistic), &payload(b"x\r\n")).await;
    assert_eq!(*trouble(&report), Trouble::Aborted);
}

/// Says `lines` in one write to our server and gives all it answers until it closes.
async fn raw_client(address: SocketAddr, lines: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(lines.as_bytes()).await.expect("write");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.expect("answers");
    answers.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn the_server_keeps_the_order_of_commands() {
    let server = Server::start(Inbox::default(), None).await;
    let recipients = "RCPT TO:<b@example.net>\r\n".repeat(101);
    let many = "250 2.1.5 ".trim_end();
    let table = [
        ("MAIL FROM:<a@example.com>\r\nQUIT\r\n".to_owned(), vec!["503 5.5.1", "221 2.0.0"]),
        (
            "HELO c\r\nRCPT TO:<b@example.net>\r\nDATA\r\nQUIT\r\n".to_owned(),
            vec!["250 mx.test", "503 5.5.1", "503 5.5.1", "221 2.0.0"],
        ),
        (
            "HELO c\r\nMAIL FROM:<>\r\nDATA\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nQUIT\r\n".to_owned(),
            vec!["250 mx.test", "250 2.1.0", "554 5.5.1", "503 5.5.1", "250 2.0.0", "250 2.1.0", "221 2.0.0"],
        ),
        (
            "HELO c\r\nMAIL FROM:<> SIZE=4000001\r\nMAIL FROM:<grüße@a.example>\r\nSTARTTLS\r\nVRFY b\r\nQUIT\r\n"
                .to_owned(),
            vec!["250 mx.test", "552 5.3.4", "553 5.6.7", "502 5.5.1", "252 2.1.5", "221 2.0.0"],
        ),
        (
            format!("HELO c\r\nMAIL FROM:<>\r\n{recipients}QUIT\r\n"),
            [vec!["250 mx.test", "250 2.1.0"], vec![many; 100], vec!["452 4.5.3", "221 2.0.0"]].concat(),
        ),
        ("NOOP\nMAIL FROM:<a@example.com>\r\n".to_owned(), vec!["500 5.5.2"]),
        ("X\r\n".repeat(21), [vec!["500 5.5.2"; 20], vec!["421 4.7.0"]].concat()),
    ];
    for (lines, expected) in table {
        let answers = raw_client(server.address, &lines).await;
        assert_eq!(answers[1..], expected, "{lines:?}");
    }
    assert!(server.stop().await.is_empty());
}

/// G37: what a lax server would have taken for a second message reaches nobody.
#[tokio::test]
async fn smuggled_messages_are_refused_whole() {
    let server = Server::start(Inbox::default(), None).await;
    for end in ["\n.\r\n", "\r\n.\n", "\n.\n", "\r.\r\n", "\r\n.\r", "\r.\r"] {
        let inner = "MAIL FROM:<admin@example.com>\r\nRCPT TO:<v@example.net>\r\nDATA\r\nFrom: admin\r\n\r\nhi";
        let lines = format!(
            "EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\nx{end}{inner}\r\n.\r\nQUIT\r\n"
        );
        let answers = raw_client(server.address, &lines).await;
        assert_eq!(answers[answers.len() - 3..], ["354 end", "554 5.6.0", "221 2.0.0"], "{end:?}");
    }
    assert!(server.stop().await.is_empty());
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_session_goes_on() {
    let server = Server::start(Inbox::default(), None).await;
    let big = "x".repeat(98).to_owned() + "\r\n";
    let lines = format!(
        "HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n{}.\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n",
        big.repeat(40_001)
    );
    let answers = raw_client(server.address, &lines).await;
    let expected = ["354 end", "552 5.3.4", "250 2.1.0", "250 2.1.5", "354 end", "250 2.0.0", "221 2.0.0"];
    assert_eq!(answers[answers.len() - 7..], expected);
    assert_eq!(server.stop().await.len(), 1);
}

#[tokio::test]
async fn a_stopping_server_says_421_between_commands() {
    let server = Server::start(Inbox::default(), None).await;
    let mut stream = BufReader::new(TcpStream::connect(server.address).await.expect("connect"));
    let mut line = String::new();
    stream.read_line(&mut line).await.expect("greeting");
    assert!(server.stop().await.is_empty());
    line.clear();
    stream.read_line(&mut line).await.expect("farewell");
    assert!(line.starts_with("421 4.3.2"), "{line}");
}
