//! Dialogues as data files: a scripted server plays `tests/cases/smtp`, over memory and with a paused clock.
use super::carrier::OVERALL;
use super::payload::Payload;
use super::reply::Reply;
use super::session::{OpenError, Opening, RecipientResult, Session, Transaction};
use super::tls::{ClientTls, Security};
use super::wire::Limits;
use signpost_dkim::Mailbox;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One line of a script.
#[derive(Debug, Clone)]
enum Step {
    /// Replies, each with CRLF, in one write.
    Say(String),
    /// A command, exact.
    Hear(String),
    /// The message and its final dot.
    Content,
    /// Seconds of the paused clock.
    Wait(u64),
    Close,
    /// That many octets without a line end.
    Raw(usize),
}

struct Case {
    name: String,
    keys: BTreeMap<String, String>,
    steps: Vec<Step>,
}

const KEYS: [&str; 11] =
    ["title", "rfc", "to", "from", "body", "expect", "session", "tls", "security", "credentials", "transactions"];

impl Case {
    fn parse(name: String, text: &str) -> Self {
        let (head, script) = text.split_once("\n\n").expect("an empty line after the head");
        let mut keys = BTreeMap::new();
        for line in head.lines() {
            let (key, value) = line.split_once(": ").expect("key: value");
            assert!(KEYS.contains(&key), "{name}: unknown key {key}");
            keys.insert(key.to_owned(), value.to_owned());
        }
        for required in ["title", "rfc", "to", "expect"] {
            assert!(keys.contains_key(required), "{name}: no {required}");
        }
        Self { steps: script.lines().flat_map(|line| step(&name, line)).collect(), name, keys }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    fn recipients(&self) -> Vec<Mailbox> {
        // A space may stand in a quoted local part: addresses end at their domain.
        let mut addresses = Vec::new();
        let mut rest = self.keys["to"].as_str();
        while !rest.is_empty() {
            let at = rest.rfind('@').filter(|_| rest.starts_with('"')).or_else(|| rest.find('@')).expect("@");
            let end = rest[at..].find(' ').map_or(rest.len(), |space| at + space);
            addresses.push(Mailbox::parse_address(&rest[..end]).expect("address"));
            rest = rest[end..].trim_start();
        }
        addresses
    }

    fn payload(&self) -> Payload {
        let body = self.get("body").unwrap_or("body");
        let raw = format!("From: ann@example.com\r\n\r\n{body}\r\n");
        Payload::new(Vec::new(), raw.as_bytes()).expect("sendable")
    }
}

fn step(name: &str, line: &str) -> Vec<Step> {
    let one = match line.split_once(' ').unwrap_or((line, "")) {
        ("S:", text) => Step::Say(format!("{text}\r\n")),
        ("SS:", text) => Step::Say(text.split('|').map(|reply| format!("{reply}\r\n")).collect()),
        ("C:", text) => Step::Hear(text.to_owned()),
        ("CONTENT", _) => Step::Content,
        ("WAIT", seconds) => Step::Wait(seconds.parse().expect("seconds")),
        ("CLOSE", _) => Step::Close,
        ("RAW", count) => Step::Raw(count.parse().expect("octets")),
        ("REPEAT", rest) => {
            let (count, what) = rest.split_once(' ').expect("REPEAT n step");
            return vec![step(name, what); count.parse().expect("count")].concat();
        }
        _ => panic!("{name}: unknown step {line:?}"),
    };
    vec![one]
}

/// Plays the server. Ends at the end of the script, or when the client has gone.
async fn play(steps: &[Step], stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<Vec<u8>> {
    let mut stream = BufReader::new(stream);
    let mut contents = Vec::new();
    for step in steps {
        match step {
            // A client that has given up need not hear the rest.
            Step::Say(text) => {
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return contents;
                }
            }
            Step::Raw(count) => {
                let _gone = stream.write_all(&vec![b'x'; *count]).await;
            }
            Step::Hear(expected) => {
                let mut line = String::new();
                stream.read_line(&mut line).await.expect("a command");
                assert_eq!(line, format!("{expected}\r\n"));
            }
            Step::Content => contents.push(read_content(&mut stream).await),
            Step::Wait(seconds) => tokio::time::sleep(Duration::from_secs(*seconds)).await,
            Step::Close => return contents,
        }
    }
    contents
}

async fn read_content(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Vec<u8> {
    let mut content = Vec::new();
    while !(content == b".\r\n" || content.ends_with(b"\r\n.\r\n")) {
        let read = stream.read_until(b'\n', &mut content).await.expect("content");
        assert_ne!(read, 0, "the client went away in the middle of the content");
    }
    content
}

/// What the client made of the dialogue.
#[derive(Debug)]
struct Ended {
    opened: Result<Vec<RecipientResult>, OpenError>,
    closed: bool,
    tls: Option<&'static str>,
}

async fn converse(case: &Case, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Ended {
    let tls = ClientTls::new(false).expect("TLS");
    let limits = Limits { abort: CancellationToken::new(), deadline: Instant::now() + OVERALL };
    let opening = Opening {
        helo: "out.example.com",
        host: "mx.example.net",
        address: "192.0.2.1:25".parse().expect("address"),
        security: match case.get("security") {
            None => Security::Opportunistic,
            Some("starttls") => Security::StartTls,
            Some(other) => panic!("unknown security {other}"),
        },
        without_tls: false,
        credentials: case.get("credentials").and_then(|text| text.split_once(':')),
        tls: &tls,
        relay: false,
        limits: &limits,
    };
    let mut session = match Session::open(stream, &opening).await {
        Ok(session) => session,
        Err(error) => return Ended { opened: Err(error), closed: true, tls: None },
    };
    let (recipients, payload) = (case.recipients(), case.payload());
    let mail_from = Mailbox::parse_address(case.get("from").unwrap_or("ann@example.com")).expect("sender");
    let transaction = Transaction { mail_from: &mail_from, recipients: recipients.iter().collect(), payload: &payload };
    let mut results = Vec::new();
    for _ in 0..case.get("transactions").map_or(1, |count| count.parse().expect("count")) {
        results = session.send(&transaction).await;
    }
    let ended = Ended { opened: Ok(results), closed: session.is_closed(), tls: Some(session.tls().as_str()) };
    session.quit().await;
    ended
}

fn shown_reply(reply: &Reply) -> String {
    reply.enhanced.map_or_else(|| reply.code.to_string(), |enhanced| format!("{} {enhanced}", reply.code))
}

fn shown(ended: &Ended) -> String {
    let result = |result: &RecipientResult| match result {
        RecipientResult::Accepted { reply } => format!("accepted {}", reply.code),
        RecipientResult::Rejected { reply, permanent: true } => format!("permanent {}", shown_reply(reply)),
        RecipientResult::Rejected { reply, permanent: false } => format!("temporary {}", shown_reply(reply)),
        RecipientResult::ConnectionTrouble { uncertain: true, .. } => "uncertain".to_owned(),
        RecipientResult::ConnectionTrouble { uncertain: false, .. } => "trouble".to_owned(),
    };
    match &ended.opened {
        Ok(results) => results.iter().map(result).collect::<Vec<_>>().join(" | "),
        Err(OpenError::Refused(reply)) => {
            let permanent = super::retry::is_permanent(super::retry::Command::Opening, reply);
            format!("refused {} {}", if permanent { "permanent" } else { "temporary" }, shown_reply(reply))
        }
        Err(OpenError::Handshake(_)) => "handshake".to_owned(),
        Err(OpenError::Trouble(_)) => "trouble".to_owned(),
    }
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/smtp");
    let mut cases: Vec<Case> = std::fs::read_dir(folder)
        .expect("tests/cases/smtp")
        .map(|entry| entry.expect("entry").path())
        .map(|path| {
            let name = path.file_stem().and_then(|stem| stem.to_str()).expect("name").to_owned();
            Case::parse(name, &std::fs::read_to_string(&path).expect("text"))
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() > 30);
    cases
}

/// Runs the script cut off after `steps` steps, with the connection dropped there.
async fn run(case: &Case, steps: usize) -> (Ended, Vec<Vec<u8>>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let script = case.steps[..steps].to_vec();
    let server = tokio::spawn(async move { play(&script, server).await });
    let ended = converse(case, client).await;
    (ended, server.await.unwrap_or_else(|cause| panic!("{}: {cause}", case.name)))
}

#[tokio::test(start_paused = true)]
async fn every_dialogue_ends_as_its_case_says() {
    for case in cases() {
        let (ended, contents) = run(&case, case.steps.len()).await;
        assert_eq!(shown(&ended), case.keys["expect"], "{}: {ended:?}", case.name);
        if let Some(session) = case.get("session") {
            assert_eq!(ended.closed, session == "closed", "{}: {ended:?}", case.name);
        }
        if let Some(tls) = case.get("tls") {
            assert_eq!(ended.tls, Some(tls), "{}", case.name);
        }
        for content in contents {
            assert_eq!(content, [case.payload().octets(), b".\r\n"].concat(), "{}", case.name);
        }
    }
}

/// A connection that breaks is never a verdict: wherever a dialogue is cut off, nobody is bounced who would not have been,
/// and the message is uncertain exactly while its final dot may be under way and no reply to it was heard.
#[tokio::test(start_paused = true)]
async fn a_connection_dropped_at_any_step_is_never_a_bounce() {
    for case in cases().into_iter().filter(|case| case.keys["expect"].starts_with("accepted")) {
        for steps in 0..case.steps.len() {
            let (ended, _) = run(&case, steps).await;
            let whole: Vec<&str> = case.keys["expect"].split(" | ").collect();
            let Ok(results) = &ended.opened else {
                assert!(
                    matches!(ended.opened, Err(OpenError::Trouble(_) | OpenError::Handshake(_))),
                    "{} cut at {steps}: {ended:?}",
                    case.name
                );
                continue;
            };
            let said = case.steps[..steps].iter().rev().find_map(|step| match step {
                Step::Say(text) => Some(text.as_str()),
                Step::Hear(_) | Step::Content | Step::Wait(_) | Step::Close | Step::Raw(_) => None,
            });
            let dot_may_be_out = said.is_some_and(|text| text.starts_with("354"));
            for (index, result) in results.iter().enumerate() {
                match result {
                    RecipientResult::Rejected { permanent: true, .. } => {
                        assert!(whole[index].starts_with("permanent"), "{} cut at {steps}: {ended:?}", case.name);
                    }
                    RecipientResult::ConnectionTrouble { uncertain, .. } => {
                        assert_eq!(*uncertain, dot_may_be_out, "{} cut at {steps}: {ended:?}", case.name);
                    }
                    RecipientResult::Accepted { .. } | RecipientResult::Rejected { permanent: false, .. } => {}
                }
            }
        }
    }
}

/// A16, G37: a body of dots stays one message, whatever the sizes of the writes.
#[tokio::test]
async fn dots_at_line_starts_are_doubled_on_the_wire() {
    let body = "before\r\n.\r\nMAIL FROM:<x@example.org>\r\n..\r\nafter";
    let text = concat!(
        "title: t\nrfc: r\nto: b@example.net\nexpect: accepted 250\n\n",
        "S: 220 mx\nC: EHLO out.example.com\nS: 250-mx\nS: 250 PIPELINING\n",
        "C: MAIL FROM:<ann@example.com>\nC: RCPT TO:<b@example.net>\nC: DATA\n",
        "S: 250 ok\nS: 250 ok\nS: 354 go\nCONTENT\nS: 250 ok\nC: QUIT",
    );
    let mut case = Case::parse("dots".to_owned(), text);
    case.keys.insert("body".to_owned(), body.to_owned());
    let (ended, contents) = run(&case, case.steps.len()).await;
    assert_eq!(shown(&ended), "accepted 250");
    let wire = String::from_utf8(contents.concat()).expect("text");
    assert!(wire.ends_with("before\r\n..\r\nMAIL FROM:<x@example.org>\r\n...\r\nafter\r\n.\r\n"), "{wire:?}");
}

/// The verdict of a server that closed in the middle of the message.
#[tokio::test]
async fn a_reply_in_the_middle_of_the_message_is_heard() {
    let mut case = cases().into_iter().find(|case| case.name == "G10-552-after-content").expect("case");
    case.keys.insert("body".to_owned(), "x".repeat(70).repeat(10) + &"\r\nmore".repeat(100_000));
    let (client, mut server) = tokio::io::duplex(64 * 1024);
    let steps: Vec<Step> = case.steps.iter().take_while(|step| !matches!(step, Step::Content)).cloned().collect();
    let server = tokio::spawn(async move {
        play(&steps, &mut server).await;
        let mut some = [0_u8; 1000];
        server.read_exact(&mut some).await.expect("some of the message");
        server.write_all(b"552 5.3.4 too big\r\n").await.expect("write");
    });
    let ended = converse(&case, client).await;
    server.await.expect("server");
    assert_eq!((shown(&ended).as_str(), ended.closed), ("permanent 552 5.3.4", true));
}

#[tokio::test(start_paused = true)]
async fn an_abort_ends_every_wait() {
    let (client, _server) = tokio::io::duplex(64);
    let limits = Limits { abort: CancellationToken::new(), deadline: Instant::now() + OVERALL };
    limits.abort.cancel();
    let tls = ClientTls::new(false).expect("TLS");
    let opening = Opening {
        helo: "h",
        host: "mx",
        address: "192.0.2.1:25".parse().expect("address"),
        security: Security::Opportunistic,
        without_tls: false,
        credentials: None,
        tls: &tls,
        relay: false,
        limits: &limits,
    };
    let error = Session::open(client, &opening).await.err().expect("no session");
    assert_eq!(error, OpenError::Trouble(super::Trouble::Aborted));
}
