//! A KMS that throttles, hangs, resets, answers with another key's signature, or disables a key, under a load of mail: what is asked of
//! it, counted in its own log, and what arrives.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{
    Api, DEADLINE, DkimPy, Domain, Kms, PostgresServer, Received, SignCall, Tenant, World, enabled_domain,
    unfolded_field, wait_for,
};
use std::collections::{BTreeMap, HashSet};

const CLIENTS: usize = 4;
/// Messages of one round.
const LOAD: usize = 160;
const WINDOW_MS: u64 = 10_000;

/// A server whose keys are sealed, and where a KMS is offered beside that.
fn world(kms: &Kms) -> World {
    World::start_with(|app| app.kms(kms))
}

/// Registers, gives it a newer key in the KMS, publishes, checks and enables: the key in the KMS signs.
fn domain_in_kms(world: &World, name: &str, algorithm: &str) -> Domain {
    let api = &world.tenant.api;
    let made = api.post("/v1/domains", &json!({"name": name, "algorithm": algorithm})).expect(201).json();
    let path = format!("/v1/domains/{}", made["id"].as_str().unwrap());
    let key = json!({"algorithm": algorithm, "custody": "aws-kms"});
    let key = api.post(&format!("{path}/keys"), &key).expect(201).json();
    let records = api.get(&path).expect(200).json()["records"].clone();
    for record in records.as_array().unwrap() {
        if record["purpose"] == "ownership" || record["purpose"] == "dkim" {
            world.named.publish(record);
        }
    }
    let enabled = api.post_empty(&format!("{path}/signing/enable")).expect(200).json();
    let domain = Domain::from_json(&enabled);
    assert_eq!(domain.selector, key["selector"].as_str().unwrap(), "{enabled:#}");
    domain
}

/// What was accepted: recipient -> domain and Message-ID.
type Accepted<'a> = BTreeMap<String, (&'a Domain, String)>;

