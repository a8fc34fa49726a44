//! The stream of events, from gRPC and from the command line.

use std::path::Path;
use std::time::Duration;

use corriente::wire::corriente::v1 as own;
use corriente::wire::corriente::v1::corriente_service_client::CorrienteServiceClient;
use corriente::wire::spdkrpc as wire;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};

use crate::cluster::{Cluster, create_replica, refused};
use crate::scene::volume;
use crate::support::node::Node;
use crate::support::process::Process;
use crate::support::wait::wait_until;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

async fn watch(node: &Node, kinds: &[&str]) -> Streaming<own::Event> {
    let request = own::EventsRequest { object_kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect() };
    // Without the limit on calls of the other clients: a watch has none.
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc_address())).expect("a URI").connect_lazy();
    CorrienteServiceClient::new(channel).events(request).await.expect("a stream").into_inner()
}

/// Reads until an event comes, and returns those before it and it.
async fn until(events: &mut Streaming<own::Event>, kind: &str, name: &str, what: &str) -> Vec<own::Event> {
    let mut seen = Vec::new();
    loop {
        let event = tokio::time::timeout(LIMIT, events.message()).await;
        let event = event.unwrap_or_else(|_| panic!("no {kind} {name} {what} after {seen:#?}"));
        let event = event.expect("no error").expect("the stream goes on");
        let found = (event.object_kind.as_str(), event.object_name.as_str(), event.what.as_str()) == (kind, name, what);
        seen.push(event);
        if found {
            return seen;
        }
    }
}

async fn snapshot(node: &Node, engine: &str, snapshot: &str) -> Result<(), tonic::Status> {
    let request = wire::SnapshotRequest { name: engine.into(), snapshot_name: snapshot.into(), ..Default::default() };
    node.spdk().engine_snapshot_create(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_happens_to_engines_members_replicas_and_restores() {
    let mut cluster = Cluster::start().await;
    let node = &cluster.nodes[0];
    refused(
        node.corriente().events(own::EventsRequest { object_kinds: vec!["volume".into()] }).await,
        Code::InvalidArgument,
        "object_kinds",
    );
    let mut all = watch(node, &[]).await;
    let mut restores = watch(node, &["restore"]).await;

    let source = cluster.fixtures.volume("pvc-5f2d1c7e-lz4");
    let (size, backup) = (source.restore_size, source.backups[0].name.clone());
    let url = cluster.url(&source.name, &backup);
    let replicas = cluster.replicas("dr", size).await;
    cluster.engine("dr", size, "", replicas).await;
    let seen = until(&mut all, "engine", "dr-e-0", "created").await;
    let told = |kind: &str, name: &str, what: &str| {
        seen.iter().any(|event| {
            (event.object_kind.as_str(), event.object_name.as_str(), event.what.as_str()) == (kind, name, what)
        })
    };
    assert!(told("replica", "dr-r-00000000", "created"), "{seen:#?}");
    assert!(told("member", "dr-r-00000000", "in-sync") && told("member", "dr-r-00000001", "in-sync"), "{seen:#?}");
    assert!(seen.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1), "{seen:#?}");

    cluster.start_restore("dr", url).await.expect("the restore starts");
    let seen = until(&mut restores, "restore", "dr-e-0", "completed").await;
    assert_eq!(seen.iter().map(|event| event.what.as_str()).collect::<Vec<_>>(), ["started", "completed"]);
    assert!(seen.iter().all(|event| event.message.contains(&backup)), "{seen:#?}");
    assert!(cluster.status("dr").await.iter().all(|entry| entry.last_restored == backup), "told once it is so");
    until(&mut all, "restore", "dr-e-0", "completed").await;

    cluster.nodes[1].kill9();
    snapshot(&cluster.nodes[0], "dr-e-0", "s1").await.expect_err("a replica failed");
    let failed = until(&mut all, "member", "dr-r-00000001", "failed").await.pop().expect("the event");
    assert!(failed.message.contains("volume dr"), "{failed:?}");

    cluster.delete_engine("dr").await;
    until(&mut all, "engine", "dr-e-0", "deleted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_loses_events_is_told_and_holds_nothing_up() {
    let cluster = Cluster::start_with(|options| options.set("limits.watch_queue_depth", "4")).await;
    let node = &cluster.nodes[0];
    create_replica(node, "r-1", MIB).await;
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc_address()))
        .expect("a URI")
        .initial_stream_window_size(256)
        .connect_lazy();
    let mut slow =
        CorrienteServiceClient::new(channel).events(own::EventsRequest::default()).await.unwrap().into_inner();
    // Far more than the window and the ring hold.
    for index in 0..40 {
        let name = format!("s{index}");
        let request = wire::SnapshotRequest { name: "r-1".into(), snapshot_name: name, ..Default::default() };
        node.spdk().replica_snapshot_create(request.clone()).await.expect("a snapshot");
        node.spdk().replica_snapshot_delete(request).await.expect("deleted");
    }
    let mut lost = 0;
    let mut told = 0;
    let last = loop {
        let event = tokio::time::timeout(LIMIT, slow.message()).await.expect("an event is due");
        let event = event.expect("no error").expect("the stream goes on");
        lost += event.lost_before;
        if event.lost_before > 0 {
            assert_eq!((event.object_kind.as_str(), event.what.as_str(), event.sequence), ("node", "events-lost", 0));
            continue;
        }
        told += 1;
        if event.what == "snapshot-deleted" && event.message == "s39" {
            break event;
        }
    };
    assert!(lost > 0, "nothing was lost");
    assert!(told + lost >= 80, "{told} told, {lost} lost");
    assert!(last.sequence >= 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_events_prints_a_line_an_event_and_ends_with_the_node() {
    // Calls of watchers are logged as details.
    let mut cluster = Cluster::start_with(|options| options.set("log.filter", "info,corriente::rpc=debug")).await;
    let log = cluster.nodes[0].directory().join("events");
    let server = cluster.nodes[0].grpc_address().to_string();
    let arguments = ["node", "events", "-o", "json", "--kind", "engine", "--kind", "node", "--server", &server];
    let mut client = Process::spawn("events", Path::new(env!("CARGO_BIN_EXE_corriente")), &arguments, &[], log);
    wait_until(LIMIT, "the watch is on", async || match cluster.nodes[0].log().contains("\"Events\"") {
        true => Ok(()),
        false => Err("no call yet".into()),
    })
    .await;
    volume(&cluster, "cli", MIB).await;
    cluster.delete_engine("cli").await;
    cluster.nodes[0].stop().await;
    let status = wait_until(LIMIT, "the client ends", async || client.ended().ok_or_else(|| "it runs".into())).await;
    let output = client.log();
    assert_eq!(status.code(), Some(6), "{output}");
    let events: Vec<serde_json::Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let what = |kind: &str| -> Vec<_> {
        events.iter().filter(|event| event["object_kind"] == kind).map(|event| event["what"].clone()).collect()
    };
    let engine = what("engine");
    assert!(engine.contains(&"created".into()) && engine.last() == Some(&"deleted".into()), "{output}");
    assert!(events.iter().all(|event| ["engine", "node"].contains(&event["object_kind"].as_str().unwrap_or(""))));
    assert!(output.contains("the node is stopping"), "{output}");
}
