//! A TCP stream with timeouts for peers that stall.
//!
//! hyper's own header timeout also runs on idle keep-alive connections, and hyper-util's protocol detection has no
//! timeout, so reads are timed here: a short limit from a request's first byte to the end of its head, a long one
//! between requests. HTTP/2's connection preface counts as a head, and only the complete preface makes a connection
//! HTTP/2. Writes are timed as well: a client that stops reading would otherwise hold its sequence for ever.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// The connection preface of HTTP/2, RFC 9113 section 3.4. Only the complete preface selects HTTP/2.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Timeouts for a peer that stalls.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Maximum time from a request's first byte to the end of its head.
    pub header: Duration,
    /// Maximum time without a request.
    pub idle: Duration,
    /// Maximum time without progress of a write.
    pub write: Duration,
}

/// The activity of a connection, shared between its stream and its requests.
#[derive(Clone, Debug)]
pub struct Activity(Arc<Mutex<Phase>>);

/// The pure part of [`Activity`].
#[derive(Debug, PartialEq)]
struct Phase {
    /// Requests whose response is not yet complete.
    requests: usize,
    /// The time since when there has been no request.
    idle_since: Instant,
    /// The time of the first byte after that.
    head_since: Option<Instant>,
    protocol: Protocol,
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    /// This many bytes have arrived, all of them part of the beginning of [`HTTP2_PREFACE`].
    Undecided(usize),
    Http1,
    Http2,
}

impl Protocol {
    /// Returns the protocol after `bytes` more.
    fn after(self, bytes: &[u8]) -> Self {
        let Self::Undecided(seen) = self else { return self };
        let missing = &HTTP2_PREFACE[seen..];
        if bytes.starts_with(missing) {
            Self::Http2
        } else if missing.starts_with(bytes) {
            Self::Undecided(seen + bytes.len())
        } else {
            Self::Http1
        }
    }
}

impl Phase {
    fn new(now: Instant) -> Self {
        Self { requests: 0, idle_since: now, head_since: None, protocol: Protocol::Undecided(0) }
    }

    fn on_bytes(&mut self, now: Instant, bytes: &[u8]) {
        self.protocol = self.protocol.after(bytes);
        if self.protocol == Protocol::Http2 {
            // Frames also arrive on idle HTTP/2 connections, so their first byte does not begin a request.
            self.head_since = None;
            self.idle_since = now;
        } else if self.requests == 0 {
            // An incomplete preface is an incomplete head, with the same time limit.
            self.head_since.get_or_insert(now);
        }
    }

    fn on_request(&mut self) {
        self.requests += 1;
        self.head_since = None;
    }

    fn on_response_end(&mut self, now: Instant) {
        self.requests -= 1;
        self.idle_since = now;
    }

    /// Returns the time at which the peer has stalled for too long without further activity; `None` while a request
    /// runs.
    fn deadline(&self, patience: &Patience) -> Option<Instant> {
        match self.head_since {
            _ if self.requests > 0 => None,
            Some(since) => Some(since + patience.header),
            None => Some(self.idle_since + patience.idle),
        }
    }
}

impl Activity {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Phase::new(Instant::now()))))
    }

    /// Marks a request's head as complete; its response is complete when the result is dropped.
    pub fn begin_request(&self) -> RunningRequest {
        self.lock().on_request();
        RunningRequest(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        // A panic cannot leave a phase half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request whose response is not yet complete.
#[derive(Debug)]
pub struct RunningRequest(Activity);

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.lock().on_response_end(Instant::now());
    }
}

/// A timer that is created at its first use.
#[derive(Debug, Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Ready after `deadline`; otherwise the task is woken at the deadline or earlier.
    fn poll_at(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }

    /// Ready about once per `period`; cheaper than a deadline that moves with every call.
    fn poll_every(&mut self, cx: &mut Context<'_>, period: Duration) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) if !sleep.is_elapsed() => sleep.as_mut().poll(cx),
            _ => self.poll_at(cx, Instant::now() + period),
        }
    }
}

/// A TCP stream with timeouts, see the module's documentation.
#[derive(Debug)]
pub struct TimedStream {
    stream: TcpStream,
    activity: Activity,
    patience: Patience,
    read_timer: Timer,
    write_timer: Timer,
    /// The time at which the pending write has waited for too long.
    write_deadline: Option<Instant>,
}

impl TimedStream {
    pub fn new(stream: TcpStream, activity: Activity, patience: Patience) -> Self {
        Self {
            stream,
            activity,
            patience,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
            write_deadline: None,
        }
    }

