//! MIME from a JSON request (mail-builder), 7-bit clean, encoded lines of 76 or less.
//!
//! The header fields are ours: mail-builder leaves `=?..?=` in a subject as it is, encodes ASCII it need not, and folds inside
//! quoted strings. The tree of parts, boundaries around them and base64 are mail-builder's.
mod addresses;
mod attachments;
mod custom;
mod encode;
mod options;
mod parts;
mod quoted;
#[cfg(test)]
mod tests;

use super::raw::date_field;
use super::request::{ComposeContext, Faults, MessageRequest, Prepared, Warnings, check_size, fresh_message_id};
use crate::{Error, FieldError};
use addresses::Addresses;
use encode::{LongToken, address_list, unstructured};
use signpost_dkim::Mailbox;

/// Subjects beyond this are no subjects, octets.
const MAX_SUBJECT: usize = 10_000;

/// Validates every field (all faults at once, each with its JSON pointer) and builds the message.
/// `Error::Invalid` or `Error::TooLarge`.
pub fn compose(mut request: MessageRequest, context: &ComposeContext<'_>) -> Result<Prepared, Error> {
    check_size(least_size(&request), context.max_message)?;
    let attachments = std::mem::take(&mut request.attachments);
    let request = &request;
    let mut faults = Faults::default();
    let addresses = addresses::read(request, &mut faults);
    let subject = subject(&request.subject, &mut faults);
    let own_fields = custom::read(request, &mut faults);
    let send_at_ms = options::read(request, context.now_ms, &mut faults);
    texts(request, &mut faults);
    let mut warnings = Warnings::default();
    let attachments = attachments::read(attachments, &mut warnings, &mut faults);
    attachments::check_references(request.html.as_deref(), &attachments, &mut warnings);
    faults.finish()?;

    let Addresses { from, reply_to, to, cc, recipients, mail_from } = addresses;
    let from = from.ok_or_else(|| Error::Internal("a request without From passed validation".to_owned()))?;
    let message_id = fresh_message_id(context, &from);
    let mut header = header(&from, &reply_to, &to, &cc, subject, &message_id, context.now_ms);
    header.push_str(&own_fields);
    let raw = parts::build(header, request.text.as_deref(), request.html.as_deref(), &attachments, context)?;
    check_size(raw.len(), context.max_message)?;
    Ok(Prepared {
        raw,
        from,
        sender: None,
        recipients,
        mail_from,
        message_id,
        subject: super::request::printable(subject),
        warnings: warnings.finish(),
        send_at_ms,
    })
}

/// A size that the built message cannot fall below, so that what is far too large is never built.
fn least_size(request: &MessageRequest) -> usize {
    let dropped = 2 * '\u{FEFF}'.len_utf8(); // no encoding is shorter than what it encodes
    request.octets().saturating_sub(dropped)
}

/// RFC 5322 3.6: each field once, Date and Message-ID always there before anything is signed.
fn header(
    from: &Mailbox,
    reply_to: &[Mailbox],
    to: &[Mailbox],
    cc: &[Mailbox],
    subject: &str,
    message_id: &str,
    now_ms: i64,
) -> String {
    let mut header = format!("Date: {}\r\n", date_field(now_ms));
    header.push_str(&address_list("From", std::slice::from_ref(from)));
    for (name, mailboxes) in [("Reply-To", reply_to), ("To", to), ("Cc", cc)] {
        if !mailboxes.is_empty() {
            header.push_str(&address_list(name, mailboxes));
        }
    }
    header.push_str(&unstructured("Subject", subject, LongToken::Encode));
    header.push_str(&format!("Message-ID: {message_id}\r\n"));
    header
}

/// One leading U+FEFF is an artefact of a file, not text (RFC 3629 6).
fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{FEFF}').unwrap_or(text)
}

/// True for what may never stand in a header: C0 controls other than HTAB, and DEL (RFC 5322 2.2).
fn is_forbidden_control(c: char) -> bool {
    c.is_ascii_control() && c != '\t'
}

fn subject<'a>(text: &'a str, faults: &mut Faults) -> &'a str {
    if text.contains(is_forbidden_control) {
        faults.push(FieldError::at("/subject", "CR, LF, NUL and other control characters are not allowed"));
    }
    if text.len() > MAX_SUBJECT {
        faults.push(FieldError::at("/subject", format!("is over {MAX_SUBJECT} octets")));
    }
    without_bom(text)
}

fn texts(request: &MessageRequest, faults: &mut Faults) {
    if request.text.is_none() && request.html.is_none() {
        faults.push(FieldError::at("/text", "give text, html or both (an empty string is a body too)"));
    }
    for (pointer, text) in [("/text", &request.text), ("/html", &request.html)] {
        if text.as_ref().is_some_and(|text| text.contains('\0')) {
            faults.push(FieldError::at(pointer, "NUL is not allowed in mail (RFC 5322 2.3)"));
        }
    }
}
