//! The worker: a lease, claims under it, releases of what waits, the drain at the shutdown. One claimed message is `attempt`'s.
use super::backoff::HostBackoff;
use super::carrier::{Carrier, Report};
use super::crowd::Crowd;
use super::session::RecipientResult;
use super::tls::ClientTls;
use super::wire::Trouble;
use crate::{Engine, ids};
use futures_util::FutureExt;
use signpost_store::{Delivery, Fence, StoreError};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// DESIGN "Leases": heartbeat 5 s, lease 20 s. While the database is away nobody else can take it either: it is lost only
/// once the store says so.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
/// Longest sleep between two looks at the queue.
const POLL: Duration = Duration::from_secs(1);
/// Shortest one, so that a row that is due but not ours to claim makes no busy loop.
const LEAST_POLL: Duration = Duration::from_millis(50);
const RELEASE_EVERY: Duration = Duration::from_millis(100);
/// SIGTERM: what is in flight may end, for this long.
const DRAIN: Duration = Duration::from_secs(30);
/// After that: what was broken off is given back, if the database is there.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// Runs until `shutdown`, and then until what is in flight has ended or was given back (30 s, and some for the database).
/// `tls` is that of `ClientTls::for_delivery`.
pub async fn run(engine: Engine, tls: ClientTls, shutdown: CancellationToken) {
    let backoff = Arc::new(HostBackoff::default());
    while !shutdown.is_cancelled() {
        let Some(fence) = begin(&engine, &shutdown).await else { return };
        let lost = CancellationToken::new();
        let worker = Worker::new(engine.clone(), fence, lost, tls.clone(), Arc::clone(&backoff));
        worker.work(&shutdown).await;
    }
}

/// A new lease; tries until there is one. `None` at the shutdown.
async fn begin(engine: &Engine, shutdown: &CancellationToken) -> Option<Fence> {
    let inner = &engine.inner;
    loop {
        let id = ids::fresh(inner.clock.as_ref(), inner.random.as_ref());
        match inner.store.start_worker(&id, inner.clock.now_ms()).await {
            Ok(fence) => return Some(fence),
            Err(cause) => tracing::warn!(%cause, "cannot take a worker lease, trying again"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = sleep(POLL) => {}
        }
    }
}

/// One lease's work. Cheap to clone.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) engine: Engine,
    pub(super) fence: Fence,
    /// The lease is lost: nothing may be written any more.
    pub(super) lost: CancellationToken,
    /// The process ends: no outcome is written any more.
    pub(super) given_up: CancellationToken,
    pub(super) carrier: Carrier,
    tasks: TaskTracker,
    room: Arc<Semaphore>,
}

impl Worker {
    pub(super) fn new(
        engine: Engine,
        fence: Fence,
        lost: CancellationToken,
        tls: ClientTls,
        backoff: Arc<HostBackoff>,
    ) -> Self {
        let inner = &engine.inner;
        let in_flight = inner.settings.delivery.in_flight.max(1);
        let carrier = Carrier {
            helo: inner.settings.hostname.clone(),
            tls,
            abort: lost.child_token(),
            backoff,
            crowd: Arc::new(Crowd::new(in_flight)),
            clock: Arc::clone(&inner.clock),
            random: Arc::clone(&inner.random),
        };
        let room = Arc::new(Semaphore::new(in_flight));
        Self { engine, fence, lost, given_up: CancellationToken::new(), carrier, tasks: TaskTracker::new(), room }
    }

