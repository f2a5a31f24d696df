//! The main flow as the world sees it: received by Postfix, judged by rspamd, on both databases and in both custodies.
#![cfg(test)]

use serde_json::json;
use signpost_it::{
    App, AppBuilder, Delivered, Domain, Kms, Meddler, Named, Postfix, PostgresServer, Tenant, World, enabled_domain,
    unfolded_field,
};

const SENDERS: [(&str, &str); 2] = [("example.test", "rsa-2048"), ("other.test", "ed25519")];
const TEXT: &str = "Hello there.";

/// Straight to the MX that the DNS names, on this port.
fn delivering_to(named: &Named, port: u16) -> AppBuilder {
    App::with().dns(named).env("SIGNPOST_SMTP_PORT", port.to_string())
}

/// An enabled domain whose owner wants forgeries turned away.
fn enabled_domain_with_policy(tenant: &Tenant, named: &Named, name: &str, algorithm: &str) -> Domain {
    named.publish_txt(&format!("_dmarc.{name}"), &["v=DMARC1; p=reject"]);
    enabled_domain(tenant, named, name, algorithm)
}

/// From the post to the mailbox. The Message-ID is that of the API.
fn send(tenant: &Tenant, domain: &Domain, postfix: &mut Postfix) -> Delivered {
    let recipient = format!("bob.{}@receiver.test", domain.name);
    let message = json!({"from": format!("Ann <ann@{}>", domain.name), "to": [recipient], "subject": "Hello", "text": format!("{TEXT}\n")});
    let accepted = tenant.api.post("/v1/messages", &message).expect(202).json();
    let sent = tenant.api.message_with_status(accepted["id"].as_str().unwrap(), "delivered");
    let received = postfix.wait_for_recipient(&recipient);
    assert_eq!(unfolded_field(&received.octets, "Message-ID"), [sent["message_id"].as_str().unwrap()]);
    assert_envelope_sender_proves_nothing(&received);
    received
}

/// MAIL FROM is of another organizational domain than From: SPF passes, and for DMARC that counts for nothing (RFC 7489 3.1.2).
fn assert_envelope_sender_proves_nothing(received: &Delivered) {
    let (_, domain) = received.mail_from.split_once('@').unwrap();
    assert!(domain == "bounce.signpost.test" || domain.ends_with(".bounce.signpost.test"), "{}", received.mail_from);
    let spf = received.found("spf");
    assert_eq!(spf.len(), 1, "{received:?}");
    assert!(spf[0].starts_with("spf=pass") && spf[0].contains("bounce.signpost.test"), "{}", spf[0]);
}

/// One finding by DKIM and one by DMARC, both with that result, about this domain.
fn assert_found(received: &Delivered, domain: &Domain, result: &str, postfix: &Postfix) {
    for (method, about) in
        [("dkim", format!("header.d={}", domain.name)), ("dmarc", format!("header.from={}", domain.name))]
    {
        let found = received.found(method);
        assert_eq!(found.len(), 1, "{method}: {:?}\n{}", received.results, postfix.log());
        let mut words = found[0].split_ascii_whitespace();
        assert_eq!(words.next(), Some(format!("{method}={result}").as_str()), "{}\n{}", found[0], postfix.log());
        assert!(words.any(|word| word == about), "{about} in {}", found[0]);
    }
    let selector = format!("header.s={}", domain.selector);
    assert!(received.found("dkim")[0].contains(&selector), "{selector} in {:?}", received.results);
}

/// On that database and with keys in that KMS; without them on SQLite and with sealed keys.
fn main_flow(database: Option<&str>, kms: Option<&Kms>) {
    let custody = if kms.is_some() { "aws-kms" } else { "sealed" };
    let named = World::zones().start();
    let mut postfix = Postfix::start(&named);
    let settings = delivering_to(&named, postfix.port());
    let settings = database.into_iter().fold(settings, |app, url| app.env("SIGNPOST_DATABASE_URL", url));
    let app = kms.into_iter().fold(settings, AppBuilder::keys_in).start();
    let signatures_in_kms = || kms.map(|kms| kms.calls("Sign"));
    let tenant = app.tenant("Ann's shop");
    for (name, algorithm) in SENDERS {
        let domain = enabled_domain_with_policy(&tenant, &named, name, algorithm);
        let keys = tenant.api.get(&format!("/v1/domains/{}/keys", domain.id)).expect(200).json();
        let made = (keys["data"][0]["custody"].as_str(), keys["data"][0]["algorithm"].as_str());
        assert_eq!(made, (Some(custody), Some(algorithm)));
        let before = signatures_in_kms();
        let received = send(&tenant, &domain, &mut postfix);
        assert_eq!(signatures_in_kms(), before.map(|calls| calls + 1), "one message, one Sign");
        assert_found(&received, &domain, "pass", &postfix);
        assert!(String::from_utf8_lossy(&received.octets).contains(TEXT));
    }
    assert_eq!(postfix.messages().len(), SENDERS.len(), "each once");
}

#[test]
fn mail_passes_dkim_and_dmarc_at_postfix_with_rspamd_from_sqlite_and_sealed_keys() {
    main_flow(None, None);
}

#[test]
fn mail_passes_dkim_and_dmarc_at_postfix_with_rspamd_from_sqlite_and_keys_in_the_kms() {
    main_flow(None, Some(&Kms::start()));
}

#[test]
fn mail_passes_dkim_and_dmarc_at_postfix_with_rspamd_from_postgresql_and_sealed_keys() {
    let server = PostgresServer::start();
    let database = server.database();
    main_flow(Some(&database), None);
    assert_eq!(server.sql(&database, "SELECT COUNT(*) FROM messages WHERE status = 'delivered'"), "2");
}

#[test]
fn mail_passes_dkim_and_dmarc_at_postfix_with_rspamd_from_postgresql_and_keys_in_the_kms() {
    let (kms, server) = (Kms::start(), PostgresServer::start());
    let database = server.database();
    main_flow(Some(&database), Some(&kms));
    assert_eq!(server.sql(&database, "SELECT COUNT(*) FROM messages WHERE status = 'delivered'"), "2");
}

/// The judge is no yes-man: one word changed on the way, and SPF of the unaligned envelope sender saves nobody.
#[test]
fn a_body_changed_on_the_way_fails_dkim_and_dmarc_at_postfix_with_rspamd() {
    let named = World::zones().start();
    let mut postfix = Postfix::start(&named);
    let meddler = Meddler::before_smtp(postfix.port(), TEXT, "Hello where.");
    let app = delivering_to(&named, meddler.port()).start();
    let tenant = app.tenant("Ann's shop");
    for (name, algorithm) in SENDERS {
        let domain = enabled_domain_with_policy(&tenant, &named, name, algorithm);
        let received = send(&tenant, &domain, &mut postfix);
        assert!(String::from_utf8_lossy(&received.octets).contains("Hello where."));
        assert_found(&received, &domain, "fail", &postfix);
    }
}
