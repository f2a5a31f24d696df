//! What to publish, in the forms that people and programs read.
use crate::caller::{Authorized, DomainsRead};
use crate::domains::{Checked, ReadProblems, Record};
use crate::page::Page;
use crate::path::{DomainId, Id};
use crate::problem::{Fault, Problem};
use crate::query::{FromParams, Params, Query};
use crate::router::ApiState;
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use signpost_engine::domains::{CheckedRecord, Format, RecordView};
use utoipa::{IntoParams, ToSchema};

/// A page of it.
pub(crate) type RecordPage = Page<Record>;

/// Form of a list of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum RecordFormat {
    Json,
    Bind,
    Route53,
    Cloudflare,
    Nsupdate,
}

/// Query of the record list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct RecordQuery {
    /// `json` unless given; `bind`: fragment of a zone file; `route53`: change batch of Amazon Route 53; `cloudflare`: file for
    /// Cloudflare's import; `nsupdate`: script for nsupdate.
    #[param(inline, required = false)]
    format: RecordFormat,
}

impl FromParams for RecordQuery {
    fn from_params(params: &mut Params) -> Result<Self, Fault> {
        let format = match params.one("format")?.as_deref() {
            None | Some("json") => RecordFormat::Json,
            Some("bind") => RecordFormat::Bind,
            Some("route53") => RecordFormat::Route53,
            Some("cloudflare") => RecordFormat::Cloudflare,
            Some("nsupdate") => RecordFormat::Nsupdate,
            Some(_) => {
                let detail = "`format` is `json`, `bind`, `route53`, `cloudflare` or `nsupdate`.";
                return Err(Fault::in_parameter("format", detail));
            }
        };
        Ok(Self { format })
    }
}

/// With `format=json` a page of records; with `format=route53` a change batch.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the schema of the OpenAPI document; values are made by the engine")]
pub(crate) enum RecordList {
    Records(RecordPage),
    ChangeBatch(Route53ChangeBatch),
}

/// Input of Amazon Route 53's ChangeResourceRecordSets (2013-04-01). Record sets hold what stands at their names now beside ours.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "PascalCase")]
#[expect(dead_code, reason = "the schema of the OpenAPI document; values are made by the engine")]
pub(crate) struct Route53ChangeBatch {
    #[schema(max_length = 256)]
    comment: String,
    changes: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// What to publish
///
/// Scope `domains:read`. All records on one page, or in a form that a program reads: then DNS is asked what stands at the names now, so
/// that nothing of others is overwritten and no second SPF or DMARC record is made; what cannot be added safely is left out and a comment says
/// why. Where DNS is asked this counts as a check (120 a minute per tenant) and takes up to 4 seconds.
#[utoipa::path(get, path = "/v1/domains/{id}/records", operation_id = "listRecords", tag = "Domains", security(("bearer" = ["domains:read"])),
    params(("id" = String, Path, description = "Id of the domain, `dom_...`"), RecordQuery),
    responses((status = 200, description = "The records.", content((RecordList = "application/json"), (String = "text/plain"))), ReadProblems))]
pub(crate) async fn list_records(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<DomainsRead>,
    Id(id, ..): Id<DomainId>,
    Query(query): Query<RecordQuery>,
) -> Result<Response, Problem> {
    let engine = state.engine;
    let (format, content_type) = match query.format {
        RecordFormat::Json => {
            let records = engine.domain_records(&caller, &id).await?;
            return Ok(Json(page(records)).into_response());
        }
        RecordFormat::Bind => (Format::Bind, "text/plain; charset=utf-8"),
        RecordFormat::Route53 => (Format::Route53, "application/json"),
        RecordFormat::Cloudflare => (Format::Cloudflare, "text/plain; charset=utf-8"),
        RecordFormat::Nsupdate => (Format::Nsupdate, "text/plain; charset=utf-8"),
    };
    let text = engine.domain_records_as(&caller, &id, format).await?;
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}

fn page(records: Vec<RecordView>) -> RecordPage {
    Page::whole(records.into_iter().map(Record::from).collect())
}

/// A list of records as the API shows it.
///
/// # Errors
/// It cannot be written as JSON.
pub fn records_json(records: Vec<RecordView>) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::to_value(page(records))
}

/// Checked records as the API shows those of a check.
///
/// # Errors
/// They cannot be written as JSON.
pub fn checked_records_json(records: Vec<CheckedRecord>) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::to_value(records.into_iter().map(Checked::from).collect::<Vec<_>>())
}
