//! The check: ask every authoritative server for each record and say exactly what is wrong.
use crate::dns::Dns;
use signpost_dkim::{SigningDomain, record::PublicKey};
use std::net::IpAddr;
use std::time::Duration;

/// Status of one record (DESIGN: Record.status). `Unchecked` is not a result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Right on at least one server, wrong on none.
    Ok,
    /// Nothing at the name.
    Missing,
    /// Well-formed, but another value or another key.
    Mismatch,
    /// Not parseable.
    Malformed,
    /// More than one record at the name.
    Duplicate,
    /// The beginning of the right value.
    Truncated,
    /// Found at another name.
    Misplaced,
    /// p= is empty.
    Revoked,
    /// h=, k= or s= forbid our use.
    Unusable,
    /// No authoritative server answered.
    Unreachable,
}

impl Status {
    /// As in JSON: `ok`, `missing`, ...
    pub fn as_str(self) -> &'static str {
        todo!()
    }
    /// The reverse of `as_str`.
    pub fn parse(_text: &str) -> Option<Self> {
        todo!()
    }
}

/// What must be found.
#[derive(Debug, Clone)]
pub enum Want {
    /// This exact TXT value (ownership token).
    Ownership {
        /// `signpost-verification=<token>`.
        value: String,
    },
    /// This key, in any harmless spelling.
    DkimKey {
        /// The key that signs.
        key: PublicKey,
    },
    /// An SPF record that authorizes all of these addresses (evaluated, not compared).
    Spf {
        /// SIGNPOST_EGRESS_IPS.
        egress: Vec<IpAddr>,
    },
    /// Any valid DMARC record that applies to the domain (at the name or, without one, at the organizational domain).
    Dmarc,
}

/// A record to check.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Full owner name without trailing dot.
    pub name: String,
    /// What must be there.
    pub want: Want,
}

/// One server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAnswer {
    /// Server name and address, for people.
    pub server: String,
    /// Its status.
    pub status: Status,
}

/// The finding for one record, same order as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Overall status.
    pub status: Status,
    /// Warnings beside it.
    pub warnings: Vec<String>,
    /// Record texts found (TXT joined).
    pub found: Vec<String>,
    /// Per server.
    pub servers: Vec<ServerAnswer>,
    /// What is wrong and what to do, or why it is fine. Never empty.
    pub explanation: String,
    /// The value to publish instead of the standard one (SPF merged with the record found), if that differs.
    pub publish: Option<String>,
}

/// Asks all authoritative servers of the zone of each name, within `deadline`. Never fails: trouble is a status.
pub async fn check(_dns: &Dns, _domain: &SigningDomain, _expected: &[Expected], _deadline: Duration) -> Vec<Finding> {
    todo!()
}

/// The p= value now served for a key record, for the self-check before sending: asks authoritative servers, then the recursive resolver.
/// `Ok(None)`: DNS answered and there is no usable key record. `Err`: no answer, nothing is known.
pub async fn read_published_key(
    _dns: &Dns,
    _domain: &SigningDomain,
    _name: &str,
    _deadline: Duration,
) -> Result<Option<String>, crate::dns::LookupError> {
    todo!()
}
