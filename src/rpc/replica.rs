//! Replica calls: every field parsed before anything is done, the domain called, its answer put on the wire.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};

use jiff::Timestamp;
use uuid::Uuid;

use super::convert;
use super::disk::uuid;
use super::wire::spdkrpc as wire;
use crate::backup::{BackupLabels, BackupRequest, CompressionMethod, TargetUrl};
use crate::name::{BackupName, DiskName, ReplicaName, SnapshotName, VolumeName};
use crate::replica::{BackupOrder, BackupPhase, DiskChoice, ReplicaRequest, ReplicaView, Replicas, SnapshotOptions};
use crate::{Error, Result};

/// The largest volume, 64 TiB: what the sizes of cluster maps were thought for.
const SIZE_LIMIT: u64 = 64 << 40;
/// The most ports one replica gets; Longhorn's manager asks for 5.
const PORT_LIMIT: u16 = 64;

/// ReplicaCreate.
pub async fn create(replicas: &Replicas, request: wire::ReplicaCreateRequest) -> Result<wire::Replica> {
    let request = parse_create(&request)?;
    Ok(convert::replica(&replicas.create(request).await?))
}

fn parse_create(request: &wire::ReplicaCreateRequest) -> Result<ReplicaRequest> {
    let name = replica_name(&request.name)?;
    let disk = match (uuid("lvs_uuid", &request.lvs_uuid)?, request.lvs_name.as_str()) {
        (Some(uuid), _) => DiskChoice::Uuid(uuid),
        (None, "") => return Err(Error::invalid("lvs_name", "must not be empty when lvs_uuid is")),
        (None, name) => DiskChoice::Name(DiskName::parse(name).map_err(|error| Error::name("lvs_name", error))?),
    };
    if !request.backing_image_name.is_empty() {
        return Err(Error::Unimplemented {
            what: "a replica on a backing image",
            reason: "write the image into a volume of its own instead",
        });
    }
    Ok(ReplicaRequest {
        name,
        disk,
        spec_size: size("spec_size", request.spec_size)?,
        port_count: ports(request.port_count)?,
    })
}

/// ReplicaDelete.
pub async fn delete(replicas: &Replicas, request: wire::ReplicaDeleteRequest) -> Result<()> {
    replicas.delete(&replica_name(&request.name)?, request.cleanup_required).await
}

/// ReplicaGet.
pub async fn get(replicas: &Replicas, request: wire::ReplicaGetRequest) -> Result<wire::Replica> {
    Ok(convert::replica(&replicas.get(&replica_name(&request.name)?).await?))
}

/// ReplicaList.
pub async fn list(replicas: &Replicas) -> Result<wire::ReplicaListResponse> {
    let views = replicas.list().await?;
    let replicas = views.iter().map(|view| (view.name.to_string(), convert::replica(view))).collect();
    Ok(wire::ReplicaListResponse { replicas })
}

/// ReplicaExpand.
pub async fn expand(replicas: &Replicas, request: wire::ReplicaExpandRequest) -> Result<()> {
    let (name, size) = (replica_name(&request.name)?, size("size", request.size)?);
    replicas.expand(&name, size).await.map(drop)
}

/// ReplicaSnapshotCreate.
pub async fn snapshot_create(replicas: &Replicas, request: wire::SnapshotRequest) -> Result<wire::Replica> {
    let (name, snapshot) = (replica_name(&request.name)?, snapshot_name(&request.snapshot_name)?);
    let options =
        SnapshotOptions { user_created: request.user_created, timestamp: timestamp(&request.snapshot_timestamp)? };
    Ok(convert::replica(&replicas.snapshot_create(&name, &snapshot, options).await?))
}

/// ReplicaSnapshotDelete.
pub async fn snapshot_delete(replicas: &Replicas, request: wire::SnapshotRequest) -> Result<()> {
    let (name, snapshot) = (replica_name(&request.name)?, snapshot_name(&request.snapshot_name)?);
    replicas.snapshot_delete(&name, &snapshot).await.map(drop)
}

/// ReplicaSnapshotRevert.
pub async fn snapshot_revert(replicas: &Replicas, request: wire::SnapshotRequest) -> Result<()> {
    let (name, snapshot) = (replica_name(&request.name)?, snapshot_name(&request.snapshot_name)?);
    replicas.snapshot_revert(&name, &snapshot).await.map(drop)
}

/// ReplicaSnapshotPurge.
pub async fn snapshot_purge(replicas: &Replicas, request: wire::SnapshotRequest) -> Result<()> {
    replicas.snapshot_purge(&replica_name(&request.name)?).await.map(drop)
}

