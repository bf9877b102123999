//! A token bucket, exact and without a clock of its own.
//!
//! A bucket counts the *spent* amount, not the remaining one: a full bucket is 0, whatever its limit, so a new principal needs no
//! initialization, an idle one can be removed, and a changed limit needs no conversion. The unit is one `period`-th of a request,
//! so that refilling `limit` per period is `limit` units per millisecond: whole numbers, no rounding, and nothing is lost however
//! often a bucket is read.

/// An amount per period, which is also the burst size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The amount that a full bucket holds. 0: unlimited.
    pub limit: u32,
    /// Milliseconds in which an empty bucket fills up.
    pub period_ms: u64,
}

impl Rate {
    /// One hour in milliseconds.
    pub const HOUR_MS: u64 = 3_600_000;
    /// One minute in milliseconds.
    pub const MINUTE_MS: u64 = 60_000;

    /// Returns a rate per hour.
    pub const fn per_hour(limit: u32) -> Self {
        Self { limit, period_ms: Self::HOUR_MS }
    }

    /// Returns a rate per minute.
    pub const fn per_minute(limit: u32) -> Self {
        Self { limit, period_ms: Self::MINUTE_MS }
    }

    /// Returns whether the rate is unlimited.
    pub const fn is_unlimited(self) -> bool {
        self.limit == 0
    }

    /// Returns the units of a full bucket: at most 2³² · 3.6 · 10⁶, so that sums and small multiples of it fit.
    const fn capacity(self) -> u64 {
        self.limit as u64 * self.period_ms
    }

    /// Returns the maximum debt of a bucket: the amount that refills in an hour. So a bucket that is idle for an hour is full.
    const fn max_spent(self) -> u64 {
        self.limit as u64 * Self::HOUR_MS
    }
}

/// The amount spent of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    spent: u64,
}

impl Bucket {
    /// Refills the bucket for `elapsed_ms`. If the limit was lowered meanwhile, the new limit bounds the debt.
    pub fn refill(&mut self, elapsed_ms: u64, rate: Rate) {
        let refilled = elapsed_ms.saturating_mul(u64::from(rate.limit));
        self.spent = self.spent.saturating_sub(refilled).min(rate.max_spent());
    }

    /// Takes one unit of the limit if one is left, and returns whether it did.
    pub fn take(&mut self, rate: Rate) -> bool {
        self.take_many(1, rate)
    }

    /// Takes `amount` if that much is left, or else nothing, and returns whether it did.
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

    /// Gives `amount` back.
    pub fn give_back_many(&mut self, amount: u32, rate: Rate) {
        self.spent = self.spent.saturating_sub(u64::from(amount) * rate.period_ms);
    }

    /// Spends `amount`, even if less is left.
    pub fn charge(&mut self, amount: u32, rate: Rate) {
        let charged = u64::from(amount).saturating_mul(rate.period_ms);
        self.spent = self.spent.saturating_add(charged).min(rate.max_spent());
    }

    /// Returns the remaining amount, rounded down.
    pub fn remaining(&self, rate: Rate) -> u32 {
        let units = rate.capacity().saturating_sub(self.spent);
        // At most `limit`, which is a u32.
        u32::try_from(units / rate.period_ms).unwrap_or(rate.limit)
    }

    /// Returns the milliseconds until the bucket is full.
    pub fn full_in_ms(&self, rate: Rate) -> u64 {
        self.spent.div_ceil(u64::from(rate.limit.max(1)))
    }

    /// Returns the milliseconds until one is left.
    pub fn one_in_ms(&self, rate: Rate) -> u64 {
        self.many_in_ms(1, rate)
    }

    /// Returns the milliseconds until `amount` is left, which must not exceed the limit.
    pub fn many_in_ms(&self, amount: u32, rate: Rate) -> u64 {
        let missing = (self.spent + u64::from(amount) * rate.period_ms).saturating_sub(rate.capacity());
        missing.div_ceil(u64::from(rate.limit.max(1)))
    }
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
