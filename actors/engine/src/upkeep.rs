//! When an engine reports its memory, and when it gives some of it back. Pure: the time is an argument.

use std::time::{Duration, Instant};

use jan_protocol::memory_use::MemoryUse;

/// Shortest time between two reports.
const REPORT: Duration = Duration::from_secs(1);

/// Time without work after which free pages are given back. A conversation that goes on sooner finds its memory as it was.
const TIDY: Duration = Duration::from_secs(5);

/// Time without work after which what takes memory and is made again within moments is given back.
pub const REST: Duration = Duration::from_secs(60);

/// Whatever holds memory beside an engine, and knows what to do with reports.
pub trait Caretaker {
    /// Completes a report of the engine's own memory and sends it, if it says anything new.
    fn report(&mut self, of_engine: MemoryUse);

    /// Gives back free pages.
    fn tidy(&mut self);

    /// Gives back what is made again within moments.
    fn rest(&mut self);
}

/// What an engine gives back when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveBack {
    /// Buffers and pages that nothing is in.
    Tidy,
    /// The same, and what is made again within moments.
    Rest,
}

/// The times of one engine.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    worked: Instant,
    reported: Option<Instant>,
    /// `true` if anything was done since the last report.
    is_changed: bool,
    /// What was given back since the last work.
    given: Option<GiveBack>,
}

impl Upkeep {
    /// An engine that has just been made: its memory is to be reported, and what loading left behind to be given back.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { worked: now, reported: None, is_changed: true, given: None }
    }

    /// Notes that a step was done.
    pub const fn worked(&mut self, now: Instant) {
        self.worked = now;
        self.is_changed = true;
        self.given = None;
    }

    /// Notes that the memory is another without work.
    pub const fn changed(&mut self) {
        self.is_changed = true;
    }

    /// Returns `true` if the memory is to be reported now; then it counts as reported.
    pub fn reports(&mut self, now: Instant) -> bool {
        let reports = self.report_in(now).is_some_and(|time| time.is_zero());
        if reports {
            (self.reported, self.is_changed) = (Some(now), false);
        }
        reports
    }

    /// What is to be given back now, where nothing is to be done; then it counts as given back.
    pub fn gives_back(&mut self, now: Instant) -> Option<GiveBack> {
        let (next, time) = self.next_in(now)?;
        if !time.is_zero() {
            return None;
        }
        self.given = Some(next);
        self.is_changed = true;
        Some(next)
    }

    /// The time after which there is something to do, without work in between.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Duration> {
        self.report_in(now).into_iter().chain(self.next_in(now).map(|(_, time)| time)).min()
    }

    fn report_in(&self, now: Instant) -> Option<Duration> {
        let since = |reported| REPORT.saturating_sub(now.saturating_duration_since(reported));
        self.is_changed.then(|| self.reported.map_or(Duration::ZERO, since))
    }

    fn next_in(&self, now: Instant) -> Option<(GiveBack, Duration)> {
        let (next, after) = match self.given {
            None => (GiveBack::Tidy, TIDY),
            Some(GiveBack::Tidy) => (GiveBack::Rest, REST),
            Some(GiveBack::Rest) => return None,
        };
        Some((next, after.saturating_sub(now.saturating_duration_since(self.worked))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_idle_engine_reports_gives_back_and_falls_silent() {
        let begin = Instant::now();
        let mut upkeep = Upkeep::new(begin);
        let mut now = begin;
        let (mut reports, mut given) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            if upkeep.reports(now) {
                reports.push((now - begin).as_secs());
            }
            let Some(wait) = upkeep.next(now) else { break };
            now += wait;
            given.extend(upkeep.gives_back(now).map(|what| (what, (now - begin).as_secs())));
        }
        assert_eq!(given, [(GiveBack::Tidy, 5), (GiveBack::Rest, 60)]);
        assert_eq!(reports, [0, 5, 60]);
        assert_eq!(upkeep.next(now + 1000 * SECOND), None);
    }

    #[test]
    fn a_busy_engine_reports_once_a_second_and_gives_nothing_back() {
        let begin = Instant::now();
        let mut upkeep = Upkeep::new(begin);
        let mut reports = 0;
        for step in 0..1000 {
            let now = begin + step * SECOND / 100;
            upkeep.worked(now);
            reports += u32::from(upkeep.reports(now));
            assert_eq!(upkeep.gives_back(now), None);
        }
        assert_eq!(reports, 10);
        // What the last steps changed is reported as well, a moment later.
        let end = begin + 999 * SECOND / 100;
        let wait = upkeep.next(end).unwrap();
        assert!(wait < SECOND && upkeep.reports(end + wait) && !upkeep.reports(end + wait));
    }
}
