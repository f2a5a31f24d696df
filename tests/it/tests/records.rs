//! What to publish, in every form, read by the programs that the forms are for: and nothing of others is overwritten.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{App, Named, Tenant, World, named_checkzone, route53};
use std::collections::BTreeMap;

const FORMS: [&str; 4] = ["bind", "route53", "cloudflare", "nsupdate"];

/// A server whose tenants use their own names as MAIL FROM, so that SPF is advised.
fn world(zones: signpost_it::NamedBuilder) -> (Named, App, Tenant) {
    let named = zones.start();
    let app =
        App::with().dns(&named).env("SIGNPOST_SERVICE_DOMAIN", "").env("SIGNPOST_EGRESS_IPS", "192.0.2.7").start();
    let tenant = app.tenant("Ann's shop");
    (named, app, tenant)
}

fn register(tenant: &Tenant, name: &str) -> (String, Vec<Value>) {
    let domain = tenant.api.post("/v1/domains", &json!({"name": name})).expect(201).json();
    (domain["id"].as_str().unwrap().to_owned(), domain["records"].as_array().unwrap().clone())
}

fn form(tenant: &Tenant, id: &str, format: &str) -> String {
    let answer = tenant.api.get(&format!("/v1/domains/{id}/records?format={format}")).expect(200);
    let content_type = if format == "route53" { "application/json" } else { "text/plain; charset=utf-8" };
    assert_eq!(answer.header("content-type"), content_type, "{format}");
    answer.text()
}

fn list(tenant: &Tenant, id: &str) -> Vec<Value> {
    let page = tenant.api.get(&format!("/v1/domains/{id}/records")).expect(200).json();
    page["data"].as_array().unwrap().clone()
}

