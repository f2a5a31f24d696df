//! Where mail for a domain goes (RFC 5321 5.1, RFC 7505), and where the relay is.
use super::reply::{EnhancedCode, Reply};
use super::{Relay, Target};
use futures_util::future::join_all;
use signpost_diagnosis::dns::{Dns, LookupError, MxHost};
use signpost_diagnosis::guard::Guard;
use signpost_keys::Random;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};

/// Most MX hosts looked at, and most addresses tried: a domain can name any number.
const MAX_HOSTS: usize = 32;
const MAX_TARGETS: usize = 64;

/// The questions that routing asks.
pub trait Lookup: Sync {
    /// MX records, unsorted.
    fn mx(&self, domain: &str) -> impl Future<Output = Result<Vec<MxHost>, LookupError>> + Send;
    /// A and AAAA.
    fn addresses(&self, host: &str) -> impl Future<Output = Result<Vec<IpAddr>, LookupError>> + Send;
}

impl Lookup for Dns {
    async fn mx(&self, domain: &str) -> Result<Vec<MxHost>, LookupError> {
        Dns::mx(self, domain).await
    }
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        Dns::addresses(self, host).await
    }
}

/// Why there is nothing to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unroutable {
    /// Never will be: the reply stands for the bounce.
    Permanent(Reply),
    /// DNS trouble, or addresses that the operator's settings rule out: try again.
    Temporary(String),
}

/// What routing of a domain takes into account.
pub struct Routing<'a, L> {
    /// Resolver.
    pub dns: &'a L,
    /// Addresses that DNS names are judged by it.
    pub guard: &'a Guard,
    /// SIGNPOST_HOSTNAME: an MX of this name is ourselves.
    pub own_name: &'a str,
    /// SIGNPOST_SMTP_PORT.
    pub port: u16,
    /// For hosts of equal preference.
    pub random: &'a dyn Random,
}

impl<L: Lookup> Routing<'_, L> {
    /// Hosts by preference, all permitted addresses of each, IPv4 first.
    pub async fn targets(&self, domain: &str) -> Result<Vec<Target>, Unroutable> {
        let hosts = match self.dns.mx(domain).await {
            Ok(hosts) => hosts,
            // RFC 5321 5.1: the implicit MX only where there are no MX records.
            Err(LookupError::NoData) => vec![MxHost { preference: 0, host: domain.to_owned() }],
            Err(LookupError::NoName) => return Err(no_such_domain(domain)),
            Err(LookupError::Temporary(cause)) => {
                return Err(Unroutable::Temporary(format!("DNS: no answer for the MX of {domain}: {cause}")));
            }
        };
        let hosts = in_order(domain, hosts, self.own_name, self.random)?;
        let answers = join_all(hosts.iter().map(|host| self.dns.addresses(&host.host))).await;
        self.permitted(domain, hosts, answers)
    }

    fn permitted(
        &self,
        domain: &str,
        hosts: Vec<MxHost>,
        answers: Vec<Result<Vec<IpAddr>, LookupError>>,
    ) -> Result<Vec<Target>, Unroutable> {
        let mut targets = Vec::new();
        let mut unanswered = None;
        let mut forbidden = None;
        let implicit = matches!(hosts.as_slice(), [only] if only.host == domain);
        for (MxHost { host, .. }, answer) in hosts.into_iter().zip(answers) {
            match answer {
                Ok(mut addresses) => {
                    addresses.sort_by_key(IpAddr::is_ipv6);
                    for ip in addresses {
                        if self.guard.permits(ip) {
                            let address = SocketAddr::new(ip, self.port);
                            targets.push(Target { host: host.clone(), address });
                        } else {
                            forbidden = Some(format!("{host} [{ip}]"));
                        }
                    }
                }
                Err(LookupError::NoName | LookupError::NoData) => {}
                Err(LookupError::Temporary(cause)) => unanswered = Some(format!("{host}: {cause}")),
            }
        }
        targets.truncate(MAX_TARGETS);
        if !targets.is_empty() {
            return Ok(targets);
        }
        Err(match (unanswered, forbidden) {
            (Some(what), _) => Unroutable::Temporary(format!("DNS: no answer for the address of {what}")),
            // Deferred, as the operator can mend it while the message waits.
            (None, Some(what)) => Unroutable::Temporary(format!(
                "{what} is not a public address; mail to it needs its network in SIGNPOST_DANGEROUS_ALLOW_TARGETS"
            )),
            (None, None) if implicit => no_such_domain(domain),
            (None, None) => {
                permanent(550, EnhancedCode::new(5, 4, 4), format!("no MX host of {domain} has an address"))
            }
        })
    }
}

