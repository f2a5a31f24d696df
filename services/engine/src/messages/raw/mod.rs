//! Raw submissions: made safe or refused (DESIGN: Raw mail).
mod date;
mod inspect;
#[cfg(test)]
mod tests;

pub use date::date_field;

use super::request::{
    ComposeContext, Faults, MAX_RECIPIENTS, Prepared, check_size, fresh_message_id, without_duplicates,
};
use crate::{Error, FieldError};
use inspect::Header;
use signpost_dkim::Mailbox;
use signpost_dkim::message::{Message, MessageError, check_sendable, normalize_line_ends};

/// Envelope recipients that are still looked at one by one.
const MAX_NAMED: usize = 1_000;

/// What beside the octets a raw submission names.
#[derive(Debug, Clone, Default)]
pub struct RawEnvelope {
    /// Envelope recipients; `None`: To + Cc + Bcc of the message.
    pub rcpt: Option<Vec<String>>,
    /// Envelope sender.
    pub mail_from: Option<String>,
}

/// Fields that name blind recipients or belong to final delivery; what is sent has none (RFC 5322 3.6.3, RFC 5321 4.4).
const NEVER_SENT: [&str; 3] = ["Return-Path", "Bcc", "Resent-Bcc"];

/// POST /messages/raw. LF becomes CRLF; Return-Path, Bcc, Resent-Bcc removed; missing Date and Message-ID added on top; the rest
/// is kept octet by octet or refused. `Error::Invalid` with every fault, or `Error::TooLarge`.
pub fn prepare_raw(raw: Vec<u8>, envelope: &RawEnvelope, context: &ComposeContext<'_>) -> Result<Prepared, Error> {
    check_size(raw.len(), context.max_message)?;
    refuse_mbox(&raw)?;
    let raw = normalize_line_ends(raw).map_err(refused)?;
    let message = Message::parse(&raw).map_err(refused)?;
    let mut faults = Faults::default();
    let header = inspect::header(&raw, &message, &mut faults)?;
    let mail_from = envelope.mail_from.as_deref().and_then(|text| sender_address(text, &mut faults));
    let recipients = recipients(&message, envelope, &mut faults);
    finish(faults, || check_sendable(&raw))?;

    let mut prepared = prepared(header, context, true)?;
    prepared.mail_from = mail_from;
    prepared.recipients = recipients;
    prepared.raw = complete(raw, &prepared.message_id, context.now_ms)?;
    check_size(prepared.raw.len(), context.max_message)?;
    Ok(prepared)
}

/// POST /sign: nothing is changed; what would have to be changed is an error. `recipients` and `mail_from` stay empty.
pub fn prepare_for_sign(raw: Vec<u8>, context: &ComposeContext<'_>) -> Result<Prepared, Error> {
    check_size(raw.len(), context.max_message)?;
    refuse_mbox(&raw)?;
    let sendable = check_sendable(&raw);
    if let Err(error @ (MessageError::BareLineEnd { .. } | MessageError::Nul { .. })) = sendable {
        return Err(refused(error));
    }
    let message = Message::parse(&raw).map_err(refused)?;
    let mut faults = Faults::default();
    let header = inspect::header(&raw, &message, &mut faults)?;
    for field in &message.fields {
        if NEVER_SENT.iter().any(|name| field.is(name)) {
            let detail = "may not be in a message that is sent: remove it and ask again (nothing is changed here)";
            faults.push(FieldError::in_header(field.name, field.line, detail));
        }
    }
    finish(faults, || sendable)?;

    let mut prepared = prepared(header, context, false)?;
    prepared.raw = raw;
    Ok(prepared)
}

/// Replaces Date (the one field) by `now_ms`, or adds it on top where there is none; every other octet stays. For scheduled and
/// held mail at its release. Octets that are no message (the store holds none) come back as they are.
pub fn redate(raw: &[u8], now_ms: i64) -> Vec<u8> {
    let date = format!("Date: {}\r\n", date_field(now_ms));
    let Ok(message) = Message::parse(raw) else { return raw.to_vec() };
    let mut offset = 0;
    let mut range = 0..0;
    for field in &message.fields {
        let end = offset + field.raw.len();
        if field.is("Date") {
            range = offset..end;
            break;
        }
        offset = end;
    }
    [&raw[..range.start], date.as_bytes(), &raw[range.end..]].concat()
}

/// A mailbox file begins with a line that is no header field.
fn refuse_mbox(raw: &[u8]) -> Result<(), Error> {
    let Some(rest) = raw.strip_prefix(b"From ") else { return Ok(()) };
    if rest.trim_ascii_start().starts_with(b":") {
        return Ok(());
    }
    let detail = "the message begins with the `From ` line of a mailbox file: leave that line out";
    Err(Error::Invalid(vec![FieldError::in_message(Some(1), detail)]))
}

