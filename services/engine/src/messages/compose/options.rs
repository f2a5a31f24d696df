//! What is kept beside the message and never sent: tags, metadata, send_at.
use super::custom::entry_pointer;
use crate::FieldError;
use crate::messages::request::{Faults, MessageRequest};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const MAX_TAGS: usize = 10;
const MAX_TAG: usize = 128;
const MAX_METADATA: usize = 50;
const MAX_METADATA_NAME: usize = 64;
const MAX_METADATA_VALUE: usize = 512;
const DAY_MS: i64 = 86_400_000;
const MAX_DELAY_MS: i64 = 30 * DAY_MS;
/// Clocks differ; what is that little in the past means now.
const LATE_MS: i64 = 60_000;

/// Checks tags, metadata and send_at; gives send_at in milliseconds since the epoch, `None` for now.
pub(super) fn read(request: &MessageRequest, now_ms: i64, faults: &mut Faults) -> Option<i64> {
    tags(&request.tags, faults);
    metadata(&request.metadata, faults);
    match request.send_at.as_deref().map(|text| send_at(text, now_ms)) {
        Some(Ok(at)) => (at > now_ms).then_some(at),
        Some(Err(detail)) => {
            faults.push(FieldError::at("/send_at", detail));
            None
        }
        None => None,
    }
}

fn tags(tags: &[String], faults: &mut Faults) {
    if tags.len() > MAX_TAGS {
        return faults.push(FieldError::at("/tags", format!("more than {MAX_TAGS} tags")));
    }
    for (index, tag) in tags.iter().enumerate() {
        if tag.is_empty() || tag.chars().count() > MAX_TAG || tag.contains(char::is_control) {
            let detail = format!("a tag has 1 to {MAX_TAG} printable characters");
            faults.push(FieldError::at(format!("/tags/{index}"), detail));
        }
    }
}

fn metadata(metadata: &[(String, String)], faults: &mut Faults) {
    if metadata.len() > MAX_METADATA {
        return faults.push(FieldError::at("/metadata", format!("more than {MAX_METADATA} entries")));
    }
    for (index, (name, value)) in metadata.iter().enumerate() {
        let pointer = entry_pointer("/metadata", name);
        if name.is_empty() || name.chars().count() > MAX_METADATA_NAME || name.contains(char::is_control) {
            let detail = format!("a name has 1 to {MAX_METADATA_NAME} printable characters");
            faults.push(FieldError::at(pointer, detail));
        } else if value.chars().count() > MAX_METADATA_VALUE || value.contains('\0') {
            let detail = format!("a value has at most {MAX_METADATA_VALUE} characters and no NUL");
            faults.push(FieldError::at(pointer, detail));
        } else if metadata[..index].iter().any(|(earlier, _)| earlier == name) {
            faults.push(FieldError::at(pointer, "is given twice"));
        }
    }
}

/// RFC 3339 5.6.
fn send_at(text: &str, now_ms: i64) -> Result<i64, String> {
    let wrong = || "must be an RFC 3339 time such as 2026-11-25T01:00:00Z".to_owned();
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| wrong())?;
    let at_ms = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).map_err(|_| wrong())?;
    if at_ms < now_ms.saturating_sub(LATE_MS) {
        return Err("lies in the past: leave it out to send now".to_owned());
    }
    if at_ms > now_ms.saturating_add(MAX_DELAY_MS) {
        return Err("lies more than 30 days ahead".to_owned());
    }
    Ok(at_ms)
}
