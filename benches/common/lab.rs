//! A node with disks, volumes and backups, driven as a manager would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, VolumeName};
use corriente::wire::spdkrpc as wire;

use super::support::disk::Disk;
use super::support::node::Node;
use super::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(600);

/// Gives a node a disk of this size and waits until it is ready.
pub async fn add_disk(node: &Node, name: &str, bytes: u64) -> Disk {
    let disk = Disk::create(node.directory(), &format!("{name}.img"), bytes);
    let request = wire::DiskCreateRequest {
        disk_name: name.into(),
        disk_path: disk.path().to_str().expect("a path in UTF-8").into(),
        block_size: 4096,
        disk_driver: "aio".into(),
        ..Default::default()
    };
    node.spdk().disk_create(request).await.expect("the disk is taken");
    wait_until(LIMIT, "the disk is ready", async || {
        let request = wire::DiskGetRequest { disk_name: name.into(), ..Default::default() };
        let state = node.spdk().disk_get(request).await.map(|disk| disk.into_inner().state);
        if state.as_ref().is_ok_and(|state| state == "ready") { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
    disk
}

/// Creates a replica; its name and address as an engine wants them.
pub async fn add_replica(node: &Node, disk: &str, name: &str, size: u64) -> (String, String) {
    let request = wire::ReplicaCreateRequest {
        name: name.into(),
        lvs_name: disk.into(),
        spec_size: size,
        port_count: 1,
        ..Default::default()
    };
    let replica = node.spdk().replica_create(request).await.expect("the replica is created").into_inner();
    (name.to_owned(), format!("{}:{}", replica.ip, replica.port_start))
}

/// Creates an engine `<volume>-e` over these replicas.
pub async fn add_engine(
    node: &Node,
    volume: &str,
    size: u64,
    frontend: &str,
    replicas: BTreeMap<String, String>,
) -> wire::Engine {
    let request = wire::EngineCreateRequest {
        name: format!("{volume}-e"),
        volume_name: volume.into(),
        spec_size: size,
        replica_address_map: replicas,
        frontend: frontend.into(),
        ..Default::default()
    };
    let engine = node.spdk().engine_create(request).await.expect("the engine is created").into_inner();
    assert_eq!(engine.state, "running", "{}", engine.error_msg);
    engine
}

/// Takes an engine away; its replicas stay.
pub async fn remove_engine(node: &Node, volume: &str) {
    let request = wire::EngineDeleteRequest { name: format!("{volume}-e") };
    node.spdk().engine_delete(request).await.expect("the engine is deleted");
}

/// Deletes a replica with its data.
pub async fn remove_replica(node: &Node, name: &str) {
    let request = wire::ReplicaDeleteRequest { name: name.into(), cleanup_required: true };
    node.spdk().replica_delete(request).await.expect("the replica is deleted");
}

/// Connects to a volume's target.
pub async fn connect(engine: &wire::Engine) -> Initiator {
    let address: SocketAddr = format!("{}:{}", engine.target_ip, engine.target_port).parse().expect("a target");
    let nqn = Nqn::volume(&VolumeName::parse(&engine.volume_name).expect("a volume name"));
    let host = Nqn::parse("nqn.2026-01.bench:host").expect("an NQN");
    Initiator::connect(address, &nqn, &host, Options::default()).await.expect("the target answers")
}

/// Takes a snapshot of a volume and backs it up; the URL of the backup.
pub async fn back_up(node: &Node, volume: &str, target: &str, method: &str) -> String {
    let engine_name = format!("{volume}-e");
    let request = wire::SnapshotRequest {
        name: engine_name.clone(),
        snapshot_name: "point".into(),
        user_created: true,
        ..Default::default()
    };
    node.spdk().engine_snapshot_create(request).await.expect("the snapshot is taken");
    let request = wire::BackupCreateRequest {
        engine_name: engine_name.clone(),
        snapshot_name: "point".into(),
        backup_target: target.into(),
        volume_name: volume.into(),
        compression_method: method.into(),
        ..Default::default()
    };
    let started = node.spdk().engine_backup_create(request).await.expect("the backup starts").into_inner();
    wait_until(LIMIT, "the backup is complete", async || {
        let request = wire::BackupStatusRequest {
            backup: started.backup.clone(),
            engine_name: engine_name.clone(),
            replica_address: started.replica_address.clone(),
        };
        let status = node.spdk().engine_backup_status(request).await.expect("a backup status").into_inner();
        assert_ne!(status.state, "error", "{}", status.error);
        if status.state == "complete" { Ok(status.backup_url) } else { Err(format!("{} %", status.progress)) }
    })
    .await
}

/// Restores a backup into a volume and waits for the end.
pub async fn restore(node: &Node, volume: &str, url: &str) {
    let engine_name = format!("{volume}-e");
    let request = wire::EngineBackupRestoreRequest {
        backup_url: url.into(),
        engine_name: engine_name.clone(),
        ..Default::default()
    };
    node.spdk().engine_backup_restore(request).await.expect("the restore starts");
    wait_until(LIMIT, "the restore is complete", async || {
        let request = wire::RestoreStatusRequest { engine_name: engine_name.clone() };
        let answer = node.spdk().engine_restore_status(request).await.expect("a restore status").into_inner();
        for status in answer.status.values() {
            assert!(status.error.is_empty(), "{}", status.error);
        }
        if answer.status.values().any(|status| status.is_restoring) { Err("it runs".into()) } else { Ok(()) }
    })
    .await
}
