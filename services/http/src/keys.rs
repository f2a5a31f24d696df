//! DKIM keys of a domain.
use crate::body::JsonBody;
use crate::caller::{Authorized, DomainsRead, DomainsWrite};
use crate::domains::to_its_end;
use crate::openapi::problems;
use crate::page::{Page, timestamp};
use crate::path::{DomainId, Id};
use crate::problem::Problem;
use crate::query::Query;
use crate::router::ApiState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use signpost_engine::rows::KeyRow;
use signpost_engine::{domains, ids};
use utoipa::ToSchema;

/// Kind and size of a key.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum KeyAlgorithm {
    #[schema(rename = "rsa-2048")]
    Rsa2048,
    #[schema(rename = "rsa-3072")]
    Rsa3072,
    #[schema(rename = "rsa-4096")]
    Rsa4096,
    #[schema(rename = "ed25519")]
    Ed25519,
}

/// Who holds the private half.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum Custody {
    Sealed,
    AwsKms,
    AwsKmsEnvelope,
    Imported,
}

/// Where a key is in its life: `pending` until its record is found, `published` until it signs, `active` while it signs,
/// `retiring` while mail signed by it may still be on its way.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum KeyState {
    Pending,
    Published,
    Active,
    Retiring,
    Retired,
    Revoked,
}

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    /// `rsa-2048` unless given.
    #[schema(value_type = Option<KeyAlgorithm>)]
    algorithm: Option<String>,
    /// The service's default unless given; one that the service does not offer is a 422.
    #[schema(value_type = Option<Custody>)]
    custody: Option<String>,
}

/// A DKIM key: its public half and its state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Key {
    #[schema(pattern = "^key_[0-9a-f]{32}$")]
    id: String,
    /// The s= of signatures.
    selector: String,
    #[schema(value_type = KeyAlgorithm)]
    algorithm: String,
    #[schema(value_type = Custody)]
    custody: String,
    #[schema(value_type = KeyState)]
    state: String,
    /// The p= value of its record.
    public_key: String,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<KeyRow> for Key {
    fn from(row: KeyRow) -> Self {
        Self {
            id: ids::public("key", &row.id),
            selector: row.selector,
            algorithm: row.algorithm,
            custody: row.custody,
            state: row.state,
            public_key: row.public_key,
            created_at: timestamp(row.created_at),
        }
    }
}

/// A page of it.
pub(crate) type KeyPage = Page<Key>;

problems! { CreateProblems: NotFound TooManyUnproven NoFreeSlot Busy InvalidRequest MalformedJson MessageTooLarge UnsupportedMediaType IncompleteBody Timeout KeyUnavailable }
problems! { ListProblems: NotFound InvalidRequest }

/// Make a further key
///
/// Scope `domains:write`. The key is `pending` and its record joins the domain's records; a check that finds the record makes it usable.
#[utoipa::path(post, path = "/v1/domains/{id}/keys", operation_id = "createKey", tag = "Keys", security(("bearer" = ["domains:write"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")), request_body = NewKey,
    responses((status = 201, description = "The key.", body = Key), CreateProblems))]
pub(crate) async fn create_key(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
    JsonBody { value, .. }: JsonBody<NewKey>,
) -> Result<(StatusCode, Json<Key>), Problem> {
    let new = domains::NewKey { algorithm: value.algorithm, custody: value.custody };
    let engine = state.engine;
    let key = to_its_end(async move { engine.create_domain_key(&caller, &id, &new).await }).await?;
    Ok((StatusCode::CREATED, Json(key.into())))
}

/// List the keys of a domain
///
/// Scope `domains:read`. All keys on one page, oldest first.
#[utoipa::path(get, path = "/v1/domains/{id}/keys", operation_id = "listKeys", tag = "Keys", security(("bearer" = ["domains:read"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")),
    responses((status = 200, description = "The keys.", body = KeyPage), ListProblems))]
pub(crate) async fn list_keys(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsRead>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
) -> Result<Json<KeyPage>, Problem> {
    let rows = state.engine.domain_keys(&caller, &id).await?;
    Ok(Json(Page::whole(rows.into_iter().map(Key::from).collect())))
}
