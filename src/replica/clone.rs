//! A replica made of a snapshot of another one.
//!
//! A *linked* clone is based on the source's snapshot and holds only what is written to it; both are on one disk. Between
//! them is an *entry point*, an empty snapshot, so that the source's snapshot has one child for all of its clones. Neither
//! the snapshot nor the source can be deleted while it has clones; the entry point goes with the last of them.
//!
//! A *full copy* has all that the snapshot shows, and may be on any node; it needs its source no more when it is complete.
//!
//! - [`types`]: what is asked for and told. [`entry_point`]: the entry points in a store (pure).
//! - [`link`]: a replica becomes a linked clone. [`protect`]: what has clones is kept, what has none any more is removed.
//! - [`full`], [`board`]: a full copy at the replica that is cloned into, and how far it is. [`copies`]: at the source.
//!   [`node`]: the source's node as it is called.

mod board;
mod copies;
mod entry_point;
mod full;
mod link;
mod node;
mod protect;
pub mod types;

use std::sync::Arc;

use super::instance::Replica;
use super::{Replicas, detached};
use crate::name::{ReplicaAddress, ReplicaName, SnapshotName};
use crate::{Error, Result};

pub(super) use board::CloneBoard;
pub(super) use copies::Copies;
pub use entry_point::EntryMark;
pub(super) use entry_point::{clones_of, has_unused_entry_points, mark_of};
pub(super) use full::{CloneDestination, clear};
pub(super) use link::ensure_entry_point;
pub(super) use protect::{list, sweep_in_turn};
pub use types::{CloneMark, CloneMode, CloneOrder, CloneStatus};

impl Replicas {
    /// Makes a replica that holds nothing yet a clone. A linked one is complete when this returns. [`Self::clone_status`]
    /// tells of both. The same again changes nothing.
    pub async fn clone_start(&self, name: &ReplicaName, order: CloneOrder) -> Result<()> {
        let replica = self.known(name)?;
        let replicas = self.clone();
        detached(async move {
            match order.mode {
                CloneMode::Linked => replicas.link(&replica, order).await,
                CloneMode::FullCopy => replicas.copy_start(&replica, order).await,
            }
        })
        .await
    }

    /// Makes `destination`, on this node too, a linked clone of a snapshot of the replica.
    pub async fn clone_link_here(
        &self,
        name: &ReplicaName,
        destination: &ReplicaName,
        snapshot: &SnapshotName,
    ) -> Result<()> {
        let ports = self.get(name).await?.ports;
        let Some(ports) = ports else {
            return Err(Error::precondition(format!("replica {name}"), "it must be running to be cloned by this call"));
        };
        let source_address = ReplicaAddress::new(ports.ip, ports.first)
            .map_err(|error| Error::internal("address", error.to_string()))?;
        let (source, snapshot) = (name.clone(), snapshot.clone());
        let order = CloneOrder { source, source_address, snapshot, mode: CloneMode::Linked };
        self.clone_start(destination, order).await
    }

    async fn link(&self, replica: &Arc<Replica>, order: CloneOrder) -> Result<()> {
        if order.source_address.ip() != self.data_ip() {
            let problem = format!("{} is not this node, where replica {} is", order.source_address.ip(), replica.name);
            return Err(Error::invalid(
                "src_replica_address",
                format!("{problem}; a linked clone is on its source's disk"),
            ));
        }
        if order.source == replica.name {
            return Err(Error::invalid("src_replica_name", "a replica cannot be a clone of itself"));
        }
        let source = self.known(&order.source)?;
        replica.turn().await?.link(&source, &order).await
    }

    /// How the last clone into a replica is getting on, or how it ended; all empty when there was none.
    pub fn clone_status(&self, name: &ReplicaName) -> Result<CloneStatus> {
        let replica = self.known(name)?;
        if let Some(status) = replica.clone_board.get() {
            return Ok(status);
        }
        // Of an earlier run of the node.
        let view = replica.view();
        Ok(match (&view.cloned, &view.interrupted) {
            (Some(mark), _) => CloneStatus::complete(mark),
            (None, Some(mark)) => CloneStatus::interrupted(mark),
            (None, None) => CloneStatus::default(),
        })
    }
}
