//! Who a name belongs to, when more than one tenant says so.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{Answer, App, Named, PostgresServer, Tenant, World, enabled_domain};

struct Claim {
    id: String,
    token: String,
    records: Vec<Value>,
}

/// Registers a name; gives the ownership token to publish.
fn claim(tenant: &Tenant, name: &str) -> Claim {
    claim_as(tenant, name, "txt")
}

fn claim_as(tenant: &Tenant, name: &str, mode: &str) -> Claim {
    let new = json!({"name": name, "algorithm": "ed25519", "dkim_mode": mode});
    let domain = tenant.api.post("/v1/domains", &new).expect(201).json();
    let records = domain["records"].as_array().unwrap().clone();
    let ownership = records.iter().find(|r| r["purpose"] == "ownership").unwrap();
    assert_eq!(ownership["name"], format!("_signpost.{name}"));
    Claim {
        id: domain["id"].as_str().unwrap().to_owned(),
        token: ownership["value"].as_str().unwrap().to_owned(),
        records,
    }
}

fn publish_keys(world: &World, claim: &Claim) {
    for record in claim.records.iter().filter(|r| r["purpose"] == "dkim") {
        world.named.publish(record);
    }
}

fn check(tenant: &Tenant, claim: &Claim) -> Answer {
    tenant.api.post_empty(&format!("/v1/domains/{}/check", claim.id))
}

fn ownership(tenant: &Tenant, claim: &Claim) -> String {
    let domain = tenant.api.get(&format!("/v1/domains/{}", claim.id)).expect(200).json();
    domain["ownership"].as_str().unwrap().to_owned()
}

fn send(tenant: &Tenant) -> Answer {
    tenant.api.post(
        "/v1/messages",
        &json!({"from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y"}),
    )
}

#[test]
fn an_unproven_claim_blocks_nobody_and_says_nothing() {
    let world = World::start();
    let eve = world.app.tenant("Eve");
    let squatted = claim(&eve, "example.test");
    let domain = world.enabled_domain("example.test", "ed25519");
    send(&world.tenant).expect(202);
    assert_ne!(squatted.token, "", "tokens are made per claim");
    assert_eq!(ownership(&eve, &squatted), "pending");
    send(&eve).problem(403, "domain-not-allowed");
    // Nor does another claim on a proven name.
    let late = world.app.tenant("Late");
    let late_claim = claim(&late, "example.test");
    assert_ne!(late_claim.token, squatted.token);
    send(&world.tenant).expect(202);
    assert_eq!(world.tenant.api.get(&format!("/v1/domains/{}", domain.id)).expect(200).json()["ownership"], "verified");
}

#[test]
fn one_tenant_cannot_register_a_name_twice() {
    let world = World::start();
    claim(&world.tenant, "example.test");
    world.tenant.api.post("/v1/domains", &json!({"name": "EXAMPLE.test"})).problem(409, "domain-exists");
}

#[test]
fn a_token_issued_after_the_owners_proof_takes_the_name_and_an_older_one_does_not() {
    let world = World::start();
    let bert = world.app.tenant("Bert");
    let old = claim(&bert, "example.test");
    let anns = claim(&world.tenant, "example.test");
    publish_keys(&world, &anns);
    world.named.publish_txt("_signpost.example.test", &[&anns.token]);
    assert_eq!(check(&world.tenant, &anns).expect(200).json()["verdict"], "pass");
    world.tenant.api.post_empty(&format!("/v1/domains/{}/signing/enable", anns.id)).expect(200);

    // Bert's token is older than Ann's proof: published, it wins nothing.
    publish_keys(&world, &old);
    world.named.publish_txt("_signpost.example.test", &[&anns.token, &old.token]);
    let answer = check(&bert, &old);
    assert!(matches!(answer.status, 200 | 409), "{}", answer.text());
    assert_ne!(ownership(&bert, &old), "verified");
    assert_eq!(ownership(&world.tenant, &anns), "verified");
    send(&bert).problem(403, "domain-not-allowed");

    // A new claim has a newer token.
    bert.api.delete(&format!("/v1/domains/{}", old.id)).expect(204);
    let new = claim(&bert, "example.test");
    assert_ne!(new.token, old.token);
    publish_keys(&world, &new);
    world.named.publish_txt("_signpost.example.test", &[&new.token]);
    assert_eq!(check(&bert, &new).expect(200).json()["verdict"], "pass");
    assert_eq!(ownership(&bert, &new), "verified");
    assert_eq!(ownership(&world.tenant, &anns), "lost");
    send(&world.tenant).problem(403, "domain-not-allowed");
    bert.api.post_empty(&format!("/v1/domains/{}/signing/enable", new.id)).expect(200);
    send(&bert).expect(202);

    // The old owner's old token never wins it back.
    world.named.publish_txt("_signpost.example.test", &[&anns.token]);
    let answer = check(&world.tenant, &anns);
    assert!(matches!(answer.status, 200 | 409), "{}", answer.text());
    assert_eq!(ownership(&world.tenant, &anns), "lost");
    assert_eq!(ownership(&bert, &new), "verified");
    let told = world.tenant.api.get(&format!("/v1/domains/{}", anns.id)).expect(200).json();
    assert_eq!(told["signing_reason"], "ownership_lost", "{told:#}");
}

