//! /openapi.json, and /docs: the same document for people, rendered here, without script and without any outside resource.
use crate::html::{self, escape};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::fmt::Write;
use std::sync::LazyLock;

/// Path of the stylesheet of /docs.
pub(crate) const STYLESHEET: &str = "/docs/style.css";

static DOCUMENT: LazyLock<String> = LazyLock::new(crate::openapi_json);
static BODY: LazyLock<String> = LazyLock::new(|| {
    let document = serde_json::from_str(&DOCUMENT).unwrap_or_default();
    let mut body = String::new();
    // Writing to a String cannot fail.
    let _ = write_document(&mut body, &document);
    body
});

/// The OpenAPI document
///
/// OpenAPI 3.1.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "Service", security(()),
    responses((status = 200, description = "The document.", body = Object, content_type = "application/json")))]
pub(crate) async fn openapi_document() -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], DOCUMENT.as_str()).into_response()
}

/// This reference as a page
///
/// Rendered from the OpenAPI document.
#[utoipa::path(get, path = "/docs", operation_id = "docs", tag = "Service", security(()),
    responses((status = 200, description = "The page.", body = String, content_type = "text/html")))]
pub(crate) async fn docs_page() -> Response {
    html::page("Signpost API", STYLESHEET, "", &BODY)
}

/// The stylesheet of /docs.
pub(crate) async fn stylesheet() -> Response {
    html::css(include_str!("docs.css"))
}

type Written = Result<(), std::fmt::Error>;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn write_document(out: &mut String, document: &Value) -> Written {
    let info = &document["info"];
    write!(out, "<header><h1>{} <small>{}</small></h1>", escape(text(info, "title")), escape(text(info, "version")))?;
    write_prose(out, text(info, "description"))?;
    out.push_str("<p>The same for machines: <a href=\"/openapi.json\">/openapi.json</a></p></header>\n");
    let operations = operations(document);
    let mut tags: Vec<&str> = operations.iter().map(|o| o.tag).collect();
    tags.sort_unstable();
    tags.dedup();
    out.push_str("<nav><h2>Calls</h2>");
    for tag in &tags {
        write!(out, "<h3>{}</h3><ul>", escape(tag))?;
        for o in operations.iter().filter(|o| o.tag == *tag) {
            write!(
                out,
                "<li><a href=\"#{}\"><b class=\"method\">{}</b> {}</a></li>",
                escape(o.id()),
                escape(&o.method),
                escape(o.path)
            )?;
        }
        out.push_str("</ul>");
    }
    out.push_str("</nav>\n<main>\n");
    for tag in &tags {
        writeln!(out, "<h2>{}</h2>", escape(tag))?;
        operations.iter().filter(|o| o.tag == *tag).try_for_each(|o| write_operation(out, o))?;
    }
    out.push_str("<h2>Schemas</h2>\n");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        write_schema(out, name, schema)?;
    }
    out.push_str("</main>\n");
    Ok(())
}

/// An operation of the document.
struct Operation<'a> {
    method: String,
    path: &'a str,
    tag: &'a str,
    value: &'a Value,
}

impl Operation<'_> {
    fn id(&self) -> &str {
        text(self.value, "operationId")
    }
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, item)| {
            item.as_object().into_iter().flatten().map(move |(method, value)| Operation {
                method: method.to_ascii_uppercase(),
                path,
                tag: value["tags"][0].as_str().unwrap_or("Other"),
                value,
            })
        })
        .collect()
}

fn write_operation(out: &mut String, operation: &Operation<'_>) -> Written {
    let value = operation.value;
    write!(
        out,
        "<section id=\"{}\"><h3>{}</h3><p class=\"call\"><b class=\"method\">{}</b> <code>{}</code></p>",
        escape(operation.id()),
        escape(text(value, "summary")),
        escape(&operation.method),
        escape(operation.path)
    )?;
    write_prose(out, text(value, "description"))?;
    if let Some(parameters) = value["parameters"].as_array() {
        out.push_str("<h4>Parameters</h4><table><tr><th>Name</th><th>In</th><th>Type</th><th></th></tr>");
        for parameter in parameters {
            write!(
                out,
                "<tr><td><code>{}</code></td><td>{}</td><td>",
                escape(text(parameter, "name")),
                escape(text(parameter, "in"))
            )?;
            write_type(out, &parameter["schema"])?;
            out.push_str("</td><td>");
            write_line(out, text(parameter, "description"))?;
            out.push_str("</td></tr>");
        }
        out.push_str("</table>");
    }
    if let Some(content) = value["requestBody"]["content"].as_object() {
        out.push_str("<h4>Body</h4><ul>");
        content.iter().try_for_each(|(media, body)| write_content(out, media, body))?;
        out.push_str("</ul>");
    }
    out.push_str("<h4>Answers</h4><table><tr><th>Status</th><th></th><th>Body</th></tr>");
    for (status, response) in value["responses"].as_object().into_iter().flatten() {
        write!(out, "<tr><td><code>{}</code></td><td>", escape(status))?;
        write_prose(out, text(response, "description"))?;
        out.push_str("</td><td><ul>");
        for (media, body) in response["content"].as_object().into_iter().flatten() {
            write_content(out, media, body)?;
        }
        out.push_str("</ul></td></tr>");
    }
    out.push_str("</table></section>\n");
    Ok(())
}

