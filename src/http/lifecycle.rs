use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

/// The server's phase between start and stop, and its number of connections. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    /// Cancelled when the server accepts no new connections; running requests may finish.
    pub draining: CancellationToken,
    /// Cancelled when the time of running requests is over: streams end with an error event, other requests with 503.
    pub cut_off: CancellationToken,
    connections: Arc<AtomicUsize>,
}

impl Lifecycle {
    /// Returns the number of open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts one more connection for the lifetime of the result; `None` if there are already `limit`.
    pub(super) fn admit(&self, limit: usize) -> Option<ConnectionPermit> {
        self.connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < limit).then_some(open + 1))
            .ok()
            .map(|_| ConnectionPermit(Arc::clone(&self.connections)))
    }
}

/// A counted connection.
#[derive(Debug)]
pub(super) struct ConnectionPermit(Arc<AtomicUsize>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_limited_and_come_back() {
        let lifecycle = Lifecycle::default();
        let first = lifecycle.admit(2);
        let second = lifecycle.admit(2);
        assert!(first.is_some() && second.is_some() && lifecycle.admit(2).is_none());
        drop(first);
        assert_eq!(lifecycle.connections(), 1);
        assert!(lifecycle.admit(2).is_some());
    }
}
