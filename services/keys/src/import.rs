//! Private keys that were made elsewhere: read from whatever form people have them in, and vetted before they are sealed.
//!
//! Nothing of a key is ever part of a fault.
use crate::signing_key::{self, SigningKey};
use crate::{CustodyError, vet};
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rsa::pkcs1::{RsaPrivateKeyRef, RsaPublicKeyRef};
use rsa::pkcs8::der::Decode as _;
use rsa::pkcs8::der::asn1::OctetStringRef;
use rsa::pkcs8::{EncodePrivateKey as _, ObjectIdentifier, PrivateKeyInfoRef, SubjectPublicKeyInfoRef};
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::record::PublicKey;
use std::fmt;
use zeroize::Zeroizing;

/// Longest text that is looked at, in octets: an RSA key of 4096 bits has 3,300 in PEM, and 4,400 in base64 of that.
const TEXT_MAX: usize = 16_384;
const ED25519_SEED: usize = 32;
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// The arcs of PKCS#5 (RFC 8018 A) and of the PKCS#12 schemes (RFC 7292 C), below which every password-based encryption is named.
const ENCRYPTION_ARCS: [&[u8]; 2] = [b"\x2a\x86\x48\x86\xf7\x0d\x01\x05", b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01"];
/// White space is gone when it decodes, and padding is often lost with it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a key is not taken. The text says what is wrong and how to mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum ImportFault {
    #[error("the private key is empty; send it as PEM, or as base64 of its DER form or, for Ed25519, of its seed")]
    Empty,
    #[error("the text is longer than {TEXT_MAX} octets; send one private key and nothing else")]
    TooLong,
    #[error(
        "this is no private key: neither PEM with the label `PRIVATE KEY` or `RSA PRIVATE KEY` nor base64 of a key in PKCS#8, PKCS#1 or an Ed25519 seed"
    )]
    NoKey,
    #[error(
        "what stands between the BEGIN and the END line is not base64: the key was cut or changed on its way; copy the whole file again"
    )]
    NotBase64,
    #[error("the PEM has a BEGIN line without its END line: the key was cut; copy the whole file again")]
    Unfinished,
    #[error(
        "the private key is damaged or cut: it is not the DER form of one key (RFC 5958, RFC 8017 A.1.2); copy the whole file again"
    )]
    Damaged,
    #[error("there is more than one private key in the text; send the one that is to sign")]
    Several,
    #[error("this is a public key; the private key of the pair is needed, which the public one does not hold")]
    Public,
    #[error("this is a certificate or a request for one, which holds no private key; send the private key of the pair")]
    Certificate,
    #[error(
        "the private key is encrypted with a passphrase; decrypt it first, `openssl pkey -in encrypted.pem -out key.pem`, and send key.pem"
    )]
    Encrypted,
    #[error(
        "this is a key in OpenSSH's own format; convert a copy with `ssh-keygen -p -N '' -m PEM -f copy` (RSA), or make a new key for DKIM"
    )]
    OpenSsh,
    #[error("this is an elliptic-curve (ECDSA) key; DKIM signs with RSA or Ed25519 (RFC 6376 3.3, RFC 8463)")]
    EllipticCurve,
    #[error(
        "this RSA key is restricted to PSS signatures; DKIM signs with PKCS#1 v1.5 (RFC 6376 3.3.1): send an unrestricted key"
    )]
    OnlyPss,
    #[error(
        "this is a private key of a kind that DKIM does not sign with; RSA or Ed25519 is needed (RFC 6376 3.3, RFC 8463)"
    )]
    OtherKind,
    #[error("an Ed25519 private key has 32 octets (the seed) or 64 (the seed, then the public key); this one has {0}")]
    Ed25519Length(usize),
    #[error(
        "the public half that stands beside the Ed25519 seed is not that of the seed: the key was changed on its way, or these are two keys"
    )]
    Halves,
    #[error(
        "this RSA key has more than two primes (RFC 8017 3.2), which signers and libraries support badly; make one with two"
    )]
    MultiPrime,
    #[error("the RSA key has {0} bits; at least 2048 are needed (RFC 8301 3.2)")]
    TooSmall(u32),
    #[error("the RSA key has {0} bits; keys of 2048, 3072 and 4096 bits are taken")]
    Size(u32),
    #[error("the public exponent of the RSA key is even; no such key exists")]
    EvenExponent,
    #[error("the public exponent of the RSA key is not between 3 and 2^32; use 65537")]
    ExponentRange,
    #[error("a number of the RSA key has a small factor, so that everybody can find the private key; make a new one")]
    SmallFactor,
    #[error(
        "the two primes of the RSA key differ in length, so that its security is that of the shorter one; make a new one"
    )]
    Unbalanced,
    #[error(
        "the RSA key is not consistent: its modulus is not the product of its primes; it was damaged, or put together from two keys"
    )]
    Product,
    #[error(
        "the RSA key is not consistent: its private exponent does not belong to its public one; it was damaged, or put together from two keys"
    )]
    Exponents,
    #[error("a factor of the RSA key is not prime; make a new one")]
    NotPrime,
    #[error(
        "the two primes of the RSA key lie so close together that Fermat's method finds them from the public key alone; make a new one"
    )]
    Close,
    #[error(
        "the RSA key has the fingerprint of ROCA (CVE-2017-15361): it was made by a faulty smart card or TPM, and can be computed from its public half; make a new one elsewhere"
    )]
    Roca,
    #[error(
        "the key, or a prime of it, is in use here already, or was; whoever holds the other one could sign for this domain: make a new key"
    )]
    Known,
}

