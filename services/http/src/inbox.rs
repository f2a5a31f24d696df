//! The sandbox's inbox pages: each message with its Authentication-Results and its source. They work without script, and everything shown
//! came in by SMTP, so everything is escaped.
use crate::html::{self, escape};
use crate::page::timestamp;
use crate::problem::Problem;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::fmt::Write;
use std::sync::Arc;

/// A received message.
#[derive(Debug, Clone)]
pub struct InboxItem {
    /// Id, unique in this inbox; letters, digits, `-` and `_`.
    pub id: String,
    /// When it was received, milliseconds since the epoch.
    pub received_at_ms: i64,
    /// Envelope sender, empty for the null one.
    pub mail_from: String,
    /// Envelope recipients.
    pub rcpts: Vec<String>,
    /// From, decoded.
    pub from: String,
    /// To, decoded.
    pub to: String,
    /// Subject, decoded.
    pub subject: String,
    /// Values of Authentication-Results: ours first, then that of other judges.
    pub authentication_results: Vec<String>,
    /// What the judges disagree about.
    pub disagreement: Option<String>,
    /// The octets as received.
    pub raw: Arc<Vec<u8>>,
}

/// Where received messages come from.
pub trait InboxSource: Send + Sync {
    /// Newest first.
    fn list(&self) -> Vec<InboxItem>;
    /// One message.
    fn get(&self, id: &str) -> Option<InboxItem>;
}

type Source = Arc<dyn InboxSource>;

/// How much of a message its page shows; the original shows all.
const SHOWN_OCTETS: usize = 256 * 1024;

/// `/`, `/messages/{id}`, `/messages/{id}/raw`.
pub fn inbox_router(source: Arc<dyn InboxSource>) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/messages/{id}", get(show))
        .route("/messages/{id}/raw", get(original))
        .route("/style.css", get(|| async { html::css(include_str!("inbox.css")) }))
        .fallback(|| async { missing() })
        .with_state(source)
}

async fn list(State(source): State<Source>) -> Response {
    let mut body = "<h1>Sandbox inbox</h1>\n".to_owned();
    // Writing to a String cannot fail.
    let _ = write_list(&mut body, &source.list());
    html::page("Inbox", "/style.css", "<meta http-equiv=\"refresh\" content=\"10\">\n", &body)
}

async fn show(State(source): State<Source>, Path(id): Path<String>) -> Response {
    let Some(item) = source.get(&id) else { return missing() };
    let mut body = String::new();
    let _ = write_item(&mut body, &item);
    html::page(&item.subject, "/style.css", "", &body)
}

/// "Show original": as text, which no browser may take for anything else.
async fn original(State(source): State<Source>, Path(id): Path<String>) -> Response {
    let Some(item) = source.get(&id) else { return missing() };
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox; frame-ancestors 'none'"),
    ];
    (headers, item.raw.as_ref().clone()).into_response()
}

fn missing() -> Response {
    let page = html::page("Not found", "/style.css", "", "<h1>Not found</h1>\n<p><a href=\"/\">Inbox</a></p>\n");
    (Problem::not_found("message").kind.status(), page).into_response()
}

fn write_list(out: &mut String, items: &[InboxItem]) -> std::fmt::Result {
    if items.is_empty() {
        return writeln!(out, "<p class=\"empty\">Nothing received yet. This page looks again every 10 seconds.</p>");
    }
    out.push_str("<table><tr><th>Received</th><th>From</th><th>To</th><th>Subject</th><th>Results</th></tr>\n");
    for item in items {
        write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td><a href=\"/messages/{}\">{}</a></td><td>",
            timestamp(item.received_at_ms),
            escape(&item.from),
            escape(&item.to),
            escape(&item.id),
            escape(if item.subject.is_empty() { "(no subject)" } else { &item.subject }),
        )?;
        for word in item.authentication_results.first().map(String::as_str).unwrap_or_default().split([' ', ';']) {
            if result_class(word).is_some() {
                write_word(out, word)?;
                out.push(' ');
            }
        }
        if item.disagreement.is_some() {
            out.push_str("<span class=\"fail\">judges disagree</span>");
        }
        out.push_str("</td></tr>\n");
    }
    out.push_str("</table>\n");
    Ok(())
}

