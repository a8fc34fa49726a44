//! Many volumes on one node, worked on by many clients at once: nothing is stuck, nothing is left, and lists do not
//! become slower than there is more to list. Prints what a volume costs in memory.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corriente::wire::spdkrpc as wire;
use corriente::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use support::client::connect;
use support::disk::Disk;
use support::node::{Node, NodeOptions};
use support::wait::wait_until;
use tonic::transport::Channel;

const VOLUMES: usize = 64;
const CLIENTS: usize = 16;
/// As many as a volume has replicas: each has one on each disk.
const DISKS: usize = 3;
const DISK_BYTES: u64 = 2 << 30;
const SIZE: u64 = 8 << 20;
const LIMIT: Duration = Duration::from_secs(120);
/// With how many volumes lists are measured first.
const FEW: usize = 8;
const LISTS: usize = 21;

type Spdk = SpdkServiceClient<Channel>;

fn disk_name(index: usize) -> String {
    format!("disk{index}")
}

async fn take_disk(spdk: &mut Spdk, index: usize, path: &Path) {
    let request = wire::DiskCreateRequest {
        disk_name: disk_name(index),
        disk_path: path.to_str().expect("UTF-8").into(),
        block_size: 512,
        disk_driver: "aio".into(),
        ..Default::default()
    };
    spdk.disk_create(request).await.expect("the disk is taken");
    wait_until(LIMIT, "the disk is ready", async || match disk(&mut spdk.clone(), index).await {
        disk if disk.state == "ready" => Ok(()),
        disk => Err(disk.state),
    })
    .await;
}

async fn disk(spdk: &mut Spdk, index: usize) -> wire::Disk {
    let request = wire::DiskGetRequest { disk_name: disk_name(index), ..Default::default() };
    spdk.disk_get(request).await.expect("the disk").into_inner()
}

fn replica_name(volume: usize, disk: usize) -> String {
    format!("vol{volume}-r-0000000{disk}")
}

fn engine_name(volume: usize) -> String {
    format!("vol{volume}-e-0")
}

/// A volume of three replicas, each on a disk of its own, and with a block that a host has written.
async fn create(spdk: &mut Spdk, volume: usize) {
    let mut addresses = std::collections::HashMap::new();
    for disk in 0..DISKS {
        let request = wire::ReplicaCreateRequest {
            name: replica_name(volume, disk),
            lvs_name: disk_name(disk),
            spec_size: SIZE,
            port_count: 1,
            ..Default::default()
        };
        let replica = spdk.replica_create(request).await.expect("the replica is created").into_inner();
        addresses.insert(replica.name, format!("{}:{}", replica.ip, replica.port_start));
    }
    let request = wire::EngineCreateRequest {
        name: engine_name(volume),
        volume_name: format!("vol{volume}"),
        spec_size: SIZE,
        replica_address_map: addresses.into_iter().collect(),
        frontend: "spdk-tcp-nvmf".into(),
        ..Default::default()
    };
    let engine = spdk.engine_create(request).await.expect("the engine is created").into_inner();
    assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
    let host = connect(&engine).await;
    host.write(0, &vec![volume as u8 + 1; 4096]).await.expect("written");
    host.disconnect().await.expect("an orderly end");
}

async fn work_on(spdk: &mut Spdk, volume: usize) {
    let snapshot = |name: &str| wire::SnapshotRequest {
        name: engine_name(volume),
        snapshot_name: name.into(),
        user_created: true,
        ..Default::default()
    };
    for name in ["s1", "s2"] {
        spdk.engine_snapshot_create(snapshot(name)).await.expect("the snapshot is taken");
    }
    spdk.engine_snapshot_delete(snapshot("s1")).await.expect("the snapshot is deleted");
    let request = wire::EngineGetRequest { name: engine_name(volume) };
    let engine = spdk.engine_get(request).await.expect("the engine").into_inner();
    assert_eq!(engine.snapshots.keys().collect::<Vec<_>>(), ["s2"]);
    assert!(engine.replica_mode_map.values().all(|mode| *mode == wire::ReplicaMode::Rw as i32), "{engine:?}");
    let host = connect(&engine).await;
    let mut block = [0; 4096];
    host.read(0, &mut block).await.expect("read");
    assert!(block.iter().all(|byte| *byte == volume as u8 + 1), "volume {volume} has what another was given");
    host.disconnect().await.expect("an orderly end");
}

