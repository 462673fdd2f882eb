//! How much memory this process may have.

use std::fs;

/// Where a container's limit stands, with control groups of version 2 and 1.
const GROUP_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// The memory that this process may have, in bytes: what its container may, or else what the machine has. Nothing where
/// neither is told.
#[expect(clippy::disallowed_methods, reason = "what the kernel says of itself is on no disk")]
pub fn limit() -> Option<u64> {
    let groups = GROUP_LIMITS.iter().filter_map(|path| group_limit(&fs::read_to_string(path).ok()?));
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    groups.chain(machine).min()
}

/// What a control group says; where it has no limit, that is a word, or a number that no machine has.
fn group_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the lowest limit counts, and none is made up. Method: texts as the kernel writes them.
    #[test]
    fn limits_are_read() {
        assert_eq!(group_limit("738197504\n"), Some(704 << 20));
        assert_eq!(group_limit("max\n"), None);
        assert_eq!(total("MemTotal:       24604384 kB\nMemFree:          204 kB\n"), Some(24_604_384 * 1024));
        assert_eq!(total("MemFree: 204 kB\n"), None);
        assert!(limit().is_some_and(|bytes| bytes > 1 << 20), "this machine does not say how much it has");
    }
}
