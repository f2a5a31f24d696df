//! The audit log: who did what, written with the change it tells of and never changed.
use crate::rows::{AuditFilter, AuditRow, Page};
use crate::{Caller, Engine, Error, Scope};

/// Who does something.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Actor<'a> {
    /// Who called.
    Caller(&'a Caller),
    /// The service by itself.
    System,
}

impl Engine {
    /// Newest first. Scope admin.
    pub async fn audit_log(
        &self,
        caller: &Caller,
        filter: &AuditFilter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<AuditRow>, Error> {
        caller.require(Scope::Admin)?;
        Ok(self.inner.store.audit_log(&caller.tenant_id, filter, after, limit).await?)
    }

    /// An audit row of `tenant`, whom the actor acts for.
    pub(crate) fn audit_by(
        &self,
        actor: Actor<'_>,
        tenant: &str,
        action: &str,
        object: &str,
        details: serde_json::Value,
    ) -> AuditRow {
        let (name, request_id) = match actor {
            Actor::Caller(caller) => (caller.key_id.clone(), caller.request_id.clone()),
            Actor::System => ("system".to_owned(), None),
        };
        AuditRow {
            id: self.fresh_id(),
            tenant_id: tenant.to_owned(),
            actor: name,
            action: action.to_owned(),
            object: object.to_owned(),
            domain_id: is_of_the_domain_itself(action).then(|| object.to_owned()),
            details,
            request_id,
            at: self.now_ms(),
        }
    }
}

/// Actions whose object is the domain.
fn is_of_the_domain_itself(action: &str) -> bool {
    ["domain.", "signing.", "signing_policy."].iter().any(|kind| action.starts_with(kind))
}