    fn timed_write(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.write_deadline = None;
            return result;
        }
        let deadline = *self.write_deadline.get_or_insert_with(|| Instant::now() + self.patience.write);
        ready!(self.write_timer.poll_at(cx, deadline));
        Poll::Ready(Err(timed_out("the client takes no bytes")))
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buffer) {
            let bytes = &buffer.filled()[before..];
            if !bytes.is_empty() {
                this.activity.lock().on_bytes(Instant::now(), bytes);
            }
            return Poll::Ready(result);
        }
        loop {
            let deadline = this.activity.lock().deadline(&this.patience);
            if let Some(deadline) = deadline {
                ready!(this.read_timer.poll_at(cx, deadline));
                return Poll::Ready(Err(timed_out("the client sends nothing")));
            }
            // hyper need not poll again when the response ends, so another check is needed.
            ready!(this.read_timer.poll_every(cx, this.patience.idle));
        }
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed_write(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.timed_write(cx, result)
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

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(100),
        write: Duration::from_secs(1),
    };

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn head_and_idle_time_are_limited_apart() {
        let start = Instant::now();
        let mut phase = Phase::new(start);
        assert_eq!(phase.deadline(&PATIENCE), Some(at(start, 100)));
        phase.on_bytes(at(start, 5), b"GET ");
        phase.on_bytes(at(start, 9), b"/ ");
        assert_eq!(phase.deadline(&PATIENCE), Some(at(start, 15)), "later bytes win no time");
        phase.on_request();
        phase.on_bytes(at(start, 50), b"body");
        assert_eq!(phase.deadline(&PATIENCE), None);
        phase.on_response_end(at(start, 60));
        assert_eq!(phase.deadline(&PATIENCE), Some(at(start, 160)));
        phase.on_bytes(at(start, 70), b"G");
        assert_eq!(phase.deadline(&PATIENCE), Some(at(start, 80)));
    }

    #[test]
    fn http2_frames_without_a_request_only_count_as_signs_of_life() {
        let start = Instant::now();
        let mut phase = Phase::new(start);
        phase.on_bytes(start, HTTP2_PREFACE);
        phase.on_bytes(at(start, 30), b"ping");
        assert_eq!(phase.deadline(&PATIENCE), Some(at(start, 130)));
        phase.on_request();
        phase.on_request();
        phase.on_response_end(at(start, 40));
        assert_eq!(phase.deadline(&PATIENCE), None);
        phase.on_response_end(at(start, 50));
        assert_eq!(phase.deadline(&PATIENCE), Some(at(start, 150)));
    }

    #[test]
    fn only_the_whole_preface_ends_the_time_for_the_head() {
        for cut in 1..HTTP2_PREFACE.len() {
            let start = Instant::now();
            let mut phase = Phase::new(start);
            phase.on_bytes(start, &HTTP2_PREFACE[..cut]);
            assert_eq!(phase.protocol, Protocol::Undecided(cut));
            assert_eq!(phase.deadline(&PATIENCE), Some(at(start, 10)), "after {cut} bytes");
            let mut other = Phase { protocol: phase.protocol, ..Phase::new(start) };
            other.on_bytes(start, b"?");
            assert_eq!((other.protocol, other.deadline(&PATIENCE)), (Protocol::Http1, Some(at(start, 10))));
            phase.on_bytes(at(start, 9), &HTTP2_PREFACE[cut..]);
            assert_eq!(phase.protocol, Protocol::Http2);
            assert_eq!(phase.deadline(&PATIENCE), Some(at(start, 109)));
        }
    }

    proptest::proptest! {
        /// A connection is HTTP/2 exactly if it begins with the complete preface, regardless of how reads split it.
        #[test]
        fn reads_do_not_change_the_protocol(
            kept in 0..=HTTP2_PREFACE.len(),
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..8),
            size in 1..30_usize,
        ) {
            let sent = [&HTTP2_PREFACE[..kept], &rest].concat();
            let protocol = sent.chunks(size).fold(Protocol::Undecided(0), Protocol::after);
            let expected = if sent.starts_with(HTTP2_PREFACE) {
                Protocol::Http2
            } else if HTTP2_PREFACE.starts_with(&sent) {
                Protocol::Undecided(sent.len())
            } else {
                Protocol::Http1
            };
            proptest::prop_assert_eq!(protocol, expected);
        }
    }
}
