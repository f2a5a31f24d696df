//! POST /sign: a signature for a message that the caller sends itself.
use crate::body::{media_type, read, unsupported};
use crate::caller::{Authorized, Sign};
use crate::messages::Signature;
use crate::openapi::problems;
use crate::problem::{Problem, ProblemType};
use crate::query::Query;
use crate::router::ApiState;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use signpost_engine::messages::SignedMessage;
use utoipa::ToSchema;

/// What to put before the message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignedAnswer {
    /// Header fields with folds and final CRLF, to stand before the message in this order. With dual signing two, RSA first.
    prepend: Vec<String>,
    /// The same as data.
    signatures: Vec<Signature>,
}

problems! { SignProblems:
    DomainNotAllowed SigningNotEnabled SigningSuspended InvalidRequest MessageTooLarge UnsupportedMediaType NotAcceptable IncompleteBody Timeout KeyUnavailable
}

/// Sign a message
///
/// Scope `sign`. Nothing of the message is changed; what would have to be changed (LF line ends, Bcc, Return-Path, ...) is a 422.
/// `Accept: message/rfc822` answers with the signed message, `application/json` (the default) with the fields to prepend.
#[utoipa::path(post, path = "/v1/sign", operation_id = "signMessage", tag = "Messages", security(("bearer" = ["sign"])),
    request_body(content = String, content_type = "message/rfc822", description = "The message with CRLF line ends"),
    responses((status = 200, description = "The signature.", content((SignedAnswer = "application/json"), (String = "message/rfc822"))), SignProblems))]
pub(crate) async fn sign_message(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<Sign>,
    Query(()): Query<()>,
    request: Request,
) -> Result<Response, Problem> {
    let representation = Representation::wanted(request.headers())?;
    if media_type(request.headers()) != "message/rfc822" {
        return Err(unsupported("message/rfc822"));
    }
    let octets = read(request.into_body(), state.limits.max_message).await?;
    let signed = state.engine.sign(&caller, octets.into()).await?;
    Ok(representation.show(signed))
}

/// How the caller wants the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Representation {
    Fields,
    Message,
}

impl Representation {
    /// Negotiated by Accept (RFC 9110 12.5.1); JSON where both are equally welcome.
    fn wanted(headers: &HeaderMap) -> Result<Self, Problem> {
        let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let ranges: Vec<Range<'_>> =
            accept.iter().flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
        if ranges.is_empty() {
            return Ok(Self::Fields);
        }
        match (quality(&ranges, "application", "json"), quality(&ranges, "message", "rfc822")) {
            (0, 0) => Err(Problem::new(
                ProblemType::NotAcceptable,
                "This call answers `application/json` or `message/rfc822`; accept one of them.",
            )),
            (json, message) if json >= message => Ok(Self::Fields),
            (_, _) => Ok(Self::Message),
        }
    }

    fn show(self, signed: SignedMessage) -> Response {
        match self {
            Self::Fields => Json(SignedAnswer {
                prepend: signed.prepend,
                signatures: signed.signatures.iter().map(Signature::from).collect(),
            })
            .into_response(),
            Self::Message => {
                let mut message = signed.prepend.concat().into_bytes();
                message.extend_from_slice(&signed.raw);
                ([(CONTENT_TYPE, "message/rfc822")], message).into_response()
            }
        }
    }
}

/// One media range of Accept with its quality in thousandths.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    quality: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let given = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let quality = match given.map(str::parse::<f32>) {
            None => 1_000,
            Some(Ok(q)) if (0.0..=1.0).contains(&q) => thousandths(q),
            Some(Ok(_) | Err(_)) => return None,
        };
        Some(Self { kind, subtype, quality })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0.0 to 1.0 becomes 0 to 1000")]
fn thousandths(q: f32) -> u16 {
    (q * 1_000.0).round() as u16
}

/// The quality of the most specific range that fits; 0 without one.
fn quality(ranges: &[Range<'_>], kind: &str, subtype: &str) -> u16 {
    let fit = |range: &Range<'_>| match (range.kind, range.subtype) {
        ("*", "*") => Some(0),
        (k, "*") if k.eq_ignore_ascii_case(kind) => Some(1),
        (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(subtype) => Some(2),
        (_, _) => None,
    };
    ranges.iter().filter_map(|range| fit(range).map(|specific| (specific, range.quality))).max().map_or(0, |(_, q)| q)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn accept_is_negotiated() {
        use Representation::{Fields, Message};
        for (accept, expected) in [
            (None, Some(Fields)),
            (Some("*/*"), Some(Fields)),
            (Some("application/json"), Some(Fields)),
            (Some("message/rfc822"), Some(Message)),
            (Some("Message/RFC822"), Some(Message)),
            (Some("message/*"), Some(Message)),
            (Some("message/rfc822, */*;q=0.1"), Some(Message)),
            (Some("message/rfc822;q=0.5, application/json"), Some(Fields)),
            (Some("application/json;q=0, */*"), Some(Message)),
            (Some("text/html"), None),
            (Some("application/json;q=0"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = accept {
                headers.insert(ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(Representation::wanted(&headers).ok(), expected, "{accept:?}");
        }
    }
}
