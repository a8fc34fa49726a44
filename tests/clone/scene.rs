//! A source volume with a replica on each node and a snapshot, its client, and clones of it.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;
use tonic::Status;

use crate::cluster::{Cluster, create_replica};
use crate::support::client::Client;
use crate::support::node::NodeOptions;
use crate::support::wait::wait_until;

pub const SIZE: u64 = 32 << 20;
pub const SNAPSHOT: &str = "s1";
pub const BOTH: [usize; 2] = [0, 1];
pub const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

pub struct Scene {
    pub cluster: Cluster,
    /// Of the source.
    pub client: Client,
    /// What the source was at its snapshot.
    pub image: Vec<u8>,
}

/// The replica of a volume on a node.
pub fn replica(volume: &str, node: usize) -> String {
    format!("{volume}-r-0000000{node}")
}

pub fn engine(volume: &str) -> String {
    format!("{volume}-e-0")
}

impl Scene {
    pub async fn start() -> Self {
        let cluster = Cluster::start_with(NodeOptions::faulty).await;
        let source = cluster.engine("src", SIZE, "spdk-tcp-nvmf", cluster.replicas("src", SIZE).await).await;
        let mut client = Client::of(&source, SIZE).await;
        client.work().await;
        let scene = Self { image: client.image(), cluster, client };
        scene.snapshot("src", SNAPSHOT).await;
        scene
    }

    pub async fn snapshot(&self, volume: &str, name: &str) {
        let request = wire::SnapshotRequest {
            name: engine(volume),
            snapshot_name: name.into(),
            user_created: true,
            ..Default::default()
        };
        self.cluster.nodes[0].spdk().engine_snapshot_create(request).await.expect("the snapshot is taken");
    }

    pub async fn delete_snapshot(&self, volume: &str, name: &str) -> Result<(), Status> {
        let request = wire::SnapshotRequest { name: engine(volume), snapshot_name: name.into(), ..Default::default() };
        self.cluster.nodes[0].spdk().engine_snapshot_delete(request).await.map(drop)
    }

    /// An empty volume with a replica on each of the nodes.
    pub async fn empty(&self, volume: &str, nodes: &[usize]) -> BTreeMap<String, String> {
        let mut addresses = BTreeMap::new();
        for node in nodes {
            let name = replica(volume, *node);
            addresses.insert(name.clone(), create_replica(&self.cluster.nodes[*node], &name, SIZE).await);
        }
        self.cluster.engine(volume, SIZE, "spdk-tcp-nvmf", addresses.clone()).await;
        addresses
    }

    /// The request for a linked clone of the source's snapshot on these nodes.
    pub fn request(&self, volume: &str, nodes: &[usize]) -> wire::EngineSnapshotCloneRequest {
        wire::EngineSnapshotCloneRequest {
            name: engine(volume),
            snapshot_name: SNAPSHOT.into(),
            src_engine_name: engine("src"),
            src_engine_address: self.cluster.nodes[0].grpc_address().to_string(),
            clone_mode: wire::CloneMode::LinkedClone.into(),
            dst_replica_src_replica_pair_map: nodes
                .iter()
                .map(|node| (replica(volume, *node), replica("src", *node)))
                .collect(),
        }
    }

    pub async fn clone(&self, request: wire::EngineSnapshotCloneRequest) -> Result<(), Status> {
        self.cluster.nodes[0].spdk().engine_snapshot_clone(request).await.map(drop)
    }

    /// A linked clone with a replica on each of the nodes.
    pub async fn linked(&self, volume: &str, nodes: &[usize]) -> BTreeMap<String, String> {
        let addresses = self.empty(volume, nodes).await;
        self.clone(self.request(volume, nodes)).await.expect("the clone is made");
        addresses
    }

    pub async fn replica(&self, volume: &str, node: usize) -> wire::Replica {
        let request = wire::ReplicaGetRequest { name: replica(volume, node) };
        self.cluster.nodes[node].spdk().replica_get(request).await.expect("the replica exists").into_inner()
    }

    pub async fn delete_replica(&self, volume: &str, node: usize) -> Result<(), Status> {
        let request = wire::ReplicaDeleteRequest { name: replica(volume, node), cleanup_required: true };
        self.cluster.nodes[node].spdk().replica_delete(request).await.map(drop)
    }

