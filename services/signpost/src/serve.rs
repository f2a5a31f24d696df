//! `signpost serve`: store, engine, worker, background work, HTTP, and an orderly end.
use crate::config::{KeyCustody, ServeArgs};
use crate::{Outcome, master_key, open_store, telemetry};
use signpost_diagnosis::dns::Dns;
use signpost_engine::{Engine, SystemClock};
use signpost_keys::{AwsKmsCustody, SystemRandom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const FLUSH_EVERY: Duration = Duration::from_secs(10);
const REFRESH_EVERY: Duration = Duration::from_secs(60);
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);
/// How exactly the time of a key's next probe is kept.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const WITHDRAW_EVERY: Duration = Duration::from_secs(60);
/// How soon the right master key is noticed.
const UNSEAL_EVERY: Duration = Duration::from_secs(2);

/// Variables of the contract that this version does not act on yet; each would silently do nothing.
const NOT_YET: [&str; 5] = [
    "SIGNPOST_SMTP_LISTEN",
    "SIGNPOST_DNS_UPDATE",
    "SIGNPOST_RATE_LIMIT",
    "SIGNPOST_TRUSTED_PROXIES",
    "SIGNPOST_PUBLIC_URL",
];
/// As above, where going on would be dangerous.
const REFUSED: [&str; 2] = ["SIGNPOST_TLS_CERT", "SIGNPOST_TLS_KEY"];

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: ServeArgs) -> Outcome<()> {
    telemetry::install(&args.store.log, args.store.log_format)?;
    args.validate()?;
    for name in REFUSED {
        if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
            return Err(
                format!("{name}: this version has no TLS of its own; put a TLS proxy in front and unset it").into()
            );
        }
    }
    for name in NOT_YET {
        if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
            tracing::warn!("{name} has no effect in this version");
        }
    }
    let settings = args.engine_settings()?;
    // From here on a signal ends the process in order, however early it comes.
    let mut signals = Signals::new()?;
    let dns = Dns::new(args.dns_settings())?;
    let store = open_store(&args.store, true).await?;
    let engine = Engine::new(store.clone(), dns, Arc::new(SystemClock), Arc::new(SystemRandom), settings);
    attach_kms(&engine, args.key_custody).await?;
    let key_path = args.store.master_key_path();
    master_key::establish(&engine, &key_path, &SystemRandom).await?;
    let listener =
        TcpListener::bind(args.listen).await.map_err(|error| format!("SIGNPOST_LISTEN {}: {error}", args.listen))?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    let shutdown = CancellationToken::new();
    let background = start_background(&engine, key_path, &shutdown);
    let api = tokio::spawn(signpost_http::serve(listener, signpost_http::router(engine.clone()), shutdown.clone()));
    signals.wait().await;
    tracing::info!("stopping: no new requests, deliveries under way have 30 s");
    shutdown.cancel();
    api.await??;
    background.wait().await;
    engine.flush_last_uses().await?;
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Access to AWS KMS where new keys go there, or where AWS settings say that keys may lie there. No call is made yet.
async fn attach_kms(engine: &Engine, custody: KeyCustody) -> Outcome<()> {
    let (kms, for_new_keys) = match custody {
        KeyCustody::AwsKms => {
            let kms = AwsKmsCustody::from_environment().await;
            (Some(kms.map_err(|error| format!("SIGNPOST_KEY_CUSTODY=aws-kms: {error}"))?), true)
        }
        KeyCustody::Sealed => (AwsKmsCustody::if_configured().await?, false),
    };
    if let Some(kms) = kms {
        engine.attach_kms(Arc::new(kms), for_new_keys);
    }
    Ok(())
}

/// Worker and periodic work; all of it ends when `shutdown` is cancelled.
pub(crate) fn start_background(engine: &Engine, key_path: PathBuf, shutdown: &CancellationToken) -> TaskTracker {
    let tracker = TaskTracker::new();
    tracker.spawn(signpost_engine::delivery::worker::run(engine.clone(), shutdown.clone()));
    let e = engine.clone();
    tracker.spawn(every(FLUSH_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move { report("last uses of API keys", e.flush_last_uses().await) }
    }));
    let e = engine.clone();
    tracker.spawn(every(REFRESH_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move { report("published keys", e.refresh_published_keys().await.map(|_| ())) }
    }));
    let e = engine.clone();
    tracker.spawn(every(EXPIRE_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move { report("idempotency keys", e.expire_idempotent().await.map(|_| ())) }
    }));
    let e = engine.clone();
    tracker.spawn(every(PROBE_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move {
            e.probe_unavailable_keys().await;
        }
    }));
    let e = engine.clone();
    tracker.spawn(every(WITHDRAW_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move {
            report("unproven domains", e.expire_unproven_domains().await.map(|_| ()));
            report("revoked keys", e.withdraw_keys().await.map(|_| ()));
        }
    }));
    let e = engine.clone();
    tracker.spawn(every(UNSEAL_EVERY, shutdown.clone(), move || {
        let (e, path) = (e.clone(), key_path.clone());
        async move { unseal(&e, &path).await }
    }));
    tracker.close();
    tracker
}

/// While sealed: offers the file again, so that the right key mends it without a restart. Never makes one.
async fn unseal(engine: &Engine, path: &std::path::Path) {
    if !engine.is_sealed() {
        return;
    }
    let Ok(Some(key)) = master_key::read(path) else { return };
    match engine.offer_master_key(Some(key)).await {
        Ok(signpost_engine::MasterKeyState::Unsealed) => tracing::info!("unsealed: the right master key is there"),
        Ok(signpost_engine::MasterKeyState::Sealed | signpost_engine::MasterKeyState::NeverMade) => {}
        Err(error) => tracing::warn!(%error, "the master key could not be compared"),
    }
}

fn report(what: &str, result: Result<(), signpost_engine::Error>) {
    if let Err(error) = result {
        tracing::warn!(?error, "background work failed and will be tried again: {what}");
    }
}

async fn every<F, W>(period: Duration, shutdown: CancellationToken, work: W)
where
    W: Fn() -> F + Send,
    F: Future<Output = ()> + Send,
{
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => work().await,
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
