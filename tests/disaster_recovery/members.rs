//! Members of the mirror that fail during a restore: one, all, at a write, at the flush.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{ready, refused};
use crate::scene::{BOTH, Scene, VOLUME, replica};
use crate::support::random::pattern;

const RUNNING: &str = "running";

/// Brings the volume to its first point and the restore of the second to where all blocks are written and none flushed.
async fn until_the_flush(scene: &Scene) {
    scene.restore(0).await;
    let faults = scene.cluster.nodes[0].faults();
    faults.after(1, Point::RestoreStepDone, Action::Block);
    scene.start_restore(1).await.expect("the restore starts");
    faults.blocked(Point::RestoreStepDone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_a_flush_error_on_all_members_moves_neither_last_restored_nor_the_snapshots() {
    let scene = Scene::start("vol-trim").await;
    until_the_flush(&scene).await;
    for node in &scene.cluster.nodes {
        node.faults().once(Point::DiskFlush, Action::Fail);
    }
    scene.cluster.nodes[0].faults().lift(Point::RestoreStepDone);
    scene.fails("", 0).await;
    assert!(scene.cluster.nodes.iter().all(|node| node.faults().is_spent(Point::DiskFlush)), "not all were flushed");
    let entries = scene.cluster.status(VOLUME).await;
    assert!(entries.iter().all(|entry| !entry.error.is_empty() && entry.last_restored != scene.points[1].backup));
    let snapshot = &scene.points[0].snapshot;
    assert_eq!(scene.cluster.get(VOLUME).await.snapshots.keys().collect::<Vec<_>>(), [snapshot]);
    for index in BOTH {
        assert_eq!(scene.snapshots_of(index).await, std::slice::from_ref(snapshot));
    }
    back_to_the_first_and_on(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_a_restores_snapshot_that_is_there_and_not_durable_is_no_point_to_publish() {
    let scene = Scene::start("vol-trim").await;
    scene.restore(0).await;
    let faults = scene.cluster.nodes[0].faults();
    faults.once(Point::RestoreFlushed, Action::Block);
    scene.start_restore(1).await.expect("the restore starts");
    faults.blocked(Point::RestoreFlushed).await;
    for node in &scene.cluster.nodes {
        node.faults().once(Point::DiskFlush, Action::Fail);
    }
    faults.lift(Point::RestoreFlushed);
    scene.fails("flush", 0).await;
    assert!(scene.cluster.nodes.iter().all(|node| node.faults().is_spent(Point::DiskFlush)), "not all were flushed");
    assert_eq!(scene.recreate("").await.state, RUNNING);
    scene.stands_at(0, &BOTH).await;
}

/// Where both members failed, one of them is out for good. The other goes back to the last good point, and on from it.
async fn back_to_the_first_and_on(scene: &Scene) {
    assert_eq!(scene.recreate("").await.state, RUNNING);
    let mut survivors = Vec::new();
    for index in BOTH {
        match scene.mode(&replica(index)).await == wire::ReplicaMode::Rw as i32 {
            true => survivors.push(index),
            false => scene.remove(index).await,
        }
    }
    scene.stands_at(0, &survivors).await;
    scene.start_restore(1).await.expect("the restore starts");
    scene.proven(1, &survivors).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn longhorn_12830_a_member_that_fails_a_write_is_out_and_the_restore_completes_on_the_other() {
    let scene = Scene::start("vol-trim").await;
    scene.restore(0).await;
    scene.cluster.nodes[1].faults().once(Point::ReplicaWrite, Action::Fail);
    scene.start_restore(1).await.expect("the restore starts");
    scene.proven(1, &[0]).await;
    let entries = scene.cluster.status(VOLUME).await;
    let out = entries.iter().find(|entry| entry.replica_name == replica(1)).expect("it is listed");
    assert_eq!((out.state.as_str(), out.last_restored.as_str()), ("error", ""));
    assert!(out.error.contains(&replica(1)), "{out:?}");
    refused(scene.start_restore(0).await, Code::FailedPrecondition, &replica(1));

    // What the one that is out remembers of the restore must not stand in the way of the other.
    assert_eq!(scene.recreate("").await.state, RUNNING);
    scene.stands_at(1, &[0]).await;
    let engine = scene.recreate("spdk-tcp-nvmf").await;
    assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), (RUNNING, ""));
    assert_eq!(engine.replica_mode_map[&replica(1)], wire::ReplicaMode::Err as i32);
    assert!(scene.cluster.read(&engine).await == scene.points[1].image, "the volume is not at the restored point");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_fails_the_flush_is_out_and_the_restore_completes_on_the_other() {
    let scene = Scene::start("vol-trim").await;
    until_the_flush(&scene).await;
    let faults = scene.cluster.nodes[0].faults();
    faults.once(Point::DiskFlush, Action::Fail);
    faults.lift(Point::RestoreStepDone);
    scene.proven(1, &[1]).await;
    assert!(faults.is_spent(Point::DiskFlush));
    assert_eq!(scene.mode(&replica(0)).await, wire::ReplicaMode::Err as i32);
    assert_eq!(scene.recreate("").await.state, RUNNING);
    scene.stands_at(1, &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn write_errors_on_all_members_fail_the_restore_and_leave_nothing_stale() {
    let scene = Scene::start("vol-trim").await;
    scene.restore(0).await;
    for node in &scene.cluster.nodes {
        node.faults().always(Point::ReplicaWrite, Action::Fail);
    }
    scene.start_restore(1).await.expect("the restore starts");
    scene.fails("", 0).await;
    let entries = scene.cluster.status(VOLUME).await;
    assert!(entries.iter().all(|entry| !entry.error.is_empty() && entry.last_restored != scene.points[1].backup));
    for node in &scene.cluster.nodes {
        node.faults().clear();
    }
    back_to_the_first_and_on(&scene).await;
}

/// The node of a member is gone, from the blocks to the proof; or the member is taken off the list.
#[tokio::test(flavor = "multi_thread")]
async fn longhorn_13869_a_member_lost_at_any_phase_is_out_and_the_restore_completes_on_the_other() {
    let mut scene = Scene::start("vol-trim").await;
    let phases =
        [Point::RestoreStepDone, Point::RestoreFlushed, Point::RestoreSnapshotsTaken, Point::RestoreMarkedComplete];
    for phase in phases {
        scene.cluster.nodes[0].faults().once(phase, Action::Block);
        scene.start_restore(0).await.expect("the restore starts");
        scene.cluster.nodes[0].faults().blocked(phase).await;
        scene.cluster.nodes[1].kill9();
        scene.cluster.nodes[0].faults().lift(phase);
        scene.cluster.restored(VOLUME).await;
        scene.cluster.nodes[1].start_again().await;
        ready(&scene.cluster.nodes[1]).await;
        scene.proven(0, &[0]).await;
        scene.replace_both().await;
    }
    let faults = scene.cluster.nodes[0].faults();
    faults.once(Point::RestoreStepDone, Action::Block);
    scene.start_restore(0).await.expect("the restore starts");
    faults.blocked(Point::RestoreStepDone).await;
    scene.remove(1).await;
    faults.lift(Point::RestoreStepDone);
    scene.proven(0, &[0]).await;
    assert_eq!(scene.cluster.status(VOLUME).await.len(), 1);
}

/// A backup of a volume that is written to by a client is no base any more, whatever was restored once.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_has_written_is_gone_after_the_next_restore() {
    let scene = Scene::start("vol-legacy").await;
    scene.restore(0).await;
    let engine = scene.recreate("spdk-tcp-nvmf").await;
    scene.cluster.write(&engine, scene.size - 4096, &pattern(7, 4096, 4096)).await;
    assert_eq!(scene.recreate("").await.state, RUNNING);
    assert!(scene.cluster.status(VOLUME).await.iter().all(|entry| entry.last_restored.is_empty()));
    scene.start_restore(0).await.expect("the restore starts");
    scene.proven(0, &BOTH).await;
}
