//! What a backup writes about itself and its volume: the cfg files, filled in from the request.

use jiff::Timestamp;

use crate::backup::format::backup_config::{BackupConfig, ProcessingBlocks};
use crate::backup::format::block::BlockList;
use crate::backup::format::compression::CompressionMethod;
use crate::backup::format::volume_config::VolumeConfig;
use crate::{Error, Result};

use super::BackupRequest;

/// What is written before the first block: the empty `CreatedTime` says that there is no image yet.
pub(super) fn stub(request: &BackupRequest, method: CompressionMethod) -> Result<BackupConfig> {
    let blocks = BlockList::new(request.labels.parameters.block_size, Vec::new());
    let blocks = blocks.map_err(|error| Error::internal("empty block list", error.to_string()))?;
    Ok(BackupConfig {
        name: request.backup.to_string(),
        volume_name: request.volume.to_string(),
        snapshot_name: String::new(),
        snapshot_created_at: String::new(),
        created_time: String::new(),
        size: 0,
        labels: None,
        parameters: None,
        is_incremental: false,
        compression_method: method,
        newly_uploaded_size: 0,
        re_uploaded_size: 0,
        processing_blocks: ProcessingBlocks::Null,
        blocks,
        single_file_path: String::new(),
    })
}

/// What replaces the stub when all blocks are durable. `uploaded` is bytes written to new and to existing files.
pub(super) fn finished(
    request: &BackupRequest,
    method: CompressionMethod,
    is_incremental: bool,
    blocks: BlockList,
    uploaded: (u64, u64),
) -> BackupConfig {
    BackupConfig {
        name: request.backup.to_string(),
        volume_name: request.volume.to_string(),
        snapshot_name: request.snapshot.to_string(),
        snapshot_created_at: time_text(request.snapshot_created_at),
        created_time: time_text(Timestamp::now()),
        size: blocks.as_slice().len() as u64 * blocks.block_size().bytes(),
        labels: Some(request.labels.labels.clone()),
        parameters: Some(request.labels.parameters.to_map()),
        is_incremental,
        compression_method: method,
        newly_uploaded_size: uploaded.0,
        re_uploaded_size: uploaded.1,
        processing_blocks: if is_incremental { ProcessingBlocks::Null } else { ProcessingBlocks::Empty },
        blocks,
        single_file_path: String::new(),
    }
}

/// A volume that the store sees for the first time.
pub(super) fn new_volume(request: &BackupRequest, size: u64) -> VolumeConfig {
    VolumeConfig {
        name: request.volume.to_string(),
        size,
        labels: Some(request.labels.labels.clone()),
        created_time: time_text(Timestamp::now()),
        last_backup_name: String::new(),
        last_backup_at: String::new(),
        block_count: 0,
        backing_image_name: request.backing_image_name.clone(),
        backing_image_checksum: request.backing_image_checksum.clone(),
        compression_method: request.method,
        storage_class_name: request.storage_class_name.clone(),
        data_engine: "v2".into(),
    }
}

/// The volume after this backup. Method, data engine and creation time stay those of its first backup (§3).
pub(super) fn updated_volume(
    current: VolumeConfig,
    request: &BackupRequest,
    size: u64,
    new_block_files: u64,
) -> VolumeConfig {
    VolumeConfig {
        size,
        labels: Some(request.labels.labels.clone()),
        last_backup_name: request.backup.to_string(),
        last_backup_at: time_text(request.snapshot_created_at),
        block_count: current.block_count.saturating_add(new_block_files),
        backing_image_name: request.backing_image_name.clone(),
        backing_image_checksum: request.backing_image_checksum.clone(),
        storage_class_name: request.storage_class_name.clone(),
        ..current
    }
}

/// RFC 3339 in UTC with whole seconds (§1).
fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
