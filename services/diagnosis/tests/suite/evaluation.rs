//! What a receiver concludes about a message, with the records in a real BIND.
use crate::bind::{Bind, Zone};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use signpost_diagnosis::evaluate::{
    DmarcResult, Evaluation, LegacyResult, Policy, PolicySource, SpfIdentity, SpfResult, Transaction, evaluate,
    second_opinion,
};
use signpost_dkim::message::Message;
use signpost_dkim::record::{PublicKey, build, zone_text};
use signpost_dkim::sign::{self, Signer, prepare};
use signpost_dkim::verify::DkimResult;
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};

const NOW: u64 = 1_800_000_000;

struct Sender {
    key: Ed25519KeyPair,
}

impl Sender {
    fn new() -> Self {
        Self { key: Ed25519KeyPair::generate().unwrap() }
    }

    fn record(&self) -> String {
        format!(
            "s1._domainkey TXT {}",
            zone_text(&build(&PublicKey::from_ed25519(self.key.public_key().as_ref()).unwrap()))
        )
    }

    fn sign(&self, domain: &str, message: &str) -> String {
        let parsed = Message::parse(message.as_bytes()).unwrap();
        let signer = Signer {
            domain: SigningDomain::parse(domain).unwrap(),
            selector: Selector::parse("s1").unwrap(),
            algorithm: KeyAlgorithm::Ed25519,
        };
        let draft = prepare(&parsed, &signer, &sign::Policy::default(), NOW).unwrap();
        let signature = self.key.sign(draft.digest());
        format!("{}{message}", draft.finish(signature.as_ref()))
    }
}

fn letter(from: &str) -> String {
    format!(
        "From: {from}\r\nTo: bob@example.net\r\nSubject: Hello\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\nHello Bob.\r\n"
    )
}

fn zones(sender: &Sender) -> Vec<Zone> {
    let key = sender.record();
    vec![
        Zone::new(
            "example.test",
            &[
                &key,
                "_dmarc TXT \"v=DMARC1; p=reject; sp=quarantine\"",
                "@ TXT \"v=spf1 ip4:192.0.2.1 -all\"",
                "plain A 192.0.2.1",
            ],
        ),
        Zone::new("bounce.test", &["@ TXT \"v=spf1 ip4:192.0.2.1 -all\"", "mail TXT \"v=spf1 ip4:192.0.2.1 ~all\""]),
        Zone::new("spoofer.test", &[&key, "@ TXT \"v=spf1 ip4:192.0.2.1 -all\""]),
        Zone::new(
            "twice.test",
            &[
                &key,
                "@ TXT \"v=spf1 mx -all\"",
                "@ TXT \"v=spf1 a -all\"",
                "_dmarc TXT \"v=DMARC1; p=none\"",
                "_dmarc TXT \"v=DMARC1; p=reject\"",
            ],
        ),
        Zone::new("strict.test", &[&key, "_dmarc TXT \"v=DMARC1; p=none; adkim=s; aspf=s\""]),
        Zone::new("bare.test", &[&key]),
        Zone::new("_dmarc.away.test", &["@ TXT \"v=DMARC1; p=none\""]),
        Zone::new(
            "deep.test",
            &[&key, "_dmarc TXT \"v=DMARC1; p=none; sp=quarantine; np=reject\"", "here A 192.0.2.1"],
        ),
        Zone::new(
            "gov.test",
            &[
                "_dmarc TXT \"v=DMARC1; p=none; psd=y; np=reject\"",
                "_dmarc.agency TXT \"v=DMARC1; p=reject\"",
                "x.bureau A 192.0.2.1",
            ],
        ),
        Zone::new(
            "apart.test",
            &[&key, "_dmarc TXT \"v=DMARC1; p=none\"", "_dmarc.shop TXT \"v=DMARC1; p=reject; psd=n\""],
        ),
        // The walk ends at the top.
        Zone::new("_dmarc.test", &[]),
    ]
}

