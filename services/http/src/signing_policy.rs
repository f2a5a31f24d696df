//! How a domain signs, and when its keys are rotated.
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
use signpost_engine::domains::PolicyChange;
use signpost_engine::rows::{self, SigningPolicyRow};
use utoipa::ToSchema;

/// The policy of a domain.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SigningPolicy {
    /// Days that a key signs before the next one is made; null: none is made by itself.
    #[schema(minimum = 1, maximum = 3650, required = true)]
    rotation_days: Option<i64>,
    /// What becomes of new mail while signing is suspended with the reason `record_wrong`.
    suspended_mail: SuspendedMail,
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

impl From<SigningPolicyRow> for SigningPolicy {
    fn from(row: SigningPolicyRow) -> Self {
        Self { rotation_days: row.rotation_days, suspended_mail: row.suspended_mail.into() }
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
    /// What becomes of new mail while signing is suspended with the reason `record_wrong`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = SuspendedMail, required = false)]
    suspended_mail: Option<SuspendedMail>,
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
/// Scope `domains:write`. What is left out stays as it is.
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
    let change = PolicyChange {
        rotation_days: value.rotation_days,
        suspended_mail: value.suspended_mail.map(rows::SuspendedMail::from),
    };
    Ok(Json(state.engine.change_signing_policy(&caller, &id, change).await?.into()))
}
