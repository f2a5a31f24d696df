//! The only map from errors to RFC 9457 problems. Handlers answer `Result<_, Problem>`; an `Error` of the engine becomes one by `?`.
//!
//! A `Problem` travels as a response extension; `answer::complete` renders it, because only there the request id is known.
use crate::page::timestamp;
use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use signpost_engine::{Error, FieldError};
use std::borrow::Cow;
use utoipa::ToSchema;

/// Media type of every error (RFC 9457 section 3).
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! problem_types {
    ($($variant:ident $name:tt $status:ident $title:tt)+) => {
        /// Stable name of a kind of problem.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
        pub(crate) enum ProblemType {
            $(#[serde(rename = $name)] $variant,)+
        }

        impl ProblemType {
            /// Every type.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),+];
            /// The value of `type`.
            pub(crate) fn urn(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
            /// The HTTP status it always has.
            pub(crate) fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }
            /// The value of `title`.
            pub(crate) fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }
    };
}

problem_types! {
    InvalidRequest      "urn:signpost:problem:invalid-request"        UNPROCESSABLE_ENTITY   "The request is not valid"
    MalformedJson       "urn:signpost:problem:malformed-json"         BAD_REQUEST            "The body is not JSON"
    IncompleteBody      "urn:signpost:problem:incomplete-body"        BAD_REQUEST            "The body did not arrive whole"
    Unauthenticated     "urn:signpost:problem:unauthenticated"        UNAUTHORIZED           "No valid credentials"
    MissingScope        "urn:signpost:problem:missing-scope"          FORBIDDEN              "The API key lacks a scope"
    TenantSuspended     "urn:signpost:problem:tenant-suspended"       FORBIDDEN              "The tenant is suspended"
    DomainNotAllowed    "urn:signpost:problem:domain-not-allowed"     FORBIDDEN              "The sender's domain is not yours to use"
    NotFound            "urn:signpost:problem:not-found"              NOT_FOUND              "There is no such thing"
    MethodNotAllowed    "urn:signpost:problem:method-not-allowed"     METHOD_NOT_ALLOWED     "The path does not take this method"
    NotAcceptable       "urn:signpost:problem:not-acceptable"         NOT_ACCEPTABLE         "No representation fits the Accept header"
    Timeout             "urn:signpost:problem:timeout"                REQUEST_TIMEOUT        "The body did not arrive in time"
    SigningNotEnabled   "urn:signpost:problem:signing-not-enabled"    CONFLICT               "Signing is not enabled"
    SigningSuspended    "urn:signpost:problem:signing-suspended"      CONFLICT               "Signing is suspended"
    RecordsNotReady     "urn:signpost:problem:records-not-ready"      CONFLICT               "DNS records are not in place"
    ClaimContested      "urn:signpost:problem:claim-contested"        CONFLICT               "Another claim on the name was decided meanwhile"
    DomainExists        "urn:signpost:problem:domain-exists"          CONFLICT               "The domain is registered already"
    TooManyUnproven     "urn:signpost:problem:too-many-unproven-domains" CONFLICT          "Too many domains are not proven"
    NoFreeSlot          "urn:signpost:problem:no-free-slot"           CONFLICT               "No slot of the domain is free for a new key"
    RotationUnderWay    "urn:signpost:problem:rotation-under-way"     CONFLICT               "A rotation is under way"
    Busy                "urn:signpost:problem:busy"                   CONFLICT               "Changed by another request at the same time"
    IdempotencyInFlight "urn:signpost:problem:idempotency-in-flight"  CONFLICT               "The same request is being worked on"
    IdempotencyMismatch "urn:signpost:problem:idempotency-mismatch"   UNPROCESSABLE_ENTITY   "The Idempotency-Key belongs to another request"
    MessageTooLarge     "urn:signpost:problem:message-too-large"      PAYLOAD_TOO_LARGE      "The message or body is too large"
    UnsupportedMediaType "urn:signpost:problem:unsupported-media-type" UNSUPPORTED_MEDIA_TYPE "The Content-Type is not one that this call takes"
    RateLimited         "urn:signpost:problem:rate-limited"           TOO_MANY_REQUESTS      "Too many requests"
    Sealed              "urn:signpost:problem:sealed"                 SERVICE_UNAVAILABLE    "The service is sealed"
    KeyUnavailable      "urn:signpost:problem:key-unavailable"        SERVICE_UNAVAILABLE    "The signing key cannot be used now"
    StoreUnavailable    "urn:signpost:problem:store-unavailable"      SERVICE_UNAVAILABLE    "The database is not available"
    Overloaded          "urn:signpost:problem:overloaded"             SERVICE_UNAVAILABLE    "Too much work at a time"
    Internal            "urn:signpost:problem:internal"               INTERNAL_SERVER_ERROR  "Internal error"
}

impl ProblemType {
    /// True if an Idempotency-Key freezes it: the same request would meet it again. What passes by itself, or says that the request was
    /// not looked at, is never frozen.
    pub(crate) fn freezes(self) -> bool {
        match self {
            Self::InvalidRequest
            | Self::MalformedJson
            | Self::MissingScope
            | Self::DomainNotAllowed
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::NotAcceptable
            | Self::SigningNotEnabled
            | Self::RecordsNotReady
            | Self::ClaimContested
            | Self::DomainExists
            | Self::TooManyUnproven
            | Self::UnsupportedMediaType => true,
            Self::IncompleteBody
            | Self::Unauthenticated
            | Self::TenantSuspended
            | Self::Timeout
            | Self::NoFreeSlot
            | Self::RotationUnderWay
            | Self::Busy
            | Self::IdempotencyInFlight
            | Self::IdempotencyMismatch
            | Self::MessageTooLarge
            | Self::RateLimited
            | Self::Sealed
            | Self::SigningSuspended
            | Self::KeyUnavailable
            | Self::StoreUnavailable
            | Self::Overloaded
            | Self::Internal => false,
        }
    }
}

/// One fault of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Fault {
    /// Where in a JSON body (JSON pointer, RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pointer: Option<String>,
    /// Which header field of a raw message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) header: Option<String>,
    /// Which line of a raw message, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub(crate) line: Option<usize>,
    /// Which query parameter or request header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parameter: Option<String>,
    /// What is wrong and how to mend it.
    pub(crate) detail: String,
}

