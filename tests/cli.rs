//! The `corriente` program from outside: arguments, exit codes, and what it prints where; against nodes of this test
//! that answer over real gRPC.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use corriente::config::{NodeConfig, OptionalPath};
use corriente::rpc::gate::Gate;
use corriente::rpc::server::{Listeners, services};
use corriente::telemetry::{Health, Metrics};
use corriente::wire::corriente::v1::corriente_service_server::CorrienteService;
use corriente::wire::corriente::v1::*;
use corriente::wire::spdkrpc::spdk_service_server::SpdkService;
use corriente::wire::spdkrpc::*;
use serde_json::Value;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// A node that makes what it is asked for and remembers it, and fails where it is told to.
#[derive(Default)]
struct State {
    replicas: Vec<Replica>,
    engines: Vec<Engine>,
    disks: Vec<Disk>,
    engine_fails: bool,
    restore: RestoreStatusResponse,
}

#[derive(Clone, Default)]
struct FakeNode(Arc<Mutex<State>>);

#[tonic::async_trait]
impl SpdkService for FakeNode {
    async fn replica_create(&self, request: Request<ReplicaCreateRequest>) -> Answer<Replica> {
        let local = request.local_addr().expect("over TCP");
        let request = request.into_inner();
        let replica = Replica {
            name: request.name,
            lvs_name: request.lvs_name,
            spec_size: request.spec_size,
            ip: local.ip().to_string(),
            port_start: 20001,
            state: "running".into(),
            ..Default::default()
        };
        self.0.lock().unwrap().replicas.push(replica.clone());
        Ok(Response::new(replica))
    }

    async fn replica_delete(&self, request: Request<ReplicaDeleteRequest>) -> Answer<()> {
        let request = request.into_inner();
        assert!(request.cleanup_required, "a replica that is undone leaves nothing");
        self.0.lock().unwrap().replicas.retain(|replica| replica.name != request.name);
        Ok(Response::new(()))
    }

    async fn replica_list(&self, _: Request<()>) -> Answer<ReplicaListResponse> {
        let replicas = self.0.lock().unwrap().replicas.clone();
        let replicas = replicas.into_iter().map(|replica| (replica.name.clone(), replica)).collect();
        Ok(Response::new(ReplicaListResponse { replicas }))
    }

    async fn engine_create(&self, request: Request<EngineCreateRequest>) -> Answer<Engine> {
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        let engine = Engine {
            name: request.name,
            volume_name: request.volume_name,
            spec_size: request.spec_size,
            replica_mode_map: request.replica_address_map.keys().map(|name| (name.clone(), 1)).collect(),
            replica_address_map: request.replica_address_map,
            frontend: request.frontend,
            state: if state.engine_fails { "error" } else { "running" }.into(),
            error_msg: if state.engine_fails { "no port is free" } else { "" }.into(),
            ..Default::default()
        };
        state.engines.push(engine.clone());
        Ok(Response::new(engine))
    }

    async fn engine_get(&self, request: Request<EngineGetRequest>) -> Answer<Engine> {
        let name = request.into_inner().name;
        let found = self.0.lock().unwrap().engines.iter().find(|engine| engine.name == name).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found(format!("engine {name} does not exist")))
    }

    async fn engine_list(&self, _: Request<()>) -> Answer<EngineListResponse> {
        let engines = self.0.lock().unwrap().engines.clone();
        let engines = engines.into_iter().map(|engine| (engine.name.clone(), engine)).collect();
        Ok(Response::new(EngineListResponse { engines }))
    }

    async fn engine_delete(&self, request: Request<EngineDeleteRequest>) -> Answer<()> {
        let name = request.into_inner().name;
        self.0.lock().unwrap().engines.retain(|engine| engine.name != name);
        Ok(Response::new(()))
    }

    async fn engine_snapshot_revert(&self, _: Request<SnapshotRequest>) -> Answer<()> {
        Err(Status::failed_precondition("engine e: it has a frontend"))
    }

    async fn engine_backup_restore(
        &self,
        _: Request<EngineBackupRestoreRequest>,
    ) -> Answer<EngineBackupRestoreResponse> {
        Ok(Response::new(EngineBackupRestoreResponse::default()))
    }

    async fn engine_restore_status(&self, _: Request<RestoreStatusRequest>) -> Answer<RestoreStatusResponse> {
        Ok(Response::new(self.0.lock().unwrap().restore.clone()))
    }
}

#[tonic::async_trait]
impl CorrienteService for FakeNode {
    async fn disk_list(&self, _: Request<()>) -> Answer<DiskListResponse> {
        Ok(Response::new(DiskListResponse { disks: self.0.lock().unwrap().disks.clone() }))
    }

    async fn mirror_get(&self, _: Request<MirrorGetRequest>) -> Answer<MirrorGetResponse> {
        Err(Status::data_loss("the replicas of engine e have no common generation"))
    }
}

/// A fake node that serves for as long as the value lives.
struct Serving {
    address: SocketAddr,
    node: FakeNode,
    _runtime: tokio::runtime::Runtime,
}

