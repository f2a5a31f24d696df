//! What a tenant must or should publish.
use super::{CheckedRecord, DELEGATED, Purpose, RecordView, ZoneSource, states};
use crate::{Engine, Error};
use signpost_diagnosis::check::{Expected, Want};
use signpost_diagnosis::standing::ZoneCut;
use signpost_diagnosis::suffix::organizational_domain;
use signpost_dkim::record::{self, PublicKey};
use signpost_dkim::{KeyAlgorithm, SigningDomain};
use signpost_store::{DomainRow, KeyRow};
use std::fmt::Write as _;
use std::net::IpAddr;

/// A record and what a check must find for it.
pub(super) struct Listed {
    pub(super) view: RecordView,
    pub(super) expected: Expected,
    /// The key that a `dkim` record belongs to.
    pub(super) key_id: Option<String>,
}

/// The name as text of the store, which only ever holds parsed names.
pub(crate) fn stored_domain(name: &str) -> Result<SigningDomain, Error> {
    SigningDomain::parse(name).map_err(|error| Error::Internal(format!("stored domain name: {error}")))
}

/// The public key of a stored key row.
pub(crate) fn stored_public_key(key: &KeyRow) -> Result<PublicKey, Error> {
    public_key_of(&key.algorithm, &key.public_key)
}

/// The same from the columns of a row.
pub(crate) fn public_key_of(algorithm: &str, p: &str) -> Result<PublicKey, Error> {
    let algorithm =
        KeyAlgorithm::parse(algorithm).ok_or_else(|| Error::Internal(format!("stored algorithm {algorithm:?}")))?;
    PublicKey::from_p(algorithm.signature_algorithm(), p)
        .map_err(|fault| Error::Internal(format!("stored public key: {fault}")))
}

impl Engine {
    /// Everything to publish for a domain: ownership, each key's record, SPF where the name is used as MAIL FROM, DMARC as advice.
    pub(super) async fn listed_records(&self, domain: &DomainRow, keys: &[KeyRow]) -> Result<Vec<Listed>, Error> {
        let name = stored_domain(&domain.name)?;
        let value = format!("signpost-verification={}", domain.ownership_token);
        let mut listed = vec![Listed {
            view: view(&name, Purpose::Ownership, format!("_signpost.{name}"), value.clone(), true),
            expected: Expected { name: format!("_signpost.{name}"), want: Want::Ownership { value } },
            key_id: None,
        }];
        let required = states::required_keys(keys, domain.dual_signing);
        let is_required = |id: &str| required.iter().any(|key| key.id == id);
        for slot in self.listed_slots(domain, keys).await? {
            let is_required = slot.key_id.as_deref().is_some_and(is_required);
            listed.push(Listed {
                view: RecordView {
                    warnings: slot.warnings,
                    ..cname_view(&name, Purpose::Dkim, slot.name, slot.target, is_required)
                },
                expected: slot.expected,
                key_id: slot.key_id,
            });
        }
        let in_zone_of_tenant = domain.dkim_mode != DELEGATED;
        for key in keys.iter().filter(|key| in_zone_of_tenant && states::is_listed(&key.state)) {
            let public = stored_public_key(key)?;
            let record_name = format!("{}._domainkey.{name}", key.selector);
            let is_required = is_required(&key.id);
            listed.push(Listed {
                view: view(&name, Purpose::Dkim, record_name.clone(), record::build(&public), is_required),
                expected: Expected { name: record_name, want: Want::DkimKey { key: public } },
                key_id: Some(key.id.clone()),
            });
        }
        let egress = &self.inner.settings.egress_ips;
        if self.inner.settings.service_domain.is_none() && !egress.is_empty() {
            listed.push(Listed {
                view: view(&name, Purpose::Spf, name.to_string(), spf_value(egress), false),
                expected: Expected { name: name.to_string(), want: Want::Spf { egress: egress.clone() } },
                key_id: None,
            });
        }
        listed.push(Listed {
            view: view(&name, Purpose::Dmarc, format!("_dmarc.{name}"), "v=DMARC1; p=none".into(), false),
            expected: Expected { name: format!("_dmarc.{name}"), want: Want::Dmarc },
            key_id: None,
        });
        Ok(listed)
    }
}

