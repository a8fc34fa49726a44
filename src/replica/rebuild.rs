//! Rebuilding a replica as a copy of another: snapshot by snapshot, oldest first, from node to node.
//!
//! - [`types`]: what is asked for and told.

pub mod types;

pub use types::{CopyProgress, CopyState, RebuildOrder, RebuildProgress, RebuildSnapshot};

use super::Replicas;
use super::snapshot::SnapshotOptions;
use crate::name::{HostPort, ReplicaAddress, ReplicaName, SnapshotName};
use crate::spdk::clustermap::ClusterMap;
use crate::{Error, Result};

const NOT_YET: Error = Error::Unimplemented { what: "a rebuild", reason: "it comes with a later commit" };

#[allow(unused_variables)]
impl Replicas {
    pub async fn rebuild_source_start(
        &self,
        name: &ReplicaName,
        destination: &ReplicaName,
        address: ReplicaAddress,
        snapshot: &SnapshotName,
    ) -> Result<HostPort> {
        Err(NOT_YET)
    }
    pub async fn rebuild_source_finish(&self, name: &ReplicaName, destination: &ReplicaName) -> Result<()> {
        Err(NOT_YET)
    }
    pub async fn rebuild_start(&self, name: &ReplicaName, order: RebuildOrder) -> Result<ReplicaAddress> {
        Err(NOT_YET)
    }
    pub async fn rebuild_copy_start(&self, name: &ReplicaName, snapshot: &SnapshotName, fast_sync: bool) -> Result<()> {
        Err(NOT_YET)
    }
    pub fn rebuild_progress(&self, name: &ReplicaName) -> Result<RebuildProgress> {
        Err(NOT_YET)
    }
    pub async fn rebuild_snapshot_create(
        &self,
        name: &ReplicaName,
        snapshot: &SnapshotName,
        options: SnapshotOptions,
    ) -> Result<()> {
        Err(NOT_YET)
    }
    pub async fn rebuild_finish(&self, name: &ReplicaName) -> Result<()> {
        Err(NOT_YET)
    }
    pub fn rebuild_limit(&self, name: &ReplicaName, mib_per_second: u32) -> Result<()> {
        Err(NOT_YET)
    }
    pub async fn snapshot_hash(&self, name: &ReplicaName, snapshot: &SnapshotName, rehash: bool) -> Result<()> {
        Err(NOT_YET)
    }
    pub async fn snapshot_hash_status(&self, name: &ReplicaName, snapshot: &SnapshotName) -> Result<super::HashStatus> {
        Err(NOT_YET)
    }
    pub async fn snapshot_hash_cancel(&self, name: &ReplicaName, snapshot: &SnapshotName) -> Result<()> {
        Err(NOT_YET)
    }

    /// Bytes in a cluster, and which clusters the head has of its own now.
    pub async fn head_map(&self, name: &ReplicaName) -> Result<(u64, ClusterMap)> {
        let replica = self.known(name)?;
        let mut turn = replica.turn().await?;
        turn.require_usable()?;
        turn.refresh().await?;
        if turn.work.tree.head.is_none() {
            return Err(Error::precondition(replica.object(), "it has no head"));
        }
        Ok((replica.disk.cluster_size(), replica.store.cluster_map(&replica.head()).await?))
    }
}
