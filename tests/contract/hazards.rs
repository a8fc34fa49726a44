//! Faults of Longhorn's engine that no other test shows the absence of (`engine-behaviour` §11, whose numbers are in the
//! names).

use std::collections::BTreeMap;

use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;
use corriente::wire::spdkrpc::ReplicaMode;
use tonic::{Code, Status};

use crate::cluster::{Cluster, LIMIT, MIB, NVMF, SIZE, refused};
use crate::raw::Raw;
use crate::support::disk::Disk;
use crate::support::node::{Node, NodeOptions};
use crate::support::wait::wait_until;
use crate::volume::{
    Imaged, Prepared, address_of, connect_replica, create_replica, delete_replica, disk, get_replica, take_disk,
};

pub const FIRST: &str = "vol-r-00000000";
const SECOND: &str = "vol-r-00000001";

pub async fn create_engine(
    node: &Node,
    replicas: &[(&str, &str)],
    change: impl FnOnce(&mut wire::EngineCreateRequest),
) -> Result<wire::Engine, Status> {
    let mut request = wire::EngineCreateRequest {
        name: "vol-e-0".into(),
        volume_name: "vol".into(),
        spec_size: SIZE,
        replica_address_map: replicas.iter().map(|(name, at)| ((*name).to_owned(), (*at).to_owned())).collect(),
        frontend: NVMF.into(),
        ..Default::default()
    };
    change(&mut request);
    node.spdk().engine_create(request).await.map(tonic::Response::into_inner)
}

async fn delete_engine(node: &Node) {
    let request = wire::EngineDeleteRequest { name: "vol-e-0".into() };
    node.spdk().engine_delete(request).await.expect("the engine is deleted");
}

/// A bare lvol name once meant any lvstore's lvol of that name.
#[tokio::test(flavor = "multi_thread")]
async fn h4_lvols_of_one_name_on_two_disks_are_told_apart() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let ours = create_replica(node, FIRST).await;
    let second = Disk::create(node.directory(), "second.img", 128 * MIB);
    let raw = Raw::format(second.path(), "second").await;
    for name in [FIRST.to_owned(), format!("{FIRST}-rebuilding"), format!("{FIRST}-snap-s1")] {
        raw.volume(&name, SIZE).await;
    }
    raw.fill(FIRST, 0, 0x5A).await;
    raw.close().await;
    let request = wire::DiskCreateRequest {
        disk_name: "second".into(),
        disk_path: second.path().to_str().expect("UTF-8").into(),
        ..Default::default()
    };
    node.spdk().disk_create(request).await.expect("the disk is taken");
    let on_second = async || {
        let request = own::OrphanListRequest { disk_name: "second".into() };
        let listed = node.corriente().orphan_list(request).await.map_err(|status| status.to_string())?;
        Ok::<_, String>(listed.into_inner().orphans)
    };
    let before = wait_until(LIMIT, "the second disk is ready", on_second).await;
    assert_eq!(before.len(), 3, "the replica of that name is on the first disk: {before:?}");
    assert_eq!(get_replica(node, FIRST).await.expect("it is there").lvs_name, "disk");

    let snapshot = wire::SnapshotRequest { name: FIRST.into(), snapshot_name: "s1".into(), ..Default::default() };
    node.spdk().replica_snapshot_create(snapshot.clone()).await.expect("a snapshot");
    let host = connect_replica(&ours).await;
    host.write(0, &vec![0x11; MIB as usize]).await.expect("written");
    host.disconnect().await.expect("an orderly end");
    node.spdk().replica_snapshot_delete(snapshot).await.expect("the snapshot is deleted");
    delete_replica(node, FIRST, true).await;
    assert_eq!(on_second().await.expect("a list"), before, "nothing of the other disk was touched");
    let empty = disk(node).await;
    assert_eq!(empty.free_size, empty.total_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn h6_a_replica_is_placed_by_the_disks_uuid_alone() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let store = disk(node).await;
    let mut request = wire::ReplicaCreateRequest {
        name: FIRST.into(),
        lvs_uuid: store.uuid.clone(),
        spec_size: SIZE,
        port_count: 1,
        ..Default::default()
    };
    let replica = node.spdk().replica_create(request.clone()).await.expect("created").into_inner();
    assert_eq!(
        (replica.state.as_str(), replica.lvs_name.as_str(), &replica.lvs_uuid),
        ("running", "disk", &store.uuid)
    );
    connect_replica(&replica).await.disconnect().await.expect("it is exported under its name");
    delete_replica(node, FIRST, true).await;
    request.lvs_uuid = "00000000-0000-4000-8000-000000000000".into();
    refused(node.spdk().replica_create(request).await, Code::NotFound, "00000000-0000-4000-8000-000000000000");
}

/// What never connected has no bdev that could be taken out of anything.
#[tokio::test(flavor = "multi_thread")]
async fn h7_a_replica_that_never_connected_is_taken_off_the_list() {
    let mut cluster = Cluster::start(2).await;
    let engine = cluster.volume("vol", NVMF).await;
    let mut client = Imaged::new();
    client.write(&engine, &[0]).await;
    cluster.nodes[1].kill9();
    client.write(&engine, &[1]).await;
    let replicas = engine.replica_address_map.clone();
    delete_engine(&cluster.nodes[0]).await;
    let replicas: Vec<_> = replicas.iter().map(|(name, at)| (name.as_str(), at.as_str())).collect();
    let again = create_engine(&cluster.nodes[0], &replicas, |_| {}).await.expect("an answer");
    assert_eq!((again.state.as_str(), again.error_msg.as_str()), ("running", ""));
    assert_eq!(again.replica_mode_map[SECOND], ReplicaMode::Err as i32);
    let request = wire::EngineReplicaDeleteRequest {
        engine_name: "vol-e-0".into(),
        replica_name: SECOND.into(),
        ..Default::default()
    };
    cluster.nodes[0].spdk().engine_replica_delete(request).await.expect("it is taken off the list");
    let left = cluster.engine_get(0, "vol-e-0").await.expect("the engine");
    assert_eq!(
        (left.state.as_str(), left.replica_mode_map.keys().collect::<Vec<_>>()),
        ("running", vec![&FIRST.to_owned()])
    );
    client.write(&left, &[2]).await;
    client.check(&left, "without it").await;
}

