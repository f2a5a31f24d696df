//! Keys that were made elsewhere, through the API: every form is taken, nothing bad is, and nothing of a key is shown.
#![cfg(test)]

use serde::Deserialize;
use serde_json::{Value, json};
use signpost_it::{Answer, DkimPy, Domain, PostgresServer, Tenant, World, enabled_domain};

/// A line of tests/cases/keys/import.jsonl; `signpost-keys` reads the same file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "title and rfc are for people")]
struct Case {
    id: String,
    title: String,
    rfc: String,
    private_key: String,
    expect: Value,
}

fn cases() -> Vec<Case> {
    include_str!("../../cases/keys/import.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn key(id: &str) -> String {
    cases().into_iter().find(|case| case.id == id).unwrap().private_key
}

const SHARES_A_PRIME_WITH_RSA_E_3: &str = include_str!("../../cases/keys/shares-a-prime-with-rsa-e-3.pem");

/// The longest run of base64 in a key; it may be found nowhere.
fn middle(private_key: &str) -> Option<&str> {
    let run =
        private_key.split(|c: char| !c.is_ascii_alphanumeric() && c != '/' && c != '+').max_by_key(|r| r.len())?;
    (run.len() >= 24 && !run.starts_with("AAAAAAAA")).then(|| &run[4..20])
}

fn import(tenant: &Tenant, domain: &str, private_key: &str) -> Answer {
    tenant.api.post(&format!("/v1/domains/{domain}/keys/import"), &json!({"private_key": private_key}))
}

fn keys(tenant: &Tenant, domain: &str) -> Vec<Value> {
    let keys = tenant.api.get(&format!("/v1/domains/{domain}/keys")).expect(200).json();
    keys["data"].as_array().unwrap().clone()
}

fn register(tenant: &Tenant, name: &str) -> String {
    let domain = tenant.api.post("/v1/domains", &json!({"name": name, "algorithm": "ed25519"})).expect(201).json();
    domain["id"].as_str().unwrap().to_owned()
}

/// H05, H06, H07.
#[test]
fn every_form_of_a_key_is_taken_and_every_bad_key_is_told_why() {
    let world = World::start();
    let tenant = &world.tenant;
    let mut domain = register(tenant, "example.test");
    for (number, case) in cases().into_iter().enumerate() {
        // A public key may be seen.
        if let Some(piece) = middle(&case.private_key).filter(|_| !case.id.starts_with("rsa-public")) {
            world.app.learn_secret(&case.id, piece.as_bytes());
        }
        let before = keys(tenant, &domain).len();
        let answer = import(tenant, &domain, &case.private_key);
        if let Some(refused) = case.expect["refused"].as_str() {
            let problem = answer.problem(422, "invalid-request");
            assert_eq!(answer.pointers(), ["/private_key"], "{}", case.id);
            assert!(problem["detail"].as_str().unwrap().contains(refused), "{}: {problem}", case.id);
            assert_eq!(keys(tenant, &domain).len(), before, "{}: something is stored", case.id);
            continue;
        }
        // The forms of one RSA key after the first: it is stored already, whoever brings it.
        if answer.status == 422 && case.expect["algorithm"] == "rsa-2048" {
            assert!(answer.text().contains("in use here already"), "{}: {}", case.id, answer.text());
            continue;
        }
        let made = answer.expect(201).json();
        assert_eq!((&made["algorithm"], &made["public_key"]), (&case.expect["algorithm"], &case.expect["public_key"]));
        assert_eq!((made["custody"].as_str(), made["state"].as_str()), (Some("imported"), Some("pending")));
        if before + 1 == 10 {
            domain = register(tenant, &format!("d{number}.example"));
        }
    }
}

fn signs_after_its_record_is_published(private_key: &str, selector: Option<&str>, settings: &str) {
    let server = (settings == "postgres").then(PostgresServer::start);
    let database = server.as_ref().map(PostgresServer::database);
    let world = World::start_with(|app| match &database {
        Some(database) => app.env("SIGNPOST_DATABASE_URL", database.as_str()),
        None => app,
    });
    world.app.learn_secret("the imported key", middle(private_key).unwrap().as_bytes());
    let domain = world.enabled_domain("example.test", "ed25519");
    let path = format!("/v1/domains/{}", domain.id);
    let body = match selector {
        Some(selector) => json!({"private_key": private_key, "selector": selector}),
        None => json!({"private_key": private_key}),
    };
    let made = world.tenant.api.post(&format!("{path}/keys/import"), &body).expect(201).json();
    if let Some(selector) = selector {
        assert_eq!(made["selector"], selector);
    }
    let name = format!("{}._domainkey.example.test", made["selector"].as_str().unwrap());
    let records = world.tenant.api.get(&format!("{path}/records")).expect(200).json();
    let record = records["data"].as_array().unwrap().iter().find(|record| record["name"] == name.as_str()).unwrap();
    world.named.publish(record);
    world.tenant.api.post_empty(&format!("{path}/check")).expect(200);
    let now = Domain::from_json(&world.tenant.api.get(&path).expect(200).json());
    assert_eq!(Some(now.selector.as_str()), made["selector"].as_str(), "the imported key is the active one");

    let id = world.send_to(&now, "bob@receiver.test");
    world.tenant.api.message_with_status(&id, "delivered");
    let received = world.receiver.wait_for_recipient("bob@receiver.test");
    now.assert_signed(&received.octets, &mut DkimPy::start(), &world.named);
    if let (Some(server), Some(database)) = (&server, &database) {
        let sql = "SELECT action, details::json->>'selector' FROM audit WHERE action = 'key.imported'";
        assert_eq!(server.sql(database, sql), format!("key.imported|{}", now.selector));
        let sql = "SELECT COUNT(*) FROM dkim_keys WHERE custody = 'imported' AND reference LIKE 'sealed:%'";
        assert_eq!(server.sql(database, sql), "1");
    }
}

#[test]
fn an_imported_rsa_key_signs_once_its_record_is_published() {
    signs_after_its_record_is_published(&key("rsa-pkcs1-crlf"), Some("mail.2026"), "sqlite");
}

#[test]
fn on_postgresql_an_imported_ed25519_key_signs_once_its_record_is_published() {
    signs_after_its_record_is_published(&key("ed25519-pkcs8"), None, "postgres");
}

#[test]
fn a_key_or_a_factor_that_is_stored_is_not_taken_again_and_whose_it_is_is_not_said() {
    let world = World::start();
    let (ann, eve) = (&world.tenant, world.app.tenant("Eve"));
    let (ours, second, theirs) =
        (register(ann, "example.test"), register(ann, "second.example"), register(&eve, "other.test"));
    import(ann, &ours, &key("rsa-e-3")).expect(201);
    for (tenant, domain, private_key) in [
        (ann, &ours, key("rsa-e-3")),
        (ann, &second, key("rsa-e-3")),
        (&eve, &theirs, key("rsa-e-3")),
        (&eve, &theirs, SHARES_A_PRIME_WITH_RSA_E_3.to_owned()),
    ] {
        let answer = import(tenant, domain, &private_key);
        answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), ["/private_key"]);
        for name in ["example.test", "Ann", "dom_", "ten_", "key_"] {
            assert!(!answer.text().contains(name), "{}", answer.text());
        }
    }
    // Also when the one that had it is gone.
    ann.api.delete(&format!("/v1/domains/{ours}")).expect(204);
    import(&eve, &theirs, &key("rsa-e-3")).problem(422, "invalid-request");

    // An Ed25519 key has no factors: one tenant may have it for several domains, two may not.
    let (another, third) = (register(ann, "third.example"), key("ed25519-seed"));
    import(ann, &second, &third).expect(201);
    import(ann, &another, &third).expect(201);
    import(&eve, &theirs, &third).problem(422, "invalid-request");
    assert_eq!(keys(&eve, &theirs).len(), 1);
}

