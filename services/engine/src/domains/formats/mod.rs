//! Lists of records in the forms that programs read. Each form overwrites nothing of others: what stands at a name now is known here,
//! and what would harm it is left out with a comment that says why.
mod bind;
mod cloudflare;
mod nsupdate;
mod route53;

use super::{Purpose, RecordView};
use crate::Error;
use signpost_diagnosis::check::{Finding, Status};
use signpost_diagnosis::standing::{Data, Kind, Place, Standing};
use signpost_dkim::record;
use std::net::SocketAddr;

/// TTL of what is published, seconds: short enough that a mistake is soon mended.
pub(super) const TTL: u32 = 3600;

/// Form of a list of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Master file (RFC 1035 5), absolute names.
    Bind,
    /// Change batch of Amazon Route 53 (ChangeResourceRecordSets, 2013-04-01), JSON.
    Route53,
    /// Zone file for Cloudflare's import.
    Cloudflare,
    /// Script of nsupdate (RFC 2136).
    Nsupdate,
}

/// What is to be published, and what is known about its names.
#[derive(Debug)]
pub(crate) struct Publication {
    /// The domain that it is for.
    pub(crate) title: String,
    /// The zone that holds the domain.
    pub(crate) zone: Zone,
    pub(crate) entries: Vec<Entry>,
}

/// A zone to publish in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    pub(crate) apex: String,
    /// False where DNS gave no answer and `apex` is the organizational domain.
    pub(crate) found: bool,
    /// Who takes updates.
    pub(crate) primary: Option<(String, Option<SocketAddr>)>,
}

/// One record.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Without trailing dot.
    pub(crate) name: String,
    pub(crate) zone: Zone,
    pub(crate) data: Data,
    /// For people.
    pub(crate) sentence: String,
    /// True where the name is ours alone: a selector.
    pub(crate) name_is_ours: bool,
    pub(crate) plan: Plan,
}

/// What becomes of a record in a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Written. What stands beside it stays; `None`: DNS did not say what stands there.
    Add { beside: Option<Vec<Standing>> },
    /// Written by forms that can take away what must go first.
    Replace { gone: Vec<Standing>, beside: Vec<Standing> },
    /// Stands there already, perhaps spelt otherwise: nothing to do.
    InPlace,
    /// Not written; why, as a sentence.
    Leave(String),
}

/// The publication in a form.
pub(crate) fn write(publication: &Publication, format: Format) -> Result<String, Error> {
    match format {
        Format::Bind => Ok(bind::write(publication)),
        Format::Route53 => route53::write(publication),
        Format::Cloudflare => Ok(cloudflare::write(publication)),
        Format::Nsupdate => Ok(nsupdate::write(publication)),
    }
}

/// Type of a record that is listed.
pub(crate) fn kind(view: &RecordView) -> Result<Kind, Error> {
    match view.kind.as_str() {
        "TXT" => Ok(Kind::Txt),
        "CNAME" => Ok(Kind::Cname),
        "MX" => Ok(Kind::Mx),
        other => Err(Error::Internal(format!("a record of type {other:?} is listed"))),
    }
}

/// Data of a record that is listed.
pub(crate) fn data(view: &RecordView) -> Result<Data, Error> {
    let bare = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    match kind(view)? {
        Kind::Txt => Ok(Data::Txt(view.chunks.iter().map(|chunk| chunk.as_bytes().to_vec()).collect())),
        Kind::Cname => Ok(Data::Cname(bare(&view.value))),
        Kind::Mx => {
            let parts =
                view.value.split_once(' ').and_then(|(preference, host)| Some((preference.parse().ok()?, host)));
            let (preference, host) =
                parts.ok_or_else(|| Error::Internal(format!("an MX record with the value {:?}", view.value)))?;
            Ok(Data::Mx { preference, host: bare(host) })
        }
    }
}