impl Fault {
    /// A fault of a JSON body.
    pub(crate) fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        FieldError::at(pointer, detail).into()
    }
    /// A fault of a query parameter or request header.
    pub(crate) fn in_parameter(parameter: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: None, header: None, line: None, parameter: Some(parameter.into()), detail: detail.into() }
    }
}

impl From<FieldError> for Fault {
    fn from(FieldError { pointer, header, line, detail }: FieldError) -> Self {
        Self { pointer, header, line, parameter: None, detail }
    }
}

/// The JSON of a problem (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// Stable name of the kind of problem; branch on this.
    pub(crate) r#type: ProblemType,
    /// The same for every problem of this type.
    pub(crate) title: &'static str,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What is wrong here and how to mend it.
    pub(crate) detail: &'a str,
    /// Each fault with its place, where the input is at fault.
    pub(crate) errors: &'a [Fault],
    /// As in X-Request-Id.
    pub(crate) request_id: &'a str,
}

/// An error answer.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) kind: ProblemType,
    detail: Cow<'static, str>,
    errors: Vec<Fault>,
    retry_after: Option<u64>,
    /// Credentials were sent, and are not good.
    token_refused: bool,
}

impl Problem {
    pub(crate) fn new(kind: ProblemType, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None, token_refused: false }
    }

    /// 422 with every fault.
    pub(crate) fn invalid(errors: Vec<Fault>) -> Self {
        let detail = match errors.as_slice() {
            [] => Cow::Borrowed("The request is not valid."),
            [only] => Cow::Owned(only.detail.clone()),
            [_, _, ..] => {
                Cow::Owned(format!("{} things are wrong; `errors` says each and how to mend it.", errors.len()))
            }
        };
        Self::new(ProblemType::InvalidRequest, detail).with_errors(errors)
    }

    /// 404 for a path that could not name anything.
    pub(crate) fn not_found(kind: &'static str) -> Self {
        Self::new(
            ProblemType::NotFound,
            format!("There is no such {kind}. Check the id; ids of other tenants are not visible."),
        )
    }

    /// 413.
    pub(crate) fn too_large(limit: u64) -> Self {
        Self::new(
            ProblemType::MessageTooLarge,
            format!(
                "It is larger than the limit of {limit} octets. Send less, for example a link instead of an attachment."
            ),
        )
    }

    /// 503 by this process being too busy.
    pub(crate) fn overloaded(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemType::Overloaded, detail).retry_after(RETRY_SOON)
    }

    /// 500; the cause goes to the log (the span holds the request id), never to the client.
    pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(
            ProblemType::Internal,
            "Something went wrong on our side. Repeat the call; if it stays, tell the operator the request id.",
        )
    }

    fn with_errors(mut self, errors: Vec<Fault>) -> Self {
        self.errors = errors;
        self
    }

    /// Says so in the challenge of a 401.
    pub(crate) fn with_token_refused(mut self) -> Self {
        self.token_refused = true;
        self
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The JSON octets for a request.
    pub(crate) fn render(&self, request_id: &str) -> Vec<u8> {
        crate::json::to_vec(&ProblemBody {
            r#type: self.kind,
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            errors: &self.errors,
            request_id,
        })
    }
}

