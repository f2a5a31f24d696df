//! The operator's own zone: what must be published below the service domain, listed and checked as the tenants' records are.
use crate::domains::{CheckedRecord, Format, Purpose, RecordView, ServerView, formats, publication, records};
use crate::{Clock, Error, ids};
use signpost_diagnosis::check::{self, Expected, Finding, Status, Want};
use signpost_diagnosis::dns::Dns;
use signpost_diagnosis::standing::{self, Place, ZoneCut};
use signpost_diagnosis::update::{DnsUpdate, NameChange, UpdateError};
use signpost_dkim::{SigningDomain, record};
use signpost_keys::Random;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// As for a tenant's check.
const CHECK_DEADLINE: Duration = Duration::from_millis(9_000);
/// The record of a check below `dkim.`; random, so that no server remembers that there is none.
const TRIAL_LABEL: &str = "_signpost-check-";
const TRIAL_VALUE: &str = "signpost operator check";
/// How long secondary servers have to show it.
const TRIAL_DEADLINE: Duration = Duration::from_secs(8);
const TRIAL_PAUSE: Duration = Duration::from_millis(500);
/// Who takes mail is one host, so its preference says nothing.
const MX_PREFERENCE: u16 = 10;

/// The settings that decide what is published. Without Debug: the update server's key is a secret.
#[derive(Clone)]
pub struct ServiceZone {
    /// SIGNPOST_SERVICE_DOMAIN.
    pub domain: SigningDomain,
    /// SIGNPOST_HOSTNAME, the host that takes bounces and reports.
    pub hostname: String,
    /// SIGNPOST_EGRESS_IPS; empty: no SPF.
    pub egress_ips: Vec<IpAddr>,
    /// SIGNPOST_DNS_UPDATE: where keys of delegated domains are published, below `dkim.`.
    pub update: Option<DnsUpdate>,
}

/// What DNS says about the zone.
#[derive(Debug)]
pub struct ServiceCheck {
    /// `pass` if every record is ok, `fail` if one is wrong, else `indeterminate`.
    pub verdict: &'static str,
    /// In the order of `records`.
    pub records: Vec<CheckedRecord>,
    /// What is no record; sentences.
    pub notes: Vec<String>,
}

impl ServiceZone {
    /// What to publish; zones as far as they are known without DNS.
    pub fn records(&self) -> Vec<RecordView> {
        let (domain, host) = (&self.domain, &self.hostname);
        let spf = |label: &str| {
            self.record(Purpose::Spf, "TXT", format!("{label}.{domain}"), records::spf_value(&self.egress_ips))
        };
        let mx = |purpose: Purpose, label: &str| {
            self.record(purpose, "MX", format!("{label}.{domain}"), format!("{MX_PREFERENCE} {host}"))
        };
        let mut listed = Vec::new();
        if !self.egress_ips.is_empty() {
            listed.push(spf("spf"));
        }
        listed.push(mx(Purpose::ReturnPath, "bounce"));
        if !self.egress_ips.is_empty() {
            // The addresses once more: an include would cost every receiver a lookup.
            listed.push(spf("bounce"));
        }
        listed.push(mx(Purpose::Dmarc, "reports"));
        // RFC 7489 7.1, for every domain that asks for reports to us.
        let authorization = format!("*._report._dmarc.reports.{domain}");
        listed.push(self.record(Purpose::Dmarc, "TXT", authorization, "v=DMARC1;".into()));
        listed
    }

    /// The same with the zones that DNS names.
    pub async fn records_in_zones(&self, dns: &Dns) -> Result<Vec<RecordView>, Error> {
        let mut views = self.records();
        let places = publication::look(dns, &self.domain, &views).await?;
        records::place_all(views.iter_mut(), &zones(&places));
        Ok(views)
    }

