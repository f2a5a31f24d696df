//! The master key's file form, its check value, and its silence.
#![expect(clippy::unwrap_used, reason = "outside of #[test] functions too, a failed step of a test must fail it")]
mod seeded;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use seeded::Seeded;
use signpost_keys::{MasterKey, Random as _, SystemRandom};

#[test]
fn the_file_form_round_trips() {
    let key = MasterKey::generate(&SystemRandom);
    let text = key.to_base64();
    assert_eq!(STANDARD.decode(text.as_bytes()).unwrap().len(), 32);
    for around in [text.to_string(), format!("{}\n", *text), format!("  {}\r\n\t", *text)] {
        assert!(MasterKey::from_base64(&around).unwrap().matches(&key.check_value()), "{around:?}");
    }
}

#[test]
fn a_fresh_key_is_the_rng_s_octets() {
    let mut octets = [0; 32];
    Seeded::new(1).fill(&mut octets);
    assert_eq!(*MasterKey::generate(&Seeded::new(1)).to_base64(), STANDARD.encode(octets));
    assert!(!MasterKey::generate(&SystemRandom).matches(&MasterKey::generate(&SystemRandom).check_value()));
}

#[test]
fn a_wrong_file_is_refused_without_showing_it() {
    let good = STANDARD.encode([0xa7; 32]);
    let cases = [
        ("empty", String::new()),
        ("blank", " \n".into()),
        ("31 octets", STANDARD.encode([0xa7; 31])),
        ("33 octets", STANDARD.encode([0xa7; 33])),
        ("64 octets", STANDARD.encode([0xa7; 64])),
        ("no padding", good.trim_end_matches('=').into()),
        ("cut", good[..40].into()),
        ("space inside", format!("{} {}", &good[..20], &good[20..])),
        ("two keys", format!("{good}\n{good}")),
        ("url-safe alphabet", good.replace('+', "-").replace('/', "_").replacen('p', "-", 1)),
        ("hexadecimal", "a7".repeat(32)),
        ("raw octets", "\u{a7}".repeat(32)),
    ];
    for (name, text) in cases {
        let error = MasterKey::from_base64(&text).map(|_| ()).expect_err(name).to_string();
        assert!(error.contains("base64 of exactly 32 octets"), "{name}: {error}");
        for piece in text.split_whitespace().filter(|piece| piece.len() >= 8) {
            assert!(!error.contains(&piece[..8]), "{name}: the text shows the file: {error}");
        }
    }
}

#[test]
fn the_check_value_tells_only_the_right_key() {
    let (one, two) = (MasterKey::generate(&Seeded::new(1)), MasterKey::generate(&Seeded::new(2)));
    let value = one.check_value();
    assert_eq!(value.len(), 32);
    assert!(one.matches(&value));
    assert!(!two.matches(&value));
    assert!(!one.matches(&[]));
    assert!(!one.matches(&value[..31]));
    for octet in 0..value.len() {
        let mut changed = value.clone();
        changed[octet] ^= 1;
        assert!(!one.matches(&changed), "octet {octet}");
    }
}

#[test]
fn purposes_give_unrelated_subkeys_and_never_the_check_value() {
    let key = MasterKey::generate(&Seeded::new(1));
    assert_eq!(key.derive("api-key pepper"), key.derive("api-key pepper"));
    assert_ne!(key.derive("api-key pepper"), key.derive("api-key pepper "));
    for purpose in ["", "check", "check:", ":", "api-key pepper"] {
        assert_ne!(key.derive(purpose).to_vec(), key.check_value(), "{purpose:?}");
    }
}

#[test]
fn debug_shows_nothing() {
    let one = format!("{:?} {:#?}", MasterKey::generate(&Seeded::new(1)), MasterKey::generate(&Seeded::new(1)));
    let two = format!("{:?} {:#?}", MasterKey::generate(&Seeded::new(2)), MasterKey::generate(&Seeded::new(2)));
    assert_eq!(one, two, "the text depends on the key");
}
