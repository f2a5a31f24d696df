//! A public key (RFC 6376 3.6.1 p=, RFC 8463 4.2).
use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::signature::{ED25519, ParsedPublicKey, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::der::{self, DerFault, RsaPublicKey};
use crate::names::{KeyAlgorithm, SignatureAlgorithm};
use crate::record::RecordFault;
use crate::tags;

const ED25519_LENGTH: usize = 32;
/// SubjectPublicKeyInfo of Ed25519 up to the key (RFC 8410 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Sizes that verification takes: RFC 8301 3.2 forbids less, aws-lc offers no more.
const RSA_BITS: std::ops::RangeInclusive<u32> = 1024..=8192;

/// A public key, parsed. Equality is equality of the key, not of its encoding.
/// Parsed once for verification as well, so one that is used often is worth keeping.
#[derive(Debug, Clone)]
pub struct PublicKey {
    kind: SignatureAlgorithm,
    /// RSA: SubjectPublicKeyInfo in DER, whatever form it came in. Ed25519: the raw octets.
    der: Vec<u8>,
    bits: u32,
    /// `None` for an RSA size that is never verified with.
    parsed: Option<ParsedPublicKey>,
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.der == other.der
    }
}

impl Eq for PublicKey {}

impl PublicKey {
    /// SubjectPublicKeyInfo DER of an RSA key.
    pub fn from_rsa_spki(der: &[u8]) -> Result<Self, RecordFault> {
        let key = der::rsa_spki(der).map_err(|fault| rsa_fault(der, fault))?;
        Self::from_rsa(&key)
    }

    /// DER is unique, so writing it anew makes both encodings of one key equal.
    fn from_rsa(key: &RsaPublicKey<'_>) -> Result<Self, RecordFault> {
        let leading = key.modulus.first().map_or(0, |d| d.leading_zeros());
        let octets = u32::try_from(key.modulus.len()).unwrap_or(u32::MAX / 8);
        let bits = octets * 8 - leading;
        let der = der::write_rsa_spki(key);
        let parsed = match RSA_BITS.contains(&bits) {
            true => {
                Some(ParsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, &der).map_err(|_| {
                    malformed("p= is not a valid RSA public key; make a new key pair and publish its record")
                })?)
            }
            false => None,
        };
        Ok(Self { kind: SignatureAlgorithm::RsaSha256, der, bits, parsed })
    }

    /// The raw 32 octets of an Ed25519 key.
    pub fn from_ed25519(raw: &[u8]) -> Result<Self, RecordFault> {
        if raw.len() != ED25519_LENGTH {
            return Err(ed25519_fault(raw));
        }
        let parsed = ParsedPublicKey::new(&ED25519, raw).map_err(|_| {
            malformed("p= is not a valid Ed25519 public key; make a new key pair and publish its record")
        })?;
        Ok(Self { kind: SignatureAlgorithm::Ed25519Sha256, der: raw.to_vec(), bits: 256, parsed: Some(parsed) })
    }

    /// The p= value, base64 (RSA: SPKI; Ed25519: raw).
    pub fn to_p(&self) -> String {
        STANDARD.encode(&self.der)
    }

    /// Parses a p= value of that kind; for RSA a bare RSAPublicKey is accepted too (erratum 3017).
    pub fn from_p(kind: SignatureAlgorithm, p: &str) -> Result<Self, RecordFault> {
        let octets = decode_p(kind, p)?;
        match kind {
            SignatureAlgorithm::Ed25519Sha256 => Self::from_ed25519(&octets),
            SignatureAlgorithm::RsaSha256 => match der::rsa_public_key(&octets) {
                Ok(key) => Self::from_rsa(&key),
                Err(_) => Self::from_rsa_spki(&octets),
            },
        }
    }

    /// rsa-sha256 or ed25519-sha256.
    pub fn kind(&self) -> SignatureAlgorithm {
        self.kind
    }

    /// Modulus size, or 256 for Ed25519.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Which of our algorithms this is; `None` for sizes that we do not make.
    pub fn algorithm(&self) -> Option<KeyAlgorithm> {
        match (self.kind, self.bits) {
            (SignatureAlgorithm::Ed25519Sha256, _) => Some(KeyAlgorithm::Ed25519),
            (SignatureAlgorithm::RsaSha256, 2048) => Some(KeyAlgorithm::Rsa2048),
            (SignatureAlgorithm::RsaSha256, 3072) => Some(KeyAlgorithm::Rsa3072),
            (SignatureAlgorithm::RsaSha256, 4096) => Some(KeyAlgorithm::Rsa4096),
            (SignatureAlgorithm::RsaSha256, _) => None,
        }
    }

    /// True iff `signature` is this key's over `digest` (the SHA-256 of the signing input). RSA below 1024 or above 8192 bits is false.
    /// RFC 6376 3.3.2 for RSA; RFC 8463 3 for Ed25519, which signs the digest as its message.
    pub fn verify_digest(&self, digest: &[u8; 32], signature: &[u8]) -> bool {
        let Some(key) = &self.parsed else { return false };
        match self.kind {
            SignatureAlgorithm::RsaSha256 => Digest::import_less_safe(digest, &SHA256)
                .is_ok_and(|digest| key.verify_digest_sig(&digest, signature).is_ok()),
            SignatureAlgorithm::Ed25519Sha256 => key.verify_sig(digest, signature).is_ok(),
        }
    }
}

fn malformed(text: &str) -> RecordFault {
    RecordFault::Malformed(text.to_owned())
}

