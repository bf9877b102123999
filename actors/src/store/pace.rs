//! How long a round of the store waits for company.
//!
//! One `fsync` serves all that wait for it. Writers that were just answered come back a moment later; a round that began
//! with the first of them would leave the others to the next one, and two halves would take turns for ever, each with an
//! `fsync` of its own. So a round waits for as many as there were last, for a fraction of what a sync takes: on a disk
//! that syncs at once there is nothing to gain, and nothing is lost. Databases know this as a commit delay.

use std::time::Duration;

/// The wait is at most the last sync's time divided by this.
const SHARE: u32 = 4;

/// The wait is at most this, however slow the disk.
const MOST: Duration = Duration::from_millis(2);

/// What the last round tells the next one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    writers: usize,
    sync: Duration,
}

impl Pace {
    /// A round of `writes` took `sync` to make durable, and `queued` more came meanwhile.
    pub const fn note(&mut self, writes: usize, queued: usize, sync: Duration) {
        self.writers = writes + queued;
        self.sync = sync;
    }

    /// How much longer a round waits for another write that has `writes` and found nothing more to do `idle` ago.
    #[must_use]
    pub fn patience(&self, writes: usize, idle: Duration) -> Option<Duration> {
        if writes == 0 || writes >= self.writers {
            return None;
        }
        (self.sync / SHARE).min(MOST).checked_sub(idle).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_is_alone_never_waits() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(1, Duration::ZERO), None);
        pace.note(1, 0, 4 * MS);
        assert_eq!(pace.patience(1, Duration::ZERO), None);
    }

    #[test]
    fn two_halves_become_one() {
        let mut pace = Pace::default();
        pace.note(32, 32, 4 * MS);
        assert_eq!(pace.patience(32, Duration::ZERO), Some(MS));
        assert_eq!(pace.patience(33, MS / 4), Some(MS - MS / 4));
        assert_eq!(pace.patience(64, Duration::ZERO), None);
        // All of them went away: their places are waited for once.
        pace.note(1, 0, 4 * MS);
        assert_eq!(pace.patience(1, Duration::ZERO), None);
    }

    proptest! {
        #[test]
        fn the_wait_is_a_fraction_of_a_sync(writes in 0usize..100, noted in 0usize..100, queued in 0usize..100, sync in 0u64..1_000_000, idle in 0u64..1_000_000) {
            let mut pace = Pace::default();
            let (sync, idle) = (Duration::from_micros(sync), Duration::from_micros(idle));
            pace.note(noted, queued, sync);
            if let Some(wait) = pace.patience(writes, idle) {
                prop_assert!(wait + idle <= sync / 4 && wait <= MOST);
                prop_assert!(0 < writes && writes < noted + queued);
            }
        }
    }
}
