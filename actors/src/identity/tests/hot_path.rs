//! Cost of checking a key and its limits: under 15 µs of CPU per request at the median.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::config::RateLimitsConfig;
use crate::limits::{CheckKind, Limiter};

/// Returns the CPU time of this thread so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Returns the median of many small groups, each large enough for the clock.
fn median(mut work: impl FnMut()) -> Duration {
    const GROUP: u32 = 50;
    let mut groups: Vec<Duration> = (0..400)
        .map(|_| {
            let start = cpu_time();
            for _ in 0..GROUP {
                work();
            }
            (cpu_time() - start) / GROUP
        })
        .collect();
    groups.sort_unstable();
    groups[groups.len() / 2]
}

#[tokio::test]
async fn checking_a_credential_and_its_limits_takes_under_15_us() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let limits = LimitOverrides { requests_per_hour: Some(1_000_000), ..LimitOverrides::default() };
    let key = NewKey { limits, ..new_key("k", Permissions::READ_WRITE) };
    let key = fixture.identity.create_key(user, Permissions::ALL, key).await.unwrap();
    let tokens = fixture.identity.start_session(user).await.unwrap();
    // Other keys and users exist, too.
    for number in 0..200 {
        let other = fixture.member(&format!("other{number}")).await.id;
        fixture.identity.start_session(other).await.unwrap();
    }
    let config = RateLimitsConfig { authenticated_per_hour: 1_000_000, ..RateLimitsConfig::default() };
    let limiter = Limiter::new(RateLimitsConfig { inference_per_minute: 1_000_000, ..config });
    let check = |credential: &str| {
        let principal = fixture.identity.authenticate(credential).unwrap();
        assert!(limiter.check(&principal, CheckKind::Inference).allowed);
    };
    for (name, credential) in [("key", key.secret.reveal()), ("token", tokens.access_token.reveal())] {
        let median = median(|| check(credential));
        eprintln!("{name} and limits: {median:?} of CPU at the median");
        assert!(median < Duration::from_micros(15), "{name}: {median:?}");
    }
}