impl IntoResponse for Problem {
    /// Status and headers; the body is rendered by `answer::complete`.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        if self.kind == ProblemType::Unauthenticated {
            // RFC 9110 11.6.1: a 401 names the scheme. RFC 6750 3.1: an error code only where there were credentials.
            let challenge = if self.token_refused {
                "Bearer realm=\"signpost\", error=\"invalid_token\""
            } else {
                "Bearer realm=\"signpost\""
            };
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.kind == ProblemType::Timeout {
            // RFC 9110 15.5.9: the rest of the request is not waited for.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Seconds until a caller should try again what waits for the operator or for a restart.
const RETRY_OPERATOR: u64 = 30;
/// Seconds until a caller should try again what is usually over soon.
const RETRY_SOON: u64 = 5;

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        use ProblemType as T;
        match error {
            Error::Invalid(errors) => Self::invalid(errors.into_iter().map(Fault::from).collect()),
            Error::Unauthenticated => Self::new(
                T::Unauthenticated,
                "The API key or access token is missing, unknown, expired or revoked. Send `Authorization: Bearer ...` with a valid one.",
            ),
            Error::MissingScope(scope) => Self::new(
                T::MissingScope,
                format!("This call needs the scope `{}`. Use an API key that has it.", scope.as_str()),
            ),
            Error::TenantSuspended => {
                Self::new(T::TenantSuspended, "This tenant is suspended. Ask the operator of this service.")
            }
            Error::NotFound(kind) => Self::not_found(kind),
            Error::DomainNotAllowed(field) => domain_not_allowed(field),
            Error::SigningNotEnabled(field) => Self::new(
                T::SigningNotEnabled,
                "Signing is not enabled for the sender's domain. Enable it with POST /v1/domains/{id}/signing/enable.",
            )
            .with_errors(vec![field.into()]),
            Error::SigningSuspended(reason) => Self::new(
                T::SigningSuspended,
                format!("Signing is suspended for this domain: {reason}. Run POST /v1/domains/{{id}}/check to see what to mend."),
            ),
            Error::RecordsNotReady(errors) => Self::new(
                T::RecordsNotReady,
                "Required DNS records are not in place. Publish what `errors` names, then repeat the call.",
            )
            .with_errors(errors.into_iter().map(Fault::from).collect()),
            Error::ClaimContested => Self::new(
                T::ClaimContested,
                "Another claim on this name was decided while the check ran. Read the domain again, and check again if it is still pending.",
            ),
            Error::DomainExists => Self::new(
                T::DomainExists,
                "This tenant has registered this domain already. Find it with GET /v1/domains.",
            ),
            Error::TooManyUnproven { domains, days } => Self::new(
                T::TooManyUnproven,
                format!(
                    "At most {domains} domains that are not yet proven may have keys in the KMS, and each of them at most two. \
                     Publish the records of one and check it, or delete one that is not needed; unproven ones expire after {days} days."
                ),
            ),
            Error::TooManyDelegated { domains } => Self::new(
                T::TooManyUnproven,
                format!(
                    "At most {domains} delegated domains may be unproven, because the keys of each stand in DNS already. Publish the \
                     records of one and check it, or delete one that is not needed."
                ),
            ),
            Error::NoFreeSlot { free_at } => no_free_slot(free_at),
            Error::RotationUnderWay => Self::new(
                T::RotationUnderWay,
                "A newer key of this domain is on its way already. Publish its record and check the domain, or revoke that key first.",
            ),
            Error::Busy => {
                Self::new(T::Busy, "Another request changed the same thing at the same time. Repeat the call.")
            }
            Error::IdempotencyInFlight => Self::new(
                T::IdempotencyInFlight,
                "A request with this Idempotency-Key is still being worked on. Repeat the call in a moment.",
            ),
            Error::IdempotencyMismatch => Self::new(
                T::IdempotencyMismatch,
                "This Idempotency-Key was used with another request body. Use a new key for a new request.",
            ),
            Error::TooLarge { limit } => Self::too_large(limit),
            Error::RateLimited { retry_after } => {
                Self::new(T::RateLimited, format!("Too many requests. Repeat the call in {retry_after} seconds."))
                    .retry_after(retry_after)
            }
            Error::Sealed => Self::new(
                T::Sealed,
                "The master key is absent or is not the one this data was sealed with. The operator must provide the right one.",
            )
            .retry_after(RETRY_OPERATOR),
            Error::KeyUnavailable => {
                Self::new(T::KeyUnavailable, "The signing key cannot be used now. Repeat the call later.")
                    .retry_after(RETRY_OPERATOR)
            }
            Error::StoreUnavailable => {
                Self::new(T::StoreUnavailable, "The database cannot commit now. Repeat the call in a moment.")
                    .retry_after(RETRY_SOON)
            }
            Error::Internal(cause) => Self::internal(&cause),
        }
    }
}

