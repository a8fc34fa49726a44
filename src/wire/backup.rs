//! A backup order as it comes over the wire: from a manager to an engine, and from an engine to a replica's node.

use std::num::NonZeroUsize;

use jiff::Timestamp;
use uuid::Uuid;

use super::field::{replica_name, size, snapshot_name};
use super::spdkrpc::BackupCreateRequest;
use crate::backup::{BackupLabels, BackupRequest, CompressionMethod, TargetUrl};
use crate::name::{BackupName, VolumeName};
use crate::replica::BackupOrder;
use crate::{Error, Result};

/// Parses every field of an order to a replica.
pub fn parse_order(request: &BackupCreateRequest) -> Result<BackupOrder> {
    let replica = replica_name("replica_name", &request.replica_name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
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

/// A name as the backup store's own writers make them (`backupstore-format` §1).
fn generated_backup_name() -> Result<BackupName> {
    let digits = Uuid::new_v4().simple().to_string();
    BackupName::parse(&format!("backup-{}", &digits[..16])).map_err(|error| Error::name("backup_name", error))
}
