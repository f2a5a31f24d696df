//! Delivery over SMTP: routes, sessions, retry, worker.
mod backoff;
pub mod carrier;
pub mod crowd;
#[cfg(test)]
mod dialogues;
mod envelope;
pub mod mx;
mod outcome;
pub mod payload;
pub mod reply;
pub mod retry;
#[cfg(test)]
mod roundtrips;
pub mod session;
pub mod tls;
mod transaction;
mod wire;
pub mod worker;
#[cfg(test)]
mod worker_tests;

pub use wire::{Io, Limits, Trouble};

use std::net::SocketAddr;

/// TLS towards the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayTls {
    /// STARTTLS when offered, certificate not verified (RFC 7435).
    Opportunistic,
    /// STARTTLS required, certificate verified: with credentials.
    StartTls,
    /// TLS from the first octet (`smtps://`), verified.
    Implicit,
}

/// SIGNPOST_SMTP_RELAY. Debug hides the password.
#[derive(Clone)]
pub struct Relay {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS.
    pub tls: RelayTls,
    /// User and password (SASL PLAIN, or LOGIN where only that is offered).
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Where mail goes.
#[derive(Debug, Clone)]
pub struct DeliverySettings {
    /// A relay, else direct to MX.
    pub relay: Option<Relay>,
    /// SIGNPOST_SMTP_PORT, for direct delivery.
    pub smtp_port: u16,
    /// SIGNPOST_SMTP_IN_FLIGHT.
    pub in_flight: usize,
    /// Guarded targets of direct delivery.
    pub guard: signpost_diagnosis::guard::Guard,
}

/// A host to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name for TLS and for people.
    pub host: String,
    /// Address and port.
    pub address: SocketAddr,
}
