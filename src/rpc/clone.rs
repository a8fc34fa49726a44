//! Calls of a clone, to the replica that is cloned into, to its source and to an engine: every field parsed before anything
//! is done, the domain called, its answer put on the wire.

use std::collections::BTreeMap;

use crate::engine::Engines;
use crate::engine::clone::CloneRequest;
use crate::name::{HostPort, ReplicaName};
use crate::replica::Replicas;
use crate::replica::clone::CloneMode;
use crate::wire::clone::{copy_message, parse_mode, parse_order, status_message};
use crate::wire::field::{engine_name, replica_name, snapshot_name};
use crate::wire::spdkrpc as wire;
use crate::{Error, Result};

/// ReplicaSnapshotCloneDstStart.
pub async fn start(replicas: &Replicas, request: wire::ReplicaSnapshotCloneDstStartRequest) -> Result<()> {
    let (name, order) = parse_order(&request)?;
    replicas.clone_start(&name, order).await
}

/// ReplicaSnapshotCloneDstStatusCheck.
pub async fn status(
    replicas: &Replicas,
    request: wire::ReplicaSnapshotCloneDstStatusCheckRequest,
) -> Result<wire::ReplicaSnapshotCloneDstStatusCheckResponse> {
    Ok(status_message(&replicas.clone_status(&replica_name("name", &request.name)?)?))
}

/// ReplicaSnapshotCloneSrcStart. A linked clone is made on the spot, as both replicas are on this node.
pub async fn source_start(replicas: &Replicas, request: wire::ReplicaSnapshotCloneSrcStartRequest) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    let destination = replica_name("dst_replica_name", &request.dst_replica_name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    let address = HostPort::parse(&request.dst_cloning_lvol_address);
    match parse_mode(request.clone_mode)? {
        CloneMode::FullCopy => {
            let address = address.map_err(|error| Error::name("dst_cloning_lvol_address", error))?;
            replicas.clone_source_start(&name, &destination, &snapshot, address).await
        }
        CloneMode::Linked => replicas.clone_link_here(&name, &destination, &snapshot).await,
    }
}

/// ReplicaSnapshotCloneSrcStatusCheck.
pub fn source_status(
    replicas: &Replicas,
    request: wire::ReplicaSnapshotCloneSrcStatusCheckRequest,
) -> Result<wire::ReplicaSnapshotCloneSrcStatusCheckResponse> {
    let name = replica_name("name", &request.name)?;
    let destination = replica_name("dst_replica_name", &request.dst_replica_name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    Ok(copy_message(&replicas.clone_source_progress(&name, &destination, &snapshot)?))
}

/// ReplicaSnapshotCloneSrcFinish.
pub async fn source_finish(replicas: &Replicas, request: wire::ReplicaSnapshotCloneSrcFinishRequest) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    let destination = replica_name("dst_replica_name", &request.dst_replica_name)?;
    replicas.clone_source_finish(&name, &destination).await
}

/// EngineSnapshotClone: returns when a linked clone is complete, or a full copy has begun.
pub async fn engine(engines: &Engines, request: wire::EngineSnapshotCloneRequest) -> Result<()> {
    let name = engine_name("name", &request.name)?;
    let address = HostPort::parse(&request.src_engine_address);
    let mut pairs = BTreeMap::new();
    for (destination, source) in &request.dst_replica_src_replica_pair_map {
        let parse = |text: &str| {
            ReplicaName::parse(text).map_err(|error| Error::name("dst_replica_src_replica_pair_map", error))
        };
        pairs.insert(parse(destination)?, parse(source)?);
    }
    let request = CloneRequest {
        snapshot: snapshot_name("snapshot_name", &request.snapshot_name)?,
        source: engine_name("src_engine_name", &request.src_engine_name)?,
        source_node: address.map_err(|error| Error::name("src_engine_address", error))?.ip(),
        mode: parse_mode(request.clone_mode)?,
        pairs,
    };
    engines.snapshot_clone(&name, request).await
}
