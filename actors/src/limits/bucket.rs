//! A token bucket, exact and without a clock of its own.
//!
//! A bucket counts what was *spent*, not what is left: a full bucket is 0, whatever its limit, so a new principal
//! needs no setting up, an idle one can be forgotten, and a limit that changes needs no conversion. The unit is one
//! `period`-th of a request, so that refilling `limit` a period is `limit` units a millisecond: whole numbers, no
//! rounding, and nothing is lost however often a bucket is looked at.

/// So much in such a time; also how much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What a full bucket holds. 0: unlimited.
    pub limit: u32,
    /// The time in which an empty one fills up.
    pub period_ms: u64,
}

impl Rate {
    /// One hour.
    pub const HOUR_MS: u64 = 3_600_000;
    /// One minute.
    pub const MINUTE_MS: u64 = 60_000;

    /// So many an hour.
    pub const fn per_hour(limit: u32) -> Self {
        Self { limit, period_ms: Self::HOUR_MS }
    }

    /// So many a minute.
    pub const fn per_minute(limit: u32) -> Self {
        Self { limit, period_ms: Self::MINUTE_MS }
    }

    /// Whether nothing is limited.
    pub const fn is_unlimited(self) -> bool {
        self.limit == 0
    }

    /// At most 2³² · 3.6 · 10⁶, so that sums and small multiples of it fit.
    const fn capacity(self) -> u64 {
        self.limit as u64 * self.period_ms
    }

    /// The most that a bucket can owe: what refills in an hour. So a bucket that was left alone for an hour is full.
    const fn most_spent(self) -> u64 {
        self.limit as u64 * Self::HOUR_MS
    }
}

/// What was spent of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    spent: u64,
}

impl Bucket {
    /// Lets `elapsed_ms` pass. A limit that was lowered meanwhile bounds what is owed.
    pub fn refill(&mut self, elapsed_ms: u64, rate: Rate) {
        let refilled = elapsed_ms.saturating_mul(u64::from(rate.limit));
        self.spent = self.spent.saturating_sub(refilled).min(rate.most_spent());
    }

    /// Takes one if there is one.
    pub fn take(&mut self, rate: Rate) -> bool {
        self.take_many(1, rate)
    }

    /// Takes so many if there are so many, else none.
    pub fn take_many(&mut self, amount: u32, rate: Rate) -> bool {
        let taken = u64::from(amount) * rate.period_ms;
        let free = rate.is_unlimited() || self.spent + taken <= rate.capacity();
        if free && !rate.is_unlimited() {
            self.spent += taken;
        }
        free
    }

    /// Gives one back.
    pub fn give_back(&mut self, rate: Rate) {
        self.give_back_many(1, rate);
    }

    /// Gives so many back.
    pub fn give_back_many(&mut self, amount: u32, rate: Rate) {
        self.spent = self.spent.saturating_sub(u64::from(amount) * rate.period_ms);
    }

    /// Spends `amount`, also what is not there.
    pub fn charge(&mut self, amount: u32, rate: Rate) {
        let charged = u64::from(amount).saturating_mul(rate.period_ms);
        self.spent = self.spent.saturating_add(charged).min(rate.most_spent());
    }

    /// What it holds, whole ones only.
    pub fn remaining(&self, rate: Rate) -> u32 {
        let units = rate.capacity().saturating_sub(self.spent);
        // At most `limit`, which is a u32.
        u32::try_from(units / rate.period_ms).unwrap_or(rate.limit)
    }

    /// How long until it holds `limit` again.
    pub fn full_in_ms(&self, rate: Rate) -> u64 {
        self.spent.div_ceil(u64::from(rate.limit.max(1)))
    }

    /// How long until it holds one.
    pub fn one_in_ms(&self, rate: Rate) -> u64 {
        self.many_in_ms(1, rate)
    }

    /// How long until it holds so many, which is no more than its limit.
    pub fn many_in_ms(&self, amount: u32, rate: Rate) -> u64 {
        let missing = (self.spent + u64::from(amount) * rate.period_ms).saturating_sub(rate.capacity());
        missing.div_ceil(u64::from(rate.limit.max(1)))
    }
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