fn write_content(out: &mut String, media: &str, body: &Value) -> Written {
    write!(out, "<li><code>{}</code>: ", escape(media))?;
    write_type(out, &body["schema"])?;
    out.push_str("</li>");
    Ok(())
}

fn write_schema(out: &mut String, name: &str, schema: &Value) -> Written {
    write!(out, "<section id=\"schema-{0}\"><h3>{0}</h3>", escape(name))?;
    write_prose(out, text(schema, "description"))?;
    let mut properties = Vec::new();
    collect_properties(schema, &mut properties);
    if properties.is_empty() {
        out.push_str("<p>");
        write_type(out, schema)?;
        out.push_str("</p>");
    } else {
        out.push_str("<table><tr><th>Field</th><th>Type</th><th></th></tr>");
        for (field, schema, required) in properties {
            write!(
                out,
                "<tr><td><code>{}</code>{}</td><td>",
                escape(field),
                if required { "" } else { " <i>optional</i>" }
            )?;
            write_type(out, schema)?;
            out.push_str("</td><td>");
            write_line(out, text(schema, "description"))?;
            out.push_str("</td></tr>");
        }
        out.push_str("</table>");
    }
    out.push_str("</section>\n");
    Ok(())
}

/// Properties with their schema and whether they are required, also of the parts of an allOf.
fn collect_properties<'a>(schema: &'a Value, properties: &mut Vec<(&'a str, &'a Value, bool)>) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        properties.push((name, property, required.contains(&name.as_str())));
    }
    schema["allOf"].as_array().into_iter().flatten().for_each(|part| collect_properties(part, properties));
}

/// A type in a few words: `Domain`, `list of string`, `"a" | "b"`.
fn write_type(out: &mut String, schema: &Value) -> Written {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return write!(out, "<a href=\"#schema-{0}\">{0}</a>", escape(name));
    }
    let alternatives = ["oneOf", "anyOf", "allOf"].iter().find_map(|key| schema[*key].as_array());
    if let Some(alternatives) = alternatives {
        return write_joined(out, alternatives, write_type);
    }
    if let Some(values) = schema["enum"].as_array() {
        return write_joined(out, values, |out, value| {
            write!(out, "<code>{}</code>", escape(value.as_str().unwrap_or_default()))
        });
    }
    if let Some(items) = schema.get("items") {
        out.push_str("list of ");
        return write_type(out, items);
    }
    let kind = match &schema["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => "any".to_owned(),
    };
    write!(out, "{}", escape(&kind))?;
    match text(schema, "format") {
        "" => Ok(()),
        format => write!(out, " <small>{}</small>", escape(format)),
    }
}

fn write_joined(out: &mut String, values: &[Value], write_one: impl Fn(&mut String, &Value) -> Written) -> Written {
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push_str(" | ");
        }
        write_one(out, value)?;
    }
    Ok(())
}

/// Paragraphs of lines.
fn write_prose(out: &mut String, prose: &str) -> Written {
    for paragraph in prose.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        out.push_str("<p>");
        write_line(out, paragraph)?;
        out.push_str("</p>");
    }
    Ok(())
}

/// Text with `code` between backticks.
fn write_line(out: &mut String, line: &str) -> Written {
    for (index, piece) in line.split('`').enumerate() {
        match index % 2 {
            0 => write!(out, "{}", escape(piece))?,
            _ => write!(out, "<code>{}</code>", escape(piece))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn body_of(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_page_shows_every_call_and_schema_and_loads_nothing_from_outside() {
        let page = docs_page().await;
        assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
        let html = body_of(page).await;
        let document: Value = serde_json::from_str(&DOCUMENT).unwrap();
        for operation in operations(&document) {
            assert!(html.contains(&format!("<section id=\"{}\">", operation.id())), "{}", operation.path);
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(html.contains(&format!("id=\"schema-{name}\"")), "{name}");
        }
        for outside in ["http://", "https://", "<script", "src=", "//"] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn text_of_the_document_cannot_become_markup() {
        let document = serde_json::json!({"info": {"title": "<b>", "description": "a `<i>` b"},
            "paths": {"/<u>": {"get": {"operationId": "\"x", "summary": "<s>", "tags": ["<t>"], "responses": {}}}}});
        let mut html = String::new();
        write_document(&mut html, &document).unwrap();
        for markup in ["<b>", "<i>", "<u>", "<s>", "<t>", "\"\"x"] {
            assert!(!html.contains(markup), "{markup}");
        }
    }
}
