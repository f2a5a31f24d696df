//! `signpost serve`: store, engine, worker, background work, HTTP, and an orderly end.
use crate::config::{KeyCustody, Role, ServeArgs};
use crate::key_watch::KeyWatch;
use crate::master_key::{FirstKey, KeyFiles};
use crate::{Outcome, master_key, open_store, telemetry};
use signpost_diagnosis::dns::Dns;
use signpost_diagnosis::update::DnsUpdate;
use signpost_engine::delivery::tls::ClientTls;
use signpost_engine::delivery::worker;
use signpost_engine::{Engine, KmsAccess, SystemClock};
use signpost_keys::{AwsKmsCustody, CustodyKind, SystemRandom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// How exactly the time of a domain's next look is kept.
const WATCH_EVERY: Duration = Duration::from_secs(2);
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);
/// An opened private key that is not used leaves the memory after one to two of these.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// How exactly the time of a key's next probe is kept.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How soon a key of a delegated domain is published or withdrawn where that did not happen at once.
const DELEGATION_EVERY: Duration = Duration::from_secs(1);
/// How soon a key whose record appeared, or whose time has come, is noticed.
const TEND_EVERY: Duration = Duration::from_secs(10);
const ROTATE_EVERY: Duration = Duration::from_secs(600);
const WITHDRAW_EVERY: Duration = Duration::from_secs(60);
/// A batch of keys is sealed anew so often while the master key is being changed: slow enough that mail does not feel it.
const RESEAL_EVERY: Duration = Duration::from_secs(1);
/// How soon the right master key is noticed, or a change of it.
const UNSEAL_EVERY: Duration = Duration::from_secs(2);
/// The end of the background work: what the worker takes at most (30 s for deliveries, then some for its last writes).
const BACKGROUND_END: Duration = Duration::from_secs(45);

/// Variables of the contract that this version does not act on yet; each would silently do nothing.
const NOT_YET: [&str; 1] = ["SIGNPOST_SMTP_LISTEN"];
/// As above, where going on would be dangerous.
const REFUSED: [&str; 2] = ["SIGNPOST_TLS_CERT", "SIGNPOST_TLS_KEY"];

/// Runs until SIGTERM or SIGINT. Work that ends by itself ends the process, with an error: whoever supervises it starts it
/// anew, while an API that goes on accepting mail which nobody delivers would look healthy.
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
    let update = args.dns_update(settings.service_domain.as_ref())?;
    let tls = ClientTls::for_delivery(&settings.delivery)?;
    // From here on a signal ends the process in order, however early it comes.
    let mut signals = Signals::new()?;
    let dns = Dns::new(args.dns_settings())?;
    let store = open_store(&args.store, true).await?;
    let engine = Engine::new(store.clone(), dns.clone(), Arc::new(SystemClock), Arc::new(SystemRandom), settings);
    if let Some((update, service_domain)) = update {
        let update = DnsUpdate::new(update, dns).map_err(|error| format!("SIGNPOST_DNS_UPDATE: {error}"))?;
        engine.attach_dns_update(update, &service_domain);
    }
    attach_kms(&engine, &args).await?;
    let key_files = args.store.master_key_files();
    let first = FirstKey::on(&args.store.database()?);
    master_key::establish(&engine, &key_files, first, &SystemRandom).await?;
    let shutdown = CancellationToken::new();
    let listener = if args.has(Role::Api) {
        let bound = TcpListener::bind(args.listen).await;
        let listener = bound.map_err(|error| format!("SIGNPOST_LISTEN {}: {error}", args.listen))?;
        tracing::info!("listening on http://{}", listener.local_addr()?);
        Some(listener)
    } else {
        None
    };
    let background = start_background(&engine, args.has(Role::Worker).then_some(tls), key_files, &shutdown);
    if let Some(listener) = listener {
        let door = args.door(open_files());
        let public_url = args.public_url.clone().unwrap_or(format!("http://{}", listener.local_addr()?));
        let router = signpost_http::router(engine.clone(), &public_url, args.rate_limit);
        let api = signpost_http::serve(listener, router, door, shutdown.clone());
        background.spawn("the HTTP server", async move {
            if let Err(error) = api.await {
                tracing::error!(%error, "the HTTP server failed");
            }
        });
    }
    tokio::select! {
        () = signals.wait() => {}
        () = shutdown.cancelled() => {}
    }
    tracing::info!("stopping: no new requests, deliveries under way have 30 s");
    shutdown.cancel();
    let ended = background.end().await;
    report("last uses of API keys", engine.flush_last_uses().await);
    report("counts of usage", engine.flush_usage().await);
    store.close().await;
    ended?;
    tracing::info!("stopped");
    Ok(())
}