#[test]
fn of_claims_racing_for_a_name_exactly_one_wins() {
    let world = World::start();
    for name in ["example.test", "other.test", "third.test"] {
        let tenants: Vec<Tenant> = (0..4).map(|n| world.app.tenant(&format!("Racer {n}"))).collect();
        let claims: Vec<Claim> = tenants.iter().map(|tenant| claim(tenant, name)).collect();
        for claim in &claims {
            publish_keys(&world, claim);
        }
        let tokens: Vec<&str> = claims.iter().map(|c| c.token.as_str()).collect();
        world.named.publish_txt(&format!("_signpost.{name}"), &tokens);
        std::thread::scope(|scope| {
            for (tenant, claim) in tenants.iter().zip(&claims) {
                scope.spawn(|| {
                    let answer = check(tenant, claim);
                    assert!(matches!(answer.status, 200 | 409), "{}", answer.text());
                });
            }
        });
        let mut owned: Vec<String> = tenants.iter().zip(&claims).map(|(t, c)| ownership(t, c)).collect();
        owned.sort_unstable();
        // Nobody won and lost again: all tokens are older than the winner's proof.
        assert_eq!(owned, ["pending", "pending", "pending", "verified"], "{name}");
    }
}

/// A hundred claims of one name, half of them delegated, all with their token in DNS, checked at the same moment by several processes.
fn a_hundred_race(apps: &[&App], named: &Named, name: &str) {
    const RACERS: usize = 100;
    let racers: Vec<(Tenant, Claim)> = std::thread::scope(|scope| {
        let made: Vec<_> = (0..4)
            .map(|part| {
                scope.spawn(move || {
                    let numbers = (0..RACERS).filter(move |number| number % 4 == part);
                    numbers
                        .map(|number| {
                            let tenant = apps[number % apps.len()].tenant(&format!("Racer {number}"));
                            let mode = if number % 2 == 0 { "delegated" } else { "txt" };
                            let claim = claim_as(&tenant, name, mode);
                            (tenant, claim)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        made.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    let tokens: Vec<&str> = racers.iter().map(|(_, claim)| claim.token.as_str()).collect();
    named.publish_txt(&format!("_signpost.{name}"), &tokens);
    let start = std::sync::Barrier::new(RACERS);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let checks: Vec<_> = racers
            .iter()
            .map(|(tenant, claim)| {
                scope.spawn(|| {
                    start.wait();
                    check(tenant, claim)
                })
            })
            .collect();
        checks.into_iter().map(|check| check.join().unwrap()).collect()
    });
    for answer in &answers {
        match answer.status {
            200 => {}
            409 => drop(answer.problem(409, "claim-contested")),
            _ => panic!("{}", answer.text()),
        }
    }
    let mut counts = std::collections::BTreeMap::new();
    for (tenant, claim) in &racers {
        *counts.entry(ownership(tenant, claim)).or_insert(0) += 1;
    }
    assert_eq!(counts, [("pending".to_owned(), RACERS - 1), ("verified".to_owned(), 1)].into());
    // Nor does anybody win later by a token of that race.
    for (tenant, claim) in racers.iter().filter(|(tenant, claim)| ownership(tenant, claim) == "pending").take(3) {
        check(tenant, claim);
        assert_eq!(ownership(tenant, claim), "pending");
    }
}

#[test]
fn of_a_hundred_claims_at_once_one_wins_on_sqlite() {
    let named = World::zones().start();
    let app = App::with().dns(&named).env("SIGNPOST_DNS_UPDATE", named.update_setting()).start();
    a_hundred_race(&[&app], &named, "example.test");
}

#[test]
fn of_a_hundred_claims_at_once_one_wins_among_processes_on_postgresql() {
    let (named, server) = (World::zones().start(), PostgresServer::start());
    let database = server.database();
    let settings = || {
        let app = App::with().dns(&named).env("SIGNPOST_DNS_UPDATE", named.update_setting());
        app.env("SIGNPOST_DATABASE_URL", database.as_str())
    };
    let first = settings().start();
    let second = settings().env("SIGNPOST_MASTER_KEY_FILE", first.master_key_file().display().to_string()).start();
    a_hundred_race(&[&first, &second], &named, "example.test");
}

#[test]
fn the_owner_of_a_child_keeps_it_when_another_proves_the_parent_later() {
    let world = World::start();
    let bert = world.app.tenant("Bert");
    let child = enabled_domain(&bert, &world.named, "shop.example.test", "ed25519");
    let parent = world.enabled_domain("example.test", "ed25519");
    for (tenant, domain) in [(&bert, &child), (&world.tenant, &parent)] {
        let read = tenant.api.get(&format!("/v1/domains/{}", domain.id)).expect(200).json();
        assert_eq!((&read["ownership"], &read["signing"]), (&json!("verified"), &json!("enabled")));
    }
    let post = |tenant: &Tenant, from: &str| {
        let message = json!({"from": from, "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
        tenant.api.post("/v1/messages", &message)
    };
    for from in ["ann@shop.example.test", "ann@deep.shop.example.test"] {
        post(&world.tenant, from).problem(403, "domain-not-allowed");
        post(&bert, from).expect(202);
    }
    post(&bert, "bert@example.test").problem(403, "domain-not-allowed");
    // What nobody proved below a proven name is the nearest owner's; a claim alone changes nothing.
    claim(&bert, "news.example.test");
    post(&bert, "bert@news.example.test").problem(403, "domain-not-allowed");
    post(&world.tenant, "ann@news.example.test").expect(202);
    // Without its owner the child is the parent's again, as far as it was not proven anew.
    bert.api.delete(&format!("/v1/domains/{}", child.id)).expect(204);
    post(&bert, "bert@shop.example.test").problem(403, "domain-not-allowed");
    post(&world.tenant, "ann@shop.example.test").expect(202);
}
