//! The operations that a replica's users ask for, as values: each runs in its turn, and to its end.

use super::instance::Turn;
use super::snapshot::SnapshotOptions;
use crate::Result;
use crate::name::SnapshotName;

/// One operation on one replica.
pub(super) enum Operation {
    Expand { size: u64 },
    SnapshotCreate { snapshot: SnapshotName, options: SnapshotOptions },
    SnapshotDelete { snapshot: SnapshotName },
    SnapshotRevert { snapshot: SnapshotName },
    SnapshotPurge,
}

impl Operation {
    pub(super) async fn run(self, turn: &mut Turn<'_>) -> Result<()> {
        match self {
            Self::Expand { size } => turn.expand(size).await,
            Self::SnapshotCreate { snapshot, options } => turn.snapshot_create(&snapshot, &options).await,
            Self::SnapshotDelete { snapshot } => turn.snapshot_delete(&snapshot).await,
            Self::SnapshotRevert { snapshot } => turn.snapshot_revert(&snapshot).await,
            Self::SnapshotPurge => turn.snapshot_purge().await,
        }
    }
}
