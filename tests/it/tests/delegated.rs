//! Delegated mode against a real BIND: the tenant publishes once, everything after that is the service's.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{
    App, AppBuilder, DEADLINE, DkimPy, Domain, Gate, Named, NamedBuilder, PostgresServer, Receiver, Tenant, World,
    required, wait_for,
};
use std::collections::{BTreeMap, BTreeSet};

/// A world whose service publishes on its BIND; its log and answers must not hold the TSIG secret.
fn world_of(zones: NamedBuilder, settings: impl FnOnce(AppBuilder, &Named) -> AppBuilder) -> World {
    let (named, receiver) = (zones.start(), Receiver::start());
    let app = App::with().dns(&named).relay(&receiver).secret("TSIG secret", named.update_secret());
    let app = settings(app.env("SIGNPOST_DNS_UPDATE", named.update_setting()), &named).start();
    let tenant = app.tenant("Ann's shop");
    World { app, tenant, named, receiver }
}

fn world() -> World {
    world_of(World::zones(), |app, _| app)
}

fn register(tenant: &Tenant, name: &str) -> Value {
    let new = json!({"name": name, "dkim_mode": "delegated", "algorithm": "ed25519"});
    tenant.api.post("/v1/domains", &new).expect(201).json()
}

fn id(domain: &Value) -> &str {
    domain["id"].as_str().unwrap()
}

fn of_purpose<'a>(domain: &'a Value, purpose: &str) -> Vec<&'a Value> {
    domain["records"].as_array().unwrap().iter().filter(|record| record["purpose"] == purpose).collect()
}

/// The targets of the CNAMEs, by their order.
fn targets(domain: &Value) -> Vec<String> {
    of_purpose(domain, "dkim").iter().map(|record| record["value"].as_str().unwrap().to_owned()).collect()
}

/// What the tenant does, once: the token and three CNAMEs.
fn publish(named: &Named, domain: &Value) {
    for record in of_purpose(domain, "ownership").into_iter().chain(of_purpose(domain, "dkim")) {
        named.publish(record);
    }
}

fn read(tenant: &Tenant, domain: &Value) -> Value {
    tenant.api.get(&format!("/v1/domains/{}", id(domain))).expect(200).json()
}

fn check(tenant: &Tenant, domain: &Value) -> Value {
    tenant.api.post_empty(&format!("/v1/domains/{}/check", id(domain))).expect(200).json()
}

/// Published, checked, enabled.
fn enabled(tenant: &Tenant, named: &Named, name: &str) -> Value {
    let domain = register(tenant, name);
    publish(named, &domain);
    let checked = check(tenant, &domain);
    assert_eq!(checked["verdict"], "pass", "{checked:#}");
    tenant.api.post_empty(&format!("/v1/domains/{}/signing/enable", id(&domain))).expect(200).json()
}

/// As the judges want it: key records by the names that signatures point to.
fn as_signer(domain: &Value, named: &Named) -> Domain {
    let plain = Domain::from_json(domain);
    let txt: BTreeMap<String, String> = plain
        .txt
        .iter()
        .filter_map(|(name, target)| Some((name.clone(), named.txt(target).first()?.clone())))
        .collect();
    Domain { txt, ..plain }
}

fn p_of(key: &Value) -> String {
    format!("p={}", key["public_key"].as_str().unwrap())
}

fn wait_for_txt(named: &Named, target: &str, what: &str, is_it: impl Fn(&[String]) -> bool) {
    wait_for(&format!("{target} shows {what}"), DEADLINE, || is_it(&named.txt(target)).then_some(()));
}

fn wait_until_empty(named: &Named, targets: &[String]) {
    for target in targets {
        wait_for_txt(named, target, "nothing", <[String]>::is_empty);
    }
}

