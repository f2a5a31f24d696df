//! Domains: register, records, check, enable, disable.
use crate::body::JsonBody;
use crate::caller::{Authorized, DomainsRead, DomainsWrite};
use crate::keys::{Key, KeyAlgorithm};
use crate::openapi::problems;
use crate::page::{Page, timestamp};
use crate::path::{CheckId, DomainId, Id};
use crate::problem::Problem;
use crate::query::{Paging, Query};
use crate::router::ApiState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use signpost_engine::domains::{self, CheckView, CheckedRecord, DomainView, RecordView, ServerView};
use signpost_engine::ids;
use utoipa::ToSchema;

/// How the key records get into DNS: published by the owner, or delegated to the service.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum DkimMode {
    Txt,
    Delegated,
}

/// Whether the tenant has proven that the domain is theirs; `lost` if another has proven it since.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum Ownership {
    Pending,
    Verified,
    Lost,
}

/// Whether mail of the domain is signed.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum Signing {
    Disabled,
    Enabled,
    Suspended,
}

/// Why signing is suspended.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum SigningReason {
    KeyUnavailable,
    RecordWrong,
    OwnershipLost,
    TenantSuspended,
}

/// What a record is for.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    Ownership,
    Dkim,
    Spf,
    ReturnPath,
    Dmarc,
}

impl From<domains::Purpose> for Purpose {
    fn from(purpose: domains::Purpose) -> Self {
        match purpose {
            domains::Purpose::Ownership => Self::Ownership,
            domains::Purpose::Dkim => Self::Dkim,
            domains::Purpose::Spf => Self::Spf,
            domains::Purpose::ReturnPath => Self::ReturnPath,
            domains::Purpose::Dmarc => Self::Dmarc,
        }
    }
}

/// Type of a DNS record.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "UPPERCASE")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum RecordType {
    Txt,
    Cname,
    Mx,
}

/// What the last check found for a record.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum RecordStatus {
    Unchecked,
    Ok,
    Missing,
    Mismatch,
    Malformed,
    Duplicate,
    Misplaced,
    Truncated,
    Revoked,
    Wildcard,
    CnameBroken,
    Unusable,
    Lagging,
    DnssecBogus,
    Unreachable,
}

/// Result of a check: `pass` iff every required record is ok, `fail` iff a required one is wrong.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine as text")]
pub(crate) enum Verdict {
    Pass,
    Fail,
    Indeterminate,
}

/// Where a record's zone is known from: the zone's own servers, or an assumption (it is the organizational domain), since DNS was not
/// asked yet or did not answer.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "the closed enumeration of the OpenAPI document; values come from the engine")]
pub(crate) enum ZoneSource {
    Dns,
    Assumed,
}

/// A DNS record to publish.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Record {
    purpose: Purpose,
    #[serde(rename = "type")]
    #[schema(value_type = RecordType)]
    kind: String,
    /// Full owner name without final dot.
    name: String,
    /// The name below `zone`, as most DNS forms want it: `_dmarc.mail` for `_dmarc.mail.example.com` in `example.com`; `@` for the zone itself.
    relative_name: String,
    /// The zone that the record belongs into.
    zone: String,
    #[schema(value_type = ZoneSource)]
    zone_source: domains::ZoneSource,
    /// The value as one text, neither cut nor quoted: names and targets without final dot.
    value: String,
    /// The value as character-strings of at most 255 octets.
    chunks: Vec<String>,
    /// Must be ok before signing can be enabled.
    required: bool,
    #[schema(value_type = RecordStatus)]
    status: String,
    warnings: Vec<String>,
    /// For people: where it goes and what it is for.
    instruction: String,
}

impl From<RecordView> for Record {
    fn from(view: RecordView) -> Self {
        let instruction = view.instruction();
        let RecordView {
            purpose,
            kind,
            name,
            relative_name,
            zone,
            zone_source,
            value,
            chunks,
            required,
            status,
            warnings,
        } = view;
        Self {
            purpose: purpose.into(),
            kind,
            name,
            relative_name,
            zone,
            zone_source,
            value,
            chunks,
            required,
            status,
            warnings,
            instruction,
        }
    }
}

/// One name server's answer; the last one is a recursive resolver's where one was asked.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServerStatus {
    server: String,
    #[schema(value_type = RecordStatus)]
    status: String,
}

impl From<ServerView> for ServerStatus {
    fn from(ServerView { server, status }: ServerView) -> Self {
        Self { server, status }
    }
}

/// A record and what a check found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckedRecord)]
pub(crate) struct Checked {
    #[serde(flatten)]
    record: Record,
    /// Record texts found.
    found: Vec<String>,
    servers: Vec<ServerStatus>,
    /// What is wrong and what to do.
    explanation: String,
}