/// The last word on what is sent: the same rules that the signer holds to.
fn finish(mut faults: Faults, sendable: impl FnOnce() -> Result<(), MessageError>) -> Result<(), Error> {
    if faults.len() == 0
        && let Err(error) = sendable()
    {
        faults.push(field_error(&error));
    }
    faults.finish()
}

fn refused(error: MessageError) -> Error {
    Error::Invalid(vec![field_error(&error)])
}

/// The place and text of what is wrong with raw octets.
pub(crate) fn field_error(error: &MessageError) -> FieldError {
    let detail = error.to_string();
    match error {
        MessageError::BareLineEnd { line, .. }
        | MessageError::Nul { line }
        | MessageError::LongLine { line, .. }
        | MessageError::NotAField { line } => FieldError::in_message(Some(*line), detail),
        MessageError::EightBitHeader { name, line } => FieldError::in_header(name.clone(), *line, detail),
        MessageError::NoHeader => FieldError::in_message(None, detail),
    }
}

fn sender_address(text: &str, faults: &mut Faults) -> Option<Mailbox> {
    Mailbox::parse_address(text)
        .map_err(|error| faults.push(FieldError::at("/mail_from", format!("the envelope sender is wrong: {error}"))))
        .ok()
}

/// DESIGN "Envelope": `rcpt` if given, else To + Cc + Bcc (with Resent-Bcc, which is removed too).
fn recipients(message: &Message<'_>, envelope: &RawEnvelope, faults: &mut Faults) -> Vec<Mailbox> {
    let before = faults.len();
    let found = match &envelope.rcpt {
        Some(rcpt) => named_recipients(rcpt, faults),
        None => inspect::recipients(message, faults),
    };
    let recipients = without_duplicates(found);
    let detail = if recipients.is_empty() && faults.len() == before {
        "there is no recipient: give rcpt, or To, Cc or Bcc in the message".to_owned()
    } else if recipients.len() > MAX_RECIPIENTS {
        format!("{} recipients, at most {MAX_RECIPIENTS} are allowed: split the message", recipients.len())
    } else {
        return recipients;
    };
    let pointer = envelope.rcpt.as_ref().map(|_| "/rcpt".to_owned());
    faults.push(FieldError { pointer, header: None, line: None, detail });
    recipients
}

fn named_recipients(rcpt: &[String], faults: &mut Faults) -> Vec<Mailbox> {
    if rcpt.len() > MAX_NAMED {
        let detail = format!("{} recipients, at most {MAX_RECIPIENTS} are allowed: split the message", rcpt.len());
        faults.push(FieldError::at("/rcpt", detail));
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, text) in rcpt.iter().enumerate() {
        match Mailbox::parse_address(text) {
            Ok(mailbox) => found.push(mailbox),
            Err(error) => faults.push(FieldError::at(format!("/rcpt/{index}"), error.to_string())),
        }
    }
    found
}

fn prepared(header: Header, context: &ComposeContext<'_>, add_message_id: bool) -> Result<Prepared, Error> {
    let from = header.from.ok_or_else(|| Error::Internal("a message without From passed inspection".to_owned()))?;
    let message_id = match header.message_id {
        Some(id) => id,
        None if add_message_id => fresh_message_id(context, &from),
        None => String::new(),
    };
    Ok(Prepared {
        raw: Vec::new(),
        from,
        sender: header.sender,
        recipients: Vec::new(),
        mail_from: None,
        message_id,
        subject: header.subject,
        warnings: header.warnings,
        send_at_ms: None,
    })
}

/// Removes what is never sent and adds Date and Message-ID where they are missing (RFC 5322 3.6), before anything is signed.
fn complete(mut raw: Vec<u8>, message_id: &str, now_ms: i64) -> Result<Vec<u8>, Error> {
    let message = Message::parse(&raw).map_err(refused)?;
    let has = |name: &str| message.fields.iter().any(|field| field.is(name));
    let mut header = Vec::with_capacity(message.body_offset + 128);
    if !has("Date") {
        header.extend_from_slice(format!("Date: {}\r\n", date_field(now_ms)).as_bytes());
    }
    if !has("Message-ID") {
        header.extend_from_slice(format!("Message-ID: {message_id}\r\n").as_bytes());
    }
    let mut changed = !header.is_empty();
    let mut length = 0;
    for field in &message.fields {
        length += field.raw.len();
        if NEVER_SENT.iter().any(|name| field.is(name)) {
            changed = true;
        } else {
            header.extend_from_slice(field.raw);
        }
    }
    if changed {
        raw.splice(..length, header);
    }
    Ok(raw)
}