fn send(tenant: &Tenant, from: &str) -> u16 {
    let message = json!({"from": from, "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
    tenant.api.post("/v1/messages", &message).status
}

#[test]
fn three_cnames_are_published_once_and_the_key_stands_behind_one_of_them() {
    let world = world();
    let mut dkimpy = DkimPy::start();
    let domain = register(&world.tenant, "example.test");
    assert_eq!(domain["dkim_mode"], "delegated");
    let cnames = of_purpose(&domain, "dkim");
    assert_eq!(cnames.len(), 3, "{domain:#}");
    let selector = domain["keys"][0]["selector"].as_str().unwrap();
    for record in &cnames {
        assert_eq!(record["type"], "CNAME");
        let label = record["value"].as_str().unwrap().strip_suffix(".dkim.signpost.test").unwrap();
        assert!(label.len() >= 26 && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{label}");
        let of_key = record["name"] == format!("{selector}._domainkey.example.test");
        assert_eq!(record["required"], of_key, "{record}");
    }
    let names: BTreeSet<&str> = cnames.iter().map(|record| record["name"].as_str().unwrap()).collect();
    assert_eq!((names.len(), targets(&domain).into_iter().collect::<BTreeSet<_>>().len()), (3, 3));
    let shown = world.named.txt(&targets(&domain)[0]);
    assert!(shown.len() == 1 && shown[0].contains(&p_of(&domain["keys"][0])), "{shown:?}");
    assert!(targets(&domain)[1..].iter().all(|target| world.named.txt(target).is_empty()));
    let zone = world.tenant.api.get(&format!("/v1/domains/{}/records?format=bind", id(&domain))).expect(200).text();
    for target in targets(&domain) {
        assert!(zone.contains(&format!(" IN CNAME {target}.\n")), "{zone}");
    }

    publish(&world.named, &domain);
    let checked = check(&world.tenant, &domain);
    assert_eq!(checked["verdict"], "pass", "{checked:#}");
    for record in checked["records"].as_array().unwrap().iter().filter(|record| record["purpose"] == "dkim") {
        assert_eq!(record["status"], "ok", "{record:#}");
    }
    let enabled =
        world.tenant.api.post_empty(&format!("/v1/domains/{}/signing/enable", id(&domain))).expect(200).json();
    let signer = as_signer(&enabled, &world.named);
    world.send_to(&signer, "bob@receiver.test");
    let received = world.receiver.wait_for_recipient("bob@receiver.test");
    signer.assert_signed(&received.octets, &mut dkimpy, &world.named);
}

/// The tenant does nothing, and mail goes on.
#[test]
fn a_schedule_rotates_a_delegated_domain_by_itself() {
    let server = PostgresServer::start();
    let database = server.database();
    let mut world = world_of(World::zones(), |app, _| app.env("SIGNPOST_DATABASE_URL", database.as_str()));
    let domain = enabled(&world.tenant, &world.named, "example.test");
    let before = as_signer(&domain, &world.named);
    world.app.stop();
    server.sql(&database, "UPDATE dkim_keys SET state_since = state_since - CAST(180 AS BIGINT) * 86400000");
    world.app.start();
    let states = || {
        let keys = read(&world.tenant, &domain)["keys"].as_array().unwrap().clone();
        keys.iter().map(|key| key["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    wait_for("the next key signs", DEADLINE * 3, || (states() == ["retiring", "active"]).then_some(()));
    let after = as_signer(&read(&world.tenant, &domain), &world.named);
    assert_ne!(after.selector, before.selector);
    world.send_to(&after, "bob@receiver.test");
    let received = world.receiver.wait_for_recipient("bob@receiver.test");
    after.assert_signed(&received.octets, &mut DkimPy::start(), &world.named);
}

#[test]
fn where_the_operator_set_no_dns_server_the_mode_is_refused_with_the_reason() {
    let named = World::zones().start();
    let update = named.update_setting();
    for (update, service_domain) in [("", ""), ("", "signpost.test"), (update.as_str(), "")] {
        let app = App::with()
            .dns(&named)
            .env("SIGNPOST_DNS_UPDATE", update)
            .env("SIGNPOST_SERVICE_DOMAIN", service_domain)
            .start();
        let tenant = app.tenant("Ann");
        let answer = tenant.api.post("/v1/domains", &json!({"name": "example.test", "dkim_mode": "delegated"}));
        let problem = answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), ["/dkim_mode"]);
        assert!(problem["detail"].as_str().unwrap().contains("SIGNPOST_DNS_UPDATE"), "{problem}");
        assert_eq!(tenant.api.get("/v1/domains").expect(200).json()["data"], json!([]));
    }
}

#[test]
fn a_setting_that_cannot_be_used_ends_the_start_and_its_secret_is_not_told() {
    let mut app = App::with().env("SIGNPOST_DNS_UPDATE", "k:hmac-md5:c2VjcmV0LXNlY3JldA==@127.0.0.1:53").prepare();
    assert!(!app.start_and_fail().success());
    let log = app.log();
    assert!(log.contains("SIGNPOST_DNS_UPDATE") && log.contains("hmac-sha256"), "{log}");
    assert!(!log.contains("c2VjcmV0LXNlY3JldA"), "{log}");
}

#[test]
fn the_setting_may_lie_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dns-update");
    let world = world_of(World::zones(), |app, named| {
        std::fs::write(&file, format!("{}\n", named.update_setting())).unwrap();
        app.env("SIGNPOST_DNS_UPDATE", "").env("SIGNPOST_DNS_UPDATE_FILE", file.display().to_string())
    });
    let domain = register(&world.tenant, "example.test");
    assert_eq!(world.named.txt(&targets(&domain)[0]).len(), 1);
}

#[test]
fn a_cname_that_leads_elsewhere_is_named_and_does_not_count() {
    let world = world();
    let domain = register(&world.tenant, "example.test");
    publish(&world.named, &domain);
    let name = of_purpose(&domain, "dkim")[0]["name"].as_str().unwrap().to_owned();
    // The right key, in another place: whoever keeps that place could change it.
    let key = world.named.txt(&targets(&domain)[0]).remove(0);
    world.named.publish_txt("elsewhere.other.test", &[&key]);
    let doubled = format!("{}.example.test", targets(&domain)[0]);
    for (target, told) in [
        ("elsewhere.other.test", "elsewhere.other.test"),
        ("nothing.other.test", "nothing.other.test"),
        (doubled.as_str(), doubled.as_str()),
    ] {
        world.named.publish_cname(&name, target);
        let checked = check(&world.tenant, &domain);
        let record =
            checked["records"].as_array().unwrap().iter().find(|record| record["name"] == name.as_str()).unwrap();
        assert_eq!((&checked["verdict"], &record["status"]), (&json!("fail"), &json!("cname_broken")), "{record:#}");
        assert!(record["explanation"].as_str().unwrap().contains(told), "{record:#}");
    }
    // The key itself in place of the CNAME: it could not be replaced.
    world.named.update(&name, &format!("update delete {name}.\n"));
    world.named.publish_txt(&name, &[&key]);
    let checked = check(&world.tenant, &domain);
    let record = checked["records"].as_array().unwrap().iter().find(|record| record["name"] == name.as_str()).unwrap();
    assert_eq!(record["status"], "mismatch", "{record:#}");
    world.named.update(&name, &format!("update delete {name}.\n"));
    world.named.publish_cname(&name, &targets(&domain)[0]);
    assert_eq!(check(&world.tenant, &domain)["verdict"], "pass");
}

#[test]
fn what_a_deleted_claim_left_in_dns_serves_nobody() {
    let world = world();
    let mut dkimpy = DkimPy::start();
    let anns = enabled(&world.tenant, &world.named, "example.test");
    let signer = as_signer(&anns, &world.named);
    world.send_to(&signer, "bob@receiver.test");
    let mail = world.receiver.wait_for_recipient("bob@receiver.test").octets;
    signer.assert_signed(&mail, &mut dkimpy, &world.named);

    // Ann deletes and keeps her DNS: token and CNAMEs stay.
    world.tenant.api.delete(&format!("/v1/domains/{}", id(&anns))).expect(204);
    wait_until_empty(&world.named, &targets(&anns));
    assert_ne!(dkimpy.verify_with_dns(&mail, world.named.address()), [true], "the key is withdrawn");

    let bert = world.app.tenant("Bert");
    let berts = register(&bert, "example.test");
    let txt = world.app.tenant("Cora");
    let coras = txt.api.post("/v1/domains", &json!({"name": "example.test"})).expect(201).json();
    let again = register(&world.tenant, "example.test");
    let mut all = Vec::new();
    for domain in [&anns, &berts, &again] {
        all.extend(targets(domain));
        all.extend(of_purpose(domain, "dkim").iter().map(|record| record["name"].as_str().unwrap().to_owned()));
    }
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 18, "every target and selector is new: {all:?}");
    for (tenant, domain) in [(&bert, &berts), (&txt, &coras), (&world.tenant, &again)] {
        for _ in 0..2 {
            let checked = check(tenant, domain);
            assert_eq!(checked["verdict"], "fail", "{checked:#}");
            for record in checked["records"].as_array().unwrap().iter().filter(|r| r["required"] == true) {
                assert_ne!(record["status"], "ok", "{record:#}");
            }
        }
        assert_eq!(read(tenant, domain)["ownership"], "pending");
        tenant.api.post_empty(&format!("/v1/domains/{}/signing/enable", id(domain))).problem(409, "records-not-ready");
        assert_eq!(send(tenant, "ann@example.test"), 403);
    }
    assert!(targets(&anns).iter().all(|target| world.named.txt(target).is_empty()));
}

#[test]
fn who_loses_a_name_loses_the_keys_behind_its_cnames() {
    let world = world();
    let mut dkimpy = DkimPy::start();
    let anns = enabled(&world.tenant, &world.named, "example.test");
    world.send_to(&as_signer(&anns, &world.named), "bob@receiver.test");
    let mail = world.receiver.wait_for_recipient("bob@receiver.test").octets;
    let bert = world.app.tenant("Bert");
    let berts = register(&bert, "example.test");
    // Bert publishes his records beside Ann's, which stay.
    let tokens: Vec<&str> =
        [&anns, &berts].iter().map(|d| of_purpose(d, "ownership")[0]["value"].as_str().unwrap()).collect();
    world.named.publish_txt("_signpost.example.test", &tokens);
    for record in of_purpose(&berts, "dkim") {
        world.named.publish(record);
    }
    assert_eq!(check(&bert, &berts)["verdict"], "pass");
    assert_eq!(read(&world.tenant, &anns)["ownership"], "lost");
    wait_until_empty(&world.named, &targets(&anns));
    assert_ne!(dkimpy.verify_with_dns(&mail, world.named.address()), [true]);
    // Ann's old claim neither wins the name back nor gets a key.
    world.tenant.api.post_empty(&format!("/v1/domains/{}/check", id(&anns)));
    assert_eq!(read(&world.tenant, &anns)["ownership"], "lost");
    let key = world.tenant.api.post(&format!("/v1/domains/{}/keys", id(&anns)), &json!({"algorithm": "ed25519"}));
    key.problem(422, "invalid-request");
    assert_eq!(send(&world.tenant, "ann@example.test"), 403);
    bert.api.post_empty(&format!("/v1/domains/{}/signing/enable", id(&berts))).expect(200);
    assert_eq!(send(&bert, "bert@example.test"), 202);
    assert!(targets(&anns).iter().all(|target| world.named.txt(target).is_empty()));
}

/// Where the zone is handed out, and where each name is asked for.
#[test]
fn what_somebody_changes_by_hand_is_put_right() {
    for transfers in [true, false] {
        let zones = if transfers { World::zones().transfers() } else { World::zones() };
        let world = world_of(zones, |app, _| app);
        let anns = enabled(&world.tenant, &world.named, "example.test");
        let other = enabled(&world.tenant, &world.named, "other.test");
        let gone = register(&world.tenant, "third.test");
        world.tenant.api.delete(&format!("/v1/domains/{}", id(&gone))).expect(204);
        let (first, second) = (targets(&anns), targets(&other));
        let right: Vec<String> =
            [&first[0], &second[0]].iter().map(|target| world.named.txt(target).remove(0)).collect();

        world.named.withdraw_txt(&first[0]);
        world.named.publish_txt(&second[0], &["v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]);
        world.named.publish_txt(&first[2], &["v=DKIM1; p=stowaway"]);
        world.named.publish_txt(&targets(&gone)[0], &["v=DKIM1; p=ghost"]);
        world.named.publish_cname(&second[1], "evil.example.test");
        world.named.publish_txt("stranger.dkim.signpost.test", &["v=DKIM1; p=stranger"]);
        world.named.publish_txt("dkim.signpost.test", &["not below it"]);
        wait_for_txt(&world.named, &first[0], "its key again", |texts| texts == [right[0].clone()]);
        wait_for_txt(&world.named, &second[0], "its own key", |texts| texts == [right[1].clone()]);
        wait_until_empty(&world.named, &[first[2].clone(), targets(&gone)[0].clone(), second[1].clone()]);
        if transfers {
            wait_until_empty(&world.named, &["stranger.dkim.signpost.test".to_owned()]);
        } else {
            assert_eq!(world.named.txt("stranger.dkim.signpost.test").len(), 1, "it cannot be known of");
            assert!(world.app.log().contains("the zone cannot be transferred"));
        }
        assert_eq!(world.named.txt("dkim.signpost.test"), ["not below it"]);
        // Two records at once, of which one is right, are wrong too.
        world.named.publish_txt(&first[0], &[&right[0], "v=DKIM1; p=second"]);
        wait_for_txt(&world.named, &first[0], "one record", |texts| texts == [right[0].clone()]);
        assert_eq!(check(&world.tenant, &anns)["verdict"], "pass");
    }
}

#[test]
fn a_zone_that_is_full_of_other_keys_is_left_alone() {
    let names: String = (0..20).map(|n| format!("key{n}.dkim IN TXT \"v=DKIM1; p=theirs\"\n")).collect();
    let zones = World::zones().zone("signpost.test", &format!("bounce IN TXT \"v=spf1 ip4:127.0.0.1 -all\"\n{names}"));
    let world = world_of(zones.transfers(), |app, _| app);
    register(&world.tenant, "example.test");
    wait_for("the stranger keys are told of", DEADLINE, || {
        world.app.log().contains("this looks like the zone of another installation").then_some(())
    });
    assert!((0..20).all(|n| world.named.txt(&format!("key{n}.dkim.signpost.test")).len() == 1));
}

#[test]
fn while_the_dns_server_is_away_claims_are_taken_mail_goes_on_and_all_is_made_up_for() {
    for away in [Gate::break_off, Gate::hang] {
        let named = World::zones().start();
        let gate = Gate::before(named.address());
        let receiver = Receiver::start();
        let setting = named.update_setting_at(gate.port());
        let app = App::with()
            .dns(&named)
            .relay(&receiver)
            .secret("TSIG secret", named.update_secret())
            .env("SIGNPOST_DNS_UPDATE", setting)
            .start();
        let tenant = app.tenant("Ann");
        let world = World { app, tenant, named, receiver };
        let anns = enabled(&world.tenant, &world.named, "example.test");
        let doomed = register(&world.tenant, "third.test");
        away(&gate);
        let late = register(&world.tenant, "other.test");
        let key_record = &of_purpose(&late, "dkim")[0];
        assert!(key_record["warnings"].to_string().contains("not there yet"), "{key_record}");
        publish(&world.named, &late);
        let checked = check(&world.tenant, &late);
        let record = checked["records"].as_array().unwrap().iter().find(|r| r["name"] == key_record["name"]).unwrap();
        assert_eq!((&checked["verdict"], &record["status"]), (&json!("fail"), &json!("missing")), "{record:#}");
        assert!(record["explanation"].as_str().unwrap().contains("done for you"), "{record:#}");
        let mail = world.send_to(&as_signer(&anns, &world.named), "bob@receiver.test");
        world.tenant.api.message_with_status(&mail, "delivered");
        world.tenant.api.delete(&format!("/v1/domains/{}", id(&doomed))).expect(204);
        assert_eq!(world.named.txt(&targets(&doomed)[0]).len(), 1);
        wait_for("the log tells of it", DEADLINE, || {
            world.app.log().contains("cannot be published or withdrawn now").then_some(())
        });
        gate.open();
        wait_until_empty(&world.named, &targets(&doomed));
        wait_for_txt(&world.named, &targets(&late)[0], "its key", |texts| texts.len() == 1);
        assert_eq!(check(&world.tenant, &late)["verdict"], "pass");
        let read = read(&world.tenant, &late);
        assert!(!of_purpose(&read, "dkim")[0]["warnings"].to_string().contains("not there yet"), "{read:#}");
    }
}

#[test]
fn a_process_that_dies_between_commit_and_update_leaves_nothing_undone() {
    let named = World::zones().start();
    let gate = Gate::before(named.address());
    let mut app = App::with()
        .dns(&named)
        .secret("TSIG secret", named.update_secret())
        .env("SIGNPOST_DNS_UPDATE", named.update_setting_at(gate.port()))
        .start();
    let tenant = app.tenant("Ann");
    let doomed = enabled(&tenant, &named, "example.test");
    gate.hang();
    for deletes in [true, false] {
        let before = gate.arrivals();
        std::thread::scope(|scope| {
            let api = tenant.api.clone();
            let path = format!("/v1/domains/{}", id(&doomed));
            // Nobody answers it: the process dies while it waits for DNS.
            scope.spawn(move || {
                if deletes {
                    let _ = api.try_call("DELETE", &path, None, Vec::new());
                } else {
                    let new = json!({"name": "other.test", "dkim_mode": "delegated"}).to_string().into_bytes();
                    let _ = api.try_call("POST", "/v1/domains", Some("application/json"), new);
                }
            });
            wait_for("DNS is asked, after the commit", DEADLINE, || (gate.arrivals() > before).then_some(()));
            let committed = || {
                let name = if deletes { "example.test" } else { "other.test" };
                let list = tenant.api.get("/v1/domains").expect(200).text();
                (list.contains(name) != deletes).then_some(())
            };
            wait_for("it is committed", DEADLINE, committed);
            app.kill();
        });
        app.start();
    }
    assert_eq!(named.txt(&targets(&doomed)[0]).len(), 1, "the withdrawal has not reached DNS");
    app.kill();
    gate.open();
    app.start();
    wait_until_empty(&named, &targets(&doomed));
    let list = tenant.api.get("/v1/domains").expect(200).json();
    let other = list["data"].as_array().unwrap().iter().find(|domain| domain["name"] == "other.test").unwrap();
    wait_for_txt(&named, &targets(other)[0], "its key", |texts| {
        texts.len() == 1 && texts[0].contains(&p_of(&other["keys"][0]))
    });
}

#[test]
fn a_tsig_key_that_the_server_does_not_take_is_told_as_that() {
    let named = World::zones().start();
    let right = named.update_setting();
    for (setting, told) in [
        (right.replace("signpost-tests:", "no-such-key:"), "it has no TSIG key no-such-key"),
        (
            right.replace(named.update_secret(), "b3RoZXI="),
            "the secret of the TSIG key signpost-tests is another one there",
        ),
        (right.replace(":hmac-sha256:", ":hmac-sha512:"), "it has no TSIG key signpost-tests with this algorithm"),
    ] {
        let app = App::with().dns(&named).env("SIGNPOST_DNS_UPDATE", setting).start();
        let tenant = app.tenant("Ann");
        let domain = register(&tenant, "example.test");
        assert!(named.txt(&targets(&domain)[0]).is_empty());
        wait_for("the log says why", DEADLINE, || app.log().contains(told).then_some(()));
    }
}

#[test]
fn a_slot_stays_free_for_an_emergency() {
    let world = world();
    let domain = enabled(&world.tenant, &world.named, "example.test");
    let keys = format!("/v1/domains/{}/keys", id(&domain));
    let more = || world.tenant.api.post(&keys, &json!({"algorithm": "ed25519"}));
    let second = more().expect(201).json();
    let selectors: Vec<String> =
        of_purpose(&domain, "dkim").iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(format!("{}._domainkey.example.test", second["selector"].as_str().unwrap()), selectors[1]);
    assert!(world.named.txt(&targets(&domain)[1])[0].contains(&p_of(&second)));
    let problem = more().problem(409, "no-free-slot");
    assert!(problem["detail"].as_str().unwrap().contains("revoke"), "{problem}");
    assert!(world.named.txt(&targets(&domain)[2]).is_empty());
    // The second key takes over without anything else being published.
    let checked = check(&world.tenant, &domain);
    assert_eq!(checked["verdict"], "pass", "{checked:#}");
    let now = read(&world.tenant, &domain);
    let states: Vec<&str> = now["keys"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["retiring", "active"]);
    let needed: Vec<Value> = required(&now["records"]).into_iter().filter(|r| r["purpose"] == "dkim").collect();
    assert_eq!(needed.len(), 1);
    assert_eq!(needed[0]["name"], selectors[1].as_str());
    assert_eq!(targets(&now), targets(&domain), "the three CNAMEs stay as they are");
}

fn key_states(domain: &Value) -> Vec<String> {
    domain["keys"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap().to_owned()).collect()
}

/// Reads the domain, and does nothing else, until its keys are in these states.
fn wait_for_states(tenant: &Tenant, domain: &Value, states: &[&str]) -> Value {
    wait_for(&format!("the keys are {states:?}"), DEADLINE * 2, || {
        let now = read(tenant, domain);
        // The domain and its keys are two reads: what follows from the keys' states is read after them.
        (key_states(&now) == states).then(|| read(tenant, domain))
    })
}

/// Posts a message, and gives it as it arrived.
fn arrived(world: &World, domain: &str) -> Vec<u8> {
    let before = world.receiver.messages().len();
    let message = json!({"from": format!("ann@{domain}"), "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
    world.send(&message);
    world.receiver.wait_for(before + 1).pop().unwrap().octets
}

fn rotations_and_an_emergency(world: &World) {
    let mut dkimpy = DkimPy::start();
    let mut verifies = |mail: &[u8]| dkimpy.verify_with_dns(mail, world.named.address()) == [true];
    let domain = enabled(&world.tenant, &world.named, "example.test");
    let first = arrived(world, "example.test");
    assert!(verifies(&first));

    let rotate = || world.tenant.api.post(&format!("/v1/domains/{}/keys/rotate", id(&domain)), &json!({}));
    let second_key = rotate().expect(201).json();
    assert_eq!(second_key["algorithm"], "ed25519", "like the one that it replaces");
    let rotated = wait_for_states(&world.tenant, &domain, &["retiring", "active"]);
    assert_eq!(targets(&rotated), targets(&domain), "the tenant has nothing to do");
    let second = arrived(world, "example.test");
    as_signer(&rotated, &world.named).assert_signed(&second, &mut DkimPy::start(), &world.named);
    assert_eq!(signature_selector(&second), second_key["selector"].as_str().unwrap());
    assert!(verifies(&first), "what the former key signed still verifies");
    rotate().problem(409, "no-free-slot");

    // The emergency: the key that signs must not be trusted any more.
    world.tenant.api.post_empty(&format!("/v1/keys/{}/revoke", second_key["id"].as_str().unwrap())).expect(200);
    wait_for_txt(&world.named, &targets(&domain)[1], "that its key is revoked", |texts| texts == ["v=DKIM1; p="]);
    assert!(!verifies(&second));
    assert_eq!(read(&world.tenant, &domain)["signing_reason"], "key_unavailable");
    rotate().expect(201);
    let mended = wait_for_states(&world.tenant, &domain, &["retiring", "revoked", "active"]);
    assert_eq!((&mended["signing"], targets(&mended)), (&json!("enabled"), targets(&domain)));
    assert!(verifies(&arrived(world, "example.test")));
    assert!(verifies(&first));
    let checked = check(&world.tenant, &domain);
    assert_eq!(checked["verdict"], "pass", "{checked:#}");
}

fn signature_selector(mail: &[u8]) -> String {
    signpost_it::signature_fields(mail)[0]["s"].clone()
}

#[test]
fn a_rotation_needs_nobody_and_an_emergency_has_its_slot() {
    rotations_and_an_emergency(&world());
}

#[test]
fn a_rotation_needs_nobody_on_postgresql() {
    let server = PostgresServer::start();
    let database = server.database();
    rotations_and_an_emergency(&world_of(World::zones(), |app, _| app.env("SIGNPOST_DATABASE_URL", database.as_str())));
}

/// The zone of an earlier service domain is not on this server: what is owed there keeps nothing else waiting.
#[test]
fn what_is_owed_below_an_earlier_service_domain_holds_nothing_up() {
    let server = PostgresServer::start();
    let database = server.database();
    let new = Named::with().zone("later.test", "").transfers().start();
    let with = |service_domain: &str| {
        App::with()
            .dns(&new)
            .secret("TSIG secret", new.update_secret())
            .env("SIGNPOST_DATABASE_URL", database.as_str())
            .env("SIGNPOST_SERVICE_DOMAIN", service_domain)
            .env("SIGNPOST_DNS_UPDATE", new.update_setting())
    };
    let mut before = with("earlier.example").start();
    let tenant = before.tenant("Ann");
    let doomed = register(&tenant, "example.test");
    before.stop();
    let master_key = before.master_key_file().display().to_string();
    let now = with("later.test").env("SIGNPOST_MASTER_KEY_FILE", master_key).start();
    let tenant = Tenant { api: now.api().with_token(&tenant.token), ..tenant };
    tenant.api.delete(&format!("/v1/domains/{}", id(&doomed))).expect(204);
    wait_for("it is told", DEADLINE, || now.log().contains("nothing can be published or withdrawn").then_some(()));
    let domain = register(&tenant, "other.test");
    let target = targets(&domain)[0].clone();
    wait_for_txt(&new, &target, "its key", |texts| texts.len() == 1);
    // Passes that fail come ever more rarely; those here do not fail.
    for _ in 0..2 {
        new.withdraw_txt(&target);
        wait_for_txt(&new, &target, "its key again", |texts| texts.len() == 1);
    }
    assert_eq!(now.log().matches("nothing can be published or withdrawn").count(), 1);
    assert!(!now.log().contains("cannot be published or withdrawn now"));
}

#[test]
fn a_tenant_has_a_hundred_delegated_domains_without_proof_at_most() {
    let world = world();
    // What is proven does not count.
    enabled(&world.tenant, &world.named, "example.test");
    for n in 0..99 {
        register(&world.tenant, &format!("d{n}.example"));
    }
    let last = register(&world.tenant, "last.example");
    let new = json!({"name": "one.more.example", "dkim_mode": "delegated", "algorithm": "ed25519"});
    world.tenant.api.post("/v1/domains", &new).problem(409, "too-many-unproven-domains");
    world.tenant.api.post("/v1/domains", &json!({"name": "one.more.example"})).expect(201);
    register(&world.app.tenant("Bert"), "one.more.example");
    world.tenant.api.delete(&format!("/v1/domains/{}", id(&last))).expect(204);
    let room = json!({"name": "two.more.example", "dkim_mode": "delegated", "algorithm": "ed25519"});
    world.tenant.api.post("/v1/domains", &room).expect(201);
}
