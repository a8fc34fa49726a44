//! Whether the replicas of a volume are the same: trees, checksums of snapshots, and what each point in time holds.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;

use crate::cluster::Cluster;
use crate::support::client::Client;
use crate::support::wait::wait_until;
use crate::{FIRST, LIMIT, SECOND, SIZE, mode, tree};

/// What the volume held at each snapshot that the client's test took.
#[derive(Default)]
pub struct Points(BTreeMap<String, Vec<u8>>);

impl Points {
    /// Takes a snapshot; it must not be refused.
    pub async fn take(&mut self, cluster: &Cluster, client: &Client, name: &str) {
        crate::snapshot(cluster, name).await;
        self.note(client, name);
    }

    /// A snapshot was taken with what the client has written so far.
    pub fn note(&mut self, client: &Client, name: &str) {
        self.0.insert(name.into(), client.image());
    }

    /// Both replicas have the same tree, of so many snapshots, with the same checksums; and the second alone holds each
    /// point, and the volume as the client left it. The engine is gone afterwards.
    pub async fn are_on_both(&self, cluster: &Cluster, client: &Client, count: usize, second: &str) {
        let (one, two) = (tree(cluster, 0, FIRST).await, tree(cluster, 1, SECOND).await);
        assert_eq!(one, two);
        assert_eq!(one.len(), count, "{one:?}");
        assert_eq!(parents_of_heads(cluster).await.len(), 1, "the heads stand on different snapshots");
        for name in one.keys() {
            let sums = (hashed(cluster, 0, FIRST, name).await, hashed(cluster, 1, SECOND, name).await);
            assert_eq!(sums.0, sums.1, "snapshot {name} differs");
        }
        self.are_held_alone(cluster, client, second).await;
    }

    /// The second replica alone holds each point, and the volume as the client left it. The engine is gone afterwards.
    pub async fn are_held_alone(&self, cluster: &Cluster, client: &Client, second: &str) {
        cluster.delete_engine("vol").await;
        let replicas: BTreeMap<_, _> = [(SECOND.to_owned(), second.to_owned())].into();
        let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", replicas.clone()).await;
        assert!(cluster.read(&engine).await == client.image(), "the new replica does not hold the volume");
        cluster.delete_engine("vol").await;
        for (name, image) in &self.0 {
            let request =
                wire::SnapshotRequest { name: SECOND.into(), snapshot_name: name.clone(), ..Default::default() };
            cluster.nodes[1].spdk().replica_snapshot_revert(request).await.expect("a revert");
            let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", replicas.clone()).await;
            assert!(cluster.read(&engine).await == *image, "the new replica has other bytes in snapshot {name}");
            cluster.delete_engine("vol").await;
        }
    }
}

async fn parents_of_heads(cluster: &Cluster) -> std::collections::BTreeSet<String> {
    let mut parents = std::collections::BTreeSet::new();
    for (node, replica) in [FIRST, SECOND].into_iter().enumerate() {
        let request = wire::ReplicaGetRequest { name: replica.into() };
        let found = cluster.nodes[node].spdk().replica_get(request).await.expect("the replica exists").into_inner();
        parents.insert(found.head.expect("a head").parent);
    }
    parents
}

/// The checksum of a replica's snapshot.
pub async fn hashed(cluster: &Cluster, node: usize, replica: &str, snapshot: &str) -> String {
    let (name, snapshot_name) = (replica.to_owned(), snapshot.to_owned());
    let mut spdk = cluster.nodes[node].spdk();
    let request = wire::SnapshotHashRequest { name: name.clone(), snapshot_name: snapshot_name.clone(), rehash: false };
    spdk.replica_snapshot_hash(request).await.expect("hashing begins");
    wait_until(LIMIT, "the snapshot is hashed", async || {
        let request = wire::SnapshotHashStatusRequest { name: name.clone(), snapshot_name: snapshot_name.clone() };
        let status = cluster.nodes[node].spdk().replica_snapshot_hash_status(request).await;
        let status = status.expect("a status").into_inner();
        if status.state == "complete" { Ok(status.checksum) } else { Err(format!("{status:?}")) }
    })
    .await
}

/// The client works until the second replica is in sync. It is never out meanwhile, and its progress never falls.
pub async fn in_sync(cluster: &Cluster, client: &mut Client) {
    let mut last = 0;
    let mut probe = async || {
        client.work().await;
        let request = wire::ReplicaRebuildingDstShallowCopyCheckRequest { name: SECOND.into() };
        let check = cluster.nodes[1].spdk().replica_rebuilding_dst_shallow_copy_check(request).await;
        let now = check.expect("its progress").into_inner();
        assert_eq!(now.error, "");
        assert!(now.total_progress >= last && now.total_progress <= 100, "{now:?} after {last}");
        last = now.total_progress;
        match mode(cluster).await {
            Some(wire::ReplicaMode::Rw) => Ok(()),
            Some(wire::ReplicaMode::Wo) => Err("it is being rebuilt".into()),
            other => panic!("its mode is {other:?}"),
        }
    };
    wait_until(LIMIT, "the replica is in sync", &mut probe).await;
}

/// How often each snapshot was copied, as the source's node tells.
pub fn copies(cluster: &Cluster) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    let log = cluster.nodes[0].log();
    for line in log.lines().filter(|line| line.contains("a snapshot is copied")) {
        let name = line.split("snapshot=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("its name");
        *copies.entry(name.to_owned()).or_default() += 1;
    }
    copies
}
