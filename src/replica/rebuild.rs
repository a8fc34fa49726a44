//! Rebuilding a replica as a copy of another: snapshot by snapshot, oldest first, from node to node.
//!
//! An engine directs both sides. The *destination* sets aside what it holds ([`aside`]) and has no head until the rebuild
//! is complete; for each snapshot it serves an empty lvol above the parent's copy and asks the *source* to write the
//! snapshot's own clusters to it; then it makes a snapshot of that. In the end it has the source's tree and an empty head
//! above the newest snapshot.
//!
//! - [`types`]: what is asked for and told. [`plan`]: what is to be copied, and what is there already (pure).
//! - [`destination`], [`aside`], [`follow`], [`board`]: the destination's steps, its old data, the copy it waits for, and
//!   how far it is. [`round`]: newer snapshots of the source, added to those that are made.
//! - [`source`], [`copy`], [`target`]: the source's steps, one copy, and where it writes.
//! - [`node`]: the source's node as the destination calls it.
//!
//! Longhorn's engine attaches the destination's head at the start and lets it read through to the source; ours attaches
//! it at the end, as SPDK 20.07 has no clones of snapshots outside of a store. So only our engine can direct a rebuild
//! of our replicas.

pub(super) mod aside;
mod board;
mod copy;
mod destination;
mod follow;
mod node;
mod plan;
mod round;
mod source;
mod target;
pub mod types;

use std::sync::Arc;

use super::instance::Replica;
use super::snapshot::SnapshotOptions;
use super::{Replicas, detached};
use crate::name::{HostPort, LvolName, ReplicaAddress, ReplicaName, SnapshotName};
use crate::{Error, Result};

use destination::CopyOrder;

pub(super) use board::Board;
pub(super) use copy::{CopyJob, CopyLimits, CopyRecord, CopyRun};
pub(super) use destination::Destination;
pub(super) use follow::Followed;
pub(super) use node::SourceNode;
pub(super) use source::Source;
pub(super) use target::Place;
pub use types::{CopyProgress, CopyState, RebuildOrder, RebuildProgress, RebuildSnapshot};

impl Replicas {
    /// Begins to rebuild a replica: sets all it holds aside. Returns where its head will be. The rebuild of before goes on when
    /// the order has all that it has made; any other is over, and what it has completed is used again.
    pub async fn rebuild_start(&self, name: &ReplicaName, order: RebuildOrder) -> Result<ReplicaAddress> {
        let replica = self.known(name)?;
        let replicas = self.clone();
        detached(async move {
            let linked = order.linked.as_ref().map(|linked| replicas.known(&linked.source)).transpose()?;
            let mut turn = replica.turn().await?;
            let address = turn.rebuild_begin(order, linked.as_deref()).await?;
            let unfinished = turn.work.rebuild.as_mut().and_then(|rebuild| rebuild.unfinished_head.take());
            drop(turn);
            if let Some(head) = unfinished {
                let replica = replica.clone();
                tokio::spawn(async move { aside::clear_unfinished(&replica, &head).await });
            }
            replicas.backups().cancel(Some(&replica.name));
            replica.hashes.cancel_all();
            if let Err(error) = replica.copies.end_all().await {
                tracing::warn!(replica = %replica.name, %error, "a full copy still reads a replica that is rebuilt");
            }
            Ok(address)
        })
        .await
    }

    /// Begins to copy a snapshot, whose parent must be made; or takes what is here already, with `fast_sync` also what
    /// is equal by its checksum. [`Self::rebuild_progress`] tells of the end.
    pub async fn rebuild_copy_start(&self, name: &ReplicaName, snapshot: &SnapshotName, fast_sync: bool) -> Result<()> {
        let replica = self.known(name)?;
        let (replicas, snapshot) = (self.clone(), snapshot.clone());
        detached(async move {
            let mut turn = replica.turn().await?;
            if let Some(order) = turn.rebuild_copy(&snapshot, fast_sync).await? {
                let number = order.number;
                let follower = tokio::spawn(replicas.rebuild_follow(replica.clone(), order));
                turn.rebuild_follow(number, follower.abort_handle());
            }
            Ok(())
        })
        .await
    }

    async fn rebuild_follow(self, replica: Arc<Replica>, order: CopyOrder) {
        let followed = self.rebuild_copied(&replica, &order).await;
        if let Err(error) = followed {
            let what = format!("the copy of snapshot {} of replica {}", order.snapshot, order.source);
            let error = replica.disk.explain(error, &what).await;
            // Not in this task, which ends with the copy.
            tokio::spawn(async move {
                if let Ok(mut turn) = replica.turn().await {
                    turn.rebuild_copy_failed(order.number, &error).await;
                }
            });
        }
    }

