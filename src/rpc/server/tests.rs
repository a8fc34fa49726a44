use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tonic::codegen::BoxStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;
use crate::config::OptionalPath;
use crate::rpc::gate::Gate;
use crate::telemetry::Health;
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use crate::wire::spdkrpc::{EngineGetRequest, LogGetLevelResponse, LogSetLevelRequest, VersionDetailGetReply};

/// Answers one call at once and one late, and keeps one stream open for ever.
#[derive(Default)]
struct Service {
    late_call: Arc<Notify>,
}

/// Longer than streams that nobody ends are waited for.
const LATE: Duration = Duration::from_secs(3);

#[tonic::async_trait]
impl SpdkService for Service {
    async fn log_get_level(&self, _: Request<()>) -> std::result::Result<Response<LogGetLevelResponse>, Status> {
        Ok(Response::new(LogGetLevelResponse { level: "info".into() }))
    }

    async fn version_detail_get(&self, _: Request<()>) -> std::result::Result<Response<VersionDetailGetReply>, Status> {
        self.late_call.notify_one();
        tokio::time::sleep(LATE).await;
        Ok(Response::new(VersionDetailGetReply::default()))
    }

    async fn engine_watch(&self, _: Request<()>) -> std::result::Result<Response<BoxStream<()>>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

impl CorrienteService for Service {}

struct Running {
    address: SocketAddr,
    gate: Gate,
    late_call: Arc<Notify>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<crate::Result<()>>,
}

const MESSAGE_BYTES: usize = 64 << 10;

const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);

async fn start(unix_socket: Option<PathBuf>) -> Running {
    let running = start_with(Gate::closed(Health::new()).expect("valid descriptors"), unix_socket).await;
    running.open();
    running
}

async fn start_with(gate: Gate, unix_socket: Option<PathBuf>) -> Running {
    let mut config = NodeConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        unix_socket: OptionalPath(unix_socket),
        ..NodeConfig::default()
    };
    config.timeouts.shutdown = SHUTDOWN_LIMIT;
    let listeners = Listeners::bind(&config, None).await.expect("free addresses");
    let address = listeners.address().unwrap();
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(listeners.serve(gate.routes(), Metrics::new(), async {
        let _ = stopped.await;
    }));
    Running { address, gate, late_call: Arc::default(), stop, server }
}

impl Running {
    fn open(&self) {
        let spdk = Service { late_call: self.late_call.clone() };
        self.gate.open(services(MESSAGE_BYTES, spdk, Service::default()));
    }

    async fn connect(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.expect("the server listens")
    }
}

#[tokio::test]
async fn a_call_nobody_wrote_is_unimplemented_and_a_call_too_large_is_refused() {
    let running = start(None).await;
    let mut client = SpdkServiceClient::new(running.connect().await);
    assert_eq!(client.log_get_level(()).await.unwrap().into_inner().level, "info");
    let status = client.engine_get(EngineGetRequest::default()).await.expect_err("not written");
    assert_eq!(status.code(), Code::Unimplemented);
    let large = LogSetLevelRequest { level: "x".repeat(MESSAGE_BYTES + 1) };
    let status = client.log_set_level(large).await.expect_err("too large");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

#[tokio::test]
async fn reflection_knows_our_services() {
    let running = start(None).await;
    let question = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut reflection = ServerReflectionClient::new(running.connect().await);
    let answers = reflection.server_reflection_info(tokio_stream::once(question)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["spdkrpc.SPDKService", "corriente.v1.CorrienteService", "grpc.health.v1.Health"] {
        assert!(names.contains(&service), "{service} is not in {names:?}");
    }
}

#[tokio::test]
async fn before_it_is_ready_a_node_says_so_and_serves_nothing_else() {
    let running = start_with(Gate::closed(Health::new()).expect("valid descriptors"), None).await;
    let channel = running.connect().await;
    let (mut health, mut client) = (HealthClient::new(channel.clone()), SpdkServiceClient::new(channel));
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    let mut watch = health.watch(check("")).await.unwrap().into_inner();
    let services = ["", "spdkrpc.SPDKService", "corriente.v1.CorrienteService"];
    for service in services {
        let status = health.check(check(service)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::NotServing, "{service:?}");
    }
    assert_eq!(health.check(check("another.Service")).await.expect_err("unknown").code(), Code::NotFound);
    let status = client.log_get_level(()).await.expect_err("not ready");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the node is starting"));

    running.open();
    for service in services {
        let status = health.check(check(service)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    assert_eq!(client.log_get_level(()).await.unwrap().into_inner().level, "info");

    running.gate.close();
    let mut seen = Vec::new();
    while let Some(message) = watch.message().await.expect("an orderly end") {
        seen.push(message.status());
    }
    assert_eq!(seen.last(), Some(&ServingStatus::NotServing), "{seen:?}");
    let status = client.log_get_level(()).await.expect_err("it stops");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the node is stopping"));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_stream_that_nobody_ends() {
    let running = start(None).await;
    let mut client = SpdkServiceClient::new(running.connect().await);
    let _stream = client.engine_watch(()).await.expect("a stream").into_inner();
    let begun = Instant::now();
    running.stop.send(()).unwrap();
    running.server.await.unwrap().expect("a clean end");
    assert!(begun.elapsed() < SHUTDOWN_LIMIT / 2, "took {:?}", begun.elapsed());
}

#[tokio::test]
async fn shutdown_waits_for_a_call() {
    let running = start(None).await;
    let mut client = SpdkServiceClient::new(running.connect().await);
    let call = tokio::spawn(async move { client.version_detail_get(()).await });
    running.late_call.notified().await;
    running.stop.send(()).unwrap();
    running.server.await.unwrap().expect("a clean end");
    call.await.unwrap().expect("the call was let finish");
}

#[tokio::test]
async fn a_peer_may_ping_as_often_as_it_likes_also_without_a_call() {
    let running = start(None).await;
    let connections = Arc::new(AtomicUsize::new(0));
    let (address, counted) = (running.address, connections.clone());
    let connector = tower::service_fn(move |_: Uri| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { TcpStream::connect(address).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://node")
        .http2_keep_alive_interval(Duration::from_millis(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true);
    let mut client = SpdkServiceClient::new(endpoint.connect_with_connector(connector).await.unwrap());
    for _ in 0..3 {
        client.log_get_level(()).await.expect("the connection lasts");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    client.log_get_level(()).await.expect("the connection lasts");
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn shutdown_without_calls_does_not_wait_for_the_limit() {
    let running = start(None).await;
    let begun = Instant::now();
    running.stop.send(()).unwrap();
    running.server.await.unwrap().expect("a clean end");
    assert!(begun.elapsed() < SHUTDOWN_LIMIT / 2, "took {:?}", begun.elapsed());
}

#[tokio::test]
async fn the_unix_socket_replaces_a_dead_one_and_refuses_a_live_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("corriente.sock");
    drop(UnixListener::bind(&path).expect("the socket of a process that died"));
    let running = start(Some(path.clone())).await;

    let socket = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://node").connect_with_connector(connector).await.unwrap();
    let level = SpdkServiceClient::new(channel).log_get_level(()).await.unwrap();
    assert_eq!(level.into_inner().level, "info");

    let second = UnixSocket::bind(&path).await.expect_err("it is taken").to_string();
    assert!(second.contains("another process listens there"), "{second}");
    running.stop.send(()).unwrap();
    running.server.await.unwrap().expect("a clean end");
    assert!(!path.exists());
}
