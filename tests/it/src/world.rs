//! All of it put together: DNS, receiver, application, a tenant with an enabled domain.
use crate::{App, AppBuilder, DkimPy, Named, NamedBuilder, Receiver, Tenant, our_verdict};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Zones, receiver, application and one tenant.
///
/// - `example.test`, `other.test`, `third.test`: senders, without any record of ours.
/// - `signpost.test`: the service domain, a zone of its own; its `bounce` publishes SPF for 127.0.0.1, so that SPF passes for
///   the envelope sender but is aligned with no sender: it cannot hide a DKIM fault.
/// - `receiver.test`: MX is 127.0.0.1.
pub struct World {
    /// First, so that it ends before what it talks to.
    pub app: App,
    /// The tenant.
    pub tenant: Tenant,
    /// The DNS server.
    pub named: Named,
    /// The receiver.
    pub receiver: Receiver,
}

/// A domain that is enabled for signing.
#[derive(Clone)]
pub struct Domain {
    /// `dom_...`
    pub id: String,
    /// Its name.
    pub name: String,
    /// Selector of the active key.
    pub selector: String,
    /// Its key records, by name.
    pub txt: BTreeMap<String, String>,
}

impl World {
    /// Delivery through the relay setting.
    pub fn start() -> Self {
        Self::start_with(|app| app)
    }

    /// With further settings.
    pub fn start_with(settings: impl FnOnce(AppBuilder) -> AppBuilder) -> Self {
        let (named, receiver) = (Self::zones().start(), Receiver::start());
        let app = settings(App::with().dns(&named).relay(&receiver)).start();
        Self::around(app, named, receiver)
    }

    /// Delivery straight to MX hosts.
    pub fn start_direct_to_mx() -> Self {
        let (named, receiver) = (Self::zones().start(), Receiver::start());
        let app = App::with().dns(&named).direct_to_mx(&receiver).start();
        Self::around(app, named, receiver)
    }

    fn around(app: App, named: Named, receiver: Receiver) -> Self {
        let tenant = app.tenant("Ann's shop");
        Self { app, tenant, named, receiver }
    }

    /// The zones described above.
    pub fn zones() -> NamedBuilder {
        Named::with()
            .zone("example.test", "")
            .zone("other.test", "")
            .zone("third.test", "")
            .zone("signpost.test", "bounce IN TXT \"v=spf1 ip4:127.0.0.1 -all\"\n")
            .zone("receiver.test", "@ IN MX 10 mx\nmx IN A 127.0.0.1\n")
    }

    /// Registers, publishes, checks and enables a domain of the world's tenant.
    pub fn enabled_domain(&self, name: &str, algorithm: &str) -> Domain {
        enabled_domain(&self.tenant, &self.named, name, algorithm)
    }

    /// Posts a message; gives its id.
    pub fn send(&self, message: &Value) -> String {
        let accepted = self.tenant.api.post("/v1/messages", message).expect(202).json();
        accepted["id"].as_str().unwrap().to_owned()
    }

    /// A small message from `ann@<domain>` to one recipient; gives its id.
    pub fn send_to(&self, domain: &Domain, recipient: &str) -> String {
        self.send(&json!({
            "from": format!("Ann <ann@{}>", domain.name),
            "to": [recipient],
            "subject": "Hello",
            "text": "Hello there.\n",
        }))
    }
}

/// Registers, publishes what is required, checks (verdict pass) and enables.
pub fn enabled_domain(tenant: &Tenant, named: &Named, name: &str, algorithm: &str) -> Domain {
    let api = &tenant.api;
    let domain = api.post("/v1/domains", &json!({"name": name, "algorithm": algorithm})).expect(201).json();
    let id = domain["id"].as_str().unwrap().to_owned();
    for record in required(&domain["records"]) {
        named.publish(&record);
    }
    let check = api.post_empty(&format!("/v1/domains/{id}/check")).expect(200).json();
    assert_eq!(check["verdict"], "pass", "{check:#}");
    let enabled = api.post_empty(&format!("/v1/domains/{id}/signing/enable")).expect(200).json();
    assert_eq!(enabled["signing"], "enabled", "{enabled:#}");
    Domain::from_json(&enabled)
}

/// The records that must be published.
pub fn required(records: &Value) -> Vec<Value> {
    let required: Vec<Value> = records.as_array().unwrap().iter().filter(|r| r["required"] == true).cloned().collect();
    assert!(required.iter().any(|r| r["purpose"] == "ownership"), "{records:#}");
    assert!(required.iter().any(|r| r["purpose"] == "dkim"), "{records:#}");
    required
}

impl Domain {
    /// From the API's answer.
    pub fn from_json(domain: &Value) -> Self {
        let keys = domain["keys"].as_array().unwrap();
        let active: Vec<&Value> = keys.iter().filter(|key| key["state"] == "active").collect();
        assert_eq!(active.len(), 1, "{domain:#}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            id: text(&domain["id"]),
            name: text(&domain["name"]),
            selector: text(&active[0]["selector"]),
            txt: domain["records"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|record| record["purpose"] == "dkim")
                .map(|record| (text(&record["name"]), text(&record["value"])))
                .collect(),
        }
    }

    /// Fails unless the message has exactly one signature, of this domain and its active key, that dkimpy (asking BIND) and our
    /// verifier (fed with the records that the API listed) both pass.
    pub fn assert_signed(&self, octets: &[u8], dkimpy: &mut DkimPy, named: &Named) {
        assert_eq!(dkimpy.verify_with_dns(octets, named.address()), [true], "{}", String::from_utf8_lossy(octets));
        let ours = our_verdict(octets, &self.txt);
        assert_eq!(ours.len(), 1, "{ours:?}");
        assert_eq!(ours[0].result.as_str(), "pass", "{ours:?}");
        assert_eq!(ours[0].domain.as_deref(), Some(self.name.as_str()));
        assert_eq!(ours[0].selector.as_deref(), Some(self.selector.as_str()));
    }
}

/// The header of a message: everything before the first empty line.
fn header(octets: &[u8]) -> String {
    let end = octets.windows(4).position(|w| w == b"\r\n\r\n").map_or(octets.len(), |at| at + 2);
    String::from_utf8_lossy(&octets[..end]).into_owned()
}

/// Unfolded values of all fields of that name, top to bottom; written here once more, so that the product's parser is not its own judge.
pub fn unfolded_field(octets: &[u8], name: &str) -> Vec<String> {
    let unfolded = header(octets).replace("\r\n\t", " ").replace("\r\n ", " ");
    unfolded
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .filter(|(n, _)| n.trim_end().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

/// Tags of each DKIM-Signature field, top to bottom, white space removed.
pub fn signature_fields(octets: &[u8]) -> Vec<BTreeMap<String, String>> {
    unfolded_field(octets, "DKIM-Signature")
        .iter()
        .map(|value| {
            let bare: String = value.chars().filter(|c| !c.is_whitespace()).collect();
            bare.split(';').filter_map(|tag| tag.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
        })
        .collect()
}
