//! DKIM keys that were made elsewhere.
use crate::body::JsonBody;
use crate::caller::{Authorized, DomainsWrite};
use crate::domains::to_its_end;
use crate::keys::Key;
use crate::openapi::problems;
use crate::path::{DomainId, Id};
use crate::problem::Problem;
use crate::query::Query;
use crate::router::ApiState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer};
use signpost_engine::domains;
use std::fmt;
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// A text that is never shown, and wiped when dropped.
pub(crate) struct SecretText(Zeroizing<String>);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(hidden)")
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// A private key to import.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyToImport {
    /// As PEM, or base64 of its DER form: PKCS#8 or PKCS#1 (RSA, 2048, 3072 or 4096 bits); for Ed25519 also base64 of its 32-octet seed, or
    /// of the seed and the public key after it. Line ends may be lost or escaped. Not encrypted.
    #[schema(value_type = String, format = Password)]
    private_key: SecretText,
    /// Labels of letters, digits and hyphens, separated by dots (RFC 6376 3.1). A random one unless given; one that was used for this
    /// domain before is a 422.
    selector: Option<String>,
}

problems! { ImportProblems: NotFound Busy InvalidRequest MalformedJson MessageTooLarge UnsupportedMediaType IncompleteBody Timeout KeyUnavailable }

/// Import a key
///
/// Scope `domains:write`. For a key that was made elsewhere, so that its record need not change. It is vetted first: size, exponent,
/// consistency, small or close factors, known faulty makers, and whether it or a factor of it is in use here already. What does not pass
/// is a 422 that says why, and nothing of it is kept. Then it is as a new key: `pending`, until a check finds its record.
#[utoipa::path(post, path = "/v1/domains/{id}/keys/import", operation_id = "importKey", tag = "Keys", security(("bearer" = ["domains:write"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")), request_body = KeyToImport,
    responses((status = 201, description = "The key.", body = Key), ImportProblems))]
pub(crate) async fn import_key(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
    JsonBody { value, .. }: JsonBody<KeyToImport>,
) -> Result<(StatusCode, Json<Key>), Problem> {
    let import = domains::KeyImport { private_key: value.private_key.0, selector: value.selector };
    let engine = state.engine;
    let key = to_its_end(async move { engine.import_domain_key(&caller, &id, import).await }).await?;
    Ok((StatusCode::CREATED, Json(key.into())))
}
