//! What every answer gets: the request id, a line in the log, the rendered problem, the security headers. Around routing and the panic
//! catcher; `router::around` shows the order.
use crate::problem::{PROBLEM_JSON, Problem, ProblemType};
use crate::rate::StandingSlot;
use crate::serve::Client;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Response as HttpResponse, StatusCode, Version,
};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::sync::Arc;
use tokio::time::Instant;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{And, Predicate, SizeAbove};
use tracing::Instrument;
use tracing::field::{Empty, display};

/// Makes ids for requests that bring none. The clock and the rng are the maker's.
pub(crate) type NewRequestId = Arc<dyn Fn() -> String + Send + Sync>;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of this request, in its extensions.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Outermost: gives the request its id and its span, and the log one line for each answer. Of the request only method and matched
/// route are told: a path, a query or a header may hold what is nobody's business.
pub(crate) async fn traced(State(new_id): State<NewRequestId>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = given_id(request.headers()).unwrap_or_else(|| format!("req_{}", new_id()));
    let extensions = request.extensions();
    let route = extensions.get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let span = tracing::info_span!("request", request_id = %id, method = %request.method(), route, client = Empty, tenant = Empty);
    if let Some(Client(address)) = extensions.get() {
        span.record("client", display(address));
    }
    request.extensions_mut().insert(RequestId(id));
    async {
        let response = next.run(request).await;
        let status = response.status().as_u16();
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let problem = response.extensions().get::<ProblemType>().map(|kind| kind.urn());
        tracing::info!(status, ms, problem, "answered");
        response
    }
    .instrument(span)
    .await
}

/// Renders problems and adds the header fields that every answer has.
pub(crate) async fn complete(mut request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let is_v1 = request.uri().path().starts_with("/v1");
    let is_reading = request.method() == Method::GET;
    let standing = StandingSlot::default();
    request.extensions_mut().insert(standing.clone());
    let mut response = render(next.run(request).await, &id);
    harden(response.headers_mut(), is_v1, &id);
    standing.write(response.headers_mut());
    if is_reading {
        response.extensions_mut().insert(Reading);
    }
    response
}

/// Marks the answer of a call that changed nothing.
#[derive(Debug, Clone, Copy)]
struct Reading;

type Compressed = And<SizeAbove, fn(StatusCode, Version, &HeaderMap, &Extensions) -> bool>;

/// gzip for text of more than 1 KB, where it is fast: the level costs less than the line saves.
pub(crate) fn compression() -> CompressionLayer<Compressed> {
    let compressed: Compressed = SizeAbove::new(1_024).and(is_compressed);
    CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(compressed)
}

/// Answers of GET alone: new secrets are shown by answers of POST only, and the length of a compressed answer that holds a secret
/// beside what a stranger chose tells of it (the BREACH attack). A message is sent as it is.
fn is_compressed(_status: StatusCode, _version: Version, headers: &HeaderMap, extensions: &Extensions) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).and_then(|kind| kind.split(';').next());
    extensions.get::<Reading>().is_some()
        && matches!(kind, Some("application/json" | PROBLEM_JSON | "text/html" | "text/css"))
}

/// An incoming X-Request-Id that is safe to repeat and to log.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let sane = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'_' | b'-');
    ((1..=64).contains(&id.len()) && id.bytes().all(sane)).then(|| id.to_owned())
}

/// Gives a problem its body.
fn render(mut response: Response, request_id: &str) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    response.extensions_mut().insert(problem.kind);
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    *response.body_mut() = Body::from(problem.render(request_id));
    response
}

