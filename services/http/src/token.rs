//! POST /token (OAuth 2 client credentials) and the keys that its tokens verify with.
use crate::body::{media_type, read};
use crate::jwt;
use crate::openapi::without_credentials;
use crate::problem::{Problem, ProblemType};
use crate::query::Query;
use crate::rate;
use crate::router::ApiState;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, PRAGMA, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use signpost_engine::{Caller, Error, Scope, TOKEN_LIFETIME_S};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::openapi::{RefOr, Response as OpenApiResponse};
use utoipa::{IntoResponses, ToSchema};

/// A form of this call is some hundred octets.
const FORM_LIMIT: u64 = 16 * 1024;
/// Seconds that the key set may be kept; a new key is in it a day before it signs.
const KEYS_KEPT: &str = "public, max-age=3600";

/// The form (RFC 6749 4.4.2, 2.3.1).
#[derive(Deserialize, ToSchema)]
#[schema(as = TokenRequest)]
#[expect(
    dead_code,
    reason = "only its schema is used: the form is read by hand, because RFC 6749 says what each fault answers"
)]
pub(crate) struct TokenForm {
    /// `client_credentials`
    grant_type: String,
    /// Id of an API key, the middle part of `sp_<id>_<secret>`; or by HTTP Basic
    client_id: Option<String>,
    /// The secret of that key, or the whole key; or by HTTP Basic
    client_secret: Option<String>,
    /// Scopes separated by spaces; all of the key's unless given
    scope: Option<String>,
}

/// A token (RFC 6749 5.1).
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenAnswer {
    /// A JWT (RFC 9068): send it as `Authorization: Bearer ...`.
    access_token: String,
    /// `Bearer`
    token_type: &'static str,
    /// Seconds.
    expires_in: i64,
    /// What it may be used for.
    scope: String,
}

/// An error (RFC 6749 5.2).
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenError {
    error: TokenErrorCode,
    /// What is wrong and how to mend it.
    error_description: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TokenErrorCode {
    InvalidRequest,
    InvalidClient,
    UnsupportedGrantType,
    InvalidScope,
}

/// Why there is no token.
enum Refusal {
    OAuth(TokenErrorCode, &'static str),
    Other(Box<Problem>),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Unauthenticated | Error::TenantSuspended => Self::OAuth(
                TokenErrorCode::InvalidClient,
                "The client is unknown, expired, revoked or suspended, or its secret is wrong.",
            ),
            other => Self::Other(Box::new(other.into())),
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Other(Box::new(problem))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (error, error_description) = match self {
            Self::OAuth(error, description) => (error, description),
            Self::Other(problem) => return problem.into_response(),
        };
        let status =
            if error == TokenErrorCode::InvalidClient { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
        let mut response = (status, Json(TokenError { error, error_description })).into_response();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 11.6.1, RFC 6749 5.2: the scheme that the client may have used.
            let basic = HeaderValue::from_static("Basic realm=\"signpost\", charset=\"UTF-8\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, basic);
        }
        never_kept(response)
    }
}

/// RFC 6749 5.1.
fn never_kept(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// Problems of POST /token besides those of RFC 6749.
pub(crate) enum TokenProblems {}

impl IntoResponses for TokenProblems {
    fn responses() -> BTreeMap<String, RefOr<OpenApiResponse>> {
        use ProblemType as T;
        without_credentials(&[
            T::InvalidRequest,
            T::MessageTooLarge,
            T::Timeout,
            T::RateLimited,
            T::Sealed,
            T::StoreUnavailable,
            T::Overloaded,
            T::Internal,
        ])
    }
}

/// Get an access token
///
/// OAuth 2 client credentials (RFC 6749 4.4): an API key is the client, its id the `client_id`, its secret (or the whole key) the
/// `client_secret`, by HTTP Basic or in the form. The token is good for 15 minutes, wherever the API key is; revoking the key ends it too.
#[utoipa::path(post, path = "/v1/token", operation_id = "createToken", tag = "Access", security(()),
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "A token.", body = TokenAnswer),
        (status = 400, description = "RFC 6749 5.2: `invalid_request`, `unsupported_grant_type` or `invalid_scope`.", body = TokenError),
        (status = 401, description = "RFC 6749 5.2: `invalid_client`.", body = TokenError), TokenProblems))]
