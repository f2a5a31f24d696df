//! As much DER (X.690) as an RSA public key needs (RFC 8017 A.1.1, RFC 5280 4.1).

/// Why octets are not the structure that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DerFault {
    /// A length goes beyond the end by so many octets: the beginning of a longer value.
    Short { missing: usize },
    /// Another structure, or none.
    Wrong,
}

/// Modulus and exponent, big-endian, without leading zero octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RsaPublicKey<'d> {
    pub(crate) modulus: &'d [u8],
    pub(crate) exponent: &'d [u8],
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
/// AlgorithmIdentifier of rsaEncryption: 1.2.840.113549.1.1.1 with NULL parameters (RFC 3279 2.3.1).
const RSA_ENCRYPTION: [u8; 13] = [0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01, 0x05, 0x00];

/// Splits one value of that tag off the front: its content, and what follows it.
fn take(tag: u8, octets: &[u8]) -> Result<(&[u8], &[u8]), DerFault> {
    let (&found, rest) = octets.split_first().ok_or(DerFault::Short { missing: 1 })?;
    if found != tag {
        return Err(DerFault::Wrong);
    }
    let (&first, mut rest) = rest.split_first().ok_or(DerFault::Short { missing: 1 })?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let count = usize::from(first & 0x7F);
        // 0x80 is BER's indefinite form; more than three octets of length is no key.
        if !(1..=3).contains(&count) {
            return Err(DerFault::Wrong);
        }
        let digits = rest.get(..count).ok_or(DerFault::Short { missing: count })?;
        rest = &rest[count..];
        let length = digits.iter().fold(0, |sum, &d| sum << 8 | usize::from(d));
        if length < 0x80 || digits[0] == 0 {
            return Err(DerFault::Wrong);
        }
        length
    };
    if length > rest.len() {
        return Err(DerFault::Short { missing: length - rest.len() });
    }
    Ok(rest.split_at(length))
}

fn only(tag: u8, octets: &[u8]) -> Result<&[u8], DerFault> {
    match take(tag, octets)? {
        (content, []) => Ok(content),
        (_, _) => Err(DerFault::Wrong),
    }
}

/// A positive INTEGER in its shortest form.
fn take_positive(octets: &[u8]) -> Result<(&[u8], &[u8]), DerFault> {
    let (content, rest) = take(INTEGER, octets)?;
    match content {
        [0, digits @ ..] if digits.first().is_some_and(|&d| d >= 0x80) => Ok((digits, rest)),
        [first, ..] if (1..0x80).contains(first) => Ok((content, rest)),
        _ => Err(DerFault::Wrong),
    }
}

/// RFC 8017 A.1.1 RSAPublicKey, nothing after it.
pub(crate) fn rsa_public_key(octets: &[u8]) -> Result<RsaPublicKey<'_>, DerFault> {
    let content = only(SEQUENCE, octets)?;
    let (modulus, rest) = take_positive(content)?;
    match take_positive(rest)? {
        (exponent, []) => Ok(RsaPublicKey { modulus, exponent }),
        (_, _) => Err(DerFault::Wrong),
    }
}

/// RFC 5280 4.1 SubjectPublicKeyInfo of an RSA key, nothing after it.
pub(crate) fn rsa_spki(octets: &[u8]) -> Result<RsaPublicKey<'_>, DerFault> {
    let content = only(SEQUENCE, octets)?;
    let (algorithm, rest) = take(SEQUENCE, content)?;
    if algorithm != RSA_ENCRYPTION {
        return Err(DerFault::Wrong);
    }
    match only(BIT_STRING, rest)? {
        [0, key @ ..] => rsa_public_key(key),
        [..] => Err(DerFault::Wrong),
    }
}

/// True if the octets begin like a private key: PKCS#1 (RFC 8017 A.1.2), PKCS#8 (RFC 5208, 5958) and SEC 1 all open a SEQUENCE
/// with a version of 0, 1 or 2, which no public key does. The end may be cut off.
pub(crate) fn begins_like_private_key(octets: &[u8]) -> bool {
    let Some((&SEQUENCE, rest)) = octets.split_first() else { return false };
    let header = match rest.first() {
        Some(&first) if first < 0x80 => 1,
        Some(&first) => 1 + usize::from(first & 0x7F),
        None => return false,
    };
    matches!(rest.get(header..header + 3), Some([INTEGER, 1, 0..=2]))
}

/// Writes SubjectPublicKeyInfo, the form that our records use (RFC 6376 3.6.1).
pub(crate) fn write_rsa_spki(key: &RsaPublicKey<'_>) -> Vec<u8> {
    let mut integers = Vec::new();
    for number in [key.modulus, key.exponent] {
        let mut content = Vec::with_capacity(number.len() + 1);
        if number.first().is_some_and(|&d| d >= 0x80) {
            content.push(0);
        }
        content.extend_from_slice(number);
        integers.extend(value(INTEGER, &content));
    }
    let mut bits = vec![0];
    bits.extend(value(SEQUENCE, &integers));
    let mut info = value(SEQUENCE, &RSA_ENCRYPTION);
    info.extend(value(BIT_STRING, &bits));
    value(SEQUENCE, &info)
}

fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let digits = &length[length.iter().position(|&d| d != 0).unwrap_or(length.len() - 1)..];
    let mut out = vec![tag];
    match digits {
        [short @ 0..=0x7F] => out.push(*short),
        // At most eight octets of length, so the count fits.
        long => {
            out.push(0x80 | long.len().to_le_bytes()[0]);
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}
