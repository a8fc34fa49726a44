//! What stands in the way of a snapshot says what to do: the volume's maximum, another operation, a disk without space.

use std::net::SocketAddr;

use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, ReplicaName};
use corriente::wire::spdkrpc as wire;
use tonic::{Code, Status};

use crate::cluster::{create_replica, ready, refused};
use crate::support::client::connect;
use crate::support::disk::Disk;
use crate::support::faults::Faults;
use crate::support::node::{Node, NodeOptions};

pub const MIB: u64 = 1 << 20;
pub const REPLICA: &str = "vol-r-00000000";

/// A node with a small disk, and a volume of one replica that is larger than it.
pub async fn lab(disk_mib: u64, volume_mib: u64, snapshots: i32) -> (Node, Disk, wire::Engine) {
    let node = Node::start(NodeOptions::named("a").faulty()).await;
    let disk = Disk::create(node.directory(), "disk.img", disk_mib * MIB);
    let request = wire::DiskCreateRequest {
        disk_name: "disk".into(),
        disk_path: disk.path().to_str().expect("UTF-8").into(),
        block_size: 512,
        disk_driver: "aio".into(),
        ..Default::default()
    };
    node.spdk().disk_create(request).await.expect("the disk is taken");
    ready(&node).await;
    let address = create_replica(&node, REPLICA, volume_mib * MIB).await;
    let request = wire::EngineCreateRequest {
        name: "vol-e-0".into(),
        volume_name: "vol".into(),
        spec_size: volume_mib * MIB,
        replica_address_map: [(REPLICA.to_owned(), address)].into(),
        frontend: "spdk-tcp-nvmf".into(),
        snapshot_max_count: snapshots,
        ..Default::default()
    };
    let engine = node.spdk().engine_create(request).await.expect("the engine is created").into_inner();
    assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
    (node, disk, engine)
}

pub fn request(snapshot: &str) -> wire::SnapshotRequest {
    wire::SnapshotRequest {
        name: "vol-e-0".into(),
        snapshot_name: snapshot.into(),
        user_created: true,
        ..Default::default()
    }
}

pub async fn create(node: &Node, snapshot: &str) -> Result<(), Status> {
    node.spdk().engine_snapshot_create(request(snapshot)).await.map(drop)
}

