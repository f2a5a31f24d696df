//! Request bodies: read up to a limit, in time, and only after the caller was authorized (extractors run left to right, the body last).
use crate::json;
use crate::problem::{Problem, ProblemType};
use axum::body::{Body, HttpBody};
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use serde::de::DeserializeOwned;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long a whole body may take.
const READ_TIME: Duration = Duration::from_secs(120);
/// Above this many octets JSON is parsed off the async workers.
const PARSE_INLINE: usize = 256 * 1024;

/// Limits of request bodies, in octets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// SIGNPOST_MAX_MESSAGE: a raw message.
    pub(crate) max_message: u64,
    /// A JSON body: room for the same message in base64.
    pub(crate) max_json: u64,
}

impl Limits {
    /// 25,000,000 octets of message allow 36,000,000 octets of JSON; other sizes in the same proportion.
    pub(crate) fn for_message(max_message: u64) -> Self {
        Self { max_message, max_json: max_message.saturating_mul(36) / 25 }
    }
}

/// Reads a body whole, or answers 413 as soon as it is known to be too large (RFC 9110 15.5.14).
pub(crate) async fn read(body: Body, limit: u64) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > limit {
        return Err(Problem::too_large(limit));
    }
    match tokio::time::timeout(READ_TIME, collect(body, limit)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(Problem::new(
            ProblemType::Timeout,
            format!("The body did not arrive within {} seconds. Send it again.", READ_TIME.as_secs()),
        )),
    }
}

async fn collect(mut body: Body, limit: u64) -> Result<Bytes, Problem> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, "reading the request body");
            Problem::new(ProblemType::IncompleteBody, "The body ended early or its framing is broken. Send it again.")
        })?;
        if let Ok(data) = frame.into_data() {
            if (collected.len() as u64).saturating_add(data.len() as u64) > limit {
                return Err(Problem::too_large(limit));
            }
            collected.extend_from_slice(&data);
        }
    }
    Ok(collected.freeze())
}

/// The media type of the body without parameters, lower-case (RFC 9110 8.3.1); empty without Content-Type.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(value), None) => value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase(),
        _ => String::new(),
    }
}

/// 415, naming what is taken (RFC 9110 15.5.16).
pub(crate) fn unsupported(taken: &str) -> Problem {
    Problem::new(ProblemType::UnsupportedMediaType, format!("Send this body with `Content-Type: {taken}`."))
}

/// A JSON body with its octets (which an Idempotency-Key hashes).
pub(crate) struct JsonBody<T> {
    pub(crate) value: T,
    pub(crate) octets: Bytes,
}

impl<T: DeserializeOwned + Send + 'static> JsonBody<T> {
    pub(crate) async fn parse(octets: Bytes) -> Result<Self, Problem> {
        if octets.len() <= PARSE_INLINE {
            let value = json::parse(&octets)?;
            return Ok(Self { value, octets });
        }
        let parsed = tokio::task::spawn_blocking(move || {
            let value = json::parse(&octets)?;
            Ok(Self { value, octets })
        });
        parsed.await.unwrap_or_else(|panicked| Err(Problem::internal(&panicked)))
    }
}

impl<T, S> FromRequest<S> for JsonBody<T>
where
    T: DeserializeOwned + Send + 'static,
    S: Send + Sync,
    Limits: FromRef<S>,
{
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if media_type(request.headers()) != "application/json" {
            return Err(unsupported("application/json"));
        }
        Self::parse(read(request.into_body(), Limits::from_ref(state).max_json).await?).await
    }
}

/// How much of a body nobody wanted is thrown away after the answer, in octets.
const DRAIN_OCTETS: u64 = 64 * 1024 * 1024;
/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A request body that is drained in the background when it is dropped unread. Closing a socket with unread octets resets the
/// connection, and a client that is still sending would lose the answer (401, 413, ...) that explains why (RFC 9112 9.6).
pub(crate) struct Drained {
    inner: Option<Body>,
    /// The client waits for `100 Continue`; unless it was told so, it sends nothing.
    waits: bool,
    ended: bool,
}