/// Salvage of what shows no head is refused, as any start from it is.
#[tokio::test(flavor = "multi_thread")]
async fn h11_an_engine_does_not_start_from_a_replica_that_shows_no_head() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let address = address_of(&create_replica(node, FIRST).await);
    delete_replica(node, FIRST, false).await;
    for salvage in [false, true] {
        let refusal = create_engine(node, &[(FIRST, &address)], |request| request.salvage_requested = salvage).await;
        refused(refusal, Code::FailedPrecondition, FIRST);
        assert!(node.spdk().engine_list(()).await.expect("a list").into_inner().engines.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn o1_an_engine_that_is_refused_is_not_there() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let address = address_of(&create_replica(node, FIRST).await);
    type Change = fn(&mut wire::EngineCreateRequest);
    let wrong: [(Change, &str); 5] = [
        (|request| request.replica_address_map.clear(), "replica_address_map"),
        (|request| request.spec_size = 0, "spec_size"),
        (|request| request.volume_name.clear(), "volume_name"),
        (|request| request.frontend = "floppy".into(), "frontend"),
        (|request| drop(request.replica_address_map.insert(SECOND.into(), ":0".into())), "replica_address_map"),
    ];
    for (change, words) in wrong {
        refused(create_engine(node, &[(FIRST, &address)], change).await, Code::InvalidArgument, words);
        assert!(node.spdk().engine_list(()).await.expect("a list").into_inner().engines.is_empty(), "{words}");
    }
    let engine = create_engine(node, &[(FIRST, &address)], |_| {}).await.expect("an answer");
    assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
    refused(
        create_engine(node, &[(FIRST, &address)], |request| request.spec_size *= 2).await,
        Code::AlreadyExists,
        "vol-e-0",
    );
    let still = cluster.engine_get(0, "vol-e-0").await.expect("it is there");
    assert_eq!((still.state.as_str(), still.spec_size, still.port), ("running", SIZE, engine.port));
}

/// A store that another engine made with other clusters than ours.
#[tokio::test(flavor = "multi_thread")]
async fn o9_sizes_are_counted_in_the_stores_own_clusters() {
    let node = Node::start(NodeOptions::named("clusters")).await;
    let file = Disk::create(node.directory(), "disk.img", 256 * MIB);
    let raw = Raw::format_with(file.path(), "disk", 4 * MIB as u32).await;
    raw.volume(FIRST, SIZE).await;
    raw.fill(FIRST, 5, 0x44).await;
    raw.close().await;
    let prepared = Prepared { node, disk: file };
    let store = take_disk(&prepared.node, prepared.disk.path().to_str().expect("UTF-8")).await;
    assert_eq!(store.cluster_size, 4 * MIB as i64);
    assert_eq!(store.total_size - store.free_size, 4 * MIB as i64);
    let replica = &prepared.replicas().await[FIRST];
    assert_eq!((replica.actual_size, replica.head.as_ref().expect("a head").actual_size), (4 * MIB, 4 * MIB));
    let running = create_replica(&prepared.node, FIRST).await;
    let host = connect_replica(&running).await;
    host.write(0, &[1; 4096]).await.expect("written");
    host.disconnect().await.expect("an orderly end");
    wait_until(LIMIT, "the second cluster is counted", async || {
        let size = get_replica(&prepared.node, FIRST).await.expect("the replica").actual_size;
        if size == 8 * MIB { Ok(()) } else { Err(size.to_string()) }
    })
    .await;
}

/// A node that stands still holds up the call that needs it, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn o10_an_engine_is_told_of_while_a_call_waits_for_another_node() {
    let mut cluster = Cluster::start(2).await;
    let engine = cluster.volume("vol", NVMF).await;
    let mut client = Imaged::new();
    client.write(&engine, &[0]).await;
    cluster.nodes[1].freeze();
    let mut spdk = cluster.nodes[0].spdk();
    let request = wire::SnapshotRequest { name: "vol-e-0".into(), snapshot_name: "s1".into(), ..Default::default() };
    let waiting = tokio::spawn(async move { spdk.engine_snapshot_create(request).await });
    let mut spdk = cluster.nodes[0].spdk();
    for _ in 0..10 {
        let told = cluster.engine_get(0, "vol-e-0").await.expect("the engine");
        assert_eq!(told.name, "vol-e-0");
        spdk.engine_list(()).await.expect("a list");
        spdk.replica_list(()).await.expect("a list");
        assert!(!waiting.is_finished(), "the snapshot waits for the node that stands still");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    cluster.nodes[1].thaw();
    waiting.await.expect("no panic").expect("the snapshot is taken");
    let snapshots: BTreeMap<_, _> = cluster.engine_get(0, "vol-e-0").await.expect("the engine").snapshots;
    assert_eq!(snapshots.keys().collect::<Vec<_>>(), ["s1"]);
    client.check(&engine, "after the wait").await;
}