    /// Asks the source for the copy and returns when it is complete and durable.
    async fn rebuild_copied(&self, replica: &Replica, order: &CopyOrder) -> Result<()> {
        let CopyOrder { source, source_address, snapshot, .. } = order;
        let node = match source_address.ip() == self.data_ip() {
            true => SourceNode::Own(self.clone()),
            false => SourceNode::Other(self.peers().node_of(*source_address)?),
        };
        node.copy_start(source, snapshot, order.address).await?;
        let followed = Followed { source, source_address: *source_address, snapshot };
        let ask = || node.copy_progress(source, &replica.name, snapshot);
        followed.to_its_end(self.copy_limits().stall, ask, |progress| replica.board.copied(progress)).await?;
        replica.board.copy_complete();
        Ok(())
    }

    /// How the last rebuild of a replica is getting on, or how it ended.
    pub fn rebuild_progress(&self, name: &ReplicaName) -> Result<RebuildProgress> {
        let replica = self.known(name)?;
        let progress = replica.board.get();
        progress
            .ok_or_else(|| Error::precondition(replica.object(), "no rebuild of it was begun since the node started"))
    }

    /// Makes the snapshot of what was copied, with the source's attributes.
    pub async fn rebuild_snapshot_create(
        &self,
        name: &ReplicaName,
        snapshot: &SnapshotName,
        options: SnapshotOptions,
    ) -> Result<()> {
        let replica = self.known(name)?;
        let snapshot = snapshot.clone();
        detached(async move { replica.turn().await?.rebuild_make(&snapshot, &options).await }).await
    }

    /// Ends a rebuild: the replica gets its head and is exported. Before all snapshots are made it is the end of the
    /// rebuild as failed, and an error.
    pub async fn rebuild_finish(&self, name: &ReplicaName) -> Result<()> {
        let replica = self.known(name)?;
        let replicas = self.clone();
        detached(async move {
            if replica.turn().await?.rebuild_end().await? {
                replicas.clear_leftovers(&replica);
            }
            Ok(())
        })
        .await
    }

    /// Deletes what a complete rebuild has left over, in the background.
    pub(super) fn clear_leftovers(&self, replica: &Arc<Replica>) {
        let (replicas, replica) = (self.clone(), replica.clone());
        tokio::spawn(async move { aside::clear(&replica, || replicas.is_stopping()).await });
    }

    /// Limits how fast this and later rebuilds of a replica are written, at once; 0 is no limit.
    pub fn rebuild_limit(&self, name: &ReplicaName, mib_per_second: u32) -> Result<()> {
        self.known(name)?.pace.set(mib_per_second);
        Ok(())
    }

    /// Makes a replica the source of a rebuild of `destination`, and exposes a snapshot; returns where.
    pub async fn rebuild_source_start(
        &self,
        name: &ReplicaName,
        destination: &ReplicaName,
        address: ReplicaAddress,
        snapshot: &SnapshotName,
    ) -> Result<HostPort> {
        let replica = self.known(name)?;
        tracing::debug!(replica = %name, %destination, %address, "a rebuild asks for its source");
        let (destination, snapshot) = (destination.clone(), snapshot.clone());
        detached(async move { replica.turn().await?.source_begin(&destination, &snapshot).await }).await
    }

    /// Ends a replica's part as the source of a rebuild of `destination`, and a copy that runs.
    pub async fn rebuild_source_finish(&self, name: &ReplicaName, destination: &ReplicaName) -> Result<()> {
        let replica = self.known(name)?;
        let destination = destination.clone();
        detached(async move { replica.turn().await?.source_finish(&destination).await }).await
    }

    /// Begins to copy a snapshot of a source to the destination's lvol served at `address`: its own clusters, or those
    /// that are listed, as it reads them.
    pub async fn rebuild_source_copy(
        &self,
        name: &ReplicaName,
        snapshot: &SnapshotName,
        address: HostPort,
        clusters: Option<Vec<u64>>,
    ) -> Result<()> {
        let replica = self.known(name)?;
        let (replicas, snapshot) = (self.clone(), snapshot.clone());
        detached(async move {
            let mut turn = replica.turn().await?;
            let run = |destination| {
                let place = replicas.place_of(destination, address)?;
                Ok(CopyRun { place, limits: replicas.copy_limits().clone() })
            };
            turn.source_copy(&snapshot, clusters, run).await
        })
        .await
    }

    /// Where a destination's lvol is opened.
    fn place_of(&self, destination: ReplicaName, address: HostPort) -> Result<Place> {
        if address.ip() != self.data_ip() {
            return Ok(Place::Remote { lvol: LvolName::rebuilding(&destination), address });
        }
        let replica = self.known(&destination)?;
        let lvol = replica.store.alias(&LvolName::rebuilding(&destination));
        Ok(Place::Local(super::export::local_device(&lvol)?))
    }

    /// How far a source's copy of that snapshot is.
    pub fn rebuild_source_progress(
        &self,
        name: &ReplicaName,
        destination: &ReplicaName,
        snapshot: &SnapshotName,
    ) -> Result<CopyProgress> {
        let replica = self.known(name)?;
        let record = replica.copy().clone();
        match record.filter(|record| record.destination == *destination && record.snapshot == *snapshot) {
            Some(record) => Ok(record.progress()),
            None => {
                let problem = format!("no copy of snapshot {snapshot} to replica {destination} was begun");
                Err(Error::precondition(replica.object(), problem))
            }
        }
    }
}