impl Drained {
    pub(crate) fn wrap(request: Request) -> Request {
        let waits = request.headers().contains_key(axum::http::header::EXPECT);
        request.map(|body| {
            let ended = body.is_end_stream();
            Body::new(Self { inner: Some(body), waits, ended })
        })
    }
}

impl HttpBody for Drained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(cx);
        self.waits = false;
        self.ended |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        if self.ended || self.waits || inner.is_end_stream() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Detached on purpose: the answer goes out meanwhile; it ends by its own limits or with the connection.
            runtime.spawn(tokio::time::timeout(DRAIN_TIME, drain(inner)));
        }
    }
}

async fn drain(mut body: Body) {
    let mut left = DRAIN_OCTETS;
    while let Some(Ok(frame)) = body.frame().await {
        let octets = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(octets) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A body of `chunks` chunks of 1,000 octets without Content-Length, counting what is read.
    struct Endless {
        left: u64,
        read: Arc<AtomicU64>,
    }

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            self.left -= 1;
            self.read.fetch_add(1_000, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 1_000])))))
        }
    }

    #[tokio::test]
    async fn a_streamed_body_over_the_limit_is_413_before_it_is_read_whole() {
        let read_octets = Arc::new(AtomicU64::new(0));
        let body = Body::new(Endless { left: u64::MAX, read: read_octets.clone() });
        let problem = read(body, 10_000).await.unwrap_err();
        assert_eq!(problem.kind, ProblemType::MessageTooLarge);
        assert_eq!(read_octets.load(Ordering::Relaxed), 11_000);
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_is_read() {
        let octets = read(Body::from(vec![b'a'; 10_000]), 10_000).await.unwrap();
        assert_eq!(octets.len(), 10_000);
        assert_eq!(read(Body::from(vec![b'a'; 10_001]), 10_000).await.unwrap_err().kind, ProblemType::MessageTooLarge);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_400() {
        let broken = axum::body::Body::from_stream(futures_stream());
        assert_eq!(read(broken, 100).await.unwrap_err().kind, ProblemType::IncompleteBody);
    }

    fn futures_stream() -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
        futures_util::stream::iter([Ok(Bytes::from_static(b"abc")), Err(std::io::Error::other("gone"))])
    }

    #[test]
    fn the_json_limit_follows_the_message_limit() {
        assert_eq!(Limits::for_message(25_000_000).max_json, 36_000_000);
    }

    #[tokio::test]
    async fn only_application_json_is_taken_as_json() {
        let state = Limits::for_message(25_000_000);
        for (content_type, taken) in [
            (Some("application/json"), true),
            (Some("Application/JSON; charset=utf-8"), true),
            (Some("text/plain"), false),
            (Some("application/jsonx"), false),
            (Some(""), false),
            (None, false),
        ] {
            let mut request = Request::builder();
            if let Some(value) = content_type {
                request = request.header(CONTENT_TYPE, value);
            }
            let request = request.body(Body::from("{}")).unwrap();
            let result = JsonBody::<serde_json::Map<String, serde_json::Value>>::from_request(request, &state).await;
            match result {
                Ok(_) => assert!(taken, "{content_type:?}"),
                Err(problem) => {
                    assert!(!taken, "{content_type:?}");
                    assert_eq!(problem.kind, ProblemType::UnsupportedMediaType);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_large_json_body_is_parsed_off_the_workers_with_the_same_answers() {
        let good = format!("{{\"a\":\"{}\"}}", "x".repeat(PARSE_INLINE));
        let bad = format!("{{\"a\":\"{}\"", "x".repeat(PARSE_INLINE));
        type Map = serde_json::Map<String, serde_json::Value>;
        assert!(JsonBody::<Map>::parse(Bytes::from(good)).await.is_ok());
        let problem = JsonBody::<Map>::parse(Bytes::from(bad)).await.map(|_| ()).unwrap_err();
        assert_eq!(problem.kind, ProblemType::MalformedJson);
    }
}
