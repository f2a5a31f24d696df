//! Messages: send and read. What a message looks like as an answer; `request` holds what one looks like as a request.
mod request;

use crate::body::JsonBody;
use crate::caller::{Authorized, MessagesRead, MessagesSend};
use crate::idempotency::{IdempotencyKey, Submission, submit};
use crate::openapi::problems;
use crate::page::{Page, timestamp};
use crate::path::{EventId, Id, MessageId};
use crate::problem::{Fault, Problem};
use crate::query::{FromParams, Paging, Params, Query};
use crate::router::ApiState;
use axum::Json;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use request::SendMessage;
use serde::Serialize;
use signpost_engine::ids;
use signpost_engine::messages::MessageView;
use signpost_engine::rows::{EventRow, RecipientRow, SignatureRow};
use utoipa::{IntoParams, ToSchema};

/// Where a message stands; `partial`: its recipients ended differently.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum MessageStatus {
    Scheduled,
    AwaitingSignature,
    Held,
    Queued,
    Sending,
    Deferred,
    Delivered,
    Bounced,
    Expired,
    Suppressed,
    Cancelled,
    Partial,
}

/// The values of `MessageStatus`; a test holds the two together.
const MESSAGE_STATUSES: [&str; 12] = [
    "scheduled",
    "awaiting_signature",
    "held",
    "queued",
    "sending",
    "deferred",
    "delivered",
    "bounced",
    "expired",
    "suppressed",
    "cancelled",
    "partial",
];

/// Where one recipient stands.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum RecipientStatus {
    Scheduled,
    AwaitingSignature,
    Held,
    Queued,
    Sending,
    Deferred,
    Delivered,
    Bounced,
    Expired,
    Suppressed,
    Cancelled,
}

/// The a= of a signature.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum SignatureAlgorithm {
    #[schema(rename = "rsa-sha256")]
    RsaSha256,
    #[schema(rename = "ed25519-sha256")]
    Ed25519Sha256,
}

/// What happened.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum EventType {
    #[schema(rename = "message.accepted")]
    MessageAccepted,
    #[schema(rename = "message.signed")]
    MessageSigned,
    #[schema(rename = "message.queued")]
    MessageQueued,
    #[schema(rename = "message.deferred")]
    MessageDeferred,
    #[schema(rename = "message.delayed")]
    MessageDelayed,
    #[schema(rename = "message.delivered")]
    MessageDelivered,
    #[schema(rename = "message.bounced")]
    MessageBounced,
    #[schema(rename = "message.expired")]
    MessageExpired,
    #[schema(rename = "message.complained")]
    MessageComplained,
    #[schema(rename = "message.suppressed")]
    MessageSuppressed,
    #[schema(rename = "message.cancelled")]
    MessageCancelled,
    #[schema(rename = "message.held")]
    MessageHeld,
    #[schema(rename = "domain.created")]
    DomainCreated,
    #[schema(rename = "domain.verified")]
    DomainVerified,
    #[schema(rename = "domain.check_failed")]
    DomainCheckFailed,
    #[schema(rename = "domain.ownership_lost")]
    DomainOwnershipLost,
    #[schema(rename = "domain.signing_suspended")]
    DomainSigningSuspended,
    #[schema(rename = "domain.signing_resumed")]
    DomainSigningResumed,
    #[schema(rename = "domain.deleted")]
    DomainDeleted,
    #[schema(rename = "key.created")]
    KeyCreated,
    #[schema(rename = "key.published")]
    KeyPublished,
    #[schema(rename = "key.activated")]
    KeyActivated,
    #[schema(rename = "key.rotation_waiting")]
    KeyRotationWaiting,
    #[schema(rename = "key.retired")]
    KeyRetired,
    #[schema(rename = "key.revoked")]
    KeyRevoked,
    #[schema(rename = "key.unavailable")]
    KeyUnavailable,
}

/// A DKIM signature on a message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Signature {
    /// d=
    domain: String,
    /// s=
    selector: String,
    /// a=
    #[schema(value_type = SignatureAlgorithm)]
    algorithm: String,
}

impl From<&SignatureRow> for Signature {
    fn from(row: &SignatureRow) -> Self {
        Self { domain: row.domain.clone(), selector: row.selector.clone(), algorithm: row.algorithm.clone() }
    }
}

