//! Backups of a volume: made by the node of one of its replicas, asked for and followed through the engine.

use super::backend::{BackupOrder, BackupProgress};
use super::instance::Engine;
use super::state::ReplicaMode;
use crate::error::{Error, Result};
use crate::name::{BackupName, ReplicaAddress, SnapshotName};

/// A backup that was started.
#[derive(Debug, Clone)]
pub struct StartedBackup {
    /// Its name.
    pub backup: BackupName,
    /// Whether it has a base.
    pub is_incremental: bool,
    /// The replica that makes it.
    pub replica: ReplicaAddress,
}

impl Engine {
    /// Starts a backup of a snapshot on a replica in sync, one of this node if there is any.
    pub async fn backup_create(&self, snapshot: &SnapshotName, order: BackupOrder) -> Result<StartedBackup> {
        if !self.published().chain.snapshots.contains_key(snapshot) {
            return Err(Error::not_found("snapshot", snapshot));
        }
        let Some(path) = self.in_sync().into_iter().next() else {
            return Err(Error::precondition(self.object(), "no replica is in sync, so none can be backed up"));
        };
        let (backup, is_incremental) = path.backend.backup_create(order).await?;
        Ok(StartedBackup { backup, is_incremental, replica: path.address })
    }

    /// How a backup is getting on, by the replica that makes it.
    pub async fn backup_status(&self, backup: &BackupName, replica: ReplicaAddress) -> Result<BackupProgress> {
        let listed = self.published().replicas;
        let Some((name, entry)) = listed.iter().find(|(_, listed)| listed.address == replica) else {
            return Err(Error::not_found("replica", replica));
        };
        if entry.mode != ReplicaMode::ReadWrite {
            return Err(Error::internal(format!("replica {name}"), "it is not in sync any more"));
        }
        self.path(name)?.backend.backup_status(backup).await
    }
}
