//! Who is at the other end: the client's address behind trusted proxies, and how many connections an address may have.
use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client of a request, in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client(pub(crate) IpAddr);

/// True if this peer is one of the operator's proxies.
pub(super) fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&peer))
}

/// The address that the nearest trusted proxy saw: X-Forwarded-For read from its right end, where each proxy adds the peer it had, up
/// to the first address that is not a trusted proxy's. What stands left of that is the client's own word. Of a peer that is not
/// trusted the whole field is; what is no address ends the reading.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let mut nearest = peer;
    for value in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        // Field values need not be text: what is none is no address either.
        let Ok(value) = value.to_str() else { return nearest };
        for entry in value.rsplit(',') {
            let Some(address) = parse(entry.trim()) else { return nearest };
            nearest = address;
            if !is_trusted(address, trusted) {
                return address;
            }
        }
    }
    nearest
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`; IPv4 within IPv6 is IPv4.
fn parse(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address = match bare.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => entry.parse::<SocketAddr>().ok()?.ip(),
    };
    Some(address.to_canonical())
}

/// Counts connections by address.
#[derive(Clone)]
pub(super) struct Addresses {
    limit: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection of an address; counted until dropped.
pub(super) struct Place {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    /// 0: no limit.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, counts: Arc::default() }
    }

    /// A place for one more connection of this peer. `Some(None)`: it is not counted. `None`: it has all that it may have.
    /// Connections over loopback and from trusted proxies are not counted: many clients stand behind them.
    pub(super) fn place(&self, peer: IpAddr, trusted: &[IpNet]) -> Option<Option<Place>> {
        let peer = peer.to_canonical();
        if self.limit == 0 || peer.is_loopback() || is_trusted(peer, trusted) {
            return Some(None);
        }
        let address = host(peer);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_insert(0);
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Some(Place { addresses: self.clone(), address }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// What one host may choose from: an IPv4 address, or a /64 of IPv6 (RFC 4291 2.5.4).
fn host(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_client_is_the_right_most_address_that_is_no_trusted_proxy() {
        let trusted = nets(&["10.0.0.0/8", "192.0.2.7/32", "2001:db8:ffff::/48"]);
        let table: &[(&str, &[&str], &str)] = &[
            // Not a trusted peer: whatever it says about itself.
            ("198.51.100.1", &["203.0.113.9"], "198.51.100.1"),
            ("198.51.100.1", &["203.0.113.9, 10.0.0.1"], "198.51.100.1"),
            ("2001:db8::1", &["127.0.0.1"], "2001:db8::1"),
            // One proxy.
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            // What the client wrote itself stands further left.
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1,203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["10.9.9.9, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            // Several proxies.
            ("10.0.0.1", &["203.0.113.9, 192.0.2.7, 10.3.4.5"], "203.0.113.9"),
            ("192.0.2.7", &["203.0.113.9, 192.0.2.8, 10.3.4.5"], "192.0.2.8"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // Spellings.
            ("10.0.0.1", &["203.0.113.9:51234"], "203.0.113.9"),
            ("10.0.0.1", &["2001:db8::9"], "2001:db8::9"),
            ("10.0.0.1", &["[2001:db8::9]"], "2001:db8::9"),
            ("10.0.0.1", &["[2001:DB8::9]:443"], "2001:db8::9"),
            ("10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("2001:db8:ffff::1", &["\t203.0.113.9  ,  [2001:db8:ffff::2]:1 "], "203.0.113.9"),
            // No address: the nearest that is known.
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, "], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, , 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["203.0.113.999"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9:99999"], "10.0.0.1"),
            ("10.0.0.1", &["[2001:db8::9"], "10.0.0.1"),
            ("10.0.0.1", &["2001:db8::9]:1"], "10.0.0.1"),
            ("10.0.0.1", &["0xcb007109"], "10.0.0.1"),
            ("10.0.0.1", &["_hidden"], "10.0.0.1"),
        ];
        for (peer, values, expected) in table {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
            }
            let client = client(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(client.to_string(), *expected, "{peer} {values:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(b"203.0.113.9, \xff").unwrap());
        assert_eq!(client("10.0.0.1".parse().unwrap(), &headers, &trusted).to_string(), "10.0.0.1");
    }

    #[test]
    fn an_address_has_so_many_connections_and_a_closed_one_makes_room() {
        let trusted = nets(&["10.0.0.0/8"]);
        let addresses = Addresses::new(2);
        let ask = |text: &str| addresses.place(text.parse().unwrap(), &trusted);
        let first = ask("198.51.100.1").unwrap();
        let second = ask("::ffff:198.51.100.1").unwrap();
        assert!(first.is_some() && second.is_some());
        assert!(ask("198.51.100.1").is_none());
        assert!(ask("198.51.100.2").is_some(), "another address felt it");
        drop(first);
        let third = ask("198.51.100.1");
        assert!(third.is_some() && ask("198.51.100.1").is_none());
        drop((second, third));
        assert!(addresses.counts.lock().unwrap().is_empty(), "addresses without a connection are remembered");
    }

    #[test]
    fn a_network_of_ipv6_is_one_host() {
        let addresses = Addresses::new(1);
        let ask = |text: &str| addresses.place(text.parse().unwrap(), &[]);
        let held = ask("2001:db8:0:1::1");
        assert!(held.is_some());
        assert!(ask("2001:db8:0:1:ffff::2").is_none());
        assert!(ask("2001:db8:0:2::1").is_some());
    }

    #[test]
    fn loopback_and_trusted_proxies_are_not_counted_nor_anybody_without_a_limit() {
        let trusted = nets(&["10.0.0.0/8"]);
        for (limit, peer) in [
            (1, "127.0.0.1"),
            (1, "127.9.9.9"),
            (1, "::1"),
            (1, "::ffff:127.0.0.1"),
            (1, "10.1.1.1"),
            (0, "198.51.100.1"),
        ] {
            let addresses = Addresses::new(limit);
            let held: Vec<_> = (0..1_000).map(|_| addresses.place(peer.parse().unwrap(), &trusted)).collect();
            assert!(held.iter().all(|place| matches!(place, Some(None))), "{peer}");
        }
    }
}