/// How many files this process may have open. The soft limit, commonly 1,024 and meant for programs that use select(2), is raised to
/// the hard one first; every connection is a file.
fn open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files stays as it is");
            limit.current
        }
    };
    // Without a limit the system's own bounds it.
    current.unwrap_or(u64::MAX)
}

/// Access to AWS KMS where new keys go there, or where AWS settings say that keys may lie there. No call is made yet.
async fn attach_kms(engine: &Engine, args: &ServeArgs) -> Outcome<()> {
    let needed = async |name: &str| {
        let kms = AwsKmsCustody::from_environment().await;
        kms.map(Some).map_err(|error| format!("SIGNPOST_KEY_CUSTODY={name}: {error}"))
    };
    let (kms, for_new_keys) = match args.key_custody {
        KeyCustody::AwsKms => (needed("aws-kms").await?, CustodyKind::AwsKms),
        KeyCustody::AwsKmsEnvelope => (needed("aws-kms-envelope").await?, CustodyKind::AwsKmsEnvelope),
        KeyCustody::Sealed => (AwsKmsCustody::if_configured().await?, CustodyKind::Sealed),
    };
    if let Some(kms) = kms.map(|kms| kms.at_rate(args.kms_rate)) {
        let envelope = Arc::new(kms.envelope(Arc::new(SystemRandom), args.envelope_settings()));
        let kms = Arc::new(kms.with_own_keys(engine.external_ids(), Arc::new(SystemRandom)));
        engine.attach_own_kms(Arc::clone(&kms));
        engine.attach_kms(KmsAccess { keys: kms, envelope, for_new_keys });
    }
    Ok(())
}

/// Work that has to go on until the shutdown.
pub(crate) struct Background {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    failed: Arc<AtomicBool>,
}

impl Background {
    fn new(shutdown: &CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), shutdown: shutdown.clone(), failed: Arc::default() }
    }

    /// A panic, or an end before the shutdown, is told in the log and shuts everything down.
    pub(crate) fn spawn(&self, what: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (shutdown, failed) = (self.shutdown.clone(), Arc::clone(&self.failed));
        self.tracker.spawn(async move {
            // A task of its own, so that its panic is seen here.
            let ended = tokio::spawn(work).await;
            if ended.is_ok() && shutdown.is_cancelled() {
                return;
            }
            tracing::error!("{what} ended unexpectedly: the process stops");
            failed.store(true, Ordering::SeqCst);
            shutdown.cancel();
        });
    }

    /// Waits for all of it, within bounds.
    ///
    /// # Errors
    /// Something ended before the shutdown.
    pub(crate) async fn end(self) -> Outcome<()> {
        self.tracker.close();
        if tokio::time::timeout(BACKGROUND_END, self.tracker.wait()).await.is_err() {
            tracing::warn!("background work did not end in time and is cut off");
        }
        if self.failed.load(Ordering::SeqCst) {
            return Err("a part of the server ended unexpectedly; the log says which".into());
        }
        Ok(())
    }
}

