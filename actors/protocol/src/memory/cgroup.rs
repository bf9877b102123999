//! Limits on the memory of control groups (`cgroups(7)`), as containers and services have them.

use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// Bytes that are left of the tightest limit; `None`: there is none, or it is not known.
pub fn available() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let limited = folders(unified).into_iter().filter_map(|folder| left_in(&folder, &V2)).min();
    // Version 1; in a container the process's own group is the root.
    limited.or_else(|| left_in(&Path::new(ROOT).join("memory"), &V1))
}

/// The files of a version of control groups.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Fields of `memory.stat` with the bytes of files, which the kernel takes back before it refuses any.
    cached: [&'static str; 2],
}

const V2: Files =
    Files { limit: "memory.max", usage: "memory.current", cached: ["inactive_file", "active_file"] };
const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
};

/// The group's folder and those of the groups that it is in, whose limits hold for it, too.
fn folders(group: &str) -> Vec<PathBuf> {
    let own = Path::new(ROOT).join(group.trim_start_matches('/'));
    own.ancestors().take_while(|folder| folder.starts_with(ROOT)).map(Path::to_owned).collect()
}

fn left_in(folder: &Path, files: &Files) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    left(&read(files.limit)?, &read(files.usage)?, &read("memory.stat").unwrap_or_default(), files)
}

/// Memory that these files leave; `None`: no limit, which is `max`, or in version 1 a number beyond all memory.
fn left(limit: &str, usage: &str, stat: &str, files: &Files) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok().filter(|limit| *limit < 1 << 60)?;
    let usage: u64 = usage.trim().parse().ok()?;
    let field = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        files.cached.contains(&name).then(|| value.trim().parse::<u64>().ok())?
    };
    let cached: u64 = stat.lines().filter_map(field).fold(0, u64::saturating_add);
    Some(limit.saturating_sub(usage.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_back_before_memory_is_refused() {
        let stat = "anon 400\nfile 500\ninactive_file 200\nactive_file 100\n";
        assert_eq!(left("1000\n", "700\n", stat, &V2), Some(600));
        assert_eq!(left("1000", "700", "", &V2), Some(300));
        assert_eq!(left("1000", "2000", "", &V2), Some(0));
        assert_eq!(left("max\n", "700", stat, &V2), None);
        assert_eq!(left("9223372036854771712", "700", "", &V1), None);
        assert_eq!(left("1000", "?", "", &V2), None);
        let stat = "inactive_file 1\ntotal_inactive_file 50\n";
        assert_eq!(left("100", "80", stat, &V1), Some(70));
    }

    #[test]
    fn limits_of_outer_groups_count() {
        let found = folders("/system.slice/jan.service");
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], Path::new("/sys/fs/cgroup/system.slice/jan.service"));
        assert_eq!(found[2], Path::new(ROOT));
        assert_eq!(folders("/"), [Path::new("/sys/fs/cgroup/")]);
    }
}
