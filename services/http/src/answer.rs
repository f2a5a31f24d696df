//! What every answer gets: the request id, the rendered problem, the security headers. Outermost, around routing and the panic catcher.
use crate::body::Drained;
use crate::problem::{PROBLEM_JSON, Problem, ProblemType};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response as HttpResponse};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::sync::Arc;
use tracing::Instrument;

/// Makes ids for requests that bring none. The clock and the rng are the maker's.
pub(crate) type NewRequestId = Arc<dyn Fn() -> String + Send + Sync>;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of this request, in its extensions.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// The middleware.
pub(crate) async fn complete(State(new_id): State<NewRequestId>, request: Request, next: Next) -> Response {
    let id = given_id(request.headers()).unwrap_or_else(|| format!("req_{}", new_id()));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", request_id = %id, %method, path, tenant = tracing::field::Empty);
    let mut request = Drained::wrap(request);
    request.extensions_mut().insert(RequestId(id.clone()));
    async {
        let mut response = render(next.run(request).await, &id);
        harden(response.headers_mut(), &path, &id);
        tracing::info!(status = response.status().as_u16(), "answered");
        response
    }
    .instrument(span)
    .await
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
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    *response.body_mut() = Body::from(problem.render(request_id));
    response
}

fn harden(headers: &mut HeaderMap, path: &str, request_id: &str) {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    if path.starts_with("/v1") {
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
        crate::router::around(
            Router::new().route("/v1/ok", get(|| async { "ok" })).route("/breaks", get(breaks)),
            new_id,
        )
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
    async fn every_answer_has_the_security_headers() {
        for path in ["/v1/ok", "/nowhere", "/breaks"] {
            let (response, _) = call(Request::builder().uri(path)).await;
            assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
            assert!(response.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
            assert_eq!(response.headers().get("cache-control").is_some(), path.starts_with("/v1"), "{path}");
        }
    }
}
