//! Attachments and inline parts: decoded and checked.
use super::encode::{is_token, parameters};
use super::without_bom;
use crate::FieldError;
use crate::messages::request::{AttachmentInput, Faults, Warnings};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::{BTreeSet, HashSet};

const MAX_ATTACHMENTS: usize = 500;
/// Octets of a media type with its parameters.
const MAX_CONTENT_TYPE: usize = 1_000;
const MAX_FILENAME: usize = 255;
const MAX_PARAMETERS: usize = 10;
const MAX_TOKEN: usize = 127;
const MAX_CONTENT_ID: usize = 200;

/// A part that is ready to be built.
pub(super) struct Attachment {
    /// Folded value of Content-Type.
    pub(super) content_type: String,
    /// Folded value of Content-Disposition.
    pub(super) disposition: String,
    /// Without angle brackets; makes it an inline part.
    pub(super) content_id: Option<String>,
    pub(super) octets: Vec<u8>,
}

/// Decodes and checks each one; a fault names its index. The base64 of each goes as soon as it is decoded.
pub(super) fn read(inputs: Vec<AttachmentInput>, warnings: &mut Warnings, faults: &mut Faults) -> Vec<Attachment> {
    if inputs.len() > MAX_ATTACHMENTS {
        faults.push(FieldError::at("/attachments", format!("more than {MAX_ATTACHMENTS} attachments")));
        return Vec::new();
    }
    duplicate_ids(&inputs, faults);
    let mut found = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.into_iter().enumerate() {
        let mut fault =
            |field: &str, detail: String| faults.push(FieldError::at(format!("/attachments/{index}/{field}"), detail));
        let octets = STANDARD.decode(&input.content).map_err(|error| fault("content", not_base64(&error)));
        let media = MediaType::parse(&input.content_type).map_err(|detail| fault("content_type", detail));
        let filename = input.filename.as_deref().map(check_filename).transpose().map_err(|d| fault("filename", d));
        let id = input.content_id.as_deref().map(check_content_id).transpose().map_err(|d| fault("content_id", d));
        let (Ok(octets), Ok(media), Ok(filename), Ok(content_id)) = (octets, media, filename, id) else { continue };
        let media = media.for_base64(index, warnings);
        let kind = if content_id.is_some() { "inline" } else { "attachment" };
        let name: Vec<_> = filename.map(|name| ("filename".to_owned(), name.to_owned())).into_iter().collect();
        found.push(Attachment {
            content_type: media.field(filename),
            disposition: parameters("Content-Disposition", kind, &name),
            content_id: content_id.map(str::to_owned),
            octets,
        });
    }
    found
}

fn not_base64(error: &base64::DecodeError) -> String {
    format!("is not base64 ({error}): use the standard alphabet with padding, without line breaks (RFC 4648 4)")
}

fn duplicate_ids(inputs: &[AttachmentInput], faults: &mut Faults) {
    let mut seen = HashSet::new();
    for (index, input) in inputs.iter().enumerate() {
        if input.content_id.as_ref().is_some_and(|id| !seen.insert(id)) {
            let detail = "another attachment has this content_id (RFC 2392 2: it names one part)";
            faults.push(FieldError::at(format!("/attachments/{index}/content_id"), detail));
        }
    }
}

/// Path separators are kept: what a receiver makes of a name is its own matter (RFC 2183 2.3), and a changed name is no kept name.
fn check_filename(name: &str) -> Result<&str, String> {
    let name = without_bom(name);
    if name.contains(char::is_control) {
        return Err("CR, LF, NUL and other control characters are not allowed".to_owned());
    }
    if name.trim().is_empty() || name.chars().count() > MAX_FILENAME {
        return Err(format!("a file name has 1 to {MAX_FILENAME} characters"));
    }
    Ok(name)
}

/// RFC 2392 2: the url-decoded `cid:` is the Content-ID without angle brackets. `id-left [@ id-right]` of atext and dots; we do not
/// ask for the `@`, since `cid:logo` is what people write and every reader resolves it.
fn check_content_id(id: &str) -> Result<&str, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.@".contains(c);
    let ends = |c: char| c == '.' || c == '@';
    if id.is_empty()
        || id.len() > MAX_CONTENT_ID
        || !id.chars().all(allowed)
        || id.matches('@').count() > 1
        || id.starts_with(ends)
        || id.ends_with(ends)
    {
        return Err(format!(
            "a content_id has 1 to {MAX_CONTENT_ID} of letters, digits and .!#$%&'*+-/=?^_`{{|}}~ with at most one @ inside, without angle brackets (RFC 2392 2)"
        ));
    }
    Ok(id)
}

/// A media type with its parameters (RFC 2045 5.1).
struct MediaType {
    essence: String,
    parameters: Vec<(String, String)>,
}

