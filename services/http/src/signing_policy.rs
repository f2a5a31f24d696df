//! How a domain signs, with one key or two, and when its keys are rotated.
use crate::body::JsonBody;
use crate::caller::{Authorized, DomainsRead, DomainsWrite};
use crate::openapi::problems;
use crate::path::{DomainId, Id};
use crate::problem::Problem;
use crate::query::Query;
use crate::router::ApiState;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Deserializer, Serialize};
use signpost_engine::domains::{PolicyChange, SigningPolicyView};
use signpost_engine::rows;
use utoipa::ToSchema;

/// The policy of a domain.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SigningPolicy {
    /// Days that a key signs before the next one is made; null: none is made by itself.
    #[schema(minimum = 1, maximum = 3650, required = true)]
    rotation_days: Option<i64>,
    /// Each message gets two signatures, by an RSA and by an Ed25519 key (RFC 8463 5), where the domain has both.
    dual_signing: bool,
    /// What becomes of new mail while signing is suspended with the reason `record_wrong`.
    suspended_mail: SuspendedMail,
    /// What to expect of this policy and what is still to be done for it, for people. None for a new domain.
    warnings: Vec<String>,
}

/// What becomes of new mail while DNS serves a wrong record of the key that signs: it is accepted and waits (`hold`), or it is
/// answered with 409 `signing-suspended` (`refuse`).
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub(crate) enum SuspendedMail {
    Hold,
    Refuse,
}

impl TryFrom<String> for SuspendedMail {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        rows::SuspendedMail::parse(&text).map(Self::from).ok_or("one of `hold`, `refuse` is needed")
    }
}

impl From<rows::SuspendedMail> for SuspendedMail {
    fn from(choice: rows::SuspendedMail) -> Self {
        match choice {
            rows::SuspendedMail::Hold => Self::Hold,
            rows::SuspendedMail::Refuse => Self::Refuse,
        }
    }
}

impl From<SuspendedMail> for rows::SuspendedMail {
    fn from(choice: SuspendedMail) -> Self {
        match choice {
            SuspendedMail::Hold => Self::Hold,
            SuspendedMail::Refuse => Self::Refuse,
        }
    }
}

impl From<SigningPolicyView> for SigningPolicy {
    fn from(SigningPolicyView { row, warnings }: SigningPolicyView) -> Self {
        Self {
            rotation_days: row.rotation_days,
            dual_signing: row.dual_signing,
            suspended_mail: row.suspended_mail.into(),
            warnings,
        }
    }
}

/// What of a policy shall be another; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SigningPolicyChange {
    /// Days that a key signs before the next one is made; null: none is made by itself.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 3650)]
    rotation_days: Option<Option<i64>>,
    /// True: an RSA and an Ed25519 key sign beside each other (RFC 8463 5); off unless switched on, because some receivers do not know
    /// Ed25519 and report that signature as failed, although the one beside it passes. It makes no key: make the one of the other kind
    /// with `POST /v1/domains/{id}/keys {"algorithm": "ed25519"}`, publish its record, and check the domain. False: of two keys that
    /// sign the Ed25519 one becomes `retiring`, and one that does not sign yet is revoked. Not for delegated domains.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<bool>, nullable = false)]
    dual_signing: Option<bool>,
    /// What becomes of new mail while signing is suspended with the reason `record_wrong`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = SuspendedMail, required = false)]
    suspended_mail: Option<SuspendedMail>,
}

impl From<SigningPolicyChange> for PolicyChange {
    fn from(SigningPolicyChange { rotation_days, dual_signing, suspended_mail }: SigningPolicyChange) -> Self {
        Self { rotation_days, dual_signing, suspended_mail: suspended_mail.map(rows::SuspendedMail::from) }
    }
}

/// Tells null from a field that is not there.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

problems! { ReadProblems: NotFound InvalidRequest }
problems! { ChangeProblems: NotFound Busy InvalidRequest MalformedJson MessageTooLarge UnsupportedMediaType IncompleteBody Timeout }

/// Get the signing policy of a domain
///
/// Scope `domains:read`.
#[utoipa::path(get, path = "/v1/domains/{id}/signing-policy", operation_id = "getSigningPolicy", tag = "Domains", security(("bearer" = ["domains:read"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")),
    responses((status = 200, description = "The policy.", body = SigningPolicy), ReadProblems))]
pub(crate) async fn get_signing_policy(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsRead>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
) -> Result<Json<SigningPolicy>, Problem> {
    Ok(Json(state.engine.signing_policy(&caller, &id).await?.into()))
}

/// Change the signing policy of a domain
///
/// Scope `domains:write`. What is left out stays as it is. Some receivers report the Ed25519 signature of `dual_signing` as failed; the
/// `warnings` of the answer say so, and what is to be done until both keys sign.
#[utoipa::path(patch, path = "/v1/domains/{id}/signing-policy", operation_id = "changeSigningPolicy", tag = "Domains", security(("bearer" = ["domains:write"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")), request_body = SigningPolicyChange,
    responses((status = 200, description = "The policy as it is now.", body = SigningPolicy), ChangeProblems))]
pub(crate) async fn change_signing_policy(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
    JsonBody { value, .. }: JsonBody<SigningPolicyChange>,
) -> Result<Json<SigningPolicy>, Problem> {
    Ok(Json(state.engine.change_signing_policy(&caller, &id, &value.into()).await?.into()))
}
