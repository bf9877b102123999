//! A session's token family: which generation of tokens may refresh it, and how an older one is handled.
//!
//! Each refresh creates a new generation, and only the newest one creates the next. An older one presented again was copied, and
//! the thief cannot be told from the owner, so the whole family ends ([RFC 9700, section 4.14.2]). One case is no theft: two tabs
//! of one browser that refresh at the same time. So for a few seconds the generation just before the current one is answered with
//! the current one once more.
//!
//! The module is pure: time is an argument.
//!
//! [RFC 9700, section 4.14.2]: https://www.rfc-editor.org/rfc/rfc9700#section-4.14.2

use serde::{Deserialize, Serialize};

/// The generations of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// The number of the newest generation, from 1.
    pub generation: u32,
    /// Time at which it was created (epoch seconds).
    pub since: u64,
}

/// Durations that apply to families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyRules {
    /// Seconds after its last refresh during which a session can be refreshed.
    pub window_s: u64,
    /// Seconds during which the generation before the current one is still answered.
    pub grace_s: u64,
    /// Seconds after its sign-in at which a session ends, regardless of refreshes.
    pub lifetime_s: u64,
}

impl FamilyRules {
    /// Returns the time at which a session that began at `began` ends in any case.
    pub const fn ends_at(self, began: u64) -> u64 {
        began.saturating_add(self.lifetime_s)
    }
}

/// The outcome of presenting a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented {
    /// It was the current one: this is the family from now on.
    Next(Family),
    /// It was the previous one, just replaced: the current one is returned once more.
    Again,
    /// Too much time has passed since the last refresh or the sign-in: the session has ended.
    TooLate,
    /// It had been used before: the session ends.
    Reused,
}

impl Family {
    /// Returns a family in its first generation.
    pub const fn new(now: u64) -> Self {
        Self { generation: 1, since: now }
    }

    /// Returns the time until which it can be refreshed, in a session that began at `began`.
    pub fn expires_at(&self, began: u64, rules: FamilyRules) -> u64 {
        self.since.saturating_add(rules.window_s).min(rules.ends_at(began))
    }

    /// Returns the outcome of presenting a token of that generation, in a session that began at `began`.
    pub fn present(&self, generation: u32, began: u64, now: u64, rules: FamilyRules) -> Presented {
        if now >= self.expires_at(began, rules) {
            return Presented::TooLate;
        }
        if generation == self.generation {
            // After 2^32 refreshes a session ends as if a token had been reused.
            return match self.generation.checked_add(1) {
                Some(generation) => Presented::Next(Self { generation, since: now }),
                None => Presented::Reused,
            };
        }
        // In either direction, in case the clock was set back in between.
        let just_replaced = now.abs_diff(self.since) <= rules.grace_s;
        if generation.checked_add(1) == Some(self.generation) && just_replaced {
            return Presented::Again;
        }
        // An older generation, or an unknown one: a database restored from a backup does not know the newest tokens.
        Presented::Reused
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: FamilyRules = FamilyRules { window_s: 1000, grace_s: 10, lifetime_s: 5000 };
    const BEGAN: u64 = 100;

    #[test]
    fn session_is_refreshed_until_it_ends() {
        let first = Family::new(BEGAN);
        let Presented::Next(second) = first.present(1, BEGAN, 150, RULES) else { panic!() };
        assert_eq!(second, Family { generation: 2, since: 150 });
        assert_eq!(second.present(1, BEGAN, 160, RULES), Presented::Again, "a racing tab");
        assert_eq!(second.present(1, BEGAN, 161, RULES), Presented::Reused);
        assert_eq!(second.present(3, BEGAN, 151, RULES), Presented::Reused, "never made");
        assert_eq!(second.present(0, BEGAN, 151, RULES), Presented::Reused);
        assert_eq!(
            second.present(2, BEGAN, 1149, RULES),
            Presented::Next(Family { generation: 3, since: 1149 })
        );
        assert_eq!(second.present(2, BEGAN, 1150, RULES), Presented::TooLate);
        let Presented::Next(third) = second.present(2, BEGAN, 151, RULES) else { panic!() };
        assert_eq!(third.present(1, BEGAN, 151, RULES), Presented::Reused, "two back is no race");
    }

    #[test]
    fn refreshes_do_not_extend_the_lifetime() {
        let mut family = Family::new(BEGAN);
        let end = RULES.ends_at(BEGAN);
        for now in (BEGAN..end).step_by(500) {
            let Presented::Next(next) = family.present(family.generation, BEGAN, now, RULES) else {
                panic!()
            };
            assert!(next.expires_at(BEGAN, RULES) <= end);
            family = next;
        }
        assert_eq!(family.expires_at(BEGAN, RULES), end);
        assert!(matches!(family.present(family.generation, BEGAN, end - 1, RULES), Presented::Next(_)));
        for generation in 0..family.generation + 2 {
            assert_eq!(family.present(generation, BEGAN, end, RULES), Presented::TooLate);
        }
    }

    proptest! {
        /// For any sequence and timing of tokens: at most one generation creates the next, it is the newest one created, and once
        /// a family has ended it yields no more tokens.
        #[test]
        fn only_one_generation_is_live(steps in prop::collection::vec((0u32..8, 0u64..400, any::<bool>()), 1..80)) {
            let mut family = Some(Family::new(BEGAN));
            let mut now = BEGAN;
            let mut newest = 1;
            for (behind, wait, back) in steps {
                now = if back { now.saturating_sub(wait) } else { now + wait };
                let Some(current) = family else { break };
                let live = (0..newest + 3)
                    .filter(|&g| matches!(current.present(g, BEGAN, now, RULES), Presented::Next(_)))
                    .collect::<Vec<_>>();
                prop_assert!(live.is_empty() || live == [newest], "{live:?}");
                let generation = newest.saturating_sub(behind);
                family = match current.present(generation, BEGAN, now, RULES) {
                    Presented::Next(next) => {
                        prop_assert_eq!(generation, newest);
                        prop_assert!(now < BEGAN + RULES.lifetime_s);
                        newest += 1;
                        prop_assert_eq!(next, Family { generation: newest, since: now });
                        Some(next)
                    }
                    Presented::Again => {
                        prop_assert_eq!(generation + 1, newest);
                        prop_assert!(now.abs_diff(current.since) <= RULES.grace_s);
                        Some(current)
                    }
                    Presented::TooLate => {
                        prop_assert!(now - current.since >= RULES.window_s || now - BEGAN >= RULES.lifetime_s);
                        None
                    }
                    Presented::Reused => {
                        prop_assert!(generation != newest);
                        None
                    }
                };
            }
        }
    }
}
