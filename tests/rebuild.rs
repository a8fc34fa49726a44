//! A replica taken into a running volume, from outside: clients write all the while, and afterwards the new replica alone
//! holds the volume and its snapshots.

#![allow(dead_code)]

mod support;

#[path = "rebuild/alike.rs"]
mod alike;
#[path = "disaster_recovery/cluster.rs"]
mod cluster;
#[path = "rebuild/last_round.rs"]
mod last_round;
#[path = "rebuild/lost_source.rs"]
mod lost_source;
#[path = "rebuild/rounds.rs"]
mod rounds;
#[path = "rebuild/snapshots.rs"]
mod snapshots;

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::{Cluster, create_replica, refused};
use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use support::client::Client;
use support::node::NodeOptions;
use support::wait::wait_until;
use tonic::Code;

const SIZE: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(120);
const FIRST: &str = "vol-r-00000000";
const SECOND: &str = "vol-r-00000001";

async fn snapshot(cluster: &Cluster, name: &str) {
    let request = wire::SnapshotRequest {
        name: "vol-e-0".into(),
        snapshot_name: name.into(),
        user_created: true,
        ..Default::default()
    };
    cluster.nodes[0].spdk().engine_snapshot_create(request).await.expect("the snapshot is taken");
}

async fn add(cluster: &Cluster, address: &str) -> Result<(), tonic::Status> {
    let request = wire::EngineReplicaAddRequest {
        engine_name: "vol-e-0".into(),
        replica_name: SECOND.into(),
        replica_address: address.into(),
        ..Default::default()
    };
    cluster.nodes[0].spdk().engine_replica_add(request).await.map(drop)
}

async fn mode(cluster: &Cluster) -> Option<wire::ReplicaMode> {
    let modes = cluster.get("vol").await.replica_mode_map;
    modes.get(SECOND).map(|mode| wire::ReplicaMode::try_from(*mode).expect("a known mode"))
}

