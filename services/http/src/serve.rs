//! The accept loop. `axum::serve` sets no header-read timeout and no cap on connections.
mod stall;

use self::stall::Stalling;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How long a request's header may take to arrive; also how long an idle connection is kept.
const HEADER_READ_TIME: Duration = Duration::from_secs(10);
/// How long a client may take none of an answer.
const WRITE_STALL: Duration = Duration::from_secs(60);
/// Connections at a time; more wait in the listen queue.
const CONNECTIONS: usize = 10_000;
/// How long requests under way may take to end at shutdown.
const DRAIN_TIME: Duration = Duration::from_secs(30);
/// Pause after a failed accept: without free file descriptors the next one fails at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves HTTP/1.1 until `shutdown` is cancelled, then takes no new connection and lets requests under way end (30 s).
///
/// # Errors
/// None so far: a failed accept is logged and tried again.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let graceful = GracefulShutdown::new();
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accept = async {
            // Never closed, so this only waits; it belongs into the select, as there may be no place for long.
            let place = free.clone().acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, _peer)| (stream, place))
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                tokio::spawn(connection(stream, router.clone(), graceful.watcher(), place));
            }
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

async fn connection(stream: TcpStream, router: Router, watcher: Watcher, _place: OwnedSemaphorePermit) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIME)
        .serve_connection(TokioIo::new(Stalling::new(stream, WRITE_STALL)), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::read;
    use axum::extract::Request;
    use axum::routing::post;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMIT: u64 = 1_000_000;

    /// `/read` reads up to `LIMIT`, `/refuse` answers 404 without reading.
    async fn start() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<io::Result<()>>) {
        let take = |request: Request| async move {
            read(request.into_body(), LIMIT).await.map(|octets| octets.len().to_string())
        };
        let refuse = || async { crate::problem::Problem::not_found("thing") };
        let routes = Router::new().route("/read", post(take)).route("/refuse", post(refuse));
        let router = crate::router::around(routes, Arc::new(|| "1".to_owned()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, shutdown.clone()));
        (address, shutdown, server)
    }

    /// Sends everything before it reads, like most clients, and gives the first line of the answer.
    async fn status_line(address: SocketAddr, head: String, body: Vec<u8>) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        while !answer.contains(&b'\n') {
            let octets = stream.read(&mut chunk).await.unwrap();
            assert!(octets > 0, "closed without an answer");
            answer.extend_from_slice(&chunk[..octets]);
        }
        String::from_utf8_lossy(&answer).lines().next().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_client_that_sends_before_it_reads_gets_the_refusal() {
        let (address, shutdown, server) = start().await;
        for (path, size, expected) in [
            ("/read", 1_000_000, "HTTP/1.1 200 OK"),
            ("/read", 1_000_001, "HTTP/1.1 413 Payload Too Large"),
            ("/read", 40_000_000, "HTTP/1.1 413 Payload Too Large"),
            ("/refuse", 40_000_000, "HTTP/1.1 404 Not Found"),
        ] {
            let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n");
            assert_eq!(status_line(address, head, vec![b'a'; size]).await, expected, "{path} {size}");
        }
        let chunk = format!("{:x}\r\n{}\r\n", 2_000_000, "a".repeat(2_000_000));
        let head = "POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
        let answer = status_line(address, head, format!("{chunk}0\r\n\r\n").into_bytes()).await;
        assert_eq!(answer, "HTTP/1.1 413 Payload Too Large");
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_declared_size_over_the_limit_is_refused_before_any_octet_of_it() {
        let (address, shutdown, server) = start().await;
        for expect in ["", "expect: 100-continue\r\n"] {
            let head = format!("POST /read HTTP/1.1\r\nhost: x\r\n{expect}content-length: 99999999999\r\n\r\n");
            assert_eq!(status_line(address, head, Vec::new()).await, "HTTP/1.1 413 Payload Too Large");
        }
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
