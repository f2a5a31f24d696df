//! What the check says of key records in real DNS, through the API: spellings and faults of single records (tests/cases/dns/dns-api.json),
//! servers that do not agree, delegation, resolvers that remember or validate.
#![cfg(test)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use signpost_it::{App, Named, NamedBuilder, Tenant, Unbound, repository, required};
use std::collections::BTreeMap;

/// Another Ed25519 key than any of ours.
const OTHER: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// SubjectPublicKeyInfo of Ed25519 up to the key (RFC 8410 4), and of RSA-2048 up to the RSAPublicKey (RFC 3279 2.3.1).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00];
const RSA_2048_SPKI_HEADER: usize = 24;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    title: String,
    rfc: String,
    algorithm: String,
    /// Records in zone-file form without TTL. In braces: `d` domain, `s` selector, `p` the key, `p1` `p2` its halves, `cut255` the
    /// record's first 255 octets, `pkcs1a` `pkcs1b` halves of the RSAPublicKey, `spki` an Ed25519 key's SubjectPublicKeyInfo, `other`.
    lines: Vec<String>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    status: String,
    /// Each must stand in the explanation.
    explanation: Vec<String>,
    /// Each must stand in a warning; without any there must be none.
    warnings: Vec<String>,
}

/// A registered domain, its ownership token published.
struct Registered {
    id: String,
    name: String,
    dkim: Value,
}

impl Registered {
    fn new(tenant: &Tenant, named: &Named, name: &str, algorithm: &str) -> Self {
        let domain = tenant.api.post("/v1/domains", &json!({"name": name, "algorithm": algorithm})).expect(201).json();
        let records = required(&domain["records"]);
        let of = |purpose: &str| records.iter().find(|record| record["purpose"] == purpose).unwrap().clone();
        named.publish(&of("ownership"));
        Self { id: text(&domain["id"]), name: name.to_owned(), dkim: of("dkim") }
    }

    fn check(&self, tenant: &Tenant) -> Value {
        tenant.api.post_empty(&format!("/v1/domains/{}/check", self.id)).expect(200).json()
    }

    /// The key record of a check.
    fn found(&self, check: &Value) -> Value {
        let records = check["records"].as_array().unwrap();
        records.iter().find(|record| record["name"] == self.dkim["name"]).unwrap().clone()
    }

    fn key_state(&self, tenant: &Tenant) -> String {
        let domain = tenant.api.get(&format!("/v1/domains/{}", self.id)).expect(200).json();
        text(&domain["keys"][0]["state"])
    }

    fn enable(&self, tenant: &Tenant) -> u16 {
        tenant.api.post_empty(&format!("/v1/domains/{}/signing/enable", self.id)).status
    }

    /// What stands for the names in braces.
    fn values(&self, algorithm: &str) -> BTreeMap<&'static str, String> {
        let value = text(&self.dkim["value"]);
        let p = value.split("p=").nth(1).unwrap().to_owned();
        let der = STANDARD.decode(&p).unwrap();
        let halves = |text: &str| (text[..text.len() / 2].to_owned(), text[text.len() / 2..].to_owned());
        let (p1, p2) = halves(&p);
        let selector = text(&self.dkim["name"]).split('.').next().unwrap().to_owned();
        let mut values = BTreeMap::from([
            ("d", self.name.clone()),
            ("s", selector),
            ("p", p),
            ("p1", p1),
            ("p2", p2),
            ("cut255", value.chars().take(255).collect()),
            ("other", OTHER.to_owned()),
        ]);
        if algorithm == "ed25519" {
            values.insert("spki", STANDARD.encode([&ED25519_SPKI, der.as_slice()].concat()));
        } else {
            let (a, b) = halves(&STANDARD.encode(&der[RSA_2048_SPKI_HEADER..]));
            values.extend([("pkcs1a", a), ("pkcs1b", b)]);
        }
        values
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn filled(template: &str, values: &BTreeMap<&str, String>) -> String {
    let text =
        values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value));
    assert!(!text.contains('{'), "an unknown name in braces: {text}");
    text
}

