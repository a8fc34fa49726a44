//! The calls of a rebuild in the order in which an engine makes them.

use std::time::Duration;

use corriente::wire::spdkrpc as wire;
use tonic::Status;

use crate::cluster::Cluster;
use crate::source::Replica;
use crate::support::wait::wait_until;

pub const LIMIT: Duration = Duration::from_secs(90);

/// A rebuild of `destination` from `source`.
pub struct Director<'a> {
    pub cluster: &'a Cluster,
    pub source: &'a Replica,
    pub destination: &'a Replica,
    pub newest: String,
    pub fast_sync: bool,
}

/// A tree's snapshots, each after the one it is based on.
pub fn in_order(replica: &wire::Replica) -> Vec<wire::Lvol> {
    let mut order: Vec<wire::Lvol> = Vec::new();
    while order.len() < replica.snapshots.len() {
        let before = order.len();
        for lvol in replica.snapshots.values() {
            let is_there = |name: &str| order.iter().any(|other| other.name == name);
            if !is_there(&lvol.name) && (lvol.parent.is_empty() || is_there(&lvol.parent)) {
                order.push(lvol.clone());
            }
        }
        assert!(order.len() > before, "the chain {:?} hangs together", replica.snapshots);
    }
    order
}

impl<'a> Director<'a> {
    pub fn of(cluster: &'a Cluster, source: &'a Replica, destination: &'a Replica, newest: &str) -> Self {
        Self { cluster, source, destination, newest: newest.into(), fast_sync: false }
    }

    pub async fn source_start(&self) -> Result<String, Status> {
        let request = wire::ReplicaRebuildingSrcStartRequest {
            name: self.source.name.clone(),
            dst_replica_name: self.destination.name.clone(),
            dst_replica_address: self.destination.address.clone(),
            exposed_snapshot_name: self.newest.clone(),
        };
        let answer = self.source.node(self.cluster).spdk().replica_rebuilding_src_start(request).await?;
        Ok(answer.into_inner().exposed_snapshot_lvol_address)
    }

    pub async fn source_finish(&self) -> Result<(), Status> {
        let request = wire::ReplicaRebuildingSrcFinishRequest {
            name: self.source.name.clone(),
            dst_replica_name: self.destination.name.clone(),
        };
        self.source.node(self.cluster).spdk().replica_rebuilding_src_finish(request).await.map(drop)
    }

    pub async fn order(&self, exposed: &str) -> wire::ReplicaRebuildingDstStartRequest {
        wire::ReplicaRebuildingDstStartRequest {
            name: self.destination.name.clone(),
            src_replica_name: self.source.name.clone(),
            src_replica_address: self.source.address.clone(),
            external_snapshot_name: self.newest.clone(),
            external_snapshot_address: exposed.into(),
            rebuilding_snapshot_list: in_order(&self.source.get(self.cluster).await),
            linked_clone_source: None,
        }
    }

    pub async fn start(&self, order: wire::ReplicaRebuildingDstStartRequest) -> Result<String, Status> {
        let answer = self.destination.node(self.cluster).spdk().replica_rebuilding_dst_start(order).await?;
        Ok(answer.into_inner().dst_head_lvol_address)
    }

    pub async fn copy_start(&self, snapshot: &str) -> Result<(), Status> {
        let request = wire::ReplicaRebuildingDstShallowCopyStartRequest {
            name: self.destination.name.clone(),
            snapshot_name: snapshot.into(),
            fast_sync: self.fast_sync,
        };
        self.destination.node(self.cluster).spdk().replica_rebuilding_dst_shallow_copy_start(request).await.map(drop)
    }

    pub async fn check(&self) -> Result<wire::ReplicaRebuildingDstShallowCopyCheckResponse, Status> {
        let request = wire::ReplicaRebuildingDstShallowCopyCheckRequest { name: self.destination.name.clone() };
        let mut client = self.destination.node(self.cluster).spdk();
        client.replica_rebuilding_dst_shallow_copy_check(request).await.map(tonic::Response::into_inner)
    }

    pub async fn make(&self, lvol: &wire::Lvol) -> Result<(), Status> {
        let request = wire::SnapshotRequest {
            name: self.destination.name.clone(),
            snapshot_name: lvol.name.clone(),
            user_created: lvol.user_created,
            snapshot_timestamp: lvol.snapshot_timestamp.clone(),
            ..Default::default()
        };
        self.destination.node(self.cluster).spdk().replica_rebuilding_dst_snapshot_create(request).await.map(drop)
    }

