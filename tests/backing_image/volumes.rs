//! Volumes over replicas on an image: engines, rebuilds, backups and restores.

use std::collections::BTreeMap;
use std::time::Duration;

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use super::cluster::{self, Cluster, refused};
use super::scene::*;
use crate::support::client::connect;
use crate::support::wait::wait_until;

const FIRST: &str = "vol-r-00000000";
const SECOND: &str = "vol-r-00000001";
const VOLUME: u64 = 16 * MIB;
const LIMIT: Duration = Duration::from_secs(120);

/// Both nodes have the image.
async fn lab() -> (Cluster, Vec<u8>) {
    let cluster = Cluster::start().await;
    let image = image();
    for node in &cluster.nodes {
        let lvs = ready_disk(node, "disk").await.uuid;
        ready_image(node, &lvs, &image).await;
    }
    let mut expected = image;
    expected.resize(VOLUME as usize, 0);
    (cluster, expected)
}

async fn on_image(cluster: &Cluster, volume: &str) -> BTreeMap<String, String> {
    let mut addresses = BTreeMap::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let name = format!("{volume}-r-0000000{index}");
        addresses.insert(name.clone(), create_replica(node, &name, VOLUME).await);
    }
    addresses
}

async fn snapshot(cluster: &Cluster, name: &str) {
    let request = wire::SnapshotRequest {
        name: "vol-e-0".into(),
        snapshot_name: name.into(),
        user_created: true,
        ..Default::default()
    };
    cluster.nodes[0].spdk().engine_snapshot_create(request).await.expect("the snapshot is taken");
}

async fn add(cluster: &Cluster, address: &str) -> Result<(), tonic::Status> {
    let request = wire::EngineReplicaAddRequest {
        engine_name: "vol-e-0".into(),
        replica_name: SECOND.into(),
        replica_address: address.into(),
        ..Default::default()
    };
    cluster.nodes[0].spdk().engine_replica_add(request).await.map(drop)
}

