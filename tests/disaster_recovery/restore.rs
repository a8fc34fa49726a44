//! Longhorn's own backups into a mirror of one local and one remote replica.

use tonic::Code;

use crate::cluster::{Cluster, LIMIT, ready, refused};
use crate::support::wait::wait_until;

/// Exactly the requested members with open bdevs, exactly the one snapshot, on the engine and on every replica, at the
/// first poll that shows the backup as restored.
async fn proven(cluster: &Cluster, volume: &str, backup: &str, snapshot: &str) {
    let entries = cluster.restored(volume).await;
    let engine = cluster.get(volume).await;
    assert_eq!(entries.len(), 2);
    for entry in &entries {
        assert_eq!((entry.state.as_str(), entry.error.as_str(), entry.progress), ("complete", "", 100));
        assert_eq!(entry.last_restored, backup);
    }
    let expected = format!("restore-{snapshot}");
    assert_eq!(engine.snapshots.keys().collect::<Vec<_>>(), [&expected]);
    assert_eq!(engine.snapshots[&expected].children.keys().collect::<Vec<_>>(), ["volume-head"]);
    assert_eq!(engine.head.expect("a head").parent, expected);
    assert_eq!(cluster.replica_snapshots(volume).await, [[expected.clone()], [expected]]);
    let members = cluster.mirror(volume).await;
    assert_eq!(members.len(), 2);
    for member in members {
        assert!(!member.bdev_name.is_empty());
        assert_eq!(member.mode, 1, "{} is not RW", member.replica_name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn longhorn_10139_names_and_snapshots_are_true_after_full_and_incremental_restores() {
    let cluster = Cluster::start().await;
    let source = cluster.fixtures.volume("pvc-5f2d1c7e-lz4");
    let size = source.restore_size;
    let replicas = cluster.replicas("dr", size).await;
    cluster.engine("dr", size, "", replicas.clone()).await;
    assert!(cluster.status("dr").await.iter().all(|entry| !entry.is_restoring && entry.last_restored.is_empty()));
    for backup in &source.backups {
        cluster.start_restore("dr", cluster.url(&source.name, &backup.name)).await.expect("the restore starts");
        proven(&cluster, "dr", &backup.name, &backup.snapshot).await;
        let again = cluster.start_restore("dr", cluster.url(&source.name, &backup.name)).await;
        refused(again, Code::FailedPrecondition, "already restored backup");
        proven(&cluster, "dr", &backup.name, &backup.snapshot).await;
    }
    cluster.delete_engine("dr").await;
    let engine = cluster.engine("dr", size, "spdk-tcp-nvmf", replicas).await;
    let last = source.backups.last().expect("the fixture has backups");
    assert!(cluster.read(&engine).await == source.image(&last.name), "the restored bytes differ from the image");
    let with_frontend = cluster.start_restore("dr", cluster.url(&source.name, &source.backups[0].name)).await;
    refused(with_frontend, Code::FailedPrecondition, "non-empty frontend");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_range_reads_as_zeroes_after_an_incremental_restore() {
    let cluster = Cluster::start().await;
    let source = cluster.fixtures.volume("vol-trim");
    let size = source.restore_size;
    let replicas = cluster.replicas("trim", size).await;
    cluster.engine("trim", size, "", replicas.clone()).await;
    for backup in &source.backups {
        cluster.start_restore("trim", cluster.url(&source.name, &backup.name)).await.expect("the restore starts");
        proven(&cluster, "trim", &backup.name, &backup.snapshot).await;
    }
    cluster.delete_engine("trim").await;
    let engine = cluster.engine("trim", size, "spdk-tcp-nvmf", replicas).await;
    let last = source.backups.last().expect("the fixture has backups");
    assert!(cluster.read(&engine).await == source.image(&last.name), "the restored bytes differ from the image");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_block_fails_the_restore_and_the_volume_goes_back_to_the_last_good_point() {
    let cluster = Cluster::start().await;
    let source = cluster.fixtures.volume("pvc-5f2d1c7e-lz4");
    let (first, second) = (&source.backups[0], &source.backups[1]);
    let replicas = cluster.replicas("bad", source.restore_size).await;
    cluster.engine("bad", source.restore_size, "", replicas.clone()).await;
    cluster.start_restore("bad", cluster.url(&source.name, &first.name)).await.expect("the restore starts");
    proven(&cluster, "bad", &first.name, &first.snapshot).await;

    damage_all_blocks(&cluster.store);
    cluster.start_restore("bad", cluster.url(&source.name, &second.name)).await.expect("the restore starts");
    for entry in cluster.restored("bad").await {
        assert_eq!(entry.state, "error");
        assert!(entry.error.contains("block"), "{}", entry.error);
        assert_eq!(entry.last_restored, first.name, "a failed restore is never the last restored one");
    }
    let snapshot = format!("restore-{}", first.snapshot);
    assert_eq!(cluster.get("bad").await.snapshots.into_keys().collect::<Vec<_>>(), [snapshot]);

    cluster.delete_engine("bad").await;
    let engine = cluster.engine("bad", source.restore_size, "spdk-tcp-nvmf", replicas).await;
    assert!(cluster.read(&engine).await == source.image(&first.name), "the volume is not at its last good point");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_comes_back_with_its_disk_and_what_was_restored() {
    let mut cluster = Cluster::start().await;
    let (name, size, first, second) = {
        let source = cluster.fixtures.volume("pvc-5f2d1c7e-lz4");
        let backup = |index: usize| (source.backups[index].name.clone(), source.backups[index].snapshot.clone());
        (source.name.clone(), source.restore_size, backup(0), backup(1))
    };
    let replicas = cluster.replicas("kill", size).await;
    cluster.engine("kill", size, "", replicas).await;
    cluster.start_restore("kill", cluster.url(&name, &first.0)).await.expect("the restore starts");
    proven(&cluster, "kill", &first.0, &first.1).await;
    cluster.start_restore("kill", cluster.url(&name, &second.0)).await.expect("the restore starts");
    cluster.nodes[0].kill9();
    cluster.nodes[0].start_again().await;
    ready(&cluster.nodes[0]).await;

    // Replica and engine come back by themselves.
    wait_until(LIMIT, "the engine is up again", async || {
        let engine = cluster.get("kill").await;
        if engine.state == "running" { Ok(()) } else { Err(format!("{}: {}", engine.state, engine.error_msg)) }
    })
    .await;
    let reached = cluster.status("kill").await[0].last_restored.clone();
    assert!([&first.0, &second.0].contains(&&reached), "{reached:?} was never restored");
    if reached == first.0 {
        cluster.start_restore("kill", cluster.url(&name, &second.0)).await.expect("the restore starts again");
    }
    proven(&cluster, "kill", &second.0, &second.1).await;
}

fn damage_all_blocks(directory: &std::path::Path) {
    for entry in std::fs::read_dir(directory).expect("a store") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            damage_all_blocks(&path);
        } else if path.extension().is_some_and(|extension| extension == "blk") {
            let mut content = std::fs::read(&path).expect("a block");
            let middle = content.len() / 2;
            content[middle] ^= 0x55;
            std::fs::write(&path, content).expect("a damaged block");
        }
    }
}
