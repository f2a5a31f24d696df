//! What a receiver concludes: SPF (RFC 7208), DMARC (RFC 7489, 9989), Authentication-Results (RFC 8601).
use crate::dns::Dns;
use signpost_dkim::verify::Verification;
use std::net::IpAddr;

/// RFC 8601 2.7.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum SpfResult {
    Pass,
    Fail,
    Softfail,
    Neutral,
    None,
    Temperror,
    Permerror,
}

/// RFC 7489 11.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum DmarcResult {
    Pass,
    Fail,
    None,
    Temperror,
    Permerror,
}

/// Facts of an SMTP transaction.
#[derive(Debug, Clone)]
pub struct Transaction<'a> {
    /// Client address.
    pub ip: IpAddr,
    /// EHLO name.
    pub helo: &'a str,
    /// Envelope sender, empty for the null one.
    pub mail_from: &'a str,
}

/// Everything about one message.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Our DKIM results.
    pub dkim: Vec<Verification>,
    /// SPF.
    pub spf: SpfResult,
    /// Domain that SPF looked at.
    pub spf_domain: String,
    /// Why.
    pub spf_reason: Option<String>,
    /// DMARC.
    pub dmarc: DmarcResult,
    /// RFC5322.From domain.
    pub from_domain: Option<String>,
    /// p= that applies: none, quarantine, reject.
    pub dmarc_policy: Option<String>,
    /// One sentence; speaks of alignment where that decided.
    pub dmarc_reason: String,
    /// SPF alignment.
    pub spf_aligned: bool,
    /// DKIM alignment.
    pub dkim_aligned: bool,
}

/// Verifies DKIM with `signpost_dkim`, SPF and DMARC through mail-auth. `now` is seconds since the epoch.
pub async fn evaluate(_dns: &Dns, _raw: &[u8], _transaction: &Transaction<'_>, _now: u64) -> Evaluation {
    todo!()
}

impl Evaluation {
    /// The value of an Authentication-Results field (RFC 8601 2.2), without folding: `mx.example; dkim=pass header.d=... ; spf=... ; dmarc=pass ...`.
    /// Nothing in it can break out of the field: values are pvalue-quoted.
    pub fn authentication_results(&self, _authserv_id: &str) -> String {
        todo!()
    }
}

/// A second opinion on DKIM: mail-auth's results, one word per signature field top to bottom (`pass`, `fail`, ...). For the sandbox and tests.
pub async fn second_opinion(_dns: &Dns, _raw: &[u8]) -> Vec<String> {
    todo!()
}
