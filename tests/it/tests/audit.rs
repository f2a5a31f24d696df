//! The audit log: who did what, readable by the tenant, changed by nobody.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{Api, AppBuilder, Domain, PostgresServer, World, repository};
use std::path::Path;

fn entries(api: &Api, query: &str) -> Vec<Value> {
    api.get(&format!("/v1/audit?limit=100{query}")).expect(200).json()["data"].as_array().unwrap().clone()
}

/// Actions, oldest first.
fn actions(entries: &[Value]) -> Vec<&str> {
    entries.iter().rev().map(|entry| entry["action"].as_str().unwrap()).collect()
}

fn first_key(world: &World, domain: &Domain) -> String {
    let keys = world.tenant.api.get(&format!("/v1/domains/{}/keys", domain.id)).expect(200).json();
    keys["data"][0]["id"].as_str().unwrap().to_owned()
}

fn a_domain_leaves_its_trace(settings: impl FnOnce(AppBuilder) -> AppBuilder) {
    let world = World::start_with(settings);
    let domain = world.enabled_domain("example.test", "ed25519");
    let other = world.enabled_domain("other.test", "ed25519");
    let api = &world.tenant.api;
    let key = first_key(&world, &domain);
    let named = api.with_header("X-Request-Id", "revocation-1");
    named.post_empty(&format!("/v1/keys/{key}/revoke")).expect(200);
    let next = api.post_empty(&format!("/v1/domains/{}/keys/rotate", domain.id)).expect(201).json();
    let next = next["id"].as_str().unwrap();
    api.delete(&format!("/v1/domains/{}", domain.id)).expect(204);

    let log = entries(api, &format!("&domain={}", domain.id));
    let expected = [
        "key.created",
        "domain.created",
        "domain.verified",
        "key.published",
        "signing.enabled",
        "key.activated",
        "key.revoked",
        "signing.suspended",
        "key.created",
        "domain.deleted",
        "key.revoked",
    ];
    let mut told = actions(&log);
    // The rows of one change bear one time; which of them comes first is left open.
    let (mut told_sorted, mut expected_sorted) = (told.clone(), expected.to_vec());
    told_sorted.sort_unstable();
    expected_sorted.sort_unstable();
    assert_eq!(told_sorted, expected_sorted);
    told.retain(|action| action.starts_with("key."));
    assert_eq!(told, ["key.created", "key.published", "key.activated", "key.revoked", "key.created", "key.revoked"]);
    let caller = world.tenant.token.split('_').nth(1).unwrap();
    for entry in &log {
        assert_eq!((&entry["actor_type"], &entry["actor"]), (&json!("api_key"), &json!(caller)), "{entry:#}");
        assert_eq!(entry["domain"], domain.id.as_str());
        assert!(entry["request_id"].is_string(), "{entry:#}");
    }
    let revoked = entries(api, &format!("&domain={}&action=key.revoked", domain.id));
    assert_eq!(revoked.iter().map(|entry| entry["object"].as_str().unwrap()).collect::<Vec<_>>(), [next, key.as_str()]);
    assert_eq!((&revoked[1]["before"], &revoked[1]["after"]), (&json!("active"), &json!("revoked")));
    assert_eq!(revoked[1]["request_id"], "revocation-1");
    assert_eq!(
        (&revoked[0]["before"], &revoked[0]["details"]["reason"]),
        (&json!("pending"), &json!("domain_deleted"))
    );
    assert_eq!(entries(api, "&action=key.revoked").len(), 2);
    assert!(!entries(api, &format!("&domain={}", other.id)).is_empty());

    // In pages, without a gap.
    let all = entries(api, "");
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/v1/audit?limit=3{cursor}")).expect(200).json();
        paged.extend(page["data"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, all);
    assert_eq!(actions(&all)[0], "tenant.created");

    let stranger = world.app.tenant("Eve").api;
    assert_eq!(actions(&entries(&stranger, "")), ["tenant.created"]);
    assert!(entries(&stranger, &format!("&domain={}", domain.id)).is_empty());
}

#[test]
fn every_step_of_a_domain_and_its_keys_is_in_the_log() {
    a_domain_leaves_its_trace(|app| app);
}

#[test]
fn on_postgresql_too_and_no_statement_changes_it() {
    let server = PostgresServer::start();
    let database = server.database();
    a_domain_leaves_its_trace(|app| app.env("SIGNPOST_DATABASE_URL", database.as_str()));
    let before = server.sql(&database, "SELECT COUNT(*), MAX(id) FROM audit");
    for statement in ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"] {
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.sql(&database, statement)));
        assert!(tried.is_err(), "{statement} went through");
    }
    assert_eq!(server.sql(&database, "SELECT COUNT(*), MAX(id) FROM audit"), before);
}

#[test]
fn wrong_questions_about_the_log_are_refused() {
    let world = World::start();
    let api = &world.tenant.api;
    let absent = "0".repeat(32);
    for query in [
        "domain=example.test".to_owned(),
        format!("domain=key_{absent}"),
        "action=".to_owned(),
        "action=key".to_owned(),
        "action=Key.Revoked".to_owned(),
        "action=key.revoked&action=key.created".to_owned(),
        "cursor=x".to_owned(),
        format!("cursor=dom_{absent}"),
        "limit=0".to_owned(),
    ] {
        api.get(&format!("/v1/audit?{query}")).problem(422, "invalid-request");
    }
    assert!(entries(api, &format!("&domain=dom_{absent}")).is_empty());
    assert!(entries(api, "&action=never.done").is_empty());
}

/// The triggers of both databases refuse it; no code of ours tries.
#[test]
fn no_code_changes_or_deletes_audit_rows() {
    fn walk(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests") {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "sql") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(&repository().join("services"), &mut files);
    walk(&repository().join("migrations"), &mut files);
    assert!(files.len() > 100);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap().to_lowercase();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for statement in
            ["update audit", "delete from audit", "truncate audit", "drop table audit", "drop trigger audit"]
        {
            assert!(!text.contains(statement), "{}: {statement}", file.display());
        }
    }
}
