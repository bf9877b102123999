//! A million principals fit in 200 MB. A process of its own, so that nothing else is measured.

use std::net::{IpAddr, Ipv6Addr};

use jan_actors::config::RateLimitsConfig;
use jan_actors::identity::Principal;
use jan_actors::limits::{CheckKind, Limiter};

const PRINCIPALS: u32 = 1_000_000;

/// Bytes of memory that this process has in RAM.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("among it, this");
    let kilobytes: usize = line.trim().trim_end_matches(" kB").trim().parse().expect("a number of kB");
    kilobytes * 1024
}

fn principal(number: u32) -> Principal {
    // Every /64 is one of its own.
    let net = (0x2001_0db8_u128 << 96) | (u128::from(number) << 64);
    Principal::anonymous(IpAddr::V6(Ipv6Addr::from_bits(net)))
}

#[test]
fn a_million_principals_fit_in_200_mb() {
    let limiter = Limiter::new(RateLimitsConfig::default());
    let before = resident();
    let start = std::time::Instant::now();
    for number in 0..PRINCIPALS {
        assert!(limiter.check(&principal(number), CheckKind::Inference).allowed);
    }
    let took = start.elapsed();
    let used = resident() - before;
    eprintln!(
        "{PRINCIPALS} principals: {} MB, {} bytes each; {} ns a first check",
        used / 1_000_000,
        used / PRINCIPALS as usize,
        took.as_nanos() / u128::from(PRINCIPALS),
    );
    assert!(used < 200_000_000, "{used} bytes");
    // They are all still counted.
    for number in (0..PRINCIPALS).step_by(9973) {
        let remaining = limiter.peek(&principal(number), CheckKind::Request).nearest.unwrap().remaining;
        assert_eq!(remaining, 99);
    }
}
