//! Questions to recursive resolvers and to authoritative servers.
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, RecordType, rdata::TXT};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::system_conf::read_system_conf;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long one question to a recursive resolver may take before it is asked again.
const RESOLVER_TIMEOUT: Duration = Duration::from_millis(2500);
/// How often a recursive resolver is asked again after silence.
const RESOLVER_ATTEMPTS: usize = 1;

/// Sockets of all checks together.
const CHECK_SOCKETS: usize = 256;

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
pub struct Dns {
    resolver: TokioResolver,
    /// The same ones, to be asked one by one.
    resolvers: Arc<[SocketAddr]>,
    authority_port: u16,
    guard: crate::guard::Guard,
    /// Sockets that checks may have open at once, in the whole process: file descriptors are finite.
    sockets: Arc<Semaphore>,
}

impl Dns {
    /// Fails where the system's resolver configuration cannot be read.
    pub fn new(settings: DnsSettings) -> Result<Self, LookupError> {
        let servers = if settings.resolvers.is_empty() {
            let (system, _) = read_system_conf().map_err(|error| {
                LookupError::Temporary(format!(
                    "the system's resolver configuration cannot be read ({error}); set SIGNPOST_DNS_RESOLVERS"
                ))
            })?;
            system.name_servers
        } else {
            settings.resolvers.iter().map(|address| name_server(*address)).collect()
        };
        let resolvers = servers.iter().filter_map(plain_address).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options())
            .build()
            .map_err(|error| LookupError::Temporary(format!("the resolver cannot be set up: {error}")))?;
        Ok(Self {
            resolver,
            resolvers,
            authority_port: settings.authority_port,
            guard: settings.guard,
            sockets: Arc::new(Semaphore::new(CHECK_SOCKETS)),
        })
    }

    /// TXT through the recursive resolver, CNAMEs followed; the strings of each record joined with nothing between. Non-UTF-8 octets become U+FFFD.
    pub async fn txt(&self, name: &str) -> Result<Vec<String>, LookupError> {
        let lookup = self.lookup(name, RecordType::TXT).await?;
        some_or_no_data(collect(
            &lookup,
            |data| if let RData::TXT(txt) = data { Some(join_strings(txt)) } else { None },
        ))
    }

    /// MX records, unsorted.
    pub async fn mx(&self, domain: &str) -> Result<Vec<MxHost>, LookupError> {
        let lookup = self.lookup(domain, RecordType::MX).await?;
        some_or_no_data(collect(&lookup, |data| match data {
            RData::MX(mx) => Some(MxHost { preference: mx.preference, host: name_text(&mx.exchange) }),
            _ => None,
        }))
    }

    /// A and AAAA. `NoName`/`NoData` only if both say so; a family that fails while the other answers is ignored.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let (v4, v6) = tokio::join!(self.lookup(host, RecordType::A), self.lookup(host, RecordType::AAAA));
        let mut found = BTreeSet::new();
        for lookup in [&v4, &v6].into_iter().flatten() {
            found.extend(collect(lookup, RData::ip_addr));
        }
        if !found.is_empty() {
            return Ok(found.into_iter().collect());
        }
        match (v4, v6) {
            (Err(LookupError::Temporary(reason)), _) | (_, Err(LookupError::Temporary(reason))) => {
                Err(LookupError::Temporary(reason))
            }
            (Err(LookupError::NoName), Err(LookupError::NoName)) => Err(LookupError::NoName),
            (
                Ok(_) | Err(LookupError::NoName | LookupError::NoData),
                Ok(_) | Err(LookupError::NoName | LookupError::NoData),
            ) => Err(LookupError::NoData),
        }
    }

    /// Host names of the NS records at exactly this name.
    pub(crate) async fn name_servers(&self, zone: &Name) -> Result<Vec<Name>, LookupError> {
        let lookup = self.resolver.lookup(zone.clone(), RecordType::NS).await.map_err(classify)?;
        let hosts: BTreeSet<Name> = lookup
            .answers()
            .iter()
            .filter(|record| record.name == *zone)
            .filter_map(|record| if let RData::NS(ns) = &record.data { Some(ns.0.to_lowercase()) } else { None })
            .collect();
        some_or_no_data(hosts.into_iter().collect())
    }

    /// Where authoritative servers listen.
    pub(crate) fn authority_port(&self) -> u16 {
        self.authority_port
    }

    /// The recursive resolvers, the preferred one first. They are the operator's, so no guard judges them.
    pub(crate) fn resolvers(&self) -> &[SocketAddr] {
        &self.resolvers
    }

    /// The judge of addresses that DNS names.
    pub(crate) fn guard(&self) -> &crate::guard::Guard {
        &self.guard
    }

    /// The sockets that checks share.
    pub(crate) fn sockets(&self) -> &Semaphore {
        &self.sockets
    }

    /// For mail-auth, which wraps the same resolver and so keeps no cache either.
    pub(crate) fn resolver(&self) -> &TokioResolver {
        &self.resolver
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Lookup, LookupError> {
        // A text that cannot be a domain name does not exist in the DNS: that is an answer, not a failure.
        let name = fqdn(name).ok_or(LookupError::NoName)?;
        self.resolver.lookup(name, kind).await.map_err(classify)
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// Where a resolver answers over UDP and, on the same port, TCP.
fn plain_address(server: &NameServerConfig) -> Option<SocketAddr> {
    let udp = server.connections.iter().find(|connection| matches!(connection.protocol, ProtocolConfig::Udp))?;
    Some(SocketAddr::new(server.ip, udp.port))
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = RESOLVER_TIMEOUT;
    options.attempts = RESOLVER_ATTEMPTS;
    options.edns0 = true;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options
}

/// The absolute name of a dotted text, one optional trailing dot. Labels are taken as they are: no escapes, no search domains.
/// `None` where it cannot be a name: an empty label, a label over 63 octets, over 255 octets in all (RFC 1035 2.3.4).
pub(crate) fn fqdn(text: &str) -> Option<Name> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.split('.').any(str::is_empty) {
        return None;
    }
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name.to_lowercase())
}

