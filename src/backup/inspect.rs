//! What a target holds, in the form and with the words that Longhorn's manager reads (§16).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Result;
use crate::name::{BackupName, VolumeName};

use super::format::layout;
use super::format::volume_config::VolumeConfig;
use super::store::VolumeStore;
use super::target::{Target, TargetResult};
use super::url::BackupUrl;

/// What `DataStored` counts a block file as, in bytes, whatever the block size (§16).
const STORED_BLOCK: u64 = 2 << 20;

/// One finished backup. Serialises as Longhorn's `backup inspect` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // The fields are those of the cfg files, documented there.
pub struct BackupSummary {
    pub name: String,
    #[serde(rename = "URL")]
    pub url: String,
    pub snapshot_name: String,
    pub snapshot_created: String,
    pub created: String,
    #[serde(serialize_with = "as_text")]
    pub size: u64,
    pub labels: BTreeMap<String, String>,
    pub parameters: BTreeMap<String, String>,
    pub is_incremental: bool,
    pub compression_method: &'static str,
    #[serde(serialize_with = "as_text")]
    pub newly_uploaded_data_size: u64,
    #[serde(serialize_with = "as_text")]
    pub re_uploaded_data_size: u64,
    pub volume_name: String,
    #[serde(serialize_with = "as_text")]
    pub volume_size: u64,
    pub volume_created: String,
    pub volume_backing_image_name: String,
}

/// One volume. Serialises as Longhorn's `backup inspect-volume` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // The fields are those of volume.cfg, documented there.
pub struct VolumeSummary {
    pub name: String,
    #[serde(serialize_with = "as_text")]
    pub size: u64,
    pub labels: BTreeMap<String, String>,
    pub created: String,
    pub last_backup_name: String,
    pub last_backup_at: String,
    #[serde(serialize_with = "as_text")]
    pub data_stored: u64,
    pub backing_image_name: String,
    pub backing_image_checksum: String,
    #[serde(rename = "StorageClassname")]
    pub storage_class_name: String,
    pub data_engine: String,
}

/// A volume's directory found in a target.
#[derive(Debug, Clone)]
pub struct ListedVolume {
    /// Its name.
    pub name: VolumeName,
    /// What it is, or why that cannot be said; a directory without `volume.cfg` is listed, too.
    pub summary: Result<VolumeSummary>,
}

/// A backup's cfg file found in a volume.
#[derive(Debug, Clone)]
pub struct ListedBackup {
    /// Its name.
    pub name: BackupName,
    /// What it is, or why it cannot be used: in progress, damaged.
    pub summary: Result<BackupSummary>,
}

fn as_text<S: serde::Serializer>(value: &u64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Describes a finished backup; one in progress is refused.
pub async fn inspect_backup(target: &Target, volume: &VolumeName, backup: &BackupName) -> Result<BackupSummary> {
    let store = VolumeStore::new(target.clone(), volume.clone());
    let config = store.volume_config().await?;
    summarize_backup(&store, &config, backup).await
}

/// Describes a volume.
pub async fn inspect_volume(target: &Target, volume: &VolumeName) -> Result<VolumeSummary> {
    let config = VolumeStore::new(target.clone(), volume.clone()).volume_config().await?;
    Ok(summarize_volume(volume, config))
}

/// All backups of a volume, sorted by name.
pub async fn list_backups(target: &Target, volume: &VolumeName) -> Result<Vec<ListedBackup>> {
    let store = VolumeStore::new(target.clone(), volume.clone());
    let config = store.volume_config().await?;
    let files = target.list(&layout::backups(volume)).await;
    let files = files.map_err(|error| error.blame(target, "backup volume", volume.as_str()))?;
    let mut listed = Vec::new();
    for name in files.iter().filter_map(|file| layout::backup_of_file(file)) {
        let summary = summarize_backup(&store, &config, &name).await;
        listed.push(ListedBackup { name, summary });
    }
    Ok(listed)
}

/// All volumes of a target, sorted by name.
pub async fn list_volumes(target: &Target) -> Result<Vec<ListedVolume>> {
    let names = volume_names(target).await.map_err(|error| error.blame(target, "backup target", "volumes"))?;
    let mut listed = Vec::new();
    for name in names {
        let summary = inspect_volume(target, &name).await;
        listed.push(ListedVolume { name, summary });
    }
    Ok(listed)
}

/// The names in the two levels of hash directories. Directories that no volume can have are none of ours.
async fn volume_names(target: &Target) -> TargetResult<Vec<VolumeName>> {
    let root = layout::volumes();
    let mut names = Vec::new();
    for first in children(target, &root).await? {
        for second in children(target, &first).await? {
            let found = target.list(&second).await?;
            let plausible = found.iter().filter(|name| *name != layout::BACKING_IMAGE_LOCKS);
            let parsed = plausible.filter_map(|name| VolumeName::parse(name).ok());
            names.extend(parsed.filter(|name| second.child(name.as_str()) == Some(layout::volume(name))));
        }
    }
    names.sort_unstable();
    Ok(names)
}

async fn children(target: &Target, path: &layout::StorePath) -> TargetResult<Vec<layout::StorePath>> {
    let is_hash = |name: &&String| name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let names = target.list(path).await?;
    Ok(names.iter().filter(is_hash).filter_map(|name| path.child(name)).collect())
}

async fn summarize_backup(store: &VolumeStore, volume: &VolumeConfig, backup: &BackupName) -> Result<BackupSummary> {
    let config = store.finished_backup(backup).await?;
    let url = BackupUrl {
        target: store.target().url().clone(),
        volume: store.volume().clone(),
        backup: Some(backup.clone()),
    };
    Ok(BackupSummary {
        name: backup.to_string(),
        url: url.to_string(),
        snapshot_name: config.snapshot_name,
        snapshot_created: config.snapshot_created_at,
        created: config.created_time,
        size: config.size,
        labels: config.labels.unwrap_or_default(),
        parameters: config.parameters.unwrap_or_default(),
        is_incremental: config.is_incremental,
        compression_method: config.compression_method.as_str(),
        newly_uploaded_data_size: config.newly_uploaded_size,
        re_uploaded_data_size: config.re_uploaded_size,
        volume_name: store.volume().to_string(),
        volume_size: volume.size,
        volume_created: volume.created_time.clone(),
        volume_backing_image_name: volume.backing_image_name.clone(),
    })
}

fn summarize_volume(volume: &VolumeName, config: VolumeConfig) -> VolumeSummary {
    VolumeSummary {
        name: volume.to_string(),
        size: config.size,
        labels: config.labels.unwrap_or_default(),
        created: config.created_time,
        last_backup_name: config.last_backup_name,
        last_backup_at: config.last_backup_at,
        data_stored: config.block_count.saturating_mul(STORED_BLOCK),
        backing_image_name: config.backing_image_name,
        backing_image_checksum: config.backing_image_checksum,
        storage_class_name: config.storage_class_name,
        data_engine: config.data_engine,
    }
}
