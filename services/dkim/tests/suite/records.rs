//! The key record: case file, and what we build ourselves.
use serde::Deserialize;
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::record::{self, PublicKey, RecordFault};

use crate::case_file;
use crate::signing_key::SigningKey;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    title: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    rfc: String,
    /// Character-strings of the record.
    strings: Vec<String>,
    /// `valid`, or the kind of fault.
    expect: String,
    kind: Option<String>,
    bits: Option<u32>,
    testing: Option<bool>,
    strict: Option<bool>,
    /// A p= value of the same key.
    same_key: Option<String>,
    /// Parts of the text of the fault.
    #[serde(default)]
    says: Vec<String>,
    /// Parts of the warnings, in order, one each.
    #[serde(default)]
    warnings: Vec<String>,
    /// Text that must not come back in the fault.
    never_says: Option<String>,
}

fn kind(fault: &RecordFault) -> &'static str {
    match fault {
        RecordFault::NotAKeyRecord(_) => "not-a-key-record",
        RecordFault::Malformed(_) => "malformed",
        RecordFault::Truncated(_) => "truncated",
        RecordFault::Revoked => "revoked",
        RecordFault::Unusable(_) => "unusable",
    }
}

#[test]
fn records_of_the_case_file() {
    for case in case_file::read::<Case>("records") {
        match record::parse(&case.strings.concat()) {
            Err(fault) => {
                assert_eq!(kind(&fault), case.expect, "{}: {fault}", case.id);
                let text = fault.to_string();
                for part in &case.says {
                    assert!(text.contains(part), "{}: {text:?} does not say {part:?}", case.id);
                }
                if let Some(secret) = &case.never_says {
                    assert!(case.strings.concat().contains(secret), "{}: the secret is not in the record", case.id);
                    assert!(!format!("{text} {fault:?}").contains(secret), "{}: the secret is repeated", case.id);
                }
            }
            Ok(found) => {
                assert_eq!(case.expect, "valid", "{}", case.id);
                assert_eq!(found.key.kind().key_type(), case.kind.as_deref().unwrap_or("rsa"), "{}", case.id);
                assert!(
                    case.bits.is_none_or(|bits| bits == found.key.bits()),
                    "{}: {} bits",
                    case.id,
                    found.key.bits()
                );
                assert!(case.testing.is_none_or(|t| t == found.testing), "{}", case.id);
                assert!(case.strict.is_none_or(|s| s == found.strict), "{}", case.id);
                if let Some(p) = &case.same_key {
                    assert_eq!(found.key, PublicKey::from_p(found.key.kind(), p).unwrap(), "{}", case.id);
                    assert_eq!(&found.key.to_p(), p, "{}", case.id);
                }
                assert_eq!(found.warnings.len(), case.warnings.len(), "{}: {:?}", case.id, found.warnings);
                for (found, part) in found.warnings.iter().zip(&case.warnings) {
                    assert!(found.contains(part), "{}: {found:?} does not say {part:?}", case.id);
                }
            }
        }
    }
}

#[test]
fn what_we_build_parses_to_the_same_key_in_every_form() {
    for (key, algorithm) in
        [(SigningKey::ed25519(), KeyAlgorithm::Ed25519), (SigningKey::rsa_2048(), KeyAlgorithm::Rsa2048)]
    {
        let text = key.record();
        let parsed = record::parse(&text).unwrap();
        assert_eq!(parsed.key, key.public());
        assert_eq!(parsed.key.algorithm(), Some(algorithm));
        assert_eq!(parsed.warnings, Vec::<String>::new());
        let chunks = record::chunk(&text);
        assert!(chunks.iter().all(|c| c.len() <= 255));
        assert_eq!(chunks.concat(), text);
        let zone: Vec<String> = chunks.iter().map(|c| format!("\"{c}\"")).collect();
        assert_eq!(record::zone_text(&text), zone.join(" "));
    }
}

/// C02: two strings in one record, cut after exactly 255 octets.
#[test]
fn a_2048_bit_record_is_two_strings_of_one_record() {
    let text = SigningKey::rsa_2048().record();
    assert_eq!(text.len(), 410);
    assert_eq!(record::chunk(&text).iter().map(String::len).collect::<Vec<_>>(), [255, 155]);
    assert_eq!(record::zone_text(&text).matches("\" \"").count(), 1);
}

#[test]
fn chunks_and_zone_text_of_odd_values() {
    assert_eq!(record::chunk(""), [""]);
    assert_eq!(record::zone_text(""), "\"\"");
    assert_eq!(record::zone_text("a\"b\\c;d\u{7}é"), "\"a\\\"b\\\\c;d\\007\\195\\169\"");
    assert_eq!(record::chunk(&"x".repeat(510)).iter().map(String::len).collect::<Vec<_>>(), [255, 255]);
    // A character is never cut in two.
    assert_eq!(record::chunk(&"é".repeat(200)).iter().map(String::len).collect::<Vec<_>>(), [254, 146]);
}

/// Each cut of a record's text is a fault; never a panic, never another key.
#[test]
fn no_beginning_of_a_record_is_a_key() {
    for key in [SigningKey::ed25519(), SigningKey::rsa_2048()] {
        let text = key.record();
        for length in 0..text.len() {
            let fault = record::parse(&text[..length]).expect_err("a cut record is no key");
            let key_begun = length > text.find("p=").unwrap() + 12;
            assert!(
                !key_begun || matches!(fault, RecordFault::Truncated(_) | RecordFault::Malformed(_)),
                "{length}: {fault}"
            );
        }
    }
}

#[test]
fn a_signature_verifies_with_its_key_and_digest_only() {
    for key in [SigningKey::ed25519(), SigningKey::rsa_2048()] {
        let public = key.public();
        let digest = [7; 32];
        let signature = key.sign(&digest);
        assert!(public.verify_digest(&digest, &signature));
        assert!(!public.verify_digest(&[8; 32], &signature));
        assert!(!public.verify_digest(&digest, &signature[1..]));
        assert!(!public.verify_digest(&digest, &[]));
        assert!(!SigningKey::rsa_2048().public().verify_digest(&digest, &signature));
    }
}

#[test]
fn damaged_keys_are_faults() {
    let spki = SigningKey::rsa_2048();
    let SigningKey::Rsa(_) = &spki else { panic!("RSA") };
    let der = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(spki.public().to_p()).unwrap()
    };
    assert!(PublicKey::from_rsa_spki(&der).is_ok());
    for end in 0..der.len() {
        assert!(PublicKey::from_rsa_spki(&der[..end]).is_err(), "cut at {end}");
    }
    assert!(PublicKey::from_rsa_spki(&[&der[..], &[0]].concat()).is_err(), "an octet too many");
    // An even modulus, and exponent 1: no RSA keys.
    let mut even = der.clone();
    let last_of_modulus = der.len() - 6;
    even[last_of_modulus] &= 0xFE;
    assert!(PublicKey::from_rsa_spki(&even).is_err());
    for length in [0, 31, 33, 64] {
        assert!(PublicKey::from_ed25519(&vec![1; length]).is_err(), "{length} octets");
    }
}
