//! A replica that is deleted while it is restored into by itself: the restore is cancelled and nothing of it is left.

use corriente::faults::{Action, Point};
use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;
use tonic::{Code, Status};

use crate::cluster::{create_replica, refused};
use crate::scene::{Scene, VOLUME, replica};
use crate::single::{stands_at, start, status};

async fn delete(scene: &Scene) -> Result<(), Status> {
    let request = wire::ReplicaDeleteRequest { name: replica(0), cleanup_required: true };
    scene.cluster.nodes[0].spdk().replica_delete(request).await.map(drop)
}

async fn free(scene: &Scene) -> i64 {
    let request = wire::DiskGetRequest { disk_name: "disk".into(), ..Default::default() };
    scene.cluster.nodes[0].spdk().disk_get(request).await.expect("the disk").into_inner().free_size
}

/// As if the replica had never been: no object, no lvol, no space, and nobody holds the backups.
async fn nothing_is_left(scene: &Scene, free_before: i64) {
    let spdk = || scene.cluster.nodes[0].spdk();
    let replicas = spdk().replica_list(()).await.expect("a list").into_inner().replicas;
    assert!(replicas.is_empty(), "{replicas:?}");
    let request = wire::ReplicaRestoreStatusRequest { replica_name: replica(0) };
    refused(spdk().replica_restore_status(request).await, Code::NotFound, &replica(0));
    let orphans = scene.cluster.nodes[0].corriente().orphan_list(own::OrphanListRequest::default()).await;
    assert!(orphans.expect("a list").into_inner().orphans.is_empty(), "an lvol is left");
    assert_eq!(free(scene).await, free_before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_deleted_while_it_is_restored_into_cancels_that_and_leaves_nothing() {
    let mut scene = Scene::start_with("pvc-5f2d1c7e-lz4", |node| node.set("limits.restore_queue_depth", 1)).await;
    scene.cluster.delete_engine(VOLUME).await;
    delete(&scene).await.expect("the replica is deleted");
    let free_before = free(&scene).await;
    let again = async |scene: &mut Scene| {
        let address = create_replica(&scene.cluster.nodes[0], &replica(0), scene.size).await;
        scene.replicas.insert(replica(0), address);
    };

    // In the midst of the blocks: the deletion waits for the one that is under way.
    again(&mut scene).await;
    start(&scene, 0).await.expect("the restore starts");
    stands_at(&scene, 0).await;
    scene.cluster.nodes[0].faults().always(Point::RestoreStepDone, Action::Block);
    start(&scene, 1).await.expect("the restore starts");
    scene.cluster.nodes[0].faults().blocked(Point::RestoreStepDone).await;
    let mut spdk = scene.cluster.nodes[0].spdk();
    let request = wire::ReplicaDeleteRequest { name: replica(0), cleanup_required: true };
    let deletion = tokio::spawn(async move { spdk.replica_delete(request).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!deletion.is_finished(), "a block is under way");
    scene.cluster.nodes[0].faults().lift(Point::RestoreStepDone);
    refused(deletion.await.expect("no panic"), Code::FailedPrecondition, "cancelled; repeat the deletion");
    let cancelled = status(&scene).await;
    assert_eq!((cancelled.state.as_str(), cancelled.is_restoring), ("canceled", false));
    delete(&scene).await.expect("the second call deletes it, at once");
    nothing_is_left(&scene, free_before).await;

    // Before the first block: the restore does not touch what it was to go to.
    again(&mut scene).await;
    scene.cluster.nodes[0].faults().once(Point::RestoreClaimed, Action::Block);
    let mut spdk = scene.cluster.nodes[0].spdk();
    let request =
        wire::ReplicaBackupRestoreRequest { backup_url: scene.url(0), replica_name: replica(0), ..Default::default() };
    let started = tokio::spawn(async move { spdk.replica_backup_restore(request).await });
    scene.cluster.nodes[0].faults().blocked(Point::RestoreClaimed).await;
    refused(delete(&scene).await, Code::FailedPrecondition, "cancelled; repeat the deletion");
    delete(&scene).await.expect("the second call deletes it, at once");
    scene.cluster.nodes[0].faults().lift(Point::RestoreClaimed);
    refused(started.await.expect("no panic"), Code::FailedPrecondition, "terminating");
    nothing_is_left(&scene, free_before).await;

    // What holds the backups was given back: the same can be restored again.
    again(&mut scene).await;
    start(&scene, 1).await.expect("the restore starts");
    stands_at(&scene, 1).await;
}
