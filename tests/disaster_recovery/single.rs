//! A restore into one replica by itself (`ReplicaBackupRestore`): in full and incrementally, with what it refuses, and what
//! it makes of the replica for engines.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::{Code, Status};

use crate::cluster::{LIMIT, read_replica, ready, refused};
use crate::scene::{Scene, VOLUME, replica};
use crate::support::wait::wait_until;

pub async fn start(scene: &Scene, point: usize) -> Result<(), Status> {
    let request = wire::ReplicaBackupRestoreRequest {
        backup_url: scene.url(point),
        replica_name: replica(0),
        ..Default::default()
    };
    scene.cluster.nodes[0].spdk().replica_backup_restore(request).await.map(drop)
}

pub async fn status(scene: &Scene) -> wire::ReplicaRestoreStatusResponse {
    let request = wire::ReplicaRestoreStatusRequest { replica_name: replica(0) };
    scene.cluster.nodes[0].spdk().replica_restore_status(request).await.expect("a status").into_inner()
}

/// The restore's end, by the first poll that shows it.
async fn ended(scene: &Scene) -> wire::ReplicaRestoreStatusResponse {
    wait_until(LIMIT, "the restore into the replica has ended", async || {
        let status = status(scene).await;
        if status.is_restoring { Err(format!("{status:?}")) } else { Ok(status) }
    })
    .await
}

pub async fn stands_at(scene: &Scene, point: usize) {
    let status = ended(scene).await;
    assert_eq!((status.state.as_str(), status.error.as_str(), status.progress), ("complete", "", 100));
    assert_eq!(status.last_restored, scene.points[point].backup);
    assert_eq!(scene.snapshots_of(0).await, [scene.points[point].snapshot.clone()]);
    let bytes = read_replica(&replica(0), &scene.replicas[&replica(0)]).await;
    assert!(bytes == scene.points[point].image, "the replica does not hold the image of point {point}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_is_restored_by_itself_and_is_then_the_newest_of_its_volume() {
    let scene = Scene::start("pvc-5f2d1c7e-lz4").await;
    refused(start(&scene, 0).await, Code::FailedPrecondition, "engine dr-e-0 has it");
    scene.cluster.delete_engine(VOLUME).await;
    assert_eq!((status(&scene).await.state.as_str(), status(&scene).await.last_restored.as_str()), ("", ""));

    for point in 0..2 {
        start(&scene, point).await.expect("the restore starts");
        stands_at(&scene, point).await;
    }
    refused(start(&scene, 1).await, Code::FailedPrecondition, "already restored backup");
    let engines = scene.cluster.nodes[0].spdk().engine_list(()).await.expect("a list").into_inner().engines;
    assert!(engines.is_empty(), "what restores a replica is no engine of anybody: {engines:?}");

    // The other replica has not got it, and is told apart.
    let engine = scene.create("").await;
    let modes: Vec<_> = engine.replica_mode_map.iter().collect();
    let (rw, out) = (wire::ReplicaMode::Rw as i32, wire::ReplicaMode::Err as i32);
    assert!(modes.contains(&(&replica(0), &rw)) && modes.contains(&(&replica(1), &out)), "{modes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_restore_into_one_replica_is_refused_and_one_cut_short_by_a_crash_is_undone_by_the_next() {
    let mut scene = Scene::start("pvc-5f2d1c7e-lz4").await;
    scene.cluster.delete_engine(VOLUME).await;
    start(&scene, 0).await.expect("the restore starts");
    stands_at(&scene, 0).await;

    let faults = scene.cluster.nodes[0].faults();
    faults.once(Point::RestoreStepBegins, Action::Block);
    start(&scene, 1).await.expect("the restore starts");
    faults.blocked(Point::RestoreStepBegins).await;
    refused(start(&scene, 1).await, Code::AlreadyExists, "restoring is in progress");
    let request = wire::EngineCreateRequest {
        name: format!("{VOLUME}-e-0"),
        volume_name: VOLUME.into(),
        spec_size: scene.size,
        replica_address_map: scene.replicas.clone(),
        ..Default::default()
    };
    refused(
        scene.cluster.nodes[0].spdk().engine_create(request).await,
        Code::FailedPrecondition,
        "restore is in progress",
    );
    let node = &mut scene.cluster.nodes[0];
    node.kill9();
    node.faults().clear();
    node.start_again().await;
    ready(node).await;
    assert_eq!(status(&scene).await.last_restored, scene.points[0].backup, "the marker knows");
    start(&scene, 1).await.expect("the restore starts again");
    stands_at(&scene, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_one_replica_names_the_field_that_cannot_be() {
    let scene = Scene::start("pvc-5f2d1c7e-lz4").await;
    scene.cluster.delete_engine(VOLUME).await;
    let spdk = || scene.cluster.nodes[0].spdk();
    let request = |replica_name: &str, backup_url: String| wire::ReplicaBackupRestoreRequest {
        backup_url,
        replica_name: replica_name.into(),
        ..Default::default()
    };
    let url = scene.url(0);
    for (asked, code, words) in [
        (request("", url.clone()), Code::InvalidArgument, "replica_name"),
        (request("a/b", url.clone()), Code::InvalidArgument, "replica_name"),
        (request(&replica(0), String::new()), Code::InvalidArgument, "backup_url"),
        (request("nobody-r-1", url.clone()), Code::NotFound, "nobody-r-1"),
        (
            wire::ReplicaBackupRestoreRequest { snapshot_name: "a/b".into(), ..request(&replica(0), url.clone()) },
            Code::InvalidArgument,
            "snapshot_name",
        ),
        (
            wire::ReplicaBackupRestoreRequest { concurrent_limit: -1, ..request(&replica(0), url) },
            Code::InvalidArgument,
            "concurrent_limit",
        ),
    ] {
        refused(spdk().replica_backup_restore(asked).await.map(drop), code, words);
    }
    let unknown = wire::ReplicaRestoreStatusRequest { replica_name: "nobody-r-1".into() };
    refused(spdk().replica_restore_status(unknown).await.map(drop), Code::NotFound, "nobody-r-1");
    assert!(scene.snapshots_of(0).await.is_empty(), "nothing was begun");
}
