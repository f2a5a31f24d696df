//! Signing, asking the three judges, and counting what they said.
use crate::changes::{Change, Dice};
use crate::faults::{Fault, Judge};
use crate::naive::{Form, Parts, Relaxed};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use signpost_dkim::canonical::{BodyHasher, Canonicalization};
use signpost_dkim::message::Message;
use signpost_dkim::public_key::PublicKey;
use signpost_dkim::sign::{Draft, Policy, Signer, prepare, prepare_streamed};
use signpost_dkim::verify::DkimResult;
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain, record};
use signpost_it::{DkimPy, MailAuthJudge, TxtRecords, our_verdict};
use std::collections::BTreeMap;

pub(crate) const CANONICALIZATIONS: [Relaxed; 4] = [
    Relaxed { header: false, body: false },
    Relaxed { header: false, body: true },
    Relaxed { header: true, body: false },
    Relaxed { header: true, body: true },
];

/// t= of every signature, so that a run is the same on every day.
const SIGNED_AT: u64 = 1_700_000_000;
pub(crate) const DOMAIN: &str = "football.test";

pub(crate) struct Bench {
    rsa: RsaKeyPair,
    ed25519: Ed25519KeyPair,
    pub(crate) txt: TxtRecords,
    dkimpy: DkimPy,
    mail_auth: MailAuthJudge,
    pub(crate) tally: Tally,
}

