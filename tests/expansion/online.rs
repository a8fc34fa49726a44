//! What a client, a frontend and a second caller see of an expansion.

use corriente::faults::{Action, Point};
use corriente::initiator::AsyncEvent;
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{Cluster, LIMIT, MIB, NVMF, SIZE, refused, request, target_of};
use crate::lab::{ENGINE, Lab, Work, works_in};

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_under_io_and_a_connected_host_is_told() {
    let lab = Lab::start(3).await;
    // The frontend is on another node than the engine.
    lab.cluster.frontend(1, request("v1", NVMF, &target_of(&lab.engine))).await;
    let mut client = lab.client().await;
    client.work().await;
    let mut size = SIZE;
    for round in 0..2 {
        let mut told = client.initiator().events();
        let work = Work::begin(client);
        size += 24 * MIB;
        match round {
            0 => {
                let expand = wire::EngineFrontendExpandRequest { name: "v1-ef".into(), size };
                lab.cluster.nodes[1].spdk().engine_frontend_expand(expand).await.expect("the volume grows");
                let frontend = lab.cluster.frontend_get(1, "v1").await.expect("it is there");
                assert_eq!((frontend.spec_size, frontend.last_expansion_error.as_str()), (size, ""));
            }
            _ => lab.expand(size).await.expect("the volume grows"),
        }
        let event = tokio::time::timeout(LIMIT, told.recv()).await.expect("the host is told").expect("an event");
        assert_eq!(event, AsyncEvent::NamespacesChanged { nsids: vec![1] });
        client = work.end().await;
        works_in(&mut client, size).await;
        let engine = lab.runs_with(&[0, 1, 2]).await;
        assert_eq!((engine.spec_size, engine.port), (size, lab.engine.port), "the same target");
        assert_eq!(engine.head.expect("a head").spec_size, size);
        lab.mirrored(&client, &[0, 1, 2]).await;
    }
    println!("slowest I/O: {:?}", client.slowest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expansion_that_is_in_progress_is_said_and_its_size_shows_only_when_it_can_be_used() {
    let lab = Lab::start(2).await;
    let client = lab.client().await;
    let watcher = lab.client().await;
    let work = Work::begin(client);
    let size = 2 * SIZE;
    assert!(lab.precheck(size).await.expect("it can grow"));
    assert!(!lab.precheck(SIZE).await.expect("nothing to do"));
    refused(lab.precheck(SIZE / 2).await, Code::InvalidArgument, "shrink");
    refused(lab.expand(size + 512).await, Code::InvalidArgument, "multiple");

    let faults = lab.cluster.nodes[0].faults();
    faults.always(Point::ExpansionSeen, Action::Block);
    let (mut spdk, request) = (lab.cluster.nodes[0].spdk(), wire::EngineExpandRequest { name: ENGINE.into(), size });
    let expanding = tokio::spawn(async move { spdk.engine_expand(request).await });
    faults.blocked(Point::ExpansionSeen).await;
    // Every replica has grown, the volume has not.
    assert_eq!((lab.replica_size(0).await, lab.replica_size(1).await), (size, size));
    let during = lab.get().await;
    assert_eq!((during.spec_size, during.is_expanding, during.state.as_str()), (SIZE, true, "running"));
    assert_eq!(watcher.initiator().refresh_namespace().await.expect("an answer").size_bytes(), SIZE);
    refused(lab.expand(size).await, Code::FailedPrecondition, "expansion is in progress");
    refused(lab.precheck(3 * SIZE).await, Code::FailedPrecondition, "expansion is in progress");
    let add = wire::EngineReplicaAddRequest {
        engine_name: ENGINE.into(),
        replica_name: "v1-r-00000009".into(),
        replica_address: "127.0.0.9:20001".into(),
        ..Default::default()
    };
    refused(lab.cluster.nodes[0].spdk().engine_replica_add(add).await, Code::FailedPrecondition, "expansion is in");
    faults.lift(Point::ExpansionSeen);
    expanding.await.expect("no panic").expect("the volume grows");
    lab.expand(size).await.expect("done already is done");

    let mut client = work.end().await;
    works_in(&mut client, size).await;
    let after = lab.get().await;
    assert_eq!((after.spec_size, after.is_expanding, after.last_expansion_error.as_str()), (size, false, ""));
    lab.mirrored(&client, &[0, 1]).await;
}

/// H8, H13: where there is no target there is no address made of nothing.
#[tokio::test(flavor = "multi_thread")]
async fn h8_a_frontend_without_a_target_expands_its_volume_and_shows_no_address() {
    let cluster = Cluster::start(1).await;
    cluster.volume("v1", "").await;
    cluster.frontend(0, request("v1", "", "")).await;
    let expand = wire::EngineFrontendExpandRequest { name: "v1-ef".into(), size: 2 * SIZE };
    cluster.nodes[0].spdk().engine_frontend_expand(expand).await.expect("the volume grows");
    let frontend = cluster.frontend_get(0, "v1").await.expect("it is there");
    assert_eq!((frontend.spec_size, frontend.endpoint.as_str()), (2 * SIZE, ""));
    assert!(frontend.paths.iter().all(|path| !path.target_ip.contains(':') && path.target_port == 0), "{frontend:?}");
    assert_eq!(cluster.engine_get(0, ENGINE).await.expect("it is there").spec_size, 2 * SIZE);
}
