//! How long volumes are away when their node is killed and started again: from the start of the process until gRPC answers, until
//! all engines and frontends run, and until a host has read from each volume on its old port.
//!
//! `cargo bench --bench restart`. `BENCH_ROUNDS` (5) restarts, of which the medians are told; `BENCH_VOLUMES` (8) volumes, each with a
//! replica on the node and one on another.

mod common;

use std::time::{Duration, Instant};

use common::support::node::{Node, NodeOptions};
use common::support::wait::wait_until;
use common::{lab, median, setting};
use corriente::wire::spdkrpc as wire;

const DISK_BYTES: u64 = 4 << 30;
const VOLUME_BYTES: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let (rounds, volumes) = (setting("BENCH_ROUNDS", 5), setting("BENCH_VOLUMES", 8));
    let mut node = Node::start(NodeOptions::named("restarted")).await;
    let other = Node::start(NodeOptions::named("other")).await;
    let _disks = (lab::add_disk(&node, "disk", DISK_BYTES).await, lab::add_disk(&other, "disk", DISK_BYTES).await);
    let mut engines = Vec::new();
    for index in 0..volumes {
        let volume = format!("vol-{index}");
        let here = lab::add_replica(&node, "disk", &format!("{volume}-r-0"), VOLUME_BYTES).await;
        let there = lab::add_replica(&other, "disk", &format!("{volume}-r-1"), VOLUME_BYTES).await;
        let engine = lab::add_engine(&node, &volume, VOLUME_BYTES, "spdk-tcp-nvmf", [here, there].into()).await;
        let frontend = wire::EngineFrontendCreateRequest {
            name: format!("{volume}-ef"),
            volume_name: volume,
            engine_name: engine.name.clone(),
            spec_size: VOLUME_BYTES,
            frontend: "spdk-tcp-nvmf".into(),
            ..Default::default()
        };
        let frontend = node.spdk().engine_frontend_create(frontend).await.expect("a frontend").into_inner();
        assert_eq!(frontend.state, "running", "{}", frontend.error_msg);
        engines.push(engine);
    }
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        node.kill9();
        let since = Instant::now();
        node.start_again().await;
        times[0].push(since.elapsed().as_secs_f64());
        run_again(&node, volumes).await;
        times[1].push(since.elapsed().as_secs_f64());
        for engine in &engines {
            let volume = lab::connect(engine).await;
            volume.read(0, &mut [0; 4096]).await.expect("a read");
        }
        times[2].push(since.elapsed().as_secs_f64());
    }
    let [answers, running, read] = times.map(median);
    println!(
        "{volumes} volumes, median of {rounds}: gRPC answers {answers:.2} s, all run {running:.2} s, all were read {read:.2} s"
    );
}

/// All engines and frontends are what they were.
async fn run_again(node: &Node, volumes: usize) {
    wait_until(LIMIT, "all run", async || {
        let engines = node.spdk().engine_list(()).await.map_err(|status| status.to_string())?.into_inner().engines;
        let frontends = node.spdk().engine_frontend_list(()).await.map_err(|status| status.to_string())?;
        let frontends = frontends.into_inner().engine_frontends;
        let engines = engines.values().filter(|engine| engine.state == "running").count();
        let frontends = frontends.values().filter(|frontend| frontend.state == "running").count();
        if (engines, frontends) == (volumes, volumes) {
            Ok(())
        } else {
            Err(format!("{engines} engines and {frontends} frontends"))
        }
    })
    .await
}