#[test]
fn a_selector_has_labels_of_letters_digits_and_hyphens_and_is_used_once() {
    let world = World::start();
    let domain = register(&world.tenant, "example.test");
    let path = format!("/v1/domains/{domain}/keys/import");
    let try_with = |selector: &Value| {
        world.tenant.api.post(&path, &json!({"private_key": key("ed25519-seed"), "selector": selector}))
    };
    let long = "a".repeat(63);
    for good in ["s1", "Mail.2026-A", long.as_str(), "a.b.c.d"] {
        let made = try_with(&json!(good)).expect(201).json();
        assert_eq!(made["selector"], good.to_ascii_lowercase());
    }
    let too_long = "a".repeat(64);
    let name_too_long = [long.as_str(); 4].join(".");
    for bad in [
        "",
        " ",
        "s 1",
        "s1 ",
        "s1.",
        ".s1",
        "a..b",
        "-a",
        "a-",
        "s_1",
        "sé",
        too_long.as_str(),
        &name_too_long,
        "s1\n",
    ] {
        let answer = try_with(&json!(bad));
        answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), ["/selector"], "{bad:?}");
    }
    let again = try_with(&json!("S1"));
    again.problem(422, "invalid-request");
    assert_eq!(again.pointers(), ["/selector"]);
    assert!(again.text().contains("used"), "{}", again.text());
    try_with(&json!(5)).problem(422, "invalid-request");
    // Both faults are told at once.
    let both = world.tenant.api.post(&path, &json!({"private_key": "", "selector": "a b"}));
    both.problem(422, "invalid-request");
    assert_eq!(both.pointers(), ["/private_key", "/selector"]);
    world.tenant.api.post(&path, &json!({"selector": "s2"})).problem(422, "invalid-request");
    world.tenant.api.post(&path, &json!({"private_key": 5})).problem(422, "invalid-request");
    assert_eq!(keys(&world.tenant, &domain).len(), 1 + 4);
}

