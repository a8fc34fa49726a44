//! What a node costs when nobody asks anything of it: CPU over a quiet time, hugepages and resident memory, of an empty
//! node and per volume.
//!
//! `cargo bench --bench idle`. `BENCH_IDLE_SECONDS` (30) is the quiet time, `BENCH_VOLUMES` (16) how many volumes.

mod common;

use std::time::{Duration, Instant};

use common::support::node::{Node, NodeOptions};
use common::{lab, process_usage, setting};

/// Replicas take a cluster or two each as long as nobody writes.
const DISK_BYTES: u64 = 4 << 30;
const VOLUME_BYTES: u64 = 64 << 20;
/// Connections settle and pools fill before a measurement.
const SETTLE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() {
    let node = Node::start(NodeOptions::named("idle")).await;
    let pid = node.pid();
    let quiet = Duration::from_secs(setting("BENCH_IDLE_SECONDS", 30) as u64);
    let volumes = setting("BENCH_VOLUMES", 16);
    println!("state | reactor % of a core | process % of a core | RSS MiB | hugepages MiB");
    let empty = measure("empty node", pid, quiet).await;
    let _disk = lab::add_disk(&node, "disk", DISK_BYTES).await;
    measure("one disk", pid, quiet).await;
    for index in 0..volumes {
        let volume = format!("vol-{index}");
        let replica = lab::add_replica(&node, "disk", &format!("{volume}-r"), VOLUME_BYTES).await;
        lab::add_engine(&node, &volume, VOLUME_BYTES, "spdk-tcp-nvmf", [replica].into()).await;
    }
    let full = measure(&format!("{volumes} volumes"), pid, quiet).await;
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / 1024.0 / volumes as f64;
    println!("per volume: RSS {:.2} MiB, hugepages {:.2} MiB", each(full.0, empty.0), each(full.1, empty.1));
}

/// Prints a line and returns RSS and hugepages in KiB.
async fn measure(state: &str, pid: u32, quiet: Duration) -> (u64, u64) {
    tokio::time::sleep(SETTLE).await;
    let usage = || (process_usage::cpu_of_threads(pid, "reactor"), process_usage::cpu(pid));
    let (before, since) = (usage(), Instant::now());
    tokio::time::sleep(quiet).await;
    let (after, took) = (usage(), since.elapsed());
    let percent = |after: Duration, before: Duration| 100.0 * (after - before).as_secs_f64() / took.as_secs_f64();
    let (rss, huge) = (process_usage::status_kib(pid, "VmRSS"), process_usage::status_kib(pid, "HugetlbPages"));
    println!(
        "{state} | {:.2} | {:.2} | {:.1} | {:.1}",
        percent(after.0, before.0),
        percent(after.1, before.1),
        rss as f64 / 1024.0,
        huge as f64 / 1024.0
    );
    (rss, huge)
}
