//! The accept loop: how many connections there may be, and what each of them may do to keep its place. `axum::serve` limits neither.
mod address;
mod stream;

pub(crate) use self::address::Client;
use self::address::{Addresses, Place};
use self::stream::{Busy, Paced};
use crate::pace::PATIENCE;
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// How long requests under way may take to end at shutdown.
const DRAIN_TIME: Duration = Duration::from_secs(30);
/// Pause after a failed accept: without free file descriptors the next one fails at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the log tells that addresses have too many connections.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// What the system keeps of an answer that the client does not take, in octets. Left to itself it would keep megabytes a connection,
/// and an answer that lies there is out of reach of our limits. Enough for 1 MB a second over 100 ms.
const SEND_BUFFER: usize = 128 * 1024;

/// Who may come in.
#[derive(Debug, Clone)]
pub struct Door {
    /// Proxies whose X-Forwarded-For is believed, and whose connections are not counted by address.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections at a time, each with one request at a time (HTTP/1.1); more wait in the system's listen queue.
    pub connections: usize,
    /// Connections at a time of one address (of IPv6, of a /64), more are closed at once; 0: no limit. Loopback is not counted.
    pub connections_per_address: usize,
}

impl Default for Door {
    /// 10,000 connections, 256 of each address, no proxy.
    fn default() -> Self {
        Self { trusted_proxies: Vec::new(), connections: 10_000, connections_per_address: 256 }
    }
}

/// Serves HTTP/1.1 until `shutdown` is cancelled, then takes no new connection and lets requests under way end (30 s).
///
/// # Errors
/// None so far: a failed accept is logged and tried again.
pub async fn serve(listener: TcpListener, router: Router, door: Door, shutdown: CancellationToken) -> io::Result<()> {
    bound_buffers(&listener);
    let graceful = GracefulShutdown::new();
    let free = Arc::new(Semaphore::new(door.connections));
    let addresses = Addresses::new(door.connections_per_address);
    let trusted: Arc<[IpNet]> = door.trusted_proxies.into();
    let mut told = None;
    loop {
        let accept = async {
            // Never closed, so this only waits; it belongs into the select, as there may be no place for long.
            let place = free.clone().acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, peer)| (stream, peer, place))
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, peer, place)) => match addresses.place(peer.ip(), &trusted) {
                Some(own_place) => {
                    let serving =
                        connection(stream, router.clone(), peer.ip(), Arc::clone(&trusted), graceful.watcher());
                    tokio::spawn(keeping(place, own_place, serving));
                }
                None => tell(peer, &mut told),
            },
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIME, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests under way did not end in time and were cut off");
    }
    Ok(())
}

/// Settings that accepted connections inherit (tcp(7), socket(7)).
fn bound_buffers(listener: &TcpListener) {
    if let Err(error) = rustix::net::sockopt::set_socket_send_buffer_size(listener, SEND_BUFFER) {
        tracing::warn!(%error, "SO_SNDBUF");
    }
    // For what lies with the system after we closed: a client that acknowledges nothing is not waited for.
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::net::sockopt::set_tcp_user_timeout(listener, u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX))
    {
        tracing::warn!(%error, "TCP_USER_TIMEOUT");
    }
}

/// A connection beyond what its address may have is closed; once in a while the log says so.
fn tell(peer: SocketAddr, told: &mut Option<Instant>) {
    if told.is_none_or(|last| last.elapsed() >= TELL_EVERY) {
        *told = Some(Instant::now());
        tracing::warn!(
            client = %peer.ip(),
            "an address has as many connections as it may have and more are closed; if it is a proxy of yours, name it in SIGNPOST_TRUSTED_PROXIES"
        );
    }
}

/// A connection holds its places as long as it lasts.
async fn keeping(_place: OwnedSemaphorePermit, _own_place: Option<Place>, serving: impl Future<Output = ()>) {
    serving.await;
}

async fn connection(stream: TcpStream, router: Router, peer: IpAddr, trusted: Arc<[IpNet]>, watcher: Watcher) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let busy = Busy::default();
    let paced = Paced::new(stream, busy.clone(), reset);
    requests(paced, busy, router, peer, trusted, watcher).await;
}

/// Closing shall throw away what a slow reader did not take (SO_LINGER of zero).
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "SO_LINGER");
    }
}

/// Serves the requests of one connection.
async fn requests<S>(
    stream: Paced<S>,
    busy: Busy,
    router: Router,
    peer: IpAddr,
    trusted: Arc<[IpNet]>,
    watcher: Watcher,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let begins = busy.clone();
    let service = router
        .map_request(move |mut request: Request<Incoming>| {
            begins.begin();
            let client = address::client(peer, request.headers(), &trusted);
            request.extensions_mut().insert(Client(client));
            request
        })
        .map_response(move |response: Response| response.map(|body| busy.until_written(body)));
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests;