    /// Deletes an engine and its replicas.
    pub async fn delete_volume(&self, volume: &str, nodes: &[usize]) {
        self.cluster.delete_engine(volume).await;
        for node in nodes {
            self.delete_replica(volume, *node).await.expect("the replica is deleted");
        }
    }

    /// Starts a backup on the replica of the first node; the address to follow it by.
    pub async fn backup(&self, volume: &str, snapshot: &str, backup: &str) -> String {
        let request = wire::BackupCreateRequest {
            engine_name: engine(volume),
            snapshot_name: snapshot.into(),
            backup_target: format!("vfs://{}", self.cluster.store.display()),
            volume_name: volume.into(),
            backup_name: backup.into(),
            compression_method: "lz4".into(),
            ..Default::default()
        };
        let started = self.cluster.nodes[0].spdk().engine_backup_create(request).await.expect("a backup").into_inner();
        started.replica_address.replace("tcp://", "")
    }

    pub async fn backup_is_complete(&self, volume: &str, backup: &str, replica_address: &str) {
        wait_until(LIMIT, "the backup is complete", async || {
            let request = wire::BackupStatusRequest {
                engine_name: engine(volume),
                backup: backup.into(),
                replica_address: replica_address.into(),
            };
            let status =
                self.cluster.nodes[0].spdk().engine_backup_status(request).await.expect("a status").into_inner();
            assert_ne!(status.state, "error", "{}", status.error);
            if status.state == "complete" { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    pub async fn backed_up(&self, volume: &str, snapshot: &str, backup: &str) {
        let address = self.backup(volume, snapshot, backup).await;
        self.backup_is_complete(volume, backup, &address).await;
    }

    /// Both replicas of the source are in sync, and have these of its snapshots.
    pub async fn source_has(&self, snapshots: &[&str]) {
        let found = self.cluster.get("src").await;
        let in_sync = |mode: &i32| *mode == i32::from(wire::ReplicaMode::Rw);
        assert!(found.replica_mode_map.len() == 2 && found.replica_mode_map.values().all(in_sync), "{found:?}");
        assert_eq!(found.snapshots.keys().collect::<Vec<_>>(), snapshots);
        for node in BOTH {
            assert_eq!(self.replica("src", node).await.snapshots.keys().collect::<Vec<_>>(), snapshots);
        }
    }

    pub async fn read(&self, volume: &str) -> Vec<u8> {
        self.cluster.read(&self.cluster.get(volume).await).await
    }

    /// Writes to a volume and its expected image.
    pub async fn write(&self, volume: &str, offset: usize, data: &[u8], image: &mut [u8]) {
        self.cluster.write(&self.cluster.get(volume).await, offset as u64, data).await;
        image[offset..][..data.len()].copy_from_slice(data);
    }

    /// What the replica of a volume is, served by an engine with it alone.
    pub async fn read_alone(&self, volume: &str, name: &str, address: &str) -> Vec<u8> {
        self.cluster.delete_engine(volume).await;
        let map = BTreeMap::from([(name.to_owned(), address.to_owned())]);
        let found = self.cluster.engine(volume, self.cluster_size(volume, name).await, "spdk-tcp-nvmf", map).await;
        self.cluster.read(&found).await
    }

    async fn cluster_size(&self, _volume: &str, name: &str) -> u64 {
        for node in &self.cluster.nodes {
            let request = wire::ReplicaGetRequest { name: name.into() };
            if let Ok(found) = node.spdk().replica_get(request).await {
                return found.into_inner().spec_size;
            }
        }
        panic!("no node has replica {name}");
    }

    /// How many linked clones a source's replica says its snapshot has.
    pub async fn clones(&self, node: usize) -> i32 {
        self.replica("src", node).await.clone_snapshot_usage.get(SNAPSHOT).copied().unwrap_or(0)
    }

    pub fn mode(engine: &wire::Engine, replica: &str) -> wire::ReplicaMode {
        wire::ReplicaMode::try_from(engine.replica_mode_map[replica]).expect("a known mode")
    }
}
