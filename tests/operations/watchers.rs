//! Watchers hold nothing up: neither changes, nor the end of the node.

use std::path::Path;
use std::time::Duration;

use corriente::wire::corriente::v1 as own;
use corriente::wire::corriente::v1::corriente_service_client::CorrienteServiceClient;
use corriente::wire::spdkrpc as wire;
use corriente::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::cluster::Cluster;
use crate::scene::{get, volume};
use crate::support::node::{Node, NodeOptions};
use crate::support::process::Process;
use crate::support::wait::wait_until;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Without a limit on calls: a watch has none.
fn channel(node: &Node) -> Channel {
    Endpoint::from_shared(format!("http://{}", node.grpc_address())).expect("a URI").connect_lazy()
}

/// The harness gives a node 30 s to stop; this limit is far above that, so a node that waits for a watcher fails.
const SHUTDOWN: &str = "10m";

#[tokio::test(flavor = "multi_thread")]
async fn open_watchers_end_by_themselves_and_the_node_stops_at_once() {
    let options = NodeOptions::named("watched").set("timeouts.shutdown", SHUTDOWN);
    // Calls of watchers are logged as details.
    let mut node = Node::start(options.set("log.filter", "info,corriente::rpc=debug")).await;
    assert_eq!(get(&node, "/readyz").await.0, "HTTP/1.1 200 OK");
    let channel = channel(&node);
    let mut spdk = SpdkServiceClient::new(channel.clone());
    let replicas = spdk.replica_watch(()).await.expect("a stream").into_inner();
    let engines = spdk.engine_watch(()).await.expect("a stream").into_inner();
    let mut events = CorrienteServiceClient::new(channel.clone())
        .events(own::EventsRequest::default())
        .await
        .expect("a stream")
        .into_inner();
    let mut health =
        HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.expect("a stream").into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    // The caller never ends its own side of this one.
    let question = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let questions = tokio_stream::once(question).chain(tokio_stream::pending());
    let mut reflection =
        ServerReflectionClient::new(channel).server_reflection_info(questions).await.unwrap().into_inner();
    reflection.message().await.unwrap().expect("an answer");
    // And this one does not take part in anything any more.
    let server = node.grpc_address().to_string();
    let log = node.directory().join("events");
    let arguments = ["node", "events", "--server", &server];
    let mut frozen = Process::spawn("frozen", Path::new(env!("CARGO_BIN_EXE_corriente")), &arguments, &[], log);
    wait_until(LIMIT, "the watch is on", async || match node.log().matches("\"Events\"").count() {
        0 | 1 => Err("no call yet".into()),
        _ => Ok(()),
    })
    .await;
    frozen.freeze();

    node.stop().await;
    for (name, mut stream) in [("replicas", replicas), ("engines", engines)] {
        let status = stream.message().await.expect_err("no change, so the end is next");
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "the node is stopping"), "{name}");
    }
    let status = events.message().await.expect_err("nothing happened, so the end is next");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the node is stopping"));
    assert_eq!(health.message().await.unwrap().expect("a step").status(), ServingStatus::NotServing);
    assert!(health.message().await.unwrap().is_none(), "an orderly end");
}

#[tokio::test(flavor = "multi_thread")]
async fn o11_watchers_that_never_read_hold_no_change_up() {
    let mut cluster = Cluster::start_with(|options| options.set("timeouts.shutdown", SHUTDOWN)).await;
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let channel = Endpoint::from_shared(format!("http://{}", cluster.nodes[0].grpc_address()))
            .expect("a URI")
            .initial_stream_window_size(16)
            .connect_lazy();
        let mut client = SpdkServiceClient::new(channel);
        deaf.push(client.engine_watch(()).await.expect("a stream"));
        deaf.push(client.replica_watch(()).await.expect("a stream"));
    }
    volume(&cluster, "vol", MIB).await;
    for index in 0..20 {
        let name = format!("s{index}");
        let request = wire::SnapshotRequest { name: "vol-e-0".into(), snapshot_name: name, ..Default::default() };
        cluster.nodes[0].spdk().engine_snapshot_create(request.clone()).await.expect("a snapshot");
        cluster.nodes[0].spdk().engine_snapshot_delete(request).await.expect("deleted");
    }
    let engine = cluster.get("vol").await;
    assert!(engine.snapshots.is_empty(), "{:?}", engine.snapshots);
    // One that reads late sees that something changed, and then nothing old.
    let mut late = deaf.pop().expect("a stream").into_inner();
    late.message().await.expect("no error").expect("a change");
    cluster.delete_engine("vol").await;
    cluster.nodes[0].stop().await;
}
