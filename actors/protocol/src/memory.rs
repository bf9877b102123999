//! The amount of memory.

mod cgroup;

/// Bytes that this process could get now, if the kernel reports them: those that are free on the machine, or what is left of the
/// limit of a control group that it is in.
pub fn available() -> Option<u64> {
    let free = bytes_of("MemAvailable:");
    free.into_iter().chain(cgroup::available()).min()
}

/// Bytes of the whole machine, if the kernel reports them.
pub fn total() -> Option<u64> {
    bytes_of("MemTotal:")
}

/// Memory of this process, in KiB, if the kernel reports it.
pub fn resident_kib() -> Option<u64> {
    kib_of("/proc/self/status", "VmRSS:")
}

/// Memory of this process in bytes, and the part of it that is pages of files, if the kernel reports them.
pub fn resident() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let of = |name| Some(kib_in(&text, name)? << 10);
    Some((of("VmRSS:")?, of("RssFile:").unwrap_or(0)))
}

/// Memory of another process in bytes, if the kernel reports it.
pub fn resident_of(pid: u32) -> Option<u64> {
    Some(kib_of(&format!("/proc/{pid}/status"), "VmRSS:")? << 10)
}

/// Memory that this process has taken to write to, in KiB, if the kernel reports it.
pub fn data_kib() -> Option<u64> {
    kib_of("/proc/self/status", "VmData:")
}

/// Addresses that this process has taken, in KiB, if the kernel reports them.
pub fn virtual_kib() -> Option<u64> {
    kib_of("/proc/self/status", "VmSize:")
}

fn bytes_of(name: &str) -> Option<u64> {
    Some(kib_of("/proc/meminfo", name)? << 10)
}

fn kib_of(file: &str, name: &str) -> Option<u64> {
    kib_in(&std::fs::read_to_string(file).ok()?, name)
}

fn kib_in(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}
