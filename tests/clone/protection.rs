//! A source is kept while it has linked clones; what was made for them goes with the last one.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::refused;
use crate::scene::{BOTH, SNAPSHOT, Scene, engine, replica};

fn order(replica: &str, snapshot: &str) -> wire::SnapshotRequest {
    wire::SnapshotRequest { name: replica.into(), snapshot_name: snapshot.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_a_replica_with_linked_clones_are_not_deleted_and_the_clones_are_named() {
    let mut scene = Scene::start().await;
    scene.linked("one", &BOTH).await;
    scene.linked("two", &[1]).await;
    scene.client.work().await;
    scene.snapshot("src", "s2").await;
    let source = scene.client.image();

    refused(scene.delete_snapshot("src", SNAPSHOT).await, Code::FailedPrecondition, "one-r-00000000");
    let both = scene.cluster.nodes[1].spdk().replica_snapshot_delete(order(&replica("src", 1), SNAPSHOT)).await;
    refused(both, Code::FailedPrecondition, "one-r-00000001, two-r-00000001; delete them first");
    scene.source_has(&[SNAPSHOT, "s2"]).await;

    // A purge leaves it, whoever made it; what is above and below it is merged as ever.
    scene.delete_snapshot("src", "s2").await.expect("a snapshot above can go");
    scene.cluster.nodes[0].spdk().engine_snapshot_purge(order(&engine("src"), "")).await.expect("a purge");
    assert!(scene.read("one").await == scene.image, "the clone changed with its source");
    assert!(scene.read("src").await == source, "the source changed");

    // Its engine gone, the replica still is not deleted, and goes on as if it had not been asked.
    scene.cluster.delete_engine("src").await;
    for (node, clones) in [(0, "one-r-00000000"), (1, "one-r-00000001, two-r-00000001")] {
        refused(scene.delete_replica("src", node).await, Code::FailedPrecondition, clones);
        let found = scene.replica("src", node).await;
        assert_eq!((found.state.as_str(), found.error_msg.as_str()), ("running", ""));
    }
    assert!(scene.read("one").await == scene.image, "the clone changed with its source");

    // With a clone on one replica alone, the other keeps the snapshot as well.
    scene.delete_volume("one", &BOTH).await;
    let addresses = scene.cluster.replicas("src", crate::scene::SIZE).await;
    scene.cluster.engine("src", crate::scene::SIZE, "", addresses).await;
    refused(scene.delete_snapshot("src", SNAPSHOT).await, Code::FailedPrecondition, "two-r-00000001");
    scene.source_has(&[SNAPSHOT]).await;
    scene.cluster.delete_engine("src").await;
    assert_eq!((scene.clones(0).await, scene.clones(1).await), (0, 1));
    scene.delete_replica("src", 0).await.expect("its last clone is gone");
    refused(scene.delete_replica("src", 1).await, Code::FailedPrecondition, "two-r-00000001");
    scene.delete_volume("two", &[1]).await;
    let snapshot = scene.cluster.nodes[1].spdk().replica_snapshot_delete(order(&replica("src", 1), SNAPSHOT)).await;
    snapshot.expect("the snapshot can go before the replica");
    scene.delete_replica("src", 1).await.expect("its last clone is gone");
    for node in BOTH {
        let request = wire::DiskGetRequest { disk_name: "disk".into(), ..Default::default() };
        let disk = scene.cluster.nodes[node].spdk().disk_get(request).await.expect("the disk").into_inner();
        assert_eq!(disk.free_size, disk.total_size, "something is left over on node {node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn source_and_clone_are_reverted_hashed_and_purged_without_touching_each_other() {
    let mut scene = Scene::start().await;
    scene.client.work().await;
    scene.snapshot("src", "s2").await;
    scene.cluster.delete_engine("src").await;
    let addresses = scene.cluster.replicas("src", crate::scene::SIZE).await;
    scene.cluster.engine("src", crate::scene::SIZE, "", addresses).await;
    scene.linked("one", &BOTH).await;
    let mut image = scene.image.clone();
    scene.write("one", 0, &vec![1; 1 << 20], &mut image).await;
    scene.snapshot("one", "c1").await;

    // The source goes back to before, so that the cloned snapshot has no child but its clones.
    let mut spdk = scene.cluster.nodes[0].spdk();
    spdk.engine_snapshot_revert(order(&engine("src"), SNAPSHOT)).await.expect("a revert of the source");
    spdk.engine_snapshot_delete(order(&engine("src"), "s2")).await.expect("the other branch is deleted");
    spdk.engine_snapshot_purge(order(&engine("src"), "")).await.expect("a purge of the source");
    refused(scene.delete_snapshot("src", SNAPSHOT).await, Code::FailedPrecondition, "one-r-0000000");
    assert!(scene.read("one").await == image, "the clone changed with its source");

    let at_c1 = image.clone();
    scene.write("one", 4 << 20, &vec![2; 1 << 20], &mut image).await;
    scene.cluster.delete_engine("one").await;
    for node in BOTH {
        let name = replica("one", node);
        let mut spdk = scene.cluster.nodes[node].spdk();
        let hash = wire::SnapshotHashRequest { name: name.clone(), snapshot_name: "c1".into(), rehash: false };
        spdk.replica_snapshot_hash(hash).await.expect("hashing begins");
        spdk.replica_snapshot_revert(order(&name, "c1")).await.expect("a revert of the clone");
        spdk.replica_snapshot_delete(order(&name, "c1")).await.expect("its only snapshot is merged");
        let found = scene.replica("one", node).await;
        assert!(found.linked_clone_info.is_some() && found.snapshots.is_empty(), "{found:?}");
        let address = format!("{}:{}", found.ip, found.port_start);
        assert!(crate::cluster::read_replica(&name, &address).await == at_c1, "the clone is not what it was at c1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_one_replica_is_backed_up_from_stays_on_all_until_that_is_over() {
    let scene = Scene::start().await;
    let faults = scene.cluster.nodes[0].faults();
    faults.always(Point::BackupReads, Action::Block);
    let address = scene.backup("src", SNAPSHOT, "b1").await;
    faults.blocked(Point::BackupReads).await;
    refused(scene.delete_snapshot("src", SNAPSHOT).await, Code::FailedPrecondition, "backup b1");
    let direct = scene.cluster.nodes[0].spdk().replica_snapshot_delete(order(&replica("src", 0), SNAPSHOT)).await;
    refused(direct, Code::FailedPrecondition, "backup b1");
    scene.source_has(&[SNAPSHOT]).await;

    // Others come and go as ever.
    scene.snapshot("src", "s2").await;
    scene.delete_snapshot("src", "s2").await.expect("nobody reads it");
    faults.lift(Point::BackupReads);
    scene.backup_is_complete("src", "b1", &address).await;
    scene.delete_snapshot("src", SNAPSHOT).await.expect("nobody reads it any more");
    scene.source_has(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_begins_to_be_backed_up_under_the_deletion_keeps_the_snapshot_and_its_place_in_the_mirror() {
    let scene = Scene::start().await;
    let faults = scene.cluster.nodes[0].faults();
    faults.always(Point::BackupReads, Action::Block);
    faults.always(Point::SnapshotDeletionBegins, Action::Block);
    let mut spdk = scene.cluster.nodes[0].spdk();
    let deletion =
        tokio::spawn(async move { spdk.engine_snapshot_delete(order(&engine("src"), SNAPSHOT)).await.map(drop) });
    faults.blocked(Point::SnapshotDeletionBegins).await;
    let address = scene.backup("src", SNAPSHOT, "b1").await;
    faults.blocked(Point::BackupReads).await;
    faults.lift(Point::SnapshotDeletionBegins);
    refused(deletion.await.expect("no panic"), Code::FailedPrecondition, "backup b1");
    let found = scene.cluster.get("src").await;
    assert!(found.replica_mode_map.values().all(|mode| *mode == i32::from(wire::ReplicaMode::Rw)), "{found:?}");
    assert!(scene.replica("src", 0).await.snapshots.contains_key(SNAPSHOT));
    assert!(!scene.replica("src", 1).await.snapshots.contains_key(SNAPSHOT), "the other was to delete it first");

    faults.lift(Point::BackupReads);
    scene.backup_is_complete("src", "b1", &address).await;
    scene.delete_snapshot("src", SNAPSHOT).await.expect("the deletion is repeated");
    scene.source_has(&[]).await;
}