/// A delegated domain whose slots are all taken.
fn no_free_slot(free_at: Option<i64>) -> Problem {
    let when = match free_at {
        Some(at) => format!("Repeat the call after {}", timestamp(at)),
        None => "Repeat the call once an older key is retired".to_owned(),
    };
    let detail = format!(
        "Each of the domain's three CNAMEs leads to a key in use, to one that went too recently, or is kept for an emergency. {when}; \
         if the key that signs must not be trusted any more, revoke it: then the last one is used."
    );
    Problem::new(ProblemType::NoFreeSlot, detail)
}

/// DESIGN "authorize": the answer is the same whoever owns the domain, and does not repeat it. So only the place is taken over, not the text.
fn domain_not_allowed(field: FieldError) -> Problem {
    const DETAIL: &str = "The domain of this sender is not a verified domain of this tenant. Register it with POST /v1/domains, publish its records and check it.";
    Problem::new(ProblemType::DomainNotAllowed, DETAIL)
        .with_errors(vec![Fault { detail: DETAIL.to_owned(), ..field.into() }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use signpost_engine::Scope;

    fn field(detail: &str) -> FieldError {
        FieldError::at("/from", detail)
    }

    #[test]
    fn every_engine_error_has_its_problem() {
        let table = [
            (Error::Invalid(vec![field("x")]), 422, "invalid-request"),
            (Error::Unauthenticated, 401, "unauthenticated"),
            (Error::MissingScope(Scope::Sign), 403, "missing-scope"),
            (Error::TenantSuspended, 403, "tenant-suspended"),
            (Error::NotFound("domain"), 404, "not-found"),
            (Error::DomainNotAllowed(field("x")), 403, "domain-not-allowed"),
            (Error::SigningNotEnabled(field("x")), 409, "signing-not-enabled"),
            (Error::SigningSuspended("record_wrong".into()), 409, "signing-suspended"),
            (Error::RecordsNotReady(vec![field("x")]), 409, "records-not-ready"),
            (Error::ClaimContested, 409, "claim-contested"),
            (Error::DomainExists, 409, "domain-exists"),
            (Error::TooManyUnproven { domains: 5, days: 7 }, 409, "too-many-unproven-domains"),
            (Error::TooManyDelegated { domains: 100 }, 409, "too-many-unproven-domains"),
            (Error::NoFreeSlot { free_at: None }, 409, "no-free-slot"),
            (Error::NoFreeSlot { free_at: Some(1_700_000_000_000) }, 409, "no-free-slot"),
            (Error::RotationUnderWay, 409, "rotation-under-way"),
            (Error::Busy, 409, "busy"),
            (Error::IdempotencyInFlight, 409, "idempotency-in-flight"),
            (Error::IdempotencyMismatch, 422, "idempotency-mismatch"),
            (Error::TooLarge { limit: 25_000_000 }, 413, "message-too-large"),
            (Error::RateLimited { retry_after: 7 }, 429, "rate-limited"),
            (Error::Sealed, 503, "sealed"),
            (Error::KeyUnavailable, 503, "key-unavailable"),
            (Error::StoreUnavailable, 503, "store-unavailable"),
            (Error::Internal("secret cause".into()), 500, "internal"),
        ];
        for (error, status, name) in table {
            let shown = format!("{error:?}");
            let problem = Problem::from(error);
            let body: serde_json::Value = serde_json::from_slice(&problem.render("req_1")).unwrap();
            assert_eq!(body["type"], format!("urn:signpost:problem:{name}"), "{shown}");
            assert_eq!(body["status"], status, "{shown}");
            assert_eq!(body["request_id"], "req_1", "{shown}");
            assert!(!body["detail"].as_str().unwrap().is_empty(), "{shown}");
            assert!(!body.to_string().contains("secret cause"), "an internal cause reached the client");
            let response = problem.into_response();
            assert_eq!(response.status().as_u16(), status, "{shown}");
            let waits = response.headers().contains_key(RETRY_AFTER);
            assert_eq!(waits, matches!(status, 429 | 503), "Retry-After of {shown}");
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), status == 401, "{shown}");
        }
    }

    #[test]
    fn domain_not_allowed_never_repeats_what_the_engine_says_about_the_domain() {
        let render = |detail: &str| Problem::from(Error::DomainNotAllowed(field(detail))).render("req_1");
        let one = render("victim.example belongs to another tenant");
        assert_eq!(one, render("nobody.example is unknown"));
        assert!(!String::from_utf8(one).unwrap().contains("example"));
    }

    #[test]
    fn the_type_in_json_is_the_urn_and_unique() {
        let urns: std::collections::BTreeSet<_> = ProblemType::ALL.iter().map(|t| t.urn()).collect();
        assert_eq!(urns.len(), ProblemType::ALL.len());
        for kind in ProblemType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.urn());
        }
    }

    #[test]
    fn only_what_the_same_request_would_meet_again_is_frozen() {
        for kind in ProblemType::ALL {
            let status = kind.status().as_u16();
            if status >= 500 || matches!(status, 401 | 408 | 413 | 429) {
                assert!(!kind.freezes(), "{kind:?}");
            }
        }
        assert!(ProblemType::InvalidRequest.freezes() && ProblemType::DomainNotAllowed.freezes());
        assert!(!ProblemType::Busy.freezes());
    }
}
