//! The engine's node ends by SIGKILL at each phase of a restore: the volume comes back at the old point or at the new
//! one, never between, and says which; and the restore can be repeated. The same for an error at each phase, without a
//! restart.

use corriente::faults::Action::{Block, Fail, Kill, Panic};
use corriente::faults::{Order, Point};
use tonic::Code;

use crate::cluster::refused;
use crate::scene::{BOTH, Scene, VOLUME};

/// Where the volume stands after the crash.
#[derive(Clone, Copy, PartialEq)]
enum After {
    Old,
    New,
}

const ALL: u32 = u32::MAX;

fn kill(skip: u32) -> Order {
    Order { action: Kill, skip, times: 1 }
}

fn block(skip: u32, times: u32) -> Order {
    Order { action: Block, skip, times }
}

/// Restores between two points, back and forth, and kills the node at each phase.
async fn killed_at_each(phases: &[(&[(Point, Order)], After)]) {
    let mut scene = Scene::start("vol-trim").await;
    scene.restore(0).await;
    let mut stands = 0;
    for (orders, after) in phases {
        println!("{orders:?}");
        let next = 1 - stands;
        for (point, order) in *orders {
            scene.cluster.nodes[0].faults().order(*point, *order);
        }
        // The node may be gone before it has answered.
        let _ = scene.start_restore(next).await;
        scene.come_back().await;
        let engine = scene.create("").await;
        assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
        if *after == After::Old {
            scene.stands_at(stands, &BOTH).await;
            scene.restore(next).await;
        }
        scene.stands_at(next, &BOTH).await;
        refused(scene.start_restore(next).await, Code::FailedPrecondition, "already restored backup");
        stands = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_node_killed_before_the_image_is_whole_comes_back_at_the_old_point() {
    let before_blocks: &[(Point, Order)] = &[(Point::RestoreClaimed, kill(0))];
    killed_at_each(&[
        (before_blocks, After::Old),
        (&[(Point::MarkerBegins, block(1, ALL)), (Point::MarkerStored, kill(0))], After::Old),
        (&[(Point::MarkerBegins, block(0, 1)), (Point::MarkerStored, kill(0))], After::Old),
        (&[(Point::RestoreMarked, kill(0))], After::Old),
        (&[(Point::RestoreStepBegins, block(1, ALL)), (Point::RestoreStepDone, kill(0))], After::Old),
        (&[(Point::RestoreFlushed, kill(0))], After::Old),
    ])
    .await;
}

/// No handler's panic: what an I/O left half-done must not be served, so the node ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_panics_in_a_restore_ends_and_comes_back_at_the_old_point() {
    let panic = Order { action: Panic, skip: 0, times: 1 };
    killed_at_each(&[(&[(Point::RestoreMarked, panic)], After::Old), (&[(Point::RestoreStepDone, panic)], After::Old)])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_node_killed_while_the_new_point_is_made_comes_back_at_the_old_or_the_new_point() {
    killed_at_each(&[
        (&[(Point::SnapshotBegins, block(1, ALL)), (Point::SnapshotTaken, kill(0))], After::Old),
        (&[(Point::SnapshotBegins, block(0, 1)), (Point::SnapshotTaken, kill(0))], After::Old),
        (&[(Point::RestoreSnapshotsTaken, kill(0))], After::Old),
        // Each replica has passed twice when the restore is marked as complete on one of them.
        (&[(Point::MarkerBegins, block(3, ALL)), (Point::MarkerStored, kill(2))], After::New),
        (&[(Point::MarkerBegins, block(2, 1)), (Point::MarkerStored, kill(2))], After::New),
        (&[(Point::RestoreMarkedComplete, kill(0))], After::New),
        (&[(Point::RestoreEarlierDeleted, kill(0))], After::New),
        (&[(Point::RestoreProven, kill(0))], After::New),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_first_restore_was_cut_short_is_not_served_until_it_is_restored_again() {
    let mut scene = Scene::start("vol-trim").await;
    for point in [Point::RestoreStepDone, Point::RestoreSnapshotsTaken] {
        scene.cluster.nodes[0].faults().order(point, kill(0));
        let _ = scene.start_restore(0).await;
        scene.come_back().await;
        let engine = scene.recreate("spdk-tcp-nvmf").await;
        assert_eq!(engine.state, "error");
        assert!(engine.error_msg.contains("first restore was interrupted"), "{}", engine.error_msg);
        assert!(engine.endpoint.is_empty(), "a mixture is served at {}", engine.endpoint);
        assert_eq!(scene.recreate("").await.state, "running");
        let entries = scene.cluster.status(VOLUME).await;
        assert!(entries.iter().all(|entry| entry.last_restored.is_empty() && !entry.is_restoring), "{entries:?}");
    }
    scene.restore(0).await;
    let engine = scene.recreate("spdk-tcp-nvmf").await;
    assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
    assert!(scene.cluster.read(&engine).await == scene.points[0].image, "the volume is not at the restored point");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_at_any_phase_says_so_and_can_be_repeated_at_once() {
    let fail = |skip, times| Order { action: Fail, skip, times };
    let scene = Scene::start("vol-trim").await;
    scene.restore(0).await;
    let phases = [
        (Point::MarkerStored, fail(0, 2)),
        (Point::RestoreStepDone, fail(0, 1)),
        (Point::SnapshotTaken, fail(0, 2)),
        (Point::MarkerStored, fail(2, 2)),
        (Point::RestoreEarlierDeleted, fail(0, 1)),
        (Point::RestoreProven, fail(0, 1)),
    ];
    for (round, (point, order)) in phases.into_iter().enumerate() {
        let (now, next) = (round % 2, (round + 1) % 2);
        scene.cluster.nodes[0].faults().order(point, order);
        scene.start_restore(next).await.expect("the restore starts");
        scene.fails(point.file_name(), now).await;
        scene.are_members(&BOTH).await;
        scene.restore(next).await;
    }
}
