//! Reads the case files of `tests/cases/mime` for the tests of compose and raw.
use super::request::ComposeContext;
use crate::{Error, FieldError};
use serde::de::DeserializeOwned;
use signpost_keys::Random;
use std::sync::Mutex;

/// 2026-11-25T01:00:00Z.
pub(crate) const NOW_MS: i64 = 1_795_568_400_000;

/// A repeatable sequence (xorshift): tests must fail the same way twice.
pub(super) struct Sequence(Mutex<u64>);

impl Sequence {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1))
    }

    pub(super) fn below(&self, limit: usize) -> usize {
        let mut octets = [0; 4];
        self.fill(&mut octets);
        usize::try_from(u32::from_le_bytes(octets)).unwrap() % limit
    }
}

impl Random for Sequence {
    fn fill(&self, dest: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for octet in dest {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *octet = state.to_le_bytes()[3];
        }
    }
}

pub(super) fn context(random: &dyn Random) -> ComposeContext<'_> {
    ComposeContext { now_ms: NOW_MS, random, max_message: 25_000_000 }
}

/// One case a line; a key that the case type does not know fails the test. `@@text*n@@` stands for `text` n times.
pub(super) fn read<T: DeserializeOwned>(file: &str) -> Vec<T> {
    file.lines().map(|line| serde_json::from_str(&expanded(line)).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn expanded(line: &str) -> String {
    let mut out = String::new();
    for (index, piece) in line.split("@@").enumerate() {
        match piece.rsplit_once('*') {
            Some((text, count)) if index % 2 == 1 => out.push_str(&text.repeat(count.parse().unwrap())),
            Some(_) | None => out.push_str(piece),
        }
    }
    out
}

/// `/pointer`, `Name:line`, `Name`, `line n` or `message`: where each fault lies.
pub(super) fn places(error: &Error) -> Vec<String> {
    let Error::Invalid(faults) = error else { panic!("not Error::Invalid: {error:?}") };
    faults.iter().map(place).collect()
}

fn place(fault: &FieldError) -> String {
    assert!(!fault.detail.is_empty());
    match (&fault.pointer, &fault.header, fault.line) {
        (Some(pointer), None, None) => pointer.clone(),
        (None, Some(name), Some(line)) => format!("{name}:{line}"),
        (None, Some(name), None) => name.clone(),
        (None, None, Some(line)) => format!("line {line}"),
        (None, None, None) => "message".to_owned(),
        other => panic!("a fault in two places: {other:?}"),
    }
}

/// Signs with Ed25519 in all four canonicalizations (as the last step, nothing changes after) and verifies with our own verifier.
pub(super) fn assert_signature_verifies(id: &str, raw: &[u8]) {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use signpost_dkim::canonical::Canonicalization::{Relaxed, Simple};
    use signpost_dkim::sign::{Policy, Signer, prepare};
    use signpost_dkim::verify::{DkimResult, KeyAnswer, Verifier};
    use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain, message::Message};
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let public = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key.public_key());
    let signer = Signer {
        domain: SigningDomain::parse("example.com").unwrap(),
        selector: Selector::parse("s1").unwrap(),
        algorithm: KeyAlgorithm::Ed25519,
    };
    let now = u64::try_from(NOW_MS / 1000).unwrap();
    for (header, body) in [(Simple, Simple), (Simple, Relaxed), (Relaxed, Simple), (Relaxed, Relaxed)] {
        let policy = Policy { header, body, ..Policy::default() };
        let draft = prepare(&Message::parse(raw).unwrap(), &signer, &policy, now).unwrap();
        let signature = key.sign(draft.digest());
        let sent = [draft.finish(signature.as_ref()).as_bytes(), raw].concat();
        let message = Message::parse(&sent).unwrap();
        let answer = |_: &str| KeyAnswer::Text(vec![format!("v=DKIM1; k=ed25519; p={public}")]);
        let results = Verifier::new(&message).verify(&answer, now);
        let ours = results.iter().find(|r| r.selector.as_deref() == Some("s1")).unwrap();
        assert_eq!(ours.result, DkimResult::Pass, "{id}: {:?}", ours.reason);
    }
}