/// The client works until the second replica has the mode; `Wo` is passed through.
async fn works_until(cluster: &Cluster, client: &mut Client, wanted: wire::ReplicaMode) {
    let mut probe = async || {
        client.work().await;
        match mode(cluster).await {
            Some(mode) if mode == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    wait_until(LIMIT, &format!("the replica is {wanted:?}"), &mut probe).await;
}

/// A volume of one replica with a client and two snapshots.
async fn lab() -> (Cluster, Client) {
    lab_with(|options| options).await
}

/// The same with settings of the nodes.
async fn lab_with(set: impl Fn(NodeOptions) -> NodeOptions) -> (Cluster, Client) {
    let cluster = Cluster::start_with(|options| set(options.faulty())).await;
    let first = create_replica(&cluster.nodes[0], FIRST, SIZE).await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", [(FIRST.into(), first)].into()).await;
    let mut client = Client::of(&engine, SIZE).await;
    for name in ["one", "two"] {
        client.work().await;
        snapshot(&cluster, name).await;
    }
    client.work().await;
    (cluster, client)
}

/// Removes the failed replica and deletes what it holds.
async fn removed(cluster: &Cluster) {
    let request = wire::EngineReplicaDeleteRequest {
        engine_name: "vol-e-0".into(),
        replica_name: SECOND.into(),
        ..Default::default()
    };
    cluster.nodes[0].spdk().engine_replica_delete(request).await.expect("the failed replica is removed");
    let request = wire::ReplicaDeleteRequest { name: SECOND.into(), cleanup_required: true };
    cluster.nodes[1].spdk().replica_delete(request).await.expect("what it holds is deleted");
}

async fn tree(cluster: &Cluster, node: usize, replica: &str) -> BTreeMap<String, (String, u64, String, bool)> {
    let request = wire::ReplicaGetRequest { name: replica.into() };
    let replica = cluster.nodes[node].spdk().replica_get(request).await.expect("the replica exists").into_inner();
    let facts =
        |lvol: &wire::Lvol| (lvol.parent.clone(), lvol.actual_size, lvol.snapshot_timestamp.clone(), lvol.user_created);
    replica.snapshots.iter().map(|(name, lvol)| (name.clone(), facts(lvol))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_added_under_a_clients_io_holds_the_volume_and_its_snapshots_alone() {
    let (cluster, mut client) = lab().await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    add(&cluster, &second).await.expect("the rebuild starts");
    refused(add(&cluster, &second).await, Code::FailedPrecondition, "replica add is already in progress");
    works_until(&cluster, &mut client, wire::ReplicaMode::Rw).await;
    client.work().await;

    let (one, two) = (tree(&cluster, 0, FIRST).await, tree(&cluster, 1, SECOND).await);
    assert_eq!(one, two);
    assert_eq!(one.len(), 3, "one, two and the rebuild's own: {one:?}");
    cluster.delete_engine("vol").await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", [(SECOND.into(), second)].into()).await;
    assert!(cluster.read(&engine).await == client.image(), "the new replica does not hold the volume");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_killed_in_its_rebuild_costs_the_client_nothing_and_is_rebuilt_again() {
    let (mut cluster, mut client) = lab().await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    add(&cluster, &second).await.expect("the rebuild starts");
    client.work().await;
    cluster.nodes[1].kill9();
    works_until(&cluster, &mut client, wire::ReplicaMode::Err).await;
    client.work().await;

    cluster.nodes[1].start_again().await;
    cluster::ready(&cluster.nodes[1]).await;
    removed(&cluster).await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    add(&cluster, &second).await.expect("the second rebuild starts");
    works_until(&cluster, &mut client, wire::ReplicaMode::Rw).await;
    cluster.delete_engine("vol").await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", [(SECOND.into(), second)].into()).await;
    assert!(cluster.read(&engine).await == client.image(), "the new replica does not hold the volume");
}

#[tokio::test(flavor = "multi_thread")]
async fn o15_what_cannot_be_added_is_refused_and_changes_nothing() {
    let (cluster, mut client) = lab().await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE / 2).await;
    refused(add(&cluster, &second).await, Code::FailedPrecondition, "bytes");
    refused(add(&cluster, "127.0.0.1:1").await, Code::Unavailable, SECOND);
    refused(add(&cluster, "").await, Code::InvalidArgument, "replica_address");
    let before = cluster.get("vol").await;
    assert_eq!(before.replica_mode_map.keys().collect::<Vec<_>>(), [FIRST]);
    assert_eq!(before.snapshots.len(), 2, "a refused addition leaves no snapshot: {:?}", before.snapshots.keys());
    let last = wire::EngineReplicaDeleteRequest {
        engine_name: "vol-e-0".into(),
        replica_name: FIRST.into(),
        ..Default::default()
    };
    let deleted = cluster.nodes[0].spdk().engine_replica_delete(last).await;
    refused(deleted, Code::FailedPrecondition, "last one in sync");
    client.work().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_addition_refused_after_its_snapshot_leaves_the_engine_as_it_was_and_can_be_repeated() {
    let (cluster, mut client) = lab().await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let before = tree(&cluster, 0, FIRST).await;
    cluster.nodes[0].faults().once(Point::SnapshotTaken, Action::Fail);
    assert!(add(&cluster, &second).await.is_err(), "the snapshot failed, so the addition has");
    assert!(cluster.nodes[0].faults().is_spent(Point::SnapshotTaken));
    let engine = cluster.get("vol").await;
    assert_eq!(engine.replica_mode_map.keys().collect::<Vec<_>>(), [FIRST]);
    assert_eq!(engine.snapshots.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(tree(&cluster, 0, FIRST).await.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    client.work().await;
    add(&cluster, &second).await.expect("the rebuild starts");
    works_until(&cluster, &mut client, wire::ReplicaMode::Rw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn longhorn_10139_a_rebuild_whose_attach_has_no_name_ends_names_the_replica_and_leaves_nothing_attached() {
    let (cluster, mut client) = lab().await;
    for fault in [Point::AttachNoName, Point::AttachTwoNames, Point::AttachEmptyName] {
        let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
        cluster.nodes[0].faults().once(fault, Action::Fail);
        add(&cluster, &second).await.expect("the rebuild starts");
        works_until(&cluster, &mut client, wire::ReplicaMode::Err).await;
        assert!(cluster.nodes[0].faults().is_spent(fault), "{fault:?} was not met");
        removed(&cluster).await;
    }
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    add(&cluster, &second).await.expect("the rebuild starts");
    works_until(&cluster, &mut client, wire::ReplicaMode::Rw).await;
    cluster.delete_engine("vol").await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", [(SECOND.into(), second)].into()).await;
    assert!(cluster.read(&engine).await == client.image(), "the new replica does not hold the volume");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_adds_a_replica_and_waits_until_it_is_in_sync() {
    let (cluster, mut client) = lab().await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let server = cluster.nodes[0].grpc_address().to_string();
    let at = format!("{SECOND}={second}");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
    command.args(["engine", "add-replica", "vol-e-0", "--replica", &at, "--wait", "--server", &server]);
    let output = command.env_clear().kill_on_drop(true).output().await.expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(mode(&cluster).await, Some(wire::ReplicaMode::Rw));
    client.work().await;

    // Once more: it is there already, and that is said at once.
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
    command.args(["engine", "add-replica", "vol-e-0", "--replica", &at, "--wait", "--server", &server]);
    let output = command.env_clear().kill_on_drop(true).output().await.expect("the program starts");
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("already exists in it"));
}