fn view(domain: &SigningDomain, purpose: Purpose, name: String, value: String, required: bool) -> RecordView {
    record(domain, purpose, "TXT", name, value, required)
}

/// A record of any type whose zone is not known yet: the organizational domain, which is where a zone usually begins.
pub(crate) fn record(
    domain: &SigningDomain,
    purpose: Purpose,
    kind: &str,
    name: String,
    value: String,
    required: bool,
) -> RecordView {
    let zone = organizational_domain(domain).unwrap_or_else(|| domain.clone());
    RecordView {
        purpose,
        kind: kind.into(),
        relative_name: relative_name(zone.as_str(), &name),
        zone: zone.to_string(),
        zone_source: ZoneSource::Assumed,
        chunks: record::chunk(&value),
        name,
        value,
        required,
        status: "unchecked".into(),
        warnings: Vec::new(),
    }
}

/// A CNAME record: its value is a name, and has no strings.
fn cname_view(domain: &SigningDomain, purpose: Purpose, name: String, target: String, required: bool) -> RecordView {
    RecordView { kind: "CNAME".into(), chunks: Vec::new(), ..view(domain, purpose, name, target, required) }
}

/// The name below a zone; `@` for the zone itself.
fn relative_name(zone: &str, name: &str) -> String {
    if name == zone {
        return "@".into();
    }
    name.strip_suffix(zone).and_then(|rest| rest.strip_suffix('.')).unwrap_or(name).to_owned()
}

/// Puts records into the zones that DNS names, in their order; `None` leaves one where it is.
pub(crate) fn place_all<'a>(views: impl Iterator<Item = &'a mut RecordView>, zones: &[Option<ZoneCut>]) {
    for (view, zone) in views.zip(zones) {
        if let Some(zone) = zone {
            view.relative_name = relative_name(&zone.apex, &view.name);
            view.zone.clone_from(&zone.apex);
            view.zone_source = ZoneSource::Dns;
        }
    }
}

impl RecordView {
    /// A plain sentence or two for people: where this goes, and what it is for.
    pub fn instruction(&self) -> String {
        let zone = match self.zone_source {
            ZoneSource::Dns => format!("the zone {}", self.zone),
            ZoneSource::Assumed => format!("the zone that holds {} (probably {})", self.name, self.zone),
        };
        let is_policy = self.purpose == Purpose::Dmarc && self.kind == "TXT" && !self.name.starts_with("*.");
        if self.status == "ok" && is_policy {
            return "A DMARC record that applies to this domain is in place: nothing has to be done.".into();
        }
        if self.status == "ok" {
            return format!("The {} record at {} is in place: leave it as it is. {}", self.kind, self.name, self.why());
        }
        let article = if self.kind == "MX" { "an" } else { "a" };
        let value = if self.kind == "TXT" { "as the value, in one record" } else { "as the target" };
        format!(
            "In {zone}, add {article} {} record with the name {} (in full: {}) and the text shown {value}. {}",
            self.kind,
            self.relative_name,
            self.name,
            self.why()
        )
    }