/// A name for people: without the trailing dot.
pub(crate) fn name_text(name: &Name) -> String {
    let text = name.to_lowercase().to_ascii();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

/// The strings of one TXT record joined with nothing between (RFC 6376 3.6.2.2, RFC 7208 3.3).
pub(crate) fn join_strings(txt: &TXT) -> String {
    String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()
}

fn collect<T>(lookup: &Lookup, pick: impl Fn(&RData) -> Option<T>) -> Vec<T> {
    lookup.answers().iter().filter_map(|record| pick(&record.data)).collect()
}

fn some_or_no_data<T>(found: Vec<T>) -> Result<Vec<T>, LookupError> {
    if found.is_empty() { Err(LookupError::NoData) } else { Ok(found) }
}

/// True for SERVFAIL, which is also what a validating resolver says of what does not validate (RFC 4035 5.5).
pub(crate) fn is_servfail(error: &LookupError) -> bool {
    match error {
        LookupError::Temporary(reason) => *reason == ResponseCode::ServFail.to_string(),
        LookupError::NoName | LookupError::NoData => false,
    }
}

/// RFC 2308 2: NXDOMAIN and NODATA are answers; everything else says nothing about the name.
fn classify(error: NetError) -> LookupError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code: ResponseCode::NXDomain, .. })) => {
            LookupError::NoName
        }
        // NS records without SOA: a referral, so the server asked does not recurse and does not know.
        NetError::Dns(DnsError::NoRecordsFound(NoRecords {
            response_code: ResponseCode::NoError,
            soa: None,
            ns: Some(_),
            ..
        })) => LookupError::Temporary("the resolver gave a referral instead of an answer".to_owned()),
        NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code: ResponseCode::NoError, .. })) => {
            LookupError::NoData
        }
        NetError::Dns(DnsError::NoRecordsFound(no_records)) => {
            LookupError::Temporary(no_records.response_code.to_string())
        }
        NetError::Dns(DnsError::ResponseCode(code)) => LookupError::Temporary(code.to_string()),
        other => LookupError::Temporary(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_absolute_and_lower_case() {
        assert_eq!(fqdn("S1._domainkey.Example.com").unwrap().to_ascii(), "s1._domainkey.example.com.");
        assert_eq!(fqdn("example.com.").unwrap().to_ascii(), "example.com.");
        assert_eq!(name_text(&fqdn("example.com").unwrap()), "example.com");
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        let long_label = "a".repeat(64);
        let long_name = vec!["abcdefg"; 40].join(".");
        for text in ["", ".", "a..b", ".a", "a..", long_label.as_str(), long_name.as_str()] {
            assert!(fqdn(text).is_none(), "{text:?}");
        }
    }
}