impl From<CheckedRecord> for Checked {
    fn from(view: CheckedRecord) -> Self {
        Self {
            record: view.record.into(),
            found: view.found,
            servers: view.servers.into_iter().map(ServerStatus::from).collect(),
            explanation: view.explanation,
        }
    }
}

/// A check of a domain's records.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Check {
    #[schema(pattern = "^chk_[0-9a-f]{32}$")]
    id: String,
    #[schema(value_type = Verdict)]
    verdict: String,
    #[schema(format = DateTime)]
    checked_at: String,
    records: Vec<Checked>,
}

impl From<CheckView> for Check {
    fn from(view: CheckView) -> Self {
        Self {
            id: ids::public("chk", &view.id),
            verdict: view.verdict,
            checked_at: timestamp(view.checked_at),
            records: view.records.into_iter().map(Checked::from).collect(),
        }
    }
}

/// A domain of the tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Domain {
    #[schema(pattern = "^dom_[0-9a-f]{32}$")]
    id: String,
    /// In A-labels.
    name: String,
    #[schema(value_type = DkimMode)]
    dkim_mode: String,
    #[schema(value_type = Ownership)]
    ownership: String,
    #[schema(value_type = Signing)]
    signing: String,
    #[schema(value_type = Option<SigningReason>, required = true)]
    signing_reason: Option<String>,
    keys: Vec<Key>,
    records: Vec<Record>,
    #[schema(required = true)]
    last_check: Option<Check>,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<DomainView> for Domain {
    fn from(DomainView { row, keys, records, last_check }: DomainView) -> Self {
        Self {
            id: ids::public("dom", &row.id),
            name: row.name,
            dkim_mode: row.dkim_mode,
            ownership: row.ownership,
            signing: row.signing,
            signing_reason: row.signing_reason,
            keys: keys.into_iter().map(Key::from).collect(),
            records: records.into_iter().map(Record::from).collect(),
            last_check: last_check.map(Check::from),
            created_at: timestamp(row.created_at),
        }
    }
}

/// A domain to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewDomain {
    /// U-labels are welcome. Public suffixes and single labels are refused.
    name: String,
    /// `txt` unless given. `delegated`: publish three CNAMEs once, and the keys behind them are published and replaced without you.
    #[schema(value_type = Option<DkimMode>)]
    dkim_mode: Option<String>,
    /// Of the first key; `rsa-2048` unless given.
    #[schema(value_type = Option<KeyAlgorithm>)]
    algorithm: Option<String>,
}

/// A page of it.
pub(crate) type CheckPage = Page<Check>;
/// A page of it.
pub(crate) type DomainPage = Page<Domain>;

problems! { RegisterProblems: DomainExists TooManyUnproven Busy InvalidRequest MalformedJson MessageTooLarge UnsupportedMediaType IncompleteBody Timeout KeyUnavailable }
problems! { ListProblems: InvalidRequest }
problems! { pub(crate) ReadProblems: NotFound InvalidRequest }
problems! { DeleteProblems: NotFound Busy InvalidRequest }
problems! { CheckProblems: NotFound Busy ClaimContested InvalidRequest }
problems! { EnableProblems: NotFound Busy ClaimContested RecordsNotReady InvalidRequest }
problems! { DisableProblems: NotFound Busy InvalidRequest }

/// Register a domain
///
/// Scope `domains:write`. Makes the first key; the answer lists what to publish. Registering proves nothing yet: publish, then check.
#[utoipa::path(post, path = "/v1/domains", operation_id = "registerDomain", tag = "Domains", security(("bearer" = ["domains:write"])),
    request_body = NewDomain,
    responses((status = 201, description = "The domain.", body = Domain, headers(("location" = String, description = "Path of the domain"))), RegisterProblems))]
pub(crate) async fn register_domain(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Query(()): Query<()>,
    JsonBody { value, .. }: JsonBody<NewDomain>,
) -> Result<Response, Problem> {
    let new = domains::NewDomain { name: value.name, dkim_mode: value.dkim_mode, algorithm: value.algorithm };
    let engine = state.engine;
    let domain = Domain::from(to_its_end(async move { engine.register_domain(&caller, &new).await }).await?);
    let location = [(LOCATION, format!("/v1/domains/{}", domain.id))];
    Ok((StatusCode::CREATED, location, Json(domain)).into_response())
}

/// List domains
///
/// Scope `domains:read`. Oldest first.
#[utoipa::path(get, path = "/v1/domains", operation_id = "listDomains", tag = "Domains", security(("bearer" = ["domains:read"])),
    params(Paging), responses((status = 200, description = "A page of domains.", body = DomainPage), ListProblems))]