pub(crate) async fn create_token(State(state): State<ApiState>, Query(()): Query<()>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let granted = async {
        if media_type(&parts.headers) != "application/x-www-form-urlencoded" {
            return Err(Refusal::OAuth(
                TokenErrorCode::InvalidRequest,
                "Send a form: Content-Type application/x-www-form-urlencoded.",
            ));
        }
        let form = Form::parse(&read(body, FORM_LIMIT).await?)?;
        let (id, secret) = credentials(&parts.headers, &form)?;
        if form.grant_type.as_deref() != Some("client_credentials") {
            return Err(match form.grant_type {
                None => Refusal::OAuth(TokenErrorCode::InvalidRequest, "grant_type is missing: client_credentials."),
                Some(_) => Refusal::OAuth(
                    TokenErrorCode::UnsupportedGrantType,
                    "The only grant_type here is client_credentials.",
                ),
            });
        }
        let caller = state.engine.authenticate_client(&id, secret_part(&id, &secret)).await?;
        tracing::Span::current().record("tenant", &caller.tenant_id);
        rate::admit(state.rate.as_ref(), &caller.tenant_id, &parts)?;
        grant(&state, &caller, form.scope.as_deref()).await
    };
    match granted.await {
        Ok(answer) => never_kept(Json(answer).into_response()),
        Err(refusal) => refusal.into_response(),
    }
}

async fn grant(state: &ApiState, caller: &Caller, wanted: Option<&str>) -> Result<TokenAnswer, Refusal> {
    let scopes = granted_scopes(caller, wanted)?;
    let (kid, key) = state.engine.token_signing_key().await?;
    let (jti, now) = (state.engine.fresh_id(), state.engine.now_s());
    let access_token = state
        .issuer
        .issue((&kid, key.pkcs8()), &caller.key_id, &scopes, (&jti, now))
        .map_err(|error| Problem::internal(&error))?;
    Ok(TokenAnswer {
        access_token,
        token_type: "Bearer",
        expires_in: TOKEN_LIFETIME_S,
        scope: jwt::scope_text(&scopes),
    })
}

fn granted_scopes(caller: &Caller, wanted: Option<&str>) -> Result<Vec<Scope>, Refusal> {
    let Some(wanted) = wanted else { return Ok(caller.scopes.clone()) };
    let refused =
        Refusal::OAuth(TokenErrorCode::InvalidScope, "scope names what this API key does not have, or nothing.");
    let scopes: Option<Vec<Scope>> = wanted
        .split(' ')
        .filter(|name| !name.is_empty())
        .map(|name| Scope::parse(name).filter(|scope| caller.scopes.contains(scope)))
        .collect();
    match scopes {
        Some(mut scopes) if !scopes.is_empty() => {
            scopes.sort_unstable();
            scopes.dedup();
            Ok(scopes)
        }
        Some(_) | None => Err(refused),
    }
}

/// The parameters that we know; others are ignored (RFC 6749 3.2).
#[derive(Default)]
struct Form {
    grant_type: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    scope: Option<String>,
}

impl Form {
    fn parse(octets: &[u8]) -> Result<Self, Refusal> {
        let mut form = Self::default();
        let mut seen = BTreeSet::new();
        for (name, value) in form_urlencoded::parse(octets) {
            if !seen.insert(name.clone()) {
                return Err(Refusal::OAuth(TokenErrorCode::InvalidRequest, "A parameter is there twice."));
            }
            let slot = match &*name {
                "grant_type" => &mut form.grant_type,
                "client_id" => &mut form.client_id,
                "client_secret" => &mut form.client_secret,
                "scope" => &mut form.scope,
                _ => continue,
            };
            // RFC 6749 3.2: a parameter without a value is as if it were not there.
            *slot = Some(value.into_owned()).filter(|value| !value.is_empty());
        }
        Ok(form)
    }
}

