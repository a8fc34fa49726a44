//! Engine calls: every field parsed before anything is done, the domain called, its answer put on the wire.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{convert, restore};
use crate::engine::backend::{BackupOrder, Child, Layer};
use crate::engine::clone::AdditionRequest;
use crate::engine::instance::{Engine, Frontend};
use crate::engine::restore::status::RestorePhase;
use crate::engine::state::{ListedReplica, ReplicaMode};
use crate::engine::target::AnaState;
use crate::engine::{EngineRequest, Engines};
use crate::error::{Error, Result};
use crate::name::object::HEAD_NAME;
use crate::name::{BackupName, ReplicaName, SnapshotName, VolumeName};
use crate::node::Rates;
use crate::wire::clone::parse_linked_source;
use crate::wire::field::{engine_name, replica_address, replica_name, size, snapshot_name};
use crate::wire::{labels, spdkrpc as wire};

fn find(engines: &Engines, field: &'static str, name: &str) -> Result<Arc<Engine>> {
    engines.get(&engine_name(field, name)?)
}

/// EngineCreate.
pub async fn create(engines: &Engines, request: wire::EngineCreateRequest) -> Result<wire::Engine> {
    let engine = engines.create(parse_create(request)?).await?;
    Ok(describe(&engine).await)
}

fn parse_create(request: wire::EngineCreateRequest) -> Result<EngineRequest> {
    let name = engine_name("name", &request.name)?;
    let volume = VolumeName::parse(&request.volume_name).map_err(|error| Error::name("volume_name", error))?;
    if request.data_layout_type != wire::DataLayoutType::Replicated as i32 {
        let reason = "erasure-coded volumes are not offered";
        return Err(Error::Unimplemented { what: "data_layout_type SHARDED", reason });
    }
    let mut replicas = BTreeMap::new();
    for (replica, address) in &request.replica_address_map {
        let replica = ReplicaName::parse(replica).map_err(|error| Error::name("replica_address_map", error))?;
        replicas.insert(replica, replica_address("replica_address_map", address)?);
    }
    Ok(EngineRequest {
        name,
        volume,
        size: size("spec_size", request.spec_size)?,
        replicas,
        frontend: Frontend::parse(&request.frontend)?,
        salvage: request.salvage_requested,
        snapshot_max_count: u32::try_from(request.snapshot_max_count)
            .map_err(|_| Error::invalid("snapshot_max_count", "must not be negative"))?,
    })
}

/// EngineDelete.
pub async fn delete(engines: &Engines, request: wire::EngineDeleteRequest) -> Result<()> {
    engines.delete(&engine_name("name", &request.name)?).await
}

/// EngineGet.
pub async fn get(engines: &Engines, request: wire::EngineGetRequest) -> Result<wire::Engine> {
    Ok(describe(&*find(engines, "name", &request.name)?).await)
}

/// EngineList.
pub async fn list(engines: &Engines) -> Result<wire::EngineListResponse> {
    let mut listed = BTreeMap::new();
    for engine in engines.list() {
        listed.insert(engine.name.to_string(), describe(&engine).await);
    }
    Ok(wire::EngineListResponse { engines: listed })
}

/// EngineExpand.
pub async fn expand(engines: &Engines, request: wire::EngineExpandRequest) -> Result<()> {
    find(engines, "name", &request.name)?.expand(request.size).await
}

/// EngineExpandPrecheck.
pub fn expand_precheck(
    engines: &Engines,
    request: wire::EngineExpandPrecheckRequest,
) -> Result<wire::EngineExpandPrecheckResponse> {
    let engine = find(engines, "name", &request.name)?;
    Ok(wire::EngineExpandPrecheckResponse { expansion_required: engine.expand_precheck(request.size)? })
}

/// EngineSetTargetListenerANAState.
pub async fn set_target_ana_state(
    engines: &Engines,
    request: wire::EngineSetTargetListenerAnaStateRequest,
) -> Result<()> {
    let engine = find(engines, "name", &request.name)?;
    engine.set_ana_state(AnaState::parse("ana_state", &request.ana_state)?).await
}

/// EngineReplicaList: each replica as its node describes it.
pub async fn replica_list(
    engines: &Engines,
    request: wire::EngineReplicaListRequest,
) -> Result<wire::EngineReplicaListResponse> {
    let engine = find(engines, "engine_name", &request.engine_name)?;
    let mut replicas = BTreeMap::new();
    for (name, listed, description) in engine.describe_replicas().await {
        let replica = match description {
            Ok(description) => wire::Replica {
                name: name.to_string(),
                spec_size: description.spec_size,
                actual_size: total_size(&description.snapshots, description.head.as_ref()),
                ip: listed.address.ip().to_string(),
                port_start: i32::from(listed.address.port()),
                head: description.head.as_ref().map(|head| layer(HEAD_NAME, head)),
                snapshots: layers(&description.snapshots),
                state: description.state,
                error_msg: description.error_message,
                ..Default::default()
            },
            Err(error) => wire::Replica {
                name: name.to_string(),
                ip: listed.address.ip().to_string(),
                port_start: i32::from(listed.address.port()),
                state: "error".into(),
                error_msg: error.to_string(),
                ..Default::default()
            },
        };
        replicas.insert(name.to_string(), replica);
    }
    Ok(wire::EngineReplicaListResponse { replicas })
}

