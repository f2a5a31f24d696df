//! Change batch of Amazon Route 53 (API 2013-04-01, ChangeResourceRecordSets). A change is about a whole record set, so what stands
//! beside ours is in it; where that is not known the action is CREATE, which Route 53 refuses if the set exists.
use super::{Data, Entry, Plan, Publication, Standing, TTL, type_of};
use crate::Error;
use serde::Serialize;
use std::fmt::Write as _;

/// ChangeBatch.Comment (ResourceDescription): at most so many characters.
const COMMENT_MAX: usize = 256;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeBatch {
    comment: String,
    changes: Vec<Change>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    action: Action,
    resource_record_set: RecordSet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Action {
    Create,
    Delete,
    Upsert,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RecordSet {
    name: String,
    r#type: &'static str,
    #[serde(rename = "TTL")]
    ttl: u32,
    resource_records: Vec<ResourceRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ResourceRecord {
    value: String,
}

/// One batch for the hosted zone of the domain; what is not in it is counted in its comment.
pub(super) fn write(publication: &Publication) -> Result<String, Error> {
    let mut changes = Vec::new();
    let mut elsewhere = 0;
    let mut left_out: Vec<&str> = Vec::new();
    for entry in &publication.entries {
        if entry.zone.apex != publication.zone.apex {
            elsewhere += 1;
            continue;
        }
        match &entry.plan {
            Plan::InPlace => {}
            Plan::Leave(_) => left_out.push(&entry.name),
            Plan::Add { beside: None } => set(&mut changes, Action::Create, entry, &[]),
            Plan::Add { beside: Some(beside) } => set(&mut changes, Action::Upsert, entry, beside),
            Plan::Replace { gone, beside } => {
                clear_the_way(&mut changes, entry, gone);
                set(&mut changes, Action::Upsert, entry, beside);
            }
        }
    }
    let batch = ChangeBatch { comment: batch_comment(publication, elsewhere, &left_out), changes };
    let mut text = serde_json::to_string_pretty(&batch).map_err(|error| Error::Internal(error.to_string()))?;
    text.push('\n');
    Ok(text)
}

/// Records of one name and type are one set.
fn set(changes: &mut Vec<Change>, action: Action, entry: &Entry, beside: &[Standing]) {
    let (name, kind) = (format!("{}.", entry.name), type_of(&entry.data));
    let same_type: Vec<&Standing> = beside.iter().filter(|record| type_of(&record.data) == kind).collect();
    let known = changes.iter().position(|change| {
        let set = &change.resource_record_set;
        change.action != Action::Delete && set.name == name && set.r#type == kind
    });
    let index = known.unwrap_or_else(|| {
        let ttl = same_type.iter().map(|record| record.ttl).min().unwrap_or(TTL);
        let resource_record_set = RecordSet { name, r#type: kind, ttl, resource_records: Vec::new() };
        changes.push(Change { action, resource_record_set });
        changes.len() - 1
    });
    let Some(change) = changes.get_mut(index) else { return };
    for data in std::iter::once(&entry.data).chain(same_type.iter().map(|record| &record.data)) {
        let record = ResourceRecord { value: value(data) };
        if !change.resource_record_set.resource_records.contains(&record) {
            change.resource_record_set.resource_records.push(record);
        }
    }
}

/// What is of another type and cannot stand beside ours: a DELETE names the set exactly as it is, TTL included.
fn clear_the_way(changes: &mut Vec<Change>, entry: &Entry, gone: &[Standing]) {
    let mut types: Vec<&'static str> = gone.iter().map(|record| type_of(&record.data)).collect();
    types.sort_unstable();
    types.dedup();
    for kind in types.into_iter().filter(|kind| *kind != type_of(&entry.data)) {
        let of_type: Vec<&Standing> = gone.iter().filter(|record| type_of(&record.data) == kind).collect();
        let resource_record_set = RecordSet {
            name: format!("{}.", entry.name),
            r#type: kind,
            ttl: of_type.iter().map(|record| record.ttl).min().unwrap_or(TTL),
            resource_records: of_type.iter().map(|record| ResourceRecord { value: value(&record.data) }).collect(),
        };
        changes.push(Change { action: Action::Delete, resource_record_set });
    }
}

fn value(data: &Data) -> String {
    match data {
        Data::Txt(strings) => strings.iter().map(|string| quoted(string)).collect::<Vec<_>>().join(" "),
        Data::Cname(target) => format!("{target}."),
        Data::Mx { preference, host } => format!("{preference} {host}."),
    }
}

/// Route 53 escapes in octal (a master file in decimal): control characters and what is no ASCII. Quote and backslash by a backslash.
fn quoted(string: &[u8]) -> String {
    let mut out = String::with_capacity(string.len() + 2);
    out.push('"');
    for &octet in string {
        match octet {
            b'"' | b'\\' => out.extend(['\\', char::from(octet)]),
            b' '..=b'~' => out.push(char::from(octet)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "\\{octet:03o}")),
        }
    }
    out.push('"');
    out
}

fn batch_comment(publication: &Publication, elsewhere: usize, left_out: &[&str]) -> String {
    let zone = &publication.zone;
    let assumed = if zone.found { "" } else { " (assumed)" };
    let mut text = format!("Signpost: {}, hosted zone {}{assumed}.", publication.title, zone.apex);
    if elsewhere > 0 {
        let _ = write!(text, " Not here, of other zones: {elsewhere}.");
    }
    if !left_out.is_empty() {
        let _ = write!(text, " Left out (?format=bind says why): {}.", left_out.join(", "));
    }
    if text.chars().count() > COMMENT_MAX {
        text = text.chars().take(COMMENT_MAX - 1).chain(['…']).collect();
    }
    text
}
