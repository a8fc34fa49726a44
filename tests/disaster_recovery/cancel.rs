//! Restores that are asked for twice, given up by their caller, cancelled, stalled, or tried again after a failure.

use std::time::Duration;

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{create_replica, refused};
use crate::scene::{BOTH, Scene, VOLUME};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// Asks for a restore and does not wait for the answer.
fn ask(scene: &Scene, point: usize) -> tokio::task::JoinHandle<Result<(), tonic::Status>> {
    let mut client = scene.cluster.nodes[0].spdk();
    let request = wire::EngineBackupRestoreRequest {
        backup_url: scene.url(point),
        engine_name: format!("{VOLUME}-e-0"),
        // Valid, and not what the snapshot is called (`engine-behaviour` §10.2, 12).
        snapshot_name: "mine".into(),
        ..Default::default()
    };
    tokio::spawn(async move { client.engine_backup_restore(request).await.map(drop) })
}

/// Asks for the engine's deletion and waits until that has begun.
async fn begin_deletion(scene: &Scene) -> tokio::task::JoinHandle<Result<(), tonic::Status>> {
    let mut client = scene.cluster.nodes[0].spdk();
    let request = wire::EngineDeleteRequest { name: format!("{VOLUME}-e-0") };
    let deletion = tokio::spawn(async move { client.engine_delete(request).await.map(drop) });
    wait_until(LIMIT, "the deletion begins", async || {
        let state = scene.cluster.get(VOLUME).await.state;
        if state == "terminating" { Ok(()) } else { Err(state) }
    })
    .await;
    deletion
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_second_restore_is_refused_and_the_first_completes_though_its_caller_has_gone() {
    let scene = Scene::start("vol-trim").await;
    scene.restore(0).await;
    let faults = scene.cluster.nodes[0].faults();
    faults.once(Point::RestoreClaimed, Action::Block);
    faults.once(Point::RestoreStepDone, Action::Block);
    let first = ask(&scene, 1);
    faults.blocked(Point::RestoreClaimed).await;
    for entry in scene.cluster.status(VOLUME).await {
        assert!(entry.is_restoring && entry.progress == 0, "{entry:?}");
        assert_eq!((&entry.last_restored, entry.state.as_str()), (&scene.points[0].backup, "in_progress"));
    }
    refused(scene.start_restore(1).await, Code::FailedPrecondition, "restoring is in progress");
    refused(scene.start_restore(0).await, Code::FailedPrecondition, "restoring is in progress");
    first.abort();
    assert!(first.await.is_err(), "the caller has its answer already");
    faults.lift(Point::RestoreClaimed);

    faults.blocked(Point::RestoreStepDone).await;
    refused(scene.start_restore(1).await, Code::FailedPrecondition, "restoring is in progress");
    let entries = scene.cluster.status(VOLUME).await;
    assert!(entries.iter().all(|entry| entry.is_restoring && entry.current_restoring_backup == scene.points[1].backup));
    let snapshots = scene.cluster.get(VOLUME).await.snapshots;
    assert_eq!(snapshots.keys().collect::<Vec<_>>(), [&scene.points[0].snapshot]);
    faults.lift(Point::RestoreStepDone);
    scene.proven(1, &BOTH).await;
}

/// Longhorn's manager looks for the text, and tries again later.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_not_added_while_the_volume_is_restored() {
    let scene = Scene::start("vol-trim").await;
    scene.restore(0).await;
    let third = format!("{VOLUME}-r-00000002");
    let address = create_replica(&scene.cluster.nodes[1], &third, scene.size).await;
    let add = async || {
        let request = wire::EngineReplicaAddRequest {
            engine_name: format!("{VOLUME}-e-0"),
            replica_name: third.clone(),
            replica_address: address.clone(),
            ..Default::default()
        };
        scene.cluster.nodes[0].spdk().engine_replica_add(request).await.map(drop)
    };
    let faults = scene.cluster.nodes[0].faults();
    faults.once(Point::RestoreMarked, Action::Block);
    scene.start_restore(1).await.expect("the restore starts");
    faults.blocked(Point::RestoreMarked).await;
    refused(add().await, Code::FailedPrecondition, "restore is in progress");
    faults.lift(Point::RestoreMarked);
    scene.proven(1, &BOTH).await;
    add().await.expect("afterwards it can join");
    wait_until(LIMIT, "it is in sync", async || {
        let mode = scene.mode(&third).await;
        if mode == wire::ReplicaMode::Rw as i32 { Ok(()) } else { Err(mode.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r13_a_restore_cancelled_by_the_engines_deletion_leaves_the_last_good_point() {
    // One block at a time, so that there is one left when the deletion comes.
    let scene = Scene::start_with("vol-trim", |node| node.set("limits.restore_queue_depth", 1)).await;
    scene.restore(0).await;
    let faults = scene.cluster.nodes[0].faults();

    // In the middle of the blocks: the deletion waits until none is under way.
    faults.always(Point::RestoreStepDone, Action::Block);
    scene.start_restore(1).await.expect("the restore starts");
    faults.blocked(Point::RestoreStepDone).await;
    let deletion = begin_deletion(&scene).await;
    faults.lift(Point::RestoreStepDone);
    deletion.await.expect("no panic").expect("the engine is deleted");
    assert_eq!(scene.create("").await.state, "running");
    scene.stands_at(0, &BOTH).await;

    // Before it has begun: the deletion does not wait, and the restore does not touch what is another engine's by then.
    faults.once(Point::RestoreClaimed, Action::Block);
    let started = ask(&scene, 1);
    faults.blocked(Point::RestoreClaimed).await;
    scene.cluster.delete_engine(VOLUME).await;
    assert_eq!(scene.create("").await.state, "running");
    faults.lift(Point::RestoreClaimed);
    refused(started.await.expect("no panic"), Code::FailedPrecondition, "terminating");
    scene.stands_at(0, &BOTH).await;
    assert_eq!(scene.recreate("").await.state, "running");
    scene.stands_at(0, &BOTH).await;
    scene.restore(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_stalled_restore_fails_and_is_over_only_when_nothing_of_it_can_land_any_more() {
    let scene = Scene::start_with("vol-trim", |node| node.set("timeouts.restore_stall", "1s")).await;
    scene.restore(0).await;
    let faults = scene.cluster.nodes[0].faults();
    faults.always(Point::RestoreStepDone, Action::Block);
    scene.start_restore(1).await.expect("the restore starts");
    wait_until(LIMIT, "the stall is noticed", async || {
        let log = scene.cluster.nodes[0].log();
        if log.contains("a restore stalls") { Ok(()) } else { Err("not in the log".into()) }
    })
    .await;
    assert!(scene.cluster.status(VOLUME).await.iter().all(|entry| entry.is_restoring), "a write is still under way");
    refused(scene.start_restore(1).await, Code::FailedPrecondition, "restoring is in progress");
    faults.lift(Point::RestoreStepDone);
    scene.fails("did not finish within", 0).await;
    scene.restore(1).await;
}

/// Each failed attempt leaves a mixture, and what the next one writes must cover all that differs from its own image.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_backup_restored_after_failures_leaves_no_stale_block() {
    let scene = Scene::start_with("vol-trim", |node| node.set("limits.restore_queue_depth", 1)).await;
    scene.restore(0).await;
    let faults = scene.cluster.nodes[0].faults();
    // The other backup's blocks are all written, and none of the last good one's at its first attempt: what its second
    // attempt finds is not what a complete restore of it has left.
    for (point, failed) in [(1, Point::RestoreFlushed), (0, Point::RestoreStepBegins)] {
        faults.once(failed, Action::Fail);
        scene.start_restore(point).await.expect("the restore starts");
        scene.fails(failed.file_name(), 0).await;
    }
    scene.restore(0).await;
    refused(scene.start_restore(0).await, Code::FailedPrecondition, "already restored backup");
}
