//! Full copies into a volume whose engine's node is killed meanwhile: the engine goes on to wait for the copy, or says that
//! there is none.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;

use crate::cluster::{create_replica, ready};
use crate::full::{copied, half_way, limit, request, scene, start, status};
use crate::scene::{LIMIT, SIZE, SNAPSHOT, Scene, engine, replica};
use crate::support::client::connect;
use crate::support::wait::wait_until;

async fn restarted(scene: &mut Scene) {
    let node = &mut scene.cluster.nodes[0];
    node.kill9();
    node.start_again().await;
    ready(node).await;
}

/// The engine of the clone once it is not being brought up any more.
async fn settled(scene: &Scene) -> wire::Engine {
    wait_until(LIMIT, "the engine has settled", async || {
        let engine = scene.cluster.get("one").await;
        if engine.state == "pending" { Err(engine.error_msg) } else { Ok(engine) }
    })
    .await
}

/// The source has one replica only, on the other node, which is not killed.
async fn source_on_the_other_node(scene: &Scene) {
    let request = wire::EngineReplicaDeleteRequest {
        engine_name: engine("src"),
        replica_name: replica("src", 0),
        ..Default::default()
    };
    scene.cluster.nodes[0].spdk().engine_replica_delete(request).await.expect("the replica is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_node_is_killed_during_a_full_copy_waits_for_it_again_and_serves_the_whole() {
    let mut scene = scene().await;
    source_on_the_other_node(&scene).await;
    half_way(&scene, "one", (1, 1), "spdk-tcp-nvmf").await;
    restarted(&mut scene).await;

    let found = settled(&scene).await;
    assert_eq!((found.state.as_str(), found.error_msg.as_str()), ("running", ""));
    assert_eq!(
        Scene::mode(&found, &replica("one", 1)),
        wire::ReplicaMode::Rw,
        "its copy is asked about by whoever sees that"
    );
    let now = status(&scene, "one", 1).await;
    assert_eq!((now.state.as_str(), now.is_cloning), ("in_progress", true), "{now:?}");

    limit(&scene, "one", 1, 0).await;
    copied(&scene, "one", 1).await;
    assert!(scene.read("one").await == scene.image, "the copy is not the snapshot");
}

/// An engine that was created while the copy into its replica ran already: on the first node, the copy on the second.
async fn created_over_a_copy(scene: &Scene) -> BTreeMap<String, String> {
    source_on_the_other_node(scene).await;
    half_way(scene, "one", (1, 1), "spdk-tcp-nvmf").await;
    scene.cluster.delete_engine("one").await;
    let address = create_replica(&scene.cluster.nodes[1], &replica("one", 1), SIZE).await;
    let replicas: BTreeMap<_, _> = [(replica("one", 1), address)].into();
    scene.cluster.engine("one", SIZE, "spdk-tcp-nvmf", replicas.clone()).await;
    assert!(status(scene, "one", 1).await.is_cloning);
    replicas
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_created_over_a_replica_that_is_cloned_into_waits_for_the_copy_and_does_so_again_after_a_kill() {
    let mut scene = scene().await;
    created_over_a_copy(&scene).await;
    // It has served nothing yet, and knows all the same that nobody else can have.
    restarted(&mut scene).await;
    assert_eq!(settled(&scene).await.state, "running");
    assert!(status(&scene, "one", 1).await.is_cloning);
    limit(&scene, "one", 1, 0).await;
    copied(&scene, "one", 1).await;
    assert!(scene.read("one").await == scene.image, "the copy is not the snapshot");
    // Once more, now that it serves.
    restarted(&mut scene).await;
    let found = settled(&scene).await;
    assert_eq!((found.state.as_str(), found.error_msg.as_str()), ("running", ""));
    assert!(scene.read("one").await == scene.image, "the copy is not the snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_waited_for_a_copy_comes_back_after_its_end_unless_another_has_served_it_since() {
    let mut scene = scene().await;
    let replicas = created_over_a_copy(&scene).await;
    // The copy ends while the engine's node is down.
    scene.cluster.nodes[0].kill9();
    limit(&scene, "one", 1, 0).await;
    wait_until(LIMIT, "the copy is complete", async || match status(&scene, "one", 1).await {
        done if done.state == "complete" => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;
    scene.cluster.nodes[0].start_again().await;
    ready(&scene.cluster.nodes[0]).await;
    let found = settled(&scene).await;
    assert_eq!((found.state.as_str(), found.error_msg.as_str()), ("running", ""));
    assert!(scene.read("one").await == scene.image, "the copy is not the snapshot");
    scene.delete_volume("one", &[1]).await;
    drop(replicas);

    // The same, and an engine of the other node serves the volume before the first one is back.
    let address = create_replica(&scene.cluster.nodes[1], &replica("one", 1), SIZE).await;
    let replicas: BTreeMap<_, _> = [(replica("one", 1), address)].into();
    scene.cluster.engine("one", SIZE, "spdk-tcp-nvmf", replicas.clone()).await;
    limit(&scene, "one", 1, 1).await;
    scene.clone(request(&scene, "one")).await.expect("the copy begins");
    scene.cluster.delete_engine("one").await;
    scene.cluster.engine("one", SIZE, "spdk-tcp-nvmf", replicas.clone()).await;
    scene.cluster.nodes[0].kill9();
    limit(&scene, "one", 1, 0).await;
    let other = wire::EngineCreateRequest {
        name: "one-e-1".into(),
        volume_name: "one".into(),
        spec_size: SIZE,
        replica_address_map: replicas,
        frontend: "spdk-tcp-nvmf".into(),
        ..Default::default()
    };
    scene.cluster.nodes[1].spdk().engine_create(other).await.expect("the other engine");
    let other = wait_until(LIMIT, "the other engine serves", async || {
        let request = wire::EngineGetRequest { name: "one-e-1".into() };
        let engine = scene.cluster.nodes[1].spdk().engine_get(request).await.expect("it is there").into_inner();
        if engine.port == 0 { Err(engine.error_msg) } else { Ok(engine) }
    })
    .await;
    let client = connect(&other).await;
    client.write(0, &vec![3; 1 << 20]).await.expect("a write");
    client.disconnect().await.expect("an orderly end");
    scene.cluster.nodes[0].start_again().await;
    ready(&scene.cluster.nodes[0]).await;
    wait_until(LIMIT, "the first engine knows", async || {
        let engine = scene.cluster.get("one").await;
        match engine.error_msg.contains("another engine has served its volume since") {
            true => Ok(()),
            false => Err(format!("{} {}", engine.state, engine.error_msg)),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_says_that_its_copy_was_cut_short_by_the_end_of_the_node_and_what_to_do() {
    let mut scene = scene().await;
    // The source is on the node that is killed, the copy on the other: it runs still, and fails.
    half_way(&scene, "one", (1, 0), "spdk-tcp-nvmf").await;
    restarted(&mut scene).await;
    let failed = wait_until(LIMIT, "the engine knows that the copy has failed", async || {
        let engine = scene.cluster.get("one").await;
        if engine.state == "error" { Ok(engine.error_msg) } else { Err(engine.state) }
    })
    .await;
    assert!(failed.contains("the volume is no whole copy") && failed.contains(&replica("src", 0)), "{failed}");
    assert_eq!(status(&scene, "one", 1).await.state, "error");
    scene.delete_volume("one", &[1]).await;

    // The copy itself is on the node that is killed: it is gone with it.
    source_on_the_other_node(&scene).await;
    half_way(&scene, "one", (0, 1), "spdk-tcp-nvmf").await;
    // A copy that runs needs the source's engine no more.
    scene.cluster.delete_engine("src").await;
    restarted(&mut scene).await;
    let found = settled(&scene).await;
    assert_eq!(found.state, "error");
    for words in ["the volume is no whole copy", &replica("one", 0), "interrupted", "clone into it again"] {
        assert!(found.error_msg.contains(words), "{words:?} is not in {:?}", found.error_msg);
    }
    assert_eq!(status(&scene, "one", 0).await.state, "error");

    // As it says: the replica is created and cloned into again, and the engine made anew waits for that.
    scene.cluster.delete_engine("one").await;
    let address = start(&scene, 0).await;
    limit(&scene, "one", 0, 1).await;
    let order = wire::ReplicaSnapshotCloneDstStartRequest {
        name: replica("one", 0),
        snapshot_name: SNAPSHOT.into(),
        src_replica_name: replica("src", 1),
        src_replica_address: format!("{}:1", scene.cluster.nodes[1].ip()),
        clone_mode: wire::CloneMode::FullCopy.into(),
    };
    scene.cluster.nodes[0].spdk().replica_snapshot_clone_dst_start(order).await.expect("the copy begins");
    scene.cluster.engine("one", SIZE, "spdk-tcp-nvmf", [(replica("one", 0), address)].into()).await;
    limit(&scene, "one", 0, 0).await;
    copied(&scene, "one", 0).await;
    assert!(scene.read("one").await == scene.image, "the copy is not the snapshot");
}
