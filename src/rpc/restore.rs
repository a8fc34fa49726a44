//! Restores: what a request and a status have alike for an engine and for one replica, and the calls for one replica.

use crate::backup::BackupUrl;
use crate::engine::backend::Attribute;
use crate::engine::restore::marker::RestoreMarker;
use crate::engine::restore::request::RestoreRequest;
use crate::engine::restore::single::SingleReplica;
use crate::engine::restore::status::RestoreState;
use crate::name::{HostPort, ReplicaAddress, ReplicaName};
use crate::node::Node;
use crate::replica::ReplicaView;
use crate::wire::field::{replica_name, snapshot_name};
use crate::wire::spdkrpc as wire;
use crate::{Error, Result};

/// The fields that say what is restored.
pub fn parse(backup_url: &str, snapshot: &str, concurrent_limit: i32) -> Result<RestoreRequest> {
    let url = BackupUrl::parse(backup_url)?;
    if !snapshot.is_empty() {
        // The snapshot is called after that of the backup, whatever is asked for here (`engine-behaviour` §10.2, 12).
        snapshot_name("snapshot_name", snapshot)?;
    }
    let workers = match concurrent_limit {
        0 => None,
        limit => Some(usize::try_from(limit).map_err(|_| Error::invalid("concurrent_limit", "must not be negative"))?),
    };
    Ok(RestoreRequest { url, workers })
}

/// How a restore into a replica stands; `progress` in per cent.
pub fn describe(
    replica: &ReplicaName,
    address: Option<ReplicaAddress>,
    restore: &RestoreState,
    progress: u32,
) -> wire::ReplicaRestoreStatusResponse {
    let text = |value: Option<String>| value.unwrap_or_default();
    wire::ReplicaRestoreStatusResponse {
        replica_name: replica.to_string(),
        replica_address: text(address.map(|address| format!("tcp://{address}"))),
        is_restoring: restore.is_restoring(),
        last_restored: text(restore.last_restored.as_ref().map(ToString::to_string)),
        progress: i32::try_from(progress).unwrap_or(100),
        error: restore.error.clone(),
        dest_file_name: String::new(),
        state: restore.phase.as_str().into(),
        backup_url: text(restore.url.as_ref().map(ToString::to_string)),
        current_restoring_backup: text(restore.current.as_ref().map(ToString::to_string)),
    }
}

/// ReplicaBackupRestore.
pub async fn replica_restore(node: &Node, request: wire::ReplicaBackupRestoreRequest) -> Result<()> {
    let name = replica_name("replica_name", &request.replica_name)?;
    let order = parse(&request.backup_url, &request.snapshot_name, request.concurrent_limit)?;
    let view = node.replicas.get(&name).await?;
    let Some(address) = address_of(&view)? else {
        let problem = format!("it is in state {}; it must be running", view.state.as_str());
        return Err(Error::precondition(format!("replica {name}"), problem));
    };
    let replica = SingleReplica { name, address, size: view.spec_size };
    node.engines.restore_replica(&replica, order).await
}

/// ReplicaRestoreStatus: of the last restore into the replica by itself; of one before the node's start only what the
/// replica durably knows.
pub async fn replica_status(
    node: &Node,
    request: wire::ReplicaRestoreStatusRequest,
) -> Result<wire::ReplicaRestoreStatusResponse> {
    let name = replica_name("replica_name", &request.replica_name)?;
    let view = node.replicas.get(&name).await?;
    let (restore, progress) = match node.engines.replica_restore(&name) {
        Some(known) => known,
        None => (remembered(node, &name).await?, 0),
    };
    Ok(describe(&name, address_of(&view)?, &restore, progress))
}

async fn remembered(node: &Node, name: &ReplicaName) -> Result<RestoreState> {
    let stored = node.replicas.xattr_get(name, Attribute::Restore.key()).await?;
    let object = format!("the restore marker of replica {name}");
    let marker = RestoreMarker::parse(stored.as_deref()).map_err(|problem| Error::Corruption { object, problem })?;
    Ok(RestoreState { last_restored: marker.restored.map(|restored| restored.backup), ..Default::default() })
}

/// Where a running replica is reached.
fn address_of(view: &ReplicaView) -> Result<Option<ReplicaAddress>> {
    let address = view.ports.map(|ports| HostPort::new(ports.ip, ports.first));
    address.transpose().map_err(|error| Error::name("data address", error))
}

/// ReplicaDelete. One that is being restored into is not deleted: the restore is cancelled, and the call is to be repeated
/// (`engine-behaviour` §3.2).
pub async fn replica_delete(node: &Node, request: wire::ReplicaDeleteRequest) -> Result<()> {
    let name = replica_name("name", &request.name)?;
    if node.engines.cancel_replica_restore(&name).await {
        let problem = "the restore into it was cancelled; repeat the deletion";
        return Err(Error::precondition(format!("replica {name}"), problem));
    }
    node.replicas.delete(&name, request.cleanup_required).await?;
    if request.cleanup_required {
        node.engines.forget_replica_restore(&name);
    }
    Ok(())
}