    /// In a form that a program reads, with regard to what stands at the names now.
    pub async fn records_as(&self, dns: &Dns, format: Format) -> Result<String, Error> {
        let views = self.records();
        let (places, spf) = tokio::join!(publication::look(dns, &self.domain, &views), self.spf(dns, &views));
        let places = places?;
        let findings = findings(&views, &places, spf)?;
        let wanted = views.into_iter().zip(findings.into_iter().map(Some)).collect();
        formats::write(&publication::assemble(&self.domain, wanted, &places)?, format)
    }

    /// Asks the servers of the zone for every record, and tries whether a key of a delegated domain would come to be seen.
    pub async fn check(&self, dns: &Dns, random: &dyn Random, clock: &dyn Clock) -> Result<ServiceCheck, Error> {
        let mut views = self.records();
        let (places, spf, trial) = tokio::join!(
            publication::look(dns, &self.domain, &views),
            self.spf(dns, &views),
            self.trial(dns, random, clock)
        );
        let places = places?;
        records::place_all(views.iter_mut(), &zones(&places));
        let findings = findings(&views, &places, spf)?;
        let mut records: Vec<CheckedRecord> =
            views.into_iter().zip(findings).map(|(view, f)| checked(view, f)).collect();
        records.extend(trial);
        let status = |wanted: &str| records.iter().any(|checked| checked.record.status == wanted);
        let wrong = records.iter().any(|checked| !matches!(checked.record.status.as_str(), "ok" | "unreachable"));
        let verdict = match (wrong, status("unreachable")) {
            (true, _) => "fail",
            (false, true) => "indeterminate",
            (false, false) => "pass",
        };
        Ok(ServiceCheck { verdict, records, notes: self.notes(dns).await })
    }

    fn record(&self, purpose: Purpose, kind: &str, name: String, value: String) -> RecordView {
        records::record(&self.domain, purpose, kind, name, value, true)
    }

    /// SPF records are evaluated, not compared; those alone, in their order.
    async fn spf(&self, dns: &Dns, views: &[RecordView]) -> Vec<Finding> {
        let of_spf = views.iter().filter(|view| view.purpose == Purpose::Spf);
        let expected: Vec<Expected> = of_spf
            .map(|view| Expected { name: view.name.clone(), want: Want::Spf { egress: self.egress_ips.clone() } })
            .collect();
        check::check(dns, &self.domain, &expected, CHECK_DEADLINE).await
    }

    /// A record that is put below `dkim.` as keys of delegated domains are, looked for at the zone's own servers, and taken away.
    async fn trial(&self, dns: &Dns, random: &dyn Random, clock: &dyn Clock) -> Option<CheckedRecord> {
        let update = self.update.as_ref()?;
        let label = format!("{TRIAL_LABEL}{}", ids::random_text(random, 8));
        let view = self.record(Purpose::Dkim, "TXT", format!("{label}.dkim.{}", self.domain), TRIAL_VALUE.into());
        let finding = match self.put_and_look(dns, update, &view.name, clock).await {
            Ok(finding) => finding,
            Err(error) => {
                let status = match error {
                    UpdateError::Unavailable(_) => Status::Unreachable,
                    UpdateError::Refused(_) => Status::Missing,
                };
                let explanation = format!("No key can be published below dkim.{}: {error}.", self.domain);
                Finding { status, warnings: vec![], found: vec![], servers: vec![], explanation, publish: None }
            }
        };
        Some(checked(view, finding))
    }

    async fn put_and_look(
        &self,
        dns: &Dns,
        update: &DnsUpdate,
        name: &str,
        clock: &dyn Clock,
    ) -> Result<Finding, UpdateError> {
        let zone = update.zone_of(name, clock.now_s()).await?;
        let change = |text: Option<&str>| [NameChange { name: name.to_owned(), text: text.map(str::to_owned) }];
        update.replace(&zone.apex, &change(Some(TRIAL_VALUE)), clock.now_s()).await?;
        let mut finding = self.look_for_trial(dns, name).await;
        if let Err(error) = update.replace(&zone.apex, &change(None), clock.now_s()).await {
            finding.warnings.push(format!("the record of this check could not be taken away again: {error}"));
        }
        Ok(finding)
    }

