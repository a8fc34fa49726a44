//! One lock file in the store: writing it, and looking who else has one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::backup::format::layout::{self, StorePath};
use crate::backup::format::lock_file::{LockFile, StoredLock, blocking};
use crate::backup::store::VolumeStore;
use crate::backup::target::{TargetError, TargetResult};
use crate::{Error, Result};

/// The largest lock file that is read, in bytes.
const LOCK_FILE_LIMIT: u64 = 64 << 10;

/// Who writes the lock file.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) store: VolumeStore,
    pub(super) path: StorePath,
    /// When the file was last written, by our clock.
    pub(super) written: Arc<Mutex<Instant>>,
}

impl Owner {
    pub(super) async fn write(&self, file: &LockFile) -> TargetResult<()> {
        let begun = Instant::now();
        self.store.target().write(&self.path, file.to_bytes().into()).await?;
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        Ok(())
    }

    pub(super) async fn remove(&self) {
        if let Err(error) = self.store.target().remove(&self.path).await {
            tracing::warn!(volume = %self.store.volume(), %error, "lock file stays until it expires");
        }
    }

    /// Waits for others to show themselves; says who goes first, if anybody does.
    pub(super) async fn is_contested(&self, file: &LockFile, settle: Duration) -> Result<Option<String>> {
        let target = self.store.target();
        let stat = target.stat(&self.path).await.map_err(|error| self.blame(error))?;
        let Some(stat) = stat else {
            return Ok(Some("its file vanished".into()));
        };
        tokio::time::sleep(settle).await;
        let others = self.others().await.map_err(|error| self.blame(error))?;
        let mine = StoredLock { file: file.clone(), modified: stat.modified };
        let first = blocking(&mine, &others, SystemTime::now());
        Ok(first.map(|other| format!("{} of type {} goes first", other.file.name, other.file.kind.0)))
    }

    /// All other lock files that can be read; Longhorn ignores the rest, too.
    async fn others(&self) -> TargetResult<Vec<StoredLock>> {
        let target = self.store.target();
        let directory = layout::locks(self.store.volume());
        let mut locks = Vec::new();
        for name in target.list(&directory).await? {
            let Some(path) = directory.child(&name).filter(|_| name.ends_with(layout::LOCK_SUFFIX)) else {
                continue;
            };
            if path == self.path {
                continue;
            }
            let Ok(Some(stat)) = target.stat(&path).await else {
                continue;
            };
            let Ok(bytes) = target.read(&path, LOCK_FILE_LIMIT).await else {
                continue;
            };
            if let Ok(file) = LockFile::parse(&bytes) {
                locks.push(StoredLock { file, modified: stat.modified });
            }
        }
        Ok(locks)
    }

    pub(super) fn blame(&self, error: TargetError) -> Error {
        error.blame(self.store.target(), "lock of volume", self.store.volume().as_str())
    }
}
