//! How far a backup or restore is, for whoever asks while it runs.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::format::block::ByteOffset;

/// The most a pipeline reports; 100 is for the engine, when all is durable and proven.
const PERCENT_LIMIT: u64 = 99;

/// Counters of one run. Shared by `Arc`; every read is a snapshot.
#[derive(Debug, Default)]
pub struct Progress {
    blocks_total: AtomicU64,
    blocks_done: AtomicU64,
    bytes_stored: AtomicU64,
    bytes_moved: AtomicU64,
    bytes_zeroed: AtomicU64,
    watermark: Mutex<Watermark>,
}

impl Progress {
    /// Per cent of the blocks, 0 to 99. A restore counts a block when it is verified and written, a backup when it is
    /// in the store.
    pub fn percent(&self) -> u32 {
        let total = self.blocks_total().max(1);
        (self.blocks_done() * 100 / total).min(PERCENT_LIMIT) as u32
    }

    /// Blocks that have to be moved in all.
    pub fn blocks_total(&self) -> u64 {
        self.blocks_total.load(Ordering::Relaxed)
    }

    /// Blocks that were moved.
    pub fn blocks_done(&self) -> u64 {
        self.blocks_done.load(Ordering::Relaxed)
    }

    /// Bytes of block files: read from the store by a restore, written to it by a backup.
    pub fn bytes_stored(&self) -> u64 {
        self.bytes_stored.load(Ordering::Relaxed)
    }

    /// Bytes of volume data: written by a restore, read by a backup.
    pub fn bytes_moved(&self) -> u64 {
        self.bytes_moved.load(Ordering::Relaxed)
    }

    /// Bytes that a restore made zero without a write.
    pub fn bytes_zeroed(&self) -> u64 {
        self.bytes_zeroed.load(Ordering::Relaxed)
    }

    /// Everything of the plan below this offset was written. After a flush of the target it can be the checkpoint
    /// from which [`super::RestorePlan::resume_from`] goes on.
    pub fn written_below(&self) -> ByteOffset {
        self.watermark().low()
    }

    pub(super) fn begin(&self, blocks_total: u64) {
        self.blocks_total.store(blocks_total, Ordering::Relaxed);
    }

    pub(super) fn add_stored(&self, bytes: u64) {
        self.bytes_stored.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_moved(&self, bytes: u64) {
        self.bytes_moved.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_zeroed(&self, bytes: u64) {
        self.bytes_zeroed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn block_done(&self) {
        self.blocks_done.fetch_add(1, Ordering::Relaxed);
    }

    /// A step that starts at `offset` and ends at `end` was begun; steps begin in ascending order.
    pub(super) fn step_begun(&self, offset: ByteOffset, end: ByteOffset) {
        let mut watermark = self.watermark();
        watermark.running.insert(offset);
        watermark.begun_to = end;
    }

    /// The step that starts at `offset` is done. One that failed is never reported, so the mark stays below it.
    pub(super) fn step_done(&self, offset: ByteOffset) {
        self.watermark().running.remove(&offset);
    }

    fn watermark(&self) -> MutexGuard<'_, Watermark> {
        // Its two fields are changed without a panic between them.
        self.watermark.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Watermark {
    running: BTreeSet<ByteOffset>,
    begun_to: ByteOffset,
}

impl Default for Watermark {
    fn default() -> Self {
        Self { running: BTreeSet::new(), begun_to: ByteOffset(0) }
    }
}

impl Watermark {
    fn low(&self) -> ByteOffset {
        self.running.first().copied().unwrap_or(self.begun_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_never_reaches_a_hundred() {
        let progress = Progress::default();
        assert_eq!(progress.percent(), 0);
        progress.begin(2);
        progress.block_done();
        assert_eq!(progress.percent(), 50);
        progress.block_done();
        assert_eq!(progress.percent(), 99);
    }

    #[test]
    fn the_watermark_waits_for_the_slowest_step() {
        let progress = Progress::default();
        let at = ByteOffset;
        progress.step_begun(at(0), at(10));
        progress.step_begun(at(20), at(30));
        progress.step_done(at(20));
        assert_eq!(progress.written_below(), at(0));
        progress.step_done(at(0));
        assert_eq!(progress.written_below(), at(30));
    }
}
