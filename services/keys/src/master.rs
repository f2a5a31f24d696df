//! The master key: 32 octets from which everything sealed hangs.
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use zeroize::Zeroizing;

/// Length of a master key and of every subkey, in octets.
const LENGTH: usize = 32;
/// HKDF salt: separates our subkeys from any other use that an operator makes of the same 32 octets.
const SALT: &[u8] = b"signpost master key v1";

/// Why a master key was refused. Never shows key octets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MasterKeyError(pub String);

/// 32 octets, wiped on drop; Debug shows nothing.
pub struct MasterKey {
    // Boxed: moving the key must not leave copies behind on the stack.
    octets: Box<Zeroizing<[u8; LENGTH]>>,
}

impl MasterKey {
    /// Octets of a name.
    pub const NAME_LENGTH: usize = 8;

    /// A fresh one.
    pub fn generate(rng: &dyn crate::Random) -> Self {
        let mut key = Self { octets: Box::default() };
        rng.fill(key.octets.as_mut_slice());
        key
    }

    /// From the file's text: 32 octets, base64, surrounding whitespace ignored.
    pub fn from_base64(text: &str) -> Result<Self, MasterKeyError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(refused("the master key is empty"));
        }
        // Large enough from the start, so that growing leaves no copy behind.
        let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
        // The decoder's own error names the offending octet, which may be part of a key: it is not passed on.
        STANDARD.decode_vec(text, &mut decoded).map_err(|_| refused("the master key is not base64"))?;
        if decoded.len() != LENGTH {
            return Err(refused(&format!("the master key has {} octets", decoded.len())));
        }
        let mut key = Self { octets: Box::default() };
        key.octets.copy_from_slice(&decoded);
        Ok(key)
    }

    /// The file's text.
    pub fn to_base64(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(LENGTH.div_ceil(3) * 4));
        STANDARD.encode_string(self.octets.as_slice(), &mut text);
        text
    }

    /// Key-check value for the store: tells whether a key is the right one, and nothing else about it.
    /// 32 octets; no `derive` gives the same.
    pub fn check_value(&self) -> Vec<u8> {
        self.expand("check", "").to_vec()
    }

    /// What sealed octets begin with that were sealed under this key; not a secret.
    pub fn name(&self) -> [u8; Self::NAME_LENGTH] {
        let mut name = [0; Self::NAME_LENGTH];
        name.copy_from_slice(&self.derive("name of the sealing key v1")[..Self::NAME_LENGTH]);
        name
    }

    /// [`Self::name`] in hex, as logs and `signpost master-key status` show it.
    pub fn name_in_hex(&self) -> String {
        self.name().iter().fold(String::new(), |text, octet| format!("{text}{octet:02x}"))
    }

    /// The secret that API keys are authenticated with in an installation whose master key was never rotated. At the first rotation it
    /// is sealed ([`crate::seal_pepper`]), and from then on belongs to no master key.
    pub fn first_pepper(&self) -> Zeroizing<[u8; LENGTH]> {
        self.derive("api-key pepper")
    }

    /// Compares in constant time.
    pub fn matches(&self, check_value: &[u8]) -> bool {
        verify_slices_are_equal(&self.check_value(), check_value).is_ok()
    }

    /// HKDF-SHA-256 subkey for one purpose, for example `api-key pepper`.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        self.expand("subkey", purpose)
    }

    /// RFC 5869 with `<class>:<purpose>` as info; no class holds a colon, so the two cannot run into each other.
    #[expect(clippy::expect_used, reason = "HKDF fails only for outputs over 8160 octets; this one has 32")]
    fn expand(&self, class: &str, purpose: &str) -> Zeroizing<[u8; LENGTH]> {
        let mut out = Zeroizing::new([0; LENGTH]);
        Salt::new(HKDF_SHA256, SALT)
            .extract(self.octets.as_slice())
            .expand(&[class.as_bytes(), b":", purpose.as_bytes()], HKDF_SHA256)
            .and_then(|okm| okm.fill(out.as_mut_slice()))
            .expect("HKDF-SHA-256 gives 32 octets");
        out
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(hidden)")
    }
}

fn refused(what: &str) -> MasterKeyError {
    MasterKeyError(format!(
        "{what}; it must be the base64 of exactly 32 octets, as Signpost wrote it: restore the file from its backup"
    ))
}