/// Writes through the volume's target, and to what it must hold.
async fn write(engine: &wire::Engine, expected: &mut [u8], offset: u64, byte: u8) {
    let device = connect(engine).await;
    let data = vec![byte; 64 << 10];
    match byte {
        0 => device.write_zeroes(offset, data.len() as u64).await.expect("it can be zeroed"),
        _ => device.write(offset, &data).await.expect("it can be written"),
    }
    device.flush().await.expect("it can be flushed");
    device.disconnect().await.expect("an orderly end");
    expected[offset as usize..][..data.len()].copy_from_slice(&data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_on_an_image_is_rebuilt_on_the_image_of_its_own_disk() {
    let (cluster, mut expected) = lab().await;
    let first = create_replica(&cluster.nodes[0], FIRST, VOLUME).await;
    let engine = cluster.engine("vol", VOLUME, "spdk-tcp-nvmf", [(FIRST.into(), first)].into()).await;
    write(&engine, &mut expected, MIB, 0x11).await;
    snapshot(&cluster, "one").await;
    write(&engine, &mut expected, 7 * MIB, 0).await;

    // One that does not stand on the image would read otherwise.
    let plain = cluster::create_replica(&cluster.nodes[1], SECOND, VOLUME).await;
    refused(add(&cluster, &plain).await, Code::FailedPrecondition, NAME);
    let gone = wire::ReplicaDeleteRequest { name: SECOND.into(), cleanup_required: true };
    cluster.nodes[1].spdk().replica_delete(gone).await.expect("it is deleted");

    let second = create_replica(&cluster.nodes[1], SECOND, VOLUME).await;
    add(&cluster, &second).await.expect("the rebuild starts");
    write(&engine, &mut expected, 12 * MIB, 0x22).await;
    wait_until(LIMIT, "the replica is in sync", async || {
        let modes = cluster.get("vol").await.replica_mode_map;
        match modes.get(SECOND) {
            Some(mode) if *mode == wire::ReplicaMode::Rw as i32 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    write(&engine, &mut expected, 3 * MIB, 0x33).await;
    cluster.delete_engine("vol").await;
    let engine = cluster.engine("vol", VOLUME, "spdk-tcp-nvmf", [(SECOND.into(), second)].into()).await;
    assert!(cluster.read(&engine).await == expected, "the rebuilt replica does not hold the volume");
    let rebuilt = get_replica(&cluster.nodes[1], SECOND).await;
    assert_eq!((rebuilt.backing_image_name.as_str(), rebuilt.snapshots["one"].parent.as_str()), (NAME, ""));
    assert_eq!(rebuilt.snapshots["one"].actual_size, MIB, "only what the snapshot has of its own is copied");
    let lvs = ready_disk(&cluster.nodes[1], "disk").await.uuid;
    refused(delete(&cluster.nodes[1], &lvs).await, Code::FailedPrecondition, SECOND);
}

async fn back_up(cluster: &Cluster, snapshot: &str, backup: &str, full: bool) {
    let store = cluster.nodes[0].directory().join("store");
    std::fs::create_dir_all(&store).expect("a directory for backups");
    let labels = if full { vec!["longhorn.io/backup-parameter.backup-mode=full".to_owned()] } else { Vec::new() };
    let request = wire::BackupCreateRequest {
        backup_name: backup.into(),
        snapshot_name: snapshot.into(),
        backup_target: format!("vfs://{}", store.display()),
        volume_name: "vol".into(),
        engine_name: "vol-e-0".into(),
        labels,
        ..Default::default()
    };
    let started = cluster.nodes[0].spdk().engine_backup_create(request).await.expect("the backup starts").into_inner();
    wait_until(LIMIT, "the backup is complete", async || {
        let request = wire::BackupStatusRequest {
            backup: backup.into(),
            engine_name: "vol-e-0".into(),
            replica_address: started.replica_address.trim_start_matches("tcp://").into(),
        };
        let status = cluster.nodes[0].spdk().engine_backup_status(request).await.expect("a status").into_inner();
        assert_eq!(status.error, "");
        if status.state == "complete" { Ok(()) } else { Err(status.state) }
    })
    .await;
}

fn url(cluster: &Cluster, backup: &str) -> String {
    format!("vfs://{}?backup={backup}&volume=vol", cluster.nodes[0].directory().join("store").display())
}

async fn restore(cluster: &Cluster, volume: &str, backup: &str) {
    cluster.start_restore(volume, url(cluster, backup)).await.expect("the restore starts");
    for status in cluster.restored(volume).await {
        assert_eq!((status.state.as_str(), status.error.as_str()), ("complete", ""));
    }
}

/// Each replica of a restored volume, as its own node exports it.
async fn all_hold(addresses: &BTreeMap<String, String>, expected: &[u8], when: &str) {
    for (name, address) in addresses {
        assert!(cluster::read_replica(name, address).await == expected, "{name} after the {when} restore");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_leaves_the_image_out_and_a_restore_shows_it_where_the_backup_has_nothing() {
    let (cluster, image) = lab().await;
    let addresses = on_image(&cluster, "vol").await;
    let engine = cluster.engine("vol", VOLUME, "spdk-tcp-nvmf", addresses.clone()).await;
    snapshot(&cluster, "untouched").await;
    // Each of them in a block of two MiB of its own; the block at 6 MiB is zeroes over the image's data.
    let mut first = image.clone();
    write(&engine, &mut first, MIB, 0x11).await;
    write(&engine, &mut first, 7 * MIB, 0).await;
    snapshot(&cluster, "first").await;
    back_up(&cluster, "first", "backup-1", false).await;
    let listed = std::process::Command::new(env!("CARGO_BIN_EXE_corriente"))
        .args(["backup", "inspect", &url(&cluster, "backup-1"), "--output", "json"])
        .env_clear()
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(text.contains(&format!("\"VolumeBackingImageName\": \"{NAME}\"")), "{text} {:?}", listed.stderr);

    // Back to the image alone, and a little else: the blocks of the first backup are in the second no more.
    cluster.delete_engine("vol").await;
    let engine = cluster.engine("vol", VOLUME, "", addresses.clone()).await;
    let back = wire::SnapshotRequest { name: engine.name, snapshot_name: "untouched".into(), ..Default::default() };
    cluster.nodes[0].spdk().engine_snapshot_revert(back).await.expect("it is reverted");
    cluster.delete_engine("vol").await;
    let engine = cluster.engine("vol", VOLUME, "spdk-tcp-nvmf", addresses.clone()).await;
    let mut second = image.clone();
    write(&engine, &mut second, 12 * MIB, 0x22).await;
    assert!(cluster.read(&engine).await == second, "the revert shows the image");
    snapshot(&cluster, "second").await;
    back_up(&cluster, "second", "backup-2", true).await;
    cluster.delete_engine("vol").await;

    // Of the other volume one replica is on the engine's node, one on the other.
    let others = on_image(&cluster, "dr").await;
    cluster.engine("dr", VOLUME, "", others.clone()).await;
    restore(&cluster, "dr", "backup-1").await;
    all_hold(&others, &first, "first").await;
    restore(&cluster, "dr", "backup-2").await;
    all_hold(&others, &second, "second").await;

    // Without the image, or on another's, the blocks of the backup are not the volume.
    let plain = cluster.replicas("plain", VOLUME).await;
    cluster.engine("plain", VOLUME, "", plain).await;
    refused(cluster.start_restore("plain", url(&cluster, "backup-1")).await, Code::FailedPrecondition, NAME);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_on_an_image_and_without_make_no_engine() {
    let (cluster, _) = lab().await;
    let first = create_replica(&cluster.nodes[0], FIRST, VOLUME).await;
    let second = cluster::create_replica(&cluster.nodes[1], SECOND, VOLUME).await;
    let both = [(FIRST.into(), first), (SECOND.into(), second)].into();
    let engine = cluster.try_engine("vol", VOLUME, "", both).await;
    assert_eq!(engine.state, "error");
    assert!(engine.error_msg.contains(NAME), "{}", engine.error_msg);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_of_a_volume_on_an_image_shows_it_and_grows_by_a_replica_on_the_image() {
    let (cluster, mut expected) = lab().await;
    let found = cluster.engine("vol", VOLUME, "spdk-tcp-nvmf", on_image(&cluster, "vol").await).await;
    cluster.write(&found, 3 * MIB, &vec![3; MIB as usize]).await;
    expected[(3 * MIB) as usize..][..MIB as usize].fill(3);
    snapshot(&cluster, "s1").await;
    for (clone, mode) in [("full", wire::CloneMode::FullCopy), ("linked", wire::CloneMode::LinkedClone)] {
        let replica = |index: usize| format!("{clone}-r-0000000{index}");
        let first = BTreeMap::from([(replica(0), create_replica(&cluster.nodes[0], &replica(0), VOLUME).await)]);
        cluster.engine(clone, VOLUME, "spdk-tcp-nvmf", first).await;
        let request = wire::EngineSnapshotCloneRequest {
            name: format!("{clone}-e-0"),
            snapshot_name: "s1".into(),
            src_engine_name: "vol-e-0".into(),
            src_engine_address: cluster.nodes[0].grpc_address().to_string(),
            clone_mode: mode.into(),
            dst_replica_src_replica_pair_map: [(replica(0), FIRST.to_owned())].into(),
        };
        cluster.nodes[0].spdk().engine_snapshot_clone(request).await.expect("the clone begins");
        wait_until(LIMIT, "the clone is complete", async || {
            let request = wire::ReplicaSnapshotCloneDstStatusCheckRequest { name: replica(0) };
            let status = cluster.nodes[0].spdk().replica_snapshot_clone_dst_status_check(request).await;
            let status = status.expect("a status").into_inner();
            let mirror = corriente::wire::corriente::v1::MirrorGetRequest { engine_name: format!("{clone}-e-0") };
            let is_up = cluster.nodes[0].corriente().mirror_get(mirror).await.is_ok();
            if status.state == "complete" && is_up { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        assert!(cluster.read(&cluster.get(clone).await).await == expected, "{clone} is not the snapshot");
        let linked = wire::LinkedCloneSource {
            replica_name: SECOND.into(),
            engine_name: "vol-e-0".into(),
            engine_address: cluster.nodes[0].grpc_address().to_string(),
            ..Default::default()
        };
        let address = create_replica(&cluster.nodes[1], &replica(1), VOLUME).await;
        let request = wire::EngineReplicaAddRequest {
            engine_name: format!("{clone}-e-0"),
            replica_name: replica(1),
            replica_address: address.clone(),
            linked_clone_source: (mode == wire::CloneMode::LinkedClone).then_some(linked),
            ..Default::default()
        };
        cluster.nodes[0].spdk().engine_replica_add(request).await.expect("the rebuild starts");
        wait_until(LIMIT, "the replica is in sync", async || {
            let found = cluster.get(clone).await;
            match found.replica_mode_map.get(&replica(1)) {
                Some(mode) if *mode == i32::from(wire::ReplicaMode::Rw) => Ok(()),
                mode => Err(format!("{mode:?}")),
            }
        })
        .await;
        cluster.delete_engine(clone).await;
        let read = cluster::read_replica(&replica(1), &address).await;
        assert!(read == expected, "the second replica of {clone} is not the snapshot");
    }
}
