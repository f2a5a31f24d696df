//! Is it alive, is it ready.
use crate::openapi::without_credentials;
use crate::problem::{Problem, ProblemType};
use crate::router::ApiState;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, ToSchema};

/// State of the process.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    status: HealthStatus,
    /// What works now and would not after a restart, and how to mend it. Absent if there is no such thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HealthStatus {
    Ok,
}

/// Problems of /readyz, which asks for no credentials.
pub(crate) enum ReadyProblems {}

impl IntoResponses for ReadyProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        without_credentials(&[ProblemType::Sealed, ProblemType::StoreUnavailable])
    }
}

/// Is the process alive
///
/// Answers as long as the process runs, whatever the state of its database and keys.
#[utoipa::path(get, path = "/livez", operation_id = "livez", tag = "Service", security(()),
    responses((status = 200, description = "Alive.", body = Health)))]
pub(crate) async fn livez() -> Json<Health> {
    Json(Health { status: HealthStatus::Ok, detail: None })
}

/// Can it work now
///
/// 200 says that the database answers a read and that the master key is the right one; no write is tried. 503 `sealed` while the
/// master key is absent or wrong, 503 `store-unavailable` while the database does not answer. With 200, `detail` tells of a master key
/// that this process still knows and whose file is gone: put the file back before the process ends.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "Service", security(()),
    responses((status = 200, description = "Ready.", body = Health), ReadyProblems))]
pub(crate) async fn readyz(State(state): State<ApiState>) -> Result<Json<Health>, Problem> {
    let only_in_memory = state.engine.readiness().await?;
    Ok(Json(Health { status: HealthStatus::Ok, detail: only_in_memory.map(|keys| keys.to_string()) }))
}
