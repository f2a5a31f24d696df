//! `signpost health`: is the process beside us ready? For container health checks, where neither shell nor HTTP client is at hand.
use crate::Outcome;
use crate::config::Role;
use bytes::Bytes;
use clap::Args;
use http_body_util::Empty;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// `signpost health`.
#[derive(Args)]
pub(crate) struct HealthArgs {
    /// HTTP address of the process that is asked; an unspecified one (0.0.0.0) is asked over loopback
    #[arg(long, env = "SIGNPOST_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Roles of that process; without `api` it listens nowhere, and that it runs is all that can be said
    #[arg(long, env = "SIGNPOST_ROLES", default_value = "api,worker,inbound", value_delimiter = ',')]
    roles: Vec<Role>,
}

/// # Errors
/// /readyz did not say 200 in time.
pub(crate) async fn run(args: &HealthArgs) -> Outcome<()> {
    if !args.roles.contains(&Role::Api) {
        return Ok(());
    }
    let address = reachable(args.listen);
    let status = tokio::time::timeout(PATIENCE, ask(address)).await.map_err(|_| format!("{address}: no answer"))??;
    if status == StatusCode::OK { Ok(()) } else { Err(format!("{address}/readyz says {status}").into()) }
}

async fn ask(address: SocketAddr) -> Outcome<StatusCode> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get("/readyz").header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let status = sender.send_request(request).await?.status();
    driver.abort();
    Ok(status)
}

fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(loopback, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_asked_over_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