pub(crate) async fn list_domains(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsRead>,
    Query(paging): Query<Paging>,
) -> Result<Json<DomainPage>, Problem> {
    let page = state.engine.domains(&caller, paging.after::<DomainId>()?, paging.limit).await?;
    Ok(Json(Page::of::<DomainId, _>(page, Domain::from)))
}

/// Get a domain
///
/// Scope `domains:read`.
#[utoipa::path(get, path = "/v1/domains/{id}", operation_id = "getDomain", tag = "Domains", security(("bearer" = ["domains:read"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")),
    responses((status = 200, description = "The domain.", body = Domain), ReadProblems))]
pub(crate) async fn get_domain(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsRead>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
) -> Result<Json<Domain>, Problem> {
    Ok(Json(state.engine.domain(&caller, &id).await?.into()))
}

/// Delete a domain
///
/// Scope `domains:write`. Cancels queued mail of the domain and withdraws its keys. Remove its records from DNS afterwards.
#[utoipa::path(delete, path = "/v1/domains/{id}", operation_id = "deleteDomain", tag = "Domains", security(("bearer" = ["domains:write"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")),
    responses((status = 204, description = "Deleted."), DeleteProblems))]
pub(crate) async fn delete_domain(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
) -> Result<StatusCode, Problem> {
    state.engine.delete_domain(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Check a domain now
///
/// Scope `domains:write`. Asks the authoritative servers for every record, then, about what is right there, a recursive resolver, and tries a
/// signature with each key whose record is right; takes up to 10 seconds. At most 120 a minute per tenant.
/// A check that passes proves the ownership.
#[utoipa::path(post, path = "/v1/domains/{id}/check", operation_id = "checkDomain", tag = "Domains", security(("bearer" = ["domains:write"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")),
    responses((status = 200, description = "What was found.", body = Check), CheckProblems))]
pub(crate) async fn check_domain(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
) -> Result<Json<Check>, Problem> {
    let engine = state.engine;
    let check = to_its_end(async move { engine.check_domain(&caller, &id).await }).await?;
    Ok(Json(check.into()))
}

/// History of checks
///
/// Scope `domains:read`. Newest first.
#[utoipa::path(get, path = "/v1/domains/{id}/checks", operation_id = "listChecks", tag = "Domains", security(("bearer" = ["domains:read"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`"), Paging),
    responses((status = 200, description = "A page of checks.", body = CheckPage), ReadProblems))]
pub(crate) async fn list_checks(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsRead>,
    Id(id, ..): Id<DomainId>,
    Query(paging): Query<Paging>,
) -> Result<Json<CheckPage>, Problem> {
    let page = state.engine.checks(&caller, &id, paging.after::<CheckId>()?, paging.limit).await?;
    Ok(Json(Page::of::<CheckId, _>(page, Check::from)))
}

/// Enable signing
///
/// Scope `domains:write`. Uses the latest check if it passed, is at most 10 minutes old and covers the present keys; else runs one.
/// 409 `records-not-ready` names each required record that is not ok. Idempotent.
#[utoipa::path(post, path = "/v1/domains/{id}/signing/enable", operation_id = "enableSigning", tag = "Domains", security(("bearer" = ["domains:write"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")),
    responses((status = 200, description = "The domain.", body = Domain), EnableProblems))]
pub(crate) async fn enable_signing(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
) -> Result<Json<Domain>, Problem> {
    let engine = state.engine;
    let domain = to_its_end(async move { engine.enable_signing(&caller, &id).await }).await?;
    Ok(Json(domain.into()))
}

/// Disable signing
///
/// Scope `domains:write`. New mail of the domain is refused with 409 `signing-not-enabled`. Idempotent.
#[utoipa::path(post, path = "/v1/domains/{id}/signing/disable", operation_id = "disableSigning", tag = "Domains", security(("bearer" = ["domains:write"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`")),
    responses((status = 200, description = "The domain.", body = Domain), DisableProblems))]
pub(crate) async fn disable_signing(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsWrite>,
    Id(id, ..): Id<DomainId>,
    Query(()): Query<()>,
) -> Result<Json<Domain>, Problem> {
    Ok(Json(state.engine.disable_signing(&caller, &id).await?.into()))
}

/// Runs work with several commits to its end, also if the client goes away meanwhile.
pub(crate) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, signpost_engine::Error>> + Send + 'static,
) -> Result<T, Problem> {
    use tracing::Instrument;
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => Ok(result?),
        Err(panicked) => Err(Problem::internal(&panicked)),
    }
}