/// A recipient of a message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Recipient {
    #[schema(pattern = "^rcp_[0-9a-f]{32}$")]
    id: String,
    address: String,
    #[schema(value_type = RecipientStatus)]
    status: String,
    /// Attempts made.
    attempts: i64,
    /// An attempt ended without a reply to the final dot: it may have been delivered.
    uncertain: bool,
    /// Last SMTP reply or connection error.
    #[schema(required = true)]
    last_reply: Option<String>,
    #[schema(format = DateTime, required = true)]
    next_attempt_at: Option<String>,
}

impl From<&RecipientRow> for Recipient {
    fn from(row: &RecipientRow) -> Self {
        Self {
            id: ids::public("rcp", &row.id),
            address: row.address.clone(),
            status: row.status.clone(),
            attempts: row.attempts,
            uncertain: row.uncertain,
            last_reply: row.last_reply.clone(),
            next_attempt_at: row.next_attempt_at.map(timestamp),
        }
    }
}

/// A message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Message {
    #[schema(pattern = "^msg_[0-9a-f]{32}$")]
    id: String,
    /// Message-ID with angle brackets.
    message_id: String,
    #[schema(value_type = MessageStatus)]
    status: String,
    /// From as shown.
    from: String,
    /// Decoded.
    subject: String,
    /// Octets of what is sent.
    size: i64,
    /// Empty while unsigned.
    signatures: Vec<Signature>,
    recipients: Vec<Recipient>,
    #[schema(value_type = Vec<String>)]
    tags: serde_json::Value,
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    metadata: serde_json::Value,
    /// Things worth knowing that are no errors.
    #[schema(value_type = Vec<String>)]
    warnings: serde_json::Value,
    /// Why it waits, while `held` or `awaiting_signature`.
    #[schema(required = true)]
    waiting_reason: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<&MessageView> for Message {
    fn from((row, recipients): &MessageView) -> Self {
        Self {
            id: ids::public("msg", &row.id),
            message_id: row.message_id.clone(),
            status: row.status.clone(),
            from: row.from.clone(),
            subject: row.subject.clone(),
            size: row.size,
            signatures: row.signatures.iter().map(Signature::from).collect(),
            recipients: recipients.iter().map(Recipient::from).collect(),
            tags: row.tags.clone(),
            metadata: row.metadata.clone(),
            warnings: row.warnings.clone(),
            waiting_reason: row.waiting_reason.clone(),
            created_at: timestamp(row.created_at),
        }
    }
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Event {
    #[schema(pattern = "^evt_[0-9a-f]{32}$")]
    id: String,
    #[serde(rename = "type")]
    #[schema(value_type = EventType)]
    kind: String,
    #[schema(format = DateTime)]
    at: String,
    /// The message, `msg_...`.
    #[schema(required = true)]
    message_id: Option<String>,
    /// The recipient, `rcp_...`.
    #[schema(required = true)]
    recipient: Option<String>,
    /// The domain's name.
    #[schema(required = true)]
    domain: Option<String>,
    #[schema(value_type = Object)]
    details: serde_json::Value,
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
        Self {
            id: ids::public("evt", &row.id),
            kind: row.kind,
            at: timestamp(row.at),
            message_id: row.message_id.map(|id| ids::public("msg", &id)),
            recipient: row.recipient_id.map(|id| ids::public("rcp", &id)),
            domain: row.domain,
            details: row.details,
        }
    }
}

/// A page of it.
pub(crate) type EventPage = Page<Event>;
/// A page of it.
pub(crate) type MessagePage = Page<Message>;

problems! { pub(crate) SendProblems:
    DomainNotAllowed SigningNotEnabled SigningSuspended IdempotencyInFlight IdempotencyMismatch Busy
    InvalidRequest MalformedJson MessageTooLarge UnsupportedMediaType IncompleteBody Timeout KeyUnavailable
}
problems! { ListProblems: InvalidRequest }
problems! { ReadProblems: NotFound InvalidRequest }

/// Send a message
///
/// Scope `messages:send`. The message is built, signed and committed before the 202; delivery follows.
/// While the signing key cannot be used it is accepted as `awaiting_signature`, while the published key is wrong as `held`.
#[utoipa::path(post, path = "/v1/messages", operation_id = "sendMessage", tag = "Messages", security(("bearer" = ["messages:send"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters; the same request with the same key is done once within 7 days", min_length = 1, max_length = 255)),
    request_body = SendMessage,
    responses((status = 202, description = "Accepted and committed.", body = Message,
        headers(("idempotent-replayed" = String, description = "`true` where this is the answer of an earlier request with the same Idempotency-Key"))), SendProblems))]
