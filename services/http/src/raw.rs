//! POST /messages/raw: a message that the caller built.
use crate::body::{JsonBody, Limits, media_type, read, unsupported};
use crate::caller::{Authorized, MessagesSend};
use crate::idempotency::{IdempotencyKey, Submission, submit};
use crate::json::Bounded;
use crate::messages::{Message, SendProblems};
use crate::problem::{Fault, Problem};
use crate::query::{FromParams, Params, Query};
use crate::router::ApiState;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use signpost_engine::messages::raw::RawEnvelope;
use utoipa::{IntoParams, ToSchema};

/// A raw message in JSON.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMessage {
    /// The message in base64 (RFC 4648 section 4, padded, without line breaks).
    #[schema(format = Byte)]
    raw: String,
    /// Envelope recipients; To, Cc and Bcc of the message unless given.
    #[schema(value_type = Option<Vec<String>>)]
    rcpt: Option<Bounded<String, 1_000>>,
    /// Envelope sender; made by the service unless given.
    mail_from: Option<String>,
}

/// The envelope beside a `message/rfc822` body.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EnvelopeQuery {
    /// Envelope recipient; may be repeated. To, Cc and Bcc of the message unless given.
    #[param(required = false)]
    rcpt: Vec<String>,
    /// Envelope sender; made by the service unless given.
    mail_from: Option<String>,
}

impl FromParams for EnvelopeQuery {
    fn from_params(params: &mut Params) -> Result<Self, Fault> {
        Ok(Self { rcpt: params.all("rcpt"), mail_from: params.one("mail_from")? })
    }
}

/// Empty values count as not given.
fn envelope(rcpt: Vec<String>, mail_from: Option<String>) -> RawEnvelope {
    RawEnvelope { rcpt: (!rcpt.is_empty()).then_some(rcpt), mail_from: mail_from.filter(|address| !address.is_empty()) }
}

/// Send a message as it is
///
/// Scope `messages:send`. LF line ends become CRLF; Return-Path, Bcc and Resent-Bcc are removed; a missing Date or Message-ID is added;
/// everything else is kept or refused, with the field's name and line. The query parameters belong to a `message/rfc822` body; in JSON they are fields.
#[utoipa::path(post, path = "/v1/messages/raw", operation_id = "sendRawMessage", tag = "Messages", security(("bearer" = ["messages:send"])),
    params(EnvelopeQuery, ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters; the same request with the same key is done once within 7 days", min_length = 1, max_length = 255)),
    request_body(content((String = "message/rfc822"), (RawMessage = "application/json"))),
    responses((status = 202, description = "Accepted and committed.", body = Message,
        headers(("idempotent-replayed" = String, description = "`true` where this is the answer of an earlier request with the same Idempotency-Key"))), SendProblems))]
pub(crate) async fn send_raw_message(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<MessagesSend>,
    key: IdempotencyKey,
    Query(query): Query<EnvelopeQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let limits = state.limits;
    let (octets, submission) = match media_type(request.headers()).as_str() {
        "message/rfc822" => {
            let octets = read(request.into_body(), limits.max_message).await?;
            (octets.clone(), Submission::Raw(octets, envelope(query.rcpt, query.mail_from)))
        }
        "application/json" => from_json(read(request.into_body(), limits.max_json).await?, query, limits).await?,
        _ => return Err(unsupported("message/rfc822` or `Content-Type: application/json")),
    };
    Ok(submit(state.engine, caller, key, octets, submission).await)
}

async fn from_json(octets: Bytes, query: EnvelopeQuery, limits: Limits) -> Result<(Bytes, Submission), Problem> {
    let beside = if query.rcpt.is_empty() { query.mail_from.map(|_| "mail_from") } else { Some("rcpt") };
    if let Some(name) = beside {
        return Err(Problem::invalid(vec![Fault::in_parameter(
            name,
            format!("With a JSON body `{name}` is a field of the body; leave it out of the query."),
        )]));
    }
    let JsonBody { value, octets } = JsonBody::<RawMessage>::parse(octets).await?;
    let raw = decode(&value.raw, limits)?;
    Ok((octets, Submission::Raw(raw.into(), envelope(value.rcpt.unwrap_or_default().0, value.mail_from))))
}

fn decode(text: &str, limits: Limits) -> Result<Vec<u8>, Problem> {
    let raw = STANDARD.decode(text).map_err(|error| {
        let detail = format!("Not base64 (RFC 4648 section 4, padded, without line breaks): {error}.");
        Problem::invalid(vec![Fault::at("/raw", detail)])
    })?;
    if raw.len() as u64 > limits.max_message { Err(Problem::too_large(limits.max_message)) } else { Ok(raw) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_json_form_is_checked() {
        let limits = Limits::for_message(25);
        for (body, status, part) in [
            (r#"{"raw":"RnJvbTo="}"#, 200, ""),
            (r#"{"raw":"RnJvbTo=","rcpt":null,"mail_from":null}"#, 200, ""),
            (r#"{"raw":"RnJvbTo"}"#, 422, "/raw"),
            (r#"{"raw":"Rn\nJvbTo="}"#, 422, "/raw"),
            (r#"{"raw":"Rn-_bTo="}"#, 422, "/raw"),
            (r#"{"raw":7}"#, 422, "/raw"),
            (r#"{"raw":"RnJvbTo=","rcpt":"b@example.net"}"#, 422, "/rcpt"),
            (r#"{"raw":"RnJvbTo=","rcpt":[1]}"#, 422, "/rcpt/0"),
            (r#"{"raw":"RnJvbTo=","to":[]}"#, 422, "/to"),
            ("{}", 422, "/raw"),
            ("{", 400, "malformed"),
            (r#"{"raw":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQQ=="}"#, 413, "25"),
        ] {
            let query = EnvelopeQuery { rcpt: vec![], mail_from: None };
            match from_json(Bytes::from(body), query, limits).await {
                Ok(_) => assert_eq!(status, 200, "{body}"),
                Err(problem) => {
                    assert_eq!(problem.kind.status().as_u16(), status, "{body}");
                    assert!(String::from_utf8(problem.render("r")).unwrap().contains(part), "{body}");
                }
            }
        }
    }

    #[tokio::test]
    async fn an_envelope_in_the_query_of_a_json_body_is_refused() {
        let query = EnvelopeQuery { rcpt: vec!["b@example.net".into()], mail_from: None };
        let limits = Limits::for_message(25_000_000);
        let problem = from_json(Bytes::from(r#"{"raw":"RnJvbTo="}"#), query, limits).await.unwrap_err();
        assert_eq!(problem.kind.status().as_u16(), 422);
    }

    #[test]
    fn empty_envelope_values_count_as_not_given() {
        let given = envelope(vec![], Some(String::new()));
        assert!(given.rcpt.is_none() && given.mail_from.is_none());
        let given = envelope(vec!["b@example.net".into()], Some("a@example.com".into()));
        assert_eq!(given.rcpt.as_deref(), Some(&["b@example.net".to_owned()][..]));
        assert_eq!(given.mail_from.as_deref(), Some("a@example.com"));
    }
}