/// How often what was said.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) letters: usize,
    /// By algorithm.
    pub(crate) signatures: BTreeMap<&'static str, usize>,
    /// By kind of change: form altered, form kept.
    pub(crate) changes: BTreeMap<Change, [usize; 2]>,
    /// Unchanged messages on which all three said pass.
    pub(crate) unanimous: usize,
    /// Messages that had to pass and that a judge refused by a fault of its own.
    pub(crate) refused_by_fault: BTreeMap<Fault, usize>,
    /// Messages that must not pass and that a judge passed by a fault of its own.
    pub(crate) passed_by_fault: BTreeMap<Fault, usize>,
    /// Letters by what is odd about them.
    pub(crate) features: BTreeMap<&'static str, usize>,
    pub(crate) verdicts: usize,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let ed25519 = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let spki = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(rsa.public_key()).unwrap();
        let keys = [
            ("r", PublicKey::from_rsa_spki(spki.as_ref()).unwrap()),
            ("e", PublicKey::from_ed25519(ed25519.public_key().as_ref()).unwrap()),
        ];
        let txt = keys.iter().map(|(s, key)| (format!("{s}._domainkey.{DOMAIN}"), record::build(key))).collect();
        Self { rsa, ed25519, txt, dkimpy: DkimPy::start(), mail_auth: MailAuthJudge::new(), tally: Tally::default() }
    }

    /// The signed message: our field on top of the octets, signed by `policy` under another canonicalization. Fails where whole
    /// and streamed preparation, or ours and the plain canonicalization, see different octets.
    pub(crate) fn sign(
        &mut self,
        octets: &[u8],
        policy: Policy,
        relaxed: Relaxed,
        algorithm: KeyAlgorithm,
        dice: &mut Dice,
    ) -> Result<Parts, String> {
        let message = Message::parse(octets).map_err(|e| format!("the letter is not read: {e}"))?;
        let policy = Policy { header: named(relaxed.header), body: named(relaxed.body), ..policy };
        let selector = Selector::parse(if algorithm == KeyAlgorithm::Ed25519 { "e" } else { "r" }).unwrap();
        let signer = Signer { domain: SigningDomain::parse(DOMAIN).unwrap(), selector, algorithm };
        let draft = prepare(&message, &signer, &policy, SIGNED_AT).map_err(|e| format!("not signed: {e}"))?;
        let streamed = streamed(&message, &signer, &policy, dice);
        if streamed.digest() != draft.digest() {
            return Err("a body in chunks gives another signing input than the whole body".to_owned());
        }
        let expected = *draft.digest();
        *self.tally.signatures.entry(algorithm.as_str()).or_default() += 1;
        let field = draft.finish(&self.signature(algorithm, &expected));
        if let Some(long) = field.lines().find(|line| line.len() > 78 && line.split_whitespace().count() > 1) {
            return Err(format!("a line of the signature field is longer than 78: {long}"));
        }
        let signed = Parts::of(&[field.as_bytes(), octets].concat());
        let form = signed.form(relaxed);
        if digest(&SHA256, &form.header).as_ref() != expected {
            return Err(format!("other octets are signed than these: b\"{}\"", form.header.escape_ascii()));
        }
        if !field.contains(&format!(" bh={};", STANDARD.encode(digest(&SHA256, &form.body)))) {
            return Err(format!("bh= is not the hash of b\"{}\"", form.body.escape_ascii()));
        }
        Ok(signed)
    }

    fn signature(&self, algorithm: KeyAlgorithm, digest: &[u8; 32]) -> Vec<u8> {
        if algorithm == KeyAlgorithm::Ed25519 {
            return self.ed25519.sign(digest).as_ref().to_vec();
        }
        let digest = aws_lc_rs::digest::Digest::import_less_safe(digest, &SHA256).unwrap();
        let mut signature = vec![0; self.rsa.public_modulus_len()];
        self.rsa.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature).unwrap();
        signature
    }

    /// Asks all three; fails where one says pass that should not, or the reverse. True if all three said what they had to.
    pub(crate) fn judge(&mut self, octets: &[u8], must_pass: bool, relaxed: Relaxed) -> Result<bool, String> {
        let message = Parts::of(octets);
        let mut is_unanimous = true;
        for (judge, passes, said) in self.ask(octets) {
            self.tally.verdicts += 1;
            let fault = Fault::ALL.into_iter().find(|f| f.judge() == judge && f.shows_in(&message, relaxed));
            let expected = match fault {
                Some(fault) if must_pass => {
                    *self.tally.refused_by_fault.entry(fault).or_default() += 1;
                    false
                }
                Some(fault) if passes && fault.hides_changes() => {
                    *self.tally.passed_by_fault.entry(fault).or_default() += 1;
                    true
                }
                Some(_) | None => must_pass,
            };
            is_unanimous &= passes == must_pass;
            if passes != expected {
                let why = fault.map_or(String::new(), |fault| format!(" ({fault:?} shows here)"));
                return Err(format!(
                    "{judge:?} says {said}{why}; pass expected: {expected}; on b\"{}\"",
                    octets.escape_ascii()
                ));
            }
        }
        Ok(is_unanimous)
    }

    /// For each judge whether any signature passes, and its words.
    pub(crate) fn ask(&mut self, octets: &[u8]) -> [(Judge, bool, String); 3] {
        let (dkimpy, reasons) = self.dkimpy.verify_with_reasons(octets, &self.txt);
        let mail_auth = self.mail_auth.verify(octets, &self.txt);
        let ours = our_verdict(octets, &self.txt);
        [
            (Judge::DkimPy, dkimpy.contains(&true), format!("{dkimpy:?} {reasons}")),
            (Judge::MailAuth, mail_auth.iter().any(|(_, _, word)| *word == "pass"), format!("{mail_auth:?}")),
            (Judge::Ours, ours.iter().any(|v| v.result == DkimResult::Pass), format!("{ours:?}")),
        ]
    }

    /// Changes the signed message and judges it. `None`: there was nothing to change so.
    pub(crate) fn change(
        &mut self,
        change: Change,
        signed: &Parts,
        form: &Form,
        relaxed: Relaxed,
        dice: &mut Dice,
    ) -> Result<Option<bool>, String> {
        let Some(octets) = change.apply(signed, dice) else { return Ok(None) };
        let is_kept = Parts::of(&octets).form(relaxed) == *form;
        self.tally.changes.entry(change).or_default()[usize::from(is_kept)] += 1;
        self.judge(&octets, is_kept, relaxed).map_err(|e| {
            format!("{change:?} under {relaxed:?}, form {}: {e}", if is_kept { "kept" } else { "altered" })
        })?;
        Ok(Some(is_kept))
    }
}

fn named(relaxed: bool) -> Canonicalization {
    if relaxed { Canonicalization::Relaxed } else { Canonicalization::Simple }
}

/// The body in chunks cut anywhere: single octets, empty chunks, large ones.
fn streamed(message: &Message<'_>, signer: &Signer, policy: &Policy, dice: &mut Dice) -> Draft {
    let mut hasher = BodyHasher::new(policy.body, None);
    let largest = dice.pick(&[2, 3, 10, 200, 5_000]);
    let mut rest = message.body;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(dice.below(largest).min(rest.len()));
        hasher.update(chunk);
        rest = after;
    }
    prepare_streamed(message, &hasher.finish(), signer, policy, SIGNED_AT).unwrap()
}
