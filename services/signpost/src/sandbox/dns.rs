//! The sandbox's DNS: one authoritative server for `test.` on loopback, recursive resolver and authority in one.
use crate::Outcome;
use hickory_server::Server;
use hickory_server::proto::rr::Name;
use hickory_server::proto::serialize::txt::Parser;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneHandler, ZoneType};
use std::net::SocketAddr;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};

/// The zone `test.`, answered over UDP and TCP until dropped.
pub(super) struct SandboxDns {
    zone: Arc<InMemoryZoneHandler>,
    address: SocketAddr,
    _server: Server<Catalog>,
}

impl SandboxDns {
    /// Binds a free port of 127.0.0.1 and serves `zone_text` (master-file form with an SOA, RFC 1035 5.1).
    pub(super) async fn start(zone_text: &str) -> Outcome<Self> {
        let origin = Name::from_str("test.")?;
        let (_, records) = Parser::new(zone_text.to_owned(), None, Some(origin.clone())).parse()?;
        let zone = Arc::new(InMemoryZoneHandler::new(origin.clone(), records, ZoneType::Primary, AxfrPolicy::Deny)?);
        let mut catalog = Catalog::new();
        catalog.upsert(origin.into(), vec![Arc::clone(&zone) as Arc<dyn ZoneHandler>]);
        let mut server = Server::new(catalog);
        let (udp, tcp) = bind_both().await?;
        let address = udp.local_addr()?;
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 64);
        Ok(Self { zone, address, _server: server })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds records in master-file form, as `GET /domains/{id}/records?format=bind` gives them.
    pub(super) async fn publish(&self, zone_text: &str) -> Outcome<()> {
        let (_, sets) = Parser::new(zone_text.to_owned(), None, Some(Name::from_str("test.")?)).parse()?;
        for set in sets.into_values() {
            for record in set.records_without_rrsigs() {
                if !self.zone.upsert(record.clone(), 1).await {
                    return Err(format!("the sandbox's DNS refuses the record {record}").into());
                }
            }
        }
        Ok(())
    }
}

/// UDP and TCP on one port.
async fn bind_both() -> std::io::Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..20 {
        let udp = UdpSocket::bind(("127.0.0.1", 0)).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::other("no port is free for UDP and TCP")))
}
