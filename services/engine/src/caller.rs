//! Who calls: API keys, scopes.

/// What an API key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the scopes")]
pub enum Scope {
    DomainsRead,
    DomainsWrite,
    MessagesSend,
    MessagesRead,
    Sign,
    Admin,
}

impl Scope {
    /// All tenant scopes.
    pub const ALL: [Self; 6] =
        [Self::DomainsRead, Self::DomainsWrite, Self::MessagesSend, Self::MessagesRead, Self::Sign, Self::Admin];
    /// `domains:read`, ...
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DomainsRead => "domains:read",
            Self::DomainsWrite => "domains:write",
            Self::MessagesSend => "messages:send",
            Self::MessagesRead => "messages:read",
            Self::Sign => "sign",
            Self::Admin => "admin",
        }
    }
    /// The reverse.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Tenant id.
    pub tenant_id: String,
    /// API-key id.
    pub key_id: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// X-Request-Id of this request, for audit rows.
    pub request_id: Option<String>,
}

impl Caller {
    /// `MissingScope` unless the key has it.
    pub fn require(&self, scope: Scope) -> Result<(), crate::Error> {
        if self.scopes.contains(&scope) { Ok(()) } else { Err(crate::Error::MissingScope(scope)) }
    }
}

/// What `signpost tenant create` and POST /api-keys print once.
pub struct IssuedKey {
    /// The stored row.
    pub row: crate::rows::ApiKeyRow,
    /// `sp_<id>_<secret>`; never stored, never shown again.
    pub token: String,
}

impl crate::Engine {
    /// Authenticates `sp_<id>_<secret>`. `Unauthenticated`, `TenantSuspended`, `Sealed`, `StoreUnavailable`.
    pub async fn authenticate(&self, _token: &str) -> Result<Caller, crate::Error> {
        todo!()
    }
    /// A tenant and its first API key with all tenant scopes. For the command line.
    pub async fn create_tenant(&self, _name: &str) -> Result<(crate::rows::TenantRow, IssuedKey), crate::Error> {
        todo!()
    }
    /// Scope admin. `scopes` must be a subset of the caller's; `expires_at` RFC 3339 in the future.
    pub async fn create_api_key(
        &self,
        _caller: &Caller,
        _name: &str,
        _scopes: &[String],
        _expires_at: Option<&str>,
    ) -> Result<IssuedKey, crate::Error> {
        todo!()
    }
    /// Scope admin.
    pub async fn api_keys(&self, _caller: &Caller) -> Result<Vec<crate::rows::ApiKeyRow>, crate::Error> {
        todo!()
    }
    /// Scope admin.
    pub async fn revoke_api_key(&self, _caller: &Caller, _id: &str) -> Result<(), crate::Error> {
        todo!()
    }
    /// /readyz: `Ok`, or `Sealed`, or `StoreUnavailable`.
    pub async fn readiness(&self) -> Result<(), crate::Error> {
        todo!()
    }
}
