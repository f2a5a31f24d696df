//! A connection that fails once the client keeps it without using it: no request in time, or an answer taken too slowly. hyper has one
//! time-out for headers and idleness together, and none for writing.
use crate::pace::Pace;
use axum::body::HttpBody;
use hyper::body::{Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long the head of a request may take from its first octet on, and a new connection until the end of its first head.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a connection is kept for another request. Load balancers commonly keep theirs for 60 s; the side that sends must be the
/// one that closes first, or its next request meets a closed connection.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(75);

/// Whether a request is here; the connection and its service share it.
#[derive(Clone, Default)]
pub(super) struct Busy(Arc<Requests>);

#[derive(Default)]
struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
    /// Wakes the connection when a request ends: from then on its client's time counts.
    connection: Mutex<Option<Waker>>,
}

impl Busy {
    /// A head is there.
    pub(super) fn begin(&self) {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
    }
    /// Ends when `body`, the answer's, is written or given up.
    pub(super) fn until_written<B>(&self, body: B) -> Answer<B> {
        Answer { body, busy: self.clone() }
    }
    fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Relaxed)
    }
    fn is(&self) -> bool {
        self.begun() != self.0.ended.load(Ordering::Relaxed)
    }
    fn wakes(&self, cx: &Context<'_>) {
        let mut connection = self.0.connection.lock().unwrap_or_else(PoisonError::into_inner);
        match connection.as_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *connection = Some(cx.waker().clone()),
        }
    }
}

/// The body of an answer.
pub(super) struct Answer<B> {
    body: B,
    busy: Busy,
}

impl<B: HttpBody + Unpin> HttpBody for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        self.busy.0.ended.fetch_add(1, Ordering::Relaxed);
        let connection = self.busy.0.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = connection.as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// Wraps `S`; a client that is too slow is an error of kind `TimedOut`.
pub(super) struct Paced<S> {
    stream: S,
    busy: Busy,
    /// Requests whose heads are known to be over.
    heads: u64,
    writing: Pace,
    awaited: Awaited,
    timer: Option<Pin<Box<Sleep>>>,
    /// Called before a slow reader is given up: what it did not take shall not stay with the system.
    give_up: fn(&S),
}

/// What the client owes while no request is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Not yet asked.
    Nothing,
    /// The first octet of the next head.
    Request(Instant),
    /// The rest of a head.
    Head(Instant),
}

impl<S> Paced<S> {
    /// A new connection.
    pub(super) fn new(stream: S, busy: Busy, give_up: fn(&S)) -> Self {
        let awaited = Awaited::Head(Instant::now() + HEAD_TIME);
        Self { stream, busy, heads: 0, writing: Pace::least(), awaited, timer: None, give_up }
    }

    /// Something was read while no request is here.
    fn head_moved(&mut self) {
        self.awaited = match self.awaited {
            Awaited::Nothing | Awaited::Request(_) => Awaited::Head(Instant::now() + HEAD_TIME),
            Awaited::Head(until) => Awaited::Head(until),
        };
    }

    /// Nothing to read while no request is here: ready once that has gone on for too long.
    fn poll_head_spent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.awaited == Awaited::Nothing {
            self.awaited = Awaited::Request(Instant::now() + IDLE_TIME);
        }
        let (Awaited::Request(until) | Awaited::Head(until)) = self.awaited else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    /// What a write of so many octets, or its waiting, means.
    fn wrote(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.writing.poll_spent(cx).map(|()| {
                (self.give_up)(&self.stream);
                Err(io::ErrorKind::TimedOut.into())
            }),
            Poll::Ready(Ok(octets)) => {
                self.writing.moved(octets);
                // The rest of an answer, in hyper's buffer after its body is gone: the client is not idle yet.
                if matches!(self.awaited, Awaited::Request(_)) {
                    self.awaited = Awaited::Request(Instant::now() + IDLE_TIME);
                }
                Poll::Ready(Ok(octets))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.busy.wakes(cx);
        let begun = self.busy.begun();
        if begun != self.heads {
            self.heads = begun;
            self.awaited = Awaited::Nothing;
        }
        if self.busy.is() {
            // How fast a body comes is the body's matter.
            return read;
        }
        if read.is_pending() {
            return self.poll_head_spent(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        if buf.filled().len() > before {
            self.head_moved();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
