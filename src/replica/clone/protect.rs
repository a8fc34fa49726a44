//! What has linked clones is kept, and an entry point goes with its last one.

use std::collections::BTreeSet;

use super::entry_point::unused;
use crate::replica::instance::Turn;
use crate::replica::store::Store;
use crate::replica::view::ReplicaState;
use crate::{Error, Result};

/// Names for a message.
pub(in crate::replica) fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

impl Turn<'_> {
    /// Begins to delete the replica, unless linked clones are based on it. From here on none can be made of it.
    pub(in crate::replica) async fn begin_removal(&mut self) -> Result<()> {
        let replica = self.replica;
        let _entry_points = replica.store.entry_points().await;
        self.refresh().await?;
        self.remove_unused_entry_points().await?;
        let clones: BTreeSet<String> = self.work.tree.clones.values().flatten().cloned().collect();
        if !clones.is_empty() {
            let problem = format!("linked clones are based on its snapshots: {}; delete them first", list(&clones));
            return Err(Error::precondition(replica.object(), problem));
        }
        self.set_state(ReplicaState::Terminating);
        Ok(())
    }

    /// Removes those of the replica's entry points that have no clone, as a crash may have left. The caller has the turn of
    /// the store's entry points.
    pub(in crate::replica) async fn remove_unused_entry_points(&mut self) -> Result<()> {
        if self.work.tree.clones.values().any(BTreeSet::is_empty) {
            sweep(&self.replica.store).await?;
            self.refresh().await?;
        }
        Ok(())
    }
}

/// Deletes all entry points of the store that have no clone, and what was left of making one. The caller has the turn of
/// the store's entry points, so none is being made.
pub(super) async fn sweep(store: &Store) -> Result<()> {
    for lvol in unused(&store.survey().await?[..]) {
        store.delete(&lvol).await?;
        tracing::info!(%lvol, "an entry point without a linked clone is removed");
    }
    Ok(())
}

/// As [`sweep`]; what cannot be removed now is removed by a later one.
pub(super) async fn sweep_or_warn(store: &Store) {
    if let Err(error) = sweep(store).await {
        tracing::warn!(%error, "an entry point without a clone could not be removed");
    }
}

/// Removes the entry points that the end of something has left without a clone.
pub(in crate::replica) async fn sweep_in_turn(store: &Store) {
    let _entry_points = store.entry_points().await;
    sweep_or_warn(store).await;
}