fn permanent(code: u16, enhanced: EnhancedCode, text: String) -> Unroutable {
    Unroutable::Permanent(Reply::ours(code, enhanced, text))
}

/// RFC 3463 3.2, X.1.2.
fn no_such_domain(domain: &str) -> Unroutable {
    let text = format!("the domain {domain} does not exist or has neither MX nor address records");
    permanent(550, EnhancedCode::new(5, 1, 2), text)
}

/// RFC 5321 5.1: lowest preference first, equal ones in random order, nothing at or behind ourselves. RFC 7505 3: null MX.
fn in_order(domain: &str, hosts: Vec<MxHost>, own_name: &str, random: &dyn Random) -> Result<Vec<MxHost>, Unroutable> {
    let mut hosts: Vec<MxHost> = hosts.into_iter().filter(|mx| !mx.host.trim_end_matches('.').is_empty()).collect();
    if hosts.is_empty() {
        // RFC 7505 4.2 and RFC 7504: 556 5.1.10.
        return Err(permanent(556, EnhancedCode::new(5, 1, 10), format!("{domain} accepts no mail (null MX)")));
    }
    shuffle(&mut hosts, random);
    hosts.sort_by_key(|mx| mx.preference);
    let own = own_name.trim_end_matches('.');
    let is_own = |mx: &&MxHost| mx.host.trim_end_matches('.').eq_ignore_ascii_case(own);
    if let Some(limit) = hosts.iter().filter(is_own).map(|mx| mx.preference).min() {
        hosts.retain(|mx| mx.preference < limit);
    }
    if hosts.is_empty() {
        let text = format!("mail for {domain} loops back to this host ({own_name})");
        return Err(permanent(554, EnhancedCode::new(5, 4, 6), text));
    }
    hosts.truncate(MAX_HOSTS);
    Ok(hosts)
}

/// Fisher-Yates; the bias of 64 bits modulo a short list is of no account here.
fn shuffle(hosts: &mut [MxHost], random: &dyn Random) {
    for last in (1..hosts.len()).rev() {
        let mut octets = [0_u8; 8];
        random.fill(&mut octets);
        let choices = u64::try_from(last + 1).unwrap_or(1);
        let chosen = usize::try_from(u64::from_le_bytes(octets) % choices).unwrap_or(0);
        hosts.swap(last, chosen);
    }
}

