//! The accept loop of the SMTP server.
use super::session::{Handler, ServerSettings, serve_session};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long sessions may go on after the shutdown.
const DRAIN: Duration = Duration::from_secs(30);
/// After a failed accept (no file descriptors left): not a busy loop.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `shutdown`, then lets the messages under way arrive, for at most 30 s.
pub async fn serve(
    listener: TcpListener,
    settings: ServerSettings,
    handler: Arc<dyn Handler>,
    shutdown: CancellationToken,
) {
    let sessions = TaskTracker::new();
    let room = Arc::new(Semaphore::new(settings.max_sessions));
    let stop_now = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                tracing::warn!(%cause, "cannot accept an SMTP connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            sessions.spawn(turn_away(stream));
            continue;
        };
        let (settings, handler) = (settings.clone(), Arc::clone(&handler));
        let (shutdown, stop_now) = (shutdown.clone(), stop_now.clone());
        sessions.spawn(async move {
            let _permit = permit;
            let ip = peer.ip().to_canonical();
            tokio::select! {
                () = stop_now.cancelled() => {}
                () = one(stream, ip, &settings, handler.as_ref(), &shutdown) => {}
            }
        });
    }
    sessions.close();
    if tokio::time::timeout(DRAIN, sessions.wait()).await.is_err() {
        stop_now.cancel();
        sessions.wait().await;
    }
}

async fn one(
    stream: TcpStream,
    ip: IpAddr,
    settings: &ServerSettings,
    handler: &dyn Handler,
    shutdown: &CancellationToken,
) {
    if let Err(cause) = serve_session(stream, ip, settings, handler, shutdown).await {
        tracing::debug!(%ip, %cause, "SMTP session ended early");
    }
}

/// RFC 5321 3.8.
async fn turn_away(mut stream: TcpStream) {
    let reply = stream.write_all(b"421 4.3.2 too many connections, try again\r\n");
    // A client that does not read it has lost nothing.
    let _ignored = tokio::time::timeout(Duration::from_secs(5), reply).await;
}
