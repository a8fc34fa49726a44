//! RestoreCheckpoints: what each replica of an engine durably knows of restores.

use crate::Result;
use crate::engine::attach::ReplicaPath;
use crate::engine::instance::Engine;
use crate::engine::restore::marker::RestoreMarker;
use crate::wire::corriente::v1 as own;

/// Asks all replicas.
pub(super) async fn list(engine: &Engine) -> own::RestoreCheckpointsResponse {
    let found = engine.restore_checkpoints().await;
    let checkpoints = found.iter().map(|(path, marker)| describe(path, marker)).collect();
    own::RestoreCheckpointsResponse { engine_name: engine.name.to_string(), checkpoints }
}

fn describe(path: &ReplicaPath, marker: &Result<RestoreMarker>) -> own::RestoreCheckpoint {
    let mut checkpoint = own::RestoreCheckpoint {
        replica_name: path.replica.to_string(),
        address: path.address.to_string(),
        ..Default::default()
    };
    match marker {
        Ok(marker) => {
            checkpoint.restored = marker.restored.as_ref().map(|restored| own::RestoredPoint {
                volume_name: restored.volume.to_string(),
                backup_name: restored.backup.to_string(),
                snapshot_name: restored.snapshot.to_string(),
            });
            checkpoint.unfinished = marker.in_progress.as_ref().map(|begun| own::UnfinishedRestore {
                volume_name: begun.volume.to_string(),
                backup_name: begun.backup.to_string(),
                base_intact: begun.base_intact,
            });
        }
        Err(error) => checkpoint.error = error.to_string(),
    }
    checkpoint
}
