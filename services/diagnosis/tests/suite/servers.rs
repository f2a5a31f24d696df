//! Servers that disagree, are silent, refuse, delegate, or are not public.
use crate::bind::{Bind, Zone, free_port};
use signpost_diagnosis::check::{Expected, Finding, Status, Want, check, read_published_key, resolvers_word};
use signpost_diagnosis::dns::{Dns, DnsSettings, LookupError, MxHost};
use signpost_diagnosis::guard::Guard;
use signpost_dkim::SigningDomain;
use signpost_dkim::record::{PublicKey, build, zone_text};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

const NAME: &str = "s1._domainkey.example.test";
const DEADLINE: Duration = Duration::from_secs(10);
const FIRST: [u8; 4] = [127, 0, 0, 1];
const SECOND: [u8; 4] = [127, 0, 0, 2];

fn key(fill: u8) -> PublicKey {
    PublicKey::from_ed25519(&[fill; 32]).unwrap()
}

fn key_line(owner: &str, key: &PublicKey) -> String {
    format!("{owner} TXT {}", zone_text(&build(key)))
}

fn domain() -> SigningDomain {
    SigningDomain::parse("example.test").unwrap()
}

async fn check_key(dns: &Dns, key: &PublicKey) -> Finding {
    let expected = [Expected { name: NAME.to_owned(), want: Want::DkimKey { key: key.clone() } }];
    check(dns, &domain(), &expected, DEADLINE).await.remove(0)
}

/// Two servers of example.test with these records.
fn pair(first: &[&str], second: &[&str]) -> (Bind, Bind) {
    let port = free_port();
    let servers = ["127.0.0.1", "127.0.0.2"];
    let start = |ip: [u8; 4], records: &[&str]| {
        Bind::start_at(SocketAddr::new(ip.into(), port), &[Zone::served_by("example.test", &servers, records)])
    };
    (start(FIRST, first), start(SECOND, second))
}

/// Two servers of example.test that answer with these serials and records, one wrong.
async fn status_of_pair(first: (u32, &str), second: (u32, &str)) -> Finding {
    let port = free_port();
    let start = |ip: [u8; 4], (serial, record): (u32, &str)| {
        let zone = Zone::served_by("example.test", &["127.0.0.1", "127.0.0.2"], &[record]).serial(serial);
        Bind::start_at(SocketAddr::new(ip.into(), port), &[zone])
    };
    let (first, _second) = (start(FIRST, first), start(SECOND, second));
    check_key(&first.dns(), &key(1)).await
}

#[tokio::test]
async fn servers_that_have_not_followed_yet_make_the_record_lag_and_are_named() {
    let (ours, other) = (key_line("s1._domainkey", &key(1)), key_line("s1._domainkey", &key(2)));
    let nothing = "unrelated TXT \"x\"";
    let finding = status_of_pair((1, &ours), (1, nothing)).await;
    assert_eq!(finding.status, Status::Lagging, "{finding:?}");
    assert!(finding.explanation.contains("ns1.example.test (127.0.0.1) says ok"), "{finding:?}");
    assert!(finding.explanation.contains("ns2.example.test (127.0.0.2) says missing"), "{finding:?}");
    assert_eq!(finding.servers.len(), 2, "the resolver is not asked before all are right: {finding:?}");

    let finding = status_of_pair((1, &ours), (1, &other)).await;
    assert_eq!(finding.status, Status::Lagging, "{finding:?}");
    assert_eq!(finding.found.len(), 2);

    // What was wrong before and is mended is still there on the server with the older zone.
    let damaged = "s1._domainkey TXT \"v=DKIM1; p=???\"";
    let finding = status_of_pair((43, &ours), (42, damaged)).await;
    assert_eq!(finding.status, Status::Lagging, "{finding:?}");
    assert!(finding.explanation.contains("says malformed (serial 42 of the zone)"), "{finding:?}");
}

