//! Clones that cannot be: each is refused by field or by state, and changes nothing.

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{create_replica, refused};
use crate::scene::{BOTH, SIZE, SNAPSHOT, Scene, engine, replica};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_a_source_drops_out_and_what_cannot_be_is_refused() {
    let scene = Scene::start().await;
    scene.empty("one", &BOTH).await;
    let before = scene.cluster.get("one").await;
    type Change = fn(&mut wire::EngineSnapshotCloneRequest);
    let wrong: [(Change, Code, &str); 11] = [
        (|request| request.name.clear(), Code::InvalidArgument, "name"),
        (|request| request.name = "none-e-0".into(), Code::NotFound, "none-e-0"),
        (|request| request.snapshot_name.clear(), Code::InvalidArgument, "snapshot_name"),
        (|request| request.snapshot_name = "none".into(), Code::NotFound, "none"),
        (|request| request.src_engine_name = "a/b".into(), Code::InvalidArgument, "src_engine_name"),
        (|request| request.src_engine_name = request.name.clone(), Code::InvalidArgument, "src_engine_name"),
        (|request| request.src_engine_name = "none-e-0".into(), Code::NotFound, "none-e-0"),
        (|request| request.src_engine_address = "x".into(), Code::InvalidArgument, "src_engine_address"),
        (|request| request.clone_mode = 7, Code::InvalidArgument, "clone_mode"),
        (
            |request| drop(request.dst_replica_src_replica_pair_map.insert(replica("one", 7), replica("src", 0))),
            Code::InvalidArgument,
            "dst_replica_src_replica_pair_map",
        ),
        (
            |request| drop(request.dst_replica_src_replica_pair_map.insert(replica("one", 0), replica("src", 1))),
            Code::InvalidArgument,
            "dst_replica_src_replica_pair_map",
        ),
    ];
    for (change, code, words) in wrong {
        let mut request = scene.request("one", &BOTH);
        change(&mut request);
        refused(scene.clone(request).await, code, words);
    }
    refused(scene.clone(scene.request("one", &[])).await, Code::FailedPrecondition, "no replica would be");
    assert_eq!(scene.cluster.get("one").await, before);

    scene.clone(scene.request("one", &[1])).await.expect("a clone on the second node");
    let found = scene.cluster.get("one").await;
    assert_eq!(Scene::mode(&found, &replica("one", 0)), wire::ReplicaMode::Err);
    assert_eq!(Scene::mode(&found, &replica("one", 1)), wire::ReplicaMode::Rw);
    assert!(scene.read("one").await == scene.image, "the clone is not the snapshot");
    // The one that is out stays out, also of a new engine that is told to take both.
    scene.cluster.delete_engine("one").await;
    let found = scene.cluster.engine("one", SIZE, "spdk-tcp-nvmf", scene.cluster.replicas("one", SIZE).await).await;
    assert_eq!(Scene::mode(&found, &replica("one", 0)), wire::ReplicaMode::Err);
    assert!(scene.read("one").await == scene.image, "the clone is not the snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_empty_replica_on_the_sources_disk_becomes_a_linked_clone() {
    let mut scene = Scene::start().await;
    let order = |name: &str, source: &str, address: String| wire::ReplicaSnapshotCloneDstStartRequest {
        name: name.into(),
        snapshot_name: SNAPSHOT.into(),
        src_replica_name: source.into(),
        src_replica_address: address,
        clone_mode: wire::CloneMode::LinkedClone.into(),
    };
    let here = |node: usize| format!("{}:1", scene.cluster.nodes[node].ip());
    create_replica(&scene.cluster.nodes[0], &replica("one", 0), SIZE).await;
    create_replica(&scene.cluster.nodes[0], &replica("small", 0), SIZE / 2).await;
    let (one, source) = (replica("one", 0), replica("src", 0));
    for (order, code, words) in [
        (order("none-r-00000000", &source, here(0)), Code::NotFound, "none-r-00000000"),
        (order(&one, "none-r-00000000", here(0)), Code::NotFound, "none-r-00000000"),
        (order(&one, &one, here(0)), Code::InvalidArgument, "src_replica_name"),
        (order(&one, &source, here(1)), Code::InvalidArgument, "src_replica_address"),
        (order(&one, &source, ":0".into()), Code::InvalidArgument, "src_replica_address"),
        (order(&source, &one, here(0)), Code::FailedPrecondition, "only an empty replica"),
        (order(&replica("small", 0), &source, here(0)), Code::FailedPrecondition, "less than"),
    ] {
        refused(scene.cluster.nodes[0].spdk().replica_snapshot_clone_dst_start(order).await, code, words);
    }
    let unknown =
        wire::ReplicaSnapshotCloneDstStartRequest { snapshot_name: "none".into(), ..order(&one, &source, here(0)) };
    let refusal = scene.cluster.nodes[0].spdk().replica_snapshot_clone_dst_start(unknown).await;
    refused(refusal, Code::NotFound, "none");
    let request = wire::ReplicaSnapshotCloneDstStatusCheckRequest { name: one.clone() };
    let status = scene.cluster.nodes[0].spdk().replica_snapshot_clone_dst_status_check(request).await;
    assert_eq!(status.expect("a status").into_inner(), Default::default());
    assert_eq!(scene.clones(0).await, 0);

    // A volume that was written to is not one.
    scene.empty("two", &BOTH).await;
    let mut image = vec![0; SIZE as usize];
    scene.write("two", 0, &[1; 4096], &mut image).await;
    refused(scene.clone(scene.request("two", &BOTH)).await, Code::FailedPrecondition, "only an empty volume");
    assert!(scene.read("two").await == image, "a refused clone changed the volume");
    assert_eq!(scene.cluster.get(&engine("src").replace("-e-0", "")).await.state, "running");
    scene.client.check(8).await;
}
