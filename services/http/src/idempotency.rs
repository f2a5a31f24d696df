//! Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): the same request gets the same answer for 7 days.
use crate::answer::RequestId;
use crate::messages::Message;
use crate::problem::{Fault, PROBLEM_JSON, Problem};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use signpost_engine::messages::raw::RawEnvelope;
use signpost_engine::messages::request::MessageRequest;
use signpost_engine::messages::{Idempotency, MessageView};
use signpost_engine::rows::{Begin, IdempotencyScope, StoredAnswer};
use signpost_engine::{Caller, Engine, Error};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::Instrument;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// A request that is worked on for longer says that it is still there.
const RENEW_EVERY: Duration = Duration::from_secs(5);
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The key of this request, if it has one, and what it is a key for.
#[derive(Debug, Clone)]
pub(crate) struct IdempotencyKey {
    key: Option<String>,
    method: String,
    /// Path with query.
    path: String,
    request_id: String,
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Ok(Self {
            key: header(parts)?,
            method: parts.method.to_string(),
            path: parts.uri.path_and_query().map_or_else(|| parts.uri.path().to_owned(), ToString::to_string),
            request_id: parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default(),
        })
    }
}

/// Printable ASCII, 1 to 255 octets, once.
fn header(parts: &Parts) -> Result<Option<String>, Problem> {
    let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let printable = |octet: &u8| (b' '..=b'~').contains(octet);
    let octets = value.as_bytes();
    if values.next().is_none() && (1..=255).contains(&octets.len()) && octets.iter().all(printable) {
        return Ok(Some(octets.iter().copied().map(char::from).collect()));
    }
    Err(Problem::invalid(vec![Fault::in_parameter(
        "Idempotency-Key",
        "Idempotency-Key is 1 to 255 printable ASCII characters, given once; a UUID serves well.",
    )]))
}

/// What is submitted.
#[derive(Debug)]
pub(crate) enum Submission {
    /// POST /messages.
    Composed(Box<MessageRequest>),
    /// POST /messages/raw.
    Raw(Bytes, RawEnvelope),
}

/// Submits a message and answers. `octets` is the raw request body. The work goes on if the client goes away: a dropped
/// connection must not leave a request half done.
pub(crate) async fn submit(
    engine: Engine,
    caller: Caller,
    key: IdempotencyKey,
    octets: Bytes,
    submission: Submission,
) -> Response {
    let work = async move {
        match key.key.clone() {
            None => {
                drop(octets);
                work(&engine, &caller, submission, None).await.map_or_else(IntoResponse::into_response, accepted)
            }
            Some(text) => {
                let scope = IdempotencyScope {
                    tenant_id: caller.tenant_id.clone(),
                    method: key.method,
                    path: key.path,
                    key: text,
                };
                once(engine, caller, scope, &key.request_id, octets, submission).await
            }
        }
    };
    match tokio::spawn(work.in_current_span()).await {
        Ok(response) => response,
        Err(error) => Problem::internal(&error).into_response(),
    }
}

async fn work(
    engine: &Engine,
    caller: &Caller,
    submission: Submission,
    idempotency: Option<Idempotency<'_>>,
) -> Result<StoredAnswer, Problem> {
    let view = match submission {
        Submission::Composed(request) => engine.send(caller, *request, idempotency).await,
        Submission::Raw(raw, envelope) => engine.send_raw(caller, raw.into(), envelope, idempotency).await,
    };
    Ok(render(&view?))
}

/// The 202 for a message; what is frozen is what is sent.
fn render(view: &MessageView) -> StoredAnswer {
    StoredAnswer {
        status: StatusCode::ACCEPTED.as_u16(),
        content_type: "application/json".to_owned(),
        body: crate::json::to_vec(&Message::from(view)),
    }
}

