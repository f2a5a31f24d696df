//! Who else says what a signature is worth: dkimpy, mail-auth, and our own verifier.
use crate::{Process, repository};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};
use mail_auth::{AuthenticatedMessage, DkimResult, DnsError, MessageAuthenticator, Parameters, ResolverCache, Txt};
use serde_json::{Value, json};
use signpost_dkim::message::Message;
use signpost_dkim::verify::{KeyAnswer, Verification, Verifier};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::Hash;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// TXT records by name (no final dot, lower-case), strings joined.
pub type TxtRecords = BTreeMap<String, String>;

/// The interpreter of tests/.venv.
pub(crate) fn python() -> PathBuf {
    let python = repository().join("tests/.venv/bin/python");
    assert!(python.exists(), "{} is missing: run tests/run once, it makes it", python.display());
    python
}

/// dkimpy and Python's email package in one long-running child (tests/tools/judge.py).
pub struct DkimPy {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// A message as Python's email package reads it.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Decoded {
    /// Names and decoded values, top to bottom.
    pub headers: Vec<(String, String)>,
    /// The first text/plain part that is no attachment; line ends are LF.
    pub text: Option<String>,
    /// The first text/html part that is no attachment.
    pub html: Option<String>,
    /// Everything else that is no multipart.
    pub attachments: Vec<Attachment>,
    /// What Python found wrong with the message.
    pub defects: Vec<String>,
}

/// A part that is not one of the two bodies.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Attachment {
    /// Decoded (RFC 2231 or RFC 2047).
    pub filename: Option<String>,
    /// Type and subtype.
    pub content_type: String,
    /// With angle brackets.
    pub content_id: Option<String>,
    /// `attachment` or `inline`.
    pub disposition: Option<String>,
    /// Hex, of the decoded content.
    pub sha256: String,
}

impl Decoded {
    /// The value of the one field of that name; fails if there is none or more than one.
    pub fn header(&self, name: &str) -> &str {
        let found: Vec<&str> = self.all(name);
        assert_eq!(found.len(), 1, "{name} in {:?}", self.headers);
        found[0]
    }

    /// Values of that name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
}

impl DkimPy {
    /// Starts the child.
    pub fn start() -> Self {
        let mut child = Process::tied_to_us(&python())
            .arg(repository().join("tests/tools/judge.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (requests, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, requests, answers }
    }

    /// One verdict per DKIM-Signature, top to bottom; keys from `txt`. Empty where dkimpy cannot parse the message.
    pub fn verify(&mut self, message: &[u8], txt: &TxtRecords) -> Vec<bool> {
        verdicts(&self.ask(&json!({"op": "verify", "message": STANDARD.encode(message), "txt": txt})))
    }

    /// The same, keys from a DNS server. No answer at all from it fails the test.
    pub fn verify_with_dns(&mut self, message: &[u8], server: SocketAddr) -> Vec<bool> {
        verdicts(&self.ask(&json!({"op": "verify", "message": STANDARD.encode(message), "dns": server.to_string()})))
    }

    /// Verdicts and, where one is false, why.
    pub fn verify_with_reasons(&mut self, message: &[u8], txt: &TxtRecords) -> (Vec<bool>, Value) {
        let answer = self.ask(&json!({"op": "verify", "message": STANDARD.encode(message), "txt": txt}));
        (verdicts(&answer), answer["reasons"].clone())
    }

    /// The message with a signature by dkimpy (Ed25519, relaxed/relaxed) before it; with l= if `length`.
    pub fn sign(&mut self, message: &[u8], domain: &str, selector: &str, seed: &[u8; 32], length: bool) -> Vec<u8> {
        let answer = self.ask(&json!({
            "op": "sign", "message": STANDARD.encode(message), "domain": domain, "selector": selector,
            "seed": STANDARD.encode(seed), "length": length,
        }));
        STANDARD.decode(answer["message"].as_str().unwrap()).unwrap()
    }

    /// Method and result of each part of an Authentication-Results value, as authres reads it; fails the test if it cannot.
    pub fn authentication_results(&mut self, value: &str) -> Vec<(String, String)> {
        let answer = self.ask(&json!({"op": "authentication_results", "value": value}));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        answer["results"].as_array().unwrap().iter().map(|one| (text(&one[0]), text(&one[1]))).collect()
    }

    /// What a reader sees.
    pub fn decode(&mut self, message: &[u8]) -> Decoded {
        let answer = self.ask(&json!({"op": "decode", "message": STANDARD.encode(message)}));
        serde_json::from_value(answer).unwrap()
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests, "{request}")
            .and_then(|()| self.requests.flush())
            .expect("tests/tools/judge.py takes requests");
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("tests/tools/judge.py answered {line:?}: {e}"));
        assert!(answer.get("failure").is_none(), "tests/tools/judge.py: {}", answer["failure"]);
        answer
    }
}

