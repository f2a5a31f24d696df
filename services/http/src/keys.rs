//! DKIM keys of a domain.
use crate::body::{JsonBody, OptionalJsonBody};
use crate::caller::{Authorized, DomainsRead, DomainsWrite};
use crate::domains::to_its_end;
use crate::openapi::problems;
use crate::page::{Page, timestamp};
use crate::path::{DomainId, Id, KeyId};
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
/// `retiring` while mail signed by it may still be on its way, `retired` when nothing needs its record any more; `revoked`: not to
/// be trusted any more, its record is to be replaced by `v=DKIM1; p=`.
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
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    /// `rsa-2048` unless given; at a rotation that of the present key.
    #[schema(value_type = Option<KeyAlgorithm>)]
    algorithm: Option<String>,
    /// The service's default unless given, at a rotation that of the present key; one that the service does not offer is a 422.
    #[schema(value_type = Option<Custody>)]
    custody: Option<String>,
}

/// A further key: one to make or, with the ARNs, one that you made in AWS KMS.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FurtherKey {
    /// `rsa-2048` unless given; of your own key what it is, and another one is a 422.
    #[schema(value_type = Option<KeyAlgorithm>)]
    algorithm: Option<String>,
    /// The service's default unless given; one that the service does not offer is a 422. `aws-kms` for a key of your own.
    #[schema(value_type = Option<Custody>)]
    custody: Option<String>,
    /// `arn:aws:kms:<region>:<account>:key/<id>` of your own key: SIGN_VERIFY, of the spec RSA_2048, RSA_3072, RSA_4096 or ECC_NIST_EDWARDS25519.
    kms_key_arn: Option<String>,
    /// `arn:aws:iam::<account>:role/<name>` of the role that may use it; `GET /v1/kms-access` says what it has to trust.
    role_arn: Option<String>,
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
    /// When it came into its state.
    #[schema(format = DateTime)]
    state_since: String,
    /// It signs no earlier, because its name held other data that caches may keep until then.
    #[schema(format = DateTime, required = true)]
    signs_from: Option<String>,
    /// When another key took over.
    #[schema(format = DateTime, required = true)]
    retiring_since: Option<String>,
    /// From then on nothing needs its record and it may be removed from DNS: to come while `retiring`, past once `retired`.
    #[schema(format = DateTime, required = true)]
    safe_to_remove_at: Option<String>,
}

impl From<NewKey> for domains::NewKey {
    fn from(NewKey { algorithm, custody }: NewKey) -> Self {
        Self { algorithm, custody }
    }
}

impl From<KeyRow> for Key {
    fn from(row: KeyRow) -> Self {
        let is_to_come = matches!(row.state.as_str(), "pending" | "published");
        Self {
            state_since: timestamp(row.life.state_since.max(row.created_at)),
            signs_from: row.life.other_data_until.filter(|_| is_to_come).map(timestamp),
            retiring_since: row.life.retiring_since.map(timestamp),
            safe_to_remove_at: row.life.safe_to_remove_at.map(timestamp),
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
problems! { RotateProblems: NotFound TooManyUnproven RotationUnderWay NoFreeSlot Busy InvalidRequest MalformedJson MessageTooLarge UnsupportedMediaType IncompleteBody Timeout KeyUnavailable }
problems! { RevokeProblems: NotFound Busy InvalidRequest }
problems! { ListProblems: NotFound InvalidRequest }

/// Make a further key
///
/// Scope `domains:write`. The key is `pending` and its record joins the domain's records; a check that finds the record makes it usable.
/// With `kms_key_arn` and `role_arn` none is made: the key is yours, in your AWS account, and is used by your role only. A key that this
/// service reaches without the role is refused, and so is a role that can be assumed without your ExternalId.
#[utoipa::path(post, path = "/v1/domains/{id}/keys", operation_id = "createKey", tag = "Keys", security(("bearer" = ["domains:write"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")), request_body = FurtherKey,
    responses((status = 201, description = "The key.", body = Key), CreateProblems))]
pub(crate) async fn create_key(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
    JsonBody { value, .. }: JsonBody<FurtherKey>,
) -> Result<(StatusCode, Json<Key>), Problem> {
    let (engine, FurtherKey { algorithm, custody, kms_key_arn, role_arn }) = (state.engine, value);
    let key = if kms_key_arn.is_some() || role_arn.is_some() {
        let new = domains::NewOwnKey { kms_key_arn, role_arn, custody, algorithm };
        to_its_end(async move { engine.take_domain_key(&caller, &id, &new).await }).await?
    } else {
        let new = domains::NewKey { algorithm, custody };
        to_its_end(async move { engine.create_domain_key(&caller, &id, &new).await }).await?
    };
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

/// Rotate the key of a domain
///
/// Scope `domains:write`. Makes the key that is to replace the one that signs, of the same algorithm and custody unless the body says
/// otherwise. The present key signs on until every authoritative server serves the record of the new one; afterwards it is `retiring`
/// and its record has to stay until `safe_to_remove_at`. 409 `rotation-under-way` while a newer key is on its way already. With dual
/// signing the `algorithm` says which of the two is to be replaced, its RSA or its Ed25519 key; unless given, the one that signs longer
/// and has no successor yet, so that two calls rotate both.
#[utoipa::path(post, path = "/v1/domains/{id}/keys/rotate", operation_id = "rotateKey", tag = "Keys", security(("bearer" = ["domains:write"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")), request_body = Option<NewKey>,
    responses((status = 201, description = "The new key, `pending`.", body = Key), RotateProblems))]
pub(crate) async fn rotate_key(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
    OptionalJsonBody(new): OptionalJsonBody<NewKey>,
) -> Result<(StatusCode, Json<Key>), Problem> {
    let (engine, new) = (state.engine, domains::NewKey::from(new));
    let key = to_its_end(async move { engine.rotate_key(&caller, &id, &new).await }).await?;
    Ok((StatusCode::CREATED, Json(key.into())))
}

/// Revoke a key
///
/// Scope `domains:write`. Nothing is signed with it any more, on any process within seconds, and nothing leaves that it signed: mail that
/// waits is signed anew by the active key before its next attempt, or held until there is one. If it was the active key, the newest
/// published one takes over at once; with dual signing the other active key signs on alone. Its private half is destroyed. Publish
/// `v=DKIM1; p=` in place of its record. Idempotent.
#[utoipa::path(post, path = "/v1/keys/{id}/revoke", operation_id = "revokeKey", tag = "Keys", security(("bearer" = ["domains:write"])),
    params(("id" = String, Path, description = "Id of the key, `key_...`")),
    responses((status = 200, description = "The key, `revoked`.", body = Key), RevokeProblems))]
pub(crate) async fn revoke_key(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Id(id, ..): Id<KeyId>,
    Query(()): Query<()>,
) -> Result<Json<Key>, Problem> {
    let engine = state.engine;
    let key = to_its_end(async move { engine.revoke_key(&caller, &id).await }).await?;
    Ok(Json(key.into()))
}
