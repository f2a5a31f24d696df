//! Who calls: API keys, scopes.
use crate::audit::Actor;
use crate::rows::{ApiKeyRow, TenantRow};
use crate::{Engine, Error, FieldError, ids};
use aws_lc_rs::hmac;
use serde_json::json;
use signpost_store::AuditRow;
use std::sync::{Arc, PoisonError};
use subtle::ConstantTimeEq;

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
    pub fn require(&self, scope: Scope) -> Result<(), Error> {
        if self.scopes.contains(&scope) { Ok(()) } else { Err(Error::MissingScope(scope)) }
    }
}

/// What `signpost tenant create` and POST /api-keys print once.
pub struct IssuedKey {
    /// The stored row.
    pub row: ApiKeyRow,
    /// `sp_<id>_<secret>`; never stored, never shown again.
    pub token: String,
}

/// 40 symbols of 5 bits each: 200 random bits.
const SECRET_LENGTH: usize = 40;

impl Engine {
    /// Authenticates `sp_<id>_<secret>`. `Unauthenticated`, `TenantSuspended`, `Sealed`, `StoreUnavailable`.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, Error> {
        let (id, secret) = split_token(token).ok_or(Error::Unauthenticated)?;
        self.authenticate_client(id, secret).await
    }

    /// The same with id and secret apart.
    pub async fn authenticate_client(&self, id: &str, secret: &str) -> Result<Caller, Error> {
        if !is_plain(id) || !is_plain(secret) {
            return Err(Error::Unauthenticated);
        }
        let found = self.known_api_key(id).await?;
        let mac = self.secret_mac(id, secret)?;
        let Some(found) = found else { return Err(Error::Unauthenticated) };
        let (key, tenant) = &*found;
        let same: bool = key.mac.ct_eq(mac.as_ref()).into();
        if same { self.caller_with(key, tenant) } else { Err(Error::Unauthenticated) }
    }

    /// The caller that an API key stands for, without its secret: who asks has shown that it is theirs.
    pub(crate) async fn caller_of(&self, id: &str) -> Result<Caller, Error> {
        let found = self.known_api_key(id).await?.ok_or(Error::Unauthenticated)?;
        self.caller_with(&found.0, &found.1)
    }

    fn caller_with(&self, key: &ApiKeyRow, tenant: &TenantRow) -> Result<Caller, Error> {
        let now = self.now_ms();
        if key.revoked_at.is_some() || key.expires_at.is_some_and(|at| at <= now) {
            return Err(Error::Unauthenticated);
        }
        if tenant.suspended_at.is_some() {
            return Err(Error::TenantSuspended);
        }
        self.inner.last_uses.lock().unwrap_or_else(PoisonError::into_inner).insert(key.id.clone(), now);
        let scopes = key.scopes.split(' ').filter_map(Scope::parse).collect();
        Ok(Caller { tenant_id: tenant.id.clone(), key_id: key.id.clone(), scopes, request_id: None })
    }

    /// A key and its tenant, re-read at most 5 s stale; at once where this process changed them.
    pub(crate) async fn known_api_key(&self, id: &str) -> Result<Option<Arc<(ApiKeyRow, TenantRow)>>, Error> {
        let (id, reading) = (id.to_owned(), self.reading());
        if let Some(known) = self.inner.api_keys.get(&id, reading) {
            return Ok(Some(known));
        }
        let Some(found) = self.inner.store.api_key_for_authentication(&id).await? else { return Ok(None) };
        let found = Arc::new(found);
        self.inner.api_keys.put(id, Arc::clone(&found), reading);
        Ok(Some(found))
    }

    /// A tenant and its first API key with all tenant scopes. For the command line.
    pub async fn create_tenant(&self, name: &str) -> Result<(TenantRow, IssuedKey), Error> {
        let name = valid_name(name)?;
        let now = self.now_ms();
        let tenant = TenantRow { id: self.fresh_id(), name: name.to_owned(), suspended_at: None, created_at: now };
        let issued = self.issue(&tenant.id, "first key", &Scope::ALL, None)?;
        let audit = AuditRow {
            id: self.fresh_id(),
            tenant_id: tenant.id.clone(),
            actor: "operator".into(),
            action: "tenant.created".into(),
            object: tenant.id.clone(),
            domain_id: None,
            details: json!({"name": name, "api_key": issued.row.id}),
            request_id: None,
            at: now,
        };
        self.inner.store.create_tenant(&tenant, &issued.row, &audit).await?;
        Ok((tenant, issued))
    }

    /// Scope admin. `scopes` must be a subset of the caller's; `expires_at` RFC 3339 in the future. A key never outlives the one that
    /// makes it (for a token: the key it was issued to), or whoever got hold of it for a while would have it for ever.
    pub async fn create_api_key(
        &self,
        caller: &Caller,
        name: &str,
        scopes: &[String],
        expires_at: Option<&str>,
    ) -> Result<IssuedKey, Error> {
        caller.require(Scope::Admin)?;
        let name = valid_name(name)?;
        let scopes = granted_scopes(caller, scopes)?;
        let expires_at = match expires_at {
            None => None,
            Some(text) => Some(future_time(text, self.now_ms())?),
        };
        let maker = self.known_api_key(&caller.key_id).await?.ok_or(Error::Unauthenticated)?;
        if maker.0.expires_at.is_some_and(|end| expires_at.is_none_or(|at| at > end)) {
            let detail = "the key that makes this one expires earlier; name a time not after its own `expires_at`";
            return Err(Error::Invalid(vec![FieldError::at("/expires_at", detail)]));
        }
        let issued = self.issue(&caller.tenant_id, name, &scopes, expires_at)?;
        let audit = self.audit(caller, "api_key.created", &issued.row.id, json!({"scopes": issued.row.scopes}));
        self.inner.store.create_api_key(&caller.tenant_id, &issued.row, &audit).await?;
        Ok(issued)
    }

    /// Newest first. Scope admin.
    pub async fn api_keys(&self, caller: &Caller) -> Result<Vec<ApiKeyRow>, Error> {
        caller.require(Scope::Admin)?;
        Ok(self.inner.store.api_keys(&caller.tenant_id).await?)
    }

    /// Scope admin.
    pub async fn revoke_api_key(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        caller.require(Scope::Admin)?;
        let audit = self.audit(caller, "api_key.revoked", id, json!({}));
        let found = self.inner.store.revoke_api_key(&caller.tenant_id, id, self.now_ms(), &audit).await?;
        if found { Ok(()) } else { Err(Error::NotFound("API key")) }
    }

    /// Writes the last uses seen since the last call. Called every few seconds and at shutdown.
    pub async fn flush_last_uses(&self) -> Result<(), Error> {
        let uses: Vec<_> = std::mem::take(&mut *self.inner.last_uses.lock().unwrap_or_else(PoisonError::into_inner))
            .into_iter()
            .collect();
        if uses.is_empty() {
            return Ok(());
        }
        Ok(self.inner.store.touch_api_keys(&uses).await?)
    }

    /// An audit row for what `caller` does.
    pub(crate) fn audit(&self, caller: &Caller, action: &str, object: &str, details: serde_json::Value) -> AuditRow {
        self.audit_by(Actor::Caller(caller), &caller.tenant_id, action, object, details)
    }

    fn issue(&self, tenant: &str, name: &str, scopes: &[Scope], expires_at: Option<i64>) -> Result<IssuedKey, Error> {
        let id = self.fresh_id();
        let secret = ids::random_text(self.inner.random.as_ref(), SECRET_LENGTH);
        let row = ApiKeyRow {
            mac: self.secret_mac(&id, &secret)?.as_ref().to_vec(),
            tenant_id: tenant.to_owned(),
            name: name.to_owned(),
            scopes: scopes.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(" "),
            created_at: self.now_ms(),
            expires_at,
            revoked_at: None,
            last_used_at: None,
            id,
        };
        let token = format!("sp_{}_{secret}", row.id);
        Ok(IssuedKey { row, token })
    }

    /// HMAC-SHA-256 of the secret under the pepper; the id is in it, so that a row's authenticator is good for that row only.
    fn secret_mac(&self, id: &str, secret: &str) -> Result<hmac::Tag, Error> {
        let pepper = self.inner.pepper.read().unwrap_or_else(PoisonError::into_inner);
        let key = hmac::Key::new(hmac::HMAC_SHA256, pepper.as_ref().ok_or(Error::Sealed)?.as_ref());
        Ok(hmac::sign(&key, format!("{id}:{secret}").as_bytes()))
    }
}