/// Who never proved the name cannot keep its owner from a selector.
fn a_claim_without_proof_keeps_no_selector(settings: &str) {
    let server = (settings == "postgres").then(PostgresServer::start);
    let database = server.as_ref().map(PostgresServer::database);
    let world = World::start_with(|app| match &database {
        Some(database) => app.env("SIGNPOST_DATABASE_URL", database.as_str()),
        None => app,
    });
    let stranger = world.app.tenant("stranger");
    let claim = register(&stranger, "example.test");
    let with = |key: &str, selector: &str| json!({"private_key": key, "selector": selector});
    let held = stranger
        .api
        .post(&format!("/v1/domains/{claim}/keys/import"), &with(&key("rsa-pkcs8"), "mail"))
        .expect(201)
        .json();
    let owned = world.enabled_domain("example.test", "ed25519");
    let import = format!("/v1/domains/{}/keys/import", owned.id);
    let taken = world.tenant.api.post(&import, &with(&key("ed25519-pkcs8"), "mail")).expect(201).json();
    assert_eq!(taken["selector"], "mail");
    let shown = keys(&stranger, &claim).into_iter().find(|key| key["id"] == held["id"]).unwrap();
    assert_eq!((&shown["state"], &shown["selector"]), (&json!("revoked"), &json!("mail")));
    let log = stranger.api.get(&format!("/v1/audit?domain={claim}")).expect(200).json();
    let row = log["data"].as_array().unwrap().iter().find(|row| row["action"] == "key.revoked").unwrap();
    assert_eq!((&row["object"], &row["actor_type"]), (&held["id"], &json!("system")), "{row:#}");
    // Its own selector is used once all the same.
    let again = world.tenant.api.post(&import, &with(&key("ed25519-seed"), "mail"));
    assert_eq!((again.status, again.pointers()), (422, vec!["/selector".to_owned()]), "{}", again.text());
    // The other way round nothing is taken from who proved the name.
    let other =
        stranger.api.post(&format!("/v1/domains/{claim}/keys/import"), &with(&key("rsa-3072"), &owned.selector));
    assert_eq!((other.status, other.pointers()), (422, vec!["/selector".to_owned()]), "{}", other.text());
}

#[test]
fn a_claim_without_proof_keeps_no_selector_from_the_owner() {
    a_claim_without_proof_keeps_no_selector("sqlite");
}

#[test]
fn on_postgresql_a_claim_without_proof_keeps_no_selector_from_the_owner() {
    a_claim_without_proof_keeps_no_selector("postgres");
}

#[test]
fn of_two_requests_with_one_key_at_the_same_time_one_has_it() {
    let world = World::start();
    let domains: Vec<String> = (0..6).map(|n| register(&world.tenant, &format!("d{n}.example"))).collect();
    let private_key = key("rsa-pkcs8");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let import = |domain: &str| import(&world.tenant, domain, &private_key).status;
        let running: Vec<_> = domains.iter().map(|domain| scope.spawn(move || import(domain))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 422).count(), 5, "{statuses:?}");
}

#[test]
fn another_tenant_s_verified_domain_takes_no_key() {
    let world = World::start();
    let domain = enabled_domain(&world.tenant, &world.named, "example.test", "ed25519");
    let eve = world.app.tenant("Eve");
    import(&eve, &domain.id, &key("ed25519-seed")).problem(404, "not-found");
    assert_eq!(keys(&world.tenant, &domain.id).len(), 1);
}
