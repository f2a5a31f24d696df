//! Header fields that the caller names: `headers` and `list_unsubscribe`.
use super::encode::{LongToken, MAX_LINE, unstructured};
use super::is_forbidden_control;
use crate::FieldError;
use crate::messages::request::{Faults, MessageRequest};
use signpost_dkim::Mailbox;

const MAX_HEADERS: usize = 100;
const MAX_NAME: usize = 76;
const MAX_VALUE: usize = 20_000;
const MAX_URL: usize = 900;
/// Octets of a name that a pointer repeats.
const MAX_ECHO: usize = 300;

/// Fields that we write, that receivers trust us to write, or that transport adds.
const OWNED: [&str; 18] = [
    "From",
    "Sender",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Return-Path",
    "Received",
    "Received-SPF",
    "DKIM-Signature",
    "DomainKey-Signature",
    "Authentication-Results",
    "Delivered-To",
    "Apparently-To",
];
const OWNED_PREFIXES: [&str; 3] = ["Content-", "ARC-", "Resent-"];

/// The fields, encoded and folded, each with its CRLF. Every refused name is a fault of its own.
pub(super) fn read(request: &MessageRequest, faults: &mut Faults) -> String {
    if request.headers.len() > MAX_HEADERS {
        faults.push(FieldError::at("/headers", format!("more than {MAX_HEADERS} fields")));
        return String::new();
    }
    let mut fields = String::new();
    for (index, (name, value)) in request.headers.iter().enumerate() {
        let pointer = entry_pointer("/headers", name);
        let before = &request.headers[..index];
        let fault = name_fault(name)
            .or_else(|| before.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)).then(|| "is given twice".to_owned()))
            .or_else(|| value_fault(name, value));
        match fault {
            Some(detail) => {
                let shown: String = name.chars().take(MAX_NAME).collect();
                faults.push(FieldError::at(pointer, format!("{shown:?}: {detail}")));
            }
            None => fields.push_str(&unstructured(name, value.trim_matches([' ', '\t']), LongToken::Keep)),
        }
    }
    if let Some(url) = &request.list_unsubscribe {
        match list_unsubscribe(url) {
            Ok(field) => fields.push_str(&field),
            Err(detail) => faults.push(FieldError::at("/list_unsubscribe", detail)),
        }
    }
    fields
}

/// The pointer of an entry (RFC 6901 3). One that would only echo a huge name points to the object around it.
pub(super) fn entry_pointer(object: &str, name: &str) -> String {
    if name.len() > MAX_ECHO {
        return object.to_owned();
    }
    format!("{object}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// RFC 5322 2.2 and 3.6.8: a field name is 1*ftext.
fn name_fault(name: &str) -> Option<String> {
    if name.is_empty() || !name.bytes().all(|b| matches!(b, 33..=57 | 59..=126)) {
        return Some("not a field name: use printable ASCII without space and colon (RFC 5322 2.2)".to_owned());
    }
    if name.len() > MAX_NAME {
        return Some(format!("the name is over {MAX_NAME} octets"));
    }
    if ["List-Unsubscribe", "List-Unsubscribe-Post"].iter().any(|own| own.eq_ignore_ascii_case(name)) {
        return Some("is ours to write: use list_unsubscribe".to_owned());
    }
    let owned = OWNED.iter().any(|own| own.eq_ignore_ascii_case(name))
        || OWNED_PREFIXES.iter().any(|p| name.get(..p.len()).is_some_and(|head| head.eq_ignore_ascii_case(p)));
    owned.then(|| "is ours or transport's to write: leave it out, or use the field of the request for it".to_owned())
}

fn value_fault(name: &str, value: &str) -> Option<String> {
    if value.contains(is_forbidden_control) {
        return Some("CR, LF, NUL and other control characters are not allowed".to_owned());
    }
    if value.len() > MAX_VALUE {
        return Some(format!("the value is over {MAX_VALUE} octets"));
    }
    let longest = value.split([' ', '\t']).filter(|token| token.is_ascii()).map(str::len).max().unwrap_or(0);
    if longest + name.len() + 2 > MAX_LINE {
        return Some(format!("a word of {longest} octets cannot be folded below {MAX_LINE} (RFC 5322 2.1.1)"));
    }
    if ["In-Reply-To", "References"].iter().any(|own| own.eq_ignore_ascii_case(name)) && !is_message_ids(value) {
        return Some("must be message ids in angle brackets, separated by spaces (RFC 5322 3.6.4)".to_owned());
    }
    None
}

fn is_message_ids(value: &str) -> bool {
    let mut tokens = value.split([' ', '\t']).filter(|token| !token.is_empty()).peekable();
    tokens.peek().is_some()
        && tokens.all(|token| {
            token
                .strip_prefix('<')
                .and_then(|rest| rest.strip_suffix('>'))
                .is_some_and(|id| id.contains('@') && id.is_ascii() && !id.contains(['<', '>', ',', ';']))
        })
}

/// RFC 2369 3.2; one-click only for https (RFC 8058 3.1).
fn list_unsubscribe(url: &str) -> Result<String, String> {
    if !url.bytes().all(|b| b.is_ascii_graphic()) || url.contains(['<', '>', '"', '\\', '`', '{', '}', '|', '^']) {
        return Err("not a URL: spaces, controls, quotes, angle brackets and non-ASCII must be %-encoded".to_owned());
    }
    if url.len() > MAX_URL {
        return Err(format!("is over {MAX_URL} octets"));
    }
    let (scheme, rest) = url.split_once(':').unwrap_or_default();
    if scheme.eq_ignore_ascii_case("https") {
        let host = rest.strip_prefix("//").and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
        if host.is_empty() || host.starts_with(':') || host.contains('@') {
            return Err("the https URL has no host".to_owned());
        }
        return Ok(format!("{}List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", list_field(url)));
    }
    if scheme.eq_ignore_ascii_case("mailto") {
        let address = rest.split('?').next().unwrap_or_default();
        return match Mailbox::parse_address(address) {
            Ok(_) => Ok(list_field(url)),
            Err(error) => Err(format!("the mailto URL names no address: {error}")),
        };
    }
    Err("must begin with https:// or mailto:".to_owned())
}

fn list_field(url: &str) -> String {
    unstructured("List-Unsubscribe", &format!("<{url}>"), LongToken::Keep)
}
