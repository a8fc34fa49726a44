//! A full restore from a directory: MiB of volume a second, and bytes read from the store per byte stored there.
//!
//! One node restores a backup (2 GiB, lz4, about 2:1) into a volume of one replica and into one of three, each on a disk of
//! its own. Compared in the same run with the plainest way to get the same bytes onto one file: as many threads as the
//! restore has workers, each reading a block's file, decompressing it, checking its SHA-512 and writing it with O_DIRECT;
//! once on the cores that a node leaves to such work (all but its reactor's), once on all.
//!
//! `BENCH_ROUNDS` (5), `BENCH_MIB` (2048): the volume's size.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use aws_lc_rs::digest::{SHA512, digest};
use common::support::node::{Node, NodeOptions};
use common::support::random::pattern;
use common::{lab, median, process_usage, setting};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const MIB: u64 = 1 << 20;
/// Longhorn's block.
const BLOCK_BYTES: usize = 2 << 20;
/// Each page repeats this many bytes of its own, so that lz4 stores about half.
const ENTROPY: usize = 2040;
const DISKS: [&str; 3] = ["disk0", "disk1", "disk2"];
/// What a node uses unless its configuration says otherwise.
const WORKERS: usize = 4;

#[tokio::main]
async fn main() {
    let size = setting("BENCH_MIB", 2048) as u64 * MIB;
    let node = Node::start(NodeOptions::named("restore")).await;
    let mut disks = Vec::new();
    for name in DISKS {
        disks.push(lab::add_disk(&node, name, 3 * size + 512 * MIB).await);
    }
    let store = node.directory().join("backups");
    fs::create_dir_all(&store).expect("a directory for backups");
    let url = make_backup(&node, &store, size).await;
    let blocks = block_files(&store);
    let stored: u64 = blocks.iter().map(|path| fs::metadata(path).expect("a block").len()).sum();
    println!("{} MiB, {} blocks, {:.2}:1", size / MIB, blocks.len(), size as f64 / stored as f64);

    let mut rounds = Vec::new();
    for _ in 0..setting("BENCH_ROUNDS", 5) {
        let output = node.directory().join("plain.img");
        let plain = [true, false].map(|spare| plain_copy(&blocks, &output, spare));
        let one = restore(&node, &url, size, 1).await;
        let three = restore(&node, &url, size, 3).await;
        rounds.push(Round { plain, one, three });
    }
    let speed = |seconds: f64| size as f64 / MIB as f64 / seconds;
    let of = |pick: &dyn Fn(&Round) -> f64| median(rounds.iter().map(pick).collect());
    println!("what | MiB/s | of the plain copy on the same cores, on all cores | bytes read per byte stored");
    println!("plain copy, same cores | {:.0} | |", of(&|round| speed(round.plain[0])));
    println!("plain copy, all cores | {:.0} | |", of(&|round| speed(round.plain[1])));
    for (what, pick) in [("1 replica", 0), ("3 replicas", 1)] {
        let measured = |round: &Round| if pick == 0 { round.one } else { round.three };
        println!(
            "{what} | {:.0} | {:.2}, {:.2} | {:.4}",
            of(&|round| speed(measured(round).seconds)),
            of(&|round| round.plain[0] / measured(round).seconds),
            of(&|round| round.plain[1] / measured(round).seconds),
            of(&|round| measured(round).bytes_read as f64 / stored as f64)
        );
    }
}

/// What one round gave: the plain copies on spare and on all cores, and the restores.
struct Round {
    plain: [f64; 2],
    one: Measured,
    three: Measured,
}

#[derive(Clone, Copy)]
struct Measured {
    seconds: f64,
    bytes_read: u64,
}

/// Fills a volume and backs it up.
async fn make_backup(node: &Node, store: &Path, size: u64) -> String {
    let replica = lab::add_replica(node, DISKS[0], "source-r", size).await;
    let engine = lab::add_engine(node, "source", size, "spdk-tcp-nvmf", [replica].into()).await;
    let initiator = lab::connect(&engine).await;
    for offset in (0..size).step_by(BLOCK_BYTES) {
        let block = pattern(offset / BLOCK_BYTES as u64 + 1, ENTROPY, BLOCK_BYTES);
        initiator.write(offset, &block).await.expect("the volume takes a write");
    }
    initiator.disconnect().await.expect("an orderly end");
    let url = lab::back_up(node, "source", &format!("vfs://{}", store.display()), "lz4").await;
    lab::remove_engine(node, "source").await;
    lab::remove_replica(node, "source-r").await;
    url
}

async fn restore(node: &Node, url: &str, size: u64, count: usize) -> Measured {
    let mut replicas = BTreeMap::new();
    for disk in &DISKS[..count] {
        let (name, address) = lab::add_replica(node, disk, &format!("dr-{disk}"), size).await;
        replicas.insert(name, address);
    }
    lab::add_engine(node, "dr", size, "", replicas.clone()).await;
    let (before, since) = (process_usage::bytes_read(node.pid()), Instant::now());
    lab::restore(node, "dr", url).await;
    let measured =
        Measured { seconds: since.elapsed().as_secs_f64(), bytes_read: process_usage::bytes_read(node.pid()) - before };
    lab::remove_engine(node, "dr").await;
    for name in replicas.keys() {
        lab::remove_replica(node, name).await;
    }
    measured
}

fn block_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a readable store").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(block_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "blk") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The core of the only node's reactor: nodes take the cores in turn.
const REACTOR_CORE: usize = 0;

/// Keeps the calling thread off the reactor's core, if there is another.
fn leave_reactor_core() {
    let this = Pid::from_raw(0);
    let mut cores = sched_getaffinity(this).expect("our own CPU mask");
    let others = (0..CpuSet::count()).any(|core| core != REACTOR_CORE && cores.is_set(core).unwrap_or(false));
    if others {
        cores.unset(REACTOR_CORE).expect("a core of the mask");
        sched_setaffinity(this, &cores).expect("a mask within ours");
    }
}

/// Reads, decompresses, checks and writes every block with no more care than that; seconds.
fn plain_copy(blocks: &[PathBuf], output: &Path, spare_reactor_core: bool) -> f64 {
    let file = File::options().create(true).write(true).custom_flags(nix::libc::O_DIRECT).open(output);
    let file = file.expect("an output file");
    let since = Instant::now();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                if spare_reactor_core {
                    leave_reactor_core();
                }
                // O_DIRECT wants memory aligned to the device's blocks.
                let mut space = vec![0_u8; BLOCK_BYTES + 4096];
                let start = space.as_ptr().align_offset(4096);
                let block = &mut space[start..start + BLOCK_BYTES];
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(path) = blocks.get(index) else { return };
                    let stored = fs::read(path).expect("a readable block");
                    lz4_flex::frame::FrameDecoder::new(stored.as_slice()).read_exact(block).expect("an lz4 block");
                    let digest: String =
                        digest(&SHA512, block).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                    let name = path.file_stem().and_then(|name| name.to_str()).expect("a block's name");
                    assert!(digest.starts_with(name), "a block is named by its checksum");
                    file.write_all_at(block, (index * BLOCK_BYTES) as u64).expect("a written block");
                }
            });
        }
    });
    file.sync_all().expect("a durable file");
    let seconds = since.elapsed().as_secs_f64();
    fs::remove_file(output).expect("the output is removed");
    seconds
}
