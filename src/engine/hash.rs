//! Hashes of a volume's snapshots: each replica in sync hashes its own.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::instance::Engine;
use crate::error::{Error, Result};
use crate::name::{ReplicaAddress, SnapshotName};
use crate::replica::{HashPhase, HashStatus};

impl Engine {
    /// Begins to hash a snapshot on every replica in sync. A replica that cannot is not put out for it.
    pub async fn snapshot_hash(&self, snapshot: &SnapshotName, rehash: bool) -> Result<()> {
        let answers = self.on_all(|path| async move { path.backend.snapshot_hash(snapshot, rehash).await }).await;
        if answers.is_empty() {
            return Err(Error::precondition(self.object(), "no replica is in sync to hash a snapshot"));
        }
        answers.into_iter().try_for_each(|(_, answer)| answer)
    }

    /// What each replica in sync knows of a snapshot's hash. One that does not answer is shown with the reason.
    pub async fn snapshot_hash_status(&self, snapshot: &SnapshotName) -> BTreeMap<ReplicaAddress, HashStatus> {
        let asked = self.in_sync().into_iter().map(|path| async move {
            let status = path.backend.snapshot_hash_status(snapshot).await.unwrap_or_else(|error| HashStatus {
                phase: HashPhase::Error,
                checksum: String::new(),
                error: error.to_string(),
                silently_corrupted: false,
            });
            (path.address, status)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Stops hashing a snapshot on every replica in sync.
    pub async fn snapshot_hash_cancel(&self, snapshot: &SnapshotName) -> Result<()> {
        let answers = self.on_all(|path| async move { path.backend.snapshot_hash_cancel(snapshot).await }).await;
        answers.into_iter().try_for_each(|(_, answer)| answer)
    }

    /// Whether a replica in sync is hashing any snapshot.
    pub async fn is_hashing(&self) -> Result<bool> {
        let asked = self.in_sync().into_iter().map(|path| async move { path.backend.is_hashing().await });
        let answers: Vec<bool> = join_all(asked).await.into_iter().collect::<Result<_>>()?;
        Ok(answers.contains(&true))
    }
}
