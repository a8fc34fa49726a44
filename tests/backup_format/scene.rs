//! A small volume with one backup, to break things in.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use corriente::Error;
use corriente::backup::format::layout;
use corriente::backup::{
    BackupConfig, BackupJob, BackupLabels, BackupReport, BackupRequest, ByteOffset, Cancel, CompressionMethod, Extent,
    Progress, RestoreOnto, Target, VolumeConfig,
};
use corriente::name::{BackupName, SnapshotName, VolumeName};

use crate::fixtures::Copy;
use crate::image::prng;
use crate::memory::{MemorySink, MemorySource, Restored, create_settings, restore_onto};

pub const BLOCK: u64 = 2 << 20;
pub const BLOCKS: u64 = 12;
pub const SIZE: u64 = BLOCKS * BLOCK;

pub fn volume() -> VolumeName {
    VolumeName::parse("vol-1").unwrap()
}

pub fn backup(name: &str) -> BackupName {
    BackupName::parse(name).unwrap()
}

pub fn request(name: &str, snapshot: &str) -> BackupRequest {
    BackupRequest {
        volume: volume(),
        backup: backup(name),
        snapshot: SnapshotName::parse(snapshot).unwrap(),
        snapshot_created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        labels: BackupLabels::default(),
        method: CompressionMethod::Lz4,
        backing_image_name: String::new(),
        backing_image_checksum: String::new(),
        storage_class_name: String::new(),
    }
}

pub fn content(seed: u64) -> Vec<u8> {
    prng(seed, SIZE as usize, 64)
}

pub async fn create(target: &Target, source: MemorySource, request: BackupRequest) -> corriente::Result<BackupReport> {
    let job = BackupJob::prepare(target, Arc::new(source), request, create_settings()).await?;
    job.run(&Arc::new(Progress::default()), &Cancel::never()).await
}

/// A store with one backup of twelve different blocks.
pub struct Store {
    pub copy: Copy,
    pub bytes: Vec<u8>,
    pub config: BackupConfig,
}

impl Store {
    pub async fn new() -> Self {
        let copy = Copy::empty();
        let bytes = content(7);
        create(&copy.target(), MemorySource::new(bytes.clone(), None), request("backup-1", "snap-1")).await.unwrap();
        let config = read_config(&copy, "backup-1");
        assert_eq!(config.blocks.as_slice().len() as u64, BLOCKS);
        Self { copy, bytes, config }
    }

    pub fn block_file(&self, index: usize) -> PathBuf {
        let digest = &self.config.blocks.as_slice()[index].digest;
        self.copy.path().join(layout::block(&volume(), digest).as_str())
    }

    pub async fn restore(&self, sink: &Arc<MemorySink>, cancel: &Cancel) -> corriente::Result<Restored> {
        restore_onto(&self.copy.target(), &volume(), &backup("backup-1"), RestoreOnto::Unknown, sink, cancel).await
    }

    /// The error of a restore that must fail, never flush, and name what it is about.
    pub async fn restore_error(&self, sink: MemorySink, block: Option<usize>) -> Error {
        let sink = Arc::new(sink);
        let begun = Instant::now();
        let error = self.restore(&sink, &Cancel::never()).await.unwrap().outcome.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());
        assert_eq!(sink.flushes.load(Ordering::SeqCst), 0);
        if let Some(index) = block {
            let listed = &self.config.blocks.as_slice()[index];
            let text = error.to_string();
            for part in ["backup-1", "vol-1", &listed.digest.to_string(), &format!("offset {}", listed.offset)] {
                assert!(text.contains(part), "{part} is not in {text:?}");
            }
        }
        error
    }
}

pub fn read_config(copy: &Copy, name: &str) -> BackupConfig {
    let path = layout::backup_config(&volume(), &backup(name));
    BackupConfig::parse(&fs::read(copy.path().join(path.as_str())).unwrap()).unwrap()
}

pub fn read_volume(copy: &Copy) -> VolumeConfig {
    VolumeConfig::parse(&fs::read(copy.path().join(layout::volume_config(&volume()).as_str())).unwrap()).unwrap()
}

pub fn blank() -> MemorySink {
    MemorySink::filled(SIZE, 0xFF)
}

pub fn extents(blocks: &[u64]) -> Vec<Extent> {
    blocks.iter().map(|block| Extent { offset: ByteOffset(block * BLOCK), length: BLOCK }).collect()
}
