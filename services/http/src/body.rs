//! Request bodies: read up to a limit, in time, and only after the caller was authorized (extractors run left to right, the body last).
use crate::arriving::BodyFault;
use crate::json;
use crate::problem::{Problem, ProblemType};
use axum::body::{Body, HttpBody};
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

/// Above this many octets JSON is parsed off the async workers.
const PARSE_INLINE: usize = 256 * 1024;

/// Limits of request bodies, in octets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// SIGNPOST_MAX_MESSAGE: a raw message.
    pub(crate) max_message: u64,
    /// A JSON body: room for the same message in base64.
    pub(crate) max_json: u64,
    /// All bodies that are here at a time, beside the first octets of each.
    pub(crate) in_memory: u64,
}

/// Least memory for bodies: ten of the largest messages, as they arrive.
const IN_MEMORY: u64 = 256 * 1024 * 1024;

/// Once so many octets of a body are there, memory for the rest that it announced is taken at once: what grows step by step is
/// copied, and lies in memory twice meanwhile.
const EARNEST: usize = 1_000_000;

impl Limits {
    /// 25,000,000 octets of message allow 36,000,000 octets of JSON; other sizes in the same proportion.
    pub(crate) fn for_message(max_message: u64) -> Self {
        let max_json = max_message.saturating_mul(36) / 25;
        Self { max_message, max_json, in_memory: IN_MEMORY.max(max_json.saturating_mul(4)) }
    }
}

/// Reads a body whole, or answers 413 as soon as it is known to be too large (RFC 9110 15.5.14). How fast it has to come, and how much
/// memory there is for it: see `arriving`.
pub(crate) async fn read(mut body: Body, limit: u64) -> Result<Bytes, Problem> {
    let announced = body.size_hint();
    if announced.lower() > limit {
        return Err(Problem::too_large(limit));
    }
    // One allocation for ordinary bodies; what is only announced takes no more.
    let whole = announced.exact().and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
    let mut collected = BytesMut::with_capacity(whole.min(PARSE_INLINE));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match BodyFault::among(&error) {
            Some(fault) => Problem::from(fault),
            None => Problem::from(&BodyFault::Broken(error)),
        })?;
        if let Ok(data) = frame.into_data() {
            if (collected.len() as u64).saturating_add(data.len() as u64) > limit {
                return Err(Problem::too_large(limit));
            }
            let room = collected.capacity() - collected.len();
            if room < data.len() && collected.len() >= EARNEST {
                collected.reserve(whole.saturating_sub(collected.len()));
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

/// A JSON body that may be left out, or be null; then it is the value without any field.
pub(crate) struct OptionalJsonBody<T>(pub(crate) T);

impl<T, S> FromRequest<S> for OptionalJsonBody<T>
where
    T: DeserializeOwned + Default + Send + 'static,
    S: Send + Sync,
    Limits: FromRef<S>,
{
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let media_type = media_type(request.headers());
        let is_json = media_type == "application/json";
        if !is_json && request.headers().contains_key(CONTENT_TYPE) {
            return Err(unsupported("application/json"));
        }
        let octets = read(request.into_body(), Limits::from_ref(state).max_json).await?;
        match (octets.is_empty() || octets.trim_ascii() == b"null", is_json) {
            (true, _) => Ok(Self(T::default())),
            (false, true) => JsonBody::parse(octets).await.map(|body| Self(body.value)),
            (false, false) => Err(unsupported("application/json")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Frame;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::{Context, Poll};

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
        for size in [1, 25_000_000, 100_000_000] {
            let limits = Limits::for_message(size);
            assert!(limits.in_memory >= 4 * limits.max_json, "{size}: several of the largest bodies must fit");
        }
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