async fn judge(bind: &Bind, raw: &str, mail_from: &str) -> Evaluation {
    let transaction = Transaction { ip: Some("192.0.2.1".parse().unwrap()), helo: "mail.bounce.test", mail_from };
    evaluate(&bind.dns(), raw.as_bytes(), &transaction, NOW + 60).await
}

#[tokio::test]
async fn an_aligned_signature_passes_dmarc_whatever_the_envelope() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let signed = sender.sign("example.test", &letter("Ann <ann@example.test>"));
    let result = judge(&bind, &signed, "x@bounce.test").await;
    assert_eq!(
        (result.dkim[0].result, result.spf, result.dmarc),
        (DkimResult::Pass, SpfResult::Pass, DmarcResult::Pass),
        "{result:?}"
    );
    assert!(result.dkim_aligned && !result.spf_aligned);
    assert_eq!(result.dmarc_policy, Some(Policy::Reject));
    let field = result.authentication_results("mx.example.net");
    assert!(field.starts_with("mx.example.net; dkim=pass "), "{field}");
    assert!(field.contains("header.d=example.test header.s=s1 header.a=ed25519-sha256 header.b="), "{field}");
    assert!(field.contains("; spf=pass smtp.mailfrom=bounce.test; dmarc=pass "), "{field}");
    assert!(field.ends_with("header.from=example.test (p=reject)"), "{field}");
    assert_eq!(second_opinion(&bind.dns(), signed.as_bytes()).await, ["pass"]);
}

#[tokio::test]
async fn a_spoof_passes_dkim_and_spf_but_not_dmarc() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let spoof = sender.sign("spoofer.test", &letter("Boss <boss@example.test>"));
    let result = judge(&bind, &spoof, "x@spoofer.test").await;
    assert_eq!(
        (result.dkim[0].result, result.spf, result.dmarc),
        (DkimResult::Pass, SpfResult::Pass, DmarcResult::Fail),
        "{result:?}"
    );
    assert!(
        result.dmarc_reason.contains("alignment") && result.dmarc_reason.contains("spoofer.test"),
        "{}",
        result.dmarc_reason
    );
    assert!(!result.dkim_aligned && !result.spf_aligned);
}

#[tokio::test]
async fn an_unsigned_or_changed_message_fails() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let unsigned = judge(&bind, &letter("ann@example.test"), "x@bounce.test").await;
    assert_eq!((unsigned.dkim.len(), unsigned.dmarc), (0, DmarcResult::Fail));
    assert!(unsigned.authentication_results("mx").starts_with("mx; dkim=none; spf=pass "));
    let changed = sender.sign("example.test", &letter("ann@example.test")).replace("Hello Bob", "Hello Rob");
    let result = judge(&bind, &changed, "x@bounce.test").await;
    assert_eq!((result.dkim[0].result, result.dmarc), (DkimResult::Fail, DmarcResult::Fail), "{result:?}");
    assert_ne!(second_opinion(&bind.dns(), changed.as_bytes()).await, ["pass"]);
}

#[tokio::test]
async fn aligned_spf_alone_passes_dmarc() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let result = judge(&bind, &letter("ann@sub.example.test"), "ann@example.test").await;
    assert_eq!(
        (result.spf, result.dmarc, result.spf_aligned),
        (SpfResult::Pass, DmarcResult::Pass, true),
        "{result:?}"
    );
    assert_eq!(result.dmarc_policy, Some(Policy::Quarantine), "sp= holds for a subdomain");
}

#[tokio::test]
async fn a_null_sender_is_judged_by_its_helo() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let result = judge(&bind, &letter("ann@example.test"), "").await;
    assert_eq!((result.spf, result.spf_identity), (SpfResult::Pass, SpfIdentity::Helo), "{result:?}");
    assert_eq!(result.spf_domain, "mail.bounce.test");
}

