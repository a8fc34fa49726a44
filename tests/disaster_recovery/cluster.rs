//! Two nodes with a disk each, and the calls that the tests make of them, as a Longhorn manager would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, ReplicaName, VolumeName};
use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::support::disk::Disk;
use crate::support::fixtures::Fixtures;
use crate::support::node::{Node, NodeOptions};
use crate::support::wait::wait_until;

pub const DISK_BYTES: u64 = 1 << 30;
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub nodes: [Node; 2],
    _disks: [Disk; 2],
    pub store: PathBuf,
    pub fixtures: Fixtures,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(|options| options).await
    }

    /// With other settings than the defaults, on both nodes.
    pub async fn start_with(set: impl Fn(NodeOptions) -> NodeOptions) -> Self {
        let node = |name| Node::start(set(NodeOptions::named(name)));
        let nodes = [node("a").await, node("b").await];
        let mut disks = Vec::new();
        for node in &nodes {
            let disk = Disk::create(node.directory(), "disk.img", DISK_BYTES);
            let request = wire::DiskCreateRequest {
                disk_name: "disk".into(),
                disk_path: disk.path().to_str().expect("UTF-8").into(),
                block_size: 512,
                disk_driver: "aio".into(),
                ..Default::default()
            };
            node.spdk().disk_create(request).await.expect("the disk is taken");
            ready(node).await;
            disks.push(disk);
        }
        let fixtures = Fixtures::load();
        let store = fixtures.copy_store(nodes[0].directory());
        let disks = disks.try_into().unwrap_or_else(|_| unreachable!("two nodes have two disks"));
        Self { nodes, _disks: disks, store, fixtures }
    }

    pub fn url(&self, volume: &str, backup: &str) -> String {
        format!("vfs://{}?backup={backup}&volume={volume}", self.store.display())
    }

    /// A replica on each node; the address map of an engine over them.
    pub async fn replicas(&self, volume: &str, size: u64) -> BTreeMap<String, String> {
        let mut addresses = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let name = format!("{volume}-r-0000000{index}");
            addresses.insert(name.clone(), create_replica(node, &name, size).await);
        }
        addresses
    }

    /// An engine on the first node.
    pub async fn engine(
        &self,
        volume: &str,
        size: u64,
        frontend: &str,
        replicas: BTreeMap<String, String>,
    ) -> wire::Engine {
        let engine = self.try_engine(volume, size, frontend, replicas).await;
        assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
        engine
    }

    /// An engine that may be in state error.
    pub async fn try_engine(
        &self,
        volume: &str,
        size: u64,
        frontend: &str,
        replicas: BTreeMap<String, String>,
    ) -> wire::Engine {
        let request = wire::EngineCreateRequest {
            name: format!("{volume}-e-0"),
            volume_name: volume.into(),
            spec_size: size,
            replica_address_map: replicas,
            frontend: frontend.into(),
            ..Default::default()
        };
        self.nodes[0].spdk().engine_create(request).await.expect("the engine is created").into_inner()
    }

    pub async fn get(&self, volume: &str) -> wire::Engine {
        let request = wire::EngineGetRequest { name: format!("{volume}-e-0") };
        self.nodes[0].spdk().engine_get(request).await.expect("the engine exists").into_inner()
    }

    pub async fn delete_engine(&self, volume: &str) {
        let request = wire::EngineDeleteRequest { name: format!("{volume}-e-0") };
        self.nodes[0].spdk().engine_delete(request).await.expect("the engine is deleted");
    }

    pub async fn start_restore(&self, volume: &str, url: String) -> Result<(), tonic::Status> {
        let request = wire::EngineBackupRestoreRequest {
            backup_url: url,
            engine_name: format!("{volume}-e-0"),
            ..Default::default()
        };
        self.nodes[0].spdk().engine_backup_restore(request).await.map(drop)
    }

    pub async fn status(&self, volume: &str) -> Vec<wire::ReplicaRestoreStatusResponse> {
        let request = wire::RestoreStatusRequest { engine_name: format!("{volume}-e-0") };
        let answer = self.nodes[0].spdk().engine_restore_status(request).await.expect("a restore status");
        answer.into_inner().status.into_values().collect()
    }

    /// Waits for the end of a restore and returns the statuses of the first poll that shows it.
    pub async fn restored(&self, volume: &str) -> Vec<wire::ReplicaRestoreStatusResponse> {
        wait_until(LIMIT, "the restore ends", async || {
            let entries = self.status(volume).await;
            if entries.iter().any(|entry| entry.is_restoring) { Err("it runs".into()) } else { Ok(entries) }
        })
        .await
    }

    pub async fn mirror(&self, volume: &str) -> Vec<own::MirrorMember> {
        let request = own::MirrorGetRequest { engine_name: format!("{volume}-e-0") };
        self.nodes[0].corriente().mirror_get(request).await.expect("a mirror").into_inner().members
    }

    /// The snapshots of each replica, as its own node tells.
    pub async fn replica_snapshots(&self, volume: &str) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let request = wire::ReplicaGetRequest { name: format!("{volume}-r-0000000{index}") };
            let replica = node.spdk().replica_get(request).await.expect("the replica exists").into_inner();
            all.push(replica.snapshots.into_keys().collect());
        }
        all
    }

    /// The volume's bytes through its NVMe/TCP target.
    pub async fn read(&self, engine: &wire::Engine) -> Vec<u8> {
        let address: SocketAddr = format!("{}:{}", engine.target_ip, engine.target_port).parse().expect("a target");
        let nqn = Nqn::volume(&VolumeName::parse(&engine.volume_name).expect("a volume name"));
        read_target(address, &nqn, &client()).await
    }

    /// Writes through the volume's target, as a client.
    pub async fn write(&self, engine: &wire::Engine, offset: u64, data: &[u8]) {
        let address: SocketAddr = format!("{}:{}", engine.target_ip, engine.target_port).parse().expect("a target");
        let nqn = Nqn::volume(&VolumeName::parse(&engine.volume_name).expect("a volume name"));
        let connected = Initiator::connect(address, &nqn, &client(), Options::default()).await;
        let initiator = connected.expect("the target answers");
        initiator.write(offset, data).await.expect("the volume can be written");
        initiator.disconnect().await.expect("an orderly end");
    }
}

