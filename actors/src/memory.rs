//! How much memory there is.

/// Bytes that the kernel could give out now, where it tells.
pub fn available() -> Option<u64> {
    bytes_of("MemAvailable:")
}

/// Bytes of the whole machine, where the kernel tells.
pub fn total() -> Option<u64> {
    bytes_of("MemTotal:")
}

fn bytes_of(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib << 10)
}
