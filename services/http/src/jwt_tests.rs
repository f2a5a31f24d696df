use super::*;

const NOW: i64 = 1_800_000_000;

/// RFC 8032 7.1, test 1: seed and public key.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

fn octets(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn pkcs8() -> Vec<u8> {
    // RFC 8410 7.
    [octets("302e020100300506032b657004220420"), octets(SEED)].concat()
}

fn key() -> TokenPublicKey {
    TokenPublicKey { kid: "k1".into(), public_key: octets(PUBLIC) }
}

fn issuer() -> Issuer {
    Issuer::new("https://signpost.example/")
}

fn good_claims() -> Value {
    json!({"iss": "https://signpost.example", "aud": "https://signpost.example/v1", "sub": "a1", "scope": "sign", "iat": NOW,
           "exp": NOW + 900, "jti": "j"})
}

/// A token with these claims, rightly signed.
fn signed(claims: &Value) -> String {
    signed_as("at+jwt", claims)
}

fn signed_as(typ: &str, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(typ.into());
    header.kid = Some("k1".into());
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_der(&pkcs8())).unwrap()
}

/// The good claims with one changed, or without it (null).
fn with(name: &str, value: Value) -> String {
    let mut claims = good_claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().shift_remove(name);
    } else {
        claims[name] = value;
    }
    signed(&claims)
}