/// Works on a request with a key unless that was done before.
async fn once(
    engine: Engine,
    caller: Caller,
    scope: IdempotencyScope,
    request_id: &str,
    octets: Bytes,
    submission: Submission,
) -> Response {
    match engine.begin_idempotent(&scope, &octets).await {
        Ok(Begin::Started) => {}
        Ok(Begin::InFlight) => return Problem::from(Error::IdempotencyInFlight).into_response(),
        Ok(Begin::Mismatch) => return Problem::from(Error::IdempotencyMismatch).into_response(),
        Ok(Begin::Replay(answer)) => return replayed(answer),
        Err(error) => return Problem::from(error).into_response(),
    }
    drop(octets);
    let working = {
        let (engine, scope) = (engine.clone(), scope.clone());
        // Its own task, so that a panic is met by `abandon` too and does not leave the key in flight.
        tokio::spawn(
            async move {
                let idempotency = Idempotency { scope, render: &render };
                work(&engine, &caller, submission, Some(idempotency)).await
            }
            .in_current_span(),
        )
    };
    match renewing(&engine, &scope, working).await.unwrap_or_else(|panicked| Err(Problem::internal(&panicked))) {
        Ok(answer) => accepted(answer),
        Err(problem) => {
            settle(&engine, &scope, &problem, request_id).await;
            problem.into_response()
        }
    }
}

/// Waits for the work, and renews the key's row meanwhile.
async fn renewing<T>(
    engine: &Engine,
    scope: &IdempotencyScope,
    mut working: JoinHandle<T>,
) -> Result<T, tokio::task::JoinError> {
    loop {
        if let Ok(done) = timeout(RENEW_EVERY, &mut working).await {
            return done;
        }
        if let Err(error) = engine.renew_idempotent(scope).await {
            tracing::warn!(%error, "a request under an Idempotency-Key could not say that it is still worked on");
        }
    }
}

/// Freezes a refusal that the same request would meet again; forgets the request otherwise, so that it can be repeated.
async fn settle(engine: &Engine, scope: &IdempotencyScope, problem: &Problem, request_id: &str) {
    let result = if problem.kind.freezes() {
        let answer = StoredAnswer {
            status: problem.kind.status().as_u16(),
            content_type: PROBLEM_JSON.to_owned(),
            body: problem.render(request_id),
        };
        engine.finish_idempotent(scope, &answer).await
    } else {
        engine.abandon_idempotent(scope).await
    };
    if let Err(error) = result {
        // The answer stands; until the row lapses, in 20 s, a repetition is told that the first one is in flight.
        tracing::error!(%error, "the idempotency row could not be settled");
    }
}

fn accepted(answer: StoredAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status);
    let content_type = HeaderValue::from_str(&answer.content_type);
    let (Ok(status), Ok(content_type)) = (status, content_type) else {
        return Problem::internal(&"a stored answer has no valid status or content type").into_response();
    };
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn replayed(answer: StoredAnswer) -> Response {
    let mut response = accepted(answer);
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn key(values: &[&[u8]]) -> Result<Option<String>, Problem> {
        let mut request = Request::builder().uri("/v1/messages?a=b");
        for value in values {
            request = request.header(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
        }
        header(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_key_is_printable_ascii_of_1_to_255_octets_given_once() {
        assert_eq!(key(&[]).unwrap(), None);
        assert_eq!(key(&[b"8e03978e-40d5"]).unwrap().as_deref(), Some("8e03978e-40d5"));
        assert_eq!(key(&[b"\"quoted key\""]).unwrap().as_deref(), Some("\"quoted key\""));
        assert!(key(&[&[b'x'; 255]]).unwrap().is_some());
        for wrong in [&[&b""[..]][..], &[&[b'x'; 256]], &[b"caf\xc3\xa9"], &[b"a\tb"], &[b"a", b"b"]] {
            let problem = key(wrong).unwrap_err();
            assert_eq!(problem.kind.status().as_u16(), 422, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn the_scope_path_has_the_query() {
        let (mut parts, ()) =
            Request::builder().uri("/v1/messages/raw?rcpt=a%40b.example").body(()).unwrap().into_parts();
        let key = IdempotencyKey::from_request_parts(&mut parts, &()).await.unwrap();
        assert_eq!(key.path, "/v1/messages/raw?rcpt=a%40b.example");
        assert_eq!(key.method, "GET");
    }

    #[test]
    fn a_replay_repeats_the_answer_and_says_so() {
        let answer = StoredAnswer { status: 422, content_type: PROBLEM_JSON.to_owned(), body: b"{}".to_vec() };
        let response = replayed(answer);
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(response.headers()["idempotent-replayed"], "true");
    }
}
