//! Is an RSA key that somebody else made one that nobody can compute from its public half?
//!
//! The `rsa` crate parses and checks; nothing is signed with it (RUSTSEC-2023-0071).
use crate::import::ImportFault;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_bigint::{BoxedUint, ConcatenatingMul, Limb, NonZero};
use crypto_primes::{Flavor, is_prime};
use rsa::PrivateKey;
use rsa::pkcs1::{RsaPrivateKeyRef, RsaPublicKeyRef, Version};
use rsa::pkcs8::SubjectPublicKeyInfoRef;
use rsa::pkcs8::der::Decode as _;
use rsa::traits::PrivateKeyParts as _;
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::record::PublicKey;
use zeroize::Zeroizing;

/// Primes below this are tried.
const TRIAL: u32 = 1 << 16;
/// FIPS 186-5 A.1.3: the primes differ within their first 100 bits. Fermat's method would need far more than 2^20 steps for any
/// key that passes: it takes (p - q)^2 / (8 sqrt(n)) of them.
const DIFFER_WITHIN: u32 = 100;
/// ROCA: primes are k * M + (65537^a mod M), where M is the product of the first primes; of the first 126, up to 701, for keys from
/// 1984 bits, and of more for longer ones.
const ROCA_PRIMES_UP_TO: u32 = 701;
const ROCA_GENERATOR: u32 = 65537;
const LONGEST_EXPONENT: u64 = 1 << 32;

/// Vets an RSAPrivateKey in DER (RFC 8017 A.1.2). What is wrong first is said.
pub(crate) fn rsa(der: &[u8]) -> Result<(KeyAlgorithm, PrivateKey), ImportFault> {
    let parts = RsaPrivateKeyRef::from_der(der).map_err(|_| ImportFault::Damaged)?;
    if parts.version() != Version::TwoPrime {
        return Err(ImportFault::MultiPrime);
    }
    let modulus = parts.modulus.as_bytes();
    let bits = bit_length(modulus);
    // Before any arithmetic: its cost grows with the length.
    let algorithm = match bits {
        2048 => KeyAlgorithm::Rsa2048,
        3072 => KeyAlgorithm::Rsa3072,
        4096 => KeyAlgorithm::Rsa4096,
        0..2048 => return Err(ImportFault::TooSmall(bits)),
        _ => return Err(ImportFault::Size(bits)),
    };
    let e = exponent(parts.public_exponent.as_bytes())?;
    let n = number(modulus, bits).ok_or(ImportFault::Damaged)?;
    let prime = |octets: &[u8]| number(octets, bits / 2).ok_or(ImportFault::Unbalanced);
    let small = small_primes(TRIAL);
    if has_a_factor_among(&n, &small) {
        return Err(ImportFault::SmallFactor);
    }
    let (p, q) = (prime(parts.prime1.as_bytes())?, prime(parts.prime2.as_bytes())?);
    if [&p, &q].into_iter().any(|factor| has_a_factor_among(factor, &small)) {
        return Err(ImportFault::SmallFactor);
    }
    if [&p, &q].into_iter().any(|factor| factor.bit_width() != bits / 2) {
        return Err(ImportFault::Unbalanced);
    }
    if Zeroizing::new(p.concatenating_mul(&*q)) != n {
        return Err(ImportFault::Product);
    }
    let gap = Zeroizing::new(if *p > *q { p.wrapping_sub(&*q) } else { q.wrapping_sub(&*p) });
    if gap.bit_width() <= bits / 2 - DIFFER_WITHIN {
        return Err(ImportFault::Close);
    }
    if [&p, &q].into_iter().any(|factor| !is_prime(Flavor::Any, &**factor)) {
        return Err(ImportFault::NotPrime);
    }
    if is_roca(&n) {
        return Err(ImportFault::Roca);
    }
    let d = number(parts.private_exponent.as_bytes(), bits).ok_or(ImportFault::Exponents)?;
    // All else has been looked at: what it refuses now is d.
    let key = PrivateKey::from_components((*n).clone(), e, (*d).clone(), vec![(*p).clone(), (*q).clone()])
        .map_err(|_| ImportFault::Exponents)?;
    Ok((algorithm, key))
}

/// Vets what can be told of a key by its public half. An Ed25519 key has nothing to be vetted.
pub(crate) fn public_half(key: &PublicKey) -> Result<(), ImportFault> {
    let Some((modulus, octets)) = rsa_public_half(&key.to_p()) else {
        return if key.algorithm() == Some(KeyAlgorithm::Ed25519) { Ok(()) } else { Err(ImportFault::Damaged) };
    };
    exponent(&octets)?;
    if has_a_factor_among(&modulus, &small_primes(TRIAL)) {
        return Err(ImportFault::SmallFactor);
    }
    if is_roca(&modulus) { Err(ImportFault::Roca) } else { Ok(()) }
}

