//! The tree of parts (RFC 2046 5.1, RFC 2387), built by mail-builder.
use super::attachments::Attachment;
use super::quoted::{Encoded, encode};
use super::without_bom;
use crate::Error;
use crate::messages::request::ComposeContext;
use mail_builder::MessageBuilder;
use mail_builder::headers::HeaderType;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};
use std::borrow::Cow;

/// A boundary that is not met by chance is found at once; more tries than this mean that the rng is broken.
const TRIES: usize = 4;

/// A boundary and how many parts it separates.
struct Boundary {
    text: String,
    parts: usize,
}

/// `mixed(alternative(text, related(html, inline...)), attachment...)`, each wrapper only where it has two children or more.
/// `header` holds finished fields; MIME-Version and the body are added.
pub(super) fn build(
    header: String,
    text: Option<&str>,
    html: Option<&str>,
    attachments: &[Attachment],
    context: &ComposeContext<'_>,
) -> Result<Vec<u8>, Error> {
    for _ in 0..TRIES {
        let mut boundaries = Vec::new();
        let tree = tree(text, html, attachments, &mut boundaries, context);
        let mut raw = Vec::with_capacity(header.len() + about(text, html, attachments));
        raw.extend_from_slice(header.as_bytes());
        raw.extend_from_slice(b"MIME-Version: 1.0\r\n");
        MessageBuilder::new().body(tree).serialize_body(&mut raw);
        if boundaries_hold(&raw, &boundaries) {
            return Ok(raw);
        }
    }
    Err(Error::Internal("no boundary was found that the content does not hold".to_owned()))
}

/// Octets of the body, rather too many than too few: a large message that outgrows its memory is copied.
fn about(text: Option<&str>, html: Option<&str>, attachments: &[Attachment]) -> usize {
    let texts = 2 * (text.map_or(0, str::len) + html.map_or(0, str::len));
    // Base64: lines of 76 for 57 octets (RFC 2045 6.8).
    let files =
        attachments.iter().map(|a| a.octets.len() / 57 * 78 + a.content_type.len() + a.disposition.len() + 1_000);
    texts + files.sum::<usize>() + 2_000
}

/// RFC 2046 5.1.1: a boundary delimiter must not appear in the content. Counted in the octets as they will be sent.
fn boundaries_hold(raw: &[u8], boundaries: &[Boundary]) -> bool {
    let mut seen = vec![0; boundaries.len()];
    for line in raw.split(|octet| *octet == b'\n').filter_map(|line| line.strip_prefix(b"--")) {
        for (count, boundary) in seen.iter_mut().zip(boundaries) {
            *count += usize::from(line.starts_with(boundary.text.as_bytes()));
        }
    }
    seen.iter().zip(boundaries).all(|(count, boundary)| *count == boundary.parts + 1)
}

fn tree<'x>(
    text: Option<&'x str>,
    html: Option<&'x str>,
    attachments: &'x [Attachment],
    boundaries: &mut Vec<Boundary>,
    context: &ComposeContext<'_>,
) -> MimePart<'x> {
    // a part that ends the message needs a last line end; before a boundary it would add to what was posted
    let close = attachments.is_empty() && (text.is_none() || html.is_none());
    // inline parts belong to the html text; where there is none they are attachments
    let (inline, attached): (Vec<_>, Vec<_>) =
        attachments.iter().partition(|a| a.content_id.is_some() && html.is_some());
    let mut wrap = |subtype, parts| multipart(subtype, parts, boundaries, context);
    let html = html.map(|html| {
        let parts = std::iter::once(text_part("html", html, close)).chain(inline.into_iter().map(file_part));
        wrap("related", parts.collect())
    });
    let texts = text.map(|text| text_part("plain", text, close)).into_iter().chain(html).collect();
    let body = wrap("alternative", texts);
    wrap("mixed", std::iter::once(body).chain(attached.into_iter().map(file_part)).collect())
}

/// The parts under a boundary of 135 random bits; a single part needs none. `=_` occurs neither in base64 nor in quoted-printable.
fn multipart<'x>(
    subtype: &'static str,
    mut parts: Vec<MimePart<'x>>,
    boundaries: &mut Vec<Boundary>,
    context: &ComposeContext<'_>,
) -> MimePart<'x> {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return only;
    }
    let boundary = format!("=_{}", crate::ids::random_text(context.random, 27));
    boundaries.push(Boundary { text: boundary.clone(), parts: parts.len() });
    let mut content_type = ContentType::new(format!("multipart/{subtype}"));
    if subtype == "related" {
        content_type = content_type.attribute("type", "text/html"); // RFC 2387 3.1
    }
    MimePart::new(content_type.attribute("boundary", boundary), BodyPart::Multipart(parts))
}

fn field<'x>(name: &'static str, value: impl Into<Cow<'x, str>>) -> (Cow<'x, str>, HeaderType<'x>) {
    (name.into(), Raw::new(value).into())
}

fn text_part<'x>(subtype: &str, text: &'x str, close: bool) -> MimePart<'x> {
    let mut headers = vec![field("Content-Type", format!("text/{subtype}; charset=utf-8"))];
    let mut encoding = |name: &'static str| headers.push(field("Content-Transfer-Encoding", name));
    let contents = match encode(without_bom(text), close) {
        Encoded::SevenBit(text) => {
            encoding("7bit");
            BodyPart::Text(text)
        }
        Encoded::QuotedPrintable(text) => {
            encoding("quoted-printable");
            BodyPart::Text(Cow::Owned(text))
        }
        // mail-builder encodes what is binary and names the encoding itself
        Encoded::Base64(Cow::Borrowed(text)) => BodyPart::Binary(Cow::Borrowed(text.as_bytes())),
        Encoded::Base64(Cow::Owned(text)) => BodyPart::Binary(Cow::Owned(text.into_bytes())),
    };
    MimePart { headers, contents }
}

fn file_part(attachment: &Attachment) -> MimePart<'_> {
    let mut headers = vec![
        field("Content-Type", attachment.content_type.as_str()),
        field("Content-Disposition", attachment.disposition.as_str()),
    ];
    if let Some(id) = &attachment.content_id {
        headers.push(field("Content-ID", format!("<{id}>")));
    }
    MimePart { headers, contents: BodyPart::Binary(Cow::Borrowed(&attachment.octets)) }
}
