//! The backup pipeline: read what changed → digest → compress → store, then the cfg files, in the order of §6.
//!
//! [`BackupJob::prepare`] does all that the caller must wait for; [`BackupJob::run`] moves the data.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::name::{BackupName, SnapshotName, VolumeName};
use crate::{Error, Result};

use super::cancel::Cancel;
use super::format::block::{BackupBlock, BlockList, ByteOffset};
use super::format::compression::CompressionMethod;
use super::format::labels::{BackupLabels, BackupMode};
use super::format::volume_config::VolumeConfig;
use super::lock::{LockKind, VolumeLock};
use super::plan::changed::ChangedMap;
use super::plan::create::{BackupBase, BackupPlan, FullReason, choose_base};
use super::pool;
use super::progress::Progress;
use super::settings::CreateSettings;
use super::store::VolumeStore;
use super::target::Target;
use super::url::BackupUrl;

mod records;
mod upload;

use upload::Uploader;

/// The snapshot that is backed up.
pub trait BackupSource: Send + Sync + 'static {
    /// What a read gives, such as a DMA buffer.
    type Buffer: AsRef<[u8]> + Send + 'static;

    /// The size of the volume, in bytes; constant.
    fn size(&self) -> u64;

    /// What differs from the snapshot `base`, or from nothing.
    ///
    /// `None` when this snapshot does not descend from `base`, or when the source cannot say. Without a base that
    /// makes the whole volume the backup.
    fn changed(&self, base: Option<&SnapshotName>) -> impl Future<Output = Result<Option<ChangedMap>>> + Send;

    /// Reads a block; the first `length` bytes of the buffer are its content. Must end within the source's own
    /// deadline.
    fn read(&self, offset: ByteOffset, length: usize) -> impl Future<Output = Result<Self::Buffer>> + Send;
}

/// What to back up, and what to write about it.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The volume.
    pub volume: VolumeName,
    /// The name of the new backup.
    pub backup: BackupName,
    /// The snapshot that the source reads.
    pub snapshot: SnapshotName,
    /// When the snapshot was made.
    pub snapshot_created_at: Timestamp,
    /// Labels and parameters.
    pub labels: BackupLabels,
    /// How to compress, unless earlier backups of the volume have settled that.
    pub method: CompressionMethod,
    /// The volume's backing image, or nothing.
    pub backing_image_name: String,
    /// The checksum of that.
    pub backing_image_checksum: String,
    /// The volume's storage class, or nothing.
    pub storage_class_name: String,
}

/// What a finished backup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// Where it can be restored from.
    pub url: BackupUrl,
    /// Whether another backup was the base.
    pub is_incremental: bool,
    /// Blocks of the complete image.
    pub blocks: u64,
    /// Block files that were created.
    pub new_block_files: u64,
    /// Bytes of these.
    pub newly_uploaded_size: u64,
    /// Bytes of block files that were there and were written again.
    pub re_uploaded_size: u64,
}

/// A backup that is planned and locked, ready to run. Dropping it gives the lock back.
#[derive(Debug)]
pub struct BackupJob<S> {
    lock: VolumeLock,
    source: Arc<S>,
    request: BackupRequest,
    settings: CreateSettings,
    method: CompressionMethod,
    plan: BackupPlan,
    is_incremental: bool,
}

impl<S: BackupSource> BackupJob<S> {
    /// Locks the volume, enters it into the store if it is new, and decides what has to be read.
    pub async fn prepare(
        target: &Target,
        source: Arc<S>,
        request: BackupRequest,
        settings: CreateSettings,
    ) -> Result<Self> {
        check_size(source.size(), &request)?;
        let store = VolumeStore::new(target.clone(), request.volume.clone());
        let lock = VolumeLock::acquire(store, LockKind::CreateRestore, &settings.lock).await?;
        match Self::plan(lock.store(), &*source, &request).await {
            Ok((method, plan, is_incremental)) => {
                Ok(Self { lock, source, request, settings, method, plan, is_incremental })
            }
            Err(error) => {
                lock.release().await;
                Err(error)
            }
        }
    }

    /// Whether another backup is the base.
    pub fn is_incremental(&self) -> bool {
        self.is_incremental
    }

    /// Moves the data and writes the cfg files. When this returns, the backup is durable, and the lock given back.
    ///
    /// A cancel or an error leaves a backup that says of itself that it is in progress.
    pub async fn run(self, progress: &Arc<Progress>, cancel: &Cancel) -> Result<BackupReport> {
        let report = self.transfer(progress, cancel).await;
        self.lock.release().await;
        report
    }

