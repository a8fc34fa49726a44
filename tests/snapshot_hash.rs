//! Hashes of snapshots over gRPC: the sums that Longhorn's peers expect, kept over restarts, dropped when a merge changes what
//! they are of, and a damaged medium found out by hashing again (`engine-behaviour` §3.5).

#![allow(dead_code)]

mod support;

#[path = "disaster_recovery/cluster.rs"]
mod cluster;
#[path = "rebuild_replica/director.rs"]
mod director;
#[path = "rebuild_replica/source.rs"]
mod source;

use std::collections::BTreeMap;
use std::fs;

use cluster::{Cluster, create_replica, ready, refused};
use corriente::wire::spdkrpc as wire;
use director::LIMIT;
use source::{CLUSTER, NEWEST, Replica, SIZE, Source};
use support::disk::Disk;
use support::wait::wait_until;
use tonic::Code;

/// CRC-64/ISO as the catalogue defines it, bit by bit: a second implementation.
struct Crc64(u64);

impl Crc64 {
    fn new() -> Self {
        Self(!0)
    }

    fn update(&mut self, data: &[u8]) {
        for byte in data {
            self.0 ^= u64::from(*byte);
            for _ in 0..8 {
                let lowest = self.0 & 1;
                self.0 = (self.0 >> 1) ^ (0xd800_0000_0000_0000 * lowest);
            }
        }
    }

    fn sum(&self) -> u64 {
        !self.0
    }
}

fn sum_of(image: &[u8], clusters: &[usize]) -> u64 {
    let mut crc = Crc64::new();
    clusters.iter().for_each(|cluster| crc.update(&image[cluster * CLUSTER..][..CLUSTER]));
    crc.sum()
}

impl Replica {
    async fn hash(&self, cluster: &Cluster, snapshot: &str, rehash: bool) -> Result<(), tonic::Status> {
        let (name, snapshot_name) = (self.name.clone(), snapshot.to_owned());
        let request = wire::SnapshotHashRequest { name, snapshot_name, rehash };
        self.node(cluster).spdk().replica_snapshot_hash(request).await.map(drop)
    }

    async fn hash_status(
        &self,
        cluster: &Cluster,
        snapshot: &str,
    ) -> Result<wire::ReplicaSnapshotHashStatusResponse, tonic::Status> {
        let request = wire::SnapshotHashStatusRequest { name: self.name.clone(), snapshot_name: snapshot.into() };
        let status = self.node(cluster).spdk().replica_snapshot_hash_status(request).await;
        status.map(tonic::Response::into_inner)
    }

