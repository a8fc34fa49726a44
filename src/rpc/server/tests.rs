use std::time::Instant;

use tokio::sync::oneshot;
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
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use crate::wire::spdkrpc::{EngineGetRequest, LogGetLevelResponse, LogSetLevelRequest};

/// Answers one call, and keeps one stream open for ever.
struct Service;

#[tonic::async_trait]
impl SpdkService for Service {
    async fn log_get_level(&self, _: Request<()>) -> std::result::Result<Response<LogGetLevelResponse>, Status> {
        Ok(Response::new(LogGetLevelResponse { level: "info".into() }))
    }

    async fn engine_watch(&self, _: Request<()>) -> std::result::Result<Response<BoxStream<()>>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

impl CorrienteService for Service {}

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<crate::Result<()>>,
}

const MESSAGE_BYTES: usize = 64 << 10;

async fn start(unix_socket: Option<PathBuf>) -> Running {
    let mut config = NodeConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        unix_socket: OptionalPath(unix_socket),
        ..NodeConfig::default()
    };
    config.timeouts.shutdown = Duration::from_millis(300);
    let listeners = Listeners::bind(&config).await.expect("free addresses");
    let address = listeners.address().unwrap();
    let (routes, _) = routes(MESSAGE_BYTES, Service, Service).expect("valid descriptors");
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(listeners.serve(routes, Metrics::new(), async {
        let _ = stopped.await;
    }));
    Running { address, stop, server }
}

impl Running {
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
async fn health_serves_and_reflection_knows_our_services() {
    let running = start(None).await;
    let channel = running.connect().await;
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);

    let question = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(tokio_stream::once(question)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["spdkrpc.SPDKService", "corriente.v1.CorrienteService", "grpc.health.v1.Health"] {
        assert!(names.contains(&service), "{service} is not in {names:?}");
    }
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_stream_that_nobody_ends() {
    let running = start(None).await;
    let mut client = SpdkServiceClient::new(running.connect().await);
    let _stream = client.engine_watch(()).await.expect("a stream").into_inner();
    let begun = Instant::now();
    running.stop.send(()).unwrap();
    running.server.await.unwrap().expect("a clean end");
    let took = begun.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&took), "took {took:?}");
}

#[tokio::test]
async fn shutdown_without_calls_does_not_wait_for_the_limit() {
    let running = start(None).await;
    let begun = Instant::now();
    running.stop.send(()).unwrap();
    running.server.await.unwrap().expect("a clean end");
    assert!(begun.elapsed() < Duration::from_millis(250), "took {:?}", begun.elapsed());
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