/// Does the key whose p= this is have a factor of `key`? Its modulus is divided by both, which finds what the greatest common divisor
/// of the moduli would, faster. What is no RSA key has none.
pub(crate) fn shares_a_factor(key: &PrivateKey, p: &str) -> bool {
    let Some(other) = modulus_of(p) else { return false };
    key.primes().iter().any(|prime| bool::from(other.rem(prime.as_nz_ref()).is_zero()))
}

fn modulus_of(p: &str) -> Option<BoxedUint> {
    rsa_public_half(p).map(|(modulus, _)| modulus)
}

/// Modulus, and octets of the exponent.
fn rsa_public_half(p: &str) -> Option<(BoxedUint, Vec<u8>)> {
    let spki = STANDARD.decode(p).ok()?;
    let spki = SubjectPublicKeyInfoRef::from_der(&spki).ok()?;
    let key = RsaPublicKeyRef::from_der(spki.subject_public_key.as_bytes()?).ok()?;
    let octets = key.modulus.as_bytes();
    let modulus = BoxedUint::from_be_slice(octets, u32::try_from(octets.len()).ok()?.checked_mul(8)?).ok()?;
    Some((modulus, key.public_exponent.as_bytes().to_vec()))
}

/// 65537 or another odd one up to 2^32.
fn exponent(octets: &[u8]) -> Result<BoxedUint, ImportFault> {
    if octets.last().is_none_or(|last| last % 2 == 0) {
        return Err(ImportFault::EvenExponent);
    }
    if bit_length(octets) > u64::BITS {
        return Err(ImportFault::ExponentRange);
    }
    let value = octets.iter().fold(0_u64, |value, octet| value << 8 | u64::from(*octet));
    if (3..=LONGEST_EXPONENT).contains(&value) { Ok(BoxedUint::from(value)) } else { Err(ImportFault::ExponentRange) }
}

/// Bits of a number without leading zeros in its octets.
fn bit_length(octets: &[u8]) -> u32 {
    let leading = octets.first().map_or(0, |first| first.leading_zeros());
    u32::try_from(octets.len()).map_or(u32::MAX, |length| length.saturating_mul(8).saturating_sub(leading))
}

/// `None` if it needs more than so many bits.
fn number(octets: &[u8], bits: u32) -> Option<Zeroizing<BoxedUint>> {
    BoxedUint::from_be_slice(octets, bits).ok().map(Zeroizing::new)
}

/// The sieve of Eratosthenes.
fn small_primes(below: u32) -> Vec<u32> {
    let mut primes: Vec<u32> = Vec::new();
    for candidate in 2..below {
        if primes.iter().take_while(|prime| **prime * **prime <= candidate).all(|prime| candidate % prime != 0) {
            primes.push(candidate);
        }
    }
    primes
}

fn has_a_factor_among(number: &BoxedUint, primes: &[u32]) -> bool {
    primes.iter().any(|prime| remainder(number, *prime) == 0)
}

/// `prime` is not zero.
fn remainder(number: &BoxedUint, prime: u32) -> u64 {
    u64::from(number.rem_limb(NonZero::<Limb>::new_unwrap(Limb::from_u32(prime))))
}

/// Nemec and others, "The Return of Coppersmith's Attack" (2017), 4: a modulus of a faulty chip lies, modulo every prime of M, in the
/// group that 65537 makes. Another one does so for all of them by chance once in far more than 2^100 keys.
fn is_roca(modulus: &BoxedUint) -> bool {
    small_primes(ROCA_PRIMES_UP_TO + 1).into_iter().skip(1).all(|prime| {
        let (wanted, generator) = (remainder(modulus, prime), u64::from(ROCA_GENERATOR % prime));
        let mut power = 1;
        loop {
            if power == wanted {
                return true;
            }
            power = power * generator % u64::from(prime);
            if power == 1 {
                return false;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_6542_primes_below_65536() {
        let primes = small_primes(TRIAL);
        assert_eq!((primes.len(), primes.last()), (6542, Some(&65521)));
    }

    #[test]
    fn an_exponent_is_odd_and_from_3_to_2_to_the_32() {
        let table: [(&[u8], Option<ImportFault>); 9] = [
            (&[1, 0, 1], None),
            (&[3], None),
            (&[0xff, 0xff, 0xff, 0xff], None),
            (&[1], Some(ImportFault::ExponentRange)),
            (&[1, 0, 0, 0, 1], Some(ImportFault::ExponentRange)),
            (&[1; 9], Some(ImportFault::ExponentRange)),
            (&[2], Some(ImportFault::EvenExponent)),
            (&[1, 0, 0], Some(ImportFault::EvenExponent)),
            (&[], Some(ImportFault::EvenExponent)),
        ];
        for (octets, fault) in table {
            assert_eq!(exponent(octets).err(), fault, "{octets:?}");
        }
    }

    #[test]
    fn of_numbers_with_65537_in_their_group_only_those_look_like_roca() {
        // 65537^5 is in the group modulo every prime; that plus two is not.
        let power = BoxedUint::from(65537_u64).wrapping_pow_vartime(BoxedUint::from(1_u64));
        assert!(is_roca(&power));
        assert!(!is_roca(&power.wrapping_add(BoxedUint::from(2_u64))));
    }
}