    /// Waits until hashing is over.
    async fn hashed(&self, cluster: &Cluster, snapshot: &str) -> wire::ReplicaSnapshotHashStatusResponse {
        wait_until(LIMIT, "the snapshot is hashed", async || {
            let status = self.hash_status(cluster, snapshot).await.expect("a status");
            if status.state == "complete" { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    async fn is_hashing(&self, cluster: &Cluster) -> bool {
        let request = wire::SnapshotHashLockStateRequest { name: self.name.clone() };
        let state = self.node(cluster).spdk().replica_snapshot_hash_lock_state(request).await;
        state.expect("a state").into_inner().is_locked
    }

    async fn range(
        &self,
        cluster: &Cluster,
        snapshot: &str,
        first: u64,
        count: u64,
    ) -> Result<BTreeMap<u64, u64>, tonic::Status> {
        let request = wire::ReplicaSnapshotRangeHashGetRequest {
            name: self.name.clone(),
            snapshot_name: snapshot.into(),
            cluster_start_index: first,
            cluster_count: count,
        };
        let answer = self.node(cluster).spdk().replica_snapshot_range_hash_get(request).await?;
        Ok(answer.into_inner().range_hash_map.into_iter().collect())
    }

    async fn delete_snapshot(&self, cluster: &Cluster, snapshot: &str) {
        let request =
            wire::SnapshotRequest { name: self.name.clone(), snapshot_name: snapshot.into(), ..Default::default() };
        self.node(cluster).spdk().replica_snapshot_delete(request).await.expect("the snapshot is deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_are_those_of_the_allocated_clusters_and_last_until_a_merge() {
    let mut cluster = Cluster::start().await;
    let source = Source::create(&cluster, 0).await;
    let replica = &source.replica;
    refused(replica.hash(&cluster, "none", false).await, Code::NotFound, "none");
    refused(replica.hash_status(&cluster, "none").await, Code::NotFound, "none");
    let before = replica.hash_status(&cluster, "s3").await.expect("a status");
    assert_eq!((before.state.as_str(), before.checksum.as_str()), ("", ""));

    let own = [("s1", vec![0, 1, 5, 17]), ("s2", vec![1, 2, 5, 9]), ("s3", vec![0, 3, 4, 23]), (NEWEST, vec![3, 6])];
    for (snapshot, clusters) in &own {
        replica.hash(&cluster, snapshot, false).await.expect("hashing begins");
        let status = replica.hashed(&cluster, snapshot).await;
        let expected = sum_of(&source.images[*snapshot], clusters).to_string();
        assert_eq!((status.checksum, status.error.as_str()), (expected.clone(), ""), "{snapshot}");
        assert!(!status.silently_corrupted);
        assert_eq!(replica.get(&cluster).await.snapshots[*snapshot].snapshot_checksum, expected);
    }
    let each: BTreeMap<u64, u64> =
        own[1].1.iter().map(|index| (*index as u64, sum_of(&source.images["s2"], &[*index]))).collect();
    assert_eq!(replica.range(&cluster, "s2", 0, 24).await.expect("sums"), each);
    let some = replica.range(&cluster, "s2", 2, 4).await.expect("sums");
    assert_eq!(some.keys().copied().collect::<Vec<_>>(), [2, 5]);
    assert!(replica.range(&cluster, "s2", 10, u64::from(u32::MAX).min(1024)).await.expect("sums").is_empty());
    refused(replica.range(&cluster, "s2", 0, 1025).await, Code::InvalidArgument, "cluster_count");
    refused(replica.range(&cluster, "none", 0, 1).await, Code::NotFound, "none");

    cluster.nodes[0].kill9();
    cluster.nodes[0].start_again().await;
    ready(&cluster.nodes[0]).await;
    let kept = replica.hash_status(&cluster, "s3").await.expect("a status");
    assert_eq!((kept.state.as_str(), kept.checksum), ("complete", sum_of(&source.images["s3"], &own[2].1).to_string()));

    // s3 goes into the newest, which is another layer then: 0, 3, 4, 6, 23.
    replica.delete_snapshot(&cluster, "s3").await;
    let dropped = replica.hash_status(&cluster, NEWEST).await.expect("a status");
    assert_eq!((dropped.state.as_str(), dropped.checksum.as_str()), ("", ""), "its layer has changed");
    replica.hash(&cluster, NEWEST, false).await.expect("hashing begins");
    let merged = replica.hashed(&cluster, NEWEST).await;
    assert_eq!(merged.checksum, sum_of(&source.images[NEWEST], &[0, 3, 4, 6, 23]).to_string());
    assert!(!merged.silently_corrupted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_deleted_or_cancelled_is_hashed_no_more() {
    let cluster = Cluster::start().await;
    let source = Source::create(&cluster, 0).await;
    let replica = &source.replica;
    let cancel = async |snapshot: &str| {
        let (name, snapshot_name) = (replica.name.clone(), snapshot.to_owned());
        let request = wire::SnapshotHashCancelRequest { name, snapshot_name };
        replica.node(&cluster).spdk().replica_snapshot_hash_cancel(request).await.expect("nothing to cancel is fine");
    };
    cancel("s1").await;
    replica.hash(&cluster, "s1", false).await.expect("hashing begins");
    cancel("s1").await;
    replica.hash(&cluster, "s2", false).await.expect("hashing begins");
    replica.delete_snapshot(&cluster, "s2").await;
    wait_until(LIMIT, "nothing is hashed", async || {
        if replica.is_hashing(&cluster).await { Err("a snapshot is being hashed".to_string()) } else { Ok(()) }
    })
    .await;
    refused(replica.hash_status(&cluster, "s2").await, Code::NotFound, "s2");
    let s1 = replica.hash_status(&cluster, "s1").await.expect("a status");
    assert!(["", "complete"].contains(&s1.state.as_str()), "{s1:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_medium_is_told_by_hashing_again_on_the_replica_that_has_it() {
    let mut cluster = Cluster::start().await;
    let size = SIZE;
    let mut replicas = cluster.replicas("vol", size).await;
    let engine = cluster.engine("vol", size, "spdk-tcp-nvmf", replicas.clone()).await;
    let mut random = support::random::Random::from_clock();
    let data = random.bytes(3 * CLUSTER);
    let address = format!("{}:{}", engine.target_ip, engine.target_port).parse().expect("a target");
    let nqn = corriente::name::Nqn::volume(&corriente::name::VolumeName::parse("vol").expect("a volume name"));
    let host = corriente::name::Nqn::parse("nqn.2026-01.test:host").expect("an NQN");
    let client = corriente::initiator::Initiator::connect(address, &nqn, &host, Default::default()).await;
    let client = client.expect("the target answers");
    client.write(CLUSTER as u64, &data).await.expect("a write");
    client.disconnect().await.expect("an orderly end");
    let request = wire::SnapshotRequest { name: "vol-e-0".into(), snapshot_name: "s1".into(), ..Default::default() };
    cluster.nodes[0].spdk().engine_snapshot_create(request).await.expect("a snapshot");

    let mut crc = Crc64::new();
    crc.update(&data);
    let first = all_hashed(&cluster, false, |_| true).await;
    assert_eq!(first.keys().collect::<Vec<_>>(), replicas.values().collect::<Vec<_>>(), "keyed by address");
    for status in first.values() {
        assert_eq!((status.checksum.clone(), status.silently_corrupted), (crc.sum().to_string(), false));
    }

    cluster.delete_engine("vol").await;
    cluster.nodes[1].stop().await;
    let disk = Disk::open(cluster.nodes[1].directory(), "disk.img");
    let found = fs::read(disk.path()).expect("the disk's file");
    let piece = &data[CLUSTER + 4096..][..512];
    let at = found.windows(512).step_by(512).position(|window| window == piece).expect("the data is on the disk") * 512;
    disk.overwrite(at as u64 + 7, &[!piece[7]]);
    cluster.nodes[1].start_again().await;
    ready(&cluster.nodes[1]).await;
    let damaged = create_replica(&cluster.nodes[1], "vol-r-00000001", size).await;
    replicas.insert("vol-r-00000001".into(), damaged.clone());
    cluster.engine("vol", size, "spdk-tcp-nvmf", replicas).await;

    let kept = all_hashed(&cluster, false, |_| true).await;
    assert!(kept.values().all(|status| !status.silently_corrupted), "a checksum that is known is not read again");
    let again = all_hashed(&cluster, true, |statuses| statuses[&damaged].silently_corrupted).await;
    for (address, status) in &again {
        assert_eq!(status.silently_corrupted, *address == damaged, "{address}: {status:?}");
        assert_eq!(status.checksum == crc.sum().to_string(), *address != damaged, "{address}: {status:?}");
    }
    cluster.nodes[1].restart().await;
    ready(&cluster.nodes[1]).await;
    let replica = Replica { node: 1, name: "vol-r-00000001".into(), address: damaged };
    let known = replica.hash_status(&cluster, "s1").await.expect("a status");
    assert!(known.silently_corrupted, "it is known after a restart");
}

/// Hashes s1 through the engine, and waits until both replicas are through and `enough` holds.
async fn all_hashed(
    cluster: &Cluster,
    rehash: bool,
    enough: impl Fn(&BTreeMap<String, wire::ReplicaSnapshotHashStatusResponse>) -> bool,
) -> BTreeMap<String, wire::ReplicaSnapshotHashStatusResponse> {
    let (name, snapshot_name) = ("vol-e-0".to_owned(), "s1".to_owned());
    let request = wire::SnapshotHashRequest { name: name.clone(), snapshot_name: snapshot_name.clone(), rehash };
    cluster.nodes[0].spdk().engine_snapshot_hash(request).await.expect("hashing begins");
    wait_until(LIMIT, "both replicas have hashed", async || {
        let request = wire::SnapshotHashStatusRequest { name: name.clone(), snapshot_name: snapshot_name.clone() };
        let status = cluster.nodes[0].spdk().engine_snapshot_hash_status(request).await.expect("a status");
        let status: BTreeMap<_, _> = status.into_inner().status.into_iter().collect();
        let done = status.len() == 2 && status.values().all(|status| status.state == "complete");
        if done && enough(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}
