//! CPU time and memory of a process, as /proc tells (proc(5)).

use std::fs;
use std::time::Duration;

/// Field numbers of /proc/<pid>/stat, counted from the one after the command's name.
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
/// Linux gives clock ticks to user space at this rate on every architecture that it runs on.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time that all its threads have used.
pub fn cpu(pid: u32) -> Duration {
    cpu_of(&format!("/proc/{pid}/stat"))
}

/// CPU time of its threads whose name begins so.
pub fn cpu_of_threads(pid: u32, prefix: &str) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let named = tasks
        .flatten()
        .map(|task| task.path())
        .filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with(prefix)));
    named.map(|path| cpu_of(path.join("stat").to_str().expect("a path in UTF-8"))).sum()
}

fn cpu_of(path: &str) -> Duration {
    let text = fs::read_to_string(path).expect("a running process");
    // The name is in parentheses and may itself hold blanks and parentheses.
    let (_, rest) = text.rsplit_once(')').expect("the form of proc(5)");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u64>().expect("a number of ticks");
    Duration::from_millis((ticks(USER_TICKS) + ticks(SYSTEM_TICKS)) * 1000 / TICKS_PER_SECOND)
}

/// A line of /proc/<pid>/status in KiB, e.g. `VmRSS` or `HugetlbPages`.
pub fn status_kib(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Bytes it has read through read(2) and its kin; direct asynchronous I/O on disks is not among them.
pub fn bytes_read(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).expect("a running process");
    text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).expect("the form of proc(5)")
}
