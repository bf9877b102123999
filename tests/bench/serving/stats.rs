//! Percentiles.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// p50, p99 and maximum of some times in milliseconds; null where there are none.
pub fn summary(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    json!({
        "count": times.len(),
        "p50_ms": percentile(&times, 0.50),
        "p99_ms": percentile(&times, 0.99),
        "max_ms": times.last().copied().map(milliseconds),
    })
}

/// The smallest of the sorted times that at least `share` of them do not exceed.
fn percentile(sorted: &[Duration], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().map(milliseconds)
}

/// The middle one, of an even number the larger of the two; `None` where there are none.
pub fn median(mut times: Vec<Duration>) -> Option<Duration> {
    let middle = times.len() / 2;
    (!times.is_empty()).then(|| *times.select_nth_unstable(middle).1)
}

/// Milliseconds to three decimals.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// The times between neighbouring events.
pub fn gaps(events: &[Instant]) -> Vec<Duration> {
    events.windows(2).map(|pair| pair[1] - pair[0]).collect()
}
