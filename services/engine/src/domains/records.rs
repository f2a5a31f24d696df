//! What a tenant must or should publish.
use super::{CheckedRecord, DELEGATED, Purpose, RecordView, states};
use crate::{Engine, Error};
use signpost_diagnosis::check::{Expected, Want};
use signpost_diagnosis::suffix::organizational_domain;
use signpost_dkim::record::{self, PublicKey};
use signpost_dkim::{KeyAlgorithm, SigningDomain};
use signpost_store::{DomainRow, KeyRow};
use std::fmt::Write as _;
use std::net::IpAddr;

/// TTL of the zone form, seconds: short enough that a mistake is soon mended.
const ZONE_TTL: u32 = 3600;

/// What to publish for a key that must not be trusted any more.
const REVOKED_RECORD: &str = "v=DKIM1; p=";

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
        let required = states::required_key(keys).map(|key| key.id.clone());
        for slot in self.listed_slots(domain, keys).await? {
            let is_required = slot.key_id.is_some() && slot.key_id == required;
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
            let is_required = required.as_deref() == Some(key.id.as_str());
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
    RecordView {
        purpose,
        kind: "TXT".into(),
        relative_name: relative_name(domain, &name),
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

/// The name below the organizational domain, which is where a zone usually begins; `@` for that name itself.
fn relative_name(domain: &SigningDomain, name: &str) -> String {
    let zone = organizational_domain(domain).unwrap_or_else(|| domain.clone());
    if name == zone.as_str() {
        return "@".into();
    }
    name.strip_suffix(zone.as_str()).and_then(|rest| rest.strip_suffix('.')).unwrap_or(name).to_owned()
}

/// RFC 7208 4.5, 5.6: the addresses that mail leaves from.
fn spf_value(egress: &[IpAddr]) -> String {
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
            let mut view = view(&name, Purpose::Dkim, record_name, REVOKED_RECORD.into(), false);
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

/// Master-file form (RFC 1035 5.1), absolute names, one record a line. Advice that is in place already is left out.
pub(super) fn zone_form(domain: &str, records: &[RecordView]) -> String {
    let mut zone = format!("; Signpost: records for {domain}\n");
    for record in records.iter().filter(|r| r.required || r.purpose == Purpose::Dkim || r.status != "ok") {
        let what = match (record.required, record.purpose) {
            (true, _) => "required",
            (false, Purpose::Dkim) if record.kind == "CNAME" => "for the keys that come later: publish it now",
            (false, Purpose::Dkim) => "key that does not sign now",
            (false, _) => "advice",
        };
        let _ = writeln!(zone, "; {what}");
        let data = if record.kind == "CNAME" { format!("{}.", record.value) } else { record::zone_text(&record.value) };
        let _ = writeln!(zone, "{}. {ZONE_TTL} IN {} {data}", record.name, record.kind);
    }
    zone
}