    async fn plan(
        store: &VolumeStore,
        source: &S,
        request: &BackupRequest,
    ) -> Result<(CompressionMethod, BackupPlan, bool)> {
        let volume = match store.find_volume_config().await? {
            Some(found) => found,
            None => {
                let config = records::new_volume(request, source.size());
                store.write_volume_config(&config).await?;
                config
            }
        };
        refuse_finished(store, &request.backup).await?;
        let parameters = request.labels.parameters;
        let reason = match find_base(store, &volume, request, source.size()).await? {
            Ok(base) => match source.changed(Some(&base.snapshot)).await? {
                Some(map) => {
                    let plan = BackupPlan::incremental(&base.blocks, &map, source.size());
                    return Ok((volume.compression_method, plan, true));
                }
                None => FullReason::NotAnAncestor,
            },
            Err(reason) => reason,
        };
        tracing::info!(volume = %request.volume, backup = %request.backup, %reason, "backup is full");
        let map = source.changed(None).await?;
        let plan = BackupPlan::full(map.as_ref(), parameters.block_size, source.size());
        Ok((volume.compression_method, plan, false))
    }

    async fn transfer(&self, progress: &Arc<Progress>, cancel: &Cancel) -> Result<BackupReport> {
        let store = self.lock.store();
        let backup = &self.request.backup;
        store.write_backup_config(backup, records::stub(&self.request, self.method)?).await?;
        progress.begin(self.plan.read.len() as u64);
        let uploader = Arc::new(Uploader {
            store: store.clone(),
            source: self.source.clone(),
            backup: backup.clone(),
            block_size: self.request.labels.parameters.block_size,
            method: self.method,
            rewrite: self.request.labels.parameters.mode == BackupMode::Full,
            workers: Semaphore::new(self.settings.workers.max(1)),
            write_waits: self.settings.write_waits.clone(),
            cancel: cancel.clone(),
            progress: progress.clone(),
            seen: Mutex::new(HashSet::new()),
            totals: Mutex::default(),
        });
        let offsets = self.plan.read.iter().copied();
        let finished = pool::run(offsets, self.settings.blocks_in_flight, cancel, |offset| {
            let uploader = uploader.clone();
            async move { uploader.run(offset).await }
        });
        if !finished.await? {
            return Err(uploader.cancelled());
        }
        let totals = uploader.totals();
        let blocks = self.merge(totals.blocks)?;
        // Without the lock somebody may have deleted blocks that this list counts on.
        self.lock.ensure_held()?;
        let uploaded = (totals.newly_uploaded_size, totals.re_uploaded_size);
        let count = blocks.as_slice().len() as u64;
        let config = records::finished(&self.request, self.method, self.is_incremental, blocks, uploaded);
        store.write_backup_config(backup, config).await?;
        self.update_volume(totals.new_block_files).await?;
        Ok(BackupReport {
            url: BackupUrl {
                target: store.target().url().clone(),
                volume: self.request.volume.clone(),
                backup: Some(backup.clone()),
            },
            is_incremental: self.is_incremental,
            blocks: count,
            new_block_files: totals.new_block_files,
            newly_uploaded_size: totals.newly_uploaded_size,
            re_uploaded_size: totals.re_uploaded_size,
        })
    }

    fn merge(&self, read: Vec<BackupBlock>) -> Result<BlockList> {
        let object = || format!("backup {} of volume {}", self.request.backup, self.request.volume);
        let blocks = self.plan.merge(read).map_err(|error| Error::internal(object(), error.to_string()))?;
        blocks.check_within(self.source.size()).map_err(|error| Error::internal(object(), error.to_string()))?;
        Ok(blocks)
    }

    /// Makes this backup the volume's last. The file is read again, because other backups may have finished meanwhile.
    async fn update_volume(&self, new_block_files: u64) -> Result<()> {
        let store = self.lock.store();
        let current = store.volume_config().await?;
        let config = records::updated_volume(current, &self.request, self.source.size(), new_block_files);
        store.write_volume_config(&config).await
    }
}

/// A volume that is not a whole number of blocks could be backed up but never restored (§6).
fn check_size(size: u64, request: &BackupRequest) -> Result<()> {
    let refused = |problem| Error::invalid("size", format!("volume {}: {problem}", request.volume));
    if size == 0 {
        return Err(refused("a volume of 0 bytes cannot be backed up".into()));
    }
    request.labels.parameters.block_size.check_volume(size).map_err(|error| refused(error.to_string()))
}

/// A finished backup of the same name must not lose its image; an unfinished one may be made anew.
async fn refuse_finished(store: &VolumeStore, backup: &BackupName) -> Result<()> {
    match store.backup_config(backup).await {
        Ok(config) if config.is_in_progress() => Ok(()),
        Ok(_) => Err(Error::exists("backup", backup)),
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The base, or why there is none. A target that fails is an error rather than a reason to read everything.
async fn find_base(
    store: &VolumeStore,
    volume: &VolumeConfig,
    request: &BackupRequest,
    size: u64,
) -> Result<std::result::Result<BackupBase, FullReason>> {
    if request.labels.parameters.mode == BackupMode::Full {
        return Ok(Err(FullReason::Requested));
    }
    let Some(last) = volume.last_backup() else {
        return Ok(Err(FullReason::NoLastBackup));
    };
    match store.backup_config(&last).await {
        Ok(config) => Ok(choose_base(config, &request.snapshot, request.labels.parameters, size)),
        Err(error @ (Error::NotFound { .. } | Error::Corruption { .. })) => {
            Ok(Err(FullReason::Unusable(error.to_string())))
        }
        Err(error) => Err(error),
    }
}
