//! Seals PKCS#8 octets with AES-256-GCM, bound to where they belong.
//!
//! Format, version 1: 8 octets that name the sealing key, 12 octets of random nonce, ciphertext, 16 octets of tag.
use crate::{CustodyError, KeyBinding, MasterKey, Random};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use signpost_dkim::KeyAlgorithm;
use std::fmt;
use zeroize::Zeroizing;

/// First part of the associated data: the version and use of the format.
const CONTEXT: &str = "signpost sealed private key v1";
/// The same of keys that sign access tokens: a key of one use never opens as one of the other.
const TOKEN_CONTEXT: &str = "signpost sealed token key v1";
/// The same of the secret that API keys are authenticated with.
const PEPPER_CONTEXT: &str = "signpost sealed api-key pepper v1";
const TAG_LEN: usize = 16;

/// The subkeys of the master keys: one seals, and what any of them sealed opens.
///
/// Nonces are random; NIST SP 800-38D 8.3 bounds that to 2^32 seals under one key, and each key is sealed once under a master key.
pub(crate) struct SealingKey {
    current: Subkey,
    /// Those of master keys that are on their way out, or in.
    others: Vec<Subkey>,
}

struct Subkey {
    key: LessSafeKey,
    /// Tells what was sealed under another master key from what was changed or moved; not a secret. It is not part of the associated
    /// data, and need not be: under another name the octets are tried with another key, which their tag refuses.
    name: [u8; MasterKey::NAME_LENGTH],
}

impl Subkey {
    fn of(master: &MasterKey) -> Result<Self, CustodyError> {
        let subkey = master.derive("sealed private keys v1");
        let key = UnboundKey::new(&AES_256_GCM, subkey.as_slice())
            .map_err(|_| CustodyError::Unavailable("AES-256-GCM is not offered by this build of aws-lc".into()))?;
        Ok(Self { key: LessSafeKey::new(key), name: master.name() })
    }
}

impl SealingKey {
    /// Seals under `current`, opens what was sealed under it or under any of the others.
    pub(crate) fn new<'m>(
        current: &MasterKey,
        others: impl IntoIterator<Item = &'m MasterKey>,
    ) -> Result<Self, CustodyError> {
        let others = others.into_iter().map(Subkey::of).collect::<Result<_, _>>()?;
        Ok(Self { current: Subkey::of(current)?, others })
    }

    /// True if these octets were sealed under the master key that seals now.
    pub(crate) fn is_current(&self, sealed: &[u8]) -> bool {
        sealed.starts_with(&self.current.name)
    }

    /// Seals `pkcs8` for exactly this binding and algorithm.
    pub(crate) fn seal(
        &self,
        rng: &dyn Random,
        binding: &KeyBinding,
        algorithm: KeyAlgorithm,
        pkcs8: &[u8],
    ) -> Result<Vec<u8>, CustodyError> {
        self.seal_for(rng, &binding.key_id, associated_data(binding, algorithm), pkcs8)
    }

    /// Gives the PKCS#8 octets back, if `sealed` was sealed for this binding and algorithm and is unchanged.
    pub(crate) fn open(
        &self,
        binding: &KeyBinding,
        algorithm: KeyAlgorithm,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        self.open_for(&binding.key_id, associated_data(binding, algorithm), sealed)
    }

    /// Seals the PKCS#8 octets of a key that signs access tokens.
    pub(crate) fn seal_token_key(&self, rng: &dyn Random, kid: &str, pkcs8: &[u8]) -> Result<Vec<u8>, CustodyError> {
        self.seal_for(rng, kid, framed(&[TOKEN_CONTEXT, kid]), pkcs8)
    }

    /// The reverse.
    pub(crate) fn open_token_key(&self, kid: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        self.open_for(kid, framed(&[TOKEN_CONTEXT, kid]), sealed)
    }

    /// Seals the secret that API keys are authenticated with.
    pub(crate) fn seal_pepper(&self, rng: &dyn Random, pepper: &[u8]) -> Result<Vec<u8>, CustodyError> {
        self.seal_for(rng, "of API keys", framed(&[PEPPER_CONTEXT]), pepper)
    }

    /// The reverse.
    pub(crate) fn open_pepper(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        self.open_for("of API keys", framed(&[PEPPER_CONTEXT]), sealed)
    }

    fn seal_for(
        &self,
        rng: &dyn Random,
        key_id: &str,
        associated: Vec<u8>,
        pkcs8: &[u8],
    ) -> Result<Vec<u8>, CustodyError> {
        encrypt(&self.current.key, rng, &self.current.name, key_id, associated, pkcs8)
    }

    fn open_for(&self, key_id: &str, associated: Vec<u8>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        let (name, rest) = sealed.split_at_checked(MasterKey::NAME_LENGTH).ok_or_else(|| does_not_open(key_id))?;
        let known = std::iter::once(&self.current).chain(&self.others).find(|subkey| subkey.name == name);
        let Some(subkey) = known else {
            return Err(CustodyError::Unavailable(format!(
                "key {key_id} was sealed under another master key; give Signpost the master key that it was made with"
            )));
        };
        decrypt(&subkey.key, key_id, associated, rest)
    }
}

