//! The OpenAPI 3.1 document. Operations come from the handlers; here is what stands around them.
use crate::problem::{PROBLEM_JSON, ProblemBody, ProblemType};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, License, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder, Type,
};
use utoipa::{PartialSchema, ToSchema};

const DESCRIPTION: &str = "Signpost signs mail with DKIM as a service: register a domain, publish its records, check, enable signing, send.\n\n\
    Every call below /v1 needs `Authorization: Bearer sp_...`; each says which scope. Every error is a problem (RFC 9457): branch on `type`. \
    Lists are pages: give `next_cursor` as `cursor` for the next one. Times are RFC 3339 in UTC. Every answer carries X-Request-Id, which a request may set.\n\n\
    Where the operator limits the requests of a tenant, answers carry `RateLimit-Limit` (requests that may come at once), `RateLimit-Remaining` (how many of them are left) \
    and `RateLimit-Reset` (seconds until all are there again); beyond it the answer is 429 with `Retry-After`. A body must come at 1,000 octets a second or faster; \
    a pause of 20 seconds ends it with 408.";

/// The document without operations.
pub(crate) fn skeleton() -> OpenApi {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("sp_<id>_<secret>")
        .description(Some("An API key. The list beside the scheme names the scope that the call needs."))
        .build();
    let mut schemas = Vec::new();
    ProblemBody::schemas(&mut schemas);
    let components = ComponentsBuilder::new()
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .schema(ProblemBody::name(), ProblemBody::schema())
        .schemas_from_iter(schemas)
        .build();
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    let info = InfoBuilder::new()
        .title("Signpost")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(license))
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

/// The document, indented, the same octets for the same code.
#[must_use]
#[expect(clippy::expect_used, reason = "the document depends on the code only, and a test renders it")]
pub fn openapi_json() -> String {
    let (_routes, document) = crate::router::api().split_for_parts();
    let mut text = document.to_pretty_json().expect("the document is serializable");
    text.push('\n');
    text
}

/// What any call with credentials can answer.
const ALWAYS: [ProblemType; 8] = [
    ProblemType::Unauthenticated,
    ProblemType::MissingScope,
    ProblemType::TenantSuspended,
    ProblemType::RateLimited,
    ProblemType::Sealed,
    ProblemType::StoreUnavailable,
    ProblemType::Overloaded,
    ProblemType::Internal,
];

/// Problem responses of an operation with credentials: these and `ALWAYS`.
pub(crate) fn with_credentials(own: &[ProblemType]) -> BTreeMap<String, RefOr<Response>> {
    responses(own.iter().chain(&ALWAYS))
}

/// Problem responses of an open operation.
pub(crate) fn without_credentials(own: &[ProblemType]) -> BTreeMap<String, RefOr<Response>> {
    responses(own.iter())
}

/// One response per status, its description naming the types.
fn responses<'a>(kinds: impl Iterator<Item = &'a ProblemType>) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<String, Vec<ProblemType>> = BTreeMap::new();
    for kind in kinds {
        let of_status = by_status.entry(kind.status().as_u16().to_string()).or_default();
        if !of_status.contains(kind) {
            of_status.push(*kind);
        }
    }
    by_status.into_iter().map(|(status, kinds)| (status, response(&kinds).into())).collect()
}

fn response(kinds: &[ProblemType]) -> Response {
    let mut description = String::new();
    for kind in kinds {
        let space = if description.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = write!(description, "{space}{}: `{}`.", kind.title(), kind.urn());
    }
    let schema = Ref::from_schema_name(ProblemBody::name());
    let mut response =
        ResponseBuilder::new().description(description).content(PROBLEM_JSON, Content::new(Some(schema)));
    let header = |name: &str, kind: Type, text: &str| {
        let schema = ObjectBuilder::new().schema_type(kind);
        (name.to_owned(), HeaderBuilder::new().schema(Some(schema)).description(Some(text)).build())
    };
    if kinds.contains(&ProblemType::Unauthenticated) {
        let (name, header) = header("WWW-Authenticate", Type::String, "`Bearer` with the realm");
        response = response.header(name, header);
    }
    if kinds.iter().any(|kind| matches!(kind.status().as_u16(), 429 | 503)) {
        let (name, header) = header("Retry-After", Type::Integer, "Seconds to wait");
        response = response.header(name, header);
    }
    response.build()
}

/// `problems! { Name: Kind Kind }` makes a type for the `responses(...)` of an operation.
macro_rules! problems {
    ($visibility:vis $name:ident: $($kind:ident)*) => {
        /// Problems of an operation.
        $visibility enum $name {}
        impl utoipa::IntoResponses for $name {
            fn responses()
            -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
                $crate::openapi::with_credentials(&[$($crate::problem::ProblemType::$kind),*])
            }
        }
    };
}
pub(crate) use problems;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Calls that need no credentials. This list may only shrink.
    const OPEN: [&str; 4] = ["/livez", "/readyz", "/openapi.json", "/docs"];

    fn document() -> Value {
        serde_json::from_str(&openapi_json()).unwrap()
    }

    fn operations(document: &Value) -> Vec<(String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().iter().map(move |(m, o)| (format!("{m} {path}"), o.clone()))
            })
            .collect()
    }

    #[test]
    fn the_committed_document_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/signpost.json");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == openapi_json(),
            "openapi/signpost.json differs from the code: write it anew with `cargo run -- openapi > openapi/signpost.json`"
        );
    }

    #[test]
    fn every_operation_is_described_and_asks_for_credentials() {
        let document = document();
        let mut ids = std::collections::BTreeSet::new();
        let operations = operations(&document);
        assert!(operations.len() >= 20, "the document lost its operations");
        for (name, operation) in operations {
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name}: no summary");
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id), "{name}: its operationId is used twice");
            let (_method, path) = name.split_once(' ').unwrap();
            if OPEN.contains(&path) {
                continue;
            }
            let scope = operation["security"][0]["bearer"][0].as_str().unwrap_or_else(|| panic!("{name}: no scope"));
            assert!(signpost_engine::Scope::parse(scope).is_some(), "{name}: {scope}");
            assert!(operation["description"].as_str().unwrap().contains(&format!("Scope `{scope}`")), "{name}");
            for status in ["401", "403", "429", "500", "503"] {
                let content = &operation["responses"][status]["content"][PROBLEM_JSON]["schema"]["$ref"];
                assert_eq!(content, "#/components/schemas/Problem", "{name}: {status}");
            }
        }
    }

    #[test]
    fn problem_types_are_a_closed_enumeration() {
        let listed = document()["components"]["schemas"]["ProblemType"]["enum"].clone();
        let known: Vec<_> = ProblemType::ALL.iter().map(|kind| kind.urn()).collect();
        assert_eq!(listed, serde_json::json!(known));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target} leads nowhere");
                    }
                    map.values().for_each(|value| walk(value, document));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, document)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        walk(&document, &document);
    }
}