/// ReplicaBackupCreate.
pub async fn backup_create(
    replicas: &Replicas,
    request: wire::BackupCreateRequest,
) -> Result<wire::BackupCreateResponse> {
    let order = parse_backup(&request)?;
    let address = replica_address(replicas.get(&order.replica).await?.as_ref());
    let started = replicas.backup_create(order).await?;
    Ok(wire::BackupCreateResponse {
        backup: started.name.to_string(),
        is_incremental: started.is_incremental,
        replica_address: address,
    })
}

fn parse_backup(request: &wire::BackupCreateRequest) -> Result<BackupOrder> {
    let replica = ReplicaName::parse(&request.replica_name).map_err(|error| Error::name("replica_name", error))?;
    let snapshot = snapshot_name(&request.snapshot_name)?;
    let volume = VolumeName::parse(&request.volume_name).map_err(|error| Error::name("volume_name", error))?;
    let backup = match request.backup_name.as_str() {
        "" => generated_backup_name()?,
        text => BackupName::parse(text).map_err(|error| Error::name("backup_name", error))?,
    };
    let method = CompressionMethod::parse(&request.compression_method)
        .map_err(|error| Error::invalid("compression_method", error.to_string()))?;
    let size = match request.size {
        0 => None,
        bytes => Some(size("size", u64::try_from(bytes).unwrap_or(0))?),
    };
    let workers = match request.concurrent_limit {
        0 => None,
        count => match usize::try_from(count).ok().and_then(NonZeroUsize::new) {
            Some(workers) => Some(workers),
            None => return Err(Error::invalid("concurrent_limit", format!("{count} is negative"))),
        },
    };
    Ok(BackupOrder {
        replica,
        target: TargetUrl::parse(&request.backup_target)?,
        request: BackupRequest {
            volume,
            backup,
            snapshot,
            snapshot_created_at: Timestamp::now(),
            labels: BackupLabels::parse(&request.labels)?,
            method,
            backing_image_name: request.backing_image_name.clone(),
            backing_image_checksum: request.backing_image_checksum.clone(),
            storage_class_name: request.storage_class_name.clone(),
        },
        size,
        workers,
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
    let mut answer = wire::BackupStatusResponse {
        snapshot_name: status.snapshot.to_string(),
        replica_address,
        ..Default::default()
    };
    match status.phase {
        BackupPhase::Running(percent) => {
            answer.state = "in_progress".into();
            // At most 99.
            answer.progress = percent as i32;
        }
        BackupPhase::Complete(url) => {
            answer.state = "complete".into();
            answer.progress = 100;
            answer.backup_url = url;
        }
        BackupPhase::Failed(problem) => {
            answer.state = "error".into();
            answer.error = problem;
        }
    }
    Ok(answer)
}

/// `tcp://<ip>:<port>` of a running replica, else empty.
fn replica_address(view: &ReplicaView) -> String {
    let address = view.ports.map(|ports| format!("tcp://{}", SocketAddr::new(ports.ip, ports.first)));
    address.unwrap_or_default()
}

/// A name as the backup store's own writers make them (`backupstore-format` §1).
fn generated_backup_name() -> Result<BackupName> {
    let digits = Uuid::new_v4().simple().to_string();
    BackupName::parse(&format!("backup-{}", &digits[..16])).map_err(|error| Error::name("backup_name", error))
}

fn replica_name(text: &str) -> Result<ReplicaName> {
    ReplicaName::parse(text).map_err(|error| Error::name("name", error))
}

fn snapshot_name(text: &str) -> Result<SnapshotName> {
    SnapshotName::parse(text).map_err(|error| Error::name("snapshot_name", error))
}

fn size(field: &'static str, bytes: u64) -> Result<u64> {
    match bytes {
        1..=SIZE_LIMIT => Ok(bytes),
        _ => Err(Error::invalid(field, format!("{bytes} is not within 1 and {SIZE_LIMIT} bytes"))),
    }
}

fn ports(count: i32) -> Result<NonZeroU16> {
    let count = u16::try_from(count).ok().filter(|count| *count <= PORT_LIMIT);
    let refused = || Error::invalid("port_count", format!("must be within 1 and {PORT_LIMIT}"));
    count.and_then(NonZeroU16::new).ok_or_else(refused)
}

/// A time of the request as it is stored; none means now.
fn timestamp(text: &str) -> Result<String> {
    let time = match text {
        "" => Timestamp::now(),
        text => text
            .parse()
            .map_err(|_| Error::invalid("snapshot_timestamp", format!("{text:?} is not a time as in RFC 3339")))?,
    };
    Ok(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
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

    #[test]
    fn times_are_stored_in_utc_with_whole_seconds() {
        assert_eq!(timestamp("2026-01-01T02:00:00.5+02:00").unwrap(), "2026-01-01T00:00:00Z");
        assert!(timestamp("").unwrap().ends_with('Z'));
        assert!(timestamp("yesterday").is_err());
    }
}
