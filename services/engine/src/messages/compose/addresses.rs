//! Addresses of the request: mailboxes of the header, recipients of the envelope.
use crate::FieldError;
use crate::messages::request::{AddressInput, Faults, MAX_RECIPIENTS, MessageRequest, without_duplicates};
use signpost_dkim::Mailbox;

/// Addresses in one list that are still looked at.
const MAX_LISTED: usize = 1_000;
/// Octets of one address with its display name, comments and encoded-words.
const MAX_TEXT: usize = 10_000;
/// Octets of a display name.
const MAX_NAME: usize = 1_000;

/// What was read; complete only if no fault was found.
pub(super) struct Addresses {
    pub(super) from: Option<Mailbox>,
    pub(super) reply_to: Vec<Mailbox>,
    pub(super) to: Vec<Mailbox>,
    pub(super) cc: Vec<Mailbox>,
    /// To + Cc + Bcc without duplicates. Bcc stands nowhere else.
    pub(super) recipients: Vec<Mailbox>,
    pub(super) mail_from: Option<Mailbox>,
}

pub(super) fn read(request: &MessageRequest, faults: &mut Faults) -> Addresses {
    let from = mailbox("/from", &request.from, faults);
    ascii_local("/from", from.as_ref(), faults);
    let to = list("/to", &request.to, faults);
    let cc = list("/cc", &request.cc, faults);
    let bcc = list("/bcc", &request.bcc, faults);
    let reply_to = list("/reply_to", &request.reply_to, faults);
    for (index, mailbox) in reply_to.iter().enumerate() {
        ascii_local(&format!("/reply_to/{index}"), Some(mailbox), faults);
    }
    let mail_from = request.mail_from.as_deref().and_then(|text| address("/mail_from", text, faults));
    ascii_local("/mail_from", mail_from.as_ref(), faults);
    let recipients = without_duplicates(to.iter().chain(&cc).chain(&bcc).cloned().collect());
    if request.to.is_empty() && request.cc.is_empty() && request.bcc.is_empty() {
        faults.push(FieldError::at("/to", "there is no recipient: give to, cc or bcc"));
    }
    if recipients.len() > MAX_RECIPIENTS {
        let count = recipients.len();
        let detail = format!(
            "to, cc and bcc name {count} recipients, at most {MAX_RECIPIENTS} are allowed: send several messages"
        );
        faults.push(FieldError::at("/to", detail));
    }
    Addresses { from, reply_to, to, cc, recipients, mail_from }
}

fn list(pointer: &str, inputs: &[AddressInput], faults: &mut Faults) -> Vec<Mailbox> {
    if inputs.len() > MAX_LISTED {
        faults
            .push(FieldError::at(pointer, format!("{} addresses, at most {MAX_RECIPIENTS} are allowed", inputs.len())));
        return Vec::new();
    }
    inputs.iter().enumerate().filter_map(|(i, input)| mailbox(&format!("{pointer}/{i}"), input, faults)).collect()
}

fn mailbox(pointer: &str, input: &AddressInput, faults: &mut Faults) -> Option<Mailbox> {
    let found = any_mailbox(pointer, input, faults)?;
    if found.name().is_some_and(|name| name.len() > MAX_NAME) {
        let place = match input {
            AddressInput::Text(_) => pointer.to_owned(),
            AddressInput::Parts { .. } => format!("{pointer}/name"),
        };
        faults.push(FieldError::at(place, format!("the display name is over {MAX_NAME} octets")));
        return None;
    }
    Some(found)
}

fn any_mailbox(pointer: &str, input: &AddressInput, faults: &mut Faults) -> Option<Mailbox> {
    match input {
        AddressInput::Text(text) => {
            if refuse_unusable(pointer, text, faults) {
                return None;
            }
            Mailbox::parse(text).map_err(|error| faults.push(FieldError::at(pointer, error.to_string()))).ok()
        }
        AddressInput::Parts { email, name } => {
            let name_pointer = format!("{pointer}/name");
            let bad_name = name.as_ref().is_some_and(|name| refuse_unusable(&name_pointer, name, faults));
            let bare = address(&format!("{pointer}/email"), email, faults)?;
            if bad_name {
                return None;
            }
            let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty());
            Mailbox::new(name, bare.local(), bare.domain().clone())
                .map_err(|error| faults.push(FieldError::at(name_pointer, error.to_string())))
                .ok()
        }
    }
}

fn address(pointer: &str, text: &str, faults: &mut Faults) -> Option<Mailbox> {
    if refuse_unusable(pointer, text, faults) {
        return None;
    }
    Mailbox::parse_address(text).map_err(|error| faults.push(FieldError::at(pointer, error.to_string()))).ok()
}

/// True where `text` is huge or has a control character, HTAB too: a name or an address has no use for any.
fn refuse_unusable(pointer: &str, text: &str, faults: &mut Faults) -> bool {
    if text.len() > MAX_TEXT {
        faults.push(FieldError::at(pointer, format!("is over {MAX_TEXT} octets")));
        return true;
    }
    let bad = text.contains(|c: char| c.is_ascii_control());
    if bad {
        faults.push(FieldError::at(pointer, "CR, LF, NUL and other control characters are not allowed"));
    }
    bad
}

/// A sender that only SMTPUTF8 hosts could show or answer would fail at most receivers (RFC 6531 3.4); a recipient of that kind
/// concerns that recipient alone.
fn ascii_local(pointer: &str, mailbox: Option<&Mailbox>, faults: &mut Faults) {
    if mailbox.is_some_and(Mailbox::needs_smtputf8) {
        let detail = "the part before the @ must be ASCII here: most receivers do not take SMTPUTF8 (RFC 6531)";
        faults.push(FieldError::at(pointer, detail));
    }
}
