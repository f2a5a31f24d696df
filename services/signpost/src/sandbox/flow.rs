//! The flow: register, publish, check, enable, send, receive, verify; each step printed with its result.
use super::client::Client;
use super::dns::SandboxDns;
use super::inbox::{Inbox, Received};
use super::{Spoil, spoof};
use crate::Outcome;
use hyper::StatusCode;
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The sender's domain.
pub(super) const DOMAIN: &str = "example.test";
const RECIPIENT: &str = "Reader <reader@inbox.test>";
/// Delivery on loopback takes milliseconds; after this long something is wrong.
const RECEIVE_DEADLINE: Duration = Duration::from_secs(20);

/// What the flow found.
pub(super) struct Report {
    records: Vec<Value>,
    message_path: Option<String>,
    pub(super) authentication_results: Option<String>,
}

impl Report {
    /// DESIGN: 0 only if the inbox says dkim=pass and dmarc=pass.
    pub(super) fn passed(&self) -> bool {
        let says = |what: &str| {
            let value = self.authentication_results.as_deref().unwrap_or_default();
            value.split(';').any(|part| part.split_whitespace().next() == Some(what))
        };
        says("dkim=pass") && says("dmarc=pass")
    }

    /// The object of `--json`.
    pub(super) fn json(&self) -> Value {
        json!({
            "records": self.records,
            "message_path": self.message_path,
            "authentication_results": self.authentication_results,
        })
    }
}

/// The sandbox's parts as the flow uses them.
pub(super) struct Flow {
    client: Client,
    dns: SandboxDns,
    inbox: Arc<Inbox>,
    smtp: SocketAddr,
    quiet: bool,
    spoil: Option<Spoil>,
}

impl Flow {
    pub(super) fn new(
        api: SocketAddr,
        token: String,
        dns: SandboxDns,
        inbox: Arc<Inbox>,
        smtp: SocketAddr,
        json: bool,
        spoil: Option<Spoil>,
    ) -> Self {
        Self { client: Client::new(api, token), dns, inbox, smtp, quiet: json, spoil }
    }

    /// Takes every step. An error is a fault of ours; what a spoilt step leads to is in the report.
    pub(super) async fn take(&self) -> Outcome<Report> {
        let domain = self.register(DOMAIN).await?;
        let id = text(&domain, "id")?.to_owned();
        let mut report =
            Report { records: array(&domain, "records")?, message_path: None, authentication_results: None };
        self.publish(&id).await?;
        let check = self.client.post(&format!("/v1/domains/{id}/check"), None).await?.expect(StatusCode::OK)?;
        self.show_check(&check)?;
        let checked = self.client.get(&format!("/v1/domains/{id}")).await?.expect(StatusCode::OK)?;
        report.records = array(&checked, "records")?;
        let enabled = self.client.post(&format!("/v1/domains/{id}/signing/enable"), None).await?;
        if enabled.status != StatusCode::OK {
            let problem = enabled.json()?;
            self.step("enable", &format!("{}: {}", enabled.status, text(&problem, "detail")?))?;
            self.send_refused().await?;
            return Ok(report);
        }
        self.step("enable", &format!("signing is {}", text(&enabled.json()?, "signing")?))?;
        if self.spoil == Some(Spoil::Dmarc) {
            report.records.push(self.spoof().await?);
        } else {
            self.send().await?;
        }
        let Some(received) = self.inbox.first(RECEIVE_DEADLINE).await else {
            self.step("receive", "nothing arrived")?;
            return Ok(report);
        };
        self.show_received(&received)?;
        report.message_path = Some(received.path.display().to_string());
        report.authentication_results = Some(received.authentication_results.clone());
        Ok(report)
    }

    async fn register(&self, name: &str) -> Outcome<Value> {
        let domain =
            self.client.post("/v1/domains", Some(&json!({"name": name}))).await?.expect(StatusCode::CREATED)?;
        self.step("register", &format!("{name} as {}", text(&domain, "id")?))?;
        Ok(domain)
    }