fn harden(headers: &mut HeaderMap, is_v1: bool, request_id: &str) {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    if is_v1 {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// A panic is a 500 problem; its text goes to the log only.
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> HttpResponse<Body> {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Problem::internal(&format_args!("panic: {}", text.unwrap_or("of no text"))).into_response()
}

/// No route.
pub(crate) async fn no_route() -> Problem {
    Problem::new(ProblemType::NotFound, "There is nothing at this path. /docs lists every call.")
}

/// A route, but not with this method; axum adds Allow.
pub(crate) async fn no_method() -> Problem {
    Problem::new(
        ProblemType::MethodNotAllowed,
        "This path does not take this method. The Allow header says which it takes.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn breaks() -> &'static str {
        panic!("the planted secret")
    }

    fn app() -> Router {
        let new_id: NewRequestId = Arc::new(|| "0123".to_owned());
        let large = || async { ([(CONTENT_TYPE, "application/json")], "7".repeat(2_000)) };
        let small = || async { ([(CONTENT_TYPE, "application/json")], "7".repeat(1_000)) };
        let message = || async { ([(CONTENT_TYPE, "message/rfc822")], "7".repeat(2_000)) };
        let routes = Router::new()
            .route("/v1/ok", get(|| async { "ok" }))
            .route("/breaks", get(breaks))
            .route("/v1/large", get(large).post(large))
            .route("/v1/small", get(small))
            .route("/v1/message", get(message));
        crate::router::around(routes, new_id, crate::arriving::BodyMemory::new(1_000_000))
    }

    async fn call(request: axum::http::request::Builder) -> (Response<()>, serde_json::Value) {
        let response = app().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let octets = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(parts, ()), serde_json::from_slice(&octets).unwrap_or_default())
    }
    use axum::http::Response;

    #[tokio::test]
    async fn axums_own_refusals_are_problems_too() {
        for (method, path, status, name) in [
            ("GET", "/nowhere", 404, "not-found"),
            ("GET", "/v1/%ff", 404, "not-found"),
            ("DELETE", "/v1/ok", 405, "method-not-allowed"),
            ("GET", "/breaks", 500, "internal"),
        ] {
            let (response, body) = call(Request::builder().method(method).uri(path)).await;
            assert_eq!(response.status().as_u16(), status, "{path}");
            assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON, "{path}");
            assert_eq!(body["type"], format!("urn:signpost:problem:{name}"), "{path}");
            assert_eq!(body["request_id"], "req_0123", "{path}");
            assert_eq!(response.headers()["x-request-id"], "req_0123", "{path}");
            assert!(!body.to_string().contains("planted"), "the text of a panic reached the client");
        }
    }

    #[tokio::test]
    async fn a_405_names_the_allowed_methods() {
        let (response, _) = call(Request::builder().method("POST").uri("/v1/ok")).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "GET,HEAD");
    }

    #[tokio::test]
    async fn a_sane_request_id_is_kept_and_another_replaced() {
        for (given, kept) in [
            ("abc-1.2_3", true),
            ("a", true),
            (&*"x".repeat(64), true),
            (&*"x".repeat(65), false),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("<script>", false),
        ] {
            let (response, _) = call(Request::builder().uri("/v1/ok").header("x-request-id", given)).await;
            let answered = response.headers()["x-request-id"].to_str().unwrap();
            assert_eq!(answered, if kept { given } else { "req_0123" });
        }
    }

    #[tokio::test]
    async fn large_answers_are_compressed_unless_they_may_hold_a_secret_or_are_a_message() {
        for (method, path, accepts, compressed) in [
            ("GET", "/v1/large", "gzip", true),
            ("GET", "/v1/large", "br, gzip;q=0.5", true),
            ("GET", "/v1/large", "gzip;q=0", false),
            ("GET", "/v1/large", "identity", false),
            ("GET", "/v1/small", "gzip", false),
            ("GET", "/v1/message", "gzip", false),
            ("POST", "/v1/large", "gzip", false),
        ] {
            let request = Request::builder().method(method).uri(path).header("accept-encoding", accepts);
            let (response, _) = call(request).await;
            let encoding = response.headers().get("content-encoding").map(|value| value.to_str().unwrap());
            assert_eq!(encoding, compressed.then_some("gzip"), "{method} {path} {accepts}");
        }
    }

    #[tokio::test]
    async fn every_answer_has_the_security_headers() {
        for path in ["/v1/ok", "/nowhere", "/breaks"] {
            let (response, _) = call(Request::builder().uri(path)).await;
            assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
            assert!(response.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
            assert_eq!(response.headers().get("cache-control").is_some(), path.starts_with("/v1"), "{path}");
        }
    }
}
