//! What goes through a frontend to its engine, on the same node and on another.

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{Cluster, MIB, NVMF, SIZE, connect, fill, holds, refused, request, snapshot, target_of};

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_go_through_the_frontend_wherever_the_engine_is() {
    let cluster = Cluster::start(2).await;
    let engine = cluster.volume("v1", NVMF).await;
    let names = async || {
        let engine = cluster.engine_get(0, "v1-e-0").await.expect("it is there");
        engine.snapshots.into_keys().collect::<Vec<_>>()
    };
    for node in [0, 1] {
        let frontend = cluster.frontend(node, request("v1", NVMF, &target_of(&engine))).await;
        let mut spdk = cluster.nodes[node].spdk();
        let made = spdk.engine_frontend_snapshot_create(snapshot("v1", "s1")).await.expect("a snapshot").into_inner();
        assert_eq!(made.snapshot_name, "s1");
        let unnamed = spdk.engine_frontend_snapshot_create(snapshot("v1", "")).await.expect("a snapshot").into_inner();
        let mut expected = vec!["s1".to_owned(), unnamed.snapshot_name.clone()];
        expected.sort();
        assert_eq!(names().await, expected);
        refused(spdk.engine_frontend_snapshot_create(snapshot("v1", "s1")).await, Code::AlreadyExists, "s1");
        let reserved = spdk.engine_frontend_snapshot_create(snapshot("v1", "x-clone-ep-y")).await;
        refused(reserved, Code::InvalidArgument, "snapshot_name");
        spdk.engine_frontend_snapshot_delete(snapshot("v1", &unnamed.snapshot_name)).await.expect("it is deleted");
        spdk.engine_frontend_snapshot_purge(snapshot("v1", "")).await.expect("purged");
        assert_eq!(names().await, ["s1"], "what a user made stays");
        let reverted = spdk.engine_frontend_snapshot_revert(snapshot("v1", "s1")).await;
        refused(reverted, Code::FailedPrecondition, "empty frontend");
        spdk.engine_frontend_snapshot_delete(snapshot("v1", "s1")).await.expect("it is deleted");
        assert!(names().await.is_empty());
        assert_eq!(frontend.endpoint, format!("nvmf://{}/{}", target_of(&engine), crate::cluster::nqn("v1")));
        cluster.frontend_delete(node, "v1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_goes_through_an_empty_frontend() {
    let cluster = Cluster::start(1).await;
    let replicas = cluster.replicas("v1").await;
    let mut spdk = cluster.nodes[0].spdk();
    cluster.engine(0, ("v1", 0), NVMF, replicas.clone()).await;
    let frontend = cluster.frontend(0, request("v1", NVMF, "")).await;
    let volume = connect(&frontend.endpoint).await;
    fill(&volume, 0, MIB, 0x11).await;
    spdk.engine_frontend_snapshot_create(snapshot("v1", "s1")).await.expect("a snapshot");
    fill(&volume, 0, MIB, 0x22).await;
    volume.disconnect().await.expect("an orderly end");
    let reopen = async |frontend: &str| {
        let mut spdk = cluster.nodes[0].spdk();
        cluster.frontend_delete(0, "v1").await;
        let request_of_engine = wire::EngineDeleteRequest { name: "v1-e-0".into() };
        spdk.engine_delete(request_of_engine).await.expect("the engine is deleted");
        cluster.engine(0, ("v1", 0), frontend, replicas.clone()).await;
        cluster.frontend(0, request("v1", frontend, "")).await
    };
    reopen("").await;
    spdk.engine_frontend_snapshot_revert(snapshot("v1", "s1")).await.expect("it is reverted");
    refused(spdk.engine_frontend_snapshot_revert(snapshot("v1", "s2")).await, Code::NotFound, "s2");
    let frontend = reopen(NVMF).await;
    assert!(holds(&connect(&frontend.endpoint).await, 0, MIB, 0x11).await, "the revert did not reach the data");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expansion_goes_through_the_frontend_and_the_target_stays_where_it_is() {
    let cluster = Cluster::start(2).await;
    let engine = cluster.volume("v1", NVMF).await;
    for (node, size) in [(0, 2 * SIZE), (1, 3 * SIZE)] {
        let before = SIZE.max(size - SIZE);
        let request_now =
            wire::EngineFrontendCreateRequest { spec_size: before, ..request("v1", NVMF, &target_of(&engine)) };
        let frontend = cluster.frontend(node, request_now).await;
        let volume = connect(&frontend.endpoint).await;
        fill(&volume, before - MIB, MIB, 0x66).await;
        volume.disconnect().await.expect("an orderly end");
        let mut spdk = cluster.nodes[node].spdk();
        let expand = |size| wire::EngineFrontendExpandRequest { name: "v1-ef".into(), size };
        refused(spdk.engine_frontend_expand(expand(MIB)).await, Code::InvalidArgument, "size");
        refused(spdk.engine_frontend_expand(expand(size + 1)).await, Code::InvalidArgument, "size");
        let failed = cluster.frontend_get(node, "v1").await.expect("it is there");
        assert!(failed.last_expansion_error.contains("multiple") && !failed.last_expansion_failed_at.is_empty());
        spdk.engine_frontend_expand(expand(size)).await.expect("it is expanded");
        spdk.engine_frontend_expand(expand(size)).await.expect("expanded already is done");
        let grown = cluster.frontend_get(node, "v1").await.expect("it is there");
        assert_eq!((grown.spec_size, grown.is_expanding, grown.last_expansion_error.as_str()), (size, false, ""));
        assert_eq!(grown.endpoint, frontend.endpoint, "clients find it where it was");
        let volume = connect(&grown.endpoint).await;
        assert_eq!(volume.namespace().size_bytes(), size);
        assert!(holds(&volume, before - MIB, MIB, 0x66).await);
        fill(&volume, size - MIB, MIB, 0x77).await;
        assert!(holds(&volume, size - MIB, MIB, 0x77).await);
        volume.disconnect().await.expect("an orderly end");
        cluster.frontend_delete(node, "v1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_join_is_refused_with_the_reason() {
    let cluster = Cluster::start(1).await;
    cluster.volume("v1", NVMF).await;
    cluster.frontend(0, request("v1", NVMF, "")).await;
    let add = |replica: &str, address: &str| wire::EngineFrontendReplicaAddRequest {
        engine_frontend_name: "v1-ef".into(),
        replica_name: replica.into(),
        replica_address: address.into(),
        ..Default::default()
    };
    let mut spdk = cluster.nodes[0].spdk();
    refused(spdk.engine_frontend_replica_add(add("", "127.0.0.1:20001")).await, Code::InvalidArgument, "replica_name");
    refused(spdk.engine_frontend_replica_add(add("v1-r-9", "")).await, Code::InvalidArgument, "replica_address");
    cluster.suspend(0, "v1").await.expect("it is suspended");
    refused(
        spdk.engine_frontend_replica_add(add("v1-r-9", "127.0.0.1:20001")).await,
        Code::FailedPrecondition,
        "suspended",
    );
}
