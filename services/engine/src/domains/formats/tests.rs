use super::*;
use crate::domains::ZoneSource;
use serde::Deserialize;
use signpost_diagnosis::check::ServerAnswer;
use signpost_diagnosis::standing::ZoneCut;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Escape {
    id: String,
    octets: String,
    zone: String,
    route53: String,
    rfc: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chunks {
    id: String,
    value: Option<String>,
    repeat: Option<(String, usize)>,
    lengths: Vec<usize>,
    expect: Option<String>,
    rfc: String,
}

fn cases<T: for<'a> Deserialize<'a>>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn octets(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn txt(text: &str) -> Data {
    Data::Txt(vec![text.as_bytes().to_vec()])
}

fn zone(apex: &str) -> Zone {
    Zone {
        apex: apex.into(),
        found: true,
        primary: Some(("ns1.example.com".into(), Some("192.0.2.1:53".parse().unwrap()))),
    }
}

fn entry(name: &str, data: Data, plan: Plan) -> Entry {
    Entry { name: name.into(), zone: zone("example.com"), data, sentence: "Why.".into(), name_is_ours: false, plan }
}

fn publication(entries: Vec<Entry>) -> Publication {
    Publication { title: "example.com".into(), zone: zone("example.com"), entries }
}

fn alone() -> Plan {
    Plan::Add { beside: Some(Vec::new()) }
}

fn standing(data: Data) -> Standing {
    Standing { ttl: 60, data }
}

fn batch(publication: &Publication) -> serde_json::Value {
    serde_json::from_str(&write(publication, Format::Route53).unwrap()).unwrap()
}

#[test]
fn every_octet_is_written_as_each_reader_reads_it() {
    for case in cases::<Escape>(include_str!("../../../../../tests/cases/records/escapes.jsonl")) {
        assert!(!case.rfc.is_empty(), "{}", case.id);
        let data = Data::Txt(vec![octets(&case.octets)]);
        assert_eq!(zone_data(&data), case.zone, "{}", case.id);
        let batch = batch(&publication(vec![entry("example.com", data, alone())]));
        let value = &batch["Changes"][0]["ResourceRecordSet"]["ResourceRecords"][0]["Value"];
        assert_eq!(value, &case.route53, "{}", case.id);
    }
}

#[test]
fn a_long_value_is_one_record_of_strings_that_join_to_it() {
    for case in cases::<Chunks>(include_str!("../../../../../tests/cases/records/chunks.jsonl")) {
        assert!(!case.rfc.is_empty(), "{}", case.id);
        let value = case.value.unwrap_or_else(|| case.repeat.map(|(text, times)| text.repeat(times)).unwrap());
        let mut view = view(Purpose::Dkim, "TXT", &value);
        view.chunks = record::chunk(&value);
        let lengths: Vec<usize> = view.chunks.iter().map(String::len).collect();
        assert_eq!((lengths, view.chunks.concat()), (case.lengths, value), "{}", case.id);
        let data = data(&view).unwrap();
        if let Some(expected) = case.expect {
            assert_eq!(zone_data(&data), expected, "{}", case.id);
        }
        let text = write(&publication(vec![entry("s._domainkey.example.com", data, alone())]), Format::Bind).unwrap();
        assert_eq!(text.lines().filter(|line| !line.starts_with(';')).count(), 1, "{}: {text}", case.id);
    }
}

#[test]
fn every_type_in_every_form() {
    let entries = || {
        vec![
            entry("s._domainkey.example.com", Data::Cname("t.dkim.example.net".into()), alone()),
            entry("bounce.example.com", Data::Mx { preference: 10, host: "mx.example.net".into() }, alone()),
        ]
    };
    for (format, expected) in [
        (
            Format::Bind,
            [
                "s._domainkey.example.com. 3600 IN CNAME t.dkim.example.net.",
                "bounce.example.com. 3600 IN MX 10 mx.example.net.",
            ],
        ),
        (
            Format::Cloudflare,
            [
                "s._domainkey.example.com. 3600 IN CNAME t.dkim.example.net. ; cf_tags=cf-proxied:false",
                "bounce.example.com. 3600 IN MX 10 mx.example.net.",
            ],
        ),
        (
            Format::Nsupdate,
            [
                "update add s._domainkey.example.com. 3600 IN CNAME t.dkim.example.net.",
                "update add bounce.example.com. 3600 IN MX 10 mx.example.net.",
            ],
        ),
    ] {
        let text = write(&publication(entries()), format).unwrap();
        for line in expected {
            assert!(text.lines().any(|written| written == line), "{format:?}: {line}\n{text}");
        }
    }
    let batch = batch(&publication(entries()));
    let values: Vec<_> =
        (0..2).map(|i| batch["Changes"][i]["ResourceRecordSet"]["ResourceRecords"][0]["Value"].clone()).collect();
    assert_eq!(values, ["t.dkim.example.net.", "10 mx.example.net."]);
}

#[test]
fn records_of_one_name_and_type_are_one_set_and_what_stands_beside_them_stays() {
    let beside = || Plan::Add { beside: Some(vec![standing(txt("theirs"))]) };
    let batch = batch(&publication(vec![
        entry("example.com", txt("ours"), beside()),
        entry("example.com", txt("ours too"), beside()),
        entry("_signpost.example.com", txt("token"), Plan::Add { beside: None }),
        entry("_dmarc.example.com", txt("v=DMARC1; p=none"), Plan::Leave("Why not.".into())),
    ]));
    let changes = batch["Changes"].as_array().unwrap();
    assert_eq!(changes.len(), 2, "{batch:#}");
    assert_eq!((&changes[0]["Action"], &changes[1]["Action"]), (&"UPSERT".into(), &"CREATE".into()));
    let set = &changes[0]["ResourceRecordSet"];
    let values: Vec<_> =
        set["ResourceRecords"].as_array().unwrap().iter().map(|record| record["Value"].clone()).collect();
    assert_eq!(values, ["\"ours\"", "\"theirs\"", "\"ours too\""]);
    assert_eq!(set["TTL"], 60, "theirs is not changed");
    assert!(batch["Comment"].as_str().unwrap().contains("_dmarc.example.com"), "{batch:#}");
}

#[test]
fn a_batch_is_for_one_hosted_zone_and_its_comment_has_room() {
    let mut other = entry("s._domainkey.example.com", txt("v=DKIM1; p="), alone());
    other.zone = zone("_domainkey.example.com");
    let mut entries = vec![other];
    entries.extend((0..40).map(|n| entry(&format!("n{n}.example.com"), txt("x"), Plan::Leave("Why not.".into()))));
    let batch = batch(&publication(entries));
    assert_eq!(batch["Changes"], serde_json::json!([]));
    let comment = batch["Comment"].as_str().unwrap();
    assert!(comment.contains("of other zones: 1") && comment.chars().count() == 256, "{comment}");
}

#[test]
fn a_replacement_is_no_line_of_a_form_that_can_only_add() {
    let gone = vec![standing(txt("v=spf1 -all\n"))];
    let entries = || {
        vec![entry(
            "example.com",
            txt("v=spf1 ip4:192.0.2.1 -all"),
            Plan::Replace { gone: gone.clone(), beside: vec![standing(txt("theirs"))] },
        )]
    };
    for format in [Format::Bind, Format::Cloudflare] {
        let text = write(&publication(entries()), format).unwrap();
        assert!(text.lines().all(|line| line.starts_with(';')), "{text}");
        assert!(text.contains("\"v=spf1 -all\\010\"") && text.contains("\"v=spf1 ip4:192.0.2.1 -all\""), "{text}");
    }
    let text = write(&publication(entries()), Format::Nsupdate).unwrap();
    let commands: Vec<&str> = text.lines().filter(|line| !line.starts_with(';')).collect();
    assert_eq!(
        commands,
        [
            "server 192.0.2.1",
            "zone example.com.",
            "prereq yxrrset example.com. IN TXT \"v=spf1 -all\\010\"",
            "prereq yxrrset example.com. IN TXT \"theirs\"",
            "update delete example.com. IN TXT \"v=spf1 -all\\010\"",
            "update add example.com. 3600 IN TXT \"v=spf1 ip4:192.0.2.1 -all\"",
            "send",
        ]
    );
}

#[test]
fn without_a_zone_cut_nsupdate_is_left_to_find_it() {
    let mut publication = publication(vec![entry("_signpost.example.com", txt("token"), Plan::Add { beside: None })]);
    publication.zone.found = false;
    publication.zone.primary = None;
    let text = write(&publication, Format::Nsupdate).unwrap();
    assert!(text.contains("; Zone example.com is assumed"), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("zone ") || line.starts_with("server ")), "{text}");
}

fn view(purpose: Purpose, kind: &str, value: &str) -> RecordView {
    RecordView {
        purpose,
        kind: kind.into(),
        name: "n.example.com".into(),
        relative_name: "n".into(),
        zone: "example.com".into(),
        zone_source: ZoneSource::Dns,
        value: value.into(),
        chunks: vec![value.into()],
        required: false,
        status: "unchecked".into(),
        warnings: Vec::new(),
    }
}

fn place(servers: Vec<Result<Vec<Standing>, String>>) -> Place {
    let cut = ZoneCut { apex: "example.com".into(), primary: None };
    Place::of(cut, servers.into_iter().enumerate().map(|(n, said)| (format!("ns{n}"), said)).collect())
}

fn finding(status: Status) -> Finding {
    let servers: Vec<ServerAnswer> = Vec::new();
    Finding { status, warnings: vec![], found: vec![], servers, explanation: "e".into(), publish: None }
}

/// What is done about a record, by what it is for, what stands at its name, and what the check said of it.
#[test]
fn what_stands_at_a_name_decides() {
    let all = |data: Data| Ok(vec![standing(data)]);
    let beside = |data: Data| Plan::Add { beside: Some(vec![standing(data)]) };
    let replace = |data: Data| Plan::Replace { gone: vec![standing(data)], beside: vec![] };
    let other = || txt("site-verification=1");
    let spf = || txt("v=spf1 mx -all");
    let cname = || Data::Cname("elsewhere.example".into());
    let silent = || Err("no answer in time".to_owned());
    let txt_view = |purpose| view(purpose, "TXT", "ours");
    for (what, view, servers, status, expected) in [
        ("nothing there", txt_view(Purpose::Ownership), vec![Ok(vec![])], None, Some(alone())),
        (
            "another account's token stays",
            txt_view(Purpose::Ownership),
            vec![all(other())],
            None,
            Some(beside(other())),
        ),
        ("ours is there", txt_view(Purpose::Ownership), vec![all(txt("ours"))], None, Some(alone())),
        ("no answer", txt_view(Purpose::Ownership), vec![silent()], None, Some(Plan::Add { beside: None })),
        (
            "they disagree",
            txt_view(Purpose::Ownership),
            vec![all(other()), Ok(vec![])],
            None,
            Some(Plan::Add { beside: None }),
        ),
        ("one is silent", txt_view(Purpose::Ownership), vec![all(other()), silent()], None, Some(beside(other()))),
        ("an alias forbids it", txt_view(Purpose::Ownership), vec![all(cname())], None, None),
        ("a selector is ours alone", txt_view(Purpose::Dkim), vec![all(other())], None, Some(replace(other()))),
        ("so an alias goes", txt_view(Purpose::Dkim), vec![all(cname())], None, Some(replace(cname()))),
        (
            "and text before an alias",
            view(Purpose::Dkim, "CNAME", "t.example"),
            vec![all(other())],
            None,
            Some(replace(other())),
        ),
        (
            "an MX beside others",
            view(Purpose::ReturnPath, "MX", "10 mx.example"),
            vec![Ok(vec![])],
            None,
            Some(alone()),
        ),
        ("no alias beside others", view(Purpose::ReturnPath, "CNAME", "t.example"), vec![all(other())], None, None),
        ("SPF replaces SPF", txt_view(Purpose::Spf), vec![all(spf())], Some(Status::Mismatch), Some(replace(spf()))),
        ("and nothing else", txt_view(Purpose::Spf), vec![all(other())], Some(Status::Missing), Some(beside(other()))),
        ("SPF that is right stays", txt_view(Purpose::Spf), vec![all(spf())], Some(Status::Ok), Some(Plan::InPlace)),
        ("no second SPF by ignorance", txt_view(Purpose::Spf), vec![silent()], Some(Status::Unreachable), None),
        ("nor where it cannot be judged", txt_view(Purpose::Spf), vec![all(spf())], Some(Status::Unreachable), None),
        (
            "DMARC of the parent applies",
            txt_view(Purpose::Dmarc),
            vec![Ok(vec![])],
            Some(Status::Ok),
            Some(Plan::InPlace),
        ),
        (
            "a broken DMARC record goes",
            txt_view(Purpose::Dmarc),
            vec![all(txt("v=dmarc1; p=none"))],
            Some(Status::Malformed),
            Some(replace(txt("v=dmarc1; p=none"))),
        ),
    ] {
        let data = data(&view).unwrap();
        let finding = status.map(finding);
        let plan = plan(&view, &data, &place(servers), finding.as_ref());
        match expected {
            Some(expected) => assert_eq!(plan, expected, "{what}"),
            None => assert!(matches!(&plan, Plan::Leave(why) if why.ends_with('.')), "{what}: {plan:?}"),
        }
    }
}
