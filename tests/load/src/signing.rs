//! A message of 2 KB signed by the engine: octets in, finished field out, without self-verification.
use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256, SigningKey};
use mail_auth::common::headers::HeaderWriter as _;
use mail_auth::dkim::{DkimSigner, Done};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use signpost_dkim::message::Message;
use signpost_dkim::record::PublicKey;
use signpost_dkim::sign::{Policy, Signer, prepare};
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};

use crate::meter::speeds;
use crate::report::Comparison;
use crate::{Result, texts};

/// Seconds since the epoch; any will do.
const NOW: u64 = 1_750_000_000;

/// (a): against `openssl speed rsa2048`, which counts CPU time too.
pub(crate) fn rsa(rounds: usize) -> Result<()> {
    let message = texts::message_2_kb();
    let policy = Policy::default();
    let signer = signer(KeyAlgorithm::Rsa2048)?;
    let key = RsaKeyPair::generate(KeySize::Rsa2048)?;
    let pkcs8: Pkcs8V1Der<'_> = key.as_der()?;
    let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_ref());
    let other = other_signer(RsaKey::<Sha256>::from_key_der(PrivateKeyDer::Pkcs8(pkcs8))?, &policy);
    let sign = |digest: &[u8; 32]| rsa_signature(&key, digest);
    let mut results = Vec::new();
    for _ in 0..rounds {
        let reference = openssl_speed()?;
        let mut round = speeds(&mut [
            &mut || kept(field(black_box(&message), &signer, &policy, &sign)?),
            &mut || kept(sign(black_box(&[7; 32]))?),
            &mut || kept(other.sign(black_box(&message))?.to_header()),
        ])?;
        round.insert(1, reference);
        results.push(round);
    }
    Comparison {
        title: "(a) engine, RSA-2048, 2 KB; signatures a second of CPU time",
        columns: &["signpost", "openssl speed rsa2048", "bare key operation", "mail-auth"],
        reference: 1,
        goal: 0.95,
        digits: 0,
    }
    .print(&results)
}

/// (b): against mail-auth, which signs the same names with the same key.
pub(crate) fn ed25519(rounds: usize) -> Result<()> {
    let message = texts::message_2_kb();
    let policy = Policy::default();
    let signer = signer(KeyAlgorithm::Ed25519)?;
    let pkcs8 = Ed25519Key::generate_pkcs8()?;
    let key = Ed25519KeyPair::from_pkcs8(&pkcs8)?;
    let other = other_signer(Ed25519Key::from_pkcs8_der(&pkcs8)?, &policy);
    let sign = |digest: &[u8; 32]| Ok(key.sign(digest).as_ref().to_vec());
    let mut results = Vec::new();
    for _ in 0..rounds {
        results.push(speeds(&mut [
            &mut || kept(field(black_box(&message), &signer, &policy, &sign)?),
            &mut || kept(other.sign(black_box(&message))?.to_header()),
            &mut || kept(sign(black_box(&[7; 32]))?),
        ])?);
    }
    Comparison {
        title: "(b) engine, Ed25519, 2 KB; signatures a second of CPU time",
        columns: &["signpost", "mail-auth", "bare key operation"],
        reference: 1,
        goal: 1.0,
        digits: 0,
    }
    .print(&results)
}

/// Keeps the compiler from leaving out work whose result nobody reads.
fn kept<T>(result: T) -> Result<()> {
    black_box(result);
    Ok(())
}

/// The whole work of the engine for one message.
fn field(raw: &[u8], signer: &Signer, policy: &Policy, sign: &impl Fn(&[u8; 32]) -> Result<Vec<u8>>) -> Result<String> {
    let draft = prepare(&Message::parse(raw)?, signer, policy, NOW)?;
    let signature = sign(draft.digest())?;
    Ok(draft.finish(&signature))
}

fn signer(algorithm: KeyAlgorithm) -> Result<Signer> {
    Ok(Signer { domain: SigningDomain::parse("example.com")?, selector: Selector::parse("s2025a")?, algorithm })
}

/// mail-auth for the same names: it lists each of them, present or not.
fn other_signer<K: SigningKey>(key: K, policy: &Policy) -> DkimSigner<K, Done> {
    let names = policy.oversigned.iter().chain(&policy.signed).cloned();
    DkimSigner::from_key(key)
        .domain("example.com")
        .selector("s2025a")
        .headers(names)
        .header_canonicalization(mail_auth::dkim::Canonicalization::Relaxed)
        .body_canonicalization(mail_auth::dkim::Canonicalization::Relaxed)
}

fn rsa_signature(key: &RsaKeyPair, digest: &[u8; 32]) -> Result<Vec<u8>> {
    let mut signature = vec![0; key.public_modulus_len()];
    let digest = Digest::import_less_safe(digest, &SHA256)?;
    key.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature)?;
    Ok(signature)
}

/// Signatures a second that OpenSSL claims for itself.
fn openssl_speed() -> Result<f64> {
    openssl_rsa2048(&["-seconds", "1"])
}

/// `openssl speed ... rsa2048`: signatures a second.
pub(crate) fn openssl_rsa2048(options: &[&str]) -> Result<f64> {
    let output = Command::new("openssl")
        .arg("speed")
        .args(options)
        .arg("rsa2048")
        .output()
        .map_err(|e| format!("openssl speed rsa2048 cannot be run: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("rsa") && line.contains(" 2048 bits"));
    let number = line.and_then(|line| line.split_whitespace().nth_back(1));
    number
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| format!("no sign/s in what openssl speed printed: {text:?}").into())
}

/// Makes one signature.
type Signing<'a> = dyn Fn() -> Result<Vec<u8>> + 'a;

/// CPU time of one signature and of one verification, by the library that the server calls.
pub(crate) fn key_costs(algorithm: KeyAlgorithm) -> Result<(Duration, Duration)> {
    let digest = [7; 32];
    let rsa;
    let ed25519;
    let (public, sign): (PublicKey, Box<Signing<'_>>) = if algorithm == KeyAlgorithm::Ed25519 {
        ed25519 = Ed25519KeyPair::from_pkcs8(&Ed25519Key::generate_pkcs8()?)?;
        let public = PublicKey::from_ed25519(ed25519.public_key().as_ref())?;
        (public, Box::new(|| Ok(ed25519.sign(&digest).as_ref().to_vec())))
    } else {
        rsa = RsaKeyPair::generate(KeySize::Rsa2048)?;
        let spki: PublicKeyX509Der<'_> = rsa.public_key().as_der()?;
        let public = PublicKey::from_rsa_spki(spki.as_ref())?;
        (public, Box::new(|| rsa_signature(&rsa, &digest)))
    };
    let signature = sign()?;
    let speeds = speeds(&mut [&mut || kept(sign()?), &mut || match public.verify_digest(&digest, &signature) {
        true => Ok(()),
        false => Err("a signature does not verify".into()),
    }])?;
    Ok((Duration::from_secs_f64(1.0 / speeds[0]), Duration::from_secs_f64(1.0 / speeds[1])))
}