/// The relay's addresses by the system's own lookup (it may be named in the hosts file), not guarded: the operator set it.
pub async fn relay_targets(relay: &Relay) -> Result<Vec<Target>, Unroutable> {
    let host = relay.host.trim_start_matches('[').trim_end_matches(']');
    match tokio::net::lookup_host((host, relay.port)).await {
        Ok(addresses) => Ok(addresses.map(|address| Target { host: host.to_owned(), address }).collect()),
        Err(cause) => {
            tracing::warn!(host, %cause, "the relay of SIGNPOST_SMTP_RELAY was not found");
            // Tenants read this: the relay's name is not theirs to know.
            Err(Unroutable::Temporary("the relay of this server was not found".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A zone as a table; a name that is in neither map does not exist.
    #[derive(Default)]
    struct Zone {
        mx: HashMap<&'static str, Result<Vec<MxHost>, LookupError>>,
        addresses: HashMap<&'static str, Result<Vec<IpAddr>, LookupError>>,
    }

    impl Zone {
        fn mx(mut self, domain: &'static str, hosts: &[(u16, &str)]) -> Self {
            let hosts =
                hosts.iter().map(|(preference, host)| MxHost { preference: *preference, host: (*host).to_owned() });
            self.mx.insert(domain, Ok(hosts.collect()));
            self
        }
        fn mx_error(mut self, domain: &'static str, error: LookupError) -> Self {
            self.mx.insert(domain, Err(error));
            self
        }
        fn a(mut self, host: &'static str, addresses: &[&str]) -> Self {
            self.addresses.insert(host, Ok(addresses.iter().map(|a| a.parse().expect("address")).collect()));
            self
        }
        fn a_error(mut self, host: &'static str, error: LookupError) -> Self {
            self.addresses.insert(host, Err(error));
            self
        }
    }

    impl Lookup for Zone {
        async fn mx(&self, domain: &str) -> Result<Vec<MxHost>, LookupError> {
            self.mx.get(domain).cloned().unwrap_or(Err(LookupError::NoName))
        }
        async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
            self.addresses.get(host).cloned().unwrap_or(Err(LookupError::NoName))
        }
    }

    /// A sequence that differs from call to call and from run to run of the test not at all.
    struct Counting(AtomicU64);
    impl Random for Counting {
        fn fill(&self, dest: &mut [u8]) {
            let value =
                self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 7;
            for (octet, source) in dest.iter_mut().zip(value.to_le_bytes().iter().cycle()) {
                *octet = *source;
            }
        }
    }

    async fn route(zone: &Zone) -> Result<Vec<Target>, Unroutable> {
        let random = Counting(AtomicU64::new(1));
        let guard = Guard::default();
        let routing = Routing { dns: zone, guard: &guard, own_name: "out.example.com", port: 25, random: &random };
        routing.targets("example.net").await
    }

    fn shown(targets: &[Target]) -> Vec<String> {
        targets.iter().map(|t| format!("{} {}", t.host, t.address)).collect()
    }

    fn enhanced(result: Result<Vec<Target>, Unroutable>) -> String {
        match result {
            Err(Unroutable::Permanent(reply)) => reply.enhanced.expect("enhanced code").to_string(),
            other => panic!("not a permanent failure: {other:?}"),
        }
    }

    const LIVE: &str = "8.8.8.8";
    const DEAD: &str = "9.9.9.9";

    /// G20.
    #[tokio::test]
    async fn lowest_preference_first_whatever_the_order_of_the_answer() {
        let zone = Zone::default()
            .mx("example.net", &[(10, "dead.example.net"), (1, "live.example.net")])
            .a("dead.example.net", &[DEAD])
            .a("live.example.net", &[LIVE]);
        assert_eq!(
            shown(&route(&zone).await.expect("targets")),
            ["live.example.net 8.8.8.8:25", "dead.example.net 9.9.9.9:25"]
        );
    }

    /// G20.
    #[test]
    fn equal_preferences_are_in_random_order() {
        let random = Counting(AtomicU64::new(3));
        let mut first = HashMap::new();
        for _ in 0..300 {
            let hosts = ["a", "b", "c"].map(|host| MxHost { preference: 5, host: host.to_owned() }).to_vec();
            let ordered = in_order("example.net", hosts, "own", &random).expect("hosts");
            *first.entry(ordered[0].host.clone()).or_insert(0) += 1;
        }
        assert!(["a", "b", "c"].iter().all(|host| first.get(*host).copied().unwrap_or(0) > 50), "{first:?}");
    }

    /// G16: and the A record beside it is not tried.
    #[tokio::test]
    async fn null_mx_is_permanent() {
        for null in ["", "."] {
            let zone = Zone::default().mx("example.net", &[(0, null)]).a("example.net", &[LIVE]);
            assert_eq!(enhanced(route(&zone).await), "5.1.10");
        }
        let mixed =
            Zone::default().mx("example.net", &[(0, ""), (5, "live.example.net")]).a("live.example.net", &[LIVE]);
        assert_eq!(
            route(&mixed).await.expect("targets").len(),
            1,
            "a null MX beside others means nothing (RFC 7505 3)"
        );
    }

    /// G19.
    #[tokio::test]
    async fn a_domain_that_does_not_exist_is_permanent() {
        assert_eq!(enhanced(route(&Zone::default()).await), "5.1.2");
        let bare =
            Zone::default().mx_error("example.net", LookupError::NoData).a_error("example.net", LookupError::NoData);
        assert_eq!(enhanced(route(&bare).await), "5.1.2");
    }

    #[tokio::test]
    async fn the_address_stands_in_only_where_there_is_no_mx_record() {
        let implicit = Zone::default().mx_error("example.net", LookupError::NoData).a("example.net", &[LIVE]);
        assert_eq!(shown(&route(&implicit).await.expect("targets")), ["example.net 8.8.8.8:25"]);
        let silent = Zone::default()
            .mx_error("example.net", LookupError::Temporary("SERVFAIL".to_owned()))
            .a("example.net", &[LIVE]);
        assert!(matches!(route(&silent).await, Err(Unroutable::Temporary(_))));
        let useless = Zone::default().mx("example.net", &[(1, "gone.example.net")]).a("example.net", &[LIVE]);
        assert_eq!(enhanced(route(&useless).await), "5.4.4");
    }

    /// G23: `addresses` gives what either family has; all addresses are targets, IPv4 first.
    #[tokio::test]
    async fn all_addresses_of_all_hosts_are_targets() {
        let zone = Zone::default()
            .mx("example.net", &[(1, "one.example.net"), (2, "two.example.net"), (3, "mute.example.net")])
            .a("one.example.net", &["2620:fe::fe", LIVE])
            .a("two.example.net", &[DEAD])
            .a_error("mute.example.net", LookupError::Temporary("time-out".to_owned()));
        let expected = ["one.example.net 8.8.8.8:25", "one.example.net [2620:fe::fe]:25", "two.example.net 9.9.9.9:25"];
        assert_eq!(shown(&route(&zone).await.expect("targets")), expected);
    }

    #[tokio::test]
    async fn an_unanswered_address_is_dns_trouble() {
        let zone = Zone::default()
            .mx("example.net", &[(1, "mute.example.net"), (2, "gone.example.net")])
            .a_error("mute.example.net", LookupError::Temporary("time-out".to_owned()));
        assert!(matches!(route(&zone).await, Err(Unroutable::Temporary(text)) if text.contains("mute.example.net")));
    }

    #[tokio::test]
    async fn private_addresses_are_no_targets_and_the_setting_is_named() {
        let zone =
            Zone::default().mx("example.net", &[(1, "in.example.net")]).a("in.example.net", &["10.0.0.5", "127.0.0.1"]);
        assert!(
            matches!(route(&zone).await, Err(Unroutable::Temporary(text)) if text.contains("SIGNPOST_DANGEROUS_ALLOW_TARGETS"))
        );
    }

    #[tokio::test]
    async fn we_are_not_our_own_target() {
        let behind = Zone::default()
            .mx(
                "example.net",
                &[
                    (5, "front.example.net"),
                    (10, "OUT.example.com."),
                    (10, "peer.example.net"),
                    (20, "back.example.net"),
                ],
            )
            .a("front.example.net", &[LIVE])
            .a("peer.example.net", &[DEAD])
            .a("back.example.net", &[DEAD]);
        assert_eq!(shown(&route(&behind).await.expect("targets")), ["front.example.net 8.8.8.8:25"]);
        let alone = Zone::default().mx("example.net", &[(10, "out.example.com")]);
        assert_eq!(enhanced(route(&alone).await), "5.4.6");
    }

    #[tokio::test]
    async fn the_relay_may_be_an_address_and_is_not_guarded() {
        for (host, expected) in [("127.0.0.1", "127.0.0.1:2525"), ("[::1]", "[::1]:2525"), ("::1", "[::1]:2525")] {
            let relay = Relay {
                host: host.to_owned(),
                port: 2525,
                tls: super::super::RelayTls::Opportunistic,
                credentials: None,
            };
            let targets = relay_targets(&relay).await.expect("targets");
            assert_eq!(targets.iter().map(|t| t.address.to_string()).collect::<Vec<_>>(), [expected]);
        }
    }
}
