//! Canonicalization: case files, every chunk split, and all short inputs against the naive one.
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use signpost_dkim::canonical::{BodyHash, BodyHasher, Canonicalization, canonical_field};

use crate::{case_file, naive};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyCase {
    id: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    title: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    rfc: String,
    body: String,
    relaxed: Option<String>,
    simple: Option<String>,
    relaxed_bh: Option<String>,
    simple_bh: Option<String>,
    /// l=
    limit: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldCase {
    id: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    title: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    rfc: String,
    field: String,
    relaxed: Option<String>,
    simple: Option<String>,
}

fn sha256(octets: &[u8]) -> [u8; 32] {
    digest(&SHA256, octets).as_ref().try_into().unwrap()
}

fn hash(canonicalization: Canonicalization, limit: Option<u64>, chunks: &[&[u8]]) -> BodyHash {
    let mut hasher = BodyHasher::new(canonicalization, limit);
    for chunk in chunks {
        hasher.update(chunk);
    }
    hasher.finish()
}

/// All ways to cut at one and at two places, and octet by octet with empty chunks between.
fn splits(body: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut all = vec![vec![body], body.chunks(1).flat_map(|octet| [octet, &[]]).collect()];
    for first in 0..=body.len() {
        for second in first..=body.len() {
            all.push(vec![&body[..first], &body[first..second], &body[second..]]);
        }
    }
    all
}

fn check_body(what: &str, canonicalization: Canonicalization, body: &[u8], canonical: &[u8]) {
    let expected = BodyHash { sha256: sha256(canonical), canonical_length: canonical.len() as u64 };
    for chunks in splits(body) {
        assert_eq!(hash(canonicalization, None, &chunks), expected, "{what} {canonicalization:?} cut as {chunks:?}");
    }
}

#[test]
fn bodies_of_the_case_file_however_they_are_cut() {
    for case in case_file::read::<BodyCase>("body") {
        let sides = [
            (Canonicalization::Simple, &case.simple, &case.simple_bh),
            (Canonicalization::Relaxed, &case.relaxed, &case.relaxed_bh),
        ];
        assert!(sides.iter().any(|(_, text, bh)| text.is_some() || bh.is_some()), "{}: nothing expected", case.id);
        for (canonicalization, text, bh) in sides {
            if let (Some(text), None) = (text, case.limit) {
                check_body(&case.id, canonicalization, case.body.as_bytes(), text.as_bytes());
            }
            if let Some(bh) = bh {
                for chunks in splits(case.body.as_bytes()) {
                    let hash = hash(canonicalization, case.limit, &chunks);
                    assert_eq!(&STANDARD.encode(hash.sha256), bh, "{} {canonicalization:?} cut as {chunks:?}", case.id);
                }
            }
        }
    }
}

#[test]
fn fields_of_the_case_file() {
    for case in case_file::read::<FieldCase>("field") {
        assert!(case.simple.is_some() || case.relaxed.is_some(), "{}: nothing expected", case.id);
        for (canonicalization, expected) in
            [(Canonicalization::Simple, &case.simple), (Canonicalization::Relaxed, &case.relaxed)]
        {
            if let Some(expected) = expected {
                let found = String::from_utf8(canonical_field(canonicalization, case.field.as_bytes())).unwrap();
                assert_eq!(&found, expected, "{} {canonicalization:?}", case.id);
            }
        }
    }
}

/// Every text of up to `length` octets of the alphabet.
fn all_texts(alphabet: &[u8], length: u32) -> impl Iterator<Item = Vec<u8>> {
    let base = alphabet.len();
    (0..=length).flat_map(move |length| {
        (0..base.pow(length)).map(move |mut number| {
            (0..length)
                .map(|_| {
                    let digit = number % base;
                    number /= base;
                    alphabet[digit]
                })
                .collect()
        })
    })
}

#[test]
fn all_short_bodies_are_as_the_naive_canonicalizer_says() {
    for body in all_texts(b"a \t\r\n", 7) {
        for (canonicalization, canonical) in [
            (Canonicalization::Simple, naive::simple_body(&body)),
            (Canonicalization::Relaxed, naive::relaxed_body(&body)),
        ] {
            let expected = BodyHash { sha256: sha256(&canonical), canonical_length: canonical.len() as u64 };
            let octets: Vec<&[u8]> = body.chunks(1).collect();
            let halves = body.split_at(body.len() / 2);
            for chunks in [&[&body[..]][..], &octets, &[halves.0, halves.1]] {
                assert_eq!(hash(canonicalization, None, chunks), expected, "{canonicalization:?} {body:?} {chunks:?}");
            }
        }
    }
}

#[test]
fn all_short_field_values_are_as_the_naive_canonicalizer_says() {
    for value in all_texts(b"a \t\r\n:", 6) {
        let raw = [b"X-A \t:", &value[..], b"\r\n"].concat();
        assert_eq!(canonical_field(Canonicalization::Relaxed, &raw), naive::relaxed_field(&raw), "{raw:?}");
        assert_eq!(canonical_field(Canonicalization::Simple, &raw), raw, "{raw:?}");
    }
}

#[test]
fn a_limit_hashes_that_many_canonical_octets_and_counts_all() {
    let body = b" a  b \r\nlonger  line\r\n\r\n\r\n";
    for (canonicalization, canonical) in
        [(Canonicalization::Simple, naive::simple_body(body)), (Canonicalization::Relaxed, naive::relaxed_body(body))]
    {
        for limit in 0..=canonical.len() + 2 {
            let expected = BodyHash {
                sha256: sha256(&canonical[..limit.min(canonical.len())]),
                canonical_length: canonical.len() as u64,
            };
            for chunks in splits(body) {
                assert_eq!(hash(canonicalization, Some(limit as u64), &chunks), expected, "{limit} {chunks:?}");
            }
        }
    }
}

/// Larger than what is gathered before a digest call, in pieces around that size.
#[test]
fn long_lines_and_long_runs_of_empty_lines() {
    let mut body = vec![b'x'; 10_000];
    body.extend(b"\r\n".repeat(10_000));
    body.extend(b" y\t z ".repeat(3_000));
    body.extend(b"\r\n  \r\n".repeat(3_000));
    for (canonicalization, canonical) in
        [(Canonicalization::Simple, naive::simple_body(&body)), (Canonicalization::Relaxed, naive::relaxed_body(&body))]
    {
        let expected = BodyHash { sha256: sha256(&canonical), canonical_length: canonical.len() as u64 };
        for size in [1, 7, 4_095, 4_096, 4_097, body.len()] {
            let chunks: Vec<&[u8]> = body.chunks(size).collect();
            assert_eq!(hash(canonicalization, None, &chunks), expected, "{canonicalization:?} in chunks of {size}");
        }
    }
}