#[tokio::test]
async fn servers_that_are_wrong_in_their_own_right_decide() {
    let ours = key_line("s1._domainkey", &key(1));
    let damaged = "s1._domainkey TXT \"v=DKIM1; p=???\"";
    let finding = status_of_pair((1, &ours), (1, damaged)).await;
    assert_eq!(finding.status, Status::Malformed, "{finding:?}");
    assert!(finding.explanation.contains("ns2.example.test (127.0.0.2) says malformed"), "{finding:?}");
    // The newest zone is the one without the record: it was taken away, the other server has not heard of it yet.
    let finding = status_of_pair((7, &ours), (8, "unrelated TXT \"x\"")).await;
    assert_eq!(finding.status, Status::Missing, "{finding:?}");
    let finding = status_of_pair((1, &ours), (1, "s1._domainkey TXT \"v=DKIM1; p=\"")).await;
    assert_eq!(finding.status, Status::Revoked, "{finding:?}");
}

#[tokio::test]
async fn a_silent_server_is_a_warning_beside_a_right_one() {
    let ours = key(1);
    let servers = ["127.0.0.1", "127.0.0.3"];
    let first = Bind::start(&[Zone::served_by("example.test", &servers, &[&key_line("s1._domainkey", &ours)])]);
    let finding = check_key(&first.dns(), &ours).await;
    assert_eq!(finding.status, Status::Ok, "{finding:?}");
    assert!(finding.warnings.iter().any(|warning| warning.contains("127.0.0.3")), "{finding:?}");
    let mut statuses: Vec<_> = finding.servers.iter().map(|answer| answer.status.as_str()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["ok", "ok", "unreachable"], "with the resolver: {finding:?}");
}

#[tokio::test]
async fn without_any_answer_nothing_is_known() {
    let ours = key(1);
    let bind = Bind::start(&[Zone::served_by("example.test", &["127.0.0.3"], &[&key_line("s1._domainkey", &ours)])]);
    let finding = check_key(&bind.dns(), &ours).await;
    assert_eq!(finding.status, Status::Unreachable, "{finding:?}");
    assert!(finding.explanation.contains("check again later"), "{finding:?}");

    // Nor where the resolver knows no name servers: the zone is not on this server, which refuses.
    let bind = Bind::start(&[Zone::new("other.test", &[])]);
    let finding = check_key(&bind.dns(), &ours).await;
    assert_eq!(finding.status, Status::Unreachable, "{finding:?}");
    assert!(finding.explanation.contains("no name servers"), "{finding:?}");
}

#[tokio::test]
async fn a_server_that_does_not_serve_the_zone_does_not_count() {
    let ours = key(1);
    let port = free_port();
    let zone = Zone::served_by("example.test", &["127.0.0.1", "127.0.0.2"], &[&key_line("s1._domainkey", &ours)]);
    let first = Bind::start_at(SocketAddr::new(FIRST.into(), port), &[zone]);
    let _lame = Bind::start_at(SocketAddr::new(SECOND.into(), port), &[Zone::new("other.test", &[])]);
    let finding = check_key(&first.dns(), &ours).await;
    assert_eq!(finding.status, Status::Ok, "{finding:?}");
    assert!(
        finding.warnings.iter().any(|warning| warning.contains("127.0.0.2") && warning.contains("Refused")),
        "{finding:?}"
    );
}

#[tokio::test]
async fn addresses_that_are_not_public_are_not_asked() {
    let ours = key(1);
    let bind = Bind::start(&[Zone::new("example.test", &[&key_line("s1._domainkey", &ours)])]);
    let finding = check_key(&bind.dns_with(Guard::default()), &ours).await;
    assert_eq!(finding.status, Status::Unreachable, "{finding:?}");
    assert!(finding.explanation.contains("SIGNPOST_DANGEROUS_ALLOW_TARGETS"), "{finding:?}");
    assert!(bind.txt_questions().is_empty(), "{:?}", bind.txt_questions());
}

