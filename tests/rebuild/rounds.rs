//! Rebuilds of several rounds: nodes killed between two, the last of them, and a source that is lost on the way.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::alike::{Points, copies, in_sync};
use crate::cluster::{Cluster, create_replica, ready, refused};
use crate::support::client::Client;
use crate::support::wait::wait_until;
use crate::{FIRST, LIMIT, SECOND, SIZE, add, lab, works_until};

/// Held between its first round and the second, which is to copy the snapshot "three".
async fn between_rounds(cluster: &Cluster, client: &mut Client, points: &mut Points, ending: Action) -> String {
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let faults = cluster.nodes[0].faults();
    faults.once(Point::RebuildCopied, Action::Block);
    add(cluster, &second).await.expect("the rebuild starts");
    faults.blocked(Point::RebuildCopied).await;
    client.work().await;
    points.take(cluster, client, "three").await;
    client.work().await;
    faults.once(Point::RebuildGoesOn, ending);
    faults.lift(Point::RebuildCopied);
    second
}

/// After its node has killed itself: the engine comes back by itself, over the first replica alone, and loses nothing.
async fn engine_back(cluster: &mut Cluster, client: Client) -> Client {
    let image = client.image();
    drop(client);
    cluster.nodes[0].killed().await;
    cluster.nodes[0].faults().clear();
    cluster.nodes[0].start_again().await;
    ready(&cluster.nodes[0]).await;
    let engine = wait_until(LIMIT, "the engine is back", async || {
        let request = wire::EngineGetRequest { name: "vol-e-0".into() };
        match cluster.nodes[0].spdk().engine_get(request).await.map(tonic::Response::into_inner) {
            Ok(engine) if engine.state == "running" => Ok(engine),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(engine.replica_mode_map[FIRST], wire::ReplicaMode::Rw as i32);
    assert_ne!(
        engine.replica_mode_map.get(SECOND),
        Some(&(wire::ReplicaMode::Rw as i32)),
        "half of a copy is taken in"
    );
    let mut client = Client::with_image(&engine, image).await;
    client.check(usize::MAX).await;
    client.work().await;
    client
}

/// Takes the replica out of the engine, and in again as its node has it.
async fn added_again(cluster: &Cluster) -> String {
    let request = wire::EngineReplicaDeleteRequest {
        engine_name: "vol-e-0".into(),
        replica_name: SECOND.into(),
        ..Default::default()
    };
    cluster.nodes[0].spdk().engine_replica_delete(request).await.expect("the failed replica is removed");
    let request = wire::ReplicaCreateRequest {
        name: SECOND.into(),
        lvs_name: "disk".into(),
        spec_size: SIZE,
        port_count: 5,
        ..Default::default()
    };
    if let Err(status) = cluster.nodes[1].spdk().replica_create(request).await {
        assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    }
    let request = wire::ReplicaGetRequest { name: SECOND.into() };
    let found = cluster.nodes[1].spdk().replica_get(request).await.expect("the replica").into_inner();
    let second = format!("{}:{}", found.ip, found.port_start);
    add(cluster, &second).await.expect("the second rebuild starts");
    second
}

/// Added again, the replica becomes whole without a second copy of any snapshot. Both then have so many of them.
async fn goes_on_from_what_is_copied(cluster: &Cluster, client: &mut Client, points: &Points, snapshots: usize) {
    let second = added_again(cluster).await;
    in_sync(cluster, client).await;
    let copies = copies(cluster);
    assert!(copies.values().all(|times| *times == 1), "what was complete is copied again: {copies:?}");
    points.are_on_both(cluster, client, snapshots, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engines_node_killed_between_rounds_leaves_a_whole_volume_and_goes_on_from_what_is_copied() {
    let (mut cluster, mut client) = lab().await;
    let mut points = Points::default();
    between_rounds(&cluster, &mut client, &mut points, Action::Kill).await;
    let mut client = engine_back(&mut cluster, client).await;
    goes_on_from_what_is_copied(&cluster, &mut client, &points, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engines_node_killed_when_the_head_is_filled_has_no_half_of_a_replica_in_its_volume() {
    let (mut cluster, mut client) = lab().await;
    let mut points = Points::default();
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let faults = cluster.nodes[0].faults();
    faults.once(Point::RebuildJoined, Action::Block);
    add(&cluster, &second).await.expect("the rebuild starts");
    faults.blocked(Point::RebuildJoined).await;
    client.work().await;
    points.take(&cluster, &client, "three").await;
    // The second round; the first was ended by the snapshot.
    faults.once(Point::RebuildFilled, Action::Kill);
    faults.lift(Point::RebuildJoined);
    let mut client = engine_back(&mut cluster, client).await;
    points.take(&cluster, &client, "four").await;
    goes_on_from_what_is_copied(&cluster, &mut client, &points, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_killed_between_rounds_costs_the_client_nothing_and_goes_on_from_what_is_copied() {
    let (mut cluster, mut client) = lab().await;
    let mut points = Points::default();
    between_rounds(&cluster, &mut client, &mut points, Action::Block).await;
    cluster.nodes[0].faults().blocked(Point::RebuildGoesOn).await;
    cluster.nodes[1].kill9();
    cluster.nodes[0].faults().lift(Point::RebuildGoesOn);
    works_until(&cluster, &mut client, wire::ReplicaMode::Err).await;
    client.work().await;
    points.take(&cluster, &client, "four").await;
    client.work().await;

    cluster.nodes[1].start_again().await;
    ready(&cluster.nodes[1]).await;
    goes_on_from_what_is_copied(&cluster, &mut client, &points, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_killed_after_its_head_was_filled_in_vain_is_rebuilt_from_what_is_copied() {
    let (mut cluster, mut client) = lab().await;
    let mut points = Points::default();
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    for point in [Point::RebuildFilled, Point::RebuildGoesOn] {
        cluster.nodes[0].faults().once(point, Action::Block);
    }
    cluster.nodes[0].faults().after(3, Point::RebuildCopies, Action::Block);
    add(&cluster, &second).await.expect("the rebuild starts");
    cluster.nodes[0].faults().blocked(Point::RebuildFilled).await;
    client.work().await;
    points.take(&cluster, &client, "three").await;
    cluster.nodes[0].faults().lift(Point::RebuildFilled);
    cluster.nodes[0].faults().blocked(Point::RebuildGoesOn).await;
    cluster.nodes[0].faults().lift(Point::RebuildGoesOn);
    // Its head is out again, and nothing of the new snapshot is there.
    cluster.nodes[0].faults().blocked(Point::RebuildCopies).await;
    client.work().await;
    cluster.nodes[1].kill9();
    cluster.nodes[0].faults().lift(Point::RebuildCopies);
    works_until(&cluster, &mut client, wire::ReplicaMode::Err).await;
    cluster.nodes[1].start_again().await;
    ready(&cluster.nodes[1]).await;
    goes_on_from_what_is_copied(&cluster, &mut client, &points, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_overtaken_again_and_again_comes_to_its_end() {
    let (cluster, mut client) = lab().await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let faults = cluster.nodes[0].faults();
    let mut points = Points::default();
    faults.once(Point::RebuildCopied, Action::Block);
    add(&cluster, &second).await.expect("the rebuild starts");
    for round in 1..8 {
        faults.blocked(Point::RebuildCopied).await;
        client.work().await;
        points.take(&cluster, &client, &format!("r{round}")).await;
        faults.once(Point::RebuildGoesOn, Action::Block);
        faults.lift(Point::RebuildCopied);
        faults.blocked(Point::RebuildGoesOn).await;
        faults.once(Point::RebuildCopied, Action::Block);
        faults.lift(Point::RebuildGoesOn);
    }
    // In the last round a snapshot waits for its end.
    faults.blocked(Point::RebuildCopied).await;
    let mut spdk = cluster.nodes[0].spdk();
    let request = wire::SnapshotRequest { name: "vol-e-0".into(), snapshot_name: "last".into(), ..Default::default() };
    let waits = tokio::spawn(async move { spdk.engine_snapshot_create(request).await });
    let deletion = wire::SnapshotRequest { name: "vol-e-0".into(), snapshot_name: "one".into(), ..Default::default() };
    let deleted = cluster.nodes[0].spdk().engine_snapshot_delete(deletion).await;
    refused(deleted, Code::FailedPrecondition, "is being rebuilt");
    assert!(!waits.is_finished(), "it is neither taken nor refused");
    faults.lift(Point::RebuildCopied);
    waits.await.expect("no panic").expect("the snapshot is taken");
    in_sync(&cluster, &mut client).await;
    points.are_on_both(&cluster, &client, 11, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_lost_on_the_way_is_not_asked_what_the_head_lacks() {
    const THIRD: &str = "vol-r-00000002";
    let (cluster, client) = lab().await;
    drop(client);
    cluster.delete_engine("vol").await;
    let request = wire::ReplicaDeleteRequest { name: FIRST.into(), cleanup_required: true };
    cluster.nodes[0].spdk().replica_delete(request).await.expect("the replica is deleted");
    let replicas = [
        (FIRST.to_owned(), create_replica(&cluster.nodes[0], FIRST, SIZE).await),
        (THIRD.to_owned(), create_replica(&cluster.nodes[1], THIRD, SIZE).await),
    ];
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", replicas.into()).await;
    let mut client = Client::of(&engine, SIZE).await;
    client.work().await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let faults = cluster.nodes[0].faults();
    faults.once(Point::RebuildCopied, Action::Block);
    add(&cluster, &second).await.expect("the rebuild starts");
    faults.blocked(Point::RebuildCopied).await;
    // The source, of the engine's node, fails a write: what comes from now on is on the other only.
    faults.once(Point::ReplicaWrite, Action::Fail);
    client.work().await;
    let modes = cluster.get("vol").await.replica_mode_map;
    assert_eq!(modes[FIRST], wire::ReplicaMode::Err as i32, "the source is out: {modes:?}");
    for _ in 0..4 {
        client.work().await;
    }
    faults.lift(Point::RebuildCopied);
    in_sync(&cluster, &mut client).await;
    cluster.delete_engine("vol").await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", [(SECOND.into(), second)].into()).await;
    assert!(cluster.read(&engine).await == client.image(), "the new replica lacks acknowledged writes");
}
