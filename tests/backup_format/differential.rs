//! Random histories of writes, trims, snapshots, reverts, backups and restores against a model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corriente::backup::{
    BackupJob, BackupLabels, BackupMode, BackupParameters, BackupRequest, BlockSize, Cancel, ChangedMap,
    CompressionMethod, Progress, RestoreOnto,
};
use corriente::name::{BackupName, SnapshotName, VolumeName};

use crate::fixtures::Copy;
use crate::image::{CLUSTER, Image, XorShift, extents, prng};
use crate::memory::{MemorySink, MemorySource, create_settings, restore_onto};

const SIZE: u64 = 20 << 20;
const STEPS: usize = 60;

/// A snapshot: its image, its ancestors, and what its own layer changed.
#[derive(Clone)]
struct Snapshot {
    image: Image,
    parent: Option<usize>,
    layer: BTreeSet<u64>,
}

/// A volume with its tree of snapshots, and a device that follows it through backups.
struct Model {
    random: XorShift,
    head: Image,
    layer: BTreeSet<u64>,
    parent: Option<usize>,
    snapshots: Vec<Snapshot>,
    backups: BTreeMap<BackupName, Vec<u8>>,
    follower: Vec<u8>,
    restored: Option<BackupName>,
    store: Copy,
    method: CompressionMethod,
    incrementals: usize,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = XorShift(seed);
        let methods = [CompressionMethod::None, CompressionMethod::Gzip, CompressionMethod::Lz4];
        let method = methods[random.below(3) as usize];
        Self {
            head: Image::new(SIZE),
            layer: BTreeSet::new(),
            parent: None,
            snapshots: Vec::new(),
            backups: BTreeMap::new(),
            follower: vec![0xAB; SIZE as usize],
            restored: None,
            store: Copy::empty(),
            method,
            incrementals: 0,
            random,
        }
    }

    fn range(&mut self) -> (u64, u64) {
        let offset = self.random.below(SIZE / 512) * 512;
        let length = (1 + self.random.below(3 * CLUSTER / 512)) * 512;
        (offset, length.min(SIZE - offset))
    }

    fn write(&mut self) {
        let (offset, length) = self.range();
        let seed = self.random.next() | 1;
        let entropy = 1 + self.random.below(256) as usize;
        self.head.write(offset, &prng(seed, length as usize, entropy));
        self.layer.extend(offset / CLUSTER..(offset + length).div_ceil(CLUSTER));
    }

    fn trim(&mut self) {
        let (offset, length) = self.range();
        self.head.unmap(offset, length);
        self.layer.extend(offset / CLUSTER..(offset + length).div_ceil(CLUSTER));
    }

    fn snapshot(&mut self) -> usize {
        let layer = std::mem::take(&mut self.layer);
        self.snapshots.push(Snapshot { image: self.head.clone(), parent: self.parent, layer });
        self.parent = Some(self.snapshots.len() - 1);
        self.snapshots.len() - 1
    }

    fn revert(&mut self) {
        let Some(index) = self.some_snapshot() else {
            return;
        };
        self.head = self.snapshots[index].image.clone();
        self.layer.clear();
        self.parent = Some(index);
    }

    fn some_snapshot(&mut self) -> Option<usize> {
        let count = self.snapshots.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    /// What the snapshot's chain says about each of its strict ancestors.
    fn source(&self, index: usize) -> MemorySource {
        let image = &self.snapshots[index].image;
        let allocated = image.allocated_extents();
        let full = ChangedMap { changed: allocated.clone(), allocated: allocated.clone() };
        let mut source = MemorySource::new(image.bytes.clone(), Some(full));
        let mut changed = BTreeSet::new();
        let mut layer = Some(index);
        while let Some(at) = layer {
            changed.extend(&self.snapshots[at].layer);
            layer = self.snapshots[at].parent;
            if let Some(base) = layer {
                let map = ChangedMap { changed: extents(changed.iter().copied()), allocated: allocated.clone() };
                source.since.insert(snapshot_name(base), map);
            }
        }
        source
    }

    async fn backup(&mut self) {
        // Mostly the newest, so that incremental backups happen; sometimes any, also an older one.
        let index = if self.random.below(4) > 0 { Some(self.snapshot()) } else { self.some_snapshot() };
        let Some(index) = index else { return };
        let mode = if self.random.below(5) == 0 { BackupMode::Full } else { BackupMode::Incremental };
        let name = BackupName::parse(&format!("backup-{:04}", self.backups.len())).unwrap();
        let request = BackupRequest {
            volume: volume(),
            backup: name.clone(),
            snapshot: snapshot_name(index),
            snapshot_created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            labels: BackupLabels {
                parameters: BackupParameters { mode, block_size: BlockSize::DEFAULT },
                ..BackupLabels::default()
            },
            method: self.method,
            backing_image_name: String::new(),
            backing_image_checksum: String::new(),
            storage_class_name: String::new(),
        };
        let source = Arc::new(self.source(index));
        let job = BackupJob::prepare(&self.store.target(), source.clone(), request, create_settings()).await.unwrap();
        let report = job.run(&Arc::new(Progress::default()), &Cancel::never()).await.unwrap();
        self.incrementals += usize::from(report.is_incremental);
        let allocated: BTreeSet<u64> =
            self.snapshots[index].image.allocated.iter().map(|cluster| cluster * CLUSTER / (2 << 20)).collect();
        assert_eq!(report.blocks, allocated.len() as u64, "the list is not what is allocated");
        self.backups.insert(name, self.snapshots[index].image.bytes.clone());
    }

    async fn restore(&mut self) {
        let names: Vec<_> = self.backups.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = names[self.random.below(names.len() as u64) as usize].clone();
        let onto = match (&self.restored, self.random.below(4)) {
            (Some(last), 1..) => RestoreOnto::Backup(last.clone()),
            _ => RestoreOnto::Unknown,
        };
        let sink = Arc::new(MemorySink::holding(self.follower.clone()));
        restore_onto(&self.store.target(), &volume(), &name, onto.clone(), &sink, &Cancel::never())
            .await
            .unwrap()
            .outcome
            .unwrap();
        self.follower = sink.bytes();
        assert!(self.follower == self.backups[&name], "{name} restored onto {onto:?} is another image");
        self.restored = Some(name);
    }

    async fn step(&mut self) {
        match self.random.below(10) {
            0..4 => self.write(),
            4 => self.trim(),
            5 => {
                self.snapshot();
            }
            6 if self.random.below(3) == 0 => self.revert(),
            6 | 7 => self.backup().await,
            _ => self.restore().await,
        }
    }

    async fn check_every_backup_from_a_cold_start(&self) {
        for (name, expected) in &self.backups {
            let sink = Arc::new(MemorySink::filled(SIZE, 0xFF));
            let unknown = RestoreOnto::Unknown;
            let done = restore_onto(&self.store.target(), &volume(), name, unknown, &sink, &Cancel::never()).await;
            done.unwrap().outcome.unwrap();
            assert!(sink.bytes() == *expected, "{name} is another image at the end");
        }
    }
}

fn volume() -> VolumeName {
    VolumeName::parse("vol-random").unwrap()
}

fn snapshot_name(index: usize) -> SnapshotName {
    SnapshotName::parse(&format!("snap-{index}")).unwrap()
}

/// Says which history failed when the test panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with CORRIENTE_SEED={}", self.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_history_restores_to_the_model() {
    let seeds = match std::env::var("CORRIENTE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=6).map(|seed| seed * 0x9E37_79B9).collect(),
    };
    let mut incrementals = 0;
    for seed in seeds {
        let named = Seed(seed);
        let mut model = Model::new(seed);
        for _ in 0..STEPS {
            model.step().await;
        }
        model.check_every_backup_from_a_cold_start().await;
        incrementals += model.incrementals;
        drop(named);
    }
    assert!(incrementals > 0, "no history had an incremental backup");
}
