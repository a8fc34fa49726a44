//! Nodes killed at each step of a linked clone: the next start finishes it or leaves nothing of it.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;

use crate::cluster::{create_replica, read_replica, ready};
use crate::scene::{SIZE, SNAPSHOT, Scene, replica};

fn order(scene: &Scene) -> wire::ReplicaSnapshotCloneDstStartRequest {
    wire::ReplicaSnapshotCloneDstStartRequest {
        name: replica("one", 1),
        snapshot_name: SNAPSHOT.into(),
        src_replica_name: replica("src", 1),
        src_replica_address: format!("{}:1", scene.cluster.nodes[1].ip()),
        clone_mode: wire::CloneMode::LinkedClone.into(),
    }
}

async fn start_again(scene: &mut Scene) {
    let node = &mut scene.cluster.nodes[1];
    node.killed().await;
    node.faults().clear();
    node.start_again().await;
    ready(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_it_makes_or_deletes_a_linked_clone_leaves_nothing_of_it() {
    let mut scene = Scene::start().await;
    scene.cluster.delete_engine("src").await;
    let address = create_replica(&scene.cluster.nodes[1], &replica("one", 1), SIZE).await;
    for point in
        [Point::CloneEntryPointBegun, Point::CloneEntryPointMade, Point::CloneEntryPointReady, Point::CloneHeadReady]
    {
        scene.cluster.nodes[1].faults().once(point, Action::Kill);
        let made = scene.cluster.nodes[1].spdk().replica_snapshot_clone_dst_start(order(&scene)).await;
        assert!(made.is_err(), "{point:?}: the node was to be killed");
        start_again(&mut scene).await;
        let found = scene.replica("one", 1).await;
        assert_eq!((found.state.as_str(), found.linked_clone_info, scene.clones(1).await), ("running", None, 0));
        let log = scene.cluster.nodes[1].log();
        assert!(log.contains("an entry point without a linked clone is removed"), "{point:?}");
    }

    let mut spdk = scene.cluster.nodes[1].spdk();
    spdk.replica_snapshot_clone_dst_start(order(&scene)).await.expect("the clone is made");
    assert!(read_replica(&replica("one", 1), &address).await == scene.image, "the clone is not the snapshot");
    scene.cluster.nodes[1].faults().once(Point::CloneDeleted, Action::Kill);
    assert!(scene.delete_replica("one", 1).await.is_err(), "the node was to be killed");
    start_again(&mut scene).await;
    assert_eq!(scene.clones(1).await, 0);
    let request =
        wire::SnapshotRequest { name: replica("src", 1), snapshot_name: SNAPSHOT.into(), ..Default::default() };
    let deleted = scene.cluster.nodes[1].spdk().replica_snapshot_delete(request).await;
    deleted.expect("nothing is based on the snapshot any more");
    scene.delete_replica("src", 1).await.expect("nor on the replica");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_on_the_way_to_a_linked_clone_is_undone_and_can_be_repeated() {
    let scene = Scene::start().await;
    let address = create_replica(&scene.cluster.nodes[1], &replica("one", 1), SIZE).await;
    let mut spdk = scene.cluster.nodes[1].spdk();
    for point in [Point::CloneEntryPointMade, Point::CloneEntryPointReady] {
        scene.cluster.nodes[1].faults().once(point, Action::Fail);
        assert!(spdk.replica_snapshot_clone_dst_start(order(&scene)).await.is_err(), "{point:?} was to fail");
        let found = scene.replica("one", 1).await;
        assert_eq!((found.state.as_str(), found.linked_clone_info, scene.clones(1).await), ("running", None, 0));
    }
    // As its source is told, which makes the same.
    let request = wire::ReplicaSnapshotCloneSrcStartRequest {
        name: replica("src", 1),
        snapshot_name: SNAPSHOT.into(),
        dst_replica_name: replica("one", 1),
        clone_mode: wire::CloneMode::LinkedClone.into(),
        ..Default::default()
    };
    spdk.replica_snapshot_clone_src_start(request).await.expect("the clone is made");
    spdk.replica_snapshot_clone_dst_start(order(&scene)).await.expect("the same again is fine");
    let request = wire::ReplicaSnapshotCloneSrcStatusCheckRequest {
        name: replica("src", 1),
        snapshot_name: SNAPSHOT.into(),
        dst_replica_name: replica("one", 1),
    };
    let status = spdk.replica_snapshot_clone_src_status_check(request).await.expect("a status").into_inner();
    assert_eq!((status.state.as_str(), status.error_msg.as_str()), ("complete", ""));
    let request =
        wire::ReplicaSnapshotCloneSrcFinishRequest { name: replica("src", 1), dst_replica_name: replica("one", 1) };
    spdk.replica_snapshot_clone_src_finish(request).await.expect("there is nothing to end");
    assert!(read_replica(&replica("one", 1), &address).await == scene.image, "the clone is not the snapshot");
}
