//! The whole API and the layers around it.
use crate::answer::{self, NewRequestId};
use crate::arriving::{self, BodyMemory};
use crate::body::Limits;
use crate::jwt::Issuer;
use crate::rate::RateLimit;
use crate::{
    api_keys, audit, docs, domains, health, keys, keys_import, kms_access, messages, openapi, raw, records, sign,
    signing_policy, token, verify,
};
use axum::Router;
use axum::extract::FromRef;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use signpost_engine::Engine;
use std::num::NonZeroU32;
use std::sync::Arc;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What handlers need.
#[derive(Clone)]
pub(crate) struct ApiState {
    /// The use cases.
    pub(crate) engine: Engine,
    /// Limits of bodies.
    pub(crate) limits: Limits,
    /// Requests a second per tenant; `None`: off.
    pub(crate) rate: Option<Arc<RateLimit>>,
    /// Of access tokens.
    pub(crate) issuer: Arc<Issuer>,
}

impl FromRef<ApiState> for Limits {
    fn from_ref(state: &ApiState) -> Self {
        state.limits
    }
}

/// Every call. One line routes it and puts it into the OpenAPI document, so that the two cannot drift apart.
pub(crate) fn api() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(openapi::skeleton())
        .routes(routes!(domains::register_domain, domains::list_domains))
        .routes(routes!(domains::get_domain, domains::delete_domain))
        .routes(routes!(records::list_records))
        .routes(routes!(domains::check_domain))
        .routes(routes!(domains::list_checks))
        .routes(routes!(domains::enable_signing))
        .routes(routes!(domains::disable_signing))
        .routes(routes!(keys::create_key, keys::list_keys))
        .routes(routes!(keys::rotate_key))
        .routes(routes!(keys::revoke_key))
        .routes(routes!(kms_access::get_kms_access))
        .routes(routes!(signing_policy::get_signing_policy, signing_policy::change_signing_policy))
        .routes(routes!(keys_import::import_key))
        .routes(routes!(messages::send_message, messages::list_messages))
        .routes(routes!(raw::send_raw_message))
        .routes(routes!(messages::get_message))
        .routes(routes!(messages::get_message_raw))
        .routes(routes!(messages::list_message_events))
        .routes(routes!(sign::sign_message))
        .routes(routes!(verify::verify_message))
        .routes(routes!(api_keys::create_api_key, api_keys::list_api_keys))
        .routes(routes!(api_keys::revoke_api_key))
        .routes(routes!(audit::list_audit))
        .routes(routes!(token::create_token))
        .routes(routes!(token::key_set))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(docs::openapi_document))
        .routes(routes!(docs::docs_page))
        .route(docs::STYLESHEET, get(docs::stylesheet))
}

/// The API over these use cases, ready to serve. `public_url`: how others reach it, which access tokens name; `rate_limit`: requests a
/// second per tenant.
pub fn router(engine: Engine, public_url: &str, rate_limit: Option<NonZeroU32>) -> Router {
    let limits = Limits::for_message(engine.settings().max_message);
    let ids = engine.clone();
    let new_request_id: NewRequestId = Arc::new(move || ids.fresh_id());
    let (routes, _document) = api().split_for_parts();
    let state =
        ApiState { engine, limits, rate: RateLimit::new(rate_limit), issuer: Arc::new(Issuer::new(public_url)) };
    around(routes.with_state(state), new_request_id, BodyMemory::new(limits.in_memory))
}

/// The layers, outermost first. Three limits stand elsewhere: heads, idleness, slow reading and the number of connections with the
/// connection (`serve`), sizes of bodies with the extractors, which know the kind of body, and the tenant's rate with the extractor
/// that knows the tenant (`caller`).
pub(crate) fn around(routes: Router, new_request_id: NewRequestId, bodies: Arc<BodyMemory>) -> Router {
    let layers = ServiceBuilder::new()
        .layer(from_fn_with_state(new_request_id, answer::traced))
        .layer(answer::compression())
        .layer(from_fn(answer::complete))
        .layer(from_fn_with_state(bodies, arriving::bounded))
        .layer(CatchPanicLayer::custom(answer::panicked));
    routes.fallback(answer::no_route).method_not_allowed_fallback(answer::no_method).layer(layers)
}
