//! A replica taken into a linked clone: based on a replica of the source on its own disk.

use corriente::wire::spdkrpc as wire;
use tonic::{Code, Status};

use crate::cluster::{create_replica, refused};
use crate::scene::{BOTH, SIZE, SNAPSHOT, Scene, engine, replica};
use crate::support::wait::wait_until;

const MIB: usize = 1 << 20;
const LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

fn source(scene: &Scene) -> wire::LinkedCloneSource {
    wire::LinkedCloneSource {
        snapshot_name: String::new(),
        replica_name: replica("src", 1),
        engine_name: engine("src"),
        engine_address: scene.cluster.nodes[0].grpc_address().to_string(),
    }
}

async fn add(scene: &Scene, address: &str, source: Option<wire::LinkedCloneSource>) -> Result<(), Status> {
    let request = wire::EngineReplicaAddRequest {
        engine_name: engine("one"),
        replica_name: replica("one", 1),
        replica_address: address.into(),
        linked_clone_source: source,
        ..Default::default()
    };
    scene.cluster.nodes[0].spdk().engine_replica_add(request).await.map(drop)
}

async fn in_sync(scene: &Scene, volume: &str) {
    wait_until(LIMIT, "the replica is in sync", async || {
        let found = scene.cluster.get(volume).await;
        match found.replica_mode_map.get(&replica(volume, 1)).map(|_| Scene::mode(&found, &replica(volume, 1))) {
            Some(wire::ReplicaMode::Rw) => Ok(()),
            Some(wire::ReplicaMode::Wo) => Err("it is being rebuilt".into()),
            other => panic!("its mode is {other:?}"),
        }
    })
    .await;
}