fn of<'a>(records: &'a [Value], purpose: &str) -> &'a Value {
    records.iter().find(|record| record["purpose"] == purpose).unwrap_or_else(|| panic!("no {purpose}: {records:#?}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// `name. TXT "..." "..."`, as named-checkzone prints a record of the API.
fn line(record: &Value) -> String {
    let chunks: Vec<String> =
        record["chunks"].as_array().unwrap().iter().map(|chunk| format!("\"{}\"", text(chunk))).collect();
    format!("{}. TXT {}", text(&record["name"]), chunks.join(" "))
}

fn check(tenant: &Tenant, id: &str) -> Value {
    tenant.api.post_empty(&format!("/v1/domains/{id}/check")).expect(200).json()
}

fn batch(tenant: &Tenant, id: &str) -> Value {
    serde_json::from_str(&form(tenant, id, "route53")).unwrap()
}

fn hex(text: &str) -> String {
    text.bytes().map(|octet| format!("{octet:02x}")).collect()
}

/// Strings of each value of a TXT set, as hex, sorted.
fn values(sets: &Value, name: &str) -> Vec<Vec<String>> {
    let set = &sets[format!("{name}. TXT")];
    let mut values: Vec<Vec<String>> =
        serde_json::from_value(set["values"].clone()).unwrap_or_else(|e| panic!("{name}: {e} in {sets:#}"));
    values.sort();
    values
}

#[test]
fn each_record_says_where_it_goes_and_its_chunks_join_to_its_value() {
    let (_named, _app, tenant) = world(World::zones().zone("own.other.test", "").zone("_domainkey.third.test", ""));
    // (domain, its zone, names relative to their zones by purpose)
    for (name, zones) in [
        (
            "example.test",
            [
                ("ownership", "example.test", "_signpost"),
                ("spf", "example.test", "@"),
                ("dmarc", "example.test", "_dmarc"),
            ],
        ),
        (
            "mail.example.test",
            [
                ("ownership", "example.test", "_signpost.mail"),
                ("spf", "example.test", "mail"),
                ("dmarc", "example.test", "_dmarc.mail"),
            ],
        ),
        (
            "own.other.test",
            [
                ("ownership", "own.other.test", "_signpost"),
                ("spf", "own.other.test", "@"),
                ("dmarc", "own.other.test", "_dmarc"),
            ],
        ),
        (
            "third.test",
            [
                ("ownership", "third.test", "_signpost"),
                ("spf", "third.test", "@"),
                ("dkim", "_domainkey.third.test", ""),
            ],
        ),
    ] {
        let (id, at_first) = register(&tenant, name);
        assert!(
            at_first.iter().all(|record| record["zone_source"] == "assumed"),
            "nobody was asked yet: {at_first:#?}"
        );
        let records = list(&tenant, &id);
        for record in &records {
            let chunks: Vec<&str> = record["chunks"].as_array().unwrap().iter().map(text).collect();
            assert_eq!(chunks.concat(), text(&record["value"]));
            assert!(chunks.iter().all(|chunk| chunk.len() <= 255), "{record:#}");
            assert_eq!(record["zone_source"], "dns", "{record:#}");
            let instruction = text(&record["instruction"]);
            assert!(instruction.contains(text(&record["name"])) && instruction.ends_with('.'), "{instruction}");
            let (relative, zone) = (text(&record["relative_name"]), text(&record["zone"]));
            let full = if relative == "@" { zone.to_owned() } else { format!("{relative}.{zone}") };
            assert_eq!(full, text(&record["name"]));
        }
        for (purpose, zone, relative) in zones {
            let record = of(&records, purpose);
            assert_eq!(text(&record["zone"]), zone, "{record:#}");
            if !relative.is_empty() {
                assert_eq!(text(&record["relative_name"]), relative, "{record:#}");
            }
        }
        // A check remembers the zones.
        check(&tenant, &id);
        let domain = tenant.api.get(&format!("/v1/domains/{id}")).expect(200).json();
        assert!(
            domain["records"].as_array().unwrap().iter().all(|record| record["zone_source"] == "dns"),
            "{domain:#}"
        );
    }
}

#[test]
fn without_an_answer_from_dns_the_zone_is_assumed_and_every_form_says_so() {
    let world = World::start();
    let (id, _) = register(&world.tenant, "www.unknown.example");
    let records = list(&world.tenant, &id);
    let ownership = of(&records, "ownership");
    assert_eq!(
        (text(&ownership["zone"]), text(&ownership["zone_source"]), text(&ownership["relative_name"])),
        ("unknown.example", "assumed", "_signpost.www")
    );
    for format in FORMS {
        let written = form(&world.tenant, &id, format);
        assert!(written.contains("assumed"), "{format}: {written}");
        // The DMARC advice could make a second record; what is required could not.
        let advised = written.lines().any(|line| !line.starts_with(';') && line.contains("v=DMARC1"));
        assert!(!advised, "{format}: {written}");
        assert!(
            written.contains("_signpost.www.unknown.example.") && written.contains("._domainkey.www.unknown.example.")
        );
    }
    assert!(!form(&world.tenant, &id, "nsupdate").lines().any(|line| line.starts_with("zone ")));
    let batch = batch(&world.tenant, &id);
    assert!(batch["Changes"].as_array().unwrap().iter().all(|change| change["Action"] == "CREATE"), "{batch:#}");
    route53("unknown.example", &json!([]), &batch).unwrap();
    let occupied = json!([{"Name": "_signpost.www.unknown.example.", "Type": "TXT", "TTL": 60, "ResourceRecords": [{"Value": "\"theirs\""}]}]);
    let refused = route53("unknown.example", &occupied, &batch).unwrap_err();
    assert!(refused.contains("CREATE"), "what nobody knew of is not overwritten: {refused}");
}

#[test]
fn named_checkzone_reads_the_zone_fragments() {
    let (_named, _app, tenant) = world(World::zones());
    for name in ["example.test", "mail.example.test"] {
        let (id, records) = register(&tenant, name);
        let mut expected: Vec<String> = records.iter().map(line).collect();
        expected.sort();
        for format in ["bind", "cloudflare"] {
            assert_eq!(named_checkzone("example.test", &form(&tenant, &id, format)), expected, "{format}");
        }
    }
}

/// C02: one record, all its strings on one line.
#[test]
fn a_key_of_2048_bits_is_one_line_of_two_strings() {
    let (_named, _app, tenant) = world(World::zones());
    let (id, records) = register(&tenant, "example.test");
    let dkim = of(&records, "dkim");
    assert_eq!(dkim["chunks"].as_array().unwrap().len(), 2);
    for format in ["bind", "cloudflare", "nsupdate"] {
        let written = form(&tenant, &id, format);
        let lines: Vec<&str> =
            written.lines().filter(|line| line.contains("p=MII") && !line.starts_with(';')).collect();
        let [one] = lines.as_slice() else { panic!("{format}: {written}") };
        let data = line(dkim).split_once(" TXT ").unwrap().1.to_owned();
        assert!(one.ends_with(&format!(" 3600 IN TXT {data}")), "{format}: {one}");
    }
}

#[test]
fn what_nsupdate_publishes_passes_the_check() {
    let (named, _app, tenant) = world(World::zones().zone("_domainkey.third.test", ""));
    for name in ["example.test", "mail.other.test", "third.test"] {
        let (id, records) = register(&tenant, name);
        named.publish_txt(text(&of(&records, "ownership")["name"]), &["signpost-verification=of-another-account"]);
        // Left over at the selector, and an alias at that: both would make the record void.
        named.update(
            text(&of(&records, "dkim")["name"]),
            &format!("update add {}. 1 CNAME nowhere.test.\n", text(&of(&records, "dkim")["name"])),
        );
        let script = form(&tenant, &id, "nsupdate");
        for _twice in 0..2 {
            named.nsupdate(&script);
        }
        let check = check(&tenant, &id);
        assert_eq!(check["verdict"], "pass", "{check:#}\n{script}");
        for record in check["records"].as_array().unwrap() {
            assert_eq!(record["status"], "ok", "{record:#}\n{script}");
        }
        let tokens = named.txt(text(&of(&records, "ownership")["name"]));
        assert!(tokens.contains(&"signpost-verification=of-another-account".to_owned()), "{tokens:?}");
        // Once more, now that all of it stands there: nothing is said twice.
        named.nsupdate(&form(&tenant, &id, "nsupdate"));
        assert_eq!(named.txt(name).len(), 1);
        assert_eq!(named.txt(&format!("_dmarc.{name}")).len(), 1);
    }
}

/// D01, and its like: whatever form is used, a name has one SPF record and one DMARC record afterwards, and nothing else is lost.
#[test]
fn an_spf_record_is_merged_and_what_stands_beside_it_stays_octet_for_octet() {
    let every_octet: Vec<String> = (0..=255u8)
        .collect::<Vec<_>>()
        .chunks(100)
        .map(|octets| octets.iter().map(|o| format!("\\{o:03}")).collect())
        .collect();
    let odd = format!("\"{}\"", every_octet.join("\" \""));
    let zone = format!(
        "@ 77 IN TXT \"v=spf1 mx \" \"-all\"\n@ 77 IN TXT {odd}\n@ IN MX 10 mx\nmx IN A 127.0.0.1\n_dmarc IN TXT \"v=DMARC1; p=reject\"\n"
    );
    let (named, _app, tenant) = world(Named::with().zone("example.test", &zone));
    let (id, _) = register(&tenant, "example.test");
    let before = named.records("example.test", "TXT");
    let merged = "v=spf1 mx ip4:192.0.2.7 -all";

    let sets = json!([
        {"Name": "example.test.", "Type": "TXT", "TTL": 77, "ResourceRecords": [{"Value": "\"v=spf1 mx \" \"-all\""}, {"Value": "\"more\""}]},
        {"Name": "_dmarc.example.test.", "Type": "TXT", "TTL": 1, "ResourceRecords": [{"Value": "\"v=DMARC1; p=reject\""}]},
    ]);
    let after = route53("example.test", &sets, &batch(&tenant, &id)).unwrap();
    let whole: String = (0..=255u8).map(|octet| format!("{octet:02x}")).collect();
    let apex: Vec<String> = values(&after, "example.test").into_iter().map(|strings| strings.concat()).collect();
    assert_eq!(apex, [whole, hex(merged)], "{after:#}");
    assert_eq!(after["example.test. TXT"]["ttl"], 77, "theirs is kept");
    assert_eq!(values(&after, "_dmarc.example.test"), [[hex("v=DMARC1; p=reject")]]);

    for format in ["bind", "cloudflare"] {
        let written = form(&tenant, &id, format);
        let published = named_checkzone("example.test", &written);
        assert!(!published.iter().any(|record| record.contains("v=spf1") || record.contains("v=DMARC1")), "{written}");
        assert!(written.contains(merged) && written.contains("\"v=spf1 mx \" \"-all\""), "{written}");
    }

    let script = form(&tenant, &id, "nsupdate");
    named.nsupdate(&script);
    let now = named.records("example.test", "TXT");
    assert_eq!(now.len(), 2, "{now:?}");
    assert!(now.contains(&format!("\"{merged}\"")), "{now:?}");
    assert!(
        before.iter().filter(|record| !record.contains("spf1")).all(|record| now.contains(record)),
        "{before:?} {now:?}"
    );
    assert_eq!(named.txt("_dmarc.example.test"), ["v=DMARC1; p=reject"]);
    let checked = check(&tenant, &id);
    assert!(checked["records"].as_array().unwrap().iter().all(|record| record["status"] == "ok"), "{checked:#}");

    // The zone has changed since: the script is refused, not applied to what it does not know.
    let refused = named.try_nsupdate(&script);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("NXRRSET"), "{refused:?}");
    assert_eq!(named.records("example.test", "TXT"), now);
}

#[test]
fn route_53_keeps_the_tokens_of_other_accounts_and_clears_a_selector() {
    let (named, _app, tenant) = world(World::zones());
    let (id, records) = register(&tenant, "example.test");
    let (ownership, dkim) = (of(&records, "ownership"), of(&records, "dkim"));
    let (owner, selector) = (text(&ownership["name"]), text(&dkim["name"]));
    named.publish_txt(owner, &["signpost-verification=of-another-account"]);
    named.update(selector, &format!("update add {selector}. 5 CNAME nowhere.test.\n"));
    let sets = json!([
        {"Name": format!("{owner}."), "Type": "TXT", "TTL": 1, "ResourceRecords": [{"Value": "\"signpost-verification=of-another-account\""}]},
        {"Name": format!("{selector}."), "Type": "CNAME", "TTL": 5, "ResourceRecords": [{"Value": "nowhere.test."}]},
    ]);
    let batch = batch(&tenant, &id);
    let after = route53("example.test", &sets, &batch).unwrap();
    let mut tokens = vec![vec![hex("signpost-verification=of-another-account")], vec![hex(text(&ownership["value"]))]];
    tokens.sort();
    assert_eq!(values(&after, owner), tokens);
    let chunks: Vec<String> = dkim["chunks"].as_array().unwrap().iter().map(|chunk| hex(text(chunk))).collect();
    assert_eq!(values(&after, selector), [chunks]);
    assert!(after[format!("{selector}. CNAME")].is_null(), "{after:#}");
    // It can be sent again.
    let names: Vec<&Value> =
        batch["Changes"].as_array().unwrap().iter().map(|change| &change["ResourceRecordSet"]["Name"]).collect();
    assert!(names.iter().all(|name| text(name).ends_with('.')), "{batch:#}");
    assert!(text(&batch["Comment"]).len() <= 256 && text(&batch["Comment"]).contains("example.test"));
}

#[test]
fn what_a_wildcard_gives_is_not_taken_for_what_stands_there() {
    let zone = "* IN TXT \"v=spf1 -all\"\n*._domainkey IN CNAME parked.test.\n";
    let (named, _app, tenant) = world(Named::with().zone("example.test", zone));
    let (id, records) = register(&tenant, "example.test");
    let after = route53("example.test", &json!([]), &batch(&tenant, &id)).unwrap();
    assert_eq!(values(&after, "_dmarc.example.test"), [[hex("v=DMARC1; p=none")]]);
    assert_eq!(values(&after, text(&of(&records, "ownership")["name"])).len(), 1);
    named.nsupdate(&form(&tenant, &id, "nsupdate"));
    assert_eq!(check(&tenant, &id)["verdict"], "pass");
}

#[test]
fn nothing_is_put_beside_an_alias() {
    let zone = "_dmarc IN CNAME policy.vendor.test.\nshop IN CNAME shops.vendor.test.\n";
    let (_named, _app, tenant) = world(Named::with().zone("example.test", zone).zone("vendor.test", ""));
    for (name, alias) in [("example.test", "_dmarc.example.test"), ("shop.example.test", "shop.example.test")] {
        let (id, _) = register(&tenant, name);
        for format in ["bind", "cloudflare", "nsupdate"] {
            let written = form(&tenant, &id, format);
            let commands: Vec<&str> = written.lines().filter(|line| !line.starts_with(';')).collect();
            assert!(
                !commands
                    .iter()
                    .any(|line| line.contains(&format!(" {alias}.")) || line.starts_with(&format!("{alias}."))),
                "{written}"
            );
            assert!(written.contains("Left out. A CNAME to "), "{written}");
        }
        let batch = batch(&tenant, &id);
        let sets = json!([{"Name": format!("{alias}."), "Type": "CNAME", "TTL": 1, "ResourceRecords": [{"Value": "x.vendor.test."}]}]);
        route53("example.test", &sets, &batch).unwrap();
        assert!(text(&batch["Comment"]).contains(alias), "{batch:#}");
    }
}

#[test]
fn records_of_several_zones_are_told_apart() {
    let (_named, _app, tenant) = world(World::zones().zone("_domainkey.third.test", ""));
    let (id, _) = register(&tenant, "third.test");
    let script = form(&tenant, &id, "nsupdate");
    let zones: Vec<&str> = script.lines().filter(|line| line.starts_with("zone ")).collect();
    assert_eq!(zones, ["zone third.test.", "zone _domainkey.third.test."]);
    let file = form(&tenant, &id, "cloudflare");
    assert!(named_checkzone("third.test", &file).iter().all(|record| !record.contains("_domainkey")), "{file}");
    assert!(file.contains("another zone"), "{file}");
    let batch = batch(&tenant, &id);
    route53("third.test", &json!([]), &batch).unwrap();
    assert!(text(&batch["Comment"]).contains("of other zones: 1"), "{batch:#}");
}

#[test]
fn an_unknown_form_is_refused_by_name() {
    let world = World::start();
    let (id, _) = register(&world.tenant, "example.test");
    for query in ["format=xml", "format=", "format=BIND", "format=bind&format=bind", "format=bind%00"] {
        let answer = world.tenant.api.get(&format!("/v1/domains/{id}/records?{query}"));
        let problem = answer.problem(422, "invalid-request");
        assert_eq!(problem["errors"][0]["parameter"], "format", "{query}: {problem}");
    }
}

/// Looking counts as a check, since it asks as many questions.
#[test]
fn looking_is_limited_as_checking_is() {
    let world = World::start();
    let (id, _) = register(&world.tenant, "example.test");
    let path = format!("/v1/domains/{id}/records?format=bind");
    let statuses: Vec<u16> = (0..121).map(|_| world.tenant.api.get(&path).status).collect();
    assert!(statuses[..120].iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(statuses[120], 429);
}

/// The operator's own zone, on the command line.
#[test]
fn the_operators_zone_is_listed_published_and_checked() {
    let named = World::zones().zone("mail.test", "mx IN A 127.0.0.1\n").start();
    let app = App::with()
        .dns(&named)
        .env("SIGNPOST_SERVICE_DOMAIN", "mail.test")
        .env("SIGNPOST_HOSTNAME", "mx.mail.test")
        .env("SIGNPOST_EGRESS_IPS", "192.0.2.7,2001:db8::7")
        .env("SIGNPOST_DNS_UPDATE", named.update_setting())
        .secret("TSIG secret", named.update_secret())
        .prepare();
    let run = |arguments: &[&str]| {
        let output = app.cli(&[&["operator"], arguments].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let statuses = |text: &str| -> BTreeMap<String, String> {
        let check: Value = serde_json::from_str(text).unwrap();
        let records = check["records"].as_array().unwrap();
        records
            .iter()
            .filter(|r| r["purpose"] != "dkim")
            .map(|r| (format!("{} {}", text_of(r, "name"), text_of(r, "type")), text_of(r, "status")))
            .collect()
    };
    // What is tried below `dkim.`.
    let trial = |text: &str| -> Value {
        let check: Value = serde_json::from_str(text).unwrap();
        check["records"].as_array().unwrap().iter().find(|r| r["purpose"] == "dkim").unwrap().clone()
    };
    let (code, before, _) = run(&["check", "--json"]);
    assert_eq!(code, Some(1));
    let expected = [
        "*._report._dmarc.reports.mail.test TXT",
        "bounce.mail.test MX",
        "bounce.mail.test TXT",
        "reports.mail.test MX",
        "spf.mail.test TXT",
    ];
    assert_eq!(
        statuses(&before).into_iter().collect::<Vec<_>>(),
        expected.map(|name| (name.to_owned(), "missing".to_owned()))
    );
    let check: Value = serde_json::from_str(&before).unwrap();
    assert!(check["notes"][0].as_str().unwrap().contains("dkim.mail.test lies in the zone mail.test"), "{check:#}");
    let tried = trial(&before);
    assert_eq!(tried["status"], "ok", "{tried:#}");
    assert!(named.txt(tried["name"].as_str().unwrap()).is_empty(), "the record of the check stays");

    let spf = "\"v=spf1 ip4:192.0.2.7 ip6:2001:db8::7 ~all\"";
    let lines = [
        "*._report._dmarc.reports.mail.test. TXT \"v=DMARC1;\"".to_owned(),
        "bounce.mail.test. MX 10 mx.mail.test.".to_owned(),
        format!("bounce.mail.test. TXT {spf}"),
        "reports.mail.test. MX 10 mx.mail.test.".to_owned(),
        format!("spf.mail.test. TXT {spf}"),
    ];
    // The host of the MX records has its address elsewhere in such a zone.
    let with_host = |fragment: &str| format!("mx IN A 127.0.0.1\n{fragment}");
    for format in ["bind", "cloudflare"] {
        let (code, written, _) = run(&["records", "--format", format]);
        assert_eq!(code, Some(0));
        assert_eq!(named_checkzone("mail.test", &with_host(&(written + "\n"))), lines, "{format}");
    }
    let (_, batch, _) = run(&["records", "--format", "route53"]);
    let after = route53("mail.test", &json!([]), &serde_json::from_str(&batch).unwrap()).unwrap();
    assert_eq!(after["reports.mail.test. MX"]["values"], json!(["10 mx.mail.test."]));
    let (_, records, _) = run(&["records", "--format", "json"]);
    let records: Value = serde_json::from_str(&records).unwrap();
    assert!(
        records["data"].as_array().unwrap().iter().all(|r| r["zone"] == "mail.test" && r["zone_source"] == "dns"),
        "{records:#}"
    );

    let (_, script, _) = run(&["records", "--format", "nsupdate"]);
    named.nsupdate(&script);
    let (code, after, _) = run(&["check", "--json"]);
    assert_eq!(
        (code, statuses(&after).into_values().collect::<Vec<_>>()),
        (Some(0), vec!["ok".to_owned(); 5]),
        "{after}"
    );
    // D33: a wildcard answers for every name, and any spelling of the tag will do.
    named.publish_txt("*._report._dmarc.reports.mail.test", &["v=DMARC1"]);
    named.update(
        "reports.mail.test",
        "update delete reports.mail.test. MX\nupdate add reports.mail.test. 1 MX 5 elsewhere.test.\n",
    );
    let (code, text, _) = run(&["check"]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("mismatch") && text.contains("Publish `10 mx.mail.test`") && text.ends_with("verdict fail\n"),
        "{text}"
    );
}

/// What the update server takes must come to the servers that the world asks.
#[test]
fn an_update_server_that_is_not_the_zones_primary_is_found_by_the_check() {
    let zones = || World::zones().zone("mail.test", "mx IN A 127.0.0.1\n");
    let (named, elsewhere) = (zones().start(), zones().start());
    let tried = |setting: String| {
        let app = App::with()
            .dns(&named)
            .env("SIGNPOST_SERVICE_DOMAIN", "mail.test")
            .env("SIGNPOST_HOSTNAME", "mx.mail.test")
            .env("SIGNPOST_DNS_UPDATE", setting)
            .prepare();
        let output = app.cli(&["operator", "check", "--json"]);
        assert_eq!(output.status.code(), Some(1));
        let check: Value = serde_json::from_slice(&output.stdout).unwrap();
        let records = check["records"].as_array().unwrap();
        let of_dkim = records.iter().find(|record| record["purpose"] == "dkim").unwrap();
        (text_of(of_dkim, "status"), text_of(of_dkim, "explanation"))
    };
    let (status, explanation) = tried(elsewhere.update_setting());
    assert!(status == "missing" && explanation.contains("must be the primary"), "{status}: {explanation}");
    let wrong = named.update_setting().replace(named.update_secret(), "YW5vdGhlciBzZWNyZXQ=");
    let (status, explanation) = tried(wrong);
    assert!(status == "missing" && explanation.contains("secret of the TSIG key"), "{status}: {explanation}");
}

fn text_of(record: &Value, member: &str) -> String {
    text(&record[member]).to_owned()
}

#[test]
fn the_operators_zone_needs_its_settings() {
    let (named, unset) = (World::zones().start(), App::with().env("SIGNPOST_SERVICE_DOMAIN", "").prepare());
    let output = unset.cli(&["operator", "records"]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("SIGNPOST_SERVICE_DOMAIN"));
    let bare = App::with().dns(&named).env("SIGNPOST_HOSTNAME", "mx").prepare();
    let output = bare.cli(&["operator", "check"]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("SIGNPOST_HOSTNAME"));
}