    fn why(&self) -> &'static str {
        match self.purpose {
            Purpose::Ownership => "It proves that the domain is yours; it may stand beside other records.",
            Purpose::Dkim if self.kind == "CNAME" => {
                "It lets Signpost publish and renew the key that receivers check signatures with."
            }
            Purpose::Dkim if self.value.ends_with("p=") => "It tells receivers that this key is revoked.",
            Purpose::Dkim if self.required => "Receivers check the signatures with this key.",
            Purpose::Dkim => "Receivers will check signatures with this key once it signs; it does not sign now.",
            Purpose::Spf => {
                "It lets our servers send for this name. A name may have only one SPF record: if one that begins with v=spf1 stands there, replace it, and leave other TXT records."
            }
            Purpose::ReturnPath => "Bounces come back through it.",
            Purpose::Dmarc if self.kind == "MX" => "DMARC reports come in through it.",
            Purpose::Dmarc if self.name.starts_with("*.") => {
                "It says that reports about other domains are welcome here (RFC 7489 7.1)."
            }
            Purpose::Dmarc => {
                "Optional: it says what receivers shall do with mail that fails. A domain may have only one such record: if one that begins with v=DMARC1 stands there, keep it."
            }
        }
    }
}

/// RFC 7208 4.5, 5.6: the addresses that mail leaves from.
pub(crate) fn spf_value(egress: &[IpAddr]) -> String {
    let mut value = String::from("v=spf1");
    for address in egress {
        let _ = match address {
            IpAddr::V4(v4) => write!(value, " ip4:{v4}"),
            IpAddr::V6(v6) => write!(value, " ip6:{v6}"),
        };
    }
    value.push_str(" ~all");
    value
}

/// Carries the statuses of the latest check over to records that are still the same.
pub(super) fn with_statuses(listed: Vec<Listed>, checked: &[CheckedRecord]) -> Vec<RecordView> {
    listed
        .into_iter()
        .map(|listed| {
            let mut view = listed.view;
            let same = |c: &&CheckedRecord| {
                let advice = matches!(view.purpose, Purpose::Spf | Purpose::Dmarc);
                c.record.purpose == view.purpose
                    && c.record.name == view.name
                    && (advice || c.record.value == view.value)
            };
            if let Some(found) = checked.iter().find(same) {
                view.status.clone_from(&found.record.status);
                view.warnings.extend(found.record.warnings.iter().cloned());
                if found.record.zone_source == ZoneSource::Dns {
                    view.zone.clone_from(&found.record.zone);
                    view.relative_name.clone_from(&found.record.relative_name);
                    view.zone_source = ZoneSource::Dns;
                }
                if view.value != found.record.value {
                    view.value.clone_from(&found.record.value);
                    view.chunks.clone_from(&found.record.chunks);
                }
            }
            view
        })
        .collect()
}

/// A revoked key's record is listed for so long after the revocation.
const REVOKED_LISTED_MS: i64 = 90 * 24 * 3600 * 1000;

/// RFC 6376 3.6.1: an empty p= says that the key is revoked. Only for keys whose record was seen in DNS.
pub(super) fn of_revoked(domain: &DomainRow, keys: &[KeyRow], now: i64) -> Result<Vec<RecordView>, Error> {
    let name = stored_domain(&domain.name)?;
    let listed = keys.iter().filter(|key| {
        let was_seen = key.life.first_seen_at.is_some() || key.published_p.as_deref().is_some_and(|p| !p.is_empty());
        key.state == states::REVOKED && was_seen && key.life.state_since + REVOKED_LISTED_MS > now
    });
    Ok(listed
        .map(|key| {
            let record_name = format!("{}._domainkey.{name}", key.selector);
            let mut view = view(&name, Purpose::Dkim, record_name, record::REVOKED.into(), false);
            view.warnings = vec!["This key was revoked: publish this in place of its record.".into()];
            view
        })
        .collect())
}

/// Says until when the record of a key that was replaced must stay.
pub(super) fn warn_of_retiring(records: &mut [RecordView], keys: &[KeyRow]) {
    for key in keys.iter().filter(|key| key.state == states::RETIRING) {
        let Some(at) = key.life.safe_to_remove_at else { continue };
        let owner = format!("{}._domainkey.{}", key.selector, key.domain_name);
        if let Some(record) = records.iter_mut().find(|record| record.name == owner) {
            let until = crate::messages::raw::date_field(at);
            record.warnings.push(format!(
                "Another key signs now. Keep this record until {until}: mail signed by its key is on its way."
            ));
        }
    }
}