/// The second replica alone holds the clone, and is one of its own node's source.
async fn holds(scene: &Scene, address: &str, image: &[u8]) {
    let found = scene.replica("one", 1).await;
    let info = found.linked_clone_info.expect("it is linked");
    assert_eq!(info.source_replica_name, replica("src", 1));
    assert_eq!(scene.clones(1).await, 1);
    assert!(scene.read_alone("one", &replica("one", 1), address).await == image, "it does not hold the clone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_replica_of_a_linked_clone_is_based_on_the_source_on_its_own_disk() {
    let scene = Scene::start().await;
    scene.linked("one", &[0]).await;
    let mut image = scene.image.clone();
    scene.write("one", 2 * MIB, &vec![3; MIB], &mut image).await;
    scene.snapshot("one", "c1").await;
    scene.write("one", 9 * MIB, &vec![4; MIB], &mut image).await;

    let address = create_replica(&scene.cluster.nodes[1], &replica("one", 1), SIZE).await;
    refused(add(&scene, &address, None).await, Code::FailedPrecondition, "linked_clone_source");
    type Change = fn(&mut wire::LinkedCloneSource);
    let wrong: [(Change, Code, &str); 6] = [
        (|source| source.engine_name.clear(), Code::InvalidArgument, "linked_clone_source"),
        (|source| source.engine_address = "x".into(), Code::InvalidArgument, "linked_clone_source"),
        (|source| source.snapshot_name = "s9".into(), Code::InvalidArgument, "not of s9"),
        (|source| source.replica_name = replica("src", 0), Code::InvalidArgument, "source's disk"),
        (|source| source.replica_name = replica("src", 7), Code::NotFound, "src-r-00000007"),
        (|source| source.engine_name = engine("one"), Code::NotFound, "src-r-00000001"),
    ];
    for (change, code, words) in wrong {
        let mut source = source(&scene);
        change(&mut source);
        refused(add(&scene, &address, Some(source)).await, code, words);
    }
    assert_eq!(scene.cluster.get("one").await.snapshots.len(), 1, "a refused addition leaves no snapshot");

    add(&scene, &address, Some(source(&scene))).await.expect("the rebuild starts");
    in_sync(&scene, "one").await;
    holds(&scene, &address, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_replica_of_a_linked_clone_is_rebuilt_in_its_place_and_after_an_expansion() {
    let mut scene = Scene::start().await;
    scene.linked("one", &BOTH).await;
    let mut image = scene.image.clone();
    scene.write("one", 2 * MIB, &vec![3; MIB], &mut image).await;
    scene.snapshot("one", "c1").await;

    // Its node goes away, and the clone is written on and grows meanwhile.
    scene.cluster.nodes[1].kill9();
    scene.write("one", 9 * MIB, &vec![4; MIB], &mut image).await;
    scene.cluster.nodes[1].start_again().await;
    crate::cluster::ready(&scene.cluster.nodes[1]).await;
    let request = wire::EngineReplicaDeleteRequest {
        engine_name: engine("one"),
        replica_name: replica("one", 1),
        ..Default::default()
    };
    scene.cluster.nodes[0].spdk().engine_replica_delete(request).await.expect("the failed replica is removed");
    let address = create_replica(&scene.cluster.nodes[1], &replica("one", 1), SIZE).await;
    // The source's replica failed with it, and is made anew first; what it held is below the old replica of the clone still.
    scene.client.work().await;
    refused(add(&scene, &address, Some(source(&scene))).await, Code::FailedPrecondition, "not in sync");
    rebuild_source(&scene).await;
    add(&scene, &address, Some(source(&scene))).await.expect("the rebuild starts");
    in_sync(&scene, "one").await;

    let grown = SIZE + (8 << 20);
    let request = wire::EngineExpandRequest { name: engine("one"), size: grown };
    scene.cluster.nodes[0].spdk().engine_expand(request).await.expect("the clone grows");
    image.resize(grown as usize, 0);
    scene.write("one", SIZE as usize, &vec![8; MIB], &mut image).await;
    scene.snapshot("one", "c2").await;
    let request = wire::EngineReplicaDeleteRequest {
        engine_name: engine("one"),
        replica_name: replica("one", 1),
        ..Default::default()
    };
    scene.cluster.nodes[0].spdk().engine_replica_delete(request).await.expect("the replica is removed");
    scene.delete_replica("one", 1).await.expect("what it holds is deleted");
    assert_eq!(scene.clones(1).await, 0);
    let address = create_replica(&scene.cluster.nodes[1], &replica("one", 1), grown).await;
    add(&scene, &address, Some(source(&scene))).await.expect("the rebuild after the expansion starts");
    in_sync(&scene, "one").await;
    holds(&scene, &address, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_rebuilt_below_its_clones_and_what_they_stand_on_survives_a_purge() {
    let mut scene = Scene::start().await;
    scene.linked("one", &BOTH).await;
    let mut image = scene.image.clone();
    scene.write("one", 2 * MIB, &vec![3; MIB], &mut image).await;
    scene.client.work().await;

    // Under the clone that stands on what the replica held.
    let address = rebuild_source(&scene).await;
    scene.client.work().await;
    assert_eq!(scene.clones(1).await, 1);
    assert!(scene.read("one").await == image, "the clone changed with its source's rebuild");

    // A new clone stands on what the source has now, beside the one that stands on what it had.
    scene.linked("two", &BOTH).await;
    assert_eq!((scene.clones(0).await, scene.clones(1).await), (2, 2));
    refused(scene.delete_snapshot("src", SNAPSHOT).await, Code::FailedPrecondition, "one-r-00000000, two-r-00000000");

    // A system snapshot with a clone on one replica stays on both in a purge.
    let found = scene.cluster.get("src").await;
    let system = found.snapshots.iter().find(|(_, lvol)| !lvol.user_created).expect("the rebuild's snapshot").0.clone();
    scene.empty("three", &[1]).await;
    let request = wire::EngineSnapshotCloneRequest { snapshot_name: system.clone(), ..scene.request("three", &[1]) };
    scene.clone(request).await.expect("the clone is made");
    scene.snapshot("src", "s2").await;
    let purge = wire::SnapshotRequest { name: engine("src"), ..Default::default() };
    scene.cluster.nodes[0].spdk().engine_snapshot_purge(purge.clone()).await.expect("a purge");
    scene.source_has(&[&system, SNAPSHOT, "s2"]).await;
    scene.delete_volume("three", &[1]).await;
    scene.cluster.nodes[0].spdk().engine_snapshot_purge(purge).await.expect("a purge");
    scene.source_has(&[SNAPSHOT, "s2"]).await;

    // Each replica alone is whole, and nothing is left of what the source held before.
    let source = scene.client.image();
    let second = scene.replica("one", 1).await;
    let second = format!("{}:{}", second.ip, second.port_start);
    assert!(scene.read_alone("one", &replica("one", 1), &second).await == image, "the clone's second replica");
    assert!(scene.read("two").await == scene.image, "the second clone is not the snapshot");
    assert!(scene.read_alone("src", &replica("src", 1), &address).await == source, "the source's second replica");
    scene.delete_volume("one", &BOTH).await;
    scene.delete_volume("two", &BOTH).await;
    scene.delete_volume("src", &BOTH).await;
    for node in &scene.cluster.nodes {
        let request = wire::DiskGetRequest { disk_name: "disk".into(), ..Default::default() };
        let disk = node.spdk().disk_get(request).await.expect("the disk").into_inner();
        assert_eq!(disk.free_size, disk.total_size, "something is left over");
    }
}

/// Takes the source's second replica out and makes it anew, from all of the data. Returns where it is.
async fn rebuild_source(scene: &Scene) -> String {
    let found = scene.replica("src", 1).await;
    let address = format!("{}:{}", found.ip, found.port_start);
    let removal = wire::EngineReplicaDeleteRequest {
        engine_name: engine("src"),
        replica_name: replica("src", 1),
        ..Default::default()
    };
    scene.cluster.nodes[0].spdk().engine_replica_delete(removal).await.expect("the replica is removed");
    let addition = wire::EngineReplicaAddRequest {
        engine_name: engine("src"),
        replica_name: replica("src", 1),
        replica_address: address.clone(),
        ..Default::default()
    };
    scene.cluster.nodes[0].spdk().engine_replica_add(addition).await.expect("the rebuild starts");
    in_sync(scene, "src").await;
    address
}
