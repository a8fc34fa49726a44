//! All limits of backups and restores: what may run at once, how long to wait, how often to try again.

use std::time::Duration;

/// How the store's lock is taken and kept (§10).
#[derive(Debug, Clone)]
pub struct LockSettings {
    /// How long others get to show their lock files after ours was written. Longhorn's 2 s; all parties must wait
    /// alike.
    pub settle: Duration,
    /// How often the file is written again; must stay well under its life of 150 s.
    pub refresh: Duration,
}

/// Longhorn's. Nodes that obey the faults of a test have their store to themselves, and restore often.
const SETTLE: Duration = Duration::from_secs(2);
const SETTLE_IN_TESTS: Duration = Duration::from_millis(100);

impl Default for LockSettings {
    fn default() -> Self {
        let settle = if crate::faults::are_on() { SETTLE_IN_TESTS } else { SETTLE };
        Self { settle, refresh: Duration::from_secs(60) }
    }
}

/// How often a failed read of the store is tried again. Each list holds the waits between attempts, so it has one
/// element less than there are attempts.
#[derive(Debug, Clone)]
pub struct RetrySettings {
    /// After the target failed or was silent.
    pub failed_waits: Vec<Duration>,
    /// After a block file was missing or did not decompress. Short: such a file rarely heals, but a network file
    /// system may show it late.
    pub missing_waits: Vec<Duration>,
}

impl Default for RetrySettings {
    /// Longhorn's seven attempts over 516 s (§1).
    fn default() -> Self {
        Self {
            failed_waits: [1, 5, 30, 60, 120, 300].map(Duration::from_secs).into(),
            missing_waits: [1, 2].map(Duration::from_secs).into(),
        }
    }
}

/// Limits of one restore.
#[derive(Debug, Clone)]
pub struct RestoreSettings {
    /// Blocks in work at once, from fetch to written; times the block size it bounds the memory. Zero means one.
    pub blocks_in_flight: usize,
    /// Reads of the store at once. Zero means one.
    pub fetches: usize,
    /// Blocks verified and decompressed at once; more than there are cores gains nothing. Zero means one.
    pub workers: usize,
    /// How often to try again.
    pub retry: RetrySettings,
}

impl Default for RestoreSettings {
    fn default() -> Self {
        let workers = default_workers();
        Self { blocks_in_flight: 4 * workers, fetches: 2 * workers, workers, retry: RetrySettings::default() }
    }
}

/// Limits of one backup.
#[derive(Debug, Clone)]
pub struct CreateSettings {
    /// Blocks in work at once, from read to stored; times twice the block size it bounds the memory. Zero means one.
    pub blocks_in_flight: usize,
    /// Blocks digested and compressed at once. Zero means one.
    pub workers: usize,
    /// How the lock is taken.
    pub lock: LockSettings,
    /// Waits between attempts to write a block file.
    pub write_waits: Vec<Duration>,
}

impl Default for CreateSettings {
    fn default() -> Self {
        let workers = default_workers();
        Self {
            blocks_in_flight: 2 * workers,
            workers,
            lock: LockSettings::default(),
            write_waits: [1, 5, 30].map(Duration::from_secs).into(),
        }
    }
}

/// At least two, so that one waits for the store while the other computes.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}