/// A data key that seals one private key, and comes from elsewhere.
pub(crate) fn data_key(octets: &[u8]) -> Result<LessSafeKey, CustodyError> {
    UnboundKey::new(&AES_256_GCM, octets)
        .map(LessSafeKey::new)
        .map_err(|_| CustodyError::Unavailable("the KMS gave a data key that is none of AES-256".into()))
}

/// Seals `pkcs8` for exactly this binding and algorithm, behind `head`, which lies open.
pub(crate) fn seal_with(
    key: &LessSafeKey,
    rng: &dyn Random,
    head: &[u8],
    binding: &KeyBinding,
    algorithm: KeyAlgorithm,
    pkcs8: &[u8],
) -> Result<Vec<u8>, CustodyError> {
    encrypt(key, rng, head, &binding.key_id, associated_data(binding, algorithm), pkcs8)
}

/// The reverse, of what stands behind the head.
pub(crate) fn open_with(
    key: &LessSafeKey,
    binding: &KeyBinding,
    algorithm: KeyAlgorithm,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
    decrypt(key, &binding.key_id, associated_data(binding, algorithm), sealed)
}

/// Gives head, nonce, ciphertext, tag.
fn encrypt(
    key: &LessSafeKey,
    rng: &dyn Random,
    head: &[u8],
    key_id: &str,
    associated: Vec<u8>,
    pkcs8: &[u8],
) -> Result<Vec<u8>, CustodyError> {
    let mut nonce = [0; NONCE_LEN];
    rng.fill(&mut nonce);
    let plain_from = head.len() + NONCE_LEN;
    // Sized once: a vector that grows would leave plaintext behind. Zeroizing covers the way out through an error.
    let mut out = Zeroizing::new(Vec::with_capacity(plain_from + pkcs8.len() + TAG_LEN));
    out.extend_from_slice(head);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(pkcs8);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut out[plain_from..])
        .map_err(|_| CustodyError::Refused(format!("key {key_id} could not be sealed")))?;
    out.extend_from_slice(tag.as_ref());
    Ok(std::mem::take(&mut *out))
}

/// Of nonce, ciphertext, tag.
fn decrypt(
    key: &LessSafeKey,
    key_id: &str,
    associated: Vec<u8>,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
    let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN).ok_or_else(|| does_not_open(key_id))?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| does_not_open(key_id))?;
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let length = key.open_in_place(nonce, Aad::from(associated), &mut buffer).map_err(|_| does_not_open(key_id))?.len();
    buffer.truncate(length);
    Ok(buffer)
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(hidden)")
    }
}

fn associated_data(binding: &KeyBinding, algorithm: KeyAlgorithm) -> Vec<u8> {
    let KeyBinding { tenant, domain, selector, key_id } = binding;
    framed(&[CONTEXT, algorithm.as_str(), tenant, domain.as_str(), selector.as_str(), key_id])
}

/// Each part preceded by its length, so that no two lists give the same octets.
fn framed(parts: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}

pub(crate) fn does_not_open(key_id: &str) -> CustodyError {
    CustodyError::Refused(format!(
        "the sealed octets of key {key_id} do not open for what they were sealed for: the row was changed or moved; \
         restore it from a backup, or revoke the key and make a new one"
    ))
}
