//! The restore pipeline: fetch → verify and decompress on worker threads → write, bounded at each stage.
//!
//! Blocks start in ascending order and at most `blocks_in_flight` are under way, so memory has a bound and a slow device
//! holds back the store. Each block is fetched once however many replicas the sink mirrors to.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{Error, Result};

use super::cancel::Cancel;
use super::format::block::ByteOffset;
use super::format::digest::Digest;
use super::lock::VolumeLock;
use super::plan::restore::{RestorePlan, RestoreStep};
use super::pool;
use super::progress::Progress;
use super::settings::RestoreSettings;

mod fetch;

use fetch::{Fetched, Fetcher};

/// Where a restore writes. Every call must end within the sink's own deadline: the pipeline waits for each that it
/// began, so that nothing is written after it has returned.
pub trait RestoreSink: Send + Sync + 'static {
    /// Memory that blocks are decompressed into and written from, such as a DMA buffer.
    type Buffer: AsMut<[u8]> + Send + 'static;

    /// A buffer of at least `length` bytes; only its first `length` bytes are filled. May wait until one is free.
    fn buffer(&self, length: usize) -> impl Future<Output = Result<Self::Buffer>> + Send;

    /// Writes a buffer, filled with as many bytes as were asked for, at `offset`.
    fn write(&self, offset: ByteOffset, buffer: Self::Buffer) -> impl Future<Output = Result<()>> + Send;

    /// Makes a range read as zeroes, by whatever is cheapest and sure.
    fn zero(&self, offset: ByteOffset, length: u64) -> impl Future<Output = Result<()>> + Send;

    /// Makes all of the above durable.
    fn flush(&self) -> impl Future<Output = Result<()>> + Send;
}

/// What a finished restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreReport {
    /// Blocks fetched, verified and written.
    pub blocks: u64,
    /// Bytes of block files read from the store.
    pub bytes_stored: u64,
    /// Bytes written to the sink.
    pub bytes_written: u64,
    /// Bytes made zero without a write.
    pub bytes_zeroed: u64,
}

/// Carries out `plan` on `sink` and flushes it. `progress` must be new: it counts one run.
///
/// The lock, taken before the plan was loaded, keeps the blocks in the store. After an error or a cancel the sink holds
/// neither the old image nor the new one; [`Progress::written_below`] tells how far it got.
///
/// # Errors
/// [`Error::Corruption`] for a block that is missing or not what its name says, [`Error::Peer`] for a target that
/// fails, [`Error::Canceled`], and whatever the sink answers; all but the last name volume, backup and block.
pub async fn restore<S: RestoreSink>(
    lock: &VolumeLock,
    plan: &RestorePlan,
    sink: Arc<S>,
    settings: &RestoreSettings,
    progress: &Arc<Progress>,
    cancel: &Cancel,
) -> Result<RestoreReport> {
    progress.begin(plan.blocks_to_write());
    let shared = Arc::new(Shared {
        fetcher: Fetcher::new(lock.store().clone(), plan, settings, cancel.clone()),
        fetches: Semaphore::new(settings.fetches.max(1)),
        workers: Semaphore::new(settings.workers.max(1)),
        zero_digest: zero_digest(plan.block_size.length()).await?,
        progress: progress.clone(),
        sink,
    });
    let finished = pool::run(plan.steps.iter().copied(), settings.blocks_in_flight, cancel, |step| {
        let shared = shared.clone();
        shared.progress.step_begun(step.offset(), step.end(plan.block_size));
        async move { shared.run(step).await }
    });
    if !finished.await? {
        return Err(shared.fetcher.cancelled());
    }
    shared.sink.flush().await?;
    Ok(RestoreReport {
        blocks: progress.blocks_done(),
        bytes_stored: progress.bytes_stored(),
        bytes_written: progress.bytes_moved(),
        bytes_zeroed: progress.bytes_zeroed(),
    })
}

/// What all steps of one restore use.
struct Shared<S> {
    fetcher: Fetcher,
    fetches: Semaphore,
    workers: Semaphore,
    zero_digest: Digest,
    progress: Arc<Progress>,
    sink: Arc<S>,
}

impl<S: RestoreSink> Shared<S> {
    async fn run(&self, step: RestoreStep) -> Result<()> {
        match step {
            RestoreStep::Write(block) => {
                let (buffer, length) = self.prepare(&block).await?;
                if block.digest == self.zero_digest {
                    drop(buffer);
                    self.sink.zero(block.offset, length).await?;
                    self.progress.add_zeroed(length);
                } else {
                    self.sink.write(block.offset, buffer).await?;
                    self.progress.add_moved(length);
                }
                self.progress.block_done();
            }
            RestoreStep::Zero { offset, length } => {
                self.sink.zero(offset, length).await?;
                self.progress.add_zeroed(length);
            }
        }
        self.progress.step_done(step.offset());
        Ok(())
    }

    /// Fetches a block and fills a buffer of the sink with its verified content.
    async fn prepare(&self, block: &super::BackupBlock) -> Result<(S::Buffer, u64)> {
        let block_size = self.fetcher.block_size();
        let mut attempts = self.fetcher.attempts(block);
        loop {
            let file = {
                let _permit = permit(&self.fetches).await?;
                match attempts.fetch().await? {
                    Fetched::File(file) => file,
                    Fetched::Again => continue,
                }
            };
            self.progress.add_stored(file.len() as u64);
            // The buffer last: device memory is scarce, so none waits for a worker.
            let _permit = permit(&self.workers).await?;
            let buffer = self.sink.buffer(block_size.length()).await?;
            let (method, digest) = (self.fetcher.method(), block.digest);
            let worked = tokio::task::spawn_blocking(move || fetch::fill(method, &file, digest, block_size, buffer));
            let filled = worked.await.map_err(|error| Error::internal("restore worker", error.to_string()))??;
            match filled {
                Ok(buffer) => return Ok((buffer, block_size.bytes())),
                Err(problem) => attempts.refused(problem).await?,
            }
        }
    }
}

async fn permit(semaphore: &Semaphore) -> Result<tokio::sync::SemaphorePermit<'_>> {
    // Nobody closes it.
    semaphore.acquire().await.map_err(|error| Error::internal("restore", error.to_string()))
}

/// The digest that all-zero blocks have, so that they are known without looking at their bytes.
async fn zero_digest(length: usize) -> Result<Digest> {
    let work = tokio::task::spawn_blocking(move || Digest::of(&vec![0; length]));
    work.await.map_err(|error| Error::internal("restore worker", error.to_string()))
}
