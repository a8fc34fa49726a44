//! Getting one block out of the store: what is tried again, and what a failure is called.

use std::time::Duration;

use crate::backup::cancel::Cancel;
use crate::backup::format::FormatError;
use crate::backup::format::block::{BackupBlock, BlockSize};
use crate::backup::format::codec;
use crate::backup::format::compression::CompressionMethod;
use crate::backup::format::digest::Digest;
use crate::backup::format::layout;
use crate::backup::plan::restore::RestorePlan;
use crate::backup::settings::{RestoreSettings, RetrySettings};
use crate::backup::store::VolumeStore;
use crate::backup::target::TargetError;
use crate::name::BackupName;
use crate::{Error, Result};

/// Reads block files of one backup.
pub(super) struct Fetcher {
    store: VolumeStore,
    backup: BackupName,
    block_size: BlockSize,
    method: CompressionMethod,
    retry: RetrySettings,
    cancel: Cancel,
}

/// The outcome of one attempt.
pub(super) enum Fetched {
    /// The whole file.
    File(Vec<u8>),
    /// Nothing yet; the wait is over.
    Again,
}

impl Fetcher {
    pub(super) fn new(store: VolumeStore, plan: &RestorePlan, settings: &RestoreSettings, cancel: Cancel) -> Self {
        Self {
            store,
            backup: plan.backup.clone(),
            block_size: plan.block_size,
            method: plan.method,
            retry: settings.retry.clone(),
            cancel,
        }
    }

    pub(super) fn block_size(&self) -> BlockSize {
        self.block_size
    }

    pub(super) fn method(&self) -> CompressionMethod {
        self.method
    }

    pub(super) fn attempts<'a>(&'a self, block: &'a BackupBlock) -> Attempts<'a> {
        Attempts { fetcher: self, block, failed: 0, missing: 0 }
    }

    /// The error of a cancelled restore. Longhorn's engine looks for its first four words (§16).
    pub(super) fn cancelled(&self) -> Error {
        let (backup, volume) = (&self.backup, self.store.volume());
        Error::Canceled {
            what: format!("backup restoration is cancelled: restore of backup {backup} of volume {volume}"),
        }
    }

    fn backup_words(&self) -> String {
        format!("backup {} of volume {}", self.backup, self.store.volume())
    }
}

/// The attempts to get one block, each kind of failure with its own budget.
pub(super) struct Attempts<'a> {
    fetcher: &'a Fetcher,
    block: &'a BackupBlock,
    failed: usize,
    missing: usize,
}

impl Attempts<'_> {
    /// Reads the file once; on failure waits as long as the settings say, or gives up.
    pub(super) async fn fetch(&mut self) -> Result<Fetched> {
        if self.fetcher.cancel.is_cancelled() {
            return Err(self.fetcher.cancelled());
        }
        let path = layout::block(self.fetcher.store.volume(), &self.block.digest);
        let limit = codec::file_limit(self.fetcher.block_size);
        let error = match self.fetcher.store.target().read(&path, limit).await {
            Ok(file) => return Ok(Fetched::File(file)),
            Err(error) => error,
        };
        let wait = match &error {
            TargetError::NotFound { .. } => self.missing_wait(),
            TargetError::TooLarge { .. } => None,
            TargetError::NoSpace { .. } | TargetError::Failed { .. } => self.failed_wait(),
        };
        match wait {
            Some(wait) => self.wait(wait, &error).await.map(|()| Fetched::Again),
            None => Err(self.give_up(error).await),
        }
    }

    /// Takes note that the file did not give the block. A wrong digest is final, anything else is read again.
    pub(super) async fn refused(&mut self, problem: FormatError) -> Result<()> {
        let wait = match &problem {
            FormatError::Checksum { .. } => None,
            _ => self.missing_wait(),
        };
        match wait {
            Some(wait) => self.wait(wait, &problem).await,
            None => Err(self.corruption(problem.to_string())),
        }
    }

    fn missing_wait(&mut self) -> Option<Duration> {
        self.missing += 1;
        self.fetcher.retry.missing_waits.get(self.missing - 1).copied()
    }

    fn failed_wait(&mut self) -> Option<Duration> {
        self.failed += 1;
        self.fetcher.retry.failed_waits.get(self.failed - 1).copied()
    }

    async fn wait(&self, wait: Duration, error: &(dyn std::error::Error + Send + Sync)) -> Result<()> {
        let (volume, backup) = (self.fetcher.store.volume(), &self.fetcher.backup);
        let (block, offset) = (self.block.digest, self.block.offset);
        tracing::warn!(%volume, %backup, %block, %offset, ?wait, %error, "block will be fetched again");
        if self.fetcher.cancel.sleep(wait).await { Ok(()) } else { Err(self.fetcher.cancelled()) }
    }

    /// Blames the target if it is gone altogether, the stored data if only this block is.
    async fn give_up(&self, error: TargetError) -> Error {
        let gone = match &error {
            TargetError::NotFound { .. } => !matches!(self.fetcher.store.is_reachable().await, Ok(true)),
            TargetError::TooLarge { .. } => false,
            TargetError::NoSpace { .. } | TargetError::Failed { .. } => true,
        };
        if !gone {
            return self.corruption(error.to_string());
        }
        let problem = format!("{}: {}: {error}", self.fetcher.backup_words(), self.block_words());
        Error::peer(self.fetcher.store.target(), problem)
    }

    fn corruption(&self, problem: String) -> Error {
        let object = format!("{} in {}", self.fetcher.backup_words(), self.fetcher.store.target());
        Error::Corruption { object, problem: format!("{}: {problem}", self.block_words()) }
    }

    fn block_words(&self) -> String {
        format!("block {} at offset {}", self.block.digest, self.block.offset)
    }
}

/// Decompresses into the buffer and proves the content. The outer error is the sink's fault, the inner the file's.
pub(super) fn fill<B: AsMut<[u8]>>(
    method: CompressionMethod,
    file: &[u8],
    digest: Digest,
    block_size: BlockSize,
    mut buffer: B,
) -> Result<std::result::Result<B, FormatError>> {
    let given = buffer.as_mut();
    let length = given.len();
    let Some(place) = given.get_mut(..block_size.length()) else {
        let problem = format!("a buffer of {length} bytes was given for a block of {block_size}");
        return Err(Error::internal("restore sink", problem));
    };
    Ok(codec::decompress(method, file, digest, place).map(|()| buffer))
}