/// Why a key was not read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The key is at fault.
    #[error(transparent)]
    Fault(#[from] ImportFault),
    /// We are.
    #[error(transparent)]
    Custody(#[from] CustodyError),
}

/// A private key that was read and vetted, not stored yet. Wiped on drop.
pub struct ImportedKey {
    algorithm: KeyAlgorithm,
    /// Written anew from what was vetted: nothing else of the original goes into the store.
    pub(crate) pkcs8: Zeroizing<Vec<u8>>,
    public_key: PublicKey,
    rsa: Option<rsa::PrivateKey>,
}

impl ImportedKey {
    /// Reads PEM (RFC 7468), or base64, of PKCS#8 (RFC 5958), PKCS#1 (RFC 8017 A.1.2) or Ed25519's octets, and vets what it finds.
    /// Slow for RSA: never on an async worker.
    pub(crate) fn read(text: &str) -> Result<Self, ImportFault> {
        match form(&octets(text)?)? {
            Form::Ed25519(pkcs8) => Self::of(KeyAlgorithm::Ed25519, pkcs8, None),
            Form::Rsa(der) => {
                let (algorithm, key) = vet::rsa(&der)?;
                let pkcs8 = key.to_pkcs8_der().map_err(|_| ImportFault::Damaged)?.to_bytes();
                Self::of(algorithm, pkcs8, Some(key))
            }
        }
    }

    fn of(
        algorithm: KeyAlgorithm,
        pkcs8: Zeroizing<Vec<u8>>,
        rsa: Option<rsa::PrivateKey>,
    ) -> Result<Self, ImportFault> {
        // What signs has the last word on what it can sign with.
        let public_key = SigningKey::from_pkcs8(algorithm, &pkcs8).and_then(|key| key.public_key());
        let public_key = public_key.map_err(|_| ImportFault::Damaged)?;
        Ok(Self { algorithm, pkcs8, public_key, rsa })
    }

    /// Kind and size.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The public half, computed from the private one.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// True if the RSA key whose p= this is has a factor in common with this one, be it the whole modulus. False for Ed25519.
    pub fn shares_a_factor_with(&self, p: &str) -> bool {
        self.rsa.as_ref().is_some_and(|key| vet::shares_a_factor(key, p))
    }
}

impl fmt::Debug for ImportedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportedKey").field("public_key", &self.public_key).finish_non_exhaustive()
    }
}

