//! What a use case answers when it does not do it. Free of HTTP: `signpost-http` maps each variant to a problem.

/// One thing wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the request, where the request is JSON.
    pub pointer: Option<String>,
    /// Header field name, where the request is a raw message.
    pub header: Option<String>,
    /// Line of the raw message, from 1.
    pub line: Option<usize>,
    /// What is wrong and how to mend it.
    pub detail: String,
}

impl FieldError {
    /// For a JSON request.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), header: None, line: None, detail: detail.into() }
    }
    /// For a header field of a raw message.
    pub fn in_header(header: impl Into<String>, line: usize, detail: impl Into<String>) -> Self {
        Self { pointer: None, header: Some(header.into()), line: Some(line), detail: detail.into() }
    }
    /// For a raw message as a whole, or one of its lines.
    pub fn in_message(line: Option<usize>, detail: impl Into<String>) -> Self {
        Self { pointer: None, header: None, line, detail: detail.into() }
    }
}

/// Every way a use case can fail. Display is public text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 422: the input is wrong.
    #[error("the request is not valid")]
    Invalid(Vec<FieldError>),
    /// 401: no, unknown, expired or revoked credentials.
    #[error("the API key is missing, unknown, expired or revoked")]
    Unauthenticated,
    /// 403: the credentials lack a scope.
    #[error("this API key lacks the scope {}", .0.as_str())]
    MissingScope(crate::Scope),
    /// 403: the tenant is suspended.
    #[error("this tenant is suspended")]
    TenantSuspended,
    /// 404, also for what belongs to another tenant. The word names the kind: `domain`, `message`, ...
    #[error("no such {0}")]
    NotFound(&'static str),
    /// 403: From, Sender or MAIL FROM of a domain that is not this tenant's verified one. The same whoever owns it.
    #[error("the sender's domain is not a verified domain of this tenant")]
    DomainNotAllowed(FieldError),
    /// 409: own, verified, signing disabled.
    #[error("signing is not enabled for the sender's domain")]
    SigningNotEnabled(FieldError),
    /// 409: signing is suspended and this call cannot wait.
    #[error("signing is suspended for this domain: {0}")]
    SigningSuspended(String),
    /// 409: required records are not ok.
    #[error("required DNS records are not in place")]
    RecordsNotReady(Vec<FieldError>),
    /// 409: another claim on the name was decided meanwhile.
    #[error("another claim on this name was decided meanwhile")]
    ClaimContested,
    /// 409: the tenant has this domain already.
    #[error("this domain is registered already")]
    DomainExists,
    /// 409: a further key in the KMS for a domain that is not proven.
    #[error("at most {domains} domains that are not proven may have keys in the KMS")]
    TooManyUnproven {
        /// How many may.
        domains: i64,
        /// Days after which an unproven one goes.
        days: i64,
    },
    /// 409: a further delegated domain that is not proven: the records of each stand in the operator's zone.
    #[error("at most {domains} delegated domains may be unproven")]
    TooManyDelegated {
        /// How many may.
        domains: i64,
    },
    /// 409: every slot of a delegated domain holds a key, rests, or is kept for an emergency.
    #[error("no slot of this domain is free for a new key")]
    NoFreeSlot {
        /// From when on one will be, in ms, where that is known.
        free_at: Option<i64>,
    },
    /// 409: a newer key is on its way already.
    #[error("a rotation of this domain's key is under way")]
    RotationUnderWay,
    /// 409: it changed while we worked on it; repeat the call.
    #[error("it was changed by another request at the same time")]
    Busy,
    /// 409: the same Idempotency-Key is being worked on.
    #[error("a request with this Idempotency-Key is still being worked on")]
    IdempotencyInFlight,
    /// 422: the Idempotency-Key was used with another body.
    #[error("this Idempotency-Key was used with another request body")]
    IdempotencyMismatch,
    /// 413.
    #[error("the message is larger than {limit} octets")]
    TooLarge {
        /// Limit in octets.
        limit: u64,
    },
    /// 429.
    #[error("too many requests")]
    RateLimited {
        /// Seconds to wait.
        retry_after: u64,
    },
    /// 503: the master key is absent or wrong.
    #[error("the master key is absent or is not the one this data was sealed with")]
    Sealed,
    /// 503: custody cannot use the key now, and this call cannot wait.
    #[error("the signing key cannot be used now")]
    KeyUnavailable,
    /// 503: the store cannot commit now.
    #[error("the database is not available")]
    StoreUnavailable,
    /// 500. The cause is for the log only.
    #[error("internal error")]
    Internal(String),
}

impl From<signpost_store::StoreError> for Error {
    fn from(error: signpost_store::StoreError) -> Self {
        use signpost_store::StoreError as S;
        match error {
            S::Unavailable(_) | S::InUse => Self::StoreUnavailable,
            S::Conflict | S::Stale => Self::Busy,
            S::Contested => Self::ClaimContested,
            S::Damaged(cause) | S::Refused(cause) => Self::Internal(cause),
        }
    }
}

impl From<signpost_keys::CustodyError> for Error {
    fn from(error: signpost_keys::CustodyError) -> Self {
        match error {
            signpost_keys::CustodyError::Unavailable(_)
            | signpost_keys::CustodyError::Transient(_)
            | signpost_keys::CustodyError::Paced(_)
            | signpost_keys::CustodyError::KeyUnavailable(_)
            | signpost_keys::CustodyError::KeyNotFound(_) => Self::KeyUnavailable,
            signpost_keys::CustodyError::Refused(cause) => Self::Internal(cause),
        }
    }
}
