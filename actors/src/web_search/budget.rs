//! Search credits spent per day, in all and by each payer: the cost limit.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::types::SearchError;

const DAY: u64 = 86_400;

/// Credits per day; 0 is unlimited.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The limit of all payers together.
    pub all: u32,
    /// The limit of each payer.
    pub each: u32,
}

/// The credits of one day (UTC).
#[derive(Debug, Default)]
pub struct Budget {
    day: u64,
    all: u32,
    each: HashMap<String, u32>,
}

/// The account of search credits, shared by all servers that are under one limit.
#[ractor::async_trait]
pub trait SearchCredits: Debug + Send + Sync {
    /// Checks whether `payer` has a credit left.
    ///
    /// # Errors
    /// [`SearchError::Spent`].
    async fn check(&self, payer: &str, limits: Limits, now_s: u64) -> Result<(), SearchError>;

    /// Takes a credit.
    ///
    /// # Errors
    /// [`SearchError::Spent`].
    async fn take(&self, payer: &str, limits: Limits, now_s: u64) -> Result<(), SearchError>;

    /// Charges credits beyond the one that was taken.
    async fn charge(&self, payer: &str, credits: u32, now_s: u64);

    /// Returns a credit that was taken.
    async fn give_back(&self, payer: &str, now_s: u64);
}

/// Credits in this process's memory: they are known from its start on.
#[derive(Debug, Default)]
pub struct LocalCredits(Mutex<Budget>);

impl LocalCredits {
    fn budget(&self) -> MutexGuard<'_, Budget> {
        // Every change is atomic, so a panic elsewhere leaves a consistent state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[ractor::async_trait]
impl SearchCredits for LocalCredits {
    async fn check(&self, payer: &str, limits: Limits, now_s: u64) -> Result<(), SearchError> {
        self.budget().check(payer, limits, now_s)
    }

    async fn take(&self, payer: &str, limits: Limits, now_s: u64) -> Result<(), SearchError> {
        self.budget().take(payer, limits, now_s)
    }

    async fn charge(&self, payer: &str, credits: u32, now_s: u64) {
        self.budget().charge(payer, credits, now_s);
    }

    async fn give_back(&self, payer: &str, now_s: u64) {
        self.budget().give_back(payer, now_s);
    }
}

impl Budget {
    fn turn(&mut self, now_s: u64) {
        if self.day != now_s / DAY {
            *self = Self { day: now_s / DAY, ..Self::default() };
        }
    }

    /// Checks whether `payer` has a credit left.
    ///
    /// # Errors
    /// [`SearchError::Spent`].
    pub fn check(&mut self, payer: &str, limits: Limits, now_s: u64) -> Result<(), SearchError> {
        self.turn(now_s);
        let spent = |limit, whose, setting| SearchError::Spent {
            limit,
            whose,
            setting,
            retry_after: Duration::from_secs(DAY - now_s % DAY),
        };
        if limits.all > 0 && self.all >= limits.all {
            return Err(spent(limits.all, " for this server", "web_search.credits_per_day"));
        }
        let own = self.each.get(payer).copied().unwrap_or(0);
        if limits.each > 0 && own >= limits.each {
            return Err(spent(limits.each, " for each user", "web_search.credits_per_user_per_day"));
        }
        Ok(())
    }

    /// Takes a credit.
    ///
    /// # Errors
    /// [`SearchError::Spent`].
    pub fn take(&mut self, payer: &str, limits: Limits, now_s: u64) -> Result<(), SearchError> {
        self.check(payer, limits, now_s)?;
        self.charge(payer, 1, now_s);
        Ok(())
    }

    /// Charges credits beyond the one that was taken.
    pub fn charge(&mut self, payer: &str, credits: u32, now_s: u64) {
        self.turn(now_s);
        self.all = self.all.saturating_add(credits);
        let own = self.each.entry(payer.to_owned()).or_default();
        *own = own.saturating_add(credits);
    }

    /// Returns a credit that was taken.
    pub fn give_back(&mut self, payer: &str, now_s: u64) {
        self.turn(now_s);
        self.all = self.all.saturating_sub(1);
        if let Some(own) = self.each.get_mut(payer) {
            *own = own.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refusals_name_the_limit_and_its_reset() {
        let mut budget = Budget::default();
        let limits = Limits { all: 3, each: 2 };
        for _ in 0..2 {
            budget.take("a", limits, 100).unwrap();
        }
        let own = budget.take("a", limits, DAY - 5).unwrap_err();
        assert!(
            matches!(&own, SearchError::Spent { limit: 2, retry_after, .. } if retry_after.as_secs() == 5)
        );
        budget.take("b", limits, 100).unwrap();
        assert!(budget.take("b", limits, 100).unwrap_err().to_string().contains("credits_per_day"));
        budget.take("a", limits, DAY + 1).unwrap();
    }

    proptest! {
        #[test]
        fn credits_taken_never_exceed_the_limit(
            steps in prop::collection::vec((0u8..3, 0u64..3 * DAY), 0..200), all in 0u32..20, each in 0u32..10
        ) {
            let (mut budget, limits) = (Budget::default(), Limits { all, each });
            let mut steps = steps;
            steps.sort_by_key(|(_, now)| *now);
            let mut taken: HashMap<(u64, u8), u32> = HashMap::new();
            for (payer, now) in steps {
                if budget.take(&payer.to_string(), limits, now).is_ok() {
                    *taken.entry((now / DAY, payer)).or_default() += 1;
                }
            }
            for day in 0..3 {
                let of_day = |payer| taken.get(&(day, payer)).copied().unwrap_or(0);
                prop_assert!(all == 0 || (0..3).map(of_day).sum::<u32>() <= all);
                prop_assert!(each == 0 || (0..3).map(of_day).all(|own| own <= each));
            }
        }
    }
}
