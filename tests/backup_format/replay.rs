//! Writing what Longhorn wrote: the manifest's history is backed up again by our own code and the two stores compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use corriente::backup::format::layout;
use corriente::backup::{
    BackupConfig, BackupJob, BackupLabels, BackupMode, BackupParameters, BackupRequest, BlockSize, ByteOffset, Cancel,
    ChangedMap, CompressionMethod, Extent, Progress, RestoreOnto, VolumeConfig,
};
use corriente::name::SnapshotName;

use crate::fixtures::{BackupEntry, Copy, Golden, VolumeEntry};
use crate::image::{Image, sha256};
use crate::memory::{MemorySink, MemorySource, create_settings, restore_onto};

/// What Longhorn's cfg of a backup says, or that of the next complete one where it was deleted.
fn golden_config(golden: &Golden, entry: &VolumeEntry, backup: &BackupEntry) -> Option<BackupConfig> {
    let path = layout::backup_config(&entry.volume(), &backup.backup());
    BackupConfig::parse(&fs::read(golden.store().join(path.as_str())).ok()?).ok()
}

fn golden_volume(golden: &Golden, entry: &VolumeEntry) -> VolumeConfig {
    VolumeConfig::parse(&fs::read(golden.store().join(&entry.dir).join("volume.cfg")).unwrap()).unwrap()
}

/// The request that led to `backup`; what the manifest leaves out is taken from the final `volume.cfg`.
fn request(entry: &VolumeEntry, backup: &BackupEntry, theirs: &VolumeConfig) -> BackupRequest {
    let mode = if backup.requested_mode == "full" { BackupMode::Full } else { BackupMode::Incremental };
    let block_size = BlockSize::stored(entry.block_size).unwrap();
    let method = backup.compression_in_cfg.as_deref().unwrap_or(&entry.compression_in_volume_cfg);
    BackupRequest {
        volume: entry.volume(),
        backup: backup.backup(),
        snapshot: SnapshotName::parse(&backup.snapshot).unwrap(),
        snapshot_created_at: backup.snapshot_created_at.parse().unwrap(),
        labels: BackupLabels {
            labels: theirs.labels.clone().unwrap_or_default(),
            parameters: BackupParameters { mode, block_size },
        },
        method: CompressionMethod::parse(method).unwrap(),
        backing_image_name: theirs.backing_image_name.clone(),
        backing_image_checksum: theirs.backing_image_checksum.clone(),
        storage_class_name: theirs.storage_class_name.clone(),
    }
}

/// The snapshot as the manifest describes it: relative to the backup that Longhorn took as base.
fn source(entry: &VolumeEntry, backup: &BackupEntry, image: &Image) -> MemorySource {
    let allocated = image.allocated_extents();
    let full = ChangedMap { changed: allocated.clone(), allocated: allocated.clone() };
    let mut source = MemorySource::new(image.bytes.clone(), Some(full));
    if let Some(base) = &backup.incremental_base {
        let base = entry.backups.iter().find(|other| other.name == *base).unwrap();
        let changed = backup.changed_blocks.iter();
        let changed = changed.map(|(offset, length)| Extent { offset: ByteOffset(*offset), length: *length }).collect();
        source.since.insert(SnapshotName::parse(&base.snapshot).unwrap(), ChangedMap { changed, allocated });
    }
    source
}

/// Backs up the whole history of a volume, except what Longhorn did not finish either.
async fn replay(golden: &Golden, entry: &VolumeEntry) -> Copy {
    let copy = Copy::empty();
    let labels = golden_volume(golden, entry);
    let mut image = Image::new(entry.initial_size);
    let mut method = None;
    for backup in &entry.backups {
        image.grow(backup.size_at_backup);
        backup.ops.iter().for_each(|op| image.apply(op));
        if backup.state == "in_progress" {
            continue;
        }
        let request = request(entry, backup, &labels);
        if method.replace(request.method).is_some_and(|before| before != request.method) {
            // The history of vol-mixed: the file was lost, and with it the method and the base.
            fs::remove_file(copy.path().join(layout::volume_config(&entry.volume()).as_str())).unwrap();
        }
        let source = Arc::new(source(entry, backup, &image));
        let job = BackupJob::prepare(&copy.target(), source, request, create_settings()).await.unwrap();
        assert_eq!(job.is_incremental(), backup.is_incremental, "{}", backup.name);
        let report = job.run(&Arc::new(Progress::default()), &Cancel::never()).await.unwrap();
        assert_eq!(report.is_incremental, backup.is_incremental);
        assert_eq!(report.re_uploaded_size > 0, backup.requested_mode == "full", "{}", backup.name);
    }
    copy
}

/// What may differ between two writers: when they ran, and how well they compress.
fn comparable(mut config: BackupConfig, pattern: &BackupConfig) -> BackupConfig {
    assert!(config.created_time.ends_with('Z') && config.created_time.len() == 20, "{}", config.created_time);
    config.created_time = pattern.created_time.clone();
    assert_eq!(config.newly_uploaded_size > 0, pattern.newly_uploaded_size > 0);
    assert_eq!(config.re_uploaded_size > 0, pattern.re_uploaded_size > 0);
    config.newly_uploaded_size = pattern.newly_uploaded_size;
    config.re_uploaded_size = pattern.re_uploaded_size;
    config
}

