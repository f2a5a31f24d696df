//! Guarded targets: addresses that tenants or DNS name must be public.
use ipnet::IpNet;
use std::net::IpAddr;

/// Which addresses outside the public ranges are allowed after all (SIGNPOST_DANGEROUS_ALLOW_TARGETS).
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Allowed although not public.
    pub allow: Vec<IpNet>,
}

impl Guard {
    /// False for loopback, private, link-local, CGNAT, multicast, documentation, benchmarking, unspecified, ULA, NAT64/6to4/mapped forms
    /// of those, ... (RFC 6890 and its registries) unless allowed. IPv4-mapped IPv6 is judged as IPv4.
    pub fn permits(&self, _address: IpAddr) -> bool {
        todo!()
    }
}
