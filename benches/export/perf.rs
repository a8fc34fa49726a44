//! SPDK's `perf` as the initiator.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An exported namespace.
pub struct Target {
    pub ip: String,
    pub port: i32,
    pub nqn: String,
}

pub struct Perf {
    program: PathBuf,
    seconds: usize,
}

/// What the initiator's core is.
const CORE_MASK: &str = "0x2";
/// MiB of hugepages for its queues.
const MEMORY_MIB: &str = "256";
const FILL_BYTES: usize = 128 << 10;

impl Perf {
    pub fn new(apps: &Path, seconds: usize) -> Self {
        Self { program: apps.join("build/examples/perf"), seconds }
    }

    /// Answers a second of 4 KiB I/O.
    pub fn run(&self, target: &Target, op: &str, depth: usize) -> f64 {
        self.measure(target, op, depth, 4096, self.seconds)
    }

    /// Writes the whole namespace at least once, in ascending order.
    pub fn fill(&self, target: &Target, bytes: u64) {
        let mut written = 0.0;
        // A run starts at the first block again, so it has to be long enough by itself.
        for seconds in [4, 8, 16, 32] {
            written = self.measure(target, "write", 32, FILL_BYTES, seconds) * FILL_BYTES as f64 * seconds as f64;
            if written >= 1.1 * bytes as f64 {
                return;
            }
        }
        panic!("{} was filled with {written} of {bytes} bytes only", target.nqn);
    }

    fn measure(&self, target: &Target, op: &str, depth: usize, bytes: usize, seconds: usize) -> f64 {
        let address =
            format!("trtype:TCP adrfam:IPv4 traddr:{} trsvcid:{} subnqn:{}", target.ip, target.port, target.nqn);
        let (depth, bytes, seconds) = (depth.to_string(), bytes.to_string(), seconds.to_string());
        let arguments = ["-q", &depth, "-o", &bytes, "-w", op, "-t", &seconds, "-c", CORE_MASK, "-s", MEMORY_MIB];
        let output = Command::new(&self.program).args(arguments).args(["-r", &address]).output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let text = String::from_utf8_lossy(&output.stdout);
        total_iops(&text).unwrap_or_else(|| {
            panic!("no total from perf on {}:\n{text}\n{}", target.nqn, String::from_utf8_lossy(&output.stderr))
        })
    }
}

/// From the line "Total : <IOPS> <MiB/s> <average> <min> <max>".
fn total_iops(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("Total"))?;
    line.trim_start().strip_prefix(':')?.split_whitespace().next()?.parse().ok()
}
