//! What a raw message says and what is wrong with it, every fault with the name of the field and its line.
use super::NEVER_SENT;
use crate::messages::request::{Faults, printable};
use crate::{Error, FieldError};
use signpost_dkim::Mailbox;
use signpost_dkim::address::{Address, parse_address_list, parse_single_mailbox};
use signpost_dkim::message::{Field, Message};

/// Fields that may occur once (RFC 5322 3.6, RFC 2045 3, RFC 2183 2, RFC 2369 2, RFC 8058 3): with two of them receivers differ on
/// which one counts, and DKIM signs from the bottom (RFC 6376 8.15). Bcc is not among them: every one is removed.
const SINGLE: [&str; 22] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
    "Content-ID",
    "Content-Description",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Help",
    "List-Subscribe",
    "List-Post",
    "List-ID",
];
/// RFC 5322 2.1.1.
const MAX_LINE: usize = 998;
/// A header beyond this is no mail; it would be held in memory whole.
const MAX_HEADER: usize = 1_000_000;
const MAX_FIELDS: usize = 1_000;
/// RFC 5321 6.3: a hundred hops are a loop.
const MAX_RECEIVED: usize = 100;

/// What the header says.
pub(super) struct Header {
    /// `None` only with a fault.
    pub(super) from: Option<Mailbox>,
    pub(super) sender: Option<Mailbox>,
    pub(super) message_id: Option<String>,
    pub(super) subject: String,
    pub(super) eight_bit: bool,
    pub(super) warnings: Vec<String>,
}

/// Reads the header and checks everything that holds for /messages/raw and /sign alike. `Err` only for what is no header of mail.
pub(super) fn header(raw: &[u8], message: &Message<'_>, faults: &mut Faults) -> Result<Header, Error> {
    if message.body_offset > MAX_HEADER || message.fields.len() > MAX_FIELDS {
        let detail = format!("the header is over {MAX_HEADER} octets or {MAX_FIELDS} fields");
        return Err(Error::Invalid(vec![FieldError::in_message(None, detail)]));
    }
    duplicates(message, faults);
    eight_bit_fields(message, faults);
    long_lines(raw, message, faults);
    hops(message, faults);
    not_empty(message, "Date", faults);
    Ok(Header {
        from: from(message, faults),
        sender: only(message, "Sender").and_then(|field| single_mailbox(field, faults)),
        message_id: not_empty(message, "Message-ID", faults),
        subject: only(message, "Subject").map(decoded_subject).unwrap_or_default(),
        eight_bit: !message.body.is_ascii(),
        warnings: spaced_colons(message),
    })
}

/// RFC 5322 4.5.8: obsolete, may be received, and is signed as RFC 6376 3.4 has it; but dkimpy and mail-auth read it wrongly.
fn spaced_colons(message: &Message<'_>) -> Vec<String> {
    let removed = |field: &Field<'_>| NEVER_SENT.iter().any(|name| field.is(name));
    let spaced = |field: &&Field<'_>| field.raw.get(field.name.len()) != Some(&b':') && !removed(field);
    let warning = |field: &Field<'_>| {
        format!(
            "line {}: {} has white space before its colon; some verifiers do not read such a field: remove it",
            field.line, field.name
        )
    };
    message.fields.iter().filter(spaced).map(warning).collect()
}

/// Mailboxes of To, Cc, Bcc and Resent-Bcc; groups count as their members (RFC 5322 3.4).
pub(super) fn recipients(message: &Message<'_>, faults: &mut Faults) -> Vec<Mailbox> {
    let mut found = Vec::new();
    for field in &message.fields {
        if !["To", "Cc", "Bcc", "Resent-Bcc"].iter().any(|name| field.is(name)) {
            continue;
        }
        match text(field).map(parse_address_list) {
            Some(Ok(list)) => found.extend(list.into_iter().flat_map(members)),
            Some(Err(error)) => faults.push(in_field(field, format!("{error} (or name the recipients in rcpt)"))),
            None => {} // raw 8-bit octets: a fault already
        }
    }
    found
}

fn members(address: Address) -> Vec<Mailbox> {
    match address {
        Address::Mailbox(mailbox) => vec![mailbox],
        Address::Group { members, .. } => members,
    }
}