pub(crate) async fn send_message(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<MessagesSend>,
    key: IdempotencyKey,
    Query(()): Query<()>,
    JsonBody { value, octets }: JsonBody<SendMessage>,
) -> Response {
    submit(state.engine, caller, key, octets, Submission::Composed(Box::new(value.into()))).await
}

/// Query of the message list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MessageQuery {
    /// Only messages of this status.
    #[param(value_type = Option<MessageStatus>, inline)]
    status: Option<String>,
}

impl FromParams for MessageQuery {
    fn from_params(params: &mut Params) -> Result<Self, Fault> {
        let status = params.one("status")?;
        match status.as_deref() {
            Some(given) if !MESSAGE_STATUSES.contains(&given) => {
                Err(Fault::in_parameter("status", format!("`status` is one of {}.", MESSAGE_STATUSES.join(", "))))
            }
            None | Some(_) => Ok(Self { status }),
        }
    }
}

/// List messages
///
/// Scope `messages:read`. Newest first.
#[utoipa::path(get, path = "/v1/messages", operation_id = "listMessages", tag = "Messages", security(("bearer" = ["messages:read"])),
    params(MessageQuery, Paging), responses((status = 200, description = "A page of messages.", body = MessagePage), ListProblems))]
pub(crate) async fn list_messages(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<MessagesRead>,
    Query((query, paging)): Query<(MessageQuery, Paging)>,
) -> Result<Json<MessagePage>, Problem> {
    let after = paging.after::<MessageId>()?;
    let page = state.engine.messages(&caller, query.status.as_deref(), after, paging.limit).await?;
    Ok(Json(Page::of::<MessageId, _>(page, |view| Message::from(&view))))
}

/// Get a message
///
/// Scope `messages:read`.
#[utoipa::path(get, path = "/v1/messages/{id}", operation_id = "getMessage", tag = "Messages", security(("bearer" = ["messages:read"])),
    params(("id" = String, Path, description = "Id of the message, `msg_...`")),
    responses((status = 200, description = "The message.", body = Message), ReadProblems))]
pub(crate) async fn get_message(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<MessagesRead>,
    Id(id, ..): Id<MessageId>,
    Query(()): Query<()>,
) -> Result<Json<Message>, Problem> {
    Ok(Json(Message::from(&state.engine.message(&caller, &id).await?)))
}

/// Get the octets of a message
///
/// Scope `messages:read`. As sent, with its DKIM-Signature.
#[utoipa::path(get, path = "/v1/messages/{id}/raw", operation_id = "getMessageRaw", tag = "Messages", security(("bearer" = ["messages:read"])),
    params(("id" = String, Path, description = "Id of the message, `msg_...`")),
    responses((status = 200, description = "The message.", body = String, content_type = "message/rfc822"), ReadProblems))]
pub(crate) async fn get_message_raw(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<MessagesRead>,
    Id(id, ..): Id<MessageId>,
    Query(()): Query<()>,
) -> Result<Response, Problem> {
    let raw = state.engine.message_raw(&caller, &id).await?;
    Ok(([(CONTENT_TYPE, "message/rfc822"), (CONTENT_DISPOSITION, "attachment")], raw).into_response())
}

/// Events of a message
///
/// Scope `messages:read`. Oldest first.
#[utoipa::path(get, path = "/v1/messages/{id}/events", operation_id = "listMessageEvents", tag = "Messages", security(("bearer" = ["messages:read"])),
    params(("id" = String, Path, description = "Id of the message, `msg_...`"), Paging),
    responses((status = 200, description = "A page of events.", body = EventPage), ReadProblems))]
pub(crate) async fn list_message_events(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<MessagesRead>,
    Id(id, ..): Id<MessageId>,
    Query(paging): Query<Paging>,
) -> Result<Json<EventPage>, Problem> {
    let page = state.engine.message_events(&caller, &id, paging.after::<EventId>()?, paging.limit).await?;
    Ok(Json(Page::of::<EventId, _>(page, Event::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_filter_takes_what_the_document_lists() {
        let document: serde_json::Value = serde_json::from_str(&crate::openapi_json()).unwrap();
        let listed = &document["components"]["schemas"]["MessageStatus"]["enum"];
        assert_eq!(*listed, serde_json::json!(MESSAGE_STATUSES));
    }
}
