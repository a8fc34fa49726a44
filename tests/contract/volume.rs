//! A node whose disk is prepared, and a client that keeps an image of what its volume must hold.

use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, ReplicaName};
use corriente::wire::spdkrpc as wire;

use crate::cluster::{LIMIT, MIB, SIZE};
use crate::raw::Raw;
use crate::support::client::connect;
use crate::support::disk::Disk;
use crate::support::node::{Node, NodeOptions};
use crate::support::random::Random;
use crate::support::wait::wait_until;

const DISK_BYTES: u64 = 256 * MIB;

/// A node without a disk, and the file that is to be one.
pub struct Prepared {
    pub node: Node,
    pub disk: Disk,
}

impl Prepared {
    /// `prepare` makes the disk what an earlier engine has left.
    pub async fn start(prepare: impl AsyncFnOnce(&Raw)) -> Self {
        Self::start_with(NodeOptions::named("prepared"), prepare).await
    }

    pub async fn start_with(options: NodeOptions, prepare: impl AsyncFnOnce(&Raw)) -> Self {
        let node = Node::start(options).await;
        let disk = Disk::create(node.directory(), "disk.img", DISK_BYTES);
        let raw = Raw::format(disk.path(), "disk").await;
        prepare(&raw).await;
        raw.close().await;
        let prepared = Self { node, disk };
        take_disk(&prepared.node, prepared.disk.path().to_str().expect("UTF-8")).await;
        prepared
    }

    pub async fn replicas(&self) -> std::collections::BTreeMap<String, wire::Replica> {
        self.node.spdk().replica_list(()).await.expect("a list").into_inner().replicas
    }
}

/// Has a node take the disk `disk`, and waits until that is ready.
pub async fn take_disk(node: &Node, path: &str) -> wire::Disk {
    let request = wire::DiskCreateRequest {
        disk_name: "disk".into(),
        disk_path: path.into(),
        block_size: 512,
        disk_driver: "aio".into(),
        ..Default::default()
    };
    node.spdk().disk_create(request).await.expect("the disk is taken");
    ready_disk(node).await
}

pub async fn ready_disk(node: &Node) -> wire::Disk {
    wait_until(LIMIT, "the disk is ready", async || {
        let disk = disk(node).await;
        if disk.state == "ready" { Ok(disk) } else { Err(disk.state) }
    })
    .await
}

pub async fn disk(node: &Node) -> wire::Disk {
    let request = wire::DiskGetRequest { disk_name: "disk".into(), ..Default::default() };
    node.spdk().disk_get(request).await.expect("the disk").into_inner()
}

pub async fn create_replica(node: &Node, name: &str) -> wire::Replica {
    try_create_replica(node, name).await.expect("the replica is created")
}

pub async fn try_create_replica(node: &Node, name: &str) -> Result<wire::Replica, tonic::Status> {
    let request = wire::ReplicaCreateRequest {
        name: name.into(),
        lvs_name: "disk".into(),
        spec_size: SIZE,
        port_count: 5,
        ..Default::default()
    };
    node.spdk().replica_create(request).await.map(tonic::Response::into_inner)
}

pub async fn get_replica(node: &Node, name: &str) -> Result<wire::Replica, tonic::Status> {
    node.spdk().replica_get(wire::ReplicaGetRequest { name: name.into() }).await.map(tonic::Response::into_inner)
}

pub async fn delete_replica(node: &Node, name: &str, cleanup_required: bool) {
    let request = wire::ReplicaDeleteRequest { name: name.into(), cleanup_required };
    node.spdk().replica_delete(request).await.expect("the replica is deleted");
}

pub fn address_of(replica: &wire::Replica) -> String {
    format!("{}:{}", replica.ip, replica.port_start)
}

/// A host at a running replica's own target, as engines are.
pub async fn connect_replica(replica: &wire::Replica) -> Initiator {
    let nqn = Nqn::replica(&ReplicaName::parse(&replica.name).expect("a name"));
    let address = address_of(replica).parse().expect("an address");
    Initiator::connect(address, &nqn, &Nqn::internal_host(), Options::default()).await.expect("it is exported")
}

/// A client of a volume's target with an image of what must be there.
pub struct Imaged {
    random: Random,
    pub image: Vec<u8>,
}

impl Imaged {
    pub fn new() -> Self {
        Self { random: Random::from_clock(), image: vec![0; SIZE as usize] }
    }

    /// Fills these clusters with random bytes.
    pub async fn write(&mut self, engine: &wire::Engine, clusters: &[u64]) {
        let host = connect(engine).await;
        for cluster in clusters {
            let data = self.random.bytes(MIB as usize);
            host.write(cluster * MIB, &data).await.expect("written");
            self.image[(cluster * MIB) as usize..][..MIB as usize].copy_from_slice(&data);
        }
        host.flush().await.expect("flushed");
        host.disconnect().await.expect("an orderly end");
    }

    /// The volume holds the image.
    pub async fn check(&self, engine: &wire::Engine, what: &str) {
        let host = connect(engine).await;
        let mut found = vec![0; self.image.len()];
        host.read(0, &mut found).await.expect("read");
        host.disconnect().await.expect("an orderly end");
        assert!(found == self.image, "{what}: the volume does not hold what was written");
    }
}