    /// Secondary servers may have it a moment later.
    async fn look_for_trial(&self, dns: &Dns, name: &str) -> Finding {
        let wanted = [(name.to_owned(), standing::Kind::Txt)];
        let value = standing::Data::Txt(vec![TRIAL_VALUE.as_bytes().to_vec()]);
        let until = Instant::now() + TRIAL_DEADLINE;
        loop {
            let within = until.saturating_duration_since(Instant::now()).max(TRIAL_PAUSE);
            for place in standing::places(dns, &self.domain, &wanted, within).await {
                let finding = standing::compare(name, &value, &place);
                if finding.status == Status::Ok || Instant::now() >= until {
                    return self.explain_trial(finding);
                }
            }
            tokio::time::sleep(TRIAL_PAUSE).await;
        }
    }

    fn explain_trial(&self, mut finding: Finding) -> Finding {
        let dkim = format!("dkim.{}", self.domain);
        finding.explanation = match finding.status {
            Status::Ok => format!(
                "A record that was put below {dkim} for this check came to the zone's servers; it is gone again."
            ),
            Status::Unreachable => finding.explanation,
            _ => format!(
                "A record that the server of SIGNPOST_DNS_UPDATE took was not to be seen at the zone's public servers: that server must be \
                 the primary of the zone that holds {dkim} and notify the others, or {dkim} must be delegated to it by NS records."
            ),
        };
        finding
    }

    /// What is left to the operator.
    async fn notes(&self, dns: &Dns) -> Vec<String> {
        let mut notes = Vec::new();
        if self.egress_ips.is_empty() {
            notes.push("SIGNPOST_EGRESS_IPS is not set, so no SPF record is listed.".to_owned());
        }
        if self.update.is_some() {
            let name = format!("dkim.{}", self.domain);
            let places =
                standing::places(dns, &self.domain, &[(name.clone(), standing::Kind::Txt)], CHECK_DEADLINE).await;
            notes.push(match places.into_iter().next().and_then(|place| place.zone) {
                None => format!("Nothing is known about the zone of {name}: DNS gave no answer."),
                Some(cut) if cut.apex == name => {
                    format!("{name} is a zone of its own: the server of SIGNPOST_DNS_UPDATE must be its primary.")
                }
                Some(cut) => format!(
                    "{name} lies in the zone {}: the server of SIGNPOST_DNS_UPDATE must be its primary, or {name} must be \
                     delegated to that server by NS records in {}.",
                    cut.apex, cut.apex
                ),
            });
        }
        notes
    }
}

/// Of the records, without the domain's own place.
fn zones(places: &[Place]) -> Vec<Option<ZoneCut>> {
    places.iter().skip(1).map(|place| place.zone.clone()).collect()
}

fn findings(views: &[RecordView], places: &[Place], spf: Vec<Finding>) -> Result<Vec<Finding>, Error> {
    let mut spf = spf.into_iter();
    let find = |(view, place): (&RecordView, &Place)| match view.purpose {
        Purpose::Spf => spf.next().ok_or_else(|| Error::Internal("an SPF record was not checked".into())),
        Purpose::Ownership | Purpose::Dkim | Purpose::ReturnPath | Purpose::Dmarc => {
            Ok(standing::compare(&view.name, &formats::data(view)?, place))
        }
    };
    views.iter().zip(places.iter().skip(1)).map(find).collect()
}

fn checked(mut record: RecordView, finding: Finding) -> CheckedRecord {
    record.status = finding.status.as_str().into();
    record.warnings = finding.warnings;
    if let Some(value) = finding.publish {
        record.chunks = record::chunk(&value);
        record.value = value;
    }
    let server =
        |answer: check::ServerAnswer| ServerView { server: answer.server, status: answer.status.as_str().into() };
    CheckedRecord {
        record,
        found: finding.found,
        servers: finding.servers.into_iter().map(server).collect(),
        explanation: finding.explanation,
    }
}
