//! What is in databases and backups must open for ever. The vectors were made by another implementation
//! (Python's hmac and cryptography), so they also judge ours.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "outside of #[test] functions too, a failed step of a test must fail it"
)]
mod seeded;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use seeded::Seeded;
use signpost_dkim::record::PublicKey;
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};
use signpost_keys::{Custody as _, CustodyError, KeyBinding, MasterKey, SealedCustody, StoredKey};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// `key: value` lines of one vector; every key must be asked for.
struct Vector {
    name: String,
    fields: BTreeMap<String, String>,
}

impl Vector {
    fn all(folder: &str, known: &[&str]) -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(folder);
        let mut paths: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path, known)).collect()
    }

    fn read(path: &Path, known: &[&str]) -> Self {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut fields = BTreeMap::new();
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("{name}: no colon in {line:?}"));
            assert!(known.contains(&key), "{name}: unknown key {key:?}");
            assert!(fields.insert(key.to_owned(), value.trim().to_owned()).is_none(), "{name}: {key:?} twice");
        }
        let vector = Self { name, fields };
        assert!(!vector.text("rfc").is_empty(), "{}: no rfc", vector.name);
        vector
    }

    fn text(&self, key: &str) -> &str {
        self.fields.get(key).unwrap_or_else(|| panic!("{}: {key:?} is missing", self.name))
    }

    fn octets(&self, key: &str) -> Vec<u8> {
        STANDARD.decode(self.text(key)).unwrap()
    }
}

#[test]
fn subkeys_are_those_of_the_vectors() {
    let vectors = Vector::all("subkey", &["rfc", "master", "purpose", "check", "expect"]);
    assert_eq!(vectors.len(), 4);
    for vector in vectors {
        let master = MasterKey::from_base64(vector.text("master")).unwrap();
        let expected = vector.octets("expect");
        if vector.fields.contains_key("check") {
            assert_eq!(master.check_value(), expected, "{}", vector.name);
            assert!(master.matches(&expected), "{}", vector.name);
        } else {
            assert_eq!(master.derive(vector.text("purpose")).to_vec(), expected, "{}", vector.name);
        }
    }
}

#[tokio::test]
async fn sealed_keys_of_the_vectors_open_or_are_refused() {
    let known = [
        "rfc",
        "master",
        "tenant",
        "domain",
        "selector",
        "key-id",
        "algorithm",
        "public-key",
        "sealed",
        "digest",
        "signature",
        "expect",
    ];
    let vectors = Vector::all("sealed", &known);
    assert_eq!(vectors.len(), 9);
    for vector in vectors {
        let custody = SealedCustody::new(Arc::new(Seeded::new(1)));
        custody.unseal(&MasterKey::from_base64(vector.text("master")).unwrap());
        let algorithm = KeyAlgorithm::parse(vector.text("algorithm")).unwrap();
        let binding = KeyBinding {
            tenant: vector.text("tenant").into(),
            domain: SigningDomain::parse(vector.text("domain")).unwrap(),
            selector: Selector::parse(vector.text("selector")).unwrap(),
            key_id: vector.text("key-id").into(),
        };
        let stored = StoredKey {
            reference: format!("sealed:{}", vector.text("key-id")),
            sealed: vector.octets("sealed"),
            public_key: PublicKey::from_p(algorithm.signature_algorithm(), vector.text("public-key")).unwrap(),
            algorithm,
        };
        let digest = vector.octets("digest").try_into().unwrap();
        let name = &vector.name;
        match (vector.text("expect"), custody.sign(&binding, &stored, &digest).await) {
            ("signs", Ok(signature)) => assert_eq!(signature, vector.octets("signature"), "{name}"),
            ("refused", Err(CustodyError::Refused(_))) | ("unavailable", Err(CustodyError::Unavailable(_))) => {}
            (expected, got) => panic!("{name}: expected {expected}, got {got:?}"),
        }
    }
}