    async fn work(self, shutdown: &CancellationToken) {
        let ended = CancellationToken::new();
        let heartbeat = tokio::spawn(self.clone().heartbeat(ended.clone()));
        self.dispatch(shutdown).await;
        self.tasks.close();
        if !self.lost.is_cancelled() && timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("deliveries still in flight after 30 s are broken off and given back");
        }
        self.carrier.abort.cancel();
        if timeout(GIVE_BACK, self.tasks.wait()).await.is_err() {
            self.given_up.cancel();
            self.tasks.wait().await;
        }
        ended.cancel();
        if let Err(cause) = heartbeat.await {
            tracing::error!(%cause, "the heartbeat ended badly");
        }
    }

    /// Prolongs the lease until the work has ended or the store says that it is lost. A lease that ran out and was not taken
    /// can still be prolonged: after an outage of the database the outcomes of what was sent meanwhile are committed.
    async fn heartbeat(self, ended: CancellationToken) {
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                () = sleep(HEARTBEAT) => {}
            }
            let inner = &self.engine.inner;
            let beat = timeout(HEARTBEAT, inner.store.heartbeat(&self.fence, inner.clock.now_ms())).await;
            match beat {
                Ok(Ok(())) => {}
                Ok(Err(StoreError::Stale)) => {
                    tracing::warn!("the worker lease was lost, starting anew");
                    self.lost.cancel();
                    return;
                }
                Ok(Err(cause)) => tracing::warn!(%cause, "heartbeat not written"),
                Err(_) => tracing::warn!("heartbeat not written in time"),
            }
        }
    }

    /// Claims and releases until the shutdown or the loss of the lease.
    async fn dispatch(&self, shutdown: &CancellationToken) {
        let notify = self.engine.inner.store.queue_notify();
        let mut releasing = None;
        let (mut claimed, mut released) = (None::<Instant>, None::<Instant>);
        loop {
            // A claim writes; so it is made only where something is due, and now and then for the leases of dead workers.
            let until_due = self.until_due().await;
            let due = until_due.is_zero();
            let mut more = false;
            if due || claimed.is_none_or(|at| at.elapsed() >= HEARTBEAT) {
                claimed = Some(Instant::now());
                more = self.claim().await;
            }
            // Now and then also where nothing seems due: what an earlier pass left behind is not counted.
            let idle = releasing.as_ref().is_none_or(tokio::task::JoinHandle::is_finished);
            let wait = if due { RELEASE_EVERY } else { HEARTBEAT };
            if idle && released.is_none_or(|at| at.elapsed() >= wait) {
                released = Some(Instant::now());
                releasing = Some(self.tasks.spawn(self.clone().release()));
            }
            let full = self.room.available_permits() == 0;
            let pause = match (full, more) {
                // Releases go on.
                (true, _) => POLL,
                (false, true) => Duration::ZERO,
                (false, false) => until_due.clamp(LEAST_POLL, POLL),
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.lost.cancelled() => return,
                _permit = self.room.acquire(), if full => {}
                () = notify.notified(), if !full && !more => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// True if there may be more that is due.
    async fn claim(&self) -> bool {
        let inner = &self.engine.inner;
        let free = u32::try_from(self.room.available_permits()).unwrap_or(u32::MAX);
        if free == 0 {
            return false;
        }
        let claimed = match inner.store.claim_deliveries(&self.fence, inner.clock.now_ms(), free).await {
            Ok(claimed) => claimed,
            Err(StoreError::Stale) => {
                self.lost.cancel();
                return false;
            }
            Err(cause) => {
                tracing::warn!(%cause, "cannot claim deliveries");
                return false;
            }
        };
        let more = u32::try_from(claimed.len()).is_ok_and(|count| count >= free);
        for delivery in claimed {
            // There is room for each: nobody else takes permits while this runs.
            let permit = Arc::clone(&self.room).try_acquire_owned().ok();
            let worker = self.clone();
            self.tasks.spawn(async move {
                worker.guarded(&delivery, worker.deliver(&delivery)).await;
                drop(permit);
            });
        }
        more
    }

    /// A fault of ours must not leave recipients `sending`. It may have come after the final dot, so it is an attempt with an
    /// uncertain end; what was settled before it stays.
    pub(super) async fn guarded(&self, delivery: &Delivery, work: impl Future<Output = ()>) {
        if AssertUnwindSafe(work).catch_unwind().await.is_ok() {
            return;
        }
        let message = &delivery.message.id;
        tracing::error!(%message, "the delivery panicked; the attempt counts as uncertain");
        let trouble = RecipientResult::ConnectionTrouble { trouble: Trouble::Fault, uncertain: true };
        let report = Report::unrouted(trouble);
        let settled = self.settle_all(delivery, |settling, recipient| settling.outcome(recipient, &report));
        if AssertUnwindSafe(settled).catch_unwind().await.is_err() {
            tracing::error!(%message, "its end panicked too; the message stays claimed until this process restarts");
        }
    }

    /// Zero if something is due now.
    async fn until_due(&self) -> Duration {
        let inner = &self.engine.inner;
        match inner.store.next_due().await {
            Ok(Some(due)) => {
                let millis = u64::try_from(due.saturating_sub(inner.clock.now_ms())).unwrap_or(0);
                Duration::from_millis(millis)
            }
            Ok(None) => POLL,
            Err(cause) => {
                tracing::warn!(%cause, "cannot read the queue");
                POLL
            }
        }
    }

    async fn release(self) {
        let released = tokio::select! {
            () = self.carrier.abort.cancelled() => return,
            released = AssertUnwindSafe(self.engine.release_waiting(&self.fence)).catch_unwind() => released,
        };
        let Ok(released) = released else {
            return tracing::error!("a release pass panicked; what it left is due again soon");
        };
        match released {
            Ok(0) => {}
            Ok(moved) => tracing::debug!(moved, "waiting messages looked at"),
            Err(cause) => tracing::warn!(%cause, "cannot release waiting messages"),
        }
    }
}
