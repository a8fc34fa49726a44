//! One volume of a target: its cfg files as types, with errors that name volume and backup.

use crate::name::{BackupName, VolumeName};
use crate::{Error, Result};

use super::format::FormatError;
use super::format::backup_config::BackupConfig;
use super::format::block::BlockList;
use super::format::layout::{self, StorePath};
use super::format::volume_config::VolumeConfig;
use super::lock::VolumeLock;
use super::plan::restore::{RestoreOnto, RestorePlan};
use super::target::{Target, TargetResult};

/// The largest `volume.cfg` that is read, in bytes: labels, mostly.
pub const VOLUME_CONFIG_LIMIT: u64 = 4 << 20;
/// The largest backup cfg that is read, in bytes: at about 102 bytes a block it is enough for 10 TiB in blocks of
/// 2 MiB and 80 TiB in blocks of 16 MiB. Parsed it takes less than half of that in memory.
pub const BACKUP_CONFIG_LIMIT: u64 = 512 << 20;

/// A volume in a target. It need not exist there yet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VolumeStore {
    target: Target,
    volume: VolumeName,
}

impl VolumeStore {
    /// The place of `volume` in `target`.
    pub fn new(target: Target, volume: VolumeName) -> Self {
        Self { target, volume }
    }

    /// The target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The volume.
    pub fn volume(&self) -> &VolumeName {
        &self.volume
    }

    /// Reads `volume.cfg`; `None` if the volume was never backed up here.
    pub async fn find_volume_config(&self) -> Result<Option<VolumeConfig>> {
        match self.volume_config().await {
            Ok(config) => Ok(Some(config)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads `volume.cfg`.
    pub async fn volume_config(&self) -> Result<VolumeConfig> {
        let path = layout::volume_config(&self.volume);
        let bytes = self.read(&path, VOLUME_CONFIG_LIMIT, "backup volume", self.volume.as_str()).await?;
        VolumeConfig::parse(&bytes).map_err(|error| self.corrupt(&path, &error))
    }

    /// Reads a backup's cfg, finished or not.
    pub async fn backup_config(&self, backup: &BackupName) -> Result<BackupConfig> {
        let path = layout::backup_config(&self.volume, backup);
        let name = format!("{backup} of volume {}", self.volume);
        let bytes = self.read(&path, BACKUP_CONFIG_LIMIT, "backup", &name).await?;
        let parsed = tokio::task::spawn_blocking(move || BackupConfig::parse(&bytes)).await;
        parsed
            .map_err(|error| Error::internal(&self.target, error.to_string()))?
            .map_err(|error| self.corrupt(&path, &error))
    }

    /// Reads a finished backup's cfg; one in progress is refused.
    pub async fn finished_backup(&self, backup: &BackupName) -> Result<BackupConfig> {
        let config = self.backup_config(backup).await?;
        if config.is_in_progress() {
            let object = format!("volume {} in {}", self.volume, self.target);
            return Err(Error::precondition(object, format!("backup {backup} is still in progress")));
        }
        Ok(config)
    }

    pub(super) async fn write_volume_config(&self, config: &VolumeConfig) -> Result<()> {
        let path = layout::volume_config(&self.volume);
        let written = self.target.write(&path, config.to_bytes().into()).await;
        written.map_err(|error| error.blame(&self.target, "backup volume", self.volume.as_str()))
    }

    pub(super) async fn write_backup_config(&self, backup: &BackupName, config: BackupConfig) -> Result<()> {
        let path = layout::backup_config(&self.volume, backup);
        // Tens of megabytes for a large volume.
        let bytes = tokio::task::spawn_blocking(move || config.to_bytes()).await;
        let bytes = bytes.map_err(|error| Error::internal(&self.target, error.to_string()))?;
        let name = format!("{backup} of volume {}", self.volume);
        let written = self.target.write(&path, bytes.into()).await;
        written.map_err(|error| error.blame(&self.target, "backup", &name))
    }

    async fn read(&self, path: &StorePath, limit: u64, kind: &'static str, name: &str) -> Result<Vec<u8>> {
        let read = self.target.read(path, limit).await;
        read.map_err(|error| error.blame(&self.target, kind, name))
    }

    fn corrupt(&self, path: &StorePath, error: &FormatError) -> Error {
        Error::Corruption { object: format!("{path} in {}", self.target), problem: error.to_string() }
    }
}

/// Reads the cfg files and plans the restore of `backup`. The lock keeps the blocks from being deleted until the
/// restore is done.
///
/// A base that was deleted or never finished is no obstacle: the plan is then one over unknown content. One that
/// cannot be read now is an error, for the caller to try again rather than to move the whole volume.
pub async fn load_plan(lock: &VolumeLock, backup: &BackupName, onto: &RestoreOnto) -> Result<RestorePlan> {
    let store = lock.store();
    let volume = store.volume_config().await?;
    let corrupt = |name: &BackupName, error: FormatError| Error::Corruption {
        object: format!("backup {name} of volume {} in {}", store.volume, store.target),
        problem: error.to_string(),
    };
    if volume.size == 0 {
        let object = format!("volume {} in {}", store.volume, store.target);
        return Err(Error::Corruption { object, problem: "its volume.cfg says that its size is 0".into() });
    }
    let config = store.finished_backup(backup).await?;
    let base = match onto {
        RestoreOnto::Backup(base) => find_base(store, base).await?,
        RestoreOnto::Fresh | RestoreOnto::Unknown => None,
    };
    let fresh = *onto == RestoreOnto::Fresh;
    RestorePlan::new(store.volume.clone(), backup.clone(), &config, &volume, base.as_ref(), fresh)
        .map_err(|error| corrupt(backup, error))
}

async fn find_base(store: &VolumeStore, base: &BackupName) -> Result<Option<BlockList>> {
    match store.backup_config(base).await {
        Ok(config) if config.is_in_progress() => Ok(None),
        Ok(config) => Ok(Some(config.blocks)),
        Err(error @ (Error::NotFound { .. } | Error::Corruption { .. })) => {
            tracing::warn!(volume = %store.volume, backup = %base, %error, "last restored backup is unusable, restoring in full");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl VolumeStore {
    /// Whether the volume's cfg can still be seen: tells a lost target from a lost block.
    pub(super) async fn is_reachable(&self) -> TargetResult<bool> {
        Ok(self.target.stat(&layout::volume_config(&self.volume)).await?.is_some())
    }
}
