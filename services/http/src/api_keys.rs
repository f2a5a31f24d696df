//! API keys of the tenant.
use crate::body::JsonBody;
use crate::caller::{Admin, Authorized};
use crate::json::Bounded;
use crate::openapi::problems;
use crate::page::{Page, timestamp};
use crate::problem::Problem;
use crate::query::Query;
use crate::router::ApiState;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use signpost_engine::rows::ApiKeyRow;
use utoipa::ToSchema;

/// What a key may do.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum ScopeName {
    #[schema(rename = "domains:read")]
    DomainsRead,
    #[schema(rename = "domains:write")]
    DomainsWrite,
    #[schema(rename = "messages:send")]
    MessagesSend,
    #[schema(rename = "messages:read")]
    MessagesRead,
    #[schema(rename = "sign")]
    Sign,
    #[schema(rename = "admin")]
    Admin,
}

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApiKey {
    /// For people.
    name: String,
    /// At least one, and none that the calling key lacks.
    #[schema(value_type = Vec<ScopeName>)]
    scopes: Bounded<String, 100>,
    /// When it stops working; never unless given.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// An API key; its secret is never shown again.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiKey {
    /// The middle part of `sp_<id>_<secret>`.
    id: String,
    /// For people.
    name: String,
    /// What it may do.
    #[schema(value_type = Vec<ScopeName>)]
    scopes: Vec<String>,
    #[schema(format = DateTime)]
    created_at: String,
    /// When it stops working.
    #[schema(format = DateTime, required = true)]
    expires_at: Option<String>,
    /// When it was revoked.
    #[schema(format = DateTime, required = true)]
    revoked_at: Option<String>,
    /// Last use, at most a minute stale.
    #[schema(format = DateTime, required = true)]
    last_used_at: Option<String>,
}

impl From<ApiKeyRow> for ApiKey {
    fn from(row: ApiKeyRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            scopes: row.scopes.split_ascii_whitespace().map(str::to_owned).collect(),
            created_at: timestamp(row.created_at),
            expires_at: row.expires_at.map(timestamp),
            revoked_at: row.revoked_at.map(timestamp),
            last_used_at: row.last_used_at.map(timestamp),
        }
    }
}

/// A new key with its token, shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IssuedApiKey {
    #[serde(flatten)]
    key: ApiKey,
    /// `sp_<id>_<secret>`: keep it now.
    api_key: String,
}

/// A page of it.
pub(crate) type ApiKeyPage = Page<ApiKey>;

problems! { CreateProblems: InvalidRequest MalformedJson MessageTooLarge UnsupportedMediaType IncompleteBody Timeout }
problems! { ListProblems: InvalidRequest }
problems! { RevokeProblems: NotFound InvalidRequest }

/// Make an API key
///
/// Scope `admin`. The answer is the only place where the token ever stands.
#[utoipa::path(post, path = "/v1/api-keys", operation_id = "createApiKey", tag = "API keys", security(("bearer" = ["admin"])),
    request_body = NewApiKey, responses((status = 201, description = "The key with its token.", body = IssuedApiKey), CreateProblems))]
pub(crate) async fn create_api_key(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<Admin>,
    Query(()): Query<()>,
    JsonBody { value: new, .. }: JsonBody<NewApiKey>,
) -> Result<(StatusCode, Json<IssuedApiKey>), Problem> {
    let issued = state.engine.create_api_key(&caller, &new.name, &new.scopes.0, new.expires_at.as_deref()).await?;
    Ok((StatusCode::CREATED, Json(IssuedApiKey { key: issued.row.into(), api_key: issued.token })))
}

/// List API keys
///
/// Scope `admin`. All keys of the tenant on one page, newest first, without their secrets.
#[utoipa::path(get, path = "/v1/api-keys", operation_id = "listApiKeys", tag = "API keys", security(("bearer" = ["admin"])),
    responses((status = 200, description = "The keys.", body = ApiKeyPage), ListProblems))]
pub(crate) async fn list_api_keys(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<Admin>,
    Query(()): Query<()>,
) -> Result<Json<ApiKeyPage>, Problem> {
    let rows = state.engine.api_keys(&caller).await?;
    Ok(Json(Page::whole(rows.into_iter().map(ApiKey::from).collect())))
}

/// Revoke an API key
///
/// Scope `admin`. It stops working at once and stays in the list.
#[utoipa::path(delete, path = "/v1/api-keys/{id}", operation_id = "revokeApiKey", tag = "API keys", security(("bearer" = ["admin"])),
    params(("id" = String, Path, description = "Id of the key: the middle part of its token")),
    responses((status = 204, description = "Revoked."), RevokeProblems))]
pub(crate) async fn revoke_api_key(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<Admin>,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
    Query(()): Query<()>,
) -> Result<StatusCode, Problem> {
    let Path(id) = id.map_err(|_| Problem::not_found("API key"))?;
    state.engine.revoke_api_key(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
