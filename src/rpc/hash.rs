//! Calls about hashes of snapshots, of one replica and of all replicas of an engine.

use crate::Result;
use crate::engine::Engines;
use crate::replica::Replicas;
use crate::wire::field::{engine_name, replica_name, snapshot_name};
use crate::wire::hash::status_message;
use crate::wire::spdkrpc as wire;

/// ReplicaSnapshotHash.
pub async fn replica(replicas: &Replicas, request: wire::SnapshotHashRequest) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    replicas.snapshot_hash(&name, &snapshot, request.rehash).await
}

/// ReplicaSnapshotHashStatus.
pub async fn replica_status(
    replicas: &Replicas,
    request: wire::SnapshotHashStatusRequest,
) -> Result<wire::ReplicaSnapshotHashStatusResponse> {
    let name = replica_name("name", &request.name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    Ok(status_message(replicas.snapshot_hash_status(&name, &snapshot).await?))
}

/// ReplicaSnapshotHashCancel.
pub async fn replica_cancel(replicas: &Replicas, request: wire::SnapshotHashCancelRequest) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    replicas.snapshot_hash_cancel(&name, &snapshot).await
}

/// ReplicaSnapshotHashLockState.
pub fn replica_lock_state(
    replicas: &Replicas,
    request: wire::SnapshotHashLockStateRequest,
) -> Result<wire::SnapshotHashLockStateResponse> {
    let is_locked = replicas.is_hashing(&replica_name("name", &request.name)?)?;
    Ok(wire::SnapshotHashLockStateResponse { is_locked })
}

/// ReplicaSnapshotRangeHashGet.
pub async fn replica_range(
    replicas: &Replicas,
    request: wire::ReplicaSnapshotRangeHashGetRequest,
) -> Result<wire::ReplicaSnapshotRangeHashGetResponse> {
    let name = replica_name("name", &request.name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    let (first, count) = (request.cluster_start_index, request.cluster_count);
    let range_hash_map = replicas.snapshot_range_hash(&name, &snapshot, first, count).await?;
    Ok(wire::ReplicaSnapshotRangeHashGetResponse { range_hash_map: range_hash_map.into_iter().collect() })
}

/// EngineSnapshotHash.
pub async fn engine(engines: &Engines, request: wire::SnapshotHashRequest) -> Result<()> {
    let engine = engines.get(&engine_name("name", &request.name)?)?;
    engine.snapshot_hash(&snapshot_name("snapshot_name", &request.snapshot_name)?, request.rehash).await
}

/// EngineSnapshotHashStatus. The map's keys are the replicas' addresses.
pub async fn engine_status(
    engines: &Engines,
    request: wire::SnapshotHashStatusRequest,
) -> Result<wire::EngineSnapshotHashStatusResponse> {
    let engine = engines.get(&engine_name("name", &request.name)?)?;
    let statuses = engine.snapshot_hash_status(&snapshot_name("snapshot_name", &request.snapshot_name)?).await;
    let status = statuses.into_iter().map(|(address, status)| (address.to_string(), status_message(status))).collect();
    Ok(wire::EngineSnapshotHashStatusResponse { status })
}

/// EngineSnapshotHashCancel.
pub async fn engine_cancel(engines: &Engines, request: wire::SnapshotHashCancelRequest) -> Result<()> {
    let engine = engines.get(&engine_name("name", &request.name)?)?;
    engine.snapshot_hash_cancel(&snapshot_name("snapshot_name", &request.snapshot_name)?).await
}

/// EngineSnapshotHashLockState: whether any snapshot of any replica is being hashed.
pub async fn engine_lock_state(
    engines: &Engines,
    request: wire::SnapshotHashLockStateRequest,
) -> Result<wire::SnapshotHashLockStateResponse> {
    let engine = engines.get(&engine_name("name", &request.name)?)?;
    Ok(wire::SnapshotHashLockStateResponse { is_locked: engine.is_hashing().await? })
}