#[tokio::test]
async fn spf_results_tell_refusal_absence_and_trouble_apart() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let letter = letter("ann@example.test");
    for (mail_from, expected) in [
        ("x@plain.example.test", SpfResult::None),
        ("x@gone.example.test", SpfResult::None),
        ("x@twice.test", SpfResult::Permerror),
        ("x@elsewhere.test", SpfResult::Temperror),
        ("x@[192.0.2.1]", SpfResult::None),
    ] {
        assert_eq!(judge(&bind, &letter, mail_from).await.spf, expected, "{mail_from}");
    }
    let transaction =
        Transaction { ip: Some("198.51.100.7".parse().unwrap()), helo: "h.test", mail_from: "x@example.test" };
    let refused = evaluate(&bind.dns(), letter.as_bytes(), &transaction, NOW).await;
    assert_eq!(refused.spf, SpfResult::Fail);
    assert!(refused.spf_reason.is_some_and(|reason| reason.contains("198.51.100.7")));
}

#[tokio::test]
async fn dmarc_does_not_apply_without_one_record() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    for domain in ["twice.test", "bare.test"] {
        let signed = sender.sign(domain, &letter(&format!("ann@{domain}")));
        let result = judge(&bind, &signed, "x@bounce.test").await;
        assert_eq!(
            (result.dmarc, result.dmarc_policy, result.dkim_aligned),
            (DmarcResult::None, None, true),
            "{domain}"
        );
    }
}

#[tokio::test]
async fn strict_alignment_wants_the_very_name() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let signed = sender.sign("strict.test", &letter("ann@sub.strict.test"));
    let result = judge(&bind, &signed, "x@bounce.test").await;
    assert_eq!((result.dkim[0].result, result.dmarc), (DkimResult::Pass, DmarcResult::Fail), "{result:?}");
    assert!(result.dmarc_reason.contains("strict"), "{}", result.dmarc_reason);
    let same = sender.sign("strict.test", &letter("ann@strict.test"));
    assert_eq!(judge(&bind, &same, "x@bounce.test").await.dmarc, DmarcResult::Pass);
}

#[tokio::test]
async fn a_key_that_cannot_be_fetched_now_is_no_failure() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    // The DMARC record is there, the key's zone is refused.
    let signed = sender.sign("away.test", &letter("ann@away.test"));
    let result = judge(&bind, &signed, "x@bounce.test").await;
    assert_eq!((result.dkim[0].result, result.dmarc), (DkimResult::Temperror, DmarcResult::Temperror), "{result:?}");
}

#[tokio::test]
async fn a_message_without_one_author_is_a_dmarc_permerror() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    for from in [
        "a@example.test (b@example.test)",
        "a@example.test\r\nFrom: b@example.test",
        "friends: a@example.test;",
        "nobody",
    ] {
        let result = judge(&bind, &letter(from), "x@bounce.test").await;
        assert_eq!(result.dmarc, DmarcResult::Permerror, "{from}");
        assert!(!result.dmarc_reason.is_empty() && result.from_domain.is_none());
    }
    let broken = judge(&bind, "no header here", "x@bounce.test").await;
    assert_eq!((broken.dmarc, broken.spf), (DmarcResult::Permerror, SpfResult::Pass));
}

#[tokio::test]
async fn the_policy_comes_from_the_nearest_of_author_organization_and_public_suffix() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    for (from, policy, source, at, organizational) in [
        ("deep.test", Policy::None, PolicySource::P, "deep.test", "deep.test"),
        ("here.deep.test", Policy::Quarantine, PolicySource::Sp, "deep.test", "deep.test"),
        ("gone.deep.test", Policy::Reject, PolicySource::Np, "deep.test", "deep.test"),
        ("x.agency.gov.test", Policy::Reject, PolicySource::P, "agency.gov.test", "agency.gov.test"),
        ("x.bureau.gov.test", Policy::None, PolicySource::P, "gov.test", "bureau.gov.test"),
        ("gone.bureau.gov.test", Policy::Reject, PolicySource::Np, "gov.test", "bureau.gov.test"),
        ("a.b.c.d.e.f.g.h.org.gov.test", Policy::Reject, PolicySource::Np, "gov.test", "org.gov.test"),
    ] {
        let result = judge(&bind, &letter(&format!("ann@{from}")), "x@bounce.test").await;
        assert_eq!(
            (result.dmarc_policy, result.dmarc_policy_source),
            (Some(policy), Some(source)),
            "{from}: {result:?}"
        );
        assert_eq!(result.dmarc_policy_domain.as_deref(), Some(at), "{from}");
        assert_eq!(result.organizational_domain.as_deref(), Some(organizational), "{from}");
        assert_eq!(result.dmarc, DmarcResult::Fail, "{from}");
    }
}