/// The bytes of one replica, as its own node exports it.
pub async fn read_replica(name: &str, address: &str) -> Vec<u8> {
    let nqn = Nqn::replica(&ReplicaName::parse(name).expect("a replica name"));
    read_target(address.parse().expect("an address"), &nqn, &Nqn::internal_host()).await
}

fn client() -> Nqn {
    Nqn::parse("nqn.2026-01.test:host").expect("an NQN")
}

async fn read_target(address: SocketAddr, nqn: &Nqn, host: &Nqn) -> Vec<u8> {
    let initiator = Initiator::connect(address, nqn, host, Options::default()).await.expect("the target answers");
    let mut image = vec![0; initiator.namespace().size_bytes() as usize];
    initiator.read(0, &mut image).await.expect("the volume can be read");
    initiator.disconnect().await.expect("an orderly end");
    image
}

pub async fn ready(node: &Node) {
    wait_until(LIMIT, "the disk is ready", async || {
        let request = wire::DiskGetRequest { disk_name: "disk".into(), ..Default::default() };
        match node.spdk().disk_get(request).await {
            Ok(disk) if disk.get_ref().state == "ready" => Ok(()),
            Ok(disk) => Err(format!("its state is {}", disk.get_ref().state)),
            Err(status) => Err(status.to_string()),
        }
    })
    .await;
}

/// Creates a replica, or starts it again, or finds that its node has started it again; returns its address.
pub async fn create_replica(node: &Node, name: &str, size: u64) -> String {
    let request = wire::ReplicaCreateRequest {
        name: name.into(),
        lvs_name: "disk".into(),
        spec_size: size,
        port_count: 5,
        ..Default::default()
    };
    let replica = match node.spdk().replica_create(request).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            let request = wire::ReplicaGetRequest { name: name.into() };
            node.spdk().replica_get(request).await.expect("the replica is there").into_inner()
        }
        created => created.expect("the replica is created").into_inner(),
    };
    assert_eq!((replica.state.as_str(), replica.error_msg.as_str()), ("running", ""));
    format!("{}:{}", replica.ip, replica.port_start)
}

pub fn refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, code: Code, words: &str) {
    let status = result.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(words), "{words:?} is not in {:?}", status.message());
}
