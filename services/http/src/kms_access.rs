//! What the role of a tenant's own key in AWS KMS has to trust.
use crate::caller::{Authorized, DomainsRead};
use crate::openapi::problems;
use crate::problem::Problem;
use crate::query::Query;
use crate::router::ApiState;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use signpost_engine::domains::KmsTrust;
use utoipa::ToSchema;

/// Who assumes the role of your key, and under which ExternalId.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KmsAccess {
    /// The value of `sts:ExternalId` in the condition of the role's trust policy. Yours alone, and always the same.
    external_id: String,
    /// The AWS account of this service, for the principal of the trust policy; null where it has no access to AWS.
    #[schema(required = true, pattern = "^[0-9]{12}$")]
    account: Option<String>,
    /// The user or role of this service in it, by its ARN.
    #[schema(required = true)]
    principal: Option<String>,
}

impl From<KmsTrust> for KmsAccess {
    fn from(KmsTrust { external_id, us }: KmsTrust) -> Self {
        let (account, principal) = us.map(|us| (us.account, us.principal)).unzip();
        Self { external_id, account, principal }
    }
}

problems! { AccessProblems: InvalidRequest }

/// What a role for a key of your own has to trust
///
/// Scope `domains:read`. For `POST /v1/domains/{id}/keys` with `kms_key_arn` and `role_arn`: the trust policy of the role lets this service in
/// under the condition that `sts:ExternalId` is the value given here.
#[utoipa::path(get, path = "/v1/kms-access", operation_id = "getKmsAccess", tag = "Keys", security(("bearer" = ["domains:read"])),
    responses((status = 200, description = "What to trust.", body = KmsAccess), AccessProblems))]
pub(crate) async fn get_kms_access(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsRead>,
    Query(()): Query<()>,
) -> Result<Json<KmsAccess>, Problem> {
    Ok(Json(state.engine.kms_trust(&caller).await?.into()))
}
