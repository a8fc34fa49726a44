//! Nodes with a small disk each, and the calls that the tests make of them, as a Longhorn manager would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, VolumeName};
use corriente::wire::spdkrpc as wire;
use tonic::{Code, Status};

use crate::support::disk::Disk;
use crate::support::node::{Node, NodeOptions};
use crate::support::wait::wait_until;

pub const MIB: u64 = 1 << 20;
pub const SIZE: u64 = 16 * MIB;
pub const NVMF: &str = "spdk-tcp-nvmf";
pub const LIMIT: Duration = Duration::from_secs(60);

const DISK_BYTES: u64 = 256 * MIB;

pub struct Cluster {
    pub nodes: Vec<Node>,
    _disks: Vec<Disk>,
}

impl Cluster {
    pub async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, |options| options).await
    }

    pub async fn start_with(count: usize, change: impl Fn(NodeOptions) -> NodeOptions) -> Self {
        let mut nodes = Vec::new();
        let mut disks = Vec::new();
        for name in ["a", "b", "c"].into_iter().take(count) {
            let node = Node::start(change(NodeOptions::named(name))).await;
            let disk = Disk::create(node.directory(), "disk.img", DISK_BYTES);
            let request = wire::DiskCreateRequest {
                disk_name: "disk".into(),
                disk_path: disk.path().to_str().expect("UTF-8").into(),
                block_size: 512,
                disk_driver: "aio".into(),
                ..Default::default()
            };
            node.spdk().disk_create(request).await.expect("the disk is taken");
            nodes.push(node);
            disks.push(disk);
        }
        let cluster = Self { nodes, _disks: disks };
        for node in &cluster.nodes {
            wait_until(LIMIT, "the disk is ready", async || {
                let request = wire::DiskGetRequest { disk_name: "disk".into(), ..Default::default() };
                match node.spdk().disk_get(request).await {
                    Ok(disk) if disk.get_ref().state == "ready" => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
        cluster
    }

    /// A replica on each node; the address map of an engine over them.
    pub async fn replicas(&self, volume: &str) -> BTreeMap<String, String> {
        let mut addresses = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let request = wire::ReplicaCreateRequest {
                name: format!("{volume}-r-0000000{index}"),
                lvs_name: "disk".into(),
                spec_size: SIZE,
                port_count: 5,
                ..Default::default()
            };
            let replica = node.spdk().replica_create(request).await.expect("the replica is created").into_inner();
            assert_eq!((replica.state.as_str(), replica.error_msg.as_str()), ("running", ""));
            addresses.insert(replica.name, format!("{}:{}", replica.ip, replica.port_start));
        }
        addresses
    }

    /// The engine `<volume>-e-<ordinal>` on a node.
    pub async fn engine(
        &self,
        node: usize,
        (volume, ordinal): (&str, u32),
        frontend: &str,
        replicas: BTreeMap<String, String>,
    ) -> wire::Engine {
        let request = wire::EngineCreateRequest {
            name: format!("{volume}-e-{ordinal}"),
            volume_name: volume.into(),
            spec_size: SIZE,
            replica_address_map: replicas,
            frontend: frontend.into(),
            ..Default::default()
        };
        let engine = self.nodes[node].spdk().engine_create(request).await.expect("the engine is created").into_inner();
        assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
        engine
    }

    /// A volume with a replica on each node, its engine `<volume>-e-0` on the first.
    pub async fn volume(&self, volume: &str, frontend: &str) -> wire::Engine {
        let replicas = self.replicas(volume).await;
        self.engine(0, (volume, 0), frontend, replicas).await
    }

    pub async fn engine_get(&self, node: usize, name: &str) -> Result<wire::Engine, Status> {
        let request = wire::EngineGetRequest { name: name.into() };
        self.nodes[node].spdk().engine_get(request).await.map(tonic::Response::into_inner)
    }

    /// The frontend `<volume>-ef` of a node, over an engine of its own or with a target's address.
    pub async fn frontend(&self, node: usize, request: wire::EngineFrontendCreateRequest) -> wire::EngineFrontend {
        let frontend = self.nodes[node].spdk().engine_frontend_create(request).await.expect("an answer").into_inner();
        assert_eq!((frontend.state.as_str(), frontend.error_msg.as_str()), ("running", ""));
        frontend
    }

    pub async fn frontend_get(&self, node: usize, volume: &str) -> Result<wire::EngineFrontend, Status> {
        let request = wire::EngineFrontendGetRequest { name: format!("{volume}-ef") };
        self.nodes[node].spdk().engine_frontend_get(request).await.map(tonic::Response::into_inner)
    }

    pub async fn frontend_delete(&self, node: usize, volume: &str) {
        let request = wire::EngineFrontendDeleteRequest { name: format!("{volume}-ef") };
        self.nodes[node].spdk().engine_frontend_delete(request).await.expect("the frontend is deleted");
    }

    pub async fn suspend(&self, node: usize, volume: &str) -> Result<(), Status> {
        let request = wire::EngineFrontendSuspendRequest { name: format!("{volume}-ef") };
        self.nodes[node].spdk().engine_frontend_suspend(request).await.map(drop)
    }

    pub async fn resume(&self, node: usize, volume: &str) -> Result<(), Status> {
        let request = wire::EngineFrontendResumeRequest { name: format!("{volume}-ef") };
        self.nodes[node].spdk().engine_frontend_resume(request).await.map(drop)
    }
}

/// A request for the frontend `<volume>-ef` of the engine `<volume>-e-0`.
pub fn request(volume: &str, frontend: &str, target_address: &str) -> wire::EngineFrontendCreateRequest {
    wire::EngineFrontendCreateRequest {
        name: format!("{volume}-ef"),
        volume_name: volume.into(),
        engine_name: format!("{volume}-e-0"),
        spec_size: SIZE,
        target_address: target_address.into(),
        frontend: frontend.into(),
        ..Default::default()
    }
}

pub fn target_of(engine: &wire::Engine) -> String {
    format!("{}:{}", engine.ip, engine.port)
}

pub fn snapshot(volume: &str, snapshot: &str) -> wire::SnapshotRequest {
    wire::SnapshotRequest { name: format!("{volume}-ef"), snapshot_name: snapshot.into(), ..Default::default() }
}

/// A host at the volume's target, by the endpoint that a frontend tells.
pub async fn connect(endpoint: &str) -> Initiator {
    let (address, nqn) = endpoint.strip_prefix("nvmf://").and_then(|rest| rest.split_once('/')).expect("an endpoint");
    let address: SocketAddr = address.parse().expect("an address");
    let nqn = Nqn::parse(nqn).expect("an NQN");
    Initiator::connect(address, &nqn, &host(), Options::default()).await.expect("the target answers")
}

pub fn host() -> Nqn {
    Nqn::parse("nqn.2026-01.test:host").expect("an NQN")
}

pub fn nqn(volume: &str) -> String {
    Nqn::volume(&VolumeName::parse(volume).expect("a name")).to_string()
}

pub async fn fill(host: &Initiator, offset: u64, length: u64, byte: u8) {
    host.write(offset, &vec![byte; length as usize]).await.expect("a write");
}

pub async fn holds(host: &Initiator, offset: u64, length: u64, byte: u8) -> bool {
    let mut data = vec![!byte; length as usize];
    host.read(offset, &mut data).await.expect("a read");
    data.iter().all(|found| *found == byte)
}

pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, words: &str) {
    let status = result.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(words), "{words:?} is not in {:?}", status.message());
}
