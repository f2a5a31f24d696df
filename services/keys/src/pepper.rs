//! The secret that API keys are authenticated with, once it is sealed: API keys outlive the master key that it was derived from.
use crate::seal::{self, SealingKey};
use crate::{CustodyError, MasterKey, Random};
use zeroize::Zeroizing;

/// Seals it under this master key.
pub fn seal_pepper(rng: &dyn Random, master: &MasterKey, pepper: &[u8; 32]) -> Result<Vec<u8>, CustodyError> {
    SealingKey::new(master, [])?.seal_pepper(rng, pepper)
}

/// The reverse. `Unavailable` under another master key than it was sealed with, `Refused` if the octets were changed.
pub fn open_pepper(master: &MasterKey, sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>, CustodyError> {
    let octets = SealingKey::new(master, [])?.open_pepper(sealed)?;
    let mut pepper = Zeroizing::new([0; 32]);
    if octets.len() != pepper.len() {
        return Err(seal::does_not_open("of API keys"));
    }
    pepper.copy_from_slice(&octets);
    Ok(pepper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandom;

    #[test]
    fn it_opens_under_the_master_key_it_was_sealed_with_and_unchanged_only() {
        let (master, other) = (MasterKey::generate(&SystemRandom), MasterKey::generate(&SystemRandom));
        let pepper = master.first_pepper();
        let sealed = seal_pepper(&SystemRandom, &other, &pepper).unwrap();
        assert!(!sealed.windows(8).any(|octets| pepper.windows(8).any(|secret| secret == octets)), "it lies open");
        assert_eq!(*open_pepper(&other, &sealed).unwrap(), *pepper);
        assert!(matches!(open_pepper(&master, &sealed), Err(CustodyError::Unavailable(_))));
        for at in [MasterKey::NAME_LENGTH, sealed.len() / 2, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(matches!(open_pepper(&other, &changed), Err(CustodyError::Refused(_))), "octet {at}");
        }
        assert!(matches!(open_pepper(&other, &[]), Err(CustodyError::Refused(_))));
    }
}
