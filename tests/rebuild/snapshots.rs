//! Snapshots of a volume while a replica of it is being rebuilt, under a client's writes.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::alike::{Points, copies, in_sync};
use crate::cluster::{Cluster, create_replica, refused};
use crate::support::wait::wait_until;
use crate::{LIMIT, SECOND, SIZE, add, lab, mode, snapshot};

fn request(snapshot: &str) -> wire::SnapshotRequest {
    wire::SnapshotRequest { name: "vol-e-0".into(), snapshot_name: snapshot.into(), ..Default::default() }
}

/// Through a frontend, as Longhorn's manager takes them.
async fn snapshot_through_a_frontend(cluster: &Cluster, name: &str) {
    let engine = cluster.get("vol").await;
    let frontend = wire::EngineFrontendCreateRequest {
        name: "vol-ef".into(),
        volume_name: "vol".into(),
        engine_name: "vol-e-0".into(),
        spec_size: SIZE,
        target_address: format!("{}:{}", engine.ip, engine.port),
        frontend: "spdk-tcp-nvmf".into(),
        ..Default::default()
    };
    let mut spdk = cluster.nodes[0].spdk();
    let found = spdk.engine_frontend_create(frontend).await.expect("an answer").into_inner();
    assert_eq!((found.state.as_str(), found.error_msg.as_str()), ("running", ""));
    let request = wire::SnapshotRequest { name: "vol-ef".into(), ..request(name) };
    spdk.engine_frontend_snapshot_create(request).await.expect("the snapshot is taken");
    let request = wire::EngineFrontendDeleteRequest { name: "vol-ef".into() };
    spdk.engine_frontend_delete(request).await.expect("the frontend is deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_taken_while_others_are_copied_are_on_the_new_replica_too() {
    let (cluster, mut client) = lab().await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let faults = cluster.nodes[0].faults();
    faults.after(1, Point::RebuildCopies, Action::Block);
    add(&cluster, &second).await.expect("the rebuild starts");
    faults.blocked(Point::RebuildCopies).await;

    let mut points = Points::default();
    client.work().await;
    points.take(&cluster, &client, "three").await;
    client.work().await;
    snapshot_through_a_frontend(&cluster, "four").await;
    points.note(&client, "four");
    client.work().await;
    assert_eq!(mode(&cluster).await, Some(wire::ReplicaMode::Wo));
    refused(cluster.nodes[0].spdk().engine_snapshot_create(request("three")).await, Code::AlreadyExists, "three");
    faults.lift(Point::RebuildCopies);
    in_sync(&cluster, &mut client).await;

    points.take(&cluster, &client, "five").await;
    client.work().await;
    let copies = copies(&cluster);
    assert_eq!(copies.len(), 5, "{copies:?}");
    assert!(copies.values().all(|times| *times == 1), "what was copied is copied again: {copies:?}");
    points.are_on_both(&cluster, &client, 6, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_taken_while_the_head_is_filled_are_on_the_new_replica_too() {
    let (cluster, mut client) = lab().await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let faults = cluster.nodes[0].faults();
    // First before anything of the head is there, then when all of it is.
    faults.once(Point::RebuildJoined, Action::Block);
    faults.once(Point::RebuildFilled, Action::Block);
    add(&cluster, &second).await.expect("the rebuild starts");
    let mut points = Points::default();
    client.work().await;
    for (point, name) in [(Point::RebuildJoined, "three"), (Point::RebuildFilled, "four")] {
        faults.blocked(point).await;
        client.work().await;
        points.take(&cluster, &client, name).await;
        client.work().await;
        assert_eq!(mode(&cluster).await, Some(wire::ReplicaMode::Wo));
        faults.lift(point);
    }
    in_sync(&cluster, &mut client).await;
    points.take(&cluster, &client, "five").await;
    client.work().await;
    let copies = copies(&cluster);
    assert!(copies.len() == 5 && copies.values().all(|times| *times == 1), "{copies:?}");
    wait_until(LIMIT, "the heads that were filled in vain are deleted", async || {
        let log = cluster.nodes[1].log();
        let count =
            log.lines().filter(|line| line.contains("a head that was not filled to its end is deleted")).count();
        if count == 2 { Ok(()) } else { Err(format!("{count} of 2")) }
    })
    .await;
    points.are_on_both(&cluster, &client, 6, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_change_other_snapshots_waits_for_the_end_of_a_rebuild() {
    let (cluster, mut client) = lab().await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let faults = cluster.nodes[0].faults();
    let engine = || cluster.nodes[0].spdk();
    for point in [Point::RebuildCopies, Point::RebuildJoined] {
        faults.once(point, Action::Block);
    }
    add(&cluster, &second).await.expect("the rebuild starts");
    for point in [Point::RebuildCopies, Point::RebuildJoined] {
        faults.blocked(point).await;
        let (code, words) = (Code::FailedPrecondition, "replica vol-r-00000001 is being rebuilt");
        refused(engine().engine_snapshot_delete(request("one")).await, code, words);
        refused(engine().engine_snapshot_revert(request("one")).await, code, words);
        refused(engine().engine_snapshot_purge(request("")).await, code, words);
        let expansion = wire::EngineExpandRequest { name: "vol-e-0".into(), size: 2 * SIZE };
        refused(engine().engine_expand(expansion).await, code, words);
        let suspension = corriente::wire::corriente::v1::EngineSuspendRequest { engine_name: "vol-e-0".into() };
        refused(cluster.nodes[0].corriente().engine_suspend(suspension).await, code, words);
        assert_eq!(cluster.get("vol").await.snapshots.len(), 3, "a refusal changes nothing");
        client.work().await;
        faults.lift(point);
    }
    in_sync(&cluster, &mut client).await;
    engine().engine_snapshot_delete(request("one")).await.expect("now it can be deleted");
    engine().engine_snapshot_purge(request("")).await.expect("and the rebuild's own");
    snapshot(&cluster, "three").await;
    Points::default().are_on_both(&cluster, &client, 2, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_deleted_and_a_rebuild_canceled_between_snapshots() {
    let (cluster, mut client) = lab().await;
    let faults = cluster.nodes[0].faults();
    for point in [Point::RebuildCopied, Point::RebuildGoesOn, Point::RebuildJoined] {
        let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
        faults.once(Point::RebuildCopied, Action::Block);
        faults.once(point, Action::Block);
        add(&cluster, &second).await.expect("the rebuild starts");
        faults.blocked(Point::RebuildCopied).await;
        if point == Point::RebuildGoesOn {
            snapshot(&cluster, "three").await;
        }
        if point != Point::RebuildCopied {
            faults.lift(Point::RebuildCopied);
            faults.blocked(point).await;
        }
        crate::removed(&cluster).await;
        for point in [Point::RebuildCopied, point] {
            faults.lift(point);
        }
        client.work().await;
    }
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    faults.once(Point::RebuildCopied, Action::Block);
    add(&cluster, &second).await.expect("the rebuild starts");
    faults.blocked(Point::RebuildCopied).await;
    snapshot(&cluster, "four").await;
    cluster.delete_engine("vol").await;
    faults.lift(Point::RebuildCopied);
    let first = create_replica(&cluster.nodes[0], crate::FIRST, SIZE).await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", [(crate::FIRST.into(), first)].into()).await;
    assert!(cluster.read(&engine).await == client.image(), "the volume changed");
}
