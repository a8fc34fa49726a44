//! Where a restore writes: the mirror's bdev, from DMA buffers of a bounded pool.

use std::sync::Arc;
use std::sync::Mutex;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backup::{ByteOffset, RestoreSink};
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::name::BdevName;
use crate::spdk::{BdevClient, Control, DmaBuffer};

/// The longest range given to the mirror as one write of zeroes: small enough that a member's deadline is not at stake.
const ZERO_STEP: u64 = 4 << 20;

/// Bytes of an image that are copied at once.
const BELOW_STEP: u64 = 256 << 10;

/// The mirror as a restore's target. One write goes to all members; the data was fetched once.
pub struct MirrorSink {
    bdev: BdevClient,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<DmaBuffer>>>,
    below: Option<Below>,
}

/// A backing image below the volume, which is to show where the backup has nothing.
pub struct Below {
    bdev: BdevClient,
    size: u64,
}

impl Below {
    /// That of an open image.
    pub fn of(bdev: BdevClient) -> Self {
        Self { size: bdev.geometry().size(), bdev }
    }
}

/// A buffer of the pool; it goes back when dropped.
pub struct PooledBuffer {
    buffer: Option<DmaBuffer>,
    length: usize,
    idle: Arc<Mutex<Vec<DmaBuffer>>>,
    _permit: OwnedSemaphorePermit,
}

impl AsMut<[u8]> for PooledBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        let length = self.length;
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer[..length])
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(buffer);
        }
    }
}

impl MirrorSink {
    /// Opens the mirror for a restore with at most `buffers` blocks in memory. What is to be zero reads as `below`, if there
    /// is that.
    pub async fn open(control: &Control, mirror: &BdevName, buffers: usize, below: Option<Below>) -> Result<Self> {
        let bdev = BdevClient::open(control, mirror.clone(), true).await?;
        Ok(Self { bdev, permits: Arc::new(Semaphore::new(buffers.max(1))), idle: Arc::default(), below })
    }

    /// Writes what the image has over a range, up to the image's end; returns where that is.
    async fn show_below(&self, below: &Below, start: u64, end: u64) -> Result<u64> {
        let end = end.min(below.size);
        let mut at = start;
        while at < end {
            let length = BELOW_STEP.min(end - at);
            let buffer = below.bdev.read(at, DmaBuffer::zeroed(length as usize)?).await?;
            self.bdev.write(at, buffer).await?;
            at += length;
        }
        Ok(at)
    }

    fn take_idle(&self, length: usize) -> Option<DmaBuffer> {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let buffer = idle.pop()?;
        // All blocks of one restore have one size, so a buffer that does not fit is left over from nothing.
        (buffer.len() >= length).then_some(buffer)
    }
}

impl RestoreSink for MirrorSink {
    type Buffer = PooledBuffer;

    async fn buffer(&self, length: usize) -> Result<PooledBuffer> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Error::internal("restore", "its buffer pool is closed"))?;
        let buffer = match self.take_idle(length) {
            Some(buffer) => buffer,
            None => DmaBuffer::zeroed(length)?,
        };
        Ok(PooledBuffer { buffer: Some(buffer), length, idle: self.idle.clone(), _permit: permit })
    }

    async fn write(&self, offset: ByteOffset, mut pooled: PooledBuffer) -> Result<()> {
        let Some(buffer) = pooled.buffer.take() else {
            return Err(Error::internal("restore", "a block has no buffer"));
        };
        faults::pass(Point::RestoreStepBegins).await?;
        pooled.buffer = Some(self.bdev.write(offset.0, buffer).await?);
        faults::pass(Point::RestoreStepDone).await
    }

    async fn zero(&self, offset: ByteOffset, length: u64) -> Result<()> {
        faults::pass(Point::RestoreStepBegins).await?;
        let end = offset.0 + length;
        let mut at = match &self.below {
            Some(below) => self.show_below(below, offset.0, end).await?,
            None => offset.0,
        };
        while at < end {
            let step = ZERO_STEP.min(end - at);
            self.bdev.write_zeroes(at, step).await?;
            at += step;
        }
        faults::pass(Point::RestoreStepDone).await
    }

    async fn flush(&self) -> Result<()> {
        self.bdev.flush().await.map_err(Error::from)
    }
}
