//! A private key, parsed and ready to sign.
use crate::random::CryptoRandom;
use crate::{CustodyError, KeyBinding, Random, StoredKey};
use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use rsa::pkcs8::EncodePrivateKey as _;
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::record::PublicKey;
use std::fmt;
use zeroize::Zeroizing;

/// PKCS#8 (RFC 8410 7) around a 32-octet Ed25519 seed: version 0, OID 1.3.101.112, the seed as nested OCTET STRING.
const ED25519_PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Parsed by aws-lc, which keeps the private parts in its own memory and wipes them when freed.
pub(crate) enum SigningKey {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Makes a private key, as PKCS#8 DER (RFC 5958). Slow for RSA: never on an async worker.
pub(crate) fn generate(rng: &dyn Random, algorithm: KeyAlgorithm) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
    match algorithm {
        KeyAlgorithm::Rsa2048 => generate_rsa(rng, 2048),
        KeyAlgorithm::Rsa3072 => generate_rsa(rng, 3072),
        KeyAlgorithm::Rsa4096 => generate_rsa(rng, 4096),
        KeyAlgorithm::Ed25519 => {
            let mut seed = Zeroizing::new([0; 32]);
            rng.fill(seed.as_mut_slice());
            Ok(ed25519_pkcs8(seed.as_slice()))
        }
    }
}

/// PKCS#8 DER around a seed of 32 octets.
pub(crate) fn ed25519_pkcs8(seed: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut pkcs8 = Zeroizing::new(Vec::with_capacity(ED25519_PKCS8_HEAD.len() + seed.len()));
    pkcs8.extend_from_slice(&ED25519_PKCS8_HEAD);
    pkcs8.extend_from_slice(seed);
    pkcs8
}

/// What the test signature of a fresh key is over; any 32 octets serve.
const TEST_DIGEST: [u8; 32] = *b"signpost: test of a new key pair";

/// A new key signs once: what is published verifies it.
pub(crate) fn prove(key: &SigningKey, binding: &KeyBinding, stored: &StoredKey) -> Result<(), CustodyError> {
    if stored.public_key.verify_digest(&TEST_DIGEST, &key.sign(&TEST_DIGEST)?) {
        return Ok(());
    }
    Err(CustodyError::Refused(format!(
        "the test signature of the new {} key {} does not verify; it was thrown away, make another",
        stored.algorithm.as_str(),
        binding.key_id
    )))
}

/// Generation is in the `rsa` crate, because aws-lc takes no rng as a parameter.
/// No private-key operation ever runs in it, so its timing leak (RUSTSEC-2023-0071) has nothing to observe.
fn generate_rsa(rng: &dyn Random, bits: usize) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
    let failed = || CustodyError::Unavailable(format!("an RSA key of {bits} bits could not be made; try again"));
    let key = rsa::PrivateKey::new(&mut CryptoRandom(rng), bits).map_err(|_| failed())?;
    Ok(key.to_pkcs8_der().map_err(|_| failed())?.to_bytes())
}

impl SigningKey {
    /// Parses PKCS#8 DER; the key must be of `algorithm`.
    pub(crate) fn from_pkcs8(algorithm: KeyAlgorithm, pkcs8: &[u8]) -> Result<Self, CustodyError> {
        let parsed = match algorithm {
            KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => {
                RsaKeyPair::from_pkcs8(pkcs8).map(Self::Rsa)
            }
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::from_pkcs8(pkcs8).map(Self::Ed25519),
        };
        // aws-lc's reason is left out: nothing that parsed private octets may shape an error.
        parsed.map_err(|_| CustodyError::Refused(format!("the private key is not a valid {} key", algorithm.as_str())))
    }

    /// Parses what a row was opened to, and holds it to what stands beside it there: algorithm and public half.
    pub(crate) fn of_row(binding: &KeyBinding, stored: &StoredKey, pkcs8: &[u8]) -> Result<Self, CustodyError> {
        let key = Self::from_pkcs8(stored.algorithm, pkcs8)?;
        let public_key = key.public_key()?;
        if public_key != stored.public_key || public_key.algorithm() != Some(stored.algorithm) {
            return Err(CustodyError::Refused(format!(
                "the public key stored for key {} is not the one of its private key: the row was changed; \
                 restore it from a backup, or revoke the key and make a new one",
                binding.key_id
            )));
        }
        Ok(key)
    }

    /// The public half, computed from the private one.
    pub(crate) fn public_key(&self) -> Result<PublicKey, CustodyError> {
        let unusable = |why: String| CustodyError::Refused(format!("the public half of the key is not usable: {why}"));
        match self {
            Self::Rsa(pair) => {
                let spki: PublicKeyX509Der<'_> =
                    pair.public_key().as_der().map_err(|_| unusable("it cannot be encoded".into()))?;
                PublicKey::from_rsa_spki(spki.as_ref()).map_err(|fault| unusable(fault.to_string()))
            }
            Self::Ed25519(pair) => {
                PublicKey::from_ed25519(pair.public_key().as_ref()).map_err(|fault| unusable(fault.to_string()))
            }
        }
    }

    /// The bare public half of an Ed25519 key, 32 octets.
    pub(crate) fn ed25519_public_key(&self) -> Result<Vec<u8>, CustodyError> {
        match self {
            Self::Ed25519(pair) => Ok(pair.public_key().as_ref().to_vec()),
            Self::Rsa(_) => Err(CustodyError::Refused("an Ed25519 key is needed".into())),
        }
    }

    /// RSASSA-PKCS1-v1_5 over the SHA-256 digest (RFC 8017 8.2, RFC 6376 3.3.1), or PureEdDSA with the digest's
    /// 32 octets as the message (RFC 8463 3). Constant time, blinded, in aws-lc.
    pub(crate) fn sign(&self, digest: &[u8; 32]) -> Result<Vec<u8>, CustodyError> {
        let failed = |_| CustodyError::Unavailable("the signature could not be computed; try again".into());
        match self {
            Self::Rsa(pair) => {
                let digest = Digest::import_less_safe(digest, &SHA256).map_err(failed)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            Self::Ed25519(pair) => pair.try_sign(digest).map(|signature| signature.as_ref().to_vec()).map_err(failed),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "SigningKey::Rsa(hidden)",
            Self::Ed25519(_) => "SigningKey::Ed25519(hidden)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandom;

    #[test]
    fn debug_depends_on_the_kind_only() {
        for (algorithm, expected) in
            [(KeyAlgorithm::Ed25519, "SigningKey::Ed25519(hidden)"), (KeyAlgorithm::Rsa2048, "SigningKey::Rsa(hidden)")]
        {
            let pkcs8 = generate(&SystemRandom, algorithm).unwrap();
            assert_eq!(format!("{:?}", SigningKey::from_pkcs8(algorithm, &pkcs8).unwrap()), expected);
        }
    }

    #[test]
    fn a_key_of_another_kind_does_not_parse() {
        let ed25519 = generate(&SystemRandom, KeyAlgorithm::Ed25519).unwrap();
        let rsa = generate(&SystemRandom, KeyAlgorithm::Rsa2048).unwrap();
        assert!(SigningKey::from_pkcs8(KeyAlgorithm::Rsa2048, &ed25519).is_err());
        assert!(SigningKey::from_pkcs8(KeyAlgorithm::Ed25519, &rsa).is_err());
    }
}
