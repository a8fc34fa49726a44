//! Hugepages for a node if the machine has enough free, else none; two starting nodes never count the same pages.

use std::fs::{self, File};

/// A started node with the defaults takes 412 MiB of SPDK 20.07 (spdk-versions §5.4), with some room for volumes, and
/// 512 MiB of 24.09, in pages of 2 MiB.
const PAGES_PER_NODE: u64 = 256;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    Hugepages,
    NoHuge,
}

/// Held from the choice until the node has taken its pages.
pub struct Choice {
    pub memory: Memory,
    _lock: File,
}

impl Choice {
    /// Waits for other starting nodes, then counts what is free.
    pub fn make() -> Self {
        let lock = File::create(std::env::temp_dir().join("corriente-test-memory")).expect("a lock file");
        lock.lock().expect("a lock on our own lock file");
        let free = pages("free_hugepages").saturating_sub(pages("resv_hugepages"));
        let memory = if free >= PAGES_PER_NODE { Memory::Hugepages } else { Memory::NoHuge };
        println!("memory: {memory:?}, {free} hugepages free, a node needs {PAGES_PER_NODE}");
        Choice { memory, _lock: lock }
    }
}

fn pages(counter: &str) -> u64 {
    // A kernel without hugepages has no such file.
    fs::read_to_string(format!("{POOL}/{counter}")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
