//! A device and a snapshot in memory, with faults to inject.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corriente::backup::store::VolumeStore;
use corriente::backup::store::load_plan;
use corriente::backup::{
    BackupSource, ByteOffset, Cancel, ChangedMap, CreateSettings, LockKind, LockSettings, Progress, RestoreOnto,
    RestorePlan, RestoreReport, RestoreSettings, RestoreSink, RetrySettings, Target, VolumeLock, restore,
};
use corriente::name::{BackupName, SnapshotName, VolumeName};
use corriente::{Error, Result};

/// A device of bytes.
pub struct MemorySink {
    bytes: Mutex<Vec<u8>>,
    pub written: AtomicU64,
    pub zeroed: AtomicU64,
    pub writes: AtomicUsize,
    pub flushes: AtomicUsize,
    pub in_flight: AtomicUsize,
    /// Fail the write at this offset.
    pub fail_write_at: Option<u64>,
    pub fail_flush: bool,
    /// How long a write takes.
    pub write_time: Duration,
    /// Called before each write, with the count of those before it.
    pub before_write: Option<Box<dyn Fn(usize) + Send + Sync>>,
    pub changed_after_flush: AtomicBool,
}

impl MemorySink {
    pub fn filled(size: u64, byte: u8) -> Self {
        Self::holding(vec![byte; size as usize])
    }

    pub fn holding(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Mutex::new(bytes),
            written: AtomicU64::new(0),
            zeroed: AtomicU64::new(0),
            writes: AtomicUsize::new(0),
            flushes: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            fail_write_at: None,
            fail_flush: false,
            write_time: Duration::ZERO,
            before_write: None,
            changed_after_flush: AtomicBool::new(false),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn touch(&self) {
        if self.flushes.load(Ordering::SeqCst) > 0 {
            self.changed_after_flush.store(true, Ordering::SeqCst);
        }
    }
}

/// Longer than asked for, as DMA buffers of a pool may be; the rest must be left alone.
pub struct PoolBuffer {
    bytes: Vec<u8>,
    length: usize,
}

const SLACK: usize = 512;

impl AsMut<[u8]> for PoolBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl RestoreSink for MemorySink {
    type Buffer = PoolBuffer;

    async fn buffer(&self, length: usize) -> Result<PoolBuffer> {
        Ok(PoolBuffer { bytes: vec![0xEE; length + SLACK], length })
    }

    async fn write(&self, offset: ByteOffset, buffer: PoolBuffer) -> Result<()> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let before = self.writes.fetch_add(1, Ordering::SeqCst);
        if let Some(hook) = &self.before_write {
            hook(before);
        }
        tokio::time::sleep(self.write_time).await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.fail_write_at == Some(offset.0) {
            return Err(Error::medium("memory device", format!("write at {offset} failed")));
        }
        assert!(buffer.bytes[buffer.length..].iter().all(|byte| *byte == 0xEE), "slack was written");
        let start = offset.0 as usize;
        self.bytes.lock().unwrap()[start..start + buffer.length].copy_from_slice(&buffer.bytes[..buffer.length]);
        self.written.fetch_add(buffer.length as u64, Ordering::SeqCst);
        self.touch();
        Ok(())
    }

    async fn zero(&self, offset: ByteOffset, length: u64) -> Result<()> {
        self.bytes.lock().unwrap()[offset.0 as usize..(offset.0 + length) as usize].fill(0);
        self.zeroed.fetch_add(length, Ordering::SeqCst);
        self.touch();
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        if self.fail_flush {
            return Err(Error::medium("memory device", "flush failed"));
        }
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A snapshot: its bytes, and what it says about each base.
pub struct MemorySource {
    pub bytes: Arc<Vec<u8>>,
    pub full: Option<ChangedMap>,
    pub since: BTreeMap<SnapshotName, ChangedMap>,
    pub reads: AtomicUsize,
    pub fail_read_at: Option<u64>,
}

impl MemorySource {
    pub fn new(bytes: Vec<u8>, full: Option<ChangedMap>) -> Self {
        Self { bytes: Arc::new(bytes), full, since: BTreeMap::new(), reads: AtomicUsize::new(0), fail_read_at: None }
    }
}

impl BackupSource for MemorySource {
    type Buffer = Vec<u8>;

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn changed(&self, base: Option<&SnapshotName>) -> Result<Option<ChangedMap>> {
        Ok(match base {
            None => self.full.clone(),
            Some(base) => self.since.get(base).cloned(),
        })
    }

    async fn read(&self, offset: ByteOffset, length: usize) -> Result<Vec<u8>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.fail_read_at == Some(offset.0) {
            return Err(Error::medium("memory snapshot", format!("read at {offset} failed")));
        }
        let start = offset.0 as usize;
        Ok(self.bytes[start..start + length].to_vec())
    }
}

/// Waits short enough for tests.
pub fn lock_settings() -> LockSettings {
    LockSettings { settle: Duration::from_millis(2), refresh: Duration::from_secs(60) }
}

pub fn restore_settings() -> RestoreSettings {
    let waits = || vec![Duration::from_millis(2); 2];
    RestoreSettings {
        blocks_in_flight: 4,
        fetches: 2,
        workers: 2,
        retry: RetrySettings { failed_waits: waits(), missing_waits: waits() },
    }
}

pub fn create_settings() -> CreateSettings {
    CreateSettings { blocks_in_flight: 4, workers: 2, lock: lock_settings(), write_waits: Vec::new() }
}

pub async fn lock(target: &Target, volume: &VolumeName) -> Result<VolumeLock> {
    let store = VolumeStore::new(target.clone(), volume.clone());
    VolumeLock::acquire(store, LockKind::CreateRestore, &lock_settings()).await
}

/// One restore from lock to release, with its plan and progress.
pub struct Restored {
    pub plan: RestorePlan,
    pub progress: Arc<Progress>,
    pub outcome: Result<RestoreReport>,
}

/// Restores with a cancel that may come; fails only if there is no plan.
pub async fn restore_onto(
    target: &Target,
    volume: &VolumeName,
    backup: &BackupName,
    onto: RestoreOnto,
    sink: &Arc<MemorySink>,
    cancel: &Cancel,
) -> Result<Restored> {
    let lock = lock(target, volume).await?;
    let plan = match load_plan(&lock, backup, &onto).await {
        Ok(plan) => plan,
        Err(error) => {
            lock.release().await;
            return Err(error);
        }
    };
    let progress = Arc::new(Progress::default());
    let outcome = restore(&lock, &plan, sink.clone(), &restore_settings(), &progress, cancel).await;
    assert_eq!(sink.in_flight.load(Ordering::SeqCst), 0, "a write is left behind");
    assert!(progress.percent() < 100);
    lock.release().await;
    Ok(Restored { plan, progress, outcome })
}
