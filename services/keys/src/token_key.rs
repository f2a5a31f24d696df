//! Keys that sign access tokens (JWT): Ed25519, sealed under the master key like the keys of domains, but for another use.
use crate::CustodyError;
use crate::seal::SealingKey;
use crate::sealed::SealedCustody;
use crate::signing_key::{self, SigningKey};
use signpost_dkim::KeyAlgorithm;
use std::fmt;
use zeroize::Zeroizing;

/// A fresh key, as it is stored.
#[derive(Debug, Clone)]
pub struct NewTokenKey {
    /// PKCS#8, sealed for this `kid`.
    pub sealed: Vec<u8>,
    /// 32 octets (RFC 8032 5.1.5).
    pub public_key: Vec<u8>,
}

/// An opened key.
pub struct TokenKey {
    pkcs8: Zeroizing<Vec<u8>>,
}

impl TokenKey {
    /// PKCS#8 DER (RFC 8410 7), for the one who signs. Never to be shown or logged.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(hidden)")
    }
}

impl SealedCustody {
    /// Makes a key that signs access tokens. `Unavailable` while sealed.
    pub fn make_token_key(&self, kid: &str) -> Result<NewTokenKey, CustodyError> {
        let sealing = self.sealing()?;
        let pkcs8 = signing_key::generate(self.rng(), KeyAlgorithm::Ed25519)?;
        let public_key = SigningKey::from_pkcs8(KeyAlgorithm::Ed25519, &pkcs8)?.ed25519_public_key()?;
        Ok(NewTokenKey { sealed: sealing.seal_token_key(self.rng(), kid, &pkcs8)?, public_key })
    }

    /// Opens one, and holds it to the public half that is stored beside it. `Unavailable` while sealed, `Refused` if the row was changed.
    pub fn open_token_key(&self, kid: &str, sealed: &[u8], public_key: &[u8]) -> Result<TokenKey, CustodyError> {
        let sealing = self.sealing()?;
        open(&sealing, kid, sealed, public_key)
    }

    /// The key sealed anew, under the master key that seals now; `None` if it is so already. Errors as of `open_token_key`.
    pub fn reseal_token_key(
        &self,
        kid: &str,
        sealed: &[u8],
        public_key: &[u8],
    ) -> Result<Option<Vec<u8>>, CustodyError> {
        let sealing = self.sealing()?;
        if sealing.is_current(sealed) {
            return Ok(None);
        }
        let key = open(&sealing, kid, sealed, public_key)?;
        let anew = sealing.seal_token_key(self.rng(), kid, &key.pkcs8)?;
        open(&sealing, kid, &anew, public_key).map(|_| Some(anew))
    }
}

fn open(sealing: &SealingKey, kid: &str, sealed: &[u8], public_key: &[u8]) -> Result<TokenKey, CustodyError> {
    let pkcs8 = sealing.open_token_key(kid, sealed)?;
    if SigningKey::from_pkcs8(KeyAlgorithm::Ed25519, &pkcs8)?.ed25519_public_key()? != public_key {
        return Err(CustodyError::Refused(format!(
            "the public key stored for token key {kid} is not the one of its private key: the row was changed; \
             restore it from a backup"
        )));
    }
    Ok(TokenKey { pkcs8 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MasterKey, SystemRandom};
    use std::sync::Arc;

    fn custody(master: &Arc<MasterKey>) -> SealedCustody {
        let custody = SealedCustody::new(Arc::new(SystemRandom));
        custody.unseal(master);
        custody
    }

    #[test]
    fn a_token_key_opens_as_what_it_is_only() {
        let master = Arc::new(MasterKey::generate(&SystemRandom));
        let made = custody(&master).make_token_key("kid1").unwrap();
        assert_eq!(made.public_key.len(), 32);
        // Another process with the same master key.
        let other = custody(&master);
        let opened = other.open_token_key("kid1", &made.sealed, &made.public_key).unwrap();
        assert!(!made.sealed.windows(32).any(|window| opened.pkcs8().ends_with(window)), "it is sealed");
        assert_eq!(format!("{opened:?}"), "TokenKey(hidden)");

        let mut changed = made.sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        let refused = |kid: &str, sealed: &[u8], public: &[u8]| {
            matches!(other.open_token_key(kid, sealed, public), Err(CustodyError::Refused(_)))
        };
        assert!(refused("kid2", &made.sealed, &made.public_key), "moved to another row");
        assert!(refused("kid1", &changed, &made.public_key), "changed");
        assert!(refused("kid1", &made.sealed, &[0; 32]), "another public half");
        assert!(refused("kid1", &[], &made.public_key), "empty");
    }

    #[test]
    fn a_token_key_moves_to_another_master_key_unchanged() {
        let [old, new, third] = [(); 3].map(|()| Arc::new(MasterKey::generate(&SystemRandom)));
        let first = custody(&old);
        let made = first.make_token_key("kid1").unwrap();
        let moving = SealedCustody::new(Arc::new(SystemRandom));
        moving.unseal_with(&new, [&*third]);
        let unknown = moving.reseal_token_key("kid1", &made.sealed, &made.public_key);
        assert!(matches!(unknown, Err(CustodyError::Unavailable(_))), "the old master key is not there");
        moving.unseal_with(&new, [&*third, &*old]);

        let before = first.open_token_key("kid1", &made.sealed, &made.public_key).unwrap();
        let anew = moving.reseal_token_key("kid1", &made.sealed, &made.public_key).unwrap().unwrap();
        assert_eq!(moving.reseal_token_key("kid1", &anew, &made.public_key).unwrap(), None, "once only");
        assert_eq!(custody(&new).open_token_key("kid1", &anew, &made.public_key).unwrap().pkcs8(), before.pkcs8());
        assert!(matches!(
            moving.reseal_token_key("kid2", &made.sealed, &made.public_key),
            Err(CustodyError::Refused(_))
        ));
        assert!(matches!(moving.reseal_token_key("kid1", &made.sealed, &[0; 32]), Err(CustodyError::Refused(_))));
    }

    #[test]
    fn without_the_right_master_key_there_is_none() {
        let master = Arc::new(MasterKey::generate(&SystemRandom));
        let made = custody(&master).make_token_key("kid1").unwrap();
        let sealed = SealedCustody::new(Arc::new(SystemRandom));
        let another = custody(&Arc::new(MasterKey::generate(&SystemRandom)));
        assert!(matches!(sealed.make_token_key("kid1"), Err(CustodyError::Unavailable(_))));
        for custody in [sealed, another] {
            let opened = custody.open_token_key("kid1", &made.sealed, &made.public_key);
            assert!(matches!(opened, Err(CustodyError::Unavailable(_))));
        }
    }
}
