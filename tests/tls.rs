//! gRPC with TLS on both sides: who is taken, who is refused, and that nodes speak it to each other.

mod support;

#[path = "tls/authority.rs"]
mod authority;
#[allow(dead_code)]
#[path = "disaster_recovery/cluster.rs"]
mod cluster;

use std::net::SocketAddr;
use std::process::Output;

use authority::Authority;
use cluster::Cluster;
use corriente::tls::{Credentials, Files, LONGHORN_NAME, endpoint};
use corriente::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use support::client::Client;
use support::node::{Node, NodeOptions};

const SIZE: u64 = 16 << 20;

async fn lists_replicas(address: SocketAddr, credentials: Option<&Credentials>) -> bool {
    let channel = endpoint(&address.to_string(), credentials).expect("an endpoint").connect_lazy();
    SpdkServiceClient::new(channel).replica_list(()).await.is_ok()
}

async fn corriente(node: &Node, arguments: &[&str]) -> Output {
    let server = node.grpc_address().to_string();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
    command.args(arguments).args(["--server", &server]).env_clear().kill_on_drop(true);
    command.output().await.expect("the program starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_shows_a_certificate_of_the_authority_is_served() {
    let ours = Authority::make(LONGHORN_NAME);
    let node = Node::start(NodeOptions::named("secure").tls(ours.directory())).await;
    let read = |authority: &Authority, name| Credentials::read(&Files::in_directory(authority.directory()), name);
    let right = read(&ours, LONGHORN_NAME).expect("credentials");
    assert!(lists_replicas(node.grpc_address(), Some(&right)).await);

    assert!(!lists_replicas(node.grpc_address(), None).await, "a client in the clear was served");
    let foreign = Authority::make(LONGHORN_NAME);
    let stranger = read(&foreign, LONGHORN_NAME).expect("credentials");
    assert!(!lists_replicas(node.grpc_address(), Some(&stranger)).await, "a client of another authority was served");
    // One that trusts us, and shows a certificate that we do not trust.
    let mixed = Files { ca: ours.directory().join("ca.crt"), ..Files::in_directory(foreign.directory()) };
    let mixed = Credentials::read(&mixed, LONGHORN_NAME).expect("credentials");
    assert!(!lists_replicas(node.grpc_address(), Some(&mixed)).await, "a certificate of another authority was taken");
    let misled = read(&ours, "another.name").expect("credentials");
    assert!(!lists_replicas(node.grpc_address(), Some(&misled)).await, "a certificate of another name was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn o6_nodes_speak_tls_to_each_other_and_the_command_line_to_them() {
    let ours = Authority::make(LONGHORN_NAME);
    let cluster = Cluster::start_with(|options| options.tls(ours.directory())).await;
    let replicas = cluster.replicas("vol", SIZE).await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", replicas).await;
    assert_eq!(engine.replica_mode_map.len(), 2);
    Client::of(&engine, SIZE).await.work().await;

    let directory = ours.directory().to_str().expect("UTF-8");
    let listed = corriente(&cluster.nodes[0], &["engine", "list", "--tls", directory]).await;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("vol-e-0"));
    let files = ["ca.crt", "tls.crt", "tls.key"].map(|name| format!("{directory}/{name}")).join(",");
    let listed = corriente(&cluster.nodes[0], &["engine", "list", "--tls", &files]).await;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let clear = corriente(&cluster.nodes[0], &["engine", "list", "--timeout", "10s"]).await;
    assert_eq!(clear.status.code(), Some(6), "a client in the clear has no answer");
    let nothing = corriente(&cluster.nodes[0], &["engine", "list", "--tls", "/nonexistent"]).await;
    assert_eq!(nothing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("/nonexistent/ca.crt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_key_does_not_start_and_names_the_file() {
    let ours = Authority::make(LONGHORN_NAME);
    std::fs::remove_file(ours.directory().join("tls.key")).expect("the key");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
    let directory = ours.directory().to_str().expect("UTF-8");
    command.args(["serve", "--listen", "127.0.0.1:0", "--tls-directory", directory]).env_clear().kill_on_drop(true);
    let output = command.output().await.expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains("tls.key"), "{errors}");
    // Two of three files.
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
    let ca = format!("{directory}/ca.crt");
    command.args(["serve", "--listen", "127.0.0.1:0", "--tls-ca", &ca]).env_clear().kill_on_drop(true);
    let output = command.output().await.expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains("tls.certificate"), "{errors}");
}
