//! Which clusters a head has of its own: what an engine copies to a replica that has all snapshots.

use super::Replicas;
use crate::name::ReplicaName;
use crate::spdk::clustermap::ClusterMap;
use crate::{Error, Result};

impl Replicas {
    /// Bytes in a cluster, and which clusters the head of a replica has of its own now.
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