#[tokio::test]
async fn where_older_receivers_decide_otherwise_it_is_said() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let signed = sender.sign("apart.test", &letter("ann@shop.apart.test"));
    let result = judge(&bind, &signed, "x@bounce.test").await;
    assert_eq!((result.dmarc, result.legacy_result), (DmarcResult::Fail, LegacyResult::Pass), "{result:?}");
    assert!(result.dmarc_reason.contains("RFC 7489") && !result.dkim_aligned, "{}", result.dmarc_reason);
    // One domain by the tree walk, two by the list: records at agency.gov.test and below it.
    let same = sender.sign("example.test", &letter("ann@example.test"));
    let result = judge(&bind, &same, "x@bounce.test").await;
    assert_eq!((result.dmarc, result.legacy_result), (DmarcResult::Pass, LegacyResult::Pass));
    assert!(!result.dmarc_reason.contains("RFC 7489"), "{}", result.dmarc_reason);
}

#[tokio::test]
async fn authors_of_one_domain_are_one_author_and_of_several_domains_none() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let two = sender.sign("example.test", &letter("a@example.test, b@example.test"));
    assert_eq!(judge(&bind, &two, "x@bounce.test").await.dmarc, DmarcResult::Pass);
    let mixed = sender.sign("spoofer.test", &letter("a@spoofer.test, boss@example.test"));
    let result = judge(&bind, &mixed, "x@bounce.test").await;
    assert_eq!((result.dmarc, result.legacy_result), (DmarcResult::None, LegacyResult::Fail), "{result:?}");
    assert!(result.dmarc_reason.contains("example.test, spoofer.test"), "{}", result.dmarc_reason);
}

#[tokio::test]
async fn without_the_clients_address_spf_is_not_evaluated() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let signed = sender.sign("example.test", &letter("ann@example.test"));
    let transaction = Transaction { ip: None, helo: "", mail_from: "ann@example.test" };
    let result = evaluate(&bind.dns(), signed.as_bytes(), &transaction, NOW).await;
    assert_eq!(
        (result.spf, result.spf_domain.as_str(), result.dmarc),
        (SpfResult::None, "example.test", DmarcResult::Pass)
    );
    assert!(result.spf_reason.is_some_and(|reason| reason.contains("address")));
}

/// RFC 9989 4.10: eight questions at most, however deep the name and however many signers lie beside it.
#[tokio::test]
async fn a_deep_name_costs_eight_questions_and_unrelated_signers_none() {
    let sender = Sender::new();
    let bind = Bind::start(&zones(&sender));
    let from = "a.b.c.d.e.f.g.h.org.gov.test";
    let mut raw = letter(&format!("ann@{from}"));
    for signer in ["example.test", "spoofer.test", "bare.test"] {
        raw = sender.sign(signer, &raw);
    }
    let result = judge(&bind, &raw, "x@bounce.test").await;
    assert_eq!((result.dkim.len(), result.dmarc), (3, DmarcResult::Fail), "{result:?}");
    // The last question of all, so that the log holds those before.
    let _ = bind.dns().txt("end.example.test").await;
    let questions = bind.txt_questions_up_to("end.example.test").await;
    let asked: Vec<&String> = questions.iter().filter(|name| name.starts_with("_dmarc.")).collect();
    assert_eq!(asked.len(), 8, "{asked:?}");
    assert!(asked.iter().all(|name| from.ends_with(name.trim_start_matches("_dmarc."))), "{asked:?}");
}