    pub async fn finish(&self) -> Result<(), Status> {
        let request = wire::ReplicaRebuildingDstFinishRequest { name: self.destination.name.clone() };
        self.destination.node(self.cluster).spdk().replica_rebuilding_dst_finish(request).await.map(drop)
    }

    pub async fn set_limit(&self, mib_per_second: i64) -> Result<(), Status> {
        let request = wire::ReplicaRebuildingDstSetQosLimitRequest {
            name: self.destination.name.clone(),
            qos_limit_mbps: mib_per_second,
        };
        self.destination.node(self.cluster).spdk().replica_rebuilding_dst_set_qos_limit(request).await.map(drop)
    }

    /// Both sides begin.
    pub async fn begin(&self) -> Vec<wire::Lvol> {
        let exposed = self.source_start().await.expect("the source begins");
        let order = self.order(&exposed).await;
        let address = self.start(order.clone()).await.expect("the destination begins");
        assert_eq!(address, self.destination.address);
        order.rebuilding_snapshot_list
    }

    /// Copies one snapshot and makes it; no number falls meanwhile.
    pub async fn copy(&self, lvol: &wire::Lvol) {
        self.copy_start(&lvol.name).await.expect("the copy begins");
        self.copied(&lvol.name).await;
        self.make(lvol).await.expect("the snapshot is made");
    }

    pub async fn copied(&self, snapshot: &str) {
        let mut last = (0, 0);
        wait_until(LIMIT, "the copy is complete", async || {
            let now = self.check().await.expect("its progress");
            assert_eq!((now.error.as_str(), now.snapshot_name.as_str()), ("", snapshot));
            assert_eq!(now.src_replica_name, self.source.name);
            assert!((now.progress, now.total_progress) >= last, "{now:?} after {last:?}");
            assert!(now.total_progress >= last.1 && now.total_progress <= 100);
            last = (now.progress, now.total_progress);
            match now.state.as_str() {
                "complete" => {
                    assert_eq!(now.progress, 100);
                    Ok(())
                }
                "starting" | "in_progress" => Err(format!("{now:?}")),
                other => panic!("the state {other:?}"),
            }
        })
        .await;
    }

    /// Waits until the rebuild has failed, and returns why.
    pub async fn failed(&self) -> String {
        wait_until(LIMIT, "the rebuild fails", async || {
            let now = self.check().await.expect("its progress");
            if now.total_state == "error" { Ok(now.error) } else { Err(format!("{now:?}")) }
        })
        .await
    }

    /// All of it, from begin to end.
    pub async fn run(&self) {
        for lvol in self.begin().await {
            self.copy(&lvol).await;
        }
        let done = self.check().await.expect("its progress");
        assert_eq!((done.total_state.as_str(), done.total_progress), ("complete", 100));
        self.finish().await.expect("the destination finishes");
        self.source_finish().await.expect("the source finishes");
        self.check_whole().await;
    }

    /// The destination has the source's tree, and an empty head above the newest snapshot.
    pub async fn check_whole(&self) {
        let (source, copy) = (self.source.get(self.cluster).await, self.destination.get(self.cluster).await);
        assert_eq!((copy.state.as_str(), copy.error_msg.as_str(), copy.rebuilding), ("running", "", false));
        let facts = |lvol: &wire::Lvol| {
            let mut children: Vec<_> = lvol.children.keys().cloned().collect();
            children.sort();
            let shown = (lvol.spec_size, lvol.actual_size, lvol.user_created);
            let text = (lvol.parent.clone(), lvol.snapshot_timestamp.clone(), lvol.snapshot_checksum.clone());
            (shown, text, children)
        };
        let tree = |replica: &wire::Replica| {
            let mut tree: Vec<_> = replica.snapshots.iter().map(|(name, lvol)| (name.clone(), facts(lvol))).collect();
            tree.sort();
            tree
        };
        assert_eq!(tree(&copy), tree(&source));
        let head = copy.head.expect("a head");
        assert_eq!((head.parent, head.actual_size, head.spec_size), (self.newest.clone(), 0, source.spec_size));
    }
}

/// Free bytes of a node's disk.
pub async fn free(cluster: &Cluster, node: usize) -> i64 {
    let request = wire::DiskGetRequest { disk_name: "disk".into(), ..Default::default() };
    cluster.nodes[node].spdk().disk_get(request).await.expect("the disk").into_inner().free_size
}