pub async fn get(node: &Node) -> wire::Engine {
    let request = wire::EngineGetRequest { name: "vol-e-0".into() };
    node.spdk().engine_get(request).await.expect("the engine is there").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_has_no_more_snapshots_than_its_maximum_and_says_what_to_do() {
    let (mut node, _disk, engine) = lab(64, 16, 3).await;
    assert_eq!(engine.snapshot_max_count, 3);
    for name in ["one", "two", "three"] {
        create(&node, name).await.expect("there is room for it");
    }
    refused(create(&node, "four").await, Code::ResourceExhausted, "delete some first");
    assert_eq!(get(&node).await.snapshots.len(), 3, "nothing was left of it");
    node.spdk().engine_snapshot_delete(request("two")).await.expect("it is deleted");
    create(&node, "four").await.expect("there is room again");
    // The maximum comes back with the node, and can be changed.
    node.kill9();
    node.start_again().await;
    crate::support::wait::wait_until(crate::cluster::LIMIT, "the engine is back", async || {
        let engine = get(&node).await;
        if engine.state == "running" { Ok(()) } else { Err(engine.error_msg) }
    })
    .await;
    refused(create(&node, "five").await, Code::ResourceExhausted, "its limit");
    let more = wire::EngineSnapshotMaxCountSetRequest { name: "vol-e-0".into(), count: 4 };
    node.spdk().engine_snapshot_max_count_set(more).await.expect("it is set");
    create(&node, "five").await.expect("there is room again");
    refused(create(&node, "six").await, Code::ResourceExhausted, "its limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_runs_is_said_and_nothing_queues_behind_it() {
    let (node, _disk, _engine) = lab(64, 16, 0).await;
    create(&node, "one").await.expect("a snapshot");
    let faults: &Faults = node.faults();
    faults.always(corriente::faults::Point::SnapshotBegins, corriente::faults::Action::Block);
    let mut spdk = node.spdk();
    let taking = tokio::spawn(async move { spdk.engine_snapshot_create(request("two")).await });
    faults.blocked(corriente::faults::Point::SnapshotBegins).await;
    refused(create(&node, "three").await, Code::FailedPrecondition, "must wait for it");
    let deleted = node.spdk().engine_snapshot_delete(request("one")).await;
    refused(deleted, Code::FailedPrecondition, "must wait for it");
    let purged = node.spdk().engine_snapshot_purge(request("")).await;
    refused(purged, Code::FailedPrecondition, "must wait for it");
    faults.lift(corriente::faults::Point::SnapshotBegins);
    taking.await.expect("no panic").expect("the snapshot is taken");
    node.spdk().engine_snapshot_delete(request("one")).await.expect("now it can be deleted");
    assert_eq!(get(&node).await.snapshots.into_keys().collect::<Vec<_>>(), ["two"]);
}

/// Writes pieces until one fails; how many were acknowledged.
pub async fn fill(volume: &Initiator, from: u64, byte: u8) -> u64 {
    let end = volume.namespace().size_bytes() / MIB;
    for piece in from..end {
        if volume.write(piece * MIB, &vec![byte; MIB as usize]).await.is_err() {
            return piece;
        }
    }
    panic!("a disk took more than it has");
}

async fn holds(volume: &Initiator, pieces: std::ops::Range<u64>, byte: u8) {
    for piece in pieces {
        let mut found = vec![0; MIB as usize];
        volume.read(piece * MIB, &mut found).await.expect("a full disk can be read");
        assert!(found.iter().all(|at| *at == byte), "piece {piece} is not what was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_on_a_full_disk_can_be_read_says_why_and_goes_on_when_there_is_space() {
    let (node, _disk, engine) = lab(64, 128, 0).await;
    // Something else on the disk, to be given up later.
    let other = create_replica(&node, "other-r-00000000", 16 * MIB).await;
    let address: SocketAddr = other.parse().expect("an address");
    let nqn = Nqn::replica(&ReplicaName::parse("other-r-00000000").expect("a name"));
    let ballast = Initiator::connect(address, &nqn, &Nqn::internal_host(), Options::default()).await.expect("a host");
    ballast.write(0, &vec![9; 8 * MIB as usize]).await.expect("a write");
    ballast.disconnect().await.expect("an orderly end");

    let volume = connect(&engine).await;
    volume.write(0, &vec![1; 4 * MIB as usize]).await.expect("a write");
    create(&node, "one").await.expect("a snapshot");
    let full = fill(&volume, 4, 2).await;
    assert!(full > 8, "only {full} MiB could be written");
    // The only replica stays; what it has is what was acknowledged.
    let after = get(&node).await;
    assert_eq!(after.state, "running", "{}", after.error_msg);
    assert!(after.replica_mode_map.values().all(|mode| *mode == wire::ReplicaMode::Rw as i32));
    holds(&volume, 0..4, 1).await;
    holds(&volume, 4..full, 2).await;
    volume.write(4 * MIB, &vec![3; MIB as usize]).await.expect("what has its space can be written");
    // Overwriting what the snapshot holds takes space.
    volume.write(0, &vec![3; MIB as usize]).await.expect_err("there is none");
    let disk = node.spdk().disk_get(wire::DiskGetRequest { disk_name: "disk".into(), ..Default::default() }).await;
    assert_eq!(disk.expect("the disk").into_inner().free_size, 0, "that is where to look");

    // A snapshot that cannot be taken says so; one that can be deleted gives no space that it shares.
    if let Err(status) = create(&node, "two").await {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("space"), "{status}");
    }
    node.spdk().engine_snapshot_delete(request("one")).await.expect("a deletion takes no space");
    holds(&volume, 0..4, 1).await;
    holds(&volume, 5..full, 2).await;

    let give_up = wire::ReplicaDeleteRequest { name: "other-r-00000000".into(), cleanup_required: true };
    node.spdk().replica_delete(give_up).await.expect("the other replica is deleted");
    volume.write(full * MIB, &vec![4; MIB as usize]).await.expect("there is space again");
    create(&node, "three").await.expect("a snapshot");
    holds(&volume, full..full + 1, 4).await;
}