fn relative(root: &std::path::Path, files: Vec<PathBuf>) -> BTreeSet<PathBuf> {
    files.into_iter().map(|file| file.strip_prefix(root).unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_cfg_files_are_longhorns_and_our_backups_restore_from_a_cold_start() {
    let Some(golden) = Golden::find() else { return };
    for entry in &golden.manifest.volumes {
        let copy = replay(&golden, entry).await;
        let volume = entry.volume();
        for backup in entry.complete() {
            let path = layout::backup_config(&volume, &backup.backup());
            let ours = fs::read(copy.path().join(path.as_str())).unwrap();
            if entry.name != "vol-legacy" {
                let theirs = golden_config(&golden, entry, backup).unwrap();
                let ours = comparable(BackupConfig::parse(&ours).unwrap(), &theirs);
                assert_eq!(String::from_utf8(ours.to_bytes()), String::from_utf8(theirs.to_bytes()));
            }
            let sink = Arc::new(MemorySink::filled(entry.restore_size, 0xFF));
            let unknown = RestoreOnto::Unknown;
            let done = restore_onto(&copy.target(), &volume, &backup.backup(), unknown, &sink, &Cancel::never()).await;
            done.unwrap().outcome.unwrap();
            assert_eq!(sha256(&sink.bytes()), *backup.image_sha256.as_ref().unwrap(), "{}", backup.name);
        }
        compare_volume(&golden, entry, &copy);
        assert!(!copy.path().join(layout::locks(&volume).as_str()).exists(), "a lock is left");
    }
}

/// `volume.cfg` and the names of the block files.
fn compare_volume(golden: &Golden, entry: &VolumeEntry, copy: &Copy) {
    let theirs = golden_volume(golden, entry);
    let bytes = fs::read(copy.path().join(&entry.dir).join("volume.cfg")).unwrap();
    let mut ours = VolumeConfig::parse(&bytes).unwrap();
    ours.created_time = theirs.created_time.clone();
    if entry.name == "vol-legacy" {
        assert_eq!(ours.data_engine, "v2");
        ours.data_engine = theirs.data_engine.clone();
    }
    if entry.name == "vol-gc" {
        // Longhorn deleted the middle backup and with it a block.
        assert_eq!(ours.block_count, theirs.block_count + 1);
        return;
    }
    assert_eq!(String::from_utf8(ours.to_bytes()), String::from_utf8(theirs.to_bytes()));
    if entry.name != "vol-interrupted" {
        let store = golden.store();
        let expected = relative(&store, crate::fixtures::block_files(&store.join(&entry.dir)));
        assert_eq!(relative(copy.path(), copy.block_files(&entry.volume())), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_incremental_backup_on_top_of_longhorns_leaves_the_older_ones_whole() {
    let Some(golden) = Golden::find() else { return };
    for entry in &golden.manifest.volumes {
        let (copy, volume) = (golden.copy(entry), entry.volume());
        let last = entry.complete().last().unwrap();
        let sink = Arc::new(MemorySink::filled(entry.restore_size, 0xFF));
        let never = Cancel::never();
        let done = restore_onto(&copy.target(), &volume, &last.backup(), RestoreOnto::Unknown, &sink, &never).await;
        done.unwrap().outcome.unwrap();

        // One block is written, and of what the last backup has the last block is trimmed.
        let mut image = Image::new(entry.restore_size);
        image.bytes = sink.bytes();
        let listed = last.block_offsets.iter();
        let extents: Vec<_> =
            listed.map(|offset| Extent { offset: ByteOffset(*offset), length: entry.block_size }).collect();
        let trimmed = extents.last().copied();
        let mut allocated = extents;
        if let Some(extent) = allocated.pop() {
            image.unmap(extent.offset.0, extent.length);
        }
        image.write(0, b"written on top");
        let first = Extent { offset: ByteOffset(0), length: 512 };
        allocated.push(first);
        let mut source = MemorySource::new(image.bytes.clone(), None);
        let map = ChangedMap { changed: vec![first], allocated };
        source.since.insert(SnapshotName::parse(&last.snapshot).unwrap(), map);

        let labels = golden_volume(&golden, entry);
        let mut request = request(entry, last, &labels);
        request.backup = corriente::name::BackupName::parse("backup-ffffffffffffffff").unwrap();
        request.snapshot = SnapshotName::parse("one-more").unwrap();
        request.labels.parameters.mode = BackupMode::Incremental;
        let job =
            BackupJob::prepare(&copy.target(), Arc::new(source), request.clone(), create_settings()).await.unwrap();
        assert!(job.is_incremental());
        let report = job.run(&Arc::new(Progress::default()), &Cancel::never()).await.unwrap();
        assert_eq!(report.url.with_backup(last.backup()).require_backup().unwrap(), &last.backup());

        let path = layout::backup_config(&volume, &request.backup);
        let config = BackupConfig::parse(&fs::read(copy.path().join(path.as_str())).unwrap()).unwrap();
        let kept_trimmed = trimmed.filter(|extent| extent.offset.0 > 0);
        let offsets: Vec<_> = config.blocks.as_slice().iter().map(|block| block.offset).collect();
        assert!(kept_trimmed.is_none_or(|extent| !offsets.contains(&extent.offset)), "a trimmed block is listed");

        let expectations = entry.complete().map(|backup| (backup.backup(), backup.image_sha256.clone().unwrap()));
        for (backup, expected) in expectations.chain([(request.backup.clone(), sha256(&image.bytes))]) {
            let sink = Arc::new(MemorySink::filled(entry.restore_size, 0xFF));
            let done = restore_onto(&copy.target(), &volume, &backup, RestoreOnto::Unknown, &sink, &never).await;
            done.unwrap().outcome.unwrap();
            assert_eq!(sha256(&sink.bytes()), expected, "{backup} of {volume}");
        }
    }
}
