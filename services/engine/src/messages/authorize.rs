//! DESIGN "authorize": may this tenant speak for these domains, and which domain signs? One function, asked before every signature.
use super::signing::RECORD_WRONG;
use crate::{Engine, Error, FieldError};
use signpost_diagnosis::suffix::organizational_domain;
use signpost_dkim::SigningDomain;
use signpost_store::{DomainRow, OwnedName, SuspendedMail};

/// A domain that the message would speak for, and where the request names it.
pub(super) struct Spoken<'a> {
    pub(super) domain: &'a SigningDomain,
    pub(super) place: FieldError,
}

/// What `authorize` is asked.
pub(super) struct Speech<'a> {
    pub(super) from: Spoken<'a>,
    /// Sender and a MAIL FROM that the request names.
    pub(super) others: Vec<Spoken<'a>>,
}

impl Engine {
    /// For each domain the nearest name among it and its ancestors, down to the organizational domain, that is verified by any
    /// tenant must be this tenant's; for From its row is the answer: d= comes from there, never from the request.
    /// `DomainNotAllowed` is the same whether the name is another tenant's, nobody's or not yet verified.
    /// `SigningNotEnabled` if that row is disabled; `SigningSuspended` if its record is wrong and its policy is to refuse mail then.
    pub(super) async fn authorize(&self, tenant: &str, speech: Speech<'_>) -> Result<DomainRow, Error> {
        let mut names = Vec::new();
        for spoken in std::iter::once(&speech.from).chain(&speech.others) {
            names.extend(candidates(spoken.domain));
        }
        names.sort();
        names.dedup();
        let owned = self.inner.store.verified_owners(&names).await?;
        let from = nearest(&owned, speech.from.domain).filter(|name| name.tenant_id == tenant);
        let Some(from) = from else { return Err(Error::DomainNotAllowed(speech.from.place)) };
        for other in speech.others {
            if nearest(&owned, other.domain).is_none_or(|name| name.tenant_id != tenant) {
                return Err(Error::DomainNotAllowed(other.place));
            }
        }
        let Some(row) = self.inner.store.domain(tenant, &from.domain_id).await? else {
            return Err(Error::DomainNotAllowed(speech.from.place));
        };
        if row.ownership != "verified" {
            return Err(Error::DomainNotAllowed(speech.from.place));
        }
        match (row.signing.as_str(), row.signing_reason.as_deref()) {
            ("enabled", _) => Ok(row),
            ("suspended", Some("tenant_suspended")) => Err(Error::TenantSuspended),
            ("suspended", Some("ownership_lost")) => Err(Error::DomainNotAllowed(speech.from.place)),
            ("suspended", Some("record_wrong")) if self.refuses_while_suspended(&row).await? => {
                Err(Error::SigningSuspended(RECORD_WRONG.into()))
            }
            ("suspended", _) => Ok(row),
            _ => Err(Error::SigningNotEnabled(speech.from.place)),
        }
    }
}

impl Engine {
    async fn refuses_while_suspended(&self, domain: &DomainRow) -> Result<bool, Error> {
        let policy = self.inner.store.signing_policy(&domain.tenant_id, &domain.id).await?;
        Ok(policy.is_some_and(|policy| policy.suspended_mail == SuspendedMail::Refuse))
    }
}

/// The domain and its ancestors down to its organizational domain, nearest first.
fn candidates(domain: &SigningDomain) -> Vec<String> {
    let Some(bottom) = organizational_domain(domain) else { return vec![domain.to_string()] };
    domain
        .self_and_ancestors()
        .into_iter()
        .filter(|name| name.is_at_or_below(&bottom))
        .map(|name| name.to_string())
        .collect()
}

fn nearest<'a>(owned: &'a [OwnedName], domain: &SigningDomain) -> Option<&'a OwnedName> {
    candidates(domain).iter().find_map(|candidate| owned.iter().find(|name| &name.name == candidate))
}