fn serve(ip: &str) -> Serving {
    serve_on(NodeConfig { listen: format!("{ip}:0").parse().unwrap(), ..NodeConfig::default() })
}

fn serve_on(config: NodeConfig) -> Serving {
    let node = FakeNode::default();
    node.0.lock().unwrap().disks.push(Disk { name: "d1".into(), state: "ready".into(), ..Default::default() });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listeners = runtime.block_on(Listeners::bind(&config, None)).expect("a free port");
    let address = listeners.address().unwrap();
    let gate = Gate::closed(Health::new()).expect("services");
    gate.open(services(1 << 20, node.clone(), node.clone()));
    runtime.spawn(listeners.serve(gate.routes(), Metrics::new(), std::future::pending()));
    Serving { address, node, _runtime: runtime }
}

impl Serving {
    fn run(&self, arguments: &[&str]) -> Output {
        let server = self.address.to_string();
        run(&[arguments, &["--server", &server]].concat())
    }

    fn names(&self) -> (Vec<String>, Vec<String>) {
        let state = self.node.0.lock().unwrap();
        let replicas = state.replicas.iter().map(|replica| replica.name.clone()).collect();
        (replicas, state.engines.iter().map(|engine| engine.name.clone()).collect())
    }
}

/// Runs the program in an environment without settings.
fn run(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_corriente");
    Command::new(program).args(arguments).env_clear().output().expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[test]
fn wrong_arguments_end_with_2_and_say_which() {
    for (arguments, problem) in [
        (vec!["disc", "list"], "disc"),
        (vec!["engine", "get", ""], "must not be empty"),
        (vec!["engine", "get", "a/b"], "a/b"),
        (vec!["replica", "create", "r", "--disk", "d", "--size", "10"], "--size"),
        (vec!["snapshot", "delete", "e", "volume-head"], "reserved"),
        (vec!["volume", "create", "v1", "--size", "1GiB"], "--node"),
        (vec!["restore", "start", "e", "--backup", "vfs:///x?volume=v"], "backup"),
        (vec!["serve", "--check", "--limits-replicas", "9"], "limits.replicas: 9 is not from 1 to 8"),
        (vec!["serve", "--lisen", "x"], "--lisen"),
        (vec!["serve", "--check", "--config", "/nonexistent.toml"], "/nonexistent.toml"),
    ] {
        let node = serve("127.0.0.1");
        let output = if arguments[0] == "serve" { run(&arguments) } else { node.run(&arguments) };
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(problem), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_nodes_codes_become_exit_codes() {
    let node = serve("127.0.0.1");
    for (arguments, exit) in [
        (["engine", "get", "e", "-ojson"], 3),
        (["snapshot", "revert", "e", "s"], 5),
        (["engine", "mirror", "e", "-ojson"], 7),
        (["replica", "get", "r", "-ojson"], 1),
    ] {
        let output = node.run(&arguments);
        assert_eq!(code(&output), exit, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: "), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_node_that_is_not_there_is_6() {
    let output = run(&["engine", "list", "--server", "127.0.0.1:1"]);
    assert_eq!(code(&output), 6, "{}", stderr(&output));
    assert!(stderr(&output).contains("127.0.0.1:1"), "{}", stderr(&output));
}

#[test]
fn a_node_also_answers_on_its_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("corriente.sock");
    let _node = serve_on(NodeConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        unix_socket: OptionalPath(Some(path.clone())),
        ..NodeConfig::default()
    });
    let output = run(&["disk", "list", "--server", &format!("unix:{}", path.display())]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("d1"), "{}", stdout(&output));
}

#[test]
fn check_prints_the_effective_configuration_and_the_origins() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[limits]\nrestores = 3\n").unwrap();
    let path = file.path().to_str().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_corriente"))
        .args(["serve", "--check", "--config", path, "--listen", "127.0.0.2:8504"])
        .env_clear()
        .env("CORRIENTE_REACTOR_CORES", "0-1")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{text}"));
    assert!(line("listen = \"127.0.0.2:8504\"").ends_with("# flag --listen"), "{text}");
    assert!(line("cores = \"0,1\"").ends_with("# environment variable CORRIENTE_REACTOR_CORES"), "{text}");
    assert!(line("restores = \"3\"").ends_with(&format!("# {path}:2")), "{text}");
    assert!(line("backups = \"4\"").ends_with("# default"), "{text}");
    assert!(text.contains("data address: 127.0.0.2"), "{text}");
}

#[test]
fn a_volume_is_made_of_a_replica_on_each_node_and_an_engine() {
    let (first, second) = (serve("127.0.0.2"), serve("127.0.0.3"));
    let (a, b) = (first.address.to_string(), second.address.to_string());
    let output = first.run(&["volume", "create", "v1", "--size", "1GiB", "--node", &a, "--node", &b, "-o", "json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));

    let engine: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(engine["name"], "v1-e-0");
    assert_eq!(engine["spec_size"], 1 << 30);
    assert_eq!(engine["frontend"], "spdk-tcp-nvmf");
    let addresses = engine["replica_address_map"].as_object().expect("a map");
    let mut ips: Vec<_> = addresses.values().map(|address| address.as_str().unwrap()).collect();
    ips.sort_unstable();
    assert_eq!(ips, ["127.0.0.2:20001", "127.0.0.3:20001"]);
    for (name, mode) in engine["replica_mode_map"].as_object().expect("a map") {
        let id = name.strip_prefix("v1-r-").expect("the form that a node finds again");
        assert!(id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
        assert_eq!(mode, "RW");
    }

    let again = first.run(&["volume", "create", "v1", "--size", "1GiB", "--node", &a]);
    assert_eq!(code(&again), 4, "{}", stderr(&again));
    assert_eq!(first.names().0.len(), 1, "a volume that exists is not touched");

    let listed = first.run(&["volume", "list"]);
    assert!(stdout(&listed).contains("v1-e-0") && stdout(&listed).contains("2/2"), "{}", stdout(&listed));
}

#[test]
fn a_volume_whose_engine_fails_leaves_nothing_behind() {
    let (first, second) = (serve("127.0.0.1"), serve("127.0.0.1"));
    first.node.0.lock().unwrap().engine_fails = true;
    let (a, b) = (first.address.to_string(), second.address.to_string());
    let output = first.run(&["volume", "create", "v1", "--size", "1GiB", "--node", &a, "--node", &b]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("no port is free"), "{}", stderr(&output));
    for node in [&first, &second] {
        assert_eq!(node.names(), (vec![], vec![]));
    }
}

#[test]
fn a_node_without_a_ready_disk_fails_the_volume_before_its_engine() {
    let (first, second) = (serve("127.0.0.1"), serve("127.0.0.1"));
    second.node.0.lock().unwrap().disks.clear();
    let (a, b) = (first.address.to_string(), second.address.to_string());
    let output = first.run(&["volume", "create", "v1", "--size", "1GiB", "--node", &a, "--node", &b]);
    assert_eq!(code(&output), 5, "{}", stderr(&output));
    assert_eq!(first.names(), (vec![], vec![]), "the first node's replica is taken back");
}

#[test]
fn a_deleted_volume_takes_its_replicas_along() {
    let node = serve("127.0.0.1");
    let (address, port) = (node.address.to_string(), node.address.port().to_string());
    let created = node.run(&["volume", "create", "v1", "--size", "1GiB", "--node", &address]);
    assert_eq!(code(&created), 0, "{}", stderr(&created));
    let deleted = node.run(&["volume", "delete", "v1", "--peer-port", &port]);
    assert_eq!(code(&deleted), 0, "{}", stderr(&deleted));
    assert_eq!(node.names(), (vec![], vec![]));
    assert_eq!(code(&node.run(&["volume", "delete", "v1"])), 3);
}

fn restored(last_restored: &str, error: &str) -> RestoreStatusResponse {
    let entry = ReplicaRestoreStatusResponse {
        replica_name: "r".into(),
        last_restored: last_restored.into(),
        error: error.into(),
        ..Default::default()
    };
    RestoreStatusResponse { status: [("127.0.0.1:20001".to_owned(), entry)].into() }
}

#[test]
fn waiting_for_a_restore_ends_when_the_replicas_hold_the_backup_or_one_has_failed() {
    let node = serve("127.0.0.1");
    let arguments = ["restore", "start", "e", "--backup", "vfs:///x?backup=b2&volume=v1", "--wait", "-ojson"];
    node.node.0.lock().unwrap().restore = restored("b2", "");
    let output = node.run(&arguments);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let status: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(status["status"]["127.0.0.1:20001"]["last_restored"], "b2");

    node.node.0.lock().unwrap().restore = restored("b1", "block is missing");
    let output = node.run(&arguments);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("block is missing"), "{}", stderr(&output));
}

#[test]
fn a_volume_is_not_activated_while_its_restore_is_not_good() {
    let node = serve("127.0.0.1");
    let address = node.address.to_string();
    let created = node.run(&["volume", "create", "dr", "--size", "1GiB", "--node", &address, "--frontend", "none"]);
    assert_eq!(code(&created), 0, "{}", stderr(&created));
    node.node.0.lock().unwrap().restore = restored("b1", "block is missing");
    assert_eq!(code(&node.run(&["volume", "activate", "dr"])), 5);
    node.node.0.lock().unwrap().restore = restored("b2", "");
    let output = node.run(&["volume", "activate", "dr", "-ojson"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let engine: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(engine["frontend"], "spdk-tcp-nvmf");
    assert_eq!(code(&node.run(&["volume", "activate", "dr"])), 5, "it is active already");
}

#[test]
fn completions_know_the_nouns_and_the_settings() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert_eq!(code(&output), 0, "{shell}");
        for word in ["remove-replica", "limits-restores", "checksum"] {
            assert!(stdout(&output).contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn every_command_has_help_on_standard_output() {
    for arguments in [vec!["--help"], vec!["serve", "--help"], vec!["volume", "create", "--help"], vec!["--version"]] {
        let output = run(&arguments);
        assert_eq!(code(&output), 0, "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}
