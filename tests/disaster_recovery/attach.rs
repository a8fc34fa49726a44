//! An attach that does not answer exactly one name of a bdev, the root of longhorn#10139: when an engine is created, and
//! when it is created again around a restore.

use std::collections::BTreeMap;

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::refused;
use crate::scene::{Scene, VOLUME, replica};

const FAULTS: [Point; 3] = [Point::AttachNoName, Point::AttachTwoNames, Point::AttachEmptyName];

/// A volume whose only replica is on the other node, so that nothing stands in for it.
#[tokio::test(flavor = "multi_thread")]
async fn longhorn_10139_an_attach_without_one_name_fails_names_the_replica_and_succeeds_when_repeated() {
    let mut scene = Scene::start("vol-legacy").await;
    scene.cluster.delete_engine(VOLUME).await;
    scene.replicas = BTreeMap::from([(replica(1), scene.replicas[&replica(1)].clone())]);
    for (round, fault) in FAULTS.into_iter().enumerate() {
        scene.cluster.nodes[0].faults().once(fault, Action::Fail);
        fails_naming(&scene, fault).await;
        scene.recreate("").await;
        if round > 0 {
            // As it was before the failed restore and the failed attach.
            scene.stands_at((round - 1) % 2, &[1]).await;
        }
        scene.start_restore(round % 2).await.expect("the restore starts");
        scene.proven(round % 2, &[1]).await;

        // What a restore that was cut short has left is not lost by an attach that fails after it.
        scene.cluster.nodes[0].faults().once(Point::RestoreStepDone, Action::Fail);
        scene.start_restore((round + 1) % 2).await.expect("the restore starts");
        scene.fails("restore-step-done", round % 2).await;
        scene.cluster.delete_engine(VOLUME).await;
    }
}

async fn fails_naming(scene: &Scene, fault: Point) {
    let engine = scene.create("").await;
    assert!(scene.cluster.nodes[0].faults().is_spent(fault), "{fault:?} was not met");
    assert_eq!(engine.state, "error");
    assert!(engine.error_msg.contains(&replica(1)), "{fault:?}: {:?}", engine.error_msg);
    assert!(engine.snapshots.is_empty());
    refused(scene.start_restore(0).await, Code::FailedPrecondition, &replica(1));
    for entry in scene.cluster.status(VOLUME).await {
        assert!(
            !entry.is_restoring && entry.last_restored.is_empty() && entry.error.contains(&replica(1)),
            "{entry:?}"
        );
    }
}

/// With another replica in sync the engine starts, as `engine-behaviour` §6.1 has it: the one is ERR, the others RW.
#[tokio::test(flavor = "multi_thread")]
async fn longhorn_10139_a_mirror_starts_without_the_replica_whose_attach_named_no_bdev() {
    let mut scene = Scene::start("vol-legacy").await;
    scene.restore(0).await;
    for (round, fault) in FAULTS.into_iter().enumerate() {
        scene.cluster.nodes[0].faults().once(fault, Action::Fail);
        scene.recreate("").await;
        scene.stands_at(round % 2, &[0]).await;
        assert_eq!(scene.mode(&replica(1)).await, wire::ReplicaMode::Err as i32);
        let entries = scene.cluster.status(VOLUME).await;
        let out = entries.iter().find(|entry| entry.replica_name == replica(1)).expect("it is listed");
        assert!(out.error.contains(&replica(1)) && out.error.contains("attach"), "{out:?}");
        refused(scene.start_restore((round + 1) % 2).await, Code::FailedPrecondition, &replica(1));

        // It missed a generation, so only a new replica takes its place, and one of a volume that is made anew.
        scene.replace_both().await;
        scene.restore((round + 1) % 2).await;
    }
}

/// H1, H2: what takes the mirror down and up again keeps no name from before, and an expansion attaches nothing anew.
#[tokio::test(flavor = "multi_thread")]
async fn h1_h2_an_attach_that_fails_in_a_revert_is_an_error_that_names_the_replica_and_an_expansion_needs_none() {
    let mut scene = Scene::start("vol-legacy").await;
    scene.cluster.delete_engine(VOLUME).await;
    scene.replicas = BTreeMap::from([(replica(1), scene.replicas[&replica(1)].clone())]);
    scene.create("").await;
    scene.start_restore(0).await.expect("the restore starts");
    scene.proven(0, &[1]).await;
    let (faults, mut client) = (scene.cluster.nodes[0].faults(), scene.cluster.nodes[0].spdk());

    faults.once(Point::AttachEmptyName, Action::Fail);
    let revert = wire::SnapshotRequest {
        name: format!("{VOLUME}-e-0"),
        snapshot_name: scene.points[0].snapshot.clone(),
        ..Default::default()
    };
    let reverted = client.engine_snapshot_revert(revert.clone()).await.expect_err("the attach fails");
    assert!(reverted.message().contains(&replica(1)), "{reverted}");
    assert_eq!(scene.cluster.get(VOLUME).await.state, "error");
    assert_eq!(scene.recreate("").await.state, "running");
    client.engine_snapshot_revert(revert).await.expect("a repeated revert succeeds");
    scene.are_members(&[1]).await;

    faults.once(Point::AttachNoName, Action::Fail);
    let expand = wire::EngineExpandRequest { name: format!("{VOLUME}-e-0"), size: scene.size + (1 << 20) };
    scene.size = expand.size;
    client.engine_expand(expand).await.expect("the volume grows with what it has");
    assert!(!faults.is_spent(Point::AttachNoName), "the expansion attached a replica");
    scene.are_members(&[1]).await;
}