/// The periodic work of every process and, with `tls` for its deliveries, that of a worker; all of it ends when `shutdown`
/// is cancelled.
pub(crate) fn start_background(
    engine: &Engine,
    tls: Option<ClientTls>,
    key_files: KeyFiles,
    shutdown: &CancellationToken,
) -> Background {
    let background = Background::new(shutdown);
    if let Some(tls) = tls {
        start_worker(engine, tls, &background, shutdown);
    }
    let e = engine.clone();
    let flush = every(FLUSH_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move {
            report("last uses of API keys", e.flush_last_uses().await);
            report("counts of usage", e.flush_usage().await);
        }
    });
    background.spawn("the record of uses", flush);
    let e = engine.clone();
    let watch = Arc::new(KeyWatch::new(key_files));
    let watching = every(UNSEAL_EVERY, shutdown.clone(), move || {
        let (e, watch) = (e.clone(), Arc::clone(&watch));
        async move { watch.look(&e).await }
    });
    background.spawn("the watch for the master key", watching);
    // In every process: each remembers by itself which keys it found unusable.
    let e = engine.clone();
    let probe = every(PROBE_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move {
            e.probe_unavailable_keys().await;
        }
    });
    background.spawn("the probes of unavailable keys", probe);
    let e = engine.clone();
    let forget = every(FORGET_EVERY, shutdown.clone(), move || {
        e.forget_unused_keys();
        std::future::ready(())
    });
    background.spawn("the forgetting of unused keys", forget);
    // In every process too: what a request left owing is done by whoever comes first.
    let e = engine.clone();
    let delegation = every(DELEGATION_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move { e.tend_delegation().await }
    });
    background.spawn("the publishing of delegated keys", delegation);
    background
}

/// Delivery, and what needs doing once per database rather than per process.
fn start_worker(engine: &Engine, tls: ClientTls, background: &Background, shutdown: &CancellationToken) {
    background.spawn("the delivery worker", worker::run(engine.clone(), tls, shutdown.clone()));
    let e = engine.clone();
    let watch = every(WATCH_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move { report("looks at domains", e.watch_domains().await.map(|_| ())) }
    });
    background.spawn("the watch over domains", watch);
    let e = engine.clone();
    let expire = every(EXPIRE_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move { report("idempotency keys", e.expire_idempotent().await.map(|_| ())) }
    });
    background.spawn("the expiry of idempotency keys", expire);
    let e = engine.clone();
    let withdraw = every(WITHDRAW_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move {
            report("unproven domains", e.expire_unproven_domains().await.map(|_| ()));
            report("retired and revoked keys", e.withdraw_keys().await.map(|_| ()));
        }
    });
    background.spawn("the withdrawal of keys", withdraw);
    let e = engine.clone();
    let reseal = every(RESEAL_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move { report("the change of the master key", e.reseal().await) }
    });
    background.spawn("the change of the master key", reseal);
    let e = engine.clone();
    let tend = every(TEND_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move { report("states of keys", e.tend_keys().await) }
    });
    background.spawn("the states of keys", tend);
    let e = engine.clone();
    let rotate = every(ROTATE_EVERY, shutdown.clone(), move || {
        let e = e.clone();
        async move { report("rotations by schedule", e.prepare_due_rotations().await) }
    });
    background.spawn("the rotations by schedule", rotate);
}

fn report(what: &str, result: Result<(), signpost_engine::Error>) {
    if let Err(error) = result {
        tracing::warn!(?error, "background work failed and will be tried again: {what}");
    }
}

/// Until the shutdown, which also breaks off work under way: a write is whole or not at all.
async fn every<F, W>(period: Duration, shutdown: CancellationToken, work: W)
where
    W: Fn() -> F + Send,
    F: Future<Output = ()> + Send,
{
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let turn = async {
            ticks.tick().await;
            work().await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = turn => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_ends_by_itself_or_panics_stops_the_process_with_an_error() {
        for panics in [false, true] {
            let shutdown = CancellationToken::new();
            let background = Background::new(&shutdown);
            background.spawn("a job", async move { assert!(!panics, "on purpose") });
            let waits = shutdown.clone();
            background.spawn("another", async move { waits.cancelled().await });
            shutdown.cancelled().await;
            assert!(background.end().await.is_err(), "panics: {panics}");
        }
    }

    #[tokio::test]
    async fn the_shutdown_breaks_periodic_work_off_and_is_no_error() {
        let shutdown = CancellationToken::new();
        let background = Background::new(&shutdown);
        let begun = Arc::new(tokio::sync::Notify::new());
        let told = Arc::clone(&begun);
        let endless = every(Duration::from_secs(1), shutdown.clone(), move || {
            told.notify_one();
            std::future::pending()
        });
        background.spawn("a job", endless);
        begun.notified().await;
        shutdown.cancel();
        background.end().await.expect("an orderly end");
    }
}
