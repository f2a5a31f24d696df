//! Private keys for tests: the Ed25519 key that RFC 8463 A.2 prints, and RSA made on the spot.
use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use signpost_dkim::record::{self, PublicKey};

/// RFC 8032 7.1 test 1, used by RFC 8463 A.2.
const ED25519_SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
/// Its public key.
pub(crate) const ED25519_P: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

pub(crate) enum SigningKey {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<KeyPair>),
}

impl SigningKey {
    pub(crate) fn ed25519() -> Self {
        let seed = STANDARD.decode(ED25519_SEED).unwrap();
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        assert_eq!(STANDARD.encode(key.public_key()), ED25519_P);
        Self::Ed25519(key)
    }

    pub(crate) fn rsa_2048() -> Self {
        Self::Rsa(Box::new(KeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub(crate) fn public(&self) -> PublicKey {
        match self {
            Self::Ed25519(key) => PublicKey::from_ed25519(key.public_key().as_ref()).unwrap(),
            Self::Rsa(key) => PublicKey::from_rsa_spki(key.public_key().as_der().unwrap().as_ref()).unwrap(),
        }
    }

    pub(crate) fn record(&self) -> String {
        record::build(&self.public())
    }

    /// What a custody does with `Draft::digest`.
    pub(crate) fn sign(&self, digest: &[u8; 32]) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.sign(digest).as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let digest = Digest::import_less_safe(digest, &SHA256).unwrap();
                key.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature).unwrap();
                signature
            }
        }
    }
}