/// Several clients post for these domains in turn; every message is taken.
fn post<'a>(api: &Api, domains: &[&'a Domain], round: &str, count: usize) -> Accepted<'a> {
    let client = |client: usize| {
        let numbers = (client..count).step_by(CLIENTS);
        let post = |n: usize| {
            let (domain, address) = (domains[n / CLIENTS % domains.len()], format!("{round}-{n}@receiver.test"));
            let message = json!({"from": format!("ann@{}", domain.name), "to": [address], "subject": "x", "text": "y"});
            let accepted = api.post("/v1/messages", &message).expect(202).json();
            (address, (domain, accepted["message_id"].as_str().unwrap().to_owned()))
        };
        numbers.map(post).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// Those of this round that arrived, by recipient.
fn arrived(world: &World, round: &str) -> BTreeMap<String, Received> {
    let of_round =
        world.receiver.messages().into_iter().filter(|message| message.rcpt[0].starts_with(&format!("{round}-")));
    of_round.map(|message| (message.rcpt[0].clone(), message)).collect()
}

/// All of them arrive, each once, signed by the key of its domain, as the message that was accepted.
fn all_arrive(world: &World, dkimpy: &mut DkimPy, round: &str, accepted: &Accepted<'_>) {
    let received = wait_for(&format!("all {} messages of {round}", accepted.len()), DEADLINE * 4, || {
        let received = arrived(world, round);
        (received.len() >= accepted.len()).then_some(received)
    });
    for (address, (domain, message_id)) in accepted {
        let octets = &received[address].octets;
        domain.assert_signed(octets, dkimpy, &world.named);
        assert_eq!(unfolded_field(octets, "Message-ID"), [message_id.as_str()]);
    }
    let copies = world.receiver.messages().iter().filter(|m| m.rcpt[0].starts_with(&format!("{round}-"))).count();
    assert_eq!(copies, accepted.len(), "each once");
}

/// Calls that ask for what was asked for already: nobody else than an immediate retry does, since every other try has its own t=.
fn immediate_retries(calls: &[SignCall]) -> Vec<&SignCall> {
    let mut seen = HashSet::new();
    calls.iter().filter(|call| !seen.insert((call.key.as_str(), call.input.as_str()))).collect()
}

/// In the 10 s up to each retry there are ten times as many first attempts.
fn retries_are_few(calls: &[SignCall]) {
    let retries = immediate_retries(calls);
    for retry in &retries {
        let window = retry.at.saturating_sub(WINDOW_MS)..=retry.at;
        let all = calls.iter().filter(|call| window.contains(&call.at)).count();
        let again = retries.iter().filter(|call| window.contains(&call.at)).count();
        assert!(again * 10 <= all - again, "{again} of {all} calls up to {} are immediate retries", retry.at);
    }
}

#[test]
fn a_kms_that_throttles_is_asked_little_more_often_and_all_mail_arrives() {
    let kms = Kms::start();
    let world = world(&kms);
    let in_kms = [domain_in_kms(&world, "example.test", "rsa-2048"), domain_in_kms(&world, "other.test", "ed25519")];
    let sealed = world.enabled_domain("third.test", "ed25519");
    let (in_kms, mut dkimpy) = ([&in_kms[0], &in_kms[1]], DkimPy::start());
    for percent in [0, 30, 100] {
        let before = kms.sign_calls().len();
        kms.fault_of("throttled", percent);
        let round = format!("throttled{percent}");
        let accepted = post(&world.tenant.api, &in_kms, &round, LOAD);
        if percent == 100 {
            // Who has nothing to do with the KMS notices nothing.
            let beside = post(&world.tenant.api, &[&sealed], "beside", 40);
            all_arrive(&world, &mut dkimpy, "beside", &beside);
            assert!(arrived(&world, &round).is_empty(), "nothing leaves unsigned");
            let failed = kms.sign_calls().split_off(before);
            assert!(failed.iter().all(|call| call.outcome == "throttled"));
            let seconds = (failed.last().unwrap().at - failed[0].at) / 1000;
            // Of each key five in a row, what was under way by then, and probes.
            let most = 2 * (5 + CLIENTS as u64 + 5) + seconds;
            assert!(failed.len() as u64 <= most, "{} calls in {seconds} s for {LOAD} messages", failed.len());
            kms.fault("none");
        }
        all_arrive(&world, &mut dkimpy, &round, &accepted);
        kms.fault("none");
        let calls = kms.sign_calls().split_off(before);
        retries_are_few(&calls);
        let (made, retries) =
            (calls.iter().filter(|call| call.outcome == "ok").count(), immediate_retries(&calls).len());
        let per_signature = calls.len() as f64 / LOAD as f64;
        println!(
            "throttled {percent} %: {LOAD} signatures, {} calls, {retries} immediate retries, {per_signature:.2} calls per signature",
            calls.len()
        );
        assert!(made >= LOAD);
        if percent == 0 {
            assert_eq!(calls.len(), LOAD, "exactly one call for each signature");
        }
    }
    // It was nobody's key that was at fault.
    for domain in in_kms {
        let now = world.tenant.api.get(&format!("/v1/domains/{}", domain.id)).expect(200).json();
        assert_eq!((now["signing"].as_str(), now["signing_reason"].as_str()), (Some("enabled"), None));
    }
}

#[test]
fn while_the_kms_hangs_resets_or_fails_inside_mail_of_sealed_keys_goes_and_all_other_mail_waits_for_it() {
    let kms = Kms::start();
    let world = world(&kms);
    let in_kms = domain_in_kms(&world, "example.test", "ed25519");
    let sealed = world.enabled_domain("third.test", "ed25519");
    let mut dkimpy = DkimPy::start();
    for fault in ["silent", "reset", "internal"] {
        let before = kms.sign_calls().len();
        kms.fault(fault);
        let waits = post(&world.tenant.api, &[&in_kms], fault, 40);
        let goes = post(&world.tenant.api, &[&sealed], &format!("beside_{fault}"), 40);
        all_arrive(&world, &mut dkimpy, &format!("beside_{fault}"), &goes);
        assert!(arrived(&world, fault).is_empty(), "{fault}: nothing leaves unsigned");
        let asked = kms.sign_calls().len() - before;
        assert!((1..30).contains(&asked), "{fault}: {asked} calls for 40 messages");
        kms.fault("none");
        all_arrive(&world, &mut dkimpy, fault, &waits);
    }
    retries_are_few(&kms.sign_calls());
}

/// And some fail only now and then: then most mail goes at once.
#[test]
fn a_kms_that_fails_now_and_then_is_asked_again_at_once_for_a_few_and_from_the_queue_for_the_rest() {
    let kms = Kms::start();
    let world = world(&kms);
    let domain = domain_in_kms(&world, "example.test", "ed25519");
    let mut dkimpy = DkimPy::start();
    for fault in ["reset", "internal"] {
        let before = kms.sign_calls().len();
        kms.fault_of(fault, 20);
        let accepted = post(&world.tenant.api, &[&domain], fault, LOAD);
        all_arrive(&world, &mut dkimpy, fault, &accepted);
        kms.fault("none");
        let calls = kms.sign_calls().split_off(before);
        assert!(!immediate_retries(&calls).is_empty(), "{fault}: none was asked for again at once");
    }
    retries_are_few(&kms.sign_calls());
}

struct OnPostgres {
    server: PostgresServer,
    database: String,
}

impl OnPostgres {
    fn events(&self, domain: &Domain) -> Vec<String> {
        let query = format!("SELECT kind FROM events WHERE domain = '{}' ORDER BY at, id", domain.name);
        let kinds = self.server.sql(&self.database, &query);
        let of_signing = |kind: &&str| kind.starts_with("domain.signing") || *kind == "key.unavailable";
        kinds.lines().filter(of_signing).map(str::to_owned).collect()
    }

    /// As if its keys had been made an hour earlier.
    fn age_keys(&self, domain: &Domain) {
        let domain = domain.id.strip_prefix("dom_").unwrap();
        let aged = self.server.sql(
            &self.database,
            &format!(
                "WITH aged AS (UPDATE dkim_keys SET created_at = created_at - 3600000 WHERE domain_id = '{domain}' RETURNING 1)
                 SELECT COUNT(*) > 0 FROM aged"
            ),
        );
        assert_eq!(aged, "t");
    }
}

fn signing(world: &World, domain: &Domain) -> (String, Value) {
    let now = world.tenant.api.get(&format!("/v1/domains/{}", domain.id)).expect(200).json();
    (now["signing"].as_str().unwrap().to_owned(), now["signing_reason"].clone())
}

fn wait_until_signing_is(world: &World, domain: &Domain, state: &str) {
    wait_for(&format!("signing is {state}"), DEADLINE, || (signing(world, domain).0 == state).then_some(()));
}

fn key_in_kms(world: &World, kms: &Kms, domain: &Domain) -> String {
    let keys = world.tenant.api.get(&format!("/v1/domains/{}/keys", domain.id)).expect(200).json();
    let keys = keys["data"].as_array().unwrap().clone();
    kms.key_of(keys.iter().find(|key| key["state"] == "active").unwrap()["id"].as_str().unwrap())
}

#[test]
fn a_key_at_fault_is_told_once_and_its_mail_waits_through_a_restart_and_goes_when_it_is_back() {
    let kms = Kms::start();
    let server = PostgresServer::start();
    let database = server.database();
    let mut world = World::start_with(|app| app.kms(&kms).env("SIGNPOST_DATABASE_URL", database.as_str()));
    let store = OnPostgres { server, database };
    let domain = domain_in_kms(&world, "example.test", "ed25519");
    let id = key_in_kms(&world, &kms, &domain);
    let mut dkimpy = DkimPy::start();
    let mut told = Vec::new();
    for fault in ["disabled", "denied", "other_key", "deleted"] {
        match fault {
            "disabled" => kms.disable(&id),
            "deleted" => {
                // Of a key so young that it may only not be known everywhere yet, "invalid state" says nothing.
                kms.call("ScheduleKeyDeletion", &json!({"KeyId": id, "PendingWindowInDays": 7}));
                let young = post(&world.tenant.api, &[&domain], "young", 4);
                assert_eq!(signing(&world, &domain), ("enabled".to_owned(), Value::Null));
                kms.call("CancelKeyDeletion", &json!({"KeyId": id}));
                kms.enable(&id);
                all_arrive(&world, &mut dkimpy, "young", &young);
                store.age_keys(&domain);
                kms.call("ScheduleKeyDeletion", &json!({"KeyId": id, "PendingWindowInDays": 7}));
            }
            kind => kms.fault(kind),
        }
        let before = kms.sign_calls().len();
        let mut accepted = post(&world.tenant.api, &[&domain], fault, 30);
        assert_eq!(signing(&world, &domain), ("suspended".to_owned(), json!("key_unavailable")), "{fault}");
        told.extend(["key.unavailable", "domain.signing_suspended"]);
        assert_eq!(store.events(&domain), told, "{fault}");
        let sign = world.tenant.api.post_message("/v1/sign", b"From: a@example.test\r\nSubject: x\r\n\r\ny\r\n");
        sign.problem(503, "key-unavailable");
        assert!(!sign.header("Retry-After").is_empty());
        // Another process, which knows nothing of it.
        world.app.stop();
        world.app.start();
        let again = post(&world.tenant.api, &[&domain], &format!("{fault}-again"), 30);
        accepted.extend(again);
        let asked = kms.sign_calls().len() - before;
        assert!((1..25).contains(&asked), "{fault}: {asked} calls for 60 messages");
        assert!(arrived(&world, fault).is_empty(), "{fault}: nothing leaves");

        match fault {
            "disabled" => kms.enable(&id),
            "deleted" => {
                kms.call("CancelKeyDeletion", &json!({"KeyId": id}));
                kms.enable(&id);
            }
            _ => kms.fault("none"),
        }
        all_arrive(&world, &mut dkimpy, fault, &accepted);
        wait_until_signing_is(&world, &domain, "enabled");
        told.push("domain.signing_resumed");
        assert_eq!(store.events(&domain), told, "{fault}");
    }
    for action in ["signing.suspended", "signing.resumed"] {
        let rows = world.tenant.api.get(&format!("/v1/audit?action={action}")).expect(200).json();
        assert_eq!(rows["data"].as_array().unwrap().len(), 4, "{rows:#}");
    }
}

#[test]
fn a_flood_of_one_tenant_leaves_another_its_share_of_the_kms() {
    let kms = Kms::start();
    let world = World::start_with(|app| app.keys_in(&kms).env("SIGNPOST_KMS_RATE", "10"));
    let flooding = world.enabled_domain("example.test", "ed25519");
    let quiet: Tenant = world.app.tenant("Bob's shop");
    let of_quiet = enabled_domain(&quiet, &world.named, "other.test", "ed25519");
    let mut dkimpy = DkimPy::start();
    let (flood, statuses) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| post(&world.tenant.api, &[&flooding], "flood", 100));
        let waits = || {
            let listed = world.tenant.api.get("/v1/messages?status=awaiting_signature").expect(200).json();
            (!listed["data"].as_array().unwrap().is_empty()).then_some(())
        };
        wait_for("the flood is more than the KMS may be asked", DEADLINE, waits);
        let mut statuses = Vec::new();
        for n in 0..5 {
            let message = json!({"from": "bob@other.test", "to": [format!("quiet-{n}@receiver.test")], "subject": "x", "text": "y"});
            let accepted = quiet.api.post("/v1/messages", &message).expect(202).json();
            statuses.push(accepted["status"].as_str().unwrap().to_owned());
        }
        (flood.join().unwrap(), statuses)
    });
    assert_eq!(statuses, ["queued"; 5], "signed at once, whatever waits of the other tenant");
    all_arrive(&world, &mut dkimpy, "flood", &flood);
    let quiet = wait_for("the other tenant's mail", DEADLINE, || {
        let received = arrived(&world, "quiet");
        (received.len() == 5).then_some(received)
    });
    for received in quiet.values() {
        of_quiet.assert_signed(&received.octets, &mut dkimpy, &world.named);
    }
    let calls = kms.sign_calls();
    assert!(calls.iter().all(|call| call.outcome == "ok"));
    assert!(immediate_retries(&calls).is_empty());
}