#[tokio::test]
async fn the_resolver_is_asked_only_for_what_the_authoritative_servers_have() {
    let ours = key(1);
    let port = free_port();
    let records = key_line("s1._domainkey", &ours);
    // What the resolver knows of the zone: its servers, and an old state without the record.
    let resolver =
        Bind::start_at(SocketAddr::new(FIRST.into(), port), &[Zone::served_by("example.test", &["127.0.0.2"], &[])]);
    let authority = Bind::start_at(
        SocketAddr::new(SECOND.into(), port),
        &[Zone::served_by("example.test", &["127.0.0.2"], &[&records])],
    );
    let dns = resolver.dns();
    let expected = |selector: &str| {
        let name = format!("{selector}._domainkey.example.test");
        [Expected { name, want: Want::DkimKey { key: ours.clone() } }]
    };
    assert_eq!(check(&dns, &domain(), &expected("s2"), DEADLINE).await[0].status, Status::Missing);
    assert_eq!(read_published_key(&dns, &domain(), NAME, DEADLINE).await, Ok(Some(ours.to_p())));
    let finding = check(&dns, &domain(), &expected("s1"), DEADLINE).await.remove(0);
    // What it remembers is shown and a warning, no fault.
    assert_eq!(finding.status, Status::Ok, "{finding:?}");
    let servers: Vec<_> = finding.servers.iter().map(|one| (one.server.as_str(), one.status)).collect();
    assert_eq!(servers, [("ns1.example.test (127.0.0.2)", Status::Ok), ("resolver (127.0.0.1)", Status::Missing)]);
    assert!(finding.warnings.iter().any(|warning| warning.contains("at most 1 seconds")), "{finding:?}");
    // The log of questions is written behind: a last question tells when it is complete.
    let marker = "marker.example.test";
    assert!(dns.txt(marker).await.is_err());
    assert_eq!(resolver.txt_questions_up_to(marker).await, [NAME, marker]);
    assert!(authority.txt_questions_up_to(NAME).await.iter().any(|name| name == NAME));
}

#[tokio::test]
async fn a_delegated_domainkey_is_followed() {
    let ours = key(1);
    let port = free_port();
    let parent = Zone::new("example.test", &["_domainkey NS ns.vendor", "ns.vendor A 127.0.0.2"]);
    let child = Zone::served_by("_domainkey.example.test", &["127.0.0.2"], &[&key_line("s1", &ours)]);
    let first = Bind::start_at(SocketAddr::new(FIRST.into(), port), &[parent]);
    let _vendor = Bind::start_at(SocketAddr::new(SECOND.into(), port), &[child]);
    let finding = check_key(&first.dns(), &ours).await;
    assert_eq!(finding.status, Status::Ok, "{finding:?}");
    assert_eq!(finding.servers[0].server, "ns.vendor.example.test (127.0.0.2)");
}

#[tokio::test]
async fn records_of_one_check_come_back_in_order() {
    let ours = key(1);
    let token = "signpost-verification=abc".to_owned();
    let bind = Bind::start(&[Zone::new(
        "example.test",
        &[
            &key_line("s1._domainkey", &ours),
            "_signpost TXT \"signpost-verification=abc\"",
            "_dmarc TXT \"v=DMARC1; p=none\"",
        ],
    )]);
    let expected = [
        Expected { name: "_signpost.example.test".to_owned(), want: Want::Ownership { value: token } },
        Expected { name: NAME.to_owned(), want: Want::DkimKey { key: ours } },
        Expected {
            name: "bounce.example.test".to_owned(),
            want: Want::Spf { egress: vec!["192.0.2.1".parse().unwrap()] },
        },
        Expected { name: "_dmarc.example.test".to_owned(), want: Want::Dmarc },
    ];
    let statuses: Vec<_> =
        check(&bind.dns(), &domain(), &expected, DEADLINE).await.iter().map(|finding| finding.status).collect();
    assert_eq!(statuses, [Status::Ok, Status::Ok, Status::Missing, Status::Ok]);
}