fn in_field(field: &Field<'_>, detail: impl Into<String>) -> FieldError {
    FieldError::in_header(field.name, field.line, detail)
}

/// The value, where it is ASCII.
fn text<'a>(field: &Field<'a>) -> Option<&'a str> {
    std::str::from_utf8(field.value).ok().filter(|value| value.is_ascii())
}

/// The field of that name if there is exactly one.
fn only<'s, 'a>(message: &'s Message<'a>, name: &'s str) -> Option<&'s Field<'a>> {
    let mut all = message.all(name);
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

/// RFC 5322 3.6.2 allows several mailboxes in From; DKIM and DMARC need one to hold responsible, so we take exactly one.
fn from(message: &Message<'_>, faults: &mut Faults) -> Option<Mailbox> {
    if message.all("From").next().is_none() {
        let detail = "the message has no From field (RFC 5322 3.6.2)".to_owned();
        faults.push(FieldError { pointer: None, header: Some("From".to_owned()), line: None, detail });
    }
    only(message, "From").and_then(|field| single_mailbox(field, faults))
}

fn single_mailbox(field: &Field<'_>, faults: &mut Faults) -> Option<Mailbox> {
    match parse_single_mailbox(text(field)?) {
        Ok(mailbox) => Some(mailbox),
        Err(error) => {
            faults.push(in_field(field, format!("must be exactly one mailbox: {error}")));
            None
        }
    }
}

/// RFC 5322 3.6.
fn duplicates(message: &Message<'_>, faults: &mut Faults) {
    for name in SINGLE {
        for field in message.all(name).skip(1) {
            faults.push(in_field(field, format!("a second {name} field; it may occur only once (RFC 5322 3.6)")));
        }
    }
}

/// RFC 5322 2.2.
fn eight_bit_fields(message: &Message<'_>, faults: &mut Faults) {
    for field in message.fields.iter().filter(|field| !field.raw.is_ascii()) {
        let detail = "raw 8-bit octets; encode them as encoded-words or per RFC 2231";
        faults.push(in_field(field, detail));
    }
}

/// RFC 5322 2.1.1. Wrapping such a line later would break the signature, and inner parts are not ours to encode anew.
fn long_lines(raw: &[u8], message: &Message<'_>, faults: &mut Faults) {
    for field in &message.fields {
        for (index, length) in over_long(field.raw) {
            let detail = format!("{length} octets in one line, at most {MAX_LINE}: fold the field");
            faults.push(FieldError::in_header(field.name, field.line + index, detail));
        }
    }
    let first = 1 + raw[..message.body_offset].iter().filter(|octet| **octet == b'\n').count();
    for (index, length) in over_long(message.body) {
        let detail =
            format!("{length} octets in one line, at most {MAX_LINE}: send the part as quoted-printable or base64");
        faults.push(FieldError::in_message(Some(first + index), detail));
    }
}

/// Index and length, without its line end, of each line that is too long.
fn over_long(octets: &[u8]) -> impl Iterator<Item = (usize, usize)> + '_ {
    octets
        .split(|octet| *octet == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line).len())
        .enumerate()
        .filter(|(_, length)| *length > MAX_LINE)
}

/// RFC 5321 6.3.
fn hops(message: &Message<'_>, faults: &mut Faults) {
    if let Some(field) = message.all("Received").nth(MAX_RECEIVED) {
        faults.push(in_field(field, format!("more than {MAX_RECEIVED} Received fields: the message is in a loop")));
    }
}

/// The unfolded value of a field that, where it is present, must say something. A verifier that finds it empty may add its own.
fn not_empty(message: &Message<'_>, name: &str, faults: &mut Faults) -> Option<String> {
    let field = message.all(name).next()?;
    let value: String = text(field)?.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let value = value.trim();
    if value.is_empty() {
        faults.push(in_field(field, "is empty: fill it in or leave it out"));
    }
    Some(value.to_owned())
}

/// RFC 2047, for lists only; the octets stay as they are.
fn decoded_subject(field: &Field<'_>) -> String {
    let parsed = mail_parser::MessageParser::default().parse_headers(field.raw);
    printable(parsed.as_ref().and_then(mail_parser::Message::subject).unwrap_or_default())
}