fn statuses(record: &Value) -> Vec<(String, String)> {
    record["servers"].as_array().unwrap().iter().map(|one| (text(&one["server"]), text(&one["status"]))).collect()
}

fn start(named: &Named) -> (App, Tenant) {
    let app = App::with().dns(named).start();
    let tenant = app.tenant("Ann");
    (app, tenant)
}

fn judge(case: &Case, values: &BTreeMap<&str, String>, check: &Value, record: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let expect = &case.expect;
    if record["status"] != expect.status.as_str() {
        wrong.push(format!("not {}", expect.status));
    }
    let verdict = if expect.status == "ok" { "pass" } else { "fail" };
    if check["verdict"] != verdict {
        wrong.push(format!("the verdict is {}", check["verdict"]));
    }
    let explanation = text(&record["explanation"]);
    wrong.extend(
        expect
            .explanation
            .iter()
            .map(|part| filled(part, values))
            .filter(|part| !explanation.contains(part))
            .map(|part| format!("the explanation lacks {part:?}")),
    );
    let warnings: Vec<String> = record["warnings"].as_array().unwrap().iter().map(text).collect();
    wrong.extend(
        expect
            .warnings
            .iter()
            .filter(|part| !warnings.iter().any(|warning| warning.contains(*part)))
            .map(|part| format!("no warning says {part:?}")),
    );
    if expect.warnings.is_empty() && !warnings.is_empty() {
        wrong.push("a warning that was not expected".to_owned());
    }
    let servers = statuses(record);
    let resolver_asked = servers.iter().any(|(server, _)| server.starts_with("resolver"));
    if resolver_asked != (expect.status == "ok") {
        wrong.push("the resolver is to be asked for what is right, and for nothing else".to_owned());
    }
    if explanation.is_empty() || servers.is_empty() {
        wrong.push("no explanation or no server".to_owned());
    }
    wrong
}

