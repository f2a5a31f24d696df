//! Questions to recursive resolvers and to authoritative servers.
use std::net::{IpAddr, SocketAddr};

/// Where to ask.
#[derive(Debug, Clone)]
pub struct DnsSettings {
    /// Recursive resolvers; empty: the system's.
    pub resolvers: Vec<SocketAddr>,
    /// Port of authoritative servers, 53 in production.
    pub authority_port: u16,
    /// Judges addresses of authoritative servers (never those of `resolvers`).
    pub guard: crate::guard::Guard,
}

/// Why a lookup gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// NXDOMAIN.
    #[error("the name does not exist")]
    NoName,
    /// The name exists, but not this type.
    #[error("the name has no such record")]
    NoData,
    /// Time-out, SERVFAIL, refused: ask again later.
    #[error("no answer: {0}")]
    Temporary(String),
}

/// One MX host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MxHost {
    /// Lower is tried first.
    pub preference: u16,
    /// Host name without trailing dot; empty for the null MX `.` (RFC 7505).
    pub host: String,
}

/// Resolver handle, cheap to clone. No answers are cached beyond what the caller keeps.
#[derive(Clone)]
pub struct Dns;

impl Dns {
    /// Fails where the system's resolver configuration cannot be read.
    pub fn new(_settings: DnsSettings) -> Result<Self, LookupError> {
        todo!()
    }
    /// TXT through the recursive resolver, CNAMEs followed; the strings of each record joined with nothing between. Non-UTF-8 octets become U+FFFD.
    pub async fn txt(&self, _name: &str) -> Result<Vec<String>, LookupError> {
        todo!()
    }
    /// MX records, unsorted.
    pub async fn mx(&self, _domain: &str) -> Result<Vec<MxHost>, LookupError> {
        todo!()
    }
    /// A and AAAA. `NoName`/`NoData` only if both say so; a family that fails while the other answers is ignored.
    pub async fn addresses(&self, _host: &str) -> Result<Vec<IpAddr>, LookupError> {
        todo!()
    }
}