/// EngineReplicaAdd: returns once the rebuild runs. The frontend's suspension, which the contract asks for, is the mirror's
/// own pause here, so its name and address are not used.
pub async fn replica_add(engines: &Engines, request: wire::EngineReplicaAddRequest) -> Result<()> {
    let engine = engine_name("engine_name", &request.engine_name)?;
    let addition = AdditionRequest {
        replica: replica_name("replica_name", &request.replica_name)?,
        address: replica_address("replica_address", &request.replica_address)?,
        fast_sync: request.fast_sync,
        linked: parse_linked_source(request.linked_clone_source.as_ref())?,
    };
    engines.add_replica(&engine, addition).await
}

/// EngineReplicaDelete.
pub async fn replica_delete(engines: &Engines, request: wire::EngineReplicaDeleteRequest) -> Result<()> {
    let engine = engine_name("engine_name", &request.engine_name)?;
    let name = match request.replica_name.as_str() {
        "" => None,
        name => Some(ReplicaName::parse(name).map_err(|error| Error::name("replica_name", error))?),
    };
    let address = match request.replica_address.as_str() {
        "" => None,
        address => Some(replica_address("replica_address", address)?),
    };
    engines.remove_replica(&engine, name, address).await
}

/// EngineSnapshotCreate.
pub async fn snapshot_create(engines: &Engines, request: wire::SnapshotRequest) -> Result<wire::SnapshotResponse> {
    let engine = find(engines, "name", &request.name)?;
    let name = match request.snapshot_name.as_str() {
        "" => None,
        name => Some(snapshot_name("snapshot_name", name)?),
    };
    let name = engine.snapshot_create(name, labels::parse(request.labels)?).await?;
    Ok(wire::SnapshotResponse { snapshot_name: name.to_string() })
}

/// EngineSnapshotDelete.
pub async fn snapshot_delete(engines: &Engines, request: wire::SnapshotRequest) -> Result<()> {
    find(engines, "name", &request.name)?
        .snapshot_delete(&snapshot_name("snapshot_name", &request.snapshot_name)?)
        .await
}

/// EngineSnapshotRevert.
pub async fn snapshot_revert(engines: &Engines, request: wire::SnapshotRequest) -> Result<()> {
    find(engines, "name", &request.name)?
        .snapshot_revert(&snapshot_name("snapshot_name", &request.snapshot_name)?)
        .await
}

/// EngineSnapshotPurge.
pub async fn snapshot_purge(engines: &Engines, request: wire::SnapshotRequest) -> Result<()> {
    find(engines, "name", &request.name)?.snapshot_purge().await
}

/// EngineSnapshotMaxCountSet.
pub async fn snapshot_max_count_set(engines: &Engines, request: wire::EngineSnapshotMaxCountSetRequest) -> Result<()> {
    let engine = find(engines, "name", &request.name)?;
    let count = u32::try_from(request.count).map_err(|_| Error::invalid("count", "must not be negative"))?;
    engine.set_snapshot_max_count(count).await
}

/// MetricsGet: NotFound until the engine was looked at twice (`engine-behaviour` §1.8).
pub fn metrics(rates: &Rates, request: wire::MetricsRequest) -> Result<wire::Metrics> {
    let rate = rates.get(&engine_name("name", &request.name)?)?;
    Ok(wire::Metrics {
        read_throughput: rate.read_throughput,
        write_throughput: rate.write_throughput,
        read_latency: rate.read_latency_ns,
        write_latency: rate.write_latency_ns,
        read_iops: rate.read_iops,
        write_iops: rate.write_iops,
    })
}

