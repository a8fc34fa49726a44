//! A volume over NVMe/TCP on the loopback, against the same SPDK's `nvmf_tgt` that exports one lvol.
//!
//! Both targets run on core 0, SPDK's `perf` drives them from core 1, in turn; the one that is not measured is stopped,
//! as `nvmf_tgt` polls its core whether or not anybody asks. Both lvols are written once before, so that neither
//! answers from unallocated clusters.
//!
//! `BENCH_SPDK_APPS` is a full build of that SPDK (`build/bin/nvmf_tgt`, `build/examples/perf`); without it nothing can be
//! compared and the bench says so. `BENCH_ROUNDS` (5), `BENCH_SECONDS` (2) a measurement.

#[path = "../common/mod.rs"]
mod common;
mod peer;
mod perf;

use std::path::PathBuf;

use common::support::disk::Disk;
use common::support::node::{Node, NodeOptions};
use common::{lab, median, setting};
use corriente::name::{Nqn, VolumeName};
use peer::Peer;
use perf::{Perf, Target};

const DISK_BYTES: u64 = 2 << 30;
const VOLUME_BYTES: u64 = 512 << 20;
const DEPTHS: [usize; 3] = [1, 32, 128];

#[tokio::main]
async fn main() {
    let Some(apps) = std::env::var_os("BENCH_SPDK_APPS").map(PathBuf::from) else {
        println!("skipped: BENCH_SPDK_APPS names no full build of SPDK, and there is nothing to compare with");
        return;
    };
    let perf = Perf::new(&apps, setting("BENCH_SECONDS", 2));
    let mut node = Node::start(NodeOptions::named("export")).await;
    let _disk = lab::add_disk(&node, "disk", DISK_BYTES).await;
    let replica = lab::add_replica(&node, "disk", "vol-r", VOLUME_BYTES).await;
    let engine = lab::add_engine(&node, "vol", VOLUME_BYTES, "spdk-tcp-nvmf", [replica].into()).await;
    let ours = Target {
        ip: engine.target_ip.clone(),
        port: engine.target_port,
        nqn: Nqn::volume(&VolumeName::parse(&engine.volume_name).expect("a volume name")).to_string(),
    };
    let peer_disk = Disk::create(node.directory(), "peer.img", DISK_BYTES);
    let mut peer = Peer::start(&apps, node.directory(), peer_disk.path(), VOLUME_BYTES).await;
    let theirs = peer.target();

    peer.freeze();
    perf.fill(&ours, VOLUME_BYTES);
    peer.thaw();
    node.freeze();
    perf.fill(&theirs, VOLUME_BYTES);
    println!("op depth | nvmf_tgt kIOPS | corriente kIOPS | ratio (median of each round's)");
    for op in ["randread", "randwrite"] {
        for depth in DEPTHS {
            let mut rounds = Vec::new();
            for _ in 0..setting("BENCH_ROUNDS", 5) {
                let theirs = perf.run(&theirs, op, depth);
                peer.freeze();
                node.thaw();
                let ours = perf.run(&ours, op, depth);
                node.freeze();
                peer.thaw();
                rounds.push((theirs, ours));
            }
            let of = |pick: fn(&(f64, f64)) -> f64| median(rounds.iter().map(pick).collect());
            println!(
                "{op} {depth:>3} | {:.1} | {:.1} | {:.3}",
                of(|(theirs, _)| theirs / 1e3),
                of(|(_, ours)| ours / 1e3),
                of(|(theirs, ours)| ours / theirs)
            );
        }
    }
    node.thaw();
}