#[tokio::test]
async fn a_zone_with_many_servers_and_records_stays_within_bounds() {
    let ours = key(1);
    let servers: Vec<String> =
        std::iter::once("127.0.0.1".to_owned()).chain((1..40).map(|n| format!("127.0.1.{n}"))).collect();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let others: Vec<String> = (0..30).map(|n| format!("s1._domainkey TXT \"other {n}\"")).collect();
    let mut records: Vec<&str> = others.iter().map(String::as_str).collect();
    let right = key_line("s1._domainkey", &ours);
    records.push(&right);
    let bind = Bind::start(&[Zone::served_by("example.test", &servers, &records)]);
    let finding = check_key(&bind.dns(), &ours).await;
    assert_eq!(finding.status, Status::Duplicate, "{finding:?}");
    assert_eq!((finding.servers.len(), finding.found.len()), (13, 11), "{finding:?}");
    assert!(finding.warnings.iter().any(|warning| warning.contains("13 of 40 name servers")), "{finding:?}");
    assert!(finding.found[10].contains("21 more records"), "{finding:?}");
}

/// Answers every question with TC=1 and nothing else; there is no TCP.
async fn always_truncated(socket: UdpSocket) {
    let mut buffer = [0; 1500];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        let reply = &mut buffer[..length];
        // QR, AA and TC (RFC 1035 4.1.1).
        reply[2] |= 0b1000_0110;
        socket.send_to(reply, peer).await.unwrap();
    }
}

#[tokio::test]
async fn a_truncated_answer_without_tcp_is_no_answer() {
    let ours = key(1);
    let port = free_port();
    let zone = Zone::served_by("example.test", &["127.0.0.2"], &[]);
    let resolver = Bind::start_at(SocketAddr::new(FIRST.into(), port), &[zone]);
    let socket = UdpSocket::bind(SocketAddr::new(SECOND.into(), port)).await.unwrap();
    let server = tokio::spawn(always_truncated(socket));
    let finding = check_key(&resolver.dns(), &ours).await;
    assert_eq!(finding.status, Status::Unreachable, "{finding:?}");
    assert!(finding.explanation.contains("TCP"), "{finding:?}");
    server.abort();
}

#[tokio::test]
async fn a_truncated_answer_without_tcp_is_a_warning_beside_a_right_server() {
    let ours = key(1);
    let port = free_port();
    let zone = Zone::served_by("example.test", &["127.0.0.1", "127.0.0.2"], &[&key_line("s1._domainkey", &ours)]);
    let first = Bind::start_at(SocketAddr::new(FIRST.into(), port), &[zone]);
    let socket = UdpSocket::bind(SocketAddr::new(SECOND.into(), port)).await.unwrap();
    let server = tokio::spawn(always_truncated(socket));
    let finding = check_key(&first.dns(), &ours).await;
    assert_eq!(finding.status, Status::Ok, "{finding:?}");
    assert!(finding.warnings.iter().any(|w| w.contains("127.0.0.2") && w.contains("TCP")), "{finding:?}");
    server.abort();
}

#[tokio::test]
async fn servers_that_hang_do_not_hold_the_check_past_its_deadline() {
    let ours = key(1);
    let port = free_port();
    let servers = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let zone = Zone::served_by("example.test", &servers, &[&key_line("s1._domainkey", &ours)]);
    let first = Bind::start_at(SocketAddr::new(FIRST.into(), port), &[zone]);
    // They take questions and connections and say nothing.
    let _udp = [SECOND, [127, 0, 0, 3]].map(|ip| std::net::UdpSocket::bind(SocketAddr::new(ip.into(), port)).unwrap());
    let _tcp = std::net::TcpListener::bind(SocketAddr::new(SECOND.into(), port)).unwrap();
    let deadline = Duration::from_secs(1);
    let expected: Vec<Expected> = (1..6)
        .map(|n| Expected { name: format!("s{n}._domainkey.example.test"), want: Want::DkimKey { key: ours.clone() } })
        .collect();
    let dns = first.dns();
    let findings = tokio::time::timeout(deadline * 3, check(&dns, &domain(), &expected, deadline)).await.unwrap();
    let statuses: Vec<_> = findings.iter().map(|finding| finding.status).collect();
    assert_eq!(statuses[0], Status::Ok, "the one server that answered is right: {findings:?}");
    assert!(statuses[1..].iter().all(|status| *status == Status::Missing), "{findings:?}");
    assert!(findings.iter().all(|f| f.warnings.iter().any(|w| w.contains("127.0.0.3"))), "{findings:?}");
}