/// `sp_<id>_<secret>` -> (id, secret), both of letters and digits.
fn split_token(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.strip_prefix("sp_")?.split_once('_')?;
    (is_plain(id) && is_plain(secret)).then_some((id, secret))
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn valid_name(name: &str) -> Result<&str, Error> {
    let trimmed = name.trim();
    if trimmed.is_empty() || trimmed.chars().count() > 200 || trimmed.chars().any(char::is_control) {
        return Err(Error::Invalid(vec![FieldError::at("/name", "a name of 1 to 200 printable characters is needed")]));
    }
    Ok(trimmed)
}

fn granted_scopes(caller: &Caller, names: &[String]) -> Result<Vec<Scope>, Error> {
    let mut faults = Vec::new();
    let mut scopes = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match Scope::parse(name) {
            None => faults.push(FieldError::at(
                format!("/scopes/{index}"),
                format!("unknown scope; known are {}", Scope::ALL.map(Scope::as_str).join(", ")),
            )),
            Some(scope) if !caller.scopes.contains(&scope) => {
                faults.push(FieldError::at(format!("/scopes/{index}"), "this key does not have that scope itself"));
            }
            Some(scope) if scopes.contains(&scope) => {}
            Some(scope) => scopes.push(scope),
        }
    }
    if names.is_empty() {
        faults.push(FieldError::at("/scopes", "name at least one scope"));
    }
    if faults.is_empty() { Ok(scopes) } else { Err(Error::Invalid(faults)) }
}

/// RFC 3339 in the future, as milliseconds.
fn future_time(text: &str, now_ms: i64) -> Result<i64, Error> {
    let fault = |detail: &str| Error::Invalid(vec![FieldError::at("/expires_at", detail)]);
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map_err(|_| fault("a time like 2030-01-31T12:00:00Z (RFC 3339) is needed"))?;
    let millis =
        i64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| fault("that time is out of range"))?;
    if millis <= now_ms { Err(fault("the expiry must lie in the future")) } else { Ok(millis) }
}
