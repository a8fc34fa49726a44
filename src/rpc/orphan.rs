//! Calls on lvols that belong to no object.

use super::convert;
use crate::name::{DiskName, LvolName, ReplicaName};
use crate::replica::{Orphan, OrphanChoice, OrphanKind, Replicas};
use crate::wire::corriente::v1 as own;
use crate::wire::field::uuid;
use crate::wire::spdkrpc as wire;
use crate::{Error, Result};

/// OrphanList.
pub async fn list(replicas: &Replicas, request: own::OrphanListRequest) -> Result<own::OrphanListResponse> {
    let disk = match request.disk_name.as_str() {
        "" => None,
        name => Some(disk(name)?),
    };
    let orphans = replicas.orphans(disk.as_ref()).await?;
    Ok(own::OrphanListResponse { orphans: orphans.into_iter().map(describe).collect() })
}

/// OrphanDelete.
pub async fn delete(replicas: &Replicas, request: own::OrphanDeleteRequest) -> Result<()> {
    replicas.orphan_delete(choice(&request.disk_name, &request.lvol_name, &request.lvol_uuid)?).await
}

/// OrphanAdopt.
pub async fn adopt(replicas: &Replicas, request: own::OrphanAdoptRequest) -> Result<wire::Replica> {
    let choice = choice(&request.disk_name, &request.lvol_name, &request.lvol_uuid)?;
    let name = match request.replica_name.as_str() {
        "" => None,
        name => Some(ReplicaName::parse(name).map_err(|error| Error::name("replica_name", error))?),
    };
    Ok(convert::replica(&replicas.orphan_adopt(choice, name).await?))
}

fn choice(disk_name: &str, lvol_name: &str, lvol_uuid: &str) -> Result<OrphanChoice> {
    Ok(OrphanChoice {
        disk: disk(disk_name)?,
        lvol: LvolName::parse(lvol_name).map_err(|error| Error::name("lvol_name", error))?,
        uuid: uuid("lvol_uuid", lvol_uuid)?,
    })
}

fn disk(text: &str) -> Result<DiskName> {
    DiskName::parse(text).map_err(|error| Error::name("disk_name", error))
}

fn describe(orphan: Orphan) -> own::Orphan {
    own::Orphan {
        disk_name: orphan.disk.to_string(),
        lvol_name: orphan.lvol.to_string(),
        lvol_uuid: orphan.uuid.to_string(),
        owner: orphan.owner.map(|owner| owner.to_string()).unwrap_or_default(),
        size: orphan.size,
        actual_size: orphan.actual_size,
        is_snapshot: orphan.kind == OrphanKind::Snapshot,
        parent: orphan.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        children: u32::try_from(orphan.children).unwrap_or(u32::MAX),
        created: orphan.created,
        in_use: orphan.open,
    }
}
