//! HTML without a template engine: everything shown goes through `escape`.
use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use std::fmt;

/// Pages load their stylesheet and nothing else: no script, no image, no foreign resource, no frame around them.
const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A text as HTML text or as the value of a quoted attribute.
pub(crate) fn escape(text: &str) -> Escaped<'_> {
    Escaped(text)
}

/// Displays escaped.
pub(crate) struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            let (before, after) = rest.split_at(at);
            f.write_str(before)?;
            let mut chars = after.chars();
            f.write_str(match chars.next() {
                Some('&') => "&amp;",
                Some('<') => "&lt;",
                Some('>') => "&gt;",
                Some('"') => "&quot;",
                _ => "&#39;",
            })?;
            rest = chars.as_str();
        }
        f.write_str(rest)
    }
}

/// A page around a body.
pub(crate) fn page(title: &str, stylesheet: &str, head: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<link rel=\"stylesheet\" href=\"{}\">\n{head}</head>\n<body>\n{body}</body>\n</html>\n",
        escape(title),
        escape(stylesheet),
    );
    (headers("text/html; charset=utf-8"), html).into_response()
}

/// A stylesheet of ours.
pub(crate) fn css(text: &'static str) -> Response {
    (headers("text/css; charset=utf-8"), text).into_response()
}

fn headers(content_type: &'static str) -> [(HeaderName, &'static str); 3] {
    [(CONTENT_TYPE, content_type), (CONTENT_SECURITY_POLICY, PAGE_POLICY), (CACHE_CONTROL, "no-cache")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_text_or_attribute() {
        assert_eq!(
            escape("<b a=\"x\" c='y'>&amp;ä</b>").to_string(),
            "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;amp;ä&lt;/b&gt;"
        );
        assert_eq!(escape("").to_string(), "");
        assert_eq!(escape("'").to_string(), "&#39;");
    }
}
