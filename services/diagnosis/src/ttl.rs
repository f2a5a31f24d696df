//! For how long caches may keep what stands at a name.
use crate::authority::{self, SERVERS_MAX};
use crate::dns::{Dns, fqdn};
use crate::questions::Questions;
use signpost_dkim::SigningDomain;
use std::time::Duration;
use tokio::time::Instant;

/// Questions for one name.
const QUESTIONS_MAX: usize = 100;

/// The longest TTL, in seconds, that an authoritative server gives the TXT record at `name`, or a CNAME on the way there
/// (RFC 1034 3.6). `None` if there is no such record or nobody answers.
pub async fn served_ttl(dns: &Dns, domain: &SigningDomain, name: &str, deadline: Duration) -> Option<u32> {
    let questions = Questions::new(dns, Instant::now() + deadline, QUESTIONS_MAX, SERVERS_MAX);
    let owner = fqdn(name)?;
    let zone = authority::locate_domain(&questions, domain).await.ok()?;
    if zone.holds(&owner) {
        authority::txt(&questions, &zone, &owner).await;
    }
    questions.longest_ttl()
}