/// RFC 6749 2.3.1: by HTTP Basic, whose parts are form-encoded, or in the form; never both.
fn credentials(headers: &HeaderMap, form: &Form) -> Result<(String, String), Refusal> {
    let invalid = |text| Refusal::OAuth(TokenErrorCode::InvalidRequest, text);
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (id, secret) = match (values.next(), values.next()) {
        (None, _) => (form.client_id.clone(), form.client_secret.clone()),
        (Some(_), Some(_)) => return Err(invalid("Authorization is there twice.")),
        (Some(_), None) if form.client_secret.is_some() => {
            return Err(invalid("The client is named twice: use HTTP Basic or the form."));
        }
        (Some(value), None) => {
            let (id, secret) = basic(value).ok_or(Refusal::OAuth(
                TokenErrorCode::InvalidClient,
                "Authorization must be Basic with client_id and client_secret.",
            ))?;
            if form.client_id.as_ref().is_some_and(|named| *named != id) {
                return Err(invalid("client_id in the form is another one than in Authorization."));
            }
            (Some(id), Some(secret))
        }
    };
    match (id, secret) {
        (Some(id), Some(secret)) => Ok((id, secret)),
        (_, _) => Err(Refusal::OAuth(TokenErrorCode::InvalidClient, "client_id and client_secret are needed.")),
    }
}

fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((form_decoded(id)?, form_decoded(secret)?))
}

/// One value of `application/x-www-form-urlencoded`.
fn form_decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

/// The secret itself, also where the whole API key was given.
fn secret_part<'a>(id: &str, secret: &'a str) -> &'a str {
    let of_key =
        secret.strip_prefix("sp_").and_then(|rest| rest.strip_prefix(id)).and_then(|rest| rest.strip_prefix('_'));
    of_key.unwrap_or(secret)
}

/// A set of keys (RFC 7517 5).
#[derive(Serialize, ToSchema)]
pub(crate) struct KeySet {
    /// JWKs: Ed25519 (RFC 8037).
    keys: Vec<serde_json::Value>,
}

/// Problems of the key set.
pub(crate) enum KeySetProblems {}

impl IntoResponses for KeySetProblems {
    fn responses() -> BTreeMap<String, RefOr<OpenApiResponse>> {
        without_credentials(&[ProblemType::InvalidRequest, ProblemType::StoreUnavailable])
    }
}

/// Keys of access tokens
///
/// The public keys that access tokens verify with (RFC 7517). A key is here a day before it signs, and until its last token has expired.
#[utoipa::path(get, path = "/.well-known/jwks.json", operation_id = "getKeySet", tag = "Access", security(()),
    responses((status = 200, description = "The keys.", body = KeySet), KeySetProblems))]
pub(crate) async fn key_set(State(state): State<ApiState>, Query(()): Query<()>) -> Result<Response, Problem> {
    let keys: Vec<_> = state.engine.token_public_keys().await?.iter().map(jwt::jwk).collect();
    // The first key signs at once: a set without it must not be kept.
    let kept = if keys.is_empty() { "no-store" } else { KEYS_KEPT };
    Ok(([(CACHE_CONTROL, kept)], Json(KeySet { keys })).into_response())
}

/// Who bears this token.
pub(crate) async fn bearer(state: &ApiState, token: &str) -> Result<Caller, Error> {
    let refused = |why: jwt::Refused| {
        tracing::debug!(?why, "an access token was refused");
        Error::Unauthenticated
    };
    let kid = jwt::kid(token).map_err(refused)?;
    let key = state.engine.token_public_key(&kid).await?.ok_or(refused(jwt::Refused::UnknownKey))?;
    let claims = state.issuer.verify(token, &key, state.engine.now_s()).map_err(refused)?;
    state.engine.authenticate_bearer(&claims.key_id, &claims.scopes).await
}