async fn work_again(spdk: &mut Spdk, volume: usize) {
    let request = wire::SnapshotRequest { name: engine_name(volume), ..Default::default() };
    spdk.engine_snapshot_create(request.clone()).await.expect("the snapshot is taken");
    spdk.engine_snapshot_purge(request).await.expect("purged");
}

async fn delete(spdk: &mut Spdk, volume: usize) {
    spdk.engine_delete(wire::EngineDeleteRequest { name: engine_name(volume) }).await.expect("the engine is deleted");
    for disk in 0..DISKS {
        let request = wire::ReplicaDeleteRequest { name: replica_name(volume, disk), cleanup_required: true };
        spdk.replica_delete(request).await.expect("the replica is deleted");
    }
}

/// Every client does it with its share of the volumes, all at once.
async fn each<F>(
    node: &Arc<Node>,
    volumes: std::ops::Range<usize>,
    step: impl Fn(Spdk, usize) -> F + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let clients = (0..CLIENTS).map(|client| {
        let (spdk, step, share) = (node.spdk(), step.clone(), volumes.clone().skip(client).step_by(CLIENTS));
        tokio::spawn(async move {
            for volume in share {
                step(spdk.clone(), volume).await;
            }
        })
    });
    for client in futures::future::join_all(clients).await {
        client.expect("a client's work");
    }
}

/// The median time of listing all engines and all replicas.
async fn list_time(spdk: &mut Spdk, volumes: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let since = Instant::now();
        let engines = spdk.engine_list(()).await.expect("the engines").into_inner().engines;
        let replicas = spdk.replica_list(()).await.expect("the replicas").into_inner().replicas;
        times.push(since.elapsed());
        assert_eq!((engines.len(), replicas.len()), (volumes, volumes * DISKS));
    }
    times.sort();
    times[LISTS / 2]
}

/// Anonymous memory, and what of SPDK's is in use.
async fn memory(node: &Node) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of its memory");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    let memory = node.corriente().node_info(()).await.expect("information").into_inner().memory.expect("memory");
    (kib << 10, memory.dma_total_bytes - memory.dma_free_bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_volumes_of_three_replicas_are_made_worked_on_and_deleted_by_sixteen_clients_at_once() {
    let node =
        Arc::new(Node::start(NodeOptions::named("loaded").set("log.filter", "warn").set("memory.size", "1GiB")).await);
    let mut spdk = node.spdk();
    let mut disks = Vec::new();
    let mut free = BTreeMap::new();
    for index in 0..DISKS {
        let disk_file = Disk::create(node.directory(), &format!("disk{index}.img"), DISK_BYTES);
        take_disk(&mut spdk, index, disk_file.path()).await;
        free.insert(index, disk(&mut spdk, index).await.free_size);
        disks.push(disk_file);
    }
    let empty = memory(&node).await;
    each(&node, 0..FEW, |mut spdk, volume| async move { create(&mut spdk, volume).await }).await;
    let few = list_time(&mut spdk, FEW).await;
    each(&node, FEW..VOLUMES, |mut spdk, volume| async move { create(&mut spdk, volume).await }).await;
    let all = list_time(&mut spdk, VOLUMES).await;
    let full = memory(&node).await;

    each(&node, 0..VOLUMES, |mut spdk, volume| async move { work_on(&mut spdk, volume).await }).await;
    // Some are deleted while others are worked on.
    each(&node, 0..VOLUMES, |mut spdk, volume| async move {
        if volume % 2 == 1 {
            work_again(&mut spdk, volume).await;
        }
        delete(&mut spdk, volume).await;
    })
    .await;
    assert!(spdk.engine_list(()).await.expect("the engines").into_inner().engines.is_empty());
    assert!(spdk.replica_list(()).await.expect("the replicas").into_inner().replicas.is_empty());
    for (index, before) in free {
        assert_eq!(disk(&mut spdk, index).await.free_size, before, "disk {index} has lost space");
    }

    let per_volume = |before: u64, after: u64| after.saturating_sub(before) / VOLUMES as u64 / 1024;
    println!(
        "a volume of {DISKS} replicas: {} KiB of memory, {} KiB of SPDK's; lists of {FEW} volumes {few:?}, of {VOLUMES} {all:?}",
        per_volume(empty.0, full.0),
        per_volume(empty.1, full.1)
    );
    // Linear, with a factor for what else the machine does; the medians are of the same run.
    let linear = few * (VOLUMES / FEW) as u32;
    assert!(all < linear * 4, "listing {FEW} volumes takes {few:?}, listing {VOLUMES} takes {all:?}");
}