/// EngineBackupCreate.
pub async fn backup_create(
    engines: &Engines,
    mut request: wire::BackupCreateRequest,
) -> Result<wire::BackupCreateResponse> {
    let engine = find(engines, "engine_name", &request.engine_name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    if !request.backup_name.is_empty() {
        BackupName::parse(&request.backup_name).map_err(|error| Error::name("backup_name", error))?;
    }
    crate::backup::TargetUrl::parse(&request.backup_target)?;
    if request.volume_name.is_empty() {
        request.volume_name = engine.volume.to_string();
    }
    request.size = i64::try_from(engine.published().size).unwrap_or(i64::MAX);
    let started = engine.backup_create(&snapshot, BackupOrder { request }).await?;
    Ok(wire::BackupCreateResponse {
        backup: started.backup.to_string(),
        is_incremental: started.is_incremental,
        replica_address: format!("tcp://{}", started.replica),
    })
}

/// EngineBackupStatus.
pub async fn backup_status(
    engines: &Engines,
    request: wire::BackupStatusRequest,
) -> Result<wire::BackupStatusResponse> {
    let engine = find(engines, "engine_name", &request.engine_name)?;
    let backup = BackupName::parse(&request.backup).map_err(|error| Error::name("backup", error))?;
    let address = replica_address("replica_address", &request.replica_address)?;
    let status = engine.backup_status(&backup, address).await?;
    Ok(convert::backup(status.snapshot.to_string(), format!("tcp://{address}"), status.phase))
}

/// EngineBackupRestore.
pub async fn backup_restore(
    engines: &Engines,
    request: wire::EngineBackupRestoreRequest,
) -> Result<wire::EngineBackupRestoreResponse> {
    let name = engine_name("engine_name", &request.engine_name)?;
    let order = restore::parse(&request.backup_url, &request.snapshot_name, request.concurrent_limit)?;
    engines.get(&name)?.restore(order).await?;
    Ok(wire::EngineBackupRestoreResponse::default())
}

/// EngineRestoreStatus: one entry for each replica, keyed by its address.
pub fn restore_status(engines: &Engines, request: wire::RestoreStatusRequest) -> Result<wire::RestoreStatusResponse> {
    let engine = find(engines, "engine_name", &request.engine_name)?;
    let published = engine.published();
    let whole = &published.restore;
    let progress = engine.restore_progress().filter(|_| whole.is_restoring()).unwrap_or(whole.progress);
    let entry = |name: &ReplicaName, listed: &ListedReplica| {
        let mut entry = restore::describe(name, Some(listed.address), whole, progress);
        if listed.mode != ReplicaMode::ReadWrite {
            // A replica that is out holds nothing that could be vouched for.
            entry.is_restoring = false;
            entry.last_restored.clear();
            entry.error = format!("replica {name} is out of the mirror: {}", listed.problem);
            entry.state = RestorePhase::Error.as_str().into();
        }
        entry
    };
    let status =
        published.replicas.iter().map(|(name, listed)| (listed.address.to_string(), entry(name, listed))).collect();
    Ok(wire::RestoreStatusResponse { status })
}

/// An engine on the wire.
async fn describe(engine: &Engine) -> wire::Engine {
    let published = engine.published();
    let target = published.target;
    let (failed, failed_at) = published.expansion_failure.clone().unwrap_or_default();
    let endpoint = target.map(|address| format!("nvmf://{address}/{}", crate::name::Nqn::volume(&engine.volume)));
    wire::Engine {
        name: engine.name.to_string(),
        volume_name: engine.volume.to_string(),
        spec_size: published.size,
        actual_size: total_size(&published.chain.snapshots, published.chain.head.as_ref()),
        ip: target.map(|address| address.ip().to_string()).unwrap_or_default(),
        port: target.map(|address| i32::from(address.port())).unwrap_or_default(),
        replica_address_map: published
            .replicas
            .iter()
            .map(|(name, listed)| (name.to_string(), listed.address.to_string()))
            .collect(),
        replica_mode_map: published
            .replicas
            .iter()
            .map(|(name, listed)| (name.to_string(), mode(listed.mode) as i32))
            .collect(),
        head: published.chain.head.as_ref().map(|head| layer(HEAD_NAME, head)),
        snapshots: layers(&published.chain.snapshots),
        frontend: engine.frontend.as_str().into(),
        endpoint: endpoint.unwrap_or_default(),
        state: published.state.as_str().into(),
        error_msg: published.error_message,
        target_ip: target.map(|address| address.ip().to_string()).unwrap_or_default(),
        target_port: target.map(|address| i32::from(address.port())).unwrap_or_default(),
        is_expanding: published.is_expanding,
        last_expansion_error: failed,
        last_expansion_failed_at: failed_at,
        snapshot_max_count: i32::try_from(published.snapshot_max_count).unwrap_or(i32::MAX),
        ..Default::default()
    }
}

/// A mode on the wire.
pub fn mode(mode: ReplicaMode) -> wire::ReplicaMode {
    match mode {
        ReplicaMode::ReadWrite => wire::ReplicaMode::Rw,
        ReplicaMode::WriteOnly => wire::ReplicaMode::Wo,
        ReplicaMode::Error => wire::ReplicaMode::Err,
    }
}

fn total_size(snapshots: &BTreeMap<SnapshotName, Layer>, head: Option<&Layer>) -> u64 {
    snapshots.values().chain(head).map(|layer| layer.actual_size).sum()
}

fn layers(snapshots: &BTreeMap<SnapshotName, Layer>) -> BTreeMap<String, wire::Lvol> {
    snapshots.iter().map(|(name, described)| (name.to_string(), layer(name.as_str(), described))).collect()
}

fn layer(name: &str, layer: &Layer) -> wire::Lvol {
    let child = |child: &Child| match child {
        Child::Snapshot(name) => (name.to_string(), true),
        Child::Head => (HEAD_NAME.to_owned(), true),
    };
    wire::Lvol {
        name: name.to_owned(),
        uuid: layer.uuid.clone(),
        spec_size: layer.spec_size,
        actual_size: layer.actual_size,
        parent: layer.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        children: layer.children.iter().map(child).collect(),
        creation_time: layer.creation_time.clone(),
        user_created: layer.user_created,
        snapshot_timestamp: layer.timestamp.clone(),
        snapshot_checksum: layer.checksum.clone(),
    }
}