enum Form {
    /// RSAPrivateKey in DER, not looked at yet.
    Rsa(Zeroizing<Vec<u8>>),
    /// PKCS#8, written by us.
    Ed25519(Zeroizing<Vec<u8>>),
}

/// The octets of the one private key in the text.
fn octets(text: &str) -> Result<Zeroizing<Vec<u8>>, ImportFault> {
    if text.len() > TEXT_MAX {
        return Err(ImportFault::TooLong);
    }
    let text = compact(text);
    if text.is_empty() {
        return Err(ImportFault::Empty);
    }
    if text.contains("-----BEGIN") {
        return decode(private_block(&text)?, ImportFault::NotBase64);
    }
    let octets = decode(&text, ImportFault::NoKey)?;
    // A whole PEM file in base64, as secrets often travel.
    match std::str::from_utf8(&octets) {
        Ok(inner) if inner.contains("-----BEGIN") => decode(private_block(&compact(inner))?, ImportFault::NotBase64),
        Ok(_) | Err(_) => Ok(octets),
    }
}

/// The text without white space: line ends (LF, CRLF, none, or the two characters `\n`) carry no meaning in PEM (RFC 7468 3), and
/// environment variables, JSON and forms lose or escape them. Quotes around it go too.
fn compact(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\\' {
            // `\n`, or `\\n` where it was escaped twice.
            while chars.next_if_eq(&'\\').is_some() {}
            chars.next_if(|c| matches!(c, 'n' | 'r' | 't'));
        } else if !c.is_whitespace() && !matches!(c, '"' | '\'' | '\u{feff}') {
            out.push(c);
        }
    }
    out
}

/// What stands between the BEGIN and END lines of the only private key; `text` is compact.
fn private_block(text: &str) -> Result<&str, ImportFault> {
    let mut found = None;
    let mut other = None;
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN") {
        let (label, after) = after.split_once("-----").ok_or(ImportFault::Unfinished)?;
        let (body, after) = after.split_once("-----END").ok_or(ImportFault::Unfinished)?;
        let (_, after) = after.split_once("-----").ok_or(ImportFault::Unfinished)?;
        rest = after;
        match refused_label(label) {
            Some(fault) => other = other.or(Some(fault)),
            None if found.is_some() => return Err(ImportFault::Several),
            None => found = Some(body),
        }
    }
    let body = found.ok_or(other.unwrap_or(ImportFault::NoKey))?;
    // RFC 1421 4.6.1: header fields (Proc-Type, DEK-Info) stand before an encrypted body.
    if body.contains(':') { Err(ImportFault::Encrypted) } else { Ok(body) }
}

/// `None` for a label that can be a private key's; its spaces are gone.
fn refused_label(label: &str) -> Option<ImportFault> {
    match label {
        "PRIVATEKEY" | "RSAPRIVATEKEY" => None,
        "ENCRYPTEDPRIVATEKEY" => Some(ImportFault::Encrypted),
        "OPENSSHPRIVATEKEY" => Some(ImportFault::OpenSsh),
        "ECPRIVATEKEY" => Some(ImportFault::EllipticCurve),
        "PUBLICKEY" | "RSAPUBLICKEY" | "SSH2PUBLICKEY" => Some(ImportFault::Public),
        "CERTIFICATE" | "X509CERTIFICATE" | "TRUSTEDCERTIFICATE" | "CERTIFICATEREQUEST" | "NEWCERTIFICATEREQUEST" => {
            Some(ImportFault::Certificate)
        }
        _ if label.ends_with("PRIVATEKEY") => Some(ImportFault::OtherKind),
        _ => Some(ImportFault::NoKey),
    }
}

