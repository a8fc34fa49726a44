//! One block on its way into the store.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::backup::cancel::Cancel;
use crate::backup::format::block::{BackupBlock, BlockSize, ByteOffset};
use crate::backup::format::codec;
use crate::backup::format::compression::CompressionMethod;
use crate::backup::format::digest::Digest;
use crate::backup::format::layout::{self, StorePath};
use crate::backup::progress::Progress;
use crate::backup::store::VolumeStore;
use crate::backup::target::{TargetError, TargetResult};
use crate::name::BackupName;
use crate::{Error, Result};

use super::BackupSource;

/// What all blocks of one backup share.
pub(super) struct Uploader<S> {
    pub(super) store: VolumeStore,
    pub(super) source: Arc<S>,
    pub(super) backup: BackupName,
    pub(super) block_size: BlockSize,
    pub(super) method: CompressionMethod,
    /// Write blocks again that the store has already.
    pub(super) rewrite: bool,
    pub(super) workers: Semaphore,
    pub(super) write_waits: Vec<Duration>,
    pub(super) cancel: Cancel,
    pub(super) progress: Arc<Progress>,
    /// Digests that this backup has stored or is storing.
    pub(super) seen: Mutex<HashSet<Digest>>,
    pub(super) totals: Mutex<Totals>,
}

/// What was done so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Totals {
    pub(super) blocks: Vec<BackupBlock>,
    pub(super) new_block_files: u64,
    pub(super) newly_uploaded_size: u64,
    pub(super) re_uploaded_size: u64,
}

impl<S: BackupSource> Uploader<S> {
    /// Reads the block at `offset` and makes sure that the store has it.
    pub(super) async fn run(&self, offset: ByteOffset) -> Result<()> {
        let buffer = self.source.read(offset, self.block_size.length()).await?;
        self.progress.add_moved(self.block_size.bytes());
        let (buffer, digest) = self.digest(buffer).await?;
        // Equal content is stored once. If the task that stores it fails, so does the backup.
        if lock(&self.seen).insert(digest) {
            self.store_block(offset, digest, buffer).await?;
        }
        lock(&self.totals).blocks.push(BackupBlock { offset, digest });
        self.progress.block_done();
        Ok(())
    }

    /// What was done.
    pub(super) fn totals(&self) -> Totals {
        std::mem::take(&mut lock(&self.totals))
    }

    /// The error of a cancelled backup.
    pub(super) fn cancelled(&self) -> Error {
        Error::Canceled { what: format!("backup {} of volume {}", self.backup, self.store.volume()) }
    }

    async fn store_block(&self, offset: ByteOffset, digest: Digest, buffer: S::Buffer) -> Result<()> {
        let path = layout::block(self.store.volume(), &digest);
        let stat = self.store.target().stat(&path).await.map_err(|error| self.blame(error, offset, digest))?;
        // An empty file is what a crashed writer without fsync leaves; no method makes a block that small.
        let exists = stat.is_some_and(|stat| stat.size > 0);
        if exists && !self.rewrite {
            return Ok(());
        }
        let file = self.compress(buffer).await?;
        let size = file.len() as u64;
        self.write(&path, file).await.map_err(|error| self.blame(error, offset, digest))?;
        self.progress.add_stored(size);
        let mut totals = lock(&self.totals);
        if exists {
            totals.re_uploaded_size += size;
        } else {
            totals.newly_uploaded_size += size;
            totals.new_block_files += 1;
        }
        Ok(())
    }

    async fn digest(&self, buffer: S::Buffer) -> Result<(S::Buffer, Digest)> {
        let block_size = self.block_size;
        self.work(move || {
            let digest = Digest::of(content(&buffer, block_size)?);
            Ok((buffer, digest))
        })
        .await
    }

    async fn compress(&self, buffer: S::Buffer) -> Result<Bytes> {
        let (method, block_size) = (self.method, self.block_size);
        self.work(move || {
            let compressed = codec::compress(method, content(&buffer, block_size)?);
            compressed.map(Bytes::from).map_err(|error| Error::internal("compression in memory", error.to_string()))
        })
        .await
    }

    /// Runs CPU work on a blocking thread, as many at once as there are permits.
    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let broken = |error: String| Error::internal("backup worker", error);
        let _permit = self.workers.acquire().await.map_err(|error| broken(error.to_string()))?;
        tokio::task::spawn_blocking(work).await.map_err(|error| broken(error.to_string()))?
    }

    async fn write(&self, path: &StorePath, file: Bytes) -> TargetResult<()> {
        for wait in &self.write_waits {
            match self.store.target().write(path, file.clone()).await {
                Err(error @ TargetError::Failed { .. }) => {
                    tracing::warn!(volume = %self.store.volume(), backup = %self.backup, %error, "block will be written again");
                    if !self.cancel.sleep(*wait).await {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
        self.store.target().write(path, file).await
    }

    fn blame(&self, error: TargetError, offset: ByteOffset, digest: Digest) -> Error {
        let name = format!("{} of volume {}, block {digest} at offset {offset}", self.backup, self.store.volume());
        error.blame(self.store.target(), "backup", &name)
    }
}

/// The bytes of the block in what the source gave.
fn content<B: AsRef<[u8]>>(buffer: &B, block_size: BlockSize) -> Result<&[u8]> {
    let given = buffer.as_ref();
    given.get(..block_size.length()).ok_or_else(|| {
        let problem = format!("a buffer of {} bytes was given for a block of {block_size}", given.len());
        Error::internal("backup source", problem)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No holder of these locks can panic between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
