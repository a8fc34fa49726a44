//! Calls of a rebuild, to its destination and to its source: every field parsed before anything is done, the domain called,
//! its answer put on the wire.

use crate::name::HostPort;
use crate::replica::{Replicas, SnapshotOptions};
use crate::wire::field::{replica_address, replica_name, snapshot_name, timestamp};
use crate::wire::rebuild::{copy_message, parse_order, progress_message};
use crate::wire::{labels, spdkrpc as wire};
use crate::{Error, Result};

/// The highest limit of a rebuild's writes, in MiB a second; one above it limits nothing.
const LIMIT_MIB: u32 = 1 << 20;

/// ReplicaRebuildingSrcStart.
pub async fn source_start(
    replicas: &Replicas,
    request: wire::ReplicaRebuildingSrcStartRequest,
) -> Result<wire::ReplicaRebuildingSrcStartResponse> {
    let name = replica_name("name", &request.name)?;
    let destination = replica_name("dst_replica_name", &request.dst_replica_name)?;
    let address = replica_address("dst_replica_address", &request.dst_replica_address)?;
    let snapshot = snapshot_name("exposed_snapshot_name", &request.exposed_snapshot_name)?;
    let exposed = replicas.rebuild_source_start(&name, &destination, address, &snapshot).await?;
    Ok(wire::ReplicaRebuildingSrcStartResponse { exposed_snapshot_lvol_address: exposed.to_string() })
}

/// ReplicaRebuildingSrcFinish.
pub async fn source_finish(replicas: &Replicas, request: wire::ReplicaRebuildingSrcFinishRequest) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    let destination = replica_name("dst_replica_name", &request.dst_replica_name)?;
    replicas.rebuild_source_finish(&name, &destination).await
}

/// ReplicaRebuildingSrcShallowCopyStart.
pub async fn source_copy(
    replicas: &Replicas,
    request: wire::ReplicaRebuildingSrcShallowCopyStartRequest,
) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    let address = copy_address(&request.dst_rebuilding_lvol_address)?;
    replicas.rebuild_source_copy(&name, &snapshot, address, None).await
}

/// ReplicaRebuildingSrcRangeShallowCopyStart.
pub async fn source_copy_range(
    replicas: &Replicas,
    request: wire::ReplicaRebuildingSrcRangeShallowCopyStartRequest,
) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    let address = copy_address(&request.dst_rebuilding_lvol_address)?;
    replicas.rebuild_source_copy(&name, &snapshot, address, Some(request.mismatching_cluster_list)).await
}

fn copy_address(text: &str) -> Result<HostPort> {
    HostPort::parse(text).map_err(|error| Error::name("dst_rebuilding_lvol_address", error))
}

/// ReplicaRebuildingSrcShallowCopyCheck.
pub fn source_check(
    replicas: &Replicas,
    request: wire::ReplicaRebuildingSrcShallowCopyCheckRequest,
) -> Result<wire::ReplicaRebuildingSrcShallowCopyCheckResponse> {
    let name = replica_name("name", &request.name)?;
    let destination = replica_name("dst_replica_name", &request.dst_replica_name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    Ok(copy_message(&replicas.rebuild_source_progress(&name, &destination, &snapshot)?))
}

/// ReplicaRebuildingDstStart.
pub async fn start(
    replicas: &Replicas,
    request: wire::ReplicaRebuildingDstStartRequest,
) -> Result<wire::ReplicaRebuildingDstStartResponse> {
    let (name, order) = parse_order(&request)?;
    let address = replicas.rebuild_start(&name, order).await?;
    Ok(wire::ReplicaRebuildingDstStartResponse { dst_head_lvol_address: address.to_string() })
}

/// ReplicaRebuildingDstShallowCopyStart.
pub async fn copy_start(replicas: &Replicas, request: wire::ReplicaRebuildingDstShallowCopyStartRequest) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    replicas.rebuild_copy_start(&name, &snapshot, request.fast_sync).await
}

/// ReplicaRebuildingDstShallowCopyCheck.
pub fn check(
    replicas: &Replicas,
    request: wire::ReplicaRebuildingDstShallowCopyCheckRequest,
) -> Result<wire::ReplicaRebuildingDstShallowCopyCheckResponse> {
    Ok(progress_message(&replicas.rebuild_progress(&replica_name("name", &request.name)?)?))
}

/// ReplicaRebuildingDstSnapshotCreate.
pub async fn snapshot_create(replicas: &Replicas, request: wire::SnapshotRequest) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    let timestamp = match request.snapshot_timestamp.as_str() {
        // The source's, as the order told it.
        "" => String::new(),
        text => timestamp(text)?,
    };
    let options =
        SnapshotOptions { user_created: request.user_created, timestamp, labels: labels::parse(request.labels)? };
    replicas.rebuild_snapshot_create(&name, &snapshot, options).await
}

/// ReplicaRebuildingDstFinish.
pub async fn finish(replicas: &Replicas, request: wire::ReplicaRebuildingDstFinishRequest) -> Result<()> {
    replicas.rebuild_finish(&replica_name("name", &request.name)?).await
}

/// ReplicaRebuildingDstSetQosLimit.
pub fn set_limit(replicas: &Replicas, request: wire::ReplicaRebuildingDstSetQosLimitRequest) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    let Ok(limit) = u64::try_from(request.qos_limit_mbps) else {
        return Err(Error::invalid("qos_limit_mbps", format!("{} is negative", request.qos_limit_mbps)));
    };
    let limit = u32::try_from(limit).ok().filter(|limit| *limit <= LIMIT_MIB).unwrap_or(0);
    replicas.rebuild_limit(&name, limit)
}
