//! The audit log.
use crate::caller::{Admin, Authorized};
use crate::openapi::problems;
use crate::page::{Page, timestamp};
use crate::path::{AuditId, DomainId, Kind};
use crate::problem::{Fault, Problem};
use crate::query::{FromParams, Paging, Params, Query};
use crate::router::ApiState;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use signpost_engine::ids;
use signpost_engine::rows::{AuditFilter, AuditRow};
use utoipa::{IntoParams, ToSchema};

/// Longest name of an action.
const LONGEST_ACTION: usize = 100;

/// Who did it: an API key, the operator by the command line, or the service by itself.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ActorType {
    ApiKey,
    Operator,
    System,
}

/// Who did what, once. It is written with the change and never changed or deleted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    #[schema(pattern = "^aud_[0-9a-f]{32}$")]
    id: String,
    #[schema(format = DateTime)]
    at: String,
    actor_type: ActorType,
    /// Id of the API key, where one did it.
    #[schema(required = true)]
    actor: Option<String>,
    /// For example `key.activated`.
    action: String,
    /// Id of the thing that it was done to.
    object: String,
    /// Id of the domain that the thing belongs to, also where it is deleted by now; null for messages and for what has no domain.
    #[schema(required = true)]
    domain: Option<String>,
    /// State before, where there was one.
    #[schema(required = true)]
    before: Value,
    /// State afterwards, where there is one.
    #[schema(required = true)]
    after: Value,
    /// Whatever else is told of this action.
    #[schema(value_type = Object)]
    details: Value,
    /// X-Request-Id of the request, where one did it.
    #[schema(required = true)]
    request_id: Option<String>,
}

impl From<AuditRow> for AuditEntry {
    fn from(mut row: AuditRow) -> Self {
        let mut taken =
            |name: &str| row.details.as_object_mut().and_then(|map| map.remove(name)).unwrap_or(Value::Null);
        let (before, after) = (taken("before"), taken("after"));
        let actor_type = match row.actor.as_str() {
            "system" => ActorType::System,
            "operator" => ActorType::Operator,
            _ => ActorType::ApiKey,
        };
        Self {
            id: ids::public(AuditId::PREFIX, &row.id),
            at: timestamp(row.at),
            actor: matches!(actor_type, ActorType::ApiKey).then_some(row.actor),
            actor_type,
            object: public_object(&row.action, row.object),
            action: row.action,
            domain: row.domain_id.map(|id| ids::public(DomainId::PREFIX, &id)),
            before,
            after,
            details: row.details,
            request_id: row.request_id,
        }
    }
}

/// The id as it is shown elsewhere; the first part of an action names the kind of its object.
fn public_object(action: &str, object: String) -> String {
    match action.split('.').next() {
        Some("domain" | "signing" | "signing_policy") => ids::public("dom", &object),
        Some("key") => ids::public("key", &object),
        Some("message") => ids::public("msg", &object),
        Some("tenant") => ids::public("ten", &object),
        _ => object,
    }
}

/// A page of it.
pub(crate) type AuditEntryPage = Page<AuditEntry>;

/// Which entries.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Only of this domain (`dom_...`) and its keys, also after its deletion.
    domain: Option<String>,
    /// Only with this action, for example `key.revoked`.
    action: Option<String>,
}

impl FromParams for AuditQuery {
    fn from_params(params: &mut Params) -> Result<Self, Fault> {
        let domain = match params.one("domain")? {
            None => None,
            Some(text) => match ids::parse(DomainId::PREFIX, &text) {
                Some(id) => Some(id.to_owned()),
                None => return Err(Fault::in_parameter("domain", "`domain` is the id of a domain, `dom_...`.")),
            },
        };
        let action = params.one("action")?;
        let is_name = |text: &String| {
            text.len() <= LONGEST_ACTION
                && text.split('.').count() == 2
                && text.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'_'))
        };
        if action.as_ref().is_some_and(|action| !is_name(action)) {
            return Err(Fault::in_parameter("action", "`action` is the name of an action, for example `key.revoked`."));
        }
        Ok(Self { domain, action })
    }
}

problems! { ListProblems: InvalidRequest }

/// Read the audit log
///
/// Scope `admin`. Who did what and when, newest first: every action on domains, keys and API keys, every change of their states, every
/// message accepted. Entries are never changed or deleted.
#[utoipa::path(get, path = "/v1/audit", operation_id = "listAudit", tag = "Audit", security(("bearer" = ["admin"])),
    params(Paging, AuditQuery),
    responses((status = 200, description = "A page of entries.", body = AuditEntryPage), ListProblems))]
pub(crate) async fn list_audit(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<Admin>,
    Query((paging, query)): Query<(Paging, AuditQuery)>,
) -> Result<Json<AuditEntryPage>, Problem> {
    let filter = AuditFilter { domain_id: query.domain, action: query.action };
    let page = state.engine.audit_log(&caller, &filter, paging.after::<AuditId>()?, paging.limit).await?;
    Ok(Json(Page::of::<AuditId, _>(page, AuditEntry::from)))
}
