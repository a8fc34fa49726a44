//! What these tests have in common: the command line, a volume's target, a scrape.

use std::net::SocketAddr;
use std::process::Output;

use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, ReplicaName, VolumeName};
use corriente::wire::spdkrpc as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::Cluster;
use crate::support::node::Node;

/// Runs the program as a client of a node.
pub async fn corriente(node: &Node, arguments: &[&str]) -> Output {
    let server = node.grpc_address().to_string();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
    command.args(arguments).args(["--server", &server]).env_clear().kill_on_drop(true);
    command.output().await.expect("the program starts")
}

/// Its exit code and standard output; its messages are in the panic when it is not the code expected.
pub async fn expect_exit(node: &Node, arguments: &[&str], code: i32) -> String {
    let output = corriente(node, arguments).await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Connects to a volume's target.
pub async fn connect(engine: &wire::Engine) -> Initiator {
    let address: SocketAddr = format!("{}:{}", engine.target_ip, engine.target_port).parse().expect("a target");
    let nqn = Nqn::volume(&VolumeName::parse(&engine.volume_name).expect("a volume name"));
    let host = Nqn::parse("nqn.2026-01.test:host").expect("an NQN");
    Initiator::connect(address, &nqn, &host, Options::default()).await.expect("the target answers")
}

/// Writes into a replica behind the back of every engine.
pub async fn write_into_replica(address: &str, replica: &str, offset: u64, data: &[u8]) {
    let nqn = Nqn::replica(&ReplicaName::parse(replica).expect("a replica name"));
    let address = address.parse().expect("an address");
    let connected = Initiator::connect(address, &nqn, &Nqn::internal_host(), Options::default()).await;
    let initiator = connected.expect("the replica is exported");
    initiator.write(offset, data).await.expect("written");
    initiator.disconnect().await.expect("an orderly end");
}

/// A volume with data, replicas on both nodes and a target.
pub async fn volume(cluster: &Cluster, name: &str, size: u64) -> (wire::Engine, Initiator) {
    let replicas = cluster.replicas(name, size).await;
    let engine = cluster.engine(name, size, "spdk-tcp-nvmf", replicas).await;
    let initiator = connect(&engine).await;
    (engine, initiator)
}

/// A page of the node's HTTP endpoint: status line and body.
pub async fn get(node: &Node, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect((node.ip(), 9504)).await.expect("the endpoint listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.lines().next().expect("a status line").to_owned(), body.to_owned())
}
