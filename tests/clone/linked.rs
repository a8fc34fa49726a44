//! A linked clone is a volume of its own: read and written alone, with snapshots, restarts and backups.

use corriente::wire::spdkrpc as wire;

use crate::cluster::ready;
use crate::scene::{BOTH, LIMIT, SIZE, SNAPSHOT, Scene, engine, replica};
use crate::support::client::connect;
use crate::support::wait::wait_until;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn all_replicas_of_a_linked_clone_are_made_at_once_and_it_is_read_and_written_alone() {
    let mut scene = Scene::start().await;
    scene.linked("one", &BOTH).await;
    scene.client.work().await;
    let mut image = scene.image.clone();
    assert!(scene.read("one").await == image, "the clone is not the source's snapshot");
    for node in BOTH {
        let found = scene.replica("one", node).await;
        let info = found.linked_clone_info.expect("it is linked");
        assert_eq!((info.source_replica_name, info.source_snapshot_name), (replica("src", node), SNAPSHOT.into()));
        let head = found.head.expect("a head");
        assert_eq!((head.parent.as_str(), head.actual_size, found.snapshots.len()), ("", 0, 0));
        assert_eq!(scene.clones(node).await, 1);
        let request = wire::ReplicaSnapshotCloneDstStatusCheckRequest { name: replica("one", node) };
        let status = scene.cluster.nodes[node].spdk().replica_snapshot_clone_dst_status_check(request).await;
        let status = status.expect("a status").into_inner();
        assert_eq!((status.is_cloning, status.state.as_str(), status.progress), (false, "complete", 100));
        assert_eq!((status.src_replica_name, status.snapshot_name), (replica("src", node), SNAPSHOT.into()));
    }
    let found = scene.cluster.get("one").await;
    assert!(found.replica_mode_map.values().all(|mode| *mode == i32::from(wire::ReplicaMode::Rw)), "{found:?}");
    scene.clone(scene.request("one", &BOTH)).await.expect("the same again is fine");

    // Written, trimmed and snapshotted, without the source noticing.
    let source = scene.client.image();
    scene.write("one", 3 * MIB, &vec![7; 2 * MIB], &mut image).await;
    scene.snapshot("one", "c1").await;
    let at_c1 = image.clone();
    let client = connect(&scene.cluster.get("one").await).await;
    client.deallocate(8 * MIB as u64, 8 * MIB as u64).await.expect("a trim");
    client.disconnect().await.expect("an orderly end");
    image[8 * MIB..16 * MIB].fill(0);
    scene.write("one", 20 * MIB, &vec![9; MIB], &mut image).await;
    assert!(scene.read("one").await == image, "what was trimmed shows the source");
    assert_eq!(scene.cluster.get("one").await.snapshots["c1"].parent, "");
    assert!(scene.read("src").await == source, "the source changed with its clone");

    // A second clone of the same snapshot, and one of the clone's own.
    scene.linked("two", &BOTH).await;
    assert_eq!(scene.clones(0).await, 2);
    assert!(scene.read("two").await == scene.image, "the second clone is not the snapshot");
    scene.empty("three", &BOTH).await;
    let mut request = scene.request("three", &BOTH);
    request.src_engine_name = engine("one");
    request.snapshot_name = "c1".into();
    for (destination, source) in &mut request.dst_replica_src_replica_pair_map {
        *source = destination.replace("three", "one");
    }
    scene.clone(request).await.expect("a clone of a clone");
    assert!(scene.read("three").await == at_c1, "a clone of a clone is not its snapshot");
    scene.client.check(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn linked_clones_are_there_again_after_both_nodes_were_killed() {
    let mut scene = Scene::start().await;
    scene.linked("one", &BOTH).await;
    let mut image = scene.image.clone();
    scene.write("one", 5 * MIB, &vec![5; MIB], &mut image).await;
    scene.snapshot("one", "c1").await;
    for node in &mut scene.cluster.nodes {
        node.kill9();
    }
    for node in &mut scene.cluster.nodes {
        node.start_again().await;
        ready(node).await;
    }
    wait_until(LIMIT, "the engine is up again", async || {
        let found = scene.cluster.get("one").await;
        if found.state == "running" { Ok(()) } else { Err(format!("{} {}", found.state, found.error_msg)) }
    })
    .await;
    assert!(scene.read("one").await == image, "the clone changed in the restart");
    for node in BOTH {
        let found = scene.replica("one", node).await;
        assert_eq!(found.linked_clone_info.expect("it is linked").source_replica_name, replica("src", node));
        assert_eq!(scene.clones(node).await, 1);
        let request = wire::ReplicaSnapshotCloneDstStatusCheckRequest { name: replica("one", node) };
        let status = scene.cluster.nodes[node].spdk().replica_snapshot_clone_dst_status_check(request).await;
        assert_eq!(status.expect("a status").into_inner().state, "complete");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_linked_clone_holds_all_that_it_shows() {
    let scene = Scene::start().await;
    scene.linked("one", &BOTH).await;
    let mut image = scene.image.clone();
    scene.write("one", 2 * MIB, &vec![3; MIB], &mut image).await;
    scene.snapshot("one", "c1").await;
    let at_c1 = image.clone();
    scene.backed_up("one", "c1", "backup-1").await;
    scene.write("one", 12 * MIB, &vec![4; MIB], &mut image).await;
    scene.snapshot("one", "c2").await;
    scene.backed_up("one", "c2", "backup-2").await;

    scene.cluster.engine("dr", SIZE, "", scene.cluster.replicas("dr", SIZE).await).await;
    for (backup, image) in [("backup-1", &at_c1), ("backup-2", &image)] {
        scene.cluster.start_restore("dr", scene.cluster.url("one", backup)).await.expect("the restore starts");
        for entry in scene.cluster.restored("dr").await {
            assert_eq!((entry.state.as_str(), entry.error.as_str()), ("complete", ""));
        }
        for node in BOTH {
            let found = scene.replica("dr", node).await;
            let address = format!("{}:{}", found.ip, found.port_start);
            let read = crate::cluster::read_replica(&found.name, &address).await;
            assert!(read == *image, "{backup} does not hold the clone");
        }
    }

    // Restored into a clone, whose source must not show through where the backup has nothing.
    scene.empty("thin", &BOTH).await;
    let mut image = vec![0; SIZE as usize];
    scene.write("thin", 6 * MIB, &vec![6; MIB], &mut image).await;
    scene.snapshot("thin", "t1").await;
    scene.backed_up("thin", "t1", "backup-3").await;
    let addresses = scene.linked("onto", &BOTH).await;
    scene.cluster.delete_engine("onto").await;
    scene.cluster.engine("onto", SIZE, "", addresses.clone()).await;
    scene.cluster.start_restore("onto", scene.cluster.url("thin", "backup-3")).await.expect("the restore starts");
    for entry in scene.cluster.restored("onto").await {
        assert_eq!((entry.state.as_str(), entry.error.as_str()), ("complete", ""));
    }
    for (name, address) in &addresses {
        assert!(crate::cluster::read_replica(name, address).await == image, "the source shows through in {name}");
    }
}