fn decode(text: &str, fault: ImportFault) -> Result<Zeroizing<Vec<u8>>, ImportFault> {
    // Large enough from the start, so that growing leaves no copy behind.
    let mut octets = Zeroizing::new(Vec::with_capacity(text.len()));
    // The decoder's own error names the offending octet, which may be part of a key.
    BASE64.decode_vec(text, &mut octets).map_err(|_| fault)?;
    Ok(octets)
}

/// What the octets are; the label of a PEM is not believed.
fn form(octets: &[u8]) -> Result<Form, ImportFault> {
    if octets.len() == ED25519_SEED || octets.len() == 2 * ED25519_SEED {
        return ed25519(octets, None);
    }
    if let Ok(info) = PrivateKeyInfoRef::from_der(octets) {
        return of_pkcs8(&info);
    }
    if RsaPrivateKeyRef::from_der(octets).is_ok() {
        return Ok(Form::Rsa(Zeroizing::new(octets.to_vec())));
    }
    if octets.first() != Some(&0x30) {
        return Err(if octets.len() <= 4 * ED25519_SEED {
            ImportFault::Ed25519Length(octets.len())
        } else {
            ImportFault::NoKey
        });
    }
    let head = octets.get(..octets.len().min(32)).unwrap_or_default();
    if ENCRYPTION_ARCS.iter().any(|arc| head.windows(arc.len()).any(|window| window == *arc)) {
        return Err(ImportFault::Encrypted);
    }
    if SubjectPublicKeyInfoRef::from_der(octets).is_ok() || RsaPublicKeyRef::from_der(octets).is_ok() {
        return Err(ImportFault::Public);
    }
    Err(ImportFault::Damaged)
}

/// RFC 5958 2.
fn of_pkcs8(info: &PrivateKeyInfoRef<'_>) -> Result<Form, ImportFault> {
    match info.algorithm.oid {
        RSA => Ok(Form::Rsa(Zeroizing::new(info.private_key.as_bytes().to_vec()))),
        // RFC 8410 7: the seed is an OCTET STRING inside the OCTET STRING.
        ED25519 => {
            let inner = <&OctetStringRef>::from_der(info.private_key.as_bytes()).map_err(|_| ImportFault::Damaged)?;
            let public = info.public_key.as_ref().and_then(|bits| bits.as_bytes());
            ed25519(inner.as_bytes(), public)
        }
        RSA_PSS => Err(ImportFault::OnlyPss),
        EC => Err(ImportFault::EllipticCurve),
        _ => Err(ImportFault::OtherKind),
    }
}

/// A seed, or a seed with its public key after it; `public`: the public key that stood elsewhere.
fn ed25519(octets: &[u8], public: Option<&[u8]>) -> Result<Form, ImportFault> {
    let (seed, after) = octets.split_at_checked(ED25519_SEED).ok_or(ImportFault::Ed25519Length(octets.len()))?;
    if !after.is_empty() && after.len() != ED25519_SEED {
        return Err(ImportFault::Ed25519Length(octets.len()));
    }
    for claimed in [(!after.is_empty()).then_some(after), public].into_iter().flatten() {
        Ed25519KeyPair::from_seed_and_public_key(seed, claimed).map_err(|_| ImportFault::Halves)?;
    }
    Ok(Form::Ed25519(signing_key::ed25519_pkcs8(seed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_and_quotes_carry_no_meaning() {
        for text in ["a b", "a\r\nb\r\n", "a\\nb", "a\\\\nb", "\"a\\r\\nb\"", "'ab'", "\u{feff}a\tb", "a\\\nb"] {
            assert_eq!(compact(text).as_str(), "ab", "{text:?}");
        }
    }

    #[test]
    fn no_text_of_a_fault_depends_on_the_key() {
        // Faults are values that hold lengths at most: there is nowhere for a key to be.
        assert!(size_of::<ImportFault>() <= 2 * size_of::<usize>());
    }
}