impl Drop for DkimPy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn verdicts(answer: &Value) -> Vec<bool> {
    answer["results"].as_array().unwrap().iter().map(|r| r.as_bool().unwrap()).collect()
}

/// mail-auth 0.13.3, fed from memory. Its known faults: the relaxed body hash of a body that ends in whitespace-only lines is
/// wrong, and a changed body gives neutral instead of fail. Those that need odder messages are in tests/properties/faults.rs.
pub struct MailAuthJudge {
    runtime: tokio::runtime::Runtime,
    authenticator: MessageAuthenticator,
}

/// Answers every name from memory, so that no question leaves the process.
struct Memory<'a>(&'a TxtRecords);

impl ResolverCache<Box<str>, Txt> for Memory<'_> {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // The trait lets a key only be compared, so the records are searched for the one that is meant.
        let found = self.0.iter().find(|(known, _)| {
            let key: Box<str> = format!("{}.", known.to_ascii_lowercase()).into_boxed_str();
            Borrow::<Q>::borrow(&key) == name
        });
        Some(match found {
            Some((_, text)) => Txt::from(DomainKey::parse(text.as_bytes())),
            None => Txt::Error(mail_auth::Error::Dns(DnsError::InvalidRecordType)),
        })
    }
    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }
    fn insert(&self, _: Box<str>, _: Txt, _: std::time::Instant) {}
}

impl MailAuthJudge {
    /// A judge.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let authenticator = runtime
            .block_on(async { MessageAuthenticator::new(ResolverConfig::default(), ResolverOpts::default()).unwrap() });
        Self { runtime, authenticator }
    }

    /// For each signature that mail-auth could read: d=, s= and the result word (`pass`, `fail`, `neutral`, `permerror`,
    /// `temperror`, `none`).
    pub fn verify(&self, message: &[u8], txt: &TxtRecords) -> Vec<(String, String, &'static str)> {
        let Some(parsed) = AuthenticatedMessage::parse(message) else { return Vec::new() };
        let memory = Memory(txt);
        let parameters = Parameters::new(&parsed).with_txt_cache(&memory);
        let outputs = self.runtime.block_on(self.authenticator.verify_dkim(parameters));
        outputs
            .iter()
            .map(|output| {
                let (domain, selector) = output.signature().map(|s| (s.d.clone(), s.s.clone())).unwrap_or_default();
                (domain, selector, word(output.result()))
            })
            .collect()
    }
}

impl Default for MailAuthJudge {
    fn default() -> Self {
        Self::new()
    }
}

fn word(result: &DkimResult) -> &'static str {
    match result {
        DkimResult::Pass => "pass",
        DkimResult::Neutral(_) => "neutral",
        DkimResult::Fail(_) => "fail",
        DkimResult::PermError(_) => "permerror",
        DkimResult::TempError(_) => "temperror",
        DkimResult::None => "none",
    }
}

/// What `signpost_dkim::verify` says, one per DKIM-Signature, top to bottom; keys from `txt`.
pub fn our_verdict(message: &[u8], txt: &TxtRecords) -> Vec<Verification> {
    let parsed = Message::parse(message).unwrap();
    let answer = |name: &str| match txt.get(&name.trim_end_matches('.').to_ascii_lowercase()) {
        Some(text) => KeyAnswer::Text(vec![text.clone()]),
        None => KeyAnswer::Absent,
    };
    Verifier::new(&parsed).verify(&answer, crate::now())
}
