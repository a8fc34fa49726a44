//! Creating, showing and deleting frontends: types, endpoints, errors, idempotence, watches.

use std::path::Path;

use corriente::initiator::{Options, discover};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{Cluster, NVMF, connect, fill, holds, host, nqn, refused, request, target_of};
use crate::support::wait::wait_until;

const BLOCKDEV: &str = "spdk-tcp-blockdev";

#[tokio::test(flavor = "multi_thread")]
async fn frontends_of_each_type_come_and_go() {
    let cluster = Cluster::start(1).await;
    let mut spdk = cluster.nodes[0].spdk();
    let engine = cluster.volume("v1", NVMF).await;
    let target = target_of(&engine);

    // By the target's address, and by none: the engine of the node.
    for address in [target.as_str(), ""] {
        let frontend = cluster.frontend(0, request("v1", NVMF, address)).await;
        assert_eq!(frontend.endpoint, format!("nvmf://{target}/{}", nqn("v1")));
        assert_eq!((frontend.engine_name.as_str(), frontend.volume_name.as_str()), ("v1-e-0", "v1"));
        assert_eq!((frontend.active_path.as_str(), frontend.paths.len()), (target.as_str(), 1));
        assert_eq!(
            (frontend.paths[0].nqn.as_str(), frontend.paths[0].ana_state.as_str()),
            (nqn("v1").as_str(), "optimized")
        );
        assert_eq!(cluster.frontend_get(0, "v1").await.expect("it is there"), frontend);
        let volume = connect(&frontend.endpoint).await;
        fill(&volume, 0, 65536, 0x5a).await;
        assert!(holds(&volume, 0, 65536, 0x5a).await);
        volume.disconnect().await.expect("an orderly end");
        cluster.frontend_delete(0, "v1").await;
        refused(cluster.frontend_get(0, "v1").await, Code::NotFound, "v1-ef");
    }
    let address = target.parse().expect("an address");
    let offered = discover(address, &host(), &Options::default()).await.expect("the target answers discovery");
    assert!(offered.iter().any(|entry| entry.nqn == nqn("v1")), "{offered:?}");

    // The empty one needs no target, and nothing is to be opened.
    let empty = cluster.frontend(0, request("v1", "", "")).await;
    assert_eq!((empty.endpoint.as_str(), empty.frontend.as_str()), ("", ""));
    let listed = spdk.engine_frontend_list(()).await.expect("a list").into_inner().engine_frontends;
    assert_eq!(listed.into_iter().collect::<Vec<_>>(), [("v1-ef".to_owned(), empty)]);
    cluster.frontend_delete(0, "v1").await;
    cluster.frontend_delete(0, "v1").await;

    // The engine outlives its frontends.
    assert_eq!(cluster.engine_get(0, "v1-e-0").await.expect("it is there").state, "running");
    refused(spdk.engine_frontend_create(request("v1", "ublk", "")).await, Code::Unimplemented, "ublk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_device_needs_the_kernels_module() {
    if Path::new("/sys/module/nvme_tcp").exists() {
        println!("skipped: this kernel has nvme-tcp");
        return;
    }
    let cluster = Cluster::start(1).await;
    cluster.volume("v1", BLOCKDEV).await;
    let created = cluster.nodes[0].spdk().engine_frontend_create(request("v1", BLOCKDEV, "")).await;
    refused(created, Code::FailedPrecondition, "nvme-tcp");
    refused(cluster.frontend_get(0, "v1").await, Code::NotFound, "v1-ef");
    // The same engine serves a host of its own all the same.
    cluster.frontend(0, request("v1", NVMF, "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_cannot_reach_its_volume_is_in_state_error_and_can_be_deleted() {
    let cluster = Cluster::start(1).await;
    let mut spdk = cluster.nodes[0].spdk();
    let in_error = |frontend: wire::EngineFrontend, words: &str| {
        assert_eq!((frontend.state.as_str(), frontend.endpoint.as_str()), ("error", ""));
        assert!(frontend.error_msg.contains(words), "{words:?} is not in {:?}", frontend.error_msg);
    };
    let without = spdk.engine_frontend_create(request("none", NVMF, "")).await.expect("an answer").into_inner();
    in_error(without, "engine none-e-0 does not exist");
    let suspended = cluster.suspend(0, "none").await;
    refused(suspended, Code::FailedPrecondition, "state error");
    // Asked for again once there is an engine, it comes up.
    cluster.volume("none", NVMF).await;
    cluster.frontend(0, request("none", NVMF, "")).await;
    cluster.frontend_delete(0, "none").await;

    cluster.volume("bare", "").await;
    let targetless = spdk.engine_frontend_create(request("bare", NVMF, "")).await.expect("an answer").into_inner();
    in_error(targetless, "no target");
    cluster.frontend_delete(0, "bare").await;
    let foreign = wire::EngineFrontendCreateRequest { volume_name: "other".into(), ..request("bare", "", "") };
    in_error(spdk.engine_frontend_create(foreign).await.expect("an answer").into_inner(), "volume bare, not other");
    cluster.frontend_delete(0, "bare").await;
    let silent = request("bare", NVMF, "127.0.0.9:20001");
    in_error(spdk.engine_frontend_create(silent).await.expect("an answer").into_inner(), "127.0.0.9");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_shows_that_its_engine_is_gone_and_is_made_again_with_it() {
    let cluster = Cluster::start(1).await;
    let replicas = cluster.replicas("v1").await;
    let engine = cluster.engine(0, ("v1", 0), NVMF, replicas.clone()).await;
    cluster.frontend(0, request("v1", NVMF, "")).await;
    let mut watch = cluster.nodes[0].spdk().engine_frontend_watch(()).await.expect("a watch").into_inner();
    let delete = wire::EngineDeleteRequest { name: engine.name.clone() };
    cluster.nodes[0].spdk().engine_delete(delete).await.expect("the engine is deleted");
    watch.message().await.expect("a message").expect("of the engine's end");
    let orphan = cluster.frontend_get(0, "v1").await.expect("it is there");
    assert_eq!(orphan.state, "error");
    assert!(orphan.error_msg.contains("v1-e-0 does not exist"), "{}", orphan.error_msg);
    // The port of the target that was given back may be another's by now.
    let engine = cluster.engine(0, ("v1", 0), NVMF, replicas).await;
    let frontend = cluster.frontend(0, request("v1", NVMF, "")).await;
    assert_eq!(frontend.active_path, target_of(&engine));
    fill(&connect(&frontend.endpoint).await, 0, 65536, 0x5a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_again_is_answered_and_another_one_is_refused_with_the_difference() {
    let cluster = Cluster::start(1).await;
    let mut spdk = cluster.nodes[0].spdk();
    let engine = cluster.volume("v1", NVMF).await;
    let first = cluster.frontend(0, request("v1", NVMF, "")).await;
    for same in [request("v1", NVMF, ""), request("v1", NVMF, &target_of(&engine))] {
        assert_eq!(spdk.engine_frontend_create(same).await.expect("it is there").into_inner(), first);
    }
    let differing = [
        (request("v1", "", ""), "spdk-tcp-nvmf"),
        (wire::EngineFrontendCreateRequest { volume_name: "v2".into(), ..request("v1", NVMF, "") }, "its volume is v1"),
        (wire::EngineFrontendCreateRequest { engine_name: "v1-e-1".into(), ..request("v1", NVMF, "") }, "v1-e-0"),
        (request("v1", NVMF, "127.0.0.9:20001"), "127.0.0"),
        (wire::EngineFrontendCreateRequest { spec_size: 1 << 40, ..request("v1", NVMF, "") }, "bytes"),
        (wire::EngineFrontendCreateRequest { name: "v1-ef-2".into(), ..request("v1", NVMF, "") }, "v1-ef"),
    ];
    for (request, difference) in differing {
        refused(spdk.engine_frontend_create(request).await, Code::AlreadyExists, difference);
    }
    assert_eq!(cluster.frontend_get(0, "v1").await.expect("it is there"), first, "nothing has changed");

    // Engines are the same in this.
    let again = wire::EngineCreateRequest {
        name: "v1-e-0".into(),
        volume_name: "v1".into(),
        spec_size: engine.spec_size,
        replica_address_map: engine.replica_address_map.clone(),
        frontend: NVMF.into(),
        ..Default::default()
    };
    let known = spdk.engine_create(again.clone()).await.expect("it is there").into_inner();
    assert_eq!((known.state.as_str(), known.port), ("running", engine.port));
    let other = wire::EngineCreateRequest { frontend: String::new(), ..again };
    refused(spdk.engine_create(other).await, Code::AlreadyExists, "its frontend is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_of_creation_suspension_and_deletion() {
    let cluster = Cluster::start(1).await;
    let mut watch = cluster.nodes[0].spdk().engine_frontend_watch(()).await.expect("a watch").into_inner();
    cluster.volume("v1", NVMF).await;
    cluster.frontend(0, request("v1", NVMF, "")).await;
    watch.message().await.expect("a message").expect("of the creation");
    // What one change told in several steps is over when the list stays the same.
    let quiet = std::time::Duration::from_millis(500);
    while tokio::time::timeout(quiet, watch.message()).await.is_ok() {}
    cluster.suspend(0, "v1").await.expect("it is suspended");
    watch.message().await.expect("a message").expect("of the suspension");
    cluster.resume(0, "v1").await.expect("it goes on");
    cluster.frontend_delete(0, "v1").await;
    wait_until(crate::cluster::LIMIT, "the watch tells of the deletion", async || {
        watch.message().await.expect("a message").expect("of the end");
        match cluster.frontend_get(0, "v1").await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_takes_what_is_no_name_and_every_call_names_what_is_not_there() {
    let cluster = Cluster::start(1).await;
    let mut spdk = cluster.nodes[0].spdk();
    for (name, code) in [("", Code::InvalidArgument), ("a b", Code::InvalidArgument), ("absent", Code::NotFound)] {
        let words = if code == Code::NotFound { "absent" } else { "name" };
        let order = |snapshot: &str| wire::SnapshotRequest {
            name: name.into(),
            snapshot_name: snapshot.into(),
            ..Default::default()
        };
        let get = wire::EngineFrontendGetRequest { name: name.into() };
        refused(spdk.engine_frontend_get(get).await, code, words);
        let suspend = wire::EngineFrontendSuspendRequest { name: name.into() };
        refused(spdk.engine_frontend_suspend(suspend).await, code, words);
        let resume = wire::EngineFrontendResumeRequest { name: name.into() };
        refused(spdk.engine_frontend_resume(resume).await, code, words);
        let expand = wire::EngineFrontendExpandRequest { name: name.into(), size: 1 << 25 };
        refused(spdk.engine_frontend_expand(expand).await, code, words);
        refused(spdk.engine_frontend_snapshot_create(order("")).await, code, words);
        refused(spdk.engine_frontend_snapshot_delete(order("s")).await, code, words);
        refused(spdk.engine_frontend_snapshot_revert(order("s")).await, code, words);
        refused(spdk.engine_frontend_snapshot_purge(order("")).await, code, words);
        let add = wire::EngineFrontendReplicaAddRequest {
            engine_frontend_name: name.into(),
            replica_name: "v1-r-0".into(),
            replica_address: "127.0.0.1:20001".into(),
            ..Default::default()
        };
        refused(spdk.engine_frontend_replica_add(add).await, code, words);
        let switch = wire::EngineFrontendSwitchOverRequest {
            name: name.into(),
            engine_name: "v1-e-1".into(),
            target_address: "127.0.0.1:20001".into(),
            switchover_phase: String::new(),
        };
        refused(spdk.engine_frontend_switch_over(switch).await, code, words);
        let delete = wire::EngineFrontendDeleteRequest { name: name.into() };
        let deleted = spdk.engine_frontend_delete(delete).await;
        if code == Code::NotFound {
            deleted.map(drop).expect("deleting nothing is done")
        } else {
            refused(deleted, code, words)
        }
    }
    assert!(spdk.engine_frontend_list(()).await.expect("a list").into_inner().engine_frontends.is_empty());
}
