//! An attach that does not answer exactly one name of a bdev, the root of longhorn#10139: when an engine is created, and
//! when it is created again around a restore.

use std::collections::BTreeMap;

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{create_replica, refused};
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
        replace_both(&mut scene).await;
        scene.restore((round + 1) % 2).await;
    }
}

async fn replace_both(scene: &mut Scene) {
    scene.cluster.delete_engine(VOLUME).await;
    for (index, node) in scene.cluster.nodes.iter().enumerate() {
        let request = wire::ReplicaDeleteRequest { name: replica(index), cleanup_required: true };
        node.spdk().replica_delete(request).await.expect("the replica is deleted");
        scene.replicas.insert(replica(index), create_replica(node, &replica(index), scene.size).await);
    }
    let engine = scene.create("").await;
    assert_eq!(engine.state, "running");
}