/// A token with this header, its other parts as they are.
fn with_header(header: &Value) -> String {
    let token = signed(&good_claims());
    let (_, rest) = token.split_once('.').unwrap();
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

#[test]
fn what_is_issued_verifies_and_says_what_it_is_for() {
    let scopes = [Scope::Sign, Scope::MessagesRead];
    let token = issuer().issue(("k1", &pkcs8()), "a1", &scopes, ("j", NOW)).unwrap();
    assert!(looks_like(&token));
    assert_eq!(kid(&token).as_deref(), Ok("k1"));
    let claims = issuer().verify(&token, &key(), NOW).unwrap();
    assert_eq!(claims, Claims { key_id: "a1".into(), scopes: scopes.to_vec() });
    let header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!(header, json!({"typ": "at+jwt", "alg": "EdDSA", "kid": "k1"}));
    assert_eq!(issuer().verify(&signed(&good_claims()), &key(), NOW).map(|claims| claims.key_id).as_deref(), Ok("a1"));
}

#[test]
fn every_claim_is_there_of_the_right_type_and_value() {
    use Refused::{Claim, Expired};
    let cases = [
        ("exp", Value::Null, Claim("exp")),
        ("exp", json!((NOW + 900).to_string()), Claim("exp")),
        ("exp", json!(1_800_000_900.5), Claim("exp")),
        ("exp", json!(1.8e9 + 900.0), Claim("exp")),
        ("exp", json!(-1), Claim("exp")),
        ("exp", json!([NOW + 900]), Refused::Malformed),
        ("exp", json!(true), Claim("exp")),
        ("exp", json!(u64::MAX), Claim("exp")),
        ("exp", json!(NOW - 30), Expired),
        ("exp", json!(0), Expired),
        ("aud", Value::Null, Claim("aud")),
        ("aud", json!("https://signpost.example"), Claim("aud")),
        ("aud", json!("https://other.example/v1"), Claim("aud")),
        ("aud", json!(["https://signpost.example/v1"]), Claim("aud")),
        ("aud", json!(""), Claim("aud")),
        ("iss", Value::Null, Claim("iss")),
        ("iss", json!("https://other.example"), Claim("iss")),
        ("iss", json!("https://signpost.example/"), Claim("iss")),
        ("iss", json!(7), Claim("iss")),
        ("sub", Value::Null, Claim("sub")),
        ("sub", json!(7), Claim("sub")),
        ("sub", json!(""), Claim("sub")),
        ("sub", json!("a1' OR '1'='1"), Claim("sub")),
        ("scope", Value::Null, Claim("scope")),
        ("scope", json!(["sign"]), Claim("scope")),
        ("nbf", json!(NOW + 31), Claim("nbf")),
        ("nbf", json!("now"), Claim("nbf")),
        ("iat", json!(NOW + 31), Claim("iat")),
        ("iat", json!(-1), Claim("iat")),
    ];
    for (name, value, why) in cases {
        let token = with(name, value.clone());
        assert_eq!(issuer().verify(&token, &key(), NOW), Err(why), "{name} {value}");
    }
    for (name, value) in [
        // The leeway of 30 s.
        ("exp", json!(NOW - 29)),
        ("nbf", json!(NOW + 30)),
        ("iat", json!(NOW + 30)),
        ("iat", Value::Null),
        ("scope", json!("sign unheard-of")),
    ] {
        assert!(issuer().verify(&with(name, value.clone()), &key(), NOW).is_ok(), "{name} {value}");
    }
}

#[test]
fn a_header_is_as_ours_are_or_nothing() {
    let good = json!({"typ": "at+jwt", "alg": "EdDSA", "kid": "k1"});
    let changed = |name: &str, value: Value| {
        let mut header = good.clone();
        if value.is_null() {
            header.as_object_mut().unwrap().shift_remove(name);
        } else {
            header[name] = value;
        }
        with_header(&header)
    };
    for (name, value) in [
        ("typ", Value::Null),
        ("typ", json!("JWT")),
        ("typ", json!("jwt+at")),
        ("typ", json!(["at+jwt"])),
        ("alg", Value::Null),
        ("alg", json!("none")),
        ("alg", json!("None")),
        ("alg", json!("HS256")),
        ("alg", json!("RS256")),
        ("alg", json!("eddsa")),
        ("kid", Value::Null),
        ("kid", json!("")),
        ("kid", json!(1)),
        ("kid", json!("../../etc/passwd")),
        ("kid", json!("k1' OR '1'='1")),
        ("kid", json!("k1\u{0}")),
        ("kid", json!("k".repeat(65))),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
    ] {
        assert_eq!(kid(&changed(name, value.clone())), Err(Refused::Header), "{name} {value}");
    }
    // RFC 9068 4 allows these names of the type; they still change the signed octets.
    for typ in ["AT+JWT", "application/at+jwt"] {
        let token = changed("typ", json!(typ));
        assert_eq!(kid(&token).as_deref(), Ok("k1"));
        assert_eq!(issuer().verify(&token, &key(), NOW), Err(Refused::Signature));
        let token = signed_as(typ, &good_claims());
        assert_eq!(issuer().verify(&token, &key(), NOW).map(|claims| claims.key_id).as_deref(), Ok("a1"));
    }
    for token in ["", "..", "a.b.c", "!.!.!", &format!("{}.b.c", "a".repeat(5000))] {
        assert_eq!(kid(token), Err(Refused::Malformed), "{token:.20}");
    }
}

#[test]
fn only_a_signature_by_that_key_over_these_octets_counts() {
    let good = signed(&good_claims());
    assert!(issuer().verify(&good, &key(), NOW).is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("{good}") };
    let other = TokenPublicKey { public_key: vec![9; 32], ..key() };
    assert_eq!(issuer().verify(&good, &other, NOW), Err(Refused::Signature));
    assert_eq!(issuer().verify(&good, &TokenPublicKey { kid: "k2".into(), ..key() }, NOW), Err(Refused::UnknownKey));
    let mut raised = good_claims();
    raised["scope"] = json!("admin");
    let raised = URL_SAFE_NO_PAD.encode(raised.to_string());
    // An HMAC under what everybody knows, the public key.
    let mut hmac = Header::new(Algorithm::HS256);
    (hmac.typ, hmac.kid) = (Some("at+jwt".into()), Some("k1".into()));
    let hs256 = jsonwebtoken::encode(&hmac, &good_claims(), &EncodingKey::from_secret(&octets(PUBLIC))).unwrap();
    assert_eq!(issuer().verify(&hs256, &key(), NOW), Err(Refused::Header));
    for token in [
        format!("{header}.{raised}.{signature}"),
        format!("{header}.{claims}."),
        format!("{header}.{claims}.{}", "A".repeat(86)),
        format!("{header}.{claims}"),
        format!("{header}.{claims}.{signature}.{signature}"),
        format!("{header}.{claims}.{signature}="),
    ] {
        assert_eq!(issuer().verify(&token, &key(), NOW), Err(Refused::Signature), "{token}");
    }
}

#[test]
fn an_api_key_is_never_taken_for_a_token() {
    for token in ["sp_a1_secret", "sp_a.b.c", "a.b", "a.b.c.d", ""] {
        assert!(!looks_like(token), "{token}");
    }
}