impl MediaType {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || "must be a media type such as application/pdf or text/csv; charset=utf-8 (RFC 2045 5.1)".to_owned();
        if text.len() > MAX_CONTENT_TYPE {
            return Err(format!("is over {MAX_CONTENT_TYPE} octets"));
        }
        if text.contains(char::is_control) {
            return Err("CR, LF, NUL and other control characters are not allowed".to_owned());
        }
        let (essence, mut rest) = text.split_at(text.find(';').unwrap_or(text.len()));
        let essence = essence.trim_matches(' ').to_ascii_lowercase();
        let (kind, subtype) = essence.split_once('/').ok_or_else(wrong)?;
        if ![kind, subtype].iter().all(|t| is_token(t) && t.len() <= MAX_TOKEN) {
            return Err(wrong());
        }
        if kind == "multipart" {
            return Err("multipart types are built by us: give each part as an attachment".to_owned());
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        while let Some(after) = rest.strip_prefix(';') {
            let (name, value, tail) = parameter(after.trim_start_matches(' ')).ok_or_else(wrong)?;
            let name = name.to_ascii_lowercase();
            if parameters.iter().any(|(n, _)| *n == name) || parameters.len() == MAX_PARAMETERS {
                return Err(format!("parameter {name:?} is given twice or is one too many"));
            }
            parameters.push((name, value));
            rest = tail.trim_start_matches(' ');
        }
        if rest.is_empty() { Ok(Self { essence, parameters }) } else { Err(wrong()) }
    }

    /// message/* may not be base64 (RFC 2046 5.2.1), and as 7bit a relay could change what the signature covers.
    fn for_base64(self, index: usize, warnings: &mut Warnings) -> Self {
        if !self.essence.starts_with("message/") {
            return self;
        }
        let essence = self.essence;
        warnings.push(format!(
            "attachments/{index}: sent as application/octet-stream, since {essence} may not be base64 (RFC 2046 5.2.1)"
        ));
        Self { essence: "application/octet-stream".to_owned(), parameters: Vec::new() }
    }

    /// The folded value of Content-Type. `name` is there for readers that do not look at Content-Disposition.
    fn field(mut self, filename: Option<&str>) -> String {
        if let Some(filename) = filename {
            self.parameters.retain(|(name, _)| name != "name");
            self.parameters.push(("name".to_owned(), filename.to_owned()));
        }
        parameters("Content-Type", &self.essence, &self.parameters)
    }
}

/// `name=token` or `name="quoted string"`: name, value, and what follows.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    if !is_token(name) || name.contains(['*', '\'', '%']) || name.len() > 40 {
        return None;
    }
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, tail) = rest.split_at(rest.find([';', ' ']).unwrap_or(rest.len()));
        return is_token(value).then(|| (name, value.to_owned(), tail));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((name, value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// Warnings for `cid:` URLs without a part, and for parts that nothing refers to (RFC 2392, RFC 2387).
pub(super) fn check_references(html: Option<&str>, attachments: &[Attachment], warnings: &mut Warnings) {
    let ids: BTreeSet<&str> = attachments.iter().filter_map(|a| a.content_id.as_deref()).collect();
    let Some(html) = html else {
        for id in ids {
            warnings.push(format!("{id}: there is no html to show it in, it is sent as an attachment"));
        }
        return;
    };
    let mut referred: HashSet<&str> = HashSet::new();
    for id in referred_ids(html) {
        match ids.get(id.as_str()) {
            Some(known) => {
                referred.insert(known);
            }
            None => {
                let shown: String = id.chars().take(MAX_CONTENT_ID).collect();
                warnings.push(format!("html refers to cid:{shown}, but no attachment has this content_id"));
            }
        }
    }
    for id in ids.iter().filter(|id| !referred.contains(**id)) {
        warnings.push(format!("html does not refer to cid:{id}"));
    }
}

/// The ids of all `cid:` URLs in an attribute or a `url(...)`, url-decoded. What stands inside one is not looked at again, so that
/// the whole takes linear time and memory.
fn referred_ids(html: &str) -> impl Iterator<Item = String> {
    let octets = html.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            at += octets.get(at..)?.iter().position(|octet| *octet == b':')? + 1;
            if !begins_url(&octets[..at - 1]) {
                continue;
            }
            let rest = &octets[at..];
            let ends = |b: &u8| b.is_ascii_whitespace() || b.is_ascii_control() || b"\"'()<>".contains(b);
            let url = &rest[..rest.iter().position(ends).unwrap_or(rest.len())];
            at += url.len();
            if !url.is_empty() {
                return Some(percent_decoded(url).replace("&amp;", "&"));
            }
        }
    })
}

/// True where what stands before a colon ends in the scheme `cid` at the beginning of a value.
fn begins_url(before: &[u8]) -> bool {
    let Some((rest, scheme)) = before.split_last_chunk::<3>() else { return false };
    scheme.eq_ignore_ascii_case(b"cid") && matches!(rest.last(), Some(b'"' | b'\'' | b'(' | b'=' | b' '))
}

/// RFC 3986 2.1; a stray `%` stands for itself.
fn percent_decoded(octets: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(octets.len());
    let mut rest = octets;
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex.filter(|_| *first == b'%') {
            Some(octet) => {
                decoded.push(octet);
                rest = &tail[2..];
            }
            None => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