/// Said wherever a private key stands in DNS. The key itself is never repeated.
pub(crate) fn private_key_published() -> RecordFault {
    malformed(
        "this record holds a PRIVATE key: whoever reads DNS can sign as this domain, so the key is compromised. \
         Remove the record, never use that key again, make a new key pair and publish only the public key",
    )
}

/// RFC 6376 2.10 base64string: white space anywhere in it, padding required.
fn decode_p(kind: SignatureAlgorithm, p: &str) -> Result<Vec<u8>, RecordFault> {
    let upper = p.to_ascii_uppercase();
    if upper.contains("PRIVATE KEY") {
        return Err(private_key_published());
    }
    if upper.contains("-----") {
        return Err(malformed("p= has the BEGIN and END lines of a PEM file; publish only the base64 between them"));
    }
    let p = tags::without_fws(p);
    match STANDARD.decode(&p) {
        Ok(octets) => {
            let pem = octets.starts_with(b"-----BEGIN");
            if pem && octets.windows(11).any(|w| w == b"PRIVATE KEY") || der::begins_like_private_key(&octets) {
                return Err(private_key_published());
            }
            match pem {
                true => Err(malformed(
                    "p= is the base64 of a whole PEM file; publish the base64 that stands inside the file",
                )),
                false => Ok(octets),
            }
        }
        Err(_) => Err(base64_fault(kind, &p)),
    }
}

fn base64_fault(kind: SignatureAlgorithm, p: &str) -> RecordFault {
    let body = p.trim_end_matches('=');
    if let Some(wrong) = body.chars().find(|&c| !c.is_ascii_alphanumeric() && c != '+' && c != '/') {
        return malformed(match wrong {
            '"' => "p= is not base64: it has literal quote characters; remove them",
            '\\' => "p= is not base64: it has a literal backslash; remove it",
            '-' | '_' => "p= is written in base64url; DKIM needs base64 with + and / (RFC 6376 2.10)",
            '=' => "p= is not base64: it has = in the middle; publish the value in one piece",
            _ => "p= is not base64: it has a character that base64 does not know; copy the value again",
        });
    }
    // What is whole of it tells whether the end was cut off.
    let whole = &body[..body.len() / 4 * 4];
    let octets = STANDARD.decode(whole).unwrap_or_default();
    if der::begins_like_private_key(&octets) {
        return private_key_published();
    }
    let cut = match kind {
        SignatureAlgorithm::Ed25519Sha256 => body.len() < ED25519_LENGTH * 8 / 6,
        SignatureAlgorithm::RsaSha256 => {
            matches!(der::rsa_spki(&octets), Err(DerFault::Short { missing }) if missing > 2)
        }
    };
    match cut {
        true => RecordFault::Truncated(cut_text(kind, body.len() / 4 * 3)),
        false => malformed("p= is not base64: its length or its = padding is wrong; copy the whole value again"),
    }
}

fn cut_text(kind: SignatureAlgorithm, found: usize) -> String {
    match kind {
        SignatureAlgorithm::Ed25519Sha256 => {
            format!("it has {found} of the 32 octets of an Ed25519 key; publish the whole value")
        }
        SignatureAlgorithm::RsaSha256 => format!(
            "it has only {found} octets of a longer RSA key; publish the whole value, split into strings of at most 255 characters \
             in one record where the provider asks for that, or use an Ed25519 key beside it"
        ),
    }
}

fn rsa_fault(octets: &[u8], fault: DerFault) -> RecordFault {
    if der::begins_like_private_key(octets) {
        return private_key_published();
    }
    if octets.starts_with(&ED25519_SPKI) || octets.len() == ED25519_LENGTH {
        return malformed(
            "p= holds an Ed25519 key, but the record does not say k=ed25519; publish the record that was given, k= included",
        );
    }
    match fault {
        DerFault::Short { .. } if octets.first() == Some(&0x30) => {
            RecordFault::Truncated(cut_text(SignatureAlgorithm::RsaSha256, octets.len()))
        }
        DerFault::Short { .. } | DerFault::Wrong => {
            malformed("p= is not an RSA public key (SubjectPublicKeyInfo, RFC 6376 3.6.1); copy the whole value again")
        }
    }
}

fn ed25519_fault(octets: &[u8]) -> RecordFault {
    if octets.starts_with(&ED25519_SPKI) {
        let raw = &octets[ED25519_SPKI.len()..];
        return RecordFault::Malformed(format!(
            "p= holds the {}-octet SubjectPublicKeyInfo; it must be the raw 32 octets (RFC 8463 4.2){}",
            octets.len(),
            match raw.len() {
                ED25519_LENGTH => format!(": p={}", STANDARD.encode(raw)),
                _ => String::new(),
            }
        ));
    }
    if der::rsa_spki(octets).is_ok() || der::rsa_public_key(octets).is_ok() {
        return malformed(
            "p= holds an RSA key, but the record says k=ed25519; publish the record that was given, k= included",
        );
    }
    if octets.len() == 2 * ED25519_LENGTH {
        // Seed and public key together are a common file format of the private key.
        return private_key_published();
    }
    match octets.len() < ED25519_LENGTH {
        true => RecordFault::Truncated(cut_text(SignatureAlgorithm::Ed25519Sha256, octets.len())),
        false => RecordFault::Malformed(format!(
            "p= has {} octets; an Ed25519 key is the raw 32 octets (RFC 8463 4.2)",
            octets.len()
        )),
    }
}
