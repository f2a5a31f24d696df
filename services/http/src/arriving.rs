//! A request while it is here: its body must arrive at a least speed, all bodies together may take so much memory, and the work on it
//! may take so long. The body is wrapped before anybody reads it, so that this holds for every reader.
use crate::pace::Pace;
use crate::problem::{Problem, ProblemType};
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a whole body may take, however steadily it comes: 25 MB in it are 7 KB a second.
const WHOLE_BODY: Duration = Duration::from_secs(3_600);
/// How long the work may take once the body is there. Longer than anything inside has for itself: a check 10 s, the database 30 s.
const WORK: Duration = Duration::from_secs(60);
/// What each body may take without asking: while large ones fill the memory, ordinary requests are still served.
const FREE_OCTETS: u64 = 16 * 1024;
/// How much of a body nobody wanted is thrown away after the answer, in octets.
const DRAIN_OCTETS: u64 = 64 * 1024 * 1024;
/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Octets of request bodies that may be in memory at a time, beside the first few of each.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    limit: u64,
    taken: AtomicU64,
}

impl BodyMemory {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicU64::new(0) })
    }

    fn take(&self, octets: u64) -> bool {
        let fits = |taken: u64| taken.checked_add(octets).filter(|sum| *sum <= self.limit);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn give_back(&self, octets: u64) {
        self.taken.fetch_sub(octets, Ordering::Relaxed);
    }
}

/// What body and work of one request share. At its end it gives the memory back.
struct Stay {
    memory: Arc<BodyMemory>,
    octets: AtomicU64,
    taken: AtomicU64,
    /// The body is whole, or nobody reads it any more.
    body_over: Notify,
}

impl Stay {
    /// Counts octets that came; false where there is no memory for them.
    fn hold(&self, octets: usize) -> bool {
        let before = self.octets.fetch_add(octets as u64, Ordering::Relaxed);
        let counted = |sum: u64| sum.saturating_sub(FREE_OCTETS);
        let more = counted(before.saturating_add(octets as u64)) - counted(before);
        if more == 0 {
            return true;
        }
        let fits = self.memory.take(more);
        if fits {
            self.taken.fetch_add(more, Ordering::Relaxed);
        }
        fits
    }

    async fn out_of_time(&self) {
        self.body_over.notified().await;
        tokio::time::sleep(WORK).await;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.memory.give_back(*self.taken.get_mut());
    }
}

/// The middleware.
pub(crate) async fn bounded(State(memory): State<Arc<BodyMemory>>, request: Request, next: Next) -> Response {
    let stay = Arc::new(Stay { memory, octets: 0.into(), taken: 0.into(), body_over: Notify::new() });
    let request = Arriving::wrap(request, Arc::clone(&stay));
    tokio::select! {
        biased;
        response = next.run(request) => response,
        () = stay.out_of_time() => Problem::overloaded(format!(
            "The work was not done within {} seconds, and may still have an effect. Repeat the call, with the same Idempotency-Key if it had one.",
            WORK.as_secs()
        ))
        .into_response(),
    }
}

/// Why a body did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFault {
    /// Temporary, the client's line.
    #[error("it came too slowly")]
    TooSlow,
    /// Temporary, ours.
    #[error("there is no memory for it now")]
    NoMemory,
    /// Temporary, the client's line or its framing.
    #[error("it broke off: {0}")]
    Broken(axum::Error),
}

impl BodyFault {
    /// The fault among an error's causes.
    pub(crate) fn among<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
    }
}

impl From<&BodyFault> for Problem {
    fn from(fault: &BodyFault) -> Self {
        match fault {
            BodyFault::TooSlow => Self::new(
                ProblemType::Timeout,
                format!(
                    "The body came more slowly than {} octets a second for more than {} seconds, or was not whole after {} seconds. Send it again over a better line.",
                    crate::pace::OCTETS_PER_SECOND,
                    crate::pace::PATIENCE.as_secs(),
                    WHOLE_BODY.as_secs()
                ),
            ),
            BodyFault::NoMemory => Self::overloaded("Too many large bodies are arriving at the same time."),
            BodyFault::Broken(error) => {
                tracing::debug!(%error, "reading the request body");
                Self::new(ProblemType::IncompleteBody, "The body ended early or its framing is broken. Send it again.")
            }
        }
    }
}

/// A request body on its way in. Dropped unread it is drained in the background: closing a socket with unread octets resets the
/// connection, and a client that is still sending would lose the answer (401, 413, ...) that explains why (RFC 9112 9.6).
struct Arriving {
    inner: Option<Body>,
    stay: Arc<Stay>,
    pace: Pace,
    /// The client waits for `100 Continue`; unless it was told so, it sends nothing.
    waits: bool,
    ended: bool,
}

impl Arriving {
    fn wrap(request: Request, stay: Arc<Stay>) -> Request {
        let waits = request.headers().contains_key(axum::http::header::EXPECT);
        request.map(|body| {
            if body.is_end_stream() {
                stay.body_over.notify_one();
                return body;
            }
            let pace = Pace::least().not_after(Instant::now() + WHOLE_BODY);
            Body::new(Self { inner: Some(body), stay, pace, waits, ended: false })
        })
    }

    fn came(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyFault> {
        let octets = frame.data_ref().map_or(0, Bytes::len);
        self.pace.moved(octets);
        if self.stay.hold(octets) { Ok(frame) } else { Err(BodyFault::NoMemory) }
    }

    /// Not drained: who sends that slowly would hold its place for longer. The answer goes out and the connection is closed.
    fn give_up(&mut self) -> BodyFault {
        self.inner = None;
        self.ended = true;
        BodyFault::TooSlow
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(cx);
        self.waits = false;
        match polled {
            Poll::Pending => self.pace.poll_spent(cx).map(|()| Some(Err(self.give_up()))),
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(self.came(frame))),
            Poll::Ready(Some(Err(error))) => {
                self.ended = true;
                Poll::Ready(Some(Err(BodyFault::Broken(error))))
            }
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.stay.body_over.notify_one();
        let Some(inner) = self.inner.take() else { return };
        if self.ended || self.waits || inner.is_end_stream() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Detached on purpose: the answer goes out meanwhile; it ends by its own limits or with the connection.
            runtime.spawn(tokio::time::timeout(DRAIN_TIME, drain(inner)));
        }
    }
}

async fn drain(mut body: Body) {
    let mut left = DRAIN_OCTETS;
    while let Some(Ok(frame)) = body.frame().await {
        let octets = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(octets) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests;
