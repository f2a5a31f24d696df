//! Looks for secrets where none may be: raw and in every spelling that a careless log line or column would give them.
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::fmt::Write as _;

/// A secret, or the unmistakable beginning of one, to look for.
#[derive(Debug, Clone)]
pub struct Needle {
    /// What it is, for people. Never the secret itself.
    pub name: String,
    /// Made once: a long run looks through tens of thousands of answers.
    spellings: Vec<(&'static str, Vec<u8>)>,
}

/// A secret that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The needle's name.
    pub secret: String,
    /// In which spelling.
    pub spelling: &'static str,
    /// Offset of the first.
    pub at: usize,
}

impl Needle {
    /// At least eight octets: anything shorter would be found by chance.
    pub fn new(name: impl Into<String>, octets: impl Into<Vec<u8>>) -> Self {
        let (name, octets) = (name.into(), octets.into());
        assert!(octets.len() >= 8, "{name} is too short to be looked for");
        Self { name, spellings: Self::spell(&octets) }
    }

    fn spell(octets: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let hex = octets.iter().fold(String::new(), |mut text, octet| {
            let _ = write!(text, "{octet:02x}");
            text
        });
        let decimal: Vec<String> = octets.iter().map(ToString::to_string).collect();
        let mut all = vec![
            ("raw", octets.to_vec()),
            ("hex", hex.clone().into_bytes()),
            ("upper-case hex", hex.to_uppercase().into_bytes()),
            ("list of numbers", decimal.join(", ").into_bytes()),
            ("JSON list of numbers", decimal.join(",").into_bytes()),
        ];
        // Base64 spells the same octets in three ways, by their offset in what was encoded; its edges depend on the neighbours.
        for offset in 0..3 {
            let mut shifted = vec![0_u8; offset];
            shifted.extend_from_slice(octets);
            let (first, whole) = (if offset == 0 { 0 } else { offset + 1 }, shifted.len() / 3 * 4);
            all.push(("base64", STANDARD_NO_PAD.encode(&shifted)[first..whole].into()));
            all.push(("base64url", URL_SAFE_NO_PAD.encode(&shifted)[first..whole].into()));
        }
        all
    }
}

/// What every encoding of a private key of ours begins with or holds, whatever the key.
pub fn private_key_needles() -> Vec<Needle> {
    // PKCS#8 (RFC 5958): version, AlgorithmIdentifier, the head of the OCTET STRING.
    let rsa = b"\x02\x01\x00\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x04\x82";
    let ed25519 = b"\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    // RSAPrivateKey (RFC 8017 A.1.2): version 0, then a modulus of 2048, 3072 or 4096 bits. A public key has no version.
    let mut needles = vec![
        Needle::new("PKCS#8 of an RSA key", rsa.to_vec()),
        Needle::new("PKCS#8 of an Ed25519 key", ed25519.to_vec()),
        Needle::new("PEM of a private key", b"PRIVATE KEY-----".to_vec()),
    ];
    for (bits, length) in [(2048, [0x01, 0x01]), (3072, [0x01, 0x81]), (4096, [0x02, 0x01])] {
        let mut octets = vec![0x02, 0x01, 0x00, 0x02, 0x82];
        octets.extend_from_slice(&length);
        octets.push(0x00);
        needles.push(Needle::new(format!("RSAPrivateKey of {bits} bits"), octets));
    }
    needles
}

/// Every needle that is in `haystack`, in whatever spelling.
pub fn search(haystack: &[u8], needles: &[Needle]) -> Vec<Found> {
    let mut found = Vec::new();
    for needle in needles {
        for (spelling, octets) in &needle.spellings {
            if let Some(at) = memchr::memmem::find(haystack, octets) {
                found.push(Found { secret: needle.name.clone(), spelling, at });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_secret_is_found_in_every_spelling_and_at_every_offset() {
        let secret: Vec<u8> = (100..132).collect();
        let needles = [Needle::new("it", secret.clone())];
        for before in 0..4 {
            let mut octets = vec![7_u8; before];
            octets.extend_from_slice(&secret);
            octets.extend_from_slice(b"after");
            let decimal: Vec<String> = octets.iter().map(ToString::to_string).collect();
            for text in [
                octets.clone(),
                STANDARD_NO_PAD.encode(&octets).into_bytes(),
                URL_SAFE_NO_PAD.encode(&octets).into_bytes(),
                format!("{octets:?}").into_bytes(),
                decimal.join(",").into_bytes(),
                octets.iter().map(|o| format!("{o:02x}")).collect::<String>().into_bytes(),
                octets.iter().map(|o| format!("{o:02X}")).collect::<String>().into_bytes(),
            ] {
                assert!(!search(&text, &needles).is_empty(), "{:?}", String::from_utf8_lossy(&text));
            }
        }
        assert_eq!(search(b"nothing of the kind", &needles), []);
    }

    #[test]
    fn private_keys_are_told_from_public_ones() {
        use aws_lc_rs::encoding::AsDer;
        use aws_lc_rs::rsa::{KeyPair, KeySize};
        use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
        let needles = private_key_needles();
        let rsa = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = rsa.as_der().unwrap();
        assert!(!search(private.as_ref(), &needles).is_empty());
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
        assert_eq!(search(public.as_ref(), &needles), []);
        let ed25519 = Ed25519KeyPair::generate().unwrap();
        assert!(!search(ed25519.to_pkcs8().unwrap().as_ref(), &needles).is_empty());
        assert_eq!(search(ed25519.public_key().as_ref(), &needles), []);
    }
}
