//! A domain's records as programs take them: with their zones, and with what stands at their names at this moment.
use super::formats::{self, Entry, Format, Plan, Publication, Zone};
use super::records::{self, Listed};
use super::{Purpose, RecordView, ZoneSource};
use crate::{Caller, Engine, Error};
use signpost_diagnosis::check::{self, Expected, Finding};
use signpost_diagnosis::standing::{self, Kind, Place, ZoneCut};
use signpost_dkim::{SigningDomain, record};
use std::time::Duration;

/// How long a list of records waits for DNS.
const LOOK_DEADLINE: Duration = Duration::from_secs(4);

impl Engine {
    /// What to publish. Asks DNS, as a check and counted as one, for zones that no check has found yet. Scope domains:read.
    pub async fn domain_records(&self, caller: &Caller, id: &str) -> Result<Vec<RecordView>, Error> {
        let mut view = self.domain(caller, id).await?;
        if view.records.iter().any(|record| record.zone_source == ZoneSource::Assumed) {
            self.count_check(&caller.tenant_id)?;
            let domain = records::stored_domain(&view.row.name)?;
            let names = names(view.records.iter())?;
            let places = standing::places(&self.inner.dns, &domain, &names, LOOK_DEADLINE).await;
            let zones: Vec<Option<ZoneCut>> = places.into_iter().map(|place| place.zone).collect();
            records::place_all(view.records.iter_mut(), &zones);
        }
        Ok(view.records)
    }

    /// What to publish, in a form that a program reads. Asks DNS what stands at the names now, as a check and counted as one.
    /// Scope domains:read.
    pub async fn domain_records_as(&self, caller: &Caller, id: &str, format: Format) -> Result<String, Error> {
        let view = self.domain(caller, id).await?;
        self.count_check(&caller.tenant_id)?;
        let domain = records::stored_domain(&view.row.name)?;
        let listed = self.listed_records(&view.row, &view.keys).await?;
        let is_advice = |view: &RecordView| matches!(view.purpose, Purpose::Spf | Purpose::Dmarc);
        let advice: Vec<Expected> = listed.iter().filter(|l| is_advice(&l.view)).map(|l| l.expected.clone()).collect();
        // As listed, not as the latest check left them: what it suggested may be out of date.
        let mut views: Vec<RecordView> = listed.into_iter().map(|listed| listed.view).collect();
        if view.row.dkim_mode != super::DELEGATED {
            views.extend(records::of_revoked(&view.row, &view.keys, self.now_ms())?);
        }
        let asked = check::check(&self.inner.dns, &domain, &advice, LOOK_DEADLINE);
        let (places, findings) = tokio::join!(look(&self.inner.dns, &domain, &views), asked);
        let mut findings = findings.into_iter();
        let wanted = views.into_iter().map(|view| {
            let finding = if is_advice(&view) { findings.next() } else { None };
            (view, finding)
        });
        let publication = assemble(&domain, wanted.collect(), &places?)?;
        formats::write(&publication, format)
    }

    /// The zone of each record, where DNS answers.
    pub(super) async fn zones(&self, domain: &SigningDomain, listed: &[Listed]) -> Result<Vec<Option<ZoneCut>>, Error> {
        let names = names(listed.iter().map(|listed| &listed.view))?;
        let places = standing::places(&self.inner.dns, domain, &names, LOOK_DEADLINE).await;
        Ok(places.into_iter().map(|place| place.zone).collect())
    }
}

fn names<'a>(views: impl Iterator<Item = &'a RecordView>) -> Result<Vec<(String, Kind)>, Error> {
    views.map(|view| Ok((view.name.clone(), formats::kind(view)?))).collect()
}

/// The place of the domain itself, then that of each record.
pub(crate) async fn look(
    dns: &signpost_diagnosis::dns::Dns,
    domain: &SigningDomain,
    views: &[RecordView],
) -> Result<Vec<Place>, Error> {
    let mut names = names(views.iter())?;
    names.insert(0, (domain.to_string(), Kind::Txt));
    Ok(standing::places(dns, domain, &names, LOOK_DEADLINE).await)
}

/// Records, each with its finding where it has one, and their places as `look` gives them.
pub(crate) fn assemble(
    domain: &SigningDomain,
    wanted: Vec<(RecordView, Option<Finding>)>,
    places: &[Place],
) -> Result<Publication, Error> {
    let (own, others) = places.split_first().ok_or_else(|| Error::Internal("no place was looked at".into()))?;
    let mut entries = Vec::with_capacity(wanted.len());
    for ((mut view, finding), place) in wanted.into_iter().zip(others) {
        records::place_all(std::iter::once(&mut view), std::slice::from_ref(&place.zone));
        if let Some(value) = finding.as_ref().and_then(|finding| finding.publish.clone()) {
            view.chunks = record::chunk(&value);
            view.value = value;
        }
        let data = formats::data(&view)?;
        let plan = formats::plan(&view, &data, place, finding.as_ref());
        // What was found now goes before what the latest check said.
        view.status = if plan == Plan::InPlace { "ok".into() } else { "unchecked".into() };
        let zone = zone(place.zone.as_ref(), &view.zone);
        let name_is_ours = view.purpose == Purpose::Dkim;
        entries.push(Entry { sentence: sentence(&view), name: view.name, zone, data, name_is_ours, plan });
    }
    let assumed = signpost_diagnosis::suffix::organizational_domain(domain).unwrap_or_else(|| domain.clone());
    Ok(Publication { title: domain.to_string(), zone: zone(own.zone.as_ref(), assumed.as_str()), entries })
}

fn zone(found: Option<&ZoneCut>, assumed: &str) -> Zone {
    match found {
        Some(cut) => Zone { apex: cut.apex.clone(), found: true, primary: cut.primary.clone() },
        None => Zone { apex: assumed.to_owned(), found: false, primary: None },
    }
}

fn sentence(view: &RecordView) -> String {
    let what = match (view.required, view.purpose) {
        (true, _) => "Required",
        (false, Purpose::Dkim) => "A key that does not sign now",
        (false, Purpose::Ownership | Purpose::Spf | Purpose::ReturnPath | Purpose::Dmarc) => "Advice",
    };
    format!("{what}. {}", view.instruction())
}