/// What to do about a record where `place` says what stands at its name. `finding`: of a record that may be in place in another
/// spelling or at another name.
pub(crate) fn plan(view: &RecordView, data: &Data, place: &Place, finding: Option<&Finding>) -> Plan {
    let name = &view.name;
    // Of these kinds a name may have one record only (RFC 7208 4.5, RFC 7489 6.6.3).
    let exclusive = matches!((view.purpose, data), (Purpose::Spf | Purpose::Dmarc, Data::Txt(_)));
    if finding.is_some_and(|finding| finding.status == Status::Ok) {
        return Plan::InPlace;
    }
    let standing = match (place.standing(), finding.map(|finding| finding.status)) {
        (Ok(standing), Some(Status::Unreachable)) if exclusive && !standing.is_empty() => {
            Err("The record that stands there could not be judged.".to_owned())
        }
        (standing, _) => standing,
    };
    let standing = match standing {
        Ok(standing) => standing,
        Err(reason) if exclusive => {
            return Plan::Leave(format!(
                "{reason} A second record of its kind would make both void; publish it once you know that there is none."
            ));
        }
        Err(_) => return Plan::Add { beside: None },
    };
    let others = standing.iter().filter(|record| record.data != *data);
    let mut gone = Vec::new();
    let mut beside = Vec::new();
    for other in others {
        match fate(view.purpose, data, &other.data) {
            Fate::Stays => beside.push(other.clone()),
            Fate::Goes => gone.push(other.clone()),
            Fate::Forbids => return Plan::Leave(conflict(name, &other.data)),
        }
    }
    if gone.is_empty() { Plan::Add { beside: Some(beside) } } else { Plan::Replace { gone, beside } }
}

enum Fate {
    Stays,
    Goes,
    Forbids,
}

/// What becomes of a record that stands at the name of ours. At a selector, which is ours alone, nothing else may stand.
fn fate(purpose: Purpose, ours: &Data, other: &Data) -> Fate {
    match (purpose, ours, other) {
        (Purpose::Dkim, _, _) => Fate::Goes,
        // RFC 1034 3.6.2: nothing stands beside a CNAME.
        (_, _, Data::Cname(_)) | (_, Data::Cname(_), _) => Fate::Forbids,
        (Purpose::Spf, Data::Txt(_), other) if other.is_spf() => Fate::Goes,
        (Purpose::Dmarc, Data::Txt(_), other) if other.is_dmarc() => Fate::Goes,
        (Purpose::Ownership | Purpose::Spf | Purpose::ReturnPath | Purpose::Dmarc, _, _) => Fate::Stays,
    }
}

fn conflict(name: &str, other: &Data) -> String {
    match other {
        Data::Cname(target) => {
            format!(
                "A CNAME to {target} stands at {name}, and nothing can stand beside it (RFC 1034 3.6.2): publish the record at its target, or remove the CNAME."
            )
        }
        Data::Txt(_) | Data::Mx { .. } => {
            format!(
                "Other records stand at {name}, and a CNAME cannot stand beside them (RFC 1034 3.6.2): remove them first."
            )
        }
    }
}

/// `TXT`, ...
fn type_of(data: &Data) -> &'static str {
    match data {
        Data::Txt(_) => "TXT",
        Data::Cname(_) => "CNAME",
        Data::Mx { .. } => "MX",
    }
}

/// Data in master-file form (RFC 1035 5.1): strings quoted and on one line, names absolute.
fn zone_data(data: &Data) -> String {
    match data {
        Data::Txt(strings) => strings.iter().map(|string| record::zone_string(string)).collect::<Vec<_>>().join(" "),
        Data::Cname(target) => format!("{target}."),
        Data::Mx { preference, host } => format!("{preference} {host}."),
    }
}

/// `name. TTL IN TYPE data` on one line.
fn zone_line(entry: &Entry) -> String {
    format!("{}. {TTL} IN {} {}", entry.name, type_of(&entry.data), zone_data(&entry.data))
}

/// A comment line. What came from DNS must not end it.
fn comment(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("; {plain}\n")
}

/// Where the records go.
fn zone_sentence(zone: &Zone) -> String {
    match zone.found {
        true => format!("Zone {} (found in DNS).", zone.apex),
        false => format!("Zone {} is assumed: DNS did not say which zone holds these names.", zone.apex),
    }
}

/// What has to be removed by hand before a record is added, in a form that cannot remove.
fn removal_comments(entry: &Entry, gone: &[Standing]) -> String {
    if entry.name_is_ours {
        // Values are not repeated: one may be a private key, published by mistake.
        return comment(&format!("Replace what stands at {} now ({} in all) by:", entry.name, gone.len()));
    }
    let mut text = comment("Replace this, which stands there now:");
    for record in gone {
        text.push_str(&comment(&format!(
            "  {}. {} IN {} {}",
            entry.name,
            record.ttl,
            type_of(&record.data),
            zone_data(&record.data)
        )));
    }
    text + &comment("by:")
}

/// Entries by their zones, that of the domain first.
fn by_zone(publication: &Publication) -> Vec<(&Zone, Vec<&Entry>)> {
    let mut zones: Vec<(&Zone, Vec<&Entry>)> = vec![(&publication.zone, Vec::new())];
    for entry in &publication.entries {
        match zones.iter_mut().find(|(zone, _)| zone.apex == entry.zone.apex) {
            Some((_, entries)) => entries.push(entry),
            None => zones.push((&entry.zone, vec![entry])),
        }
    }
    zones
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