    /// Puts the zone form that the API offers into the sandbox's DNS; spoilt: with the key of another domain.
    async fn publish(&self, id: &str) -> Outcome<()> {
        let answer = self.client.get(&format!("/v1/domains/{id}/records?format=bind")).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("no records: {}", answer.status).into());
        }
        let mut zone = String::from_utf8(answer.body.to_vec())?;
        if self.spoil == Some(Spoil::Dns) {
            zone = self.with_another_key(&zone).await?;
        }
        self.dns.publish(&zone).await?;
        for line in zone.lines().filter(|line| !line.starts_with(';')) {
            self.step("publish", &shorten(line))?;
        }
        Ok(())
    }

    /// The key record's data is replaced by that of a domain registered for this purpose.
    async fn with_another_key(&self, zone: &str) -> Outcome<String> {
        let other = self.register("other.test").await?;
        let path = format!("/v1/domains/{}/records?format=bind", text(&other, "id")?);
        let other_zone = String::from_utf8(self.client.get(&path).await?.body.to_vec())?;
        let data = |line: &str| line.split_once(" IN TXT ").map(|(_, data)| data.to_owned());
        let is_key = |line: &&str| !line.starts_with(';') && line.contains("._domainkey.");
        let stranger = other_zone.lines().find(is_key).and_then(data).ok_or("the other domain lists no key record")?;
        let replace = |line: &str| match line.split_once(" IN TXT ") {
            Some((owner, _)) if line.contains("._domainkey.") => format!("{owner} IN TXT {stranger}\n"),
            _ => format!("{line}\n"),
        };
        Ok(zone.lines().map(replace).collect())
    }

    fn show_check(&self, check: &Value) -> Outcome<()> {
        for record in array(check, "records")? {
            self.step(
                "check",
                &format!("{} {}: {}", text(&record, "purpose")?, text(&record, "name")?, text(&record, "status")?),
            )?;
            if text(&record, "status")? != "ok" {
                self.step("", text(&record, "explanation")?)?;
            }
        }
        self.step("check", &format!("verdict {}", text(check, "verdict")?))
    }

    fn message() -> Value {
        json!({
            "from": format!("Signpost sandbox <hello@{DOMAIN}>"),
            "to": [RECIPIENT],
            "subject": "A signed message — 署名されたメール",
            "text": "This message went from a POST to an inbox that verified its signature.\n\nこのメールは署名され、検証されました。\n",
            "html": "<p>This message went from a <b>POST</b> to an inbox that verified its signature.</p>\n<p>このメールは署名され、検証されました。</p>\n",
            "tags": ["sandbox"],
        })
    }

    async fn send(&self) -> Outcome<()> {
        let message = self.client.post("/v1/messages", Some(&Self::message())).await?.expect(StatusCode::ACCEPTED)?;
        let signature = message.pointer("/signatures/0").cloned().unwrap_or_default();
        self.step(
            "send",
            &format!(
                "{} {} signed d={} s={}",
                text(&message, "id")?,
                text(&message, "status")?,
                signature["domain"],
                signature["selector"]
            ),
        )
    }

    /// Shows that nothing is sent for a domain that does not sign.
    async fn send_refused(&self) -> Outcome<()> {
        let refused = self.client.post("/v1/messages", Some(&Self::message())).await?;
        let problem = refused.json()?;
        self.step("send", &format!("{}: {}", refused.status, text(&problem, "title")?))?;
        if refused.status.is_success() {
            Err("a message was accepted for a domain that does not sign".into())
        } else {
            Ok(())
        }
    }

    async fn spoof(&self) -> Outcome<Value> {
        let spoof = spoof::make(DOMAIN).await?;
        self.dns.publish(&spoof.zone).await?;
        self.step(
            "spoof",
            &format!("MAIL FROM and d= of {}, From of {DOMAIN}, straight to the inbox", spoof::ATTACKER),
        )?;
        spoof::send(&spoof, self.smtp).await?;
        Ok(spoof.record)
    }

    fn show_received(&self, received: &Received) -> Outcome<()> {
        self.step("receive", &received.path.display().to_string())?;
        self.step("verify", &received.authentication_results)?;
        self.step("verify", &format!("second judge (mail-auth) on DKIM: {}", received.second_opinion.join(", ")))?;
        match &received.disagreement {
            Some(text) => self.step("verify", text),
            None => Ok(()),
        }
    }

    /// One line; with `--json` standard output is for the object alone.
    fn step(&self, name: &str, result: &str) -> Outcome<()> {
        let line = format!("{name:<9}{result}\n");
        if self.quiet {
            std::io::stderr().lock().write_all(line.as_bytes())?;
        } else {
            std::io::stdout().lock().write_all(line.as_bytes())?;
        }
        Ok(())
    }
}

fn text<'a>(value: &'a Value, name: &str) -> Outcome<&'a str> {
    value[name].as_str().ok_or_else(|| format!("the API's answer has no text {name:?}").into())
}

fn array(value: &Value, name: &str) -> Outcome<Vec<Value>> {
    value[name].as_array().cloned().ok_or_else(|| format!("the API's answer has no array {name:?}").into())
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(110) {
        Some((cut, _)) => format!("{}...", &line[..cut]),
        None => line.to_owned(),
    }
}
