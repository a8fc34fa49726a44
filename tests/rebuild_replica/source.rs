//! A source replica with a tree of snapshots, and what each of them holds.

use std::collections::BTreeMap;

use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, VolumeName};
use corriente::wire::spdkrpc as wire;

use crate::cluster::{Cluster, create_replica};
use crate::support::node::Node;
use crate::support::random::Random;

pub const CLUSTER: usize = 1 << 20;
pub const SIZE: u64 = 24 << 20;

/// A replica, as an engine knows it.
#[derive(Clone)]
pub struct Replica {
    pub node: usize,
    pub name: String,
    pub address: String,
}

impl Replica {
    pub async fn create(cluster: &Cluster, node: usize, name: &str) -> Self {
        let address = create_replica(&cluster.nodes[node], name, SIZE).await;
        Self { node, name: name.into(), address }
    }

    pub fn node<'a>(&self, cluster: &'a Cluster) -> &'a Node {
        &cluster.nodes[self.node]
    }

    pub async fn get(&self, cluster: &Cluster) -> wire::Replica {
        let request = wire::ReplicaGetRequest { name: self.name.clone() };
        self.node(cluster).spdk().replica_get(request).await.expect("the replica exists").into_inner()
    }

    pub async fn snapshot(&self, cluster: &Cluster, name: &str, user_created: bool) {
        let request = wire::SnapshotRequest {
            name: self.name.clone(),
            snapshot_name: name.into(),
            user_created,
            snapshot_timestamp: "2026-02-03T04:05:06Z".into(),
            ..Default::default()
        };
        self.node(cluster).spdk().replica_snapshot_create(request).await.expect("a snapshot");
    }

    pub async fn revert(&self, cluster: &Cluster, name: &str) {
        let request =
            wire::SnapshotRequest { name: self.name.clone(), snapshot_name: name.into(), ..Default::default() };
        self.node(cluster).spdk().replica_snapshot_revert(request).await.expect("a revert");
    }

    /// Runs `work` with a client of a volume that has this replica alone.
    pub async fn with_client<T>(&self, cluster: &Cluster, work: impl AsyncFnOnce(&Initiator) -> T) -> T {
        let map = BTreeMap::from([(self.name.clone(), self.address.clone())]);
        let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", map).await;
        let address = format!("{}:{}", engine.target_ip, engine.target_port).parse().expect("a target");
        let nqn = Nqn::volume(&VolumeName::parse("vol").expect("a volume name"));
        let host = Nqn::parse("nqn.2026-01.test:host").expect("an NQN");
        let client = Initiator::connect(address, &nqn, &host, Options::default()).await.expect("the target answers");
        let result = work(&client).await;
        client.disconnect().await.expect("an orderly end");
        cluster.delete_engine("vol").await;
        result
    }

    /// Writes random clusters through an engine, and notes them.
    pub async fn write(&self, cluster: &Cluster, clusters: &[usize], random: &mut Random, image: &mut [u8]) {
        self.with_client(cluster, async |client| {
            for cluster in clusters {
                let data = random.bytes(CLUSTER);
                client.write((cluster * CLUSTER) as u64, &data).await.expect("a write");
                image[cluster * CLUSTER..][..CLUSTER].copy_from_slice(&data);
            }
            client.flush().await.expect("a flush");
        })
        .await;
    }

    pub async fn read(&self, cluster: &Cluster) -> Vec<u8> {
        self.with_client(cluster, async |client| {
            let mut image = vec![0; SIZE as usize];
            client.read(0, &mut image).await.expect("the volume can be read");
            image
        })
        .await
    }

    /// What the replica holds is, snapshot by snapshot, what is expected. Its head is another one afterwards.
    pub async fn check_snapshots(&self, cluster: &Cluster, images: &BTreeMap<String, Vec<u8>>) {
        for (snapshot, image) in images {
            self.revert(cluster, snapshot).await;
            assert!(self.read(cluster).await == *image, "snapshot {snapshot} of {} holds other bytes", self.name);
        }
    }
}

/// A source with a tree: s1 below s2 and s3, s3 below the newest; and the image of each.
pub struct Source {
    pub replica: Replica,
    pub images: BTreeMap<String, Vec<u8>>,
    pub random: Random,
    image: Vec<u8>,
}

/// The newest snapshot of a source, which a rebuild is based on.
pub const NEWEST: &str = "rebuild-0a1b2c3d";

impl Source {
    pub async fn create(cluster: &Cluster, node: usize) -> Self {
        let replica = Replica::create(cluster, node, "vol-r-00000000").await;
        let image = vec![0; SIZE as usize];
        let mut source = Self { replica, images: BTreeMap::new(), random: Random::from_clock(), image };
        source.write(cluster, &[0, 1, 5, 17]).await;
        source.snapshot(cluster, "s1", true).await;
        source.write(cluster, &[1, 2, 9]).await;
        source.zero(cluster, 5).await;
        source.snapshot(cluster, "s2", false).await;
        source.replica.revert(cluster, "s1").await;
        source.image = source.images["s1"].clone();
        source.write(cluster, &[0, 3, 4, 23]).await;
        source.snapshot(cluster, "s3", true).await;
        source.write(cluster, &[3, 6]).await;
        source.snapshot(cluster, NEWEST, false).await;
        source.write(cluster, &[7]).await;
        source
    }

    pub async fn write(&mut self, cluster: &Cluster, clusters: &[usize]) {
        let replica = self.replica.clone();
        replica.write(cluster, clusters, &mut self.random, &mut self.image).await;
    }

    /// Zeroes in a cluster of its own hide what the snapshot below has there.
    async fn zero(&mut self, cluster: &Cluster, index: usize) {
        let zeroes = vec![0; CLUSTER];
        let at = index * CLUSTER;
        self.replica
            .with_client(cluster, async |client| client.write(at as u64, &zeroes).await.expect("a write of zeroes"))
            .await;
        self.image[at..][..CLUSTER].fill(0);
    }

    pub async fn snapshot(&mut self, cluster: &Cluster, name: &str, user_created: bool) {
        self.replica.snapshot(cluster, name, user_created).await;
        self.images.insert(name.into(), self.image.clone());
    }
}