#[tokio::test]
async fn the_cname_of_a_delegated_key_is_checked_with_what_stands_behind_it() {
    let ours = key(1);
    let lines = ["a._domainkey CNAME slot1.dkim.service.test.", "b._domainkey CNAME slot2.dkim.service.test."];
    let service = Zone::new("service.test", &[&key_line("slot1.dkim", &ours), &key_line("slot9.dkim", &ours)]);
    let bind = Bind::start(&[Zone::new("example.test", &lines), service]);
    let want = |label: &str, target: &str, key: Option<&PublicKey>| Expected {
        name: format!("{label}._domainkey.example.test"),
        want: Want::DkimAlias { target: format!("{target}.dkim.service.test"), key: key.cloned() },
    };
    let expected = [
        want("a", "slot1", Some(&ours)),
        want("a", "slot1", Some(&key(2))),
        want("a", "slot9", Some(&ours)),
        want("b", "slot2", None),
        want("b", "slot2", Some(&ours)),
        want("c", "slot3", None),
    ];
    let findings = check(&bind.dns(), &domain(), &expected, DEADLINE).await;
    let statuses: Vec<_> = findings.iter().map(|finding| finding.status).collect();
    use Status::{CnameBroken, Mismatch, Missing, Ok};
    assert_eq!(statuses, [Ok, Mismatch, CnameBroken, Ok, Missing, Missing], "{findings:?}");
    let asks_resolver = |finding: &Finding| finding.warnings.iter().any(|warning| warning.starts_with("resolver"));
    assert!(
        asks_resolver(&findings[0]) && !asks_resolver(&findings[3]),
        "an empty target is not asked for: {findings:?}"
    );
}

#[tokio::test]
async fn a_published_private_key_is_not_repeated() {
    let secret = "v=DKIM1; p=-----BEGIN PRIVATE KEY-----MIIEvQIBADANBgkqhkiG-----END PRIVATE KEY-----";
    let bind = Bind::start(&[Zone::new("example.test", &[&format!("s1._domainkey TXT {}", zone_text(secret))])]);
    let finding = check_key(&bind.dns(), &key(1)).await;
    assert_eq!(finding.status, Status::Malformed, "{finding:?}");
    assert!(finding.explanation.contains("PRIVATE key"), "{finding:?}");
    assert!(!format!("{finding:?}").contains("MIIEvQ"), "{finding:?}");
}

#[tokio::test]
async fn the_published_key_is_read_where_it_is_unambiguous() {
    let (ours, other) = (key(1), key(2));
    let lines = [key_line("s1._domainkey", &ours), key_line("s2._domainkey", &ours), key_line("s2._domainkey", &other)];
    let bind = Bind::start(&[Zone::new(
        "example.test",
        &[&lines[0], &lines[1], &lines[2], "s3._domainkey TXT \"v=DKIM1; p=\""],
    )]);
    let dns = bind.dns();
    let read = async |selector: &str| {
        read_published_key(&dns, &domain(), &format!("{selector}._domainkey.example.test"), DEADLINE).await
    };
    assert_eq!(read("s1").await, Ok(Some(ours.to_p())));
    assert_eq!(read("s2").await, Ok(None), "several records are undefined");
    assert_eq!(read("s3").await, Ok(None), "revoked");
    assert_eq!(read("s4").await, Ok(None), "absent");

    let (first, _second) = pair(&[&lines[0]], &[&key_line("s1._domainkey", &other)]);
    let disagreeing = read_published_key(&first.dns(), &domain(), NAME, DEADLINE).await;
    assert!(matches!(disagreeing, Err(LookupError::Temporary(_))), "{disagreeing:?}");
}

#[tokio::test]
async fn the_resolver_stands_in_for_silent_authoritative_servers() {
    let ours = key(1);
    let bind = Bind::start(&[Zone::served_by("example.test", &["127.0.0.3"], &[&key_line("s1._domainkey", &ours)])]);
    assert_eq!(read_published_key(&bind.dns(), &domain(), NAME, DEADLINE).await, Ok(Some(ours.to_p())));
    let elsewhere = Bind::start(&[Zone::new("other.test", &[])]);
    let nothing_known = read_published_key(&elsewhere.dns(), &domain(), NAME, DEADLINE).await;
    assert!(matches!(nothing_known, Err(LookupError::Temporary(_))), "{nothing_known:?}");
}

