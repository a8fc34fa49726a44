//! Replica calls: every field parsed before anything is done, the domain called, its answer put on the wire.

use std::net::SocketAddr;

use super::convert;
use crate::name::{BackupName, DiskName};
use crate::replica::{DiskChoice, ReplicaRequest, ReplicaView, Replicas, SnapshotOptions};
use crate::wire::backup::parse_order;
use crate::wire::field::{backing_image_name, ports, replica_name, size, snapshot_name, timestamp, uuid};
use crate::wire::{labels, spdkrpc as wire};
use crate::{Error, Result};

/// ReplicaCreate.
pub async fn create(replicas: &Replicas, request: wire::ReplicaCreateRequest) -> Result<wire::Replica> {
    let request = parse_create(&request)?;
    Ok(convert::replica(&replicas.create(request).await?))
}

fn parse_create(request: &wire::ReplicaCreateRequest) -> Result<ReplicaRequest> {
    let name = replica_name("name", &request.name)?;
    let disk = match (uuid("lvs_uuid", &request.lvs_uuid)?, request.lvs_name.as_str()) {
        (Some(uuid), _) => DiskChoice::Uuid(uuid),
        (None, "") => return Err(Error::invalid("lvs_name", "must not be empty when lvs_uuid is")),
        (None, name) => DiskChoice::Name(DiskName::parse(name).map_err(|error| Error::name("lvs_name", error))?),
    };
    let backing_image = match request.backing_image_name.as_str() {
        "" => None,
        name => Some(backing_image_name("backing_image_name", name)?),
    };
    Ok(ReplicaRequest {
        name,
        disk,
        spec_size: size("spec_size", request.spec_size)?,
        port_count: ports(request.port_count)?,
        backing_image,
    })
}

/// ReplicaGet.
pub async fn get(replicas: &Replicas, request: wire::ReplicaGetRequest) -> Result<wire::Replica> {
    Ok(convert::replica(&replicas.get(&replica_name("name", &request.name)?).await?))
}

/// ReplicaList.
pub async fn list(replicas: &Replicas) -> Result<wire::ReplicaListResponse> {
    let views = replicas.list().await?;
    let replicas = views.iter().map(|view| (view.name.to_string(), convert::replica(view))).collect();
    Ok(wire::ReplicaListResponse { replicas })
}

/// ReplicaExpand.
pub async fn expand(replicas: &Replicas, request: wire::ReplicaExpandRequest) -> Result<()> {
    let (name, size) = (replica_name("name", &request.name)?, size("size", request.size)?);
    replicas.expand(&name, size).await.map(drop)
}

/// ReplicaSnapshotCreate.
pub async fn snapshot_create(replicas: &Replicas, request: wire::SnapshotRequest) -> Result<wire::Replica> {
    let (name, snapshot) =
        (replica_name("name", &request.name)?, snapshot_name("snapshot_name", &request.snapshot_name)?);
    let options = SnapshotOptions {
        user_created: request.user_created,
        timestamp: timestamp(&request.snapshot_timestamp)?,
        labels: labels::parse(request.labels)?,
    };
    Ok(convert::replica(&replicas.snapshot_create(&name, &snapshot, options).await?))
}

/// ReplicaSnapshotDelete.
pub async fn snapshot_delete(replicas: &Replicas, request: wire::SnapshotRequest) -> Result<()> {
    let (name, snapshot) =
        (replica_name("name", &request.name)?, snapshot_name("snapshot_name", &request.snapshot_name)?);
    replicas.snapshot_delete(&name, &snapshot).await.map(drop)
}

/// ReplicaSnapshotRevert.
pub async fn snapshot_revert(replicas: &Replicas, request: wire::SnapshotRequest) -> Result<()> {
    let (name, snapshot) =
        (replica_name("name", &request.name)?, snapshot_name("snapshot_name", &request.snapshot_name)?);
    replicas.snapshot_revert(&name, &snapshot).await.map(drop)
}

/// ReplicaSnapshotPurge.
pub async fn snapshot_purge(replicas: &Replicas, request: wire::SnapshotRequest) -> Result<()> {
    replicas.snapshot_purge(&replica_name("name", &request.name)?).await.map(drop)
}

/// ReplicaBackupCreate.
pub async fn backup_create(
    replicas: &Replicas,
    request: wire::BackupCreateRequest,
) -> Result<wire::BackupCreateResponse> {
    let order = parse_order(&request)?;
    let address = replica_address(replicas.get(&order.replica).await?.as_ref());
    let started = replicas.backup_create(order).await?;
    Ok(wire::BackupCreateResponse {
        backup: started.name.to_string(),
        is_incremental: started.is_incremental,
        replica_address: address,
    })
}

/// ReplicaBackupStatus.
pub async fn backup_status(
    replicas: &Replicas,
    request: wire::BackupStatusRequest,
) -> Result<wire::BackupStatusResponse> {
    let name = BackupName::parse(&request.backup).map_err(|error| Error::name("backup", error))?;
    let status = replicas.backup_status(&name)?;
    let replica_address = match replicas.get(&status.replica).await {
        Ok(view) => replica_address(&view),
        // The replica may be gone; what became of its backup is known still.
        Err(_) => String::new(),
    };
    Ok(convert::backup(status.snapshot.to_string(), replica_address, status.phase))
}

/// `tcp://<ip>:<port>` of a running replica, else empty.
fn replica_address(view: &ReplicaView) -> String {
    let address = view.ports.map(|ports| format!("tcp://{}", SocketAddr::new(ports.ip, ports.first)));
    address.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> wire::ReplicaCreateRequest {
        wire::ReplicaCreateRequest {
            name: "vol-r-01234567".into(),
            lvs_name: "disk-1".into(),
            spec_size: 1 << 30,
            port_count: 5,
            ..Default::default()
        }
    }

    fn field_of(change: impl FnOnce(&mut wire::ReplicaCreateRequest)) -> &'static str {
        let mut request = request();
        change(&mut request);
        match parse_create(&request) {
            Err(Error::InvalidArgument { field, .. }) => field,
            other => panic!("{request:?} gave {other:?}"),
        }
    }

    #[test]
    fn the_field_at_fault_is_named() {
        for name in ["", " ", "a\0", "a/b", &"a".repeat(4096), "x-rebuilding", "x-snap-y"] {
            assert_eq!(field_of(|request| request.name = name.into()), "name", "{name:?}");
        }
        assert_eq!(field_of(|request| request.lvs_name.clear()), "lvs_name");
        assert_eq!(field_of(|request| request.lvs_name = "a b".into()), "lvs_name");
        assert_eq!(field_of(|request| request.lvs_uuid = "not-a-uuid".into()), "lvs_uuid");
        assert_eq!(field_of(|request| request.backing_image_name = "a/b".into()), "backing_image_name");
        for size in [0, u64::MAX] {
            assert_eq!(field_of(|request| request.spec_size = size), "spec_size");
        }
        for count in [0, -1, 65, i32::MAX] {
            assert_eq!(field_of(|request| request.port_count = count), "port_count");
        }
    }

    #[test]
    fn the_stores_uuid_wins_over_its_name() {
        let uuid = "a9d1f1cb-6f9a-4f9c-8d5b-0d6d3c7e2f10";
        let parsed = parse_create(&wire::ReplicaCreateRequest { lvs_uuid: uuid.into(), ..request() }).unwrap();
        assert_eq!(parsed.disk, DiskChoice::Uuid(uuid.parse().unwrap()));
    }
}