#[test]
fn every_spelling_and_every_fault_of_a_key_record_gets_its_status_and_only_right_ones_let_a_key_sign() {
    let file = repository().join("tests/cases/dns/dns-api.json");
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert!(!cases.is_empty());
    let zone = |case: &Case| format!("{}.test", case.id.to_lowercase());
    let named = cases.iter().fold(Named::with(), |named, case| named.zone(&zone(case), "")).start();
    let (_app, tenant) = start(&named);
    let mut failures = Vec::new();
    for case in &cases {
        let domain = Registered::new(&tenant, &named, &zone(case), &case.algorithm);
        let values = domain.values(&case.algorithm);
        let lines: String = case.lines.iter().map(|line| add(&filled(line, &values))).collect();
        if !lines.is_empty() {
            named.update(&domain.name, &lines);
        }
        let check = domain.check(&tenant);
        let record = domain.found(&check);
        let mut wrong = judge(case, &values, &check, &record);
        let (state, enabled) = (domain.key_state(&tenant), domain.enable(&tenant));
        let expected = if case.expect.status == "ok" { ("published", 200) } else { ("pending", 409) };
        if (state.as_str(), enabled) != expected {
            wrong.push(format!("the key is {state}, enable says {enabled}"));
        }
        if !wrong.is_empty() {
            failures.push(format!("{} {} ({}): {}\n{record:#}", case.id, case.title, case.rfc, wrong.join("; ")));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// `NAME TYPE DATA` as a command of nsupdate.
fn add(line: &str) -> String {
    let (name, rest) = line.split_once(' ').unwrap();
    format!("update add {name} 1 {rest}\n")
}

#[test]
fn the_zone_form_is_one_record_in_strings_of_at_most_255_octets_and_is_right_as_it_is() {
    let named = Named::with().zone("c02.test", "").start();
    let (_app, tenant) = start(&named);
    let domain = Registered::new(&tenant, &named, "c02.test", "rsa-2048");
    let zone = tenant.api.get(&format!("/v1/domains/{}/records?format=bind", domain.id)).expect(200);
    let zone = String::from_utf8(zone.body.to_vec()).unwrap();
    let lines: Vec<&str> =
        zone.lines().filter(|line| line.contains("._domainkey.") && !line.starts_with(';')).collect();
    let [line] = lines.as_slice() else { panic!("one record is expected:\n{zone}") };
    let strings: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
    assert!(strings.len() > 1 && strings.iter().all(|string| string.len() <= 255), "{line}");
    assert_eq!(strings.concat(), text(&domain.dkim["value"]));
    named.update(&domain.name, &format!("update add {}\n", line.replacen(" IN ", " ", 1)));
    let check = domain.check(&tenant);
    assert_eq!(check["verdict"], "pass", "{check:#}");
}

/// Two servers of the zone, the second one at 127.0.0.2.
fn pair(zone: &str) -> (Named, Named) {
    let with = || -> NamedBuilder { Named::with().zone(zone, "").address("127.0.0.2") };
    let first = with().start();
    let second = with().start_beside(&first, "127.0.0.2");
    (first, second)
}

#[test]
fn a_key_does_not_sign_before_every_server_that_can_be_reached_has_its_record() {
    let (first, second) = pair("lag.test");
    let (_app, tenant) = start(&first);
    let domain = Registered::new(&tenant, &first, "lag.test", "ed25519");
    let ownership = first.txt("_signpost.lag.test");
    second.publish_txt("_signpost.lag.test", &[&ownership[0]]);
    first.publish(&domain.dkim);
    let name = text(&domain.dkim["name"]);
    // The second server has nothing yet; then it has what was there before.
    for former in [None, Some(format!("v=DKIM1; k=ed25519; p={OTHER}"))] {
        if let Some(former) = &former {
            second.publish_txt(&name, &[former]);
        }
        let check = domain.check(&tenant);
        let record = domain.found(&check);
        assert_eq!((&check["verdict"], &record["status"]), (&json!("fail"), &json!("lagging")), "{check:#}");
        let theirs = if former.is_some() { "mismatch" } else { "missing" };
        let expected = [("ns1.lag.test (127.0.0.1)", "ok"), ("ns2.lag.test (127.0.0.2)", theirs)];
        assert_eq!(statuses(&record), expected.map(|(s, t)| (s.to_owned(), t.to_owned())), "{record:#}");
        assert_eq!((domain.key_state(&tenant).as_str(), domain.enable(&tenant)), ("pending", 409));
    }
    second.publish(&domain.dkim);
    let check = domain.check(&tenant);
    assert_eq!(check["verdict"], "pass", "{check:#}");
    assert_eq!((domain.key_state(&tenant).as_str(), domain.enable(&tenant)), ("published", 200));
}

#[test]
fn a_server_that_is_down_is_a_warning_and_one_that_is_back_without_the_record_counts() {
    let with = || Named::with().zone("down.test", "").address("127.0.0.2");
    let first = with().start();
    let (_app, tenant) = start(&first);
    let domain = Registered::new(&tenant, &first, "down.test", "ed25519");
    first.publish(&domain.dkim);
    let check = domain.check(&tenant);
    let record = domain.found(&check);
    assert_eq!((&check["verdict"], &record["status"]), (&json!("pass"), &json!("ok")), "{check:#}");
    assert!(record["warnings"].to_string().contains("127.0.0.2"), "{record:#}");
    let _second = with().start_beside(&first, "127.0.0.2");
    let check = domain.check(&tenant);
    assert_eq!(domain.found(&check)["status"], "lagging", "{check:#}");
    assert_eq!(domain.key_state(&tenant), "published", "what servers do not agree about changes no state");
}

#[test]
fn a_delegated_domainkey_zone_is_found_on_its_own_servers() {
    // Referral and glue lead to the second server only.
    let delegation = "_domainkey IN NS ns.vendor\nns.vendor IN A 127.0.0.2\n";
    let first = Named::with().zone("c20.test", delegation).start();
    let vendor = Named::with().zone("_domainkey.c20.test", "").start_beside(&first, "127.0.0.2");
    let (_app, tenant) = start(&first);
    let domain = Registered::new(&tenant, &first, "c20.test", "rsa-2048");
    vendor.publish(&domain.dkim);
    let check = domain.check(&tenant);
    assert_eq!(check["verdict"], "pass", "{check:#}");
    let servers = statuses(&domain.found(&check));
    assert_eq!(servers[0], ("ns.vendor.c20.test (127.0.0.2)".to_owned(), "ok".to_owned()), "{check:#}");
}

/// Serves with its questions going to this resolver.
fn start_behind(named: &Named, unbound: &Unbound) -> (App, Tenant) {
    let app = App::with().dns(named).env("SIGNPOST_DNS_RESOLVERS", unbound.address().to_string()).start();
    let tenant = app.tenant("Ann");
    (app, tenant)
}

#[test]
fn a_record_is_found_as_soon_as_it_is_published_although_resolvers_may_remember_its_absence_for_a_day() {
    const DAY: u32 = 86_400;
    let zones = || Named::with().zone("early.test", "").zone("late.test", "").negative_ttl(DAY);
    let named = zones().start();
    let unbound = Unbound::start(&named, &[]);
    let (_app, tenant) = start_behind(&named, &unbound);
    let publish_and_check = |domain: &Registered| {
        named.publish(&domain.dkim);
        let check = domain.check(&tenant);
        assert_eq!(check["verdict"], "pass", "{check:#}");
        assert_eq!(domain.enable(&tenant), 200);
        domain.found(&check)
    };
    let resolver = |record: &Value| {
        let servers = statuses(record);
        servers.into_iter().find(|(server, _)| server.starts_with("resolver")).map(|(_, status)| status)
    };

    // We ask again and again before it is there. Had one of these questions gone to the resolver, it would say so for a day.
    let domain = Registered::new(&tenant, &named, "early.test", "ed25519");
    for _ in 0..3 {
        let check = domain.check(&tenant);
        assert_eq!(
            (&check["verdict"], &domain.found(&check)["status"]),
            (&json!("fail"), &json!("missing")),
            "{check:#}"
        );
    }
    let record = publish_and_check(&domain);
    assert_eq!(resolver(&record).as_deref(), Some("ok"), "{record:#}");
    assert_eq!(record["warnings"], json!([]));

    // Somebody else asked too early: that is said, with its end, and holds nothing up.
    let domain = Registered::new(&tenant, &named, "late.test", "ed25519");
    assert_eq!(unbound.ask_txt(&text(&domain.dkim["name"])), "NXDOMAIN");
    let record = publish_and_check(&domain);
    assert_eq!(resolver(&record).as_deref(), Some("missing"), "{record:#}");
    let warnings = record["warnings"].to_string();
    let seconds: u32 = warnings.split("at most ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
    assert!((DAY - 600..=DAY).contains(&seconds), "{warnings}");
}

#[test]
fn a_record_that_validating_resolvers_refuse_does_not_let_a_key_sign() {
    // The registrar still holds the DS of a former provider, the zone is not signed any more.
    let anchor = "bogus.test. IN DS 12345 13 2 0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF";
    let named = Named::with().zone("bogus.test", "").zone("fine.test", "").start();
    let unbound = Unbound::start(&named, &[anchor]);
    let (_app, tenant) = start_behind(&named, &unbound);
    for (name, status, verdict) in [("bogus.test", "dnssec_bogus", "fail"), ("fine.test", "ok", "pass")] {
        let domain = Registered::new(&tenant, &named, name, "ed25519");
        named.publish(&domain.dkim);
        let check = domain.check(&tenant);
        let record = domain.found(&check);
        assert_eq!((&check["verdict"], &record["status"]), (&json!(verdict), &json!(status)), "{check:#}");
        assert_eq!(statuses(&record).last().unwrap().1, status, "{record:#}");
        assert_eq!(domain.enable(&tenant) == 200, verdict == "pass");
    }
}