#[tokio::test]
async fn lookups_tell_absence_from_trouble() {
    let bind = Bind::start(&[Zone::new(
        "example.test",
        &[
            "@ MX 10 mx",
            "@ MX 20 mx2.example.test.",
            "mx A 192.0.2.1",
            "mx AAAA 2001:db8::1",
            "null MX 0 .",
            "two TXT \"a\" \"b\"",
            "alias CNAME two",
            "odd TXT \"\\255x\"",
            "sub NS ns.elsewhere.test.",
        ],
    )]);
    let dns = bind.dns();
    let mut hosts = dns.mx("example.test").await.unwrap();
    hosts.sort_by_key(|host| host.preference);
    assert_eq!(hosts[0], MxHost { preference: 10, host: "mx.example.test".to_owned() });
    assert_eq!(dns.mx("null.example.test").await.unwrap(), [MxHost { preference: 0, host: String::new() }]);
    assert_eq!(dns.mx("mx.example.test").await, Err(LookupError::NoData));
    assert_eq!(dns.mx("gone.example.test").await, Err(LookupError::NoName));
    assert!(matches!(dns.mx("elsewhere.test").await, Err(LookupError::Temporary(_))));
    assert!(matches!(dns.txt("x.sub.example.test").await, Err(LookupError::Temporary(_))), "a referral is no answer");
    assert_eq!(dns.txt("TWO.example.test.").await.unwrap(), ["ab"]);
    assert_eq!(dns.txt("alias.example.test").await.unwrap(), ["ab"]);
    assert_eq!(dns.txt("odd.example.test").await.unwrap(), ["\u{fffd}x"]);
    assert_eq!(dns.txt("not a..name").await, Err(LookupError::NoName));
    let addresses = dns.addresses("mx.example.test").await.unwrap();
    assert_eq!(addresses.len(), 2);
    assert_eq!(dns.addresses("two.example.test").await, Err(LookupError::NoData));
    assert_eq!(dns.addresses("gone.example.test").await, Err(LookupError::NoName));
}

/// What a resolver that knows this of the name says about the record of `key(1)`, which the zone's own server does not have.
async fn second_opinion(remembered: &str) -> Option<Status> {
    let authority = Bind::start(&[Zone::new("example.test", &["unrelated TXT x"])]);
    let resolver = Bind::start(&[Zone::new("example.test", &[remembered])]);
    let dns = Dns::new(DnsSettings {
        resolvers: vec![resolver.address],
        authority_port: authority.address.port(),
        guard: Guard { allow: vec!["127.0.0.0/8".parse().unwrap()] },
    });
    let dns = dns.unwrap();
    assert_eq!(check_key(&dns, &key(1)).await.status, Status::Missing);
    let expected = Expected { name: NAME.to_owned(), want: Want::DkimKey { key: key(1) } };
    resolvers_word(&dns, &domain(), &expected, DEADLINE).await
}

#[tokio::test]
async fn a_resolver_is_asked_for_a_second_opinion_on_a_record_that_is_gone() {
    assert_eq!(second_opinion(&key_line("s1._domainkey", &key(1))).await, Some(Status::Ok), "still in its cache");
    assert_eq!(second_opinion(&key_line("s1._domainkey", &key(2))).await, Some(Status::Mismatch));
    assert_eq!(second_opinion("unrelated TXT x").await, Some(Status::Missing));
    // A referral: it is no resolver for this name, so it has no opinion.
    assert_eq!(second_opinion("_domainkey NS ns.elsewhere.test.").await, None);
}

#[test]
fn a_resolver_can_be_set_up_outside_of_a_runtime() {
    let settings = DnsSettings {
        resolvers: vec![SocketAddr::new(FIRST.into(), 5300)],
        authority_port: 53,
        guard: Guard::default(),
    };
    assert!(Dns::new(settings).is_ok());
}
