//! Replicas, engines and frontends that come back by themselves with their node.

use std::fs;

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{Cluster, LIMIT, MIB, NVMF, connect, fill, holds, refused, request, snapshot, target_of};
use crate::support::wait::wait_until;

async fn frontend_is(cluster: &Cluster, node: usize, volume: &str, state: &str) -> wire::EngineFrontend {
    wait_until(LIMIT, &format!("the frontend of {volume} is {state}"), async || {
        match cluster.frontend_get(node, volume).await {
            Ok(frontend) if frontend.state == state => Ok(frontend),
            Ok(frontend) => Err(format!("{}: {}", frontend.state, frontend.error_msg)),
            Err(status) => Err(status.to_string()),
        }
    })
    .await
}

async fn engine_is(cluster: &Cluster, node: usize, name: &str, state: &str) -> wire::Engine {
    wait_until(LIMIT, &format!("engine {name} is {state}"), async || match cluster.engine_get(node, name).await {
        Ok(engine) if engine.state == state => Ok(engine),
        Ok(engine) => Err(format!("{}: {}", engine.state, engine.error_msg)),
        Err(status) => Err(status.to_string()),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_comes_back_with_replica_engine_and_frontend_as_they_were() {
    let mut cluster = Cluster::start(2).await;
    let engine = cluster.volume("v1", NVMF).await;
    let before = cluster.frontend(0, request("v1", NVMF, "")).await;
    let remote = cluster.frontend(1, request("v1", NVMF, &target_of(&engine))).await;
    cluster.nodes[0].spdk().engine_frontend_snapshot_create(snapshot("v1", "s1")).await.expect("a snapshot");
    let volume = connect(&before.endpoint).await;
    fill(&volume, 0, MIB, 0x11).await;
    volume.flush().await.expect("a flush");
    let identity = (volume.namespace().nguid, volume.namespace().uuid);
    drop(volume);

    cluster.nodes[0].kill9();
    cluster.nodes[0].start_again().await;
    let after = frontend_is(&cluster, 0, "v1", "running").await;
    assert_eq!(after, before, "the same, on the same port");
    // What runs can be connected to at once.
    drop(connect(&after.endpoint).await);
    let back = engine_is(&cluster, 0, "v1-e-0", "running").await;
    assert_eq!((back.port, &back.replica_address_map), (engine.port, &engine.replica_address_map));
    assert!(back.replica_mode_map.values().all(|mode| *mode == 1), "{:?}", back.replica_mode_map);
    assert_eq!(back.snapshots.keys().collect::<Vec<_>>(), ["s1"]);
    let volume = connect(&after.endpoint).await;
    assert_eq!((volume.namespace().nguid, volume.namespace().uuid), identity);
    assert!(holds(&volume, 0, MIB, 0x11).await);
    fill(&volume, MIB, MIB, 0x22).await;
    drop(volume);
    let same = cluster.nodes[0].spdk().engine_frontend_create(request("v1", NVMF, "")).await.expect("it is there");
    assert_eq!(same.into_inner(), before, "its owner may ask for it again");

    // An orderly stop is no different, and the node of a remote frontend neither.
    cluster.nodes[0].restart().await;
    frontend_is(&cluster, 0, "v1", "running").await;
    engine_is(&cluster, 0, "v1-e-0", "running").await;
    cluster.nodes[1].restart().await;
    assert_eq!(frontend_is(&cluster, 1, "v1", "running").await, remote);
    assert!(holds(&connect(&before.endpoint).await, MIB, MIB, 0x22).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_does_not_come_back() {
    let mut cluster = Cluster::start(1).await;
    cluster.volume("v1", NVMF).await;
    cluster.frontend(0, request("v1", NVMF, "")).await;
    cluster.frontend_delete(0, "v1").await;
    let mut spdk = cluster.nodes[0].spdk();
    spdk.engine_delete(wire::EngineDeleteRequest { name: "v1-e-0".into() }).await.expect("the engine is deleted");
    let stop = wire::ReplicaDeleteRequest { name: "v1-r-00000000".into(), cleanup_required: false };
    spdk.replica_delete(stop).await.expect("the replica is stopped");
    cluster.nodes[0].kill9();
    cluster.nodes[0].start_again().await;
    refused(cluster.frontend_get(0, "v1").await, Code::NotFound, "v1-ef");
    refused(cluster.engine_get(0, "v1-e-0").await, Code::NotFound, "v1-e-0");
    let get = wire::ReplicaGetRequest { name: "v1-r-00000000".into() };
    let replica = cluster.nodes[0].spdk().replica_get(get).await.expect("its data is there").into_inner();
    assert_eq!(replica.state, "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_waits_for_replicas_that_may_be_newer_and_comes_back_with_them() {
    let mut cluster = Cluster::start(2).await;
    cluster.volume("v1", NVMF).await;
    let frontend = cluster.frontend(0, request("v1", NVMF, "")).await;
    let volume = connect(&frontend.endpoint).await;
    fill(&volume, 0, MIB, 0x11).await;
    // The engine's node dies first, so both replicas are in sync by what they know.
    cluster.nodes[0].kill9();
    cluster.nodes[1].kill9();
    cluster.nodes[0].start_again().await;
    let waiting = wait_until(LIMIT, "the engine says what it waits for", async || {
        let engine = cluster.engine_get(0, "v1-e-0").await.map_err(|status| status.to_string())?;
        if engine.error_msg.contains("v1-r-00000001") { Ok(engine) } else { Err(engine.error_msg) }
    })
    .await;
    assert_eq!(waiting.state, "pending");
    assert_eq!(cluster.frontend_get(0, "v1").await.expect("it is there").state, "pending");
    cluster.nodes[1].start_again().await;
    let engine = engine_is(&cluster, 0, "v1-e-0", "running").await;
    assert!(engine.replica_mode_map.values().all(|mode| *mode == 1), "{:?}", engine.replica_mode_map);
    let frontend = frontend_is(&cluster, 0, "v1", "running").await;
    assert!(holds(&connect(&frontend.endpoint).await, 0, MIB, 0x11).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_volume_another_one_has_served_since_does_not_come_back() {
    let mut cluster = Cluster::start_with(2, |options| options.set("timeouts.recovery", "2s")).await;
    let engine = cluster.volume("v1", NVMF).await;
    cluster.frontend(0, request("v1", NVMF, "")).await;
    cluster.nodes[0].kill9();
    // The owner goes on with the replica that is left, on the other node.
    let mut left = engine.replica_address_map.clone();
    left.retain(|replica, _| replica == "v1-r-00000001");
    let taken_over = cluster.engine(1, ("v1", 1), NVMF, left).await;
    let endpoint = format!("nvmf://{}/{}", target_of(&taken_over), crate::cluster::nqn("v1"));
    let volume = connect(&endpoint).await;
    fill(&volume, 0, MIB, 0x22).await;
    cluster.nodes[0].start_again().await;
    let engine = engine_is(&cluster, 0, "v1-e-0", "error").await;
    assert!(engine.error_msg.contains("another engine has served"), "{}", engine.error_msg);
    frontend_is(&cluster, 0, "v1", "error").await;
    fill(&volume, MIB, MIB, 0x33).await;
    assert!(holds(&volume, 0, MIB, 0x22).await, "the volume goes on where it is");
    assert_eq!(cluster.engine_get(1, "v1-e-1").await.expect("it is there").state, "running");
    cluster.frontend_delete(0, "v1").await;
    let delete = wire::EngineDeleteRequest { name: "v1-e-0".into() };
    cluster.nodes[0].spdk().engine_delete(delete).await.expect("the old one is deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_record_is_set_aside_and_the_others_come_back() {
    let mut cluster = Cluster::start(1).await;
    for volume in ["v1", "v2"] {
        cluster.volume(volume, NVMF).await;
        cluster.frontend(0, request(volume, NVMF, "")).await;
    }
    cluster.nodes[0].stop().await;
    let folder = cluster.nodes[0].directory().join("state/frontends");
    let text = fs::read(folder.join("v1-ef.json")).expect("the record");
    fs::write(folder.join("v1-ef.json"), &text[..text.len() / 2]).expect("half a record");
    cluster.nodes[0].start_again().await;
    frontend_is(&cluster, 0, "v2", "running").await;
    refused(cluster.frontend_get(0, "v1").await, Code::NotFound, "v1-ef");
    assert_eq!(fs::read(folder.join("v1-ef.unreadable")).expect("set aside"), &text[..text.len() / 2]);
    assert!(cluster.nodes[0].log().contains("unreadable and was set aside"));
    engine_is(&cluster, 0, "v1-e-0", "running").await;
    cluster.frontend(0, request("v1", NVMF, "")).await;
}