fn write_item(out: &mut String, item: &InboxItem) -> std::fmt::Result {
    write!(out, "<p><a href=\"/\">Inbox</a></p>\n<h1>{}</h1>\n<table>\n", escape(&item.subject))?;
    let received = timestamp(item.received_at_ms);
    let rcpts = item.rcpts.join(", ");
    let mail_from = format!("<{}>", item.mail_from);
    for (name, value) in [
        ("From", &item.from),
        ("To", &item.to),
        ("Received", &received),
        ("Envelope sender", &mail_from),
        ("Envelope recipients", &rcpts),
    ] {
        writeln!(out, "<tr><th>{name}</th><td>{}</td></tr>", escape(value))?;
    }
    out.push_str("</table>\n<h2>Authentication-Results</h2>\n");
    for results in &item.authentication_results {
        out.push_str("<p class=\"results\">");
        write_results(out, results)?;
        out.push_str("</p>\n");
    }
    if let Some(disagreement) = &item.disagreement {
        writeln!(out, "<p class=\"warning\">The judges disagree: {}</p>", escape(disagreement))?;
    }
    let shown = item.raw.get(..SHOWN_OCTETS).unwrap_or(&item.raw);
    write!(out, "<h2>Source</h2>\n<p><a href=\"/messages/{}/raw\">Show original</a>", escape(&item.id))?;
    if shown.len() < item.raw.len() {
        write!(out, " (below are the first {SHOWN_OCTETS} of {} octets)", item.raw.len())?;
    }
    writeln!(out, "</p>\n<pre>{}</pre>", escape(&String::from_utf8_lossy(shown)))
}

/// The value with each `method=result` highlighted.
fn write_results(out: &mut String, results: &str) -> std::fmt::Result {
    for piece in results.split_inclusive([' ', ';']) {
        let word = piece.trim_end_matches([' ', ';']);
        write_word(out, word)?;
        write!(out, "{}", escape(piece.get(word.len()..).unwrap_or_default()))?;
    }
    Ok(())
}

fn write_word(out: &mut String, word: &str) -> std::fmt::Result {
    match result_class(word) {
        Some(class) => write!(out, "<span class=\"{class}\">{}</span>", escape(word)),
        None => write!(out, "{}", escape(word)),
    }
}

/// The class of `dkim=pass` and its like (RFC 8601 2.7); `None` for other words.
fn result_class(word: &str) -> Option<&'static str> {
    let (method, result) = word.split_once('=')?;
    matches!(method, "dkim" | "spf" | "dmarc" | "arc").then_some(match result {
        "pass" => "pass",
        "fail" | "softfail" | "permerror" | "policy" => "fail",
        _ => "other",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::{HeaderMap, Request, StatusCode};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    struct One(InboxItem);
    impl InboxSource for One {
        fn list(&self) -> Vec<InboxItem> {
            vec![self.0.clone()]
        }
        fn get(&self, id: &str) -> Option<InboxItem> {
            (id == self.0.id).then(|| self.0.clone())
        }
    }

    const EVIL: &str = "<script>alert('\"1\"')</script>";

    async fn get_page(path: &str) -> (StatusCode, HeaderMap, String) {
        let item = InboxItem {
            id: "m1".into(),
            received_at_ms: 0,
            mail_from: EVIL.into(),
            rcpts: vec![EVIL.into()],
            from: EVIL.into(),
            to: EVIL.into(),
            subject: EVIL.into(),
            authentication_results: vec![format!(
                "mx.test; dkim=pass header.d={EVIL}; spf=softfail; dmarc=fail {EVIL}"
            )],
            disagreement: Some(EVIL.into()),
            raw: Arc::new(format!("From: {EVIL}\r\n\r\n{EVIL}\r\n").into_bytes()),
        };
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let (parts, body) = inbox_router(Arc::new(One(item))).oneshot(request).await.unwrap().into_parts();
        (parts.status, parts.headers, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn nothing_that_was_received_becomes_markup() {
        for path in ["/", "/messages/m1"] {
            let (status, headers, html) = get_page(path).await;
            assert_eq!(status, StatusCode::OK);
            assert!(!html.contains("<script"), "{path}");
            assert!(html.contains("&lt;script&gt;alert(&#39;&quot;1&quot;&#39;)"), "{path}");
            assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"), "{path}");
        }
    }

    #[tokio::test]
    async fn results_are_highlighted() {
        let (_, _, html) = get_page("/messages/m1").await;
        for part in [
            "<span class=\"pass\">dkim=pass</span>",
            "<span class=\"fail\">spf=softfail</span>",
            "<span class=\"fail\">dmarc=fail</span>",
        ] {
            assert!(html.contains(part), "{part}");
        }
    }

    #[tokio::test]
    async fn the_original_is_plain_text_octet_by_octet() {
        let (status, headers, text) = get_page("/messages/m1/raw").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(text, format!("From: {EVIL}\r\n\r\n{EVIL}\r\n"));
        assert!(headers["content-type"].to_str().unwrap().starts_with("text/plain"));
        assert_eq!(headers["x-content-type-options"], "nosniff");
    }

    #[tokio::test]
    async fn an_unknown_message_is_404() {
        for path in ["/messages/other", "/messages/other/raw", "/nowhere"] {
            assert_eq!(get_page(path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }
}
