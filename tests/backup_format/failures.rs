//! What goes wrong, and that it is said: which volume, backup and block, and nothing is called done that is not.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use corriente::Error;
use corriente::backup::format::layout;
use corriente::backup::store::load_plan;
use corriente::backup::{
    BackupConfig, BackupJob, BackupLabels, BackupMode, BackupReport, BackupRequest, BackupUrl,
    BlockSize, ByteOffset, Cancel, ChangedMap, CompressionMethod, Extent, Progress, RestoreOnto,
    RestoreSettings, Target, TargetUrl, VolumeConfig, restore,
};
use corriente::name::{BackupName, SnapshotName, VolumeName};

use crate::fixtures::{Copy, walk};
use crate::image::prng;
use crate::memory::{
    MemorySink, MemorySource, Restored, create_settings, lock, restore_onto, restore_settings,
};

const BLOCK: u64 = 2 << 20;
const BLOCKS: u64 = 12;
const SIZE: u64 = BLOCKS * BLOCK;

fn volume() -> VolumeName {
    VolumeName::parse("vol-1").unwrap()
}

fn backup(name: &str) -> BackupName {
    BackupName::parse(name).unwrap()
}

fn request(name: &str, snapshot: &str) -> BackupRequest {
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

fn content(seed: u64) -> Vec<u8> {
    prng(seed, SIZE as usize, 64)
}

async fn create(
    target: &Target,
    source: MemorySource,
    request: BackupRequest,
) -> corriente::Result<BackupReport> {
    let job = BackupJob::prepare(target, Arc::new(source), request, create_settings()).await?;
    job.run(&Arc::new(Progress::default()), &Cancel::never())
        .await
}

/// A store with one backup of twelve different blocks.
struct Store {
    copy: Copy,
    bytes: Vec<u8>,
    config: BackupConfig,
}

impl Store {
    async fn new() -> Self {
        let copy = Copy::empty();
        let bytes = content(7);
        create(
            &copy.target(),
            MemorySource::new(bytes.clone(), None),
            request("backup-1", "snap-1"),
        )
        .await
        .unwrap();
        let config = read_config(&copy, "backup-1");
        assert_eq!(config.blocks.as_slice().len() as u64, BLOCKS);
        Self {
            copy,
            bytes,
            config,
        }
    }

    fn block_file(&self, index: usize) -> PathBuf {
        let digest = &self.config.blocks.as_slice()[index].digest;
        self.copy
            .path()
            .join(layout::block(&volume(), digest).as_str())
    }

    async fn restore(
        &self,
        sink: &Arc<MemorySink>,
        cancel: &Cancel,
    ) -> corriente::Result<Restored> {
        restore_onto(
            &self.copy.target(),
            &volume(),
            &backup("backup-1"),
            RestoreOnto::Unknown,
            sink,
            cancel,
        )
        .await
    }

    /// The error of a restore that must fail, never flush, and name what it is about.
    async fn restore_error(&self, sink: MemorySink, block: Option<usize>) -> Error {
        let sink = Arc::new(sink);
        let begun = Instant::now();
        let error = self
            .restore(&sink, &Cancel::never())
            .await
            .unwrap()
            .outcome
            .unwrap_err();
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "took {:?}",
            begun.elapsed()
        );
        assert_eq!(sink.flushes.load(Ordering::SeqCst), 0);
        if let Some(index) = block {
            let listed = &self.config.blocks.as_slice()[index];
            let text = error.to_string();
            for part in [
                "backup-1",
                "vol-1",
                &listed.digest.to_string(),
                &format!("offset {}", listed.offset),
            ] {
                assert!(text.contains(part), "{part} is not in {text:?}");
            }
        }
        error
    }
}

fn read_config(copy: &Copy, name: &str) -> BackupConfig {
    let path = layout::backup_config(&volume(), &backup(name));
    BackupConfig::parse(&fs::read(copy.path().join(path.as_str())).unwrap()).unwrap()
}

fn read_volume(copy: &Copy) -> VolumeConfig {
    VolumeConfig::parse(
        &fs::read(copy.path().join(layout::volume_config(&volume()).as_str())).unwrap(),
    )
    .unwrap()
}

fn blank() -> MemorySink {
    MemorySink::filled(SIZE, 0xFF)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_block_is_corruption_that_names_it() {
    let store = Store::new().await;
    fs::remove_file(store.block_file(5)).unwrap();
    let error = store.restore_error(blank(), Some(5)).await;
    assert!(matches!(error, Error::Corruption { .. }), "{error:?}");
    assert!(error.to_string().contains("cannot find"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_block_is_corruption_that_names_it() {
    for damage in ["swapped", "cut", "flipped", "empty", "huge"] {
        let store = Store::new().await;
        let file = store.block_file(5);
        let good = fs::read(&file).unwrap();
        match damage {
            // A whole, valid file with the wrong content.
            "swapped" => fs::write(&file, fs::read(store.block_file(6)).unwrap()).unwrap(),
            "cut" => fs::write(&file, &good[..good.len() / 2]).unwrap(),
            "flipped" => {
                let mut bad = good;
                let middle = bad.len() / 2;
                bad[middle] ^= 0x10;
                fs::write(&file, bad).unwrap();
            }
            "empty" => fs::write(&file, b"").unwrap(),
            _ => fs::File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_len(10 << 30)
                .unwrap(),
        }
        let error = store.restore_error(blank(), Some(5)).await;
        assert!(
            matches!(error, Error::Corruption { .. }),
            "{damage}: {error:?}"
        );
        if damage == "swapped" {
            assert!(
                error.to_string().contains("checksum verification failed"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_cut_oversized_or_missing_cfg_stops_the_restore_before_it_writes() {
    for (path, is_volume) in [
        (layout::volume_config(&volume()), true),
        (layout::backup_config(&volume(), &backup("backup-1")), false),
    ] {
        for damage in ["cut", "huge", "missing", "empty"] {
            let store = Store::new().await;
            let file = store.copy.path().join(path.as_str());
            let good = fs::read(&file).unwrap();
            match damage {
                "cut" => fs::write(&file, &good[..good.len() - 1]).unwrap(),
                "huge" => fs::File::options()
                    .write(true)
                    .open(&file)
                    .unwrap()
                    .set_len(10 << 30)
                    .unwrap(),
                "empty" => fs::write(&file, b"").unwrap(),
                _ => fs::remove_file(&file).unwrap(),
            }
            let sink = Arc::new(blank());
            let error = store.restore(&sink, &Cancel::never()).await.err().unwrap();
            if damage == "missing" {
                assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
                assert!(
                    error
                        .to_string()
                        .contains(&format!("cannot find {path} in backupstore")),
                    "{error}"
                );
            } else {
                assert!(
                    matches!(error, Error::Corruption { .. }),
                    "{damage} {is_volume}: {error:?}"
                );
            }
            assert!(sink.bytes().iter().all(|byte| *byte == 0xFF));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_goes_away_midway_is_blamed_as_target() {
    let store = Store::new().await;
    let directory = store.copy.path().join("backupstore");
    let away = store.copy.path().join("away");
    let mut sink = blank();
    sink.before_write = Some(Box::new(move |before| {
        if before == 2 {
            fs::rename(&directory, &away).unwrap();
        }
    }));
    let error = store.restore_error(sink, None).await;
    assert!(matches!(error, Error::Peer { .. }), "{error:?}");
    assert!(error.to_string().contains("vfs:///"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_cannot_be_read_is_blamed_on_the_target() {
    let store = Store::new().await;
    let file = store.block_file(3);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let error = store.restore_error(blank(), Some(3)).await;
    assert!(matches!(error, Error::Peer { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_comes_back_in_time_is_no_error() {
    let store = Store::new().await;
    let (file, aside) = (store.block_file(5), store.copy.path().join("aside"));
    fs::rename(&file, &aside).unwrap();
    let mut sink = blank();
    let writes = AtomicUsize::new(0);
    sink.before_write = Some(Box::new(move |_| {
        if writes.fetch_add(1, Ordering::SeqCst) == 4 {
            fs::rename(&aside, &file).unwrap();
        }
    }));
    let mut settings = restore_settings();
    settings.retry.missing_waits = vec![Duration::from_millis(20); 500];
    let sink = Arc::new(sink);
    restore_with(&store, &sink, &settings).await.unwrap();
    assert!(sink.bytes() == store.bytes);
}

async fn restore_with(
    store: &Store,
    sink: &Arc<MemorySink>,
    settings: &RestoreSettings,
) -> corriente::Result<corriente::backup::RestoreReport> {
    let lock = lock(&store.copy.target(), &volume()).await?;
    let plan = load_plan(&lock, &backup("backup-1"), &RestoreOnto::Unknown).await?;
    restore(
        &lock,
        &plan,
        sink.clone(),
        settings,
        &Arc::new(Progress::default()),
        &Cancel::never(),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_zero_mean_one() {
    let store = Store::new().await;
    let settings = RestoreSettings {
        blocks_in_flight: 0,
        fetches: 0,
        workers: 0,
        ..restore_settings()
    };
    let sink = Arc::new(blank());
    restore_with(&store, &sink, &settings).await.unwrap();
    assert!(sink.bytes() == store.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_stops_soon_and_says_so_in_longhorns_words() {
    let store = Store::new().await;
    let (handle, cancel) = Cancel::pair();
    let mut sink = blank();
    sink.write_time = Duration::from_millis(5);
    sink.before_write = Some(Box::new(move |before| {
        if before == 1 {
            handle.cancel();
        }
    }));
    let sink = Arc::new(sink);
    let done = store.restore(&sink, &cancel).await.unwrap();
    let error = done.outcome.unwrap_err();
    assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("backup restoration is cancelled"),
        "{error}"
    );
    assert!(
        error.to_string().contains("backup-1") && error.to_string().contains("vol-1"),
        "{error}"
    );
    assert_eq!(sink.flushes.load(Ordering::SeqCst), 0);
    let writes = sink.writes.load(Ordering::SeqCst);
    assert!(
        writes <= 2 + restore_settings().blocks_in_flight,
        "{writes} writes"
    );
    assert!(done.progress.percent() < 99);

    let sink = Arc::new(blank());
    let error = store
        .restore(&sink, &cancel)
        .await
        .unwrap()
        .outcome
        .unwrap_err();
    assert!(matches!(error, Error::Canceled { .. }));
    assert_eq!(sink.writes.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_or_flush_fails_the_restore() {
    let store = Store::new().await;
    let mut sink = blank();
    sink.fail_write_at = Some(4 * BLOCK);
    assert!(matches!(
        store.restore_error(sink, None).await,
        Error::Medium { .. }
    ));
    let mut sink = blank();
    sink.fail_flush = true;
    assert!(matches!(
        store.restore_error(sink, None).await,
        Error::Medium { .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_restore_resumes_from_its_watermark() {
    let store = Store::new().await;
    let mut sink = blank();
    sink.fail_write_at = Some(7 * BLOCK);
    sink.write_time = Duration::from_millis(3);
    let sink = Arc::new(sink);
    let first = store.restore(&sink, &Cancel::never()).await.unwrap();
    first.outcome.unwrap_err();
    let mark = first.progress.written_below();
    assert!(
        mark > ByteOffset(0) && mark <= ByteOffset(7 * BLOCK),
        "{mark}"
    );
    let held = sink.bytes();
    assert!(held[..mark.0 as usize] == store.bytes[..mark.0 as usize]);

    let plan = first.plan.resume_from(mark);
    assert_eq!(plan.blocks_to_write(), BLOCKS - mark.0 / BLOCK);
    let sink = Arc::new(MemorySink::holding(held));
    let lock = lock(&store.copy.target(), &volume()).await.unwrap();
    let progress = Arc::new(Progress::default());
    restore(
        &lock,
        &plan,
        sink.clone(),
        &restore_settings(),
        &progress,
        &Cancel::never(),
    )
    .await
    .unwrap();
    assert!(sink.bytes() == store.bytes);
    assert_eq!(progress.written_below(), ByteOffset(SIZE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_fails_or_is_cancelled_stays_in_progress_and_can_be_made_again() {
    for cancelled in [false, true] {
        let store = Store::new().await;
        let target = store.copy.target();
        let mut source = MemorySource::new(content(8), None);
        source.fail_read_at = (!cancelled).then_some(6 * BLOCK);
        let (handle, cancel) = Cancel::pair();
        let job = BackupJob::prepare(
            &target,
            Arc::new(source),
            request("backup-2", "snap-2"),
            create_settings(),
        )
        .await
        .unwrap();
        if cancelled {
            handle.cancel();
        }
        let error = job
            .run(&Arc::new(Progress::default()), &cancel)
            .await
            .unwrap_err();
        assert_eq!(
            matches!(error, Error::Canceled { .. }),
            cancelled,
            "{error:?}"
        );
        assert!(read_config(&store.copy, "backup-2").is_in_progress());
        assert_eq!(read_volume(&store.copy).last_backup_name, "backup-1");
        assert!(
            !store
                .copy
                .path()
                .join(layout::locks(&volume()).as_str())
                .exists(),
            "a lock is left"
        );
        let refused =
            corriente::backup::inspect::inspect_backup(&target, &volume(), &backup("backup-2"))
                .await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("backup backup-2 is still in progress")
        );

        let bytes = content(8);
        create(
            &target,
            MemorySource::new(bytes.clone(), None),
            request("backup-2", "snap-2"),
        )
        .await
        .unwrap();
        let sink = Arc::new(blank());
        restore_onto(
            &target,
            &volume(),
            &backup("backup-2"),
            RestoreOnto::Unknown,
            &sink,
            &Cancel::never(),
        )
        .await
        .unwrap()
        .outcome
        .unwrap();
        assert!(sink.bytes() == bytes);
    }
}

#[tokio::test]
async fn a_finished_backup_is_not_overwritten() {
    let store = Store::new().await;
    let error = create(
        &store.copy.target(),
        MemorySource::new(content(9), None),
        request("backup-1", "snap-2"),
    )
    .await;
    assert!(matches!(error.unwrap_err(), Error::AlreadyExists { .. }));
    assert_eq!(read_config(&store.copy, "backup-1"), store.config);
}

#[tokio::test]
async fn a_volume_that_is_no_whole_number_of_blocks_is_refused_up_front() {
    for (size, block_size) in [
        (BLOCK + 4096, BlockSize::DEFAULT),
        (3 * BLOCK, BlockSize::LARGE),
        (0, BlockSize::DEFAULT),
    ] {
        let copy = Copy::empty();
        let mut request = request("backup-1", "snap-1");
        request.labels.parameters.block_size = block_size;
        let error = create(
            &copy.target(),
            MemorySource::new(vec![0; size as usize], None),
            request,
        )
        .await
        .unwrap_err();
        assert!(
            matches!(error, Error::InvalidArgument { field: "size", .. }),
            "{error:?}"
        );
        assert_eq!(
            fs::read_dir(copy.path()).unwrap().count(),
            0,
            "the store was touched"
        );
    }
}

fn extents(blocks: &[u64]) -> Vec<Extent> {
    blocks
        .iter()
        .map(|block| Extent {
            offset: ByteOffset(block * BLOCK),
            length: BLOCK,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_snapshot_after_a_newer_one_is_backed_up_in_full() {
    let store = Store::new().await;
    // The older snapshot has only block 0; the last backup, of a newer one, is no ancestor of it.
    let mut older = vec![0; SIZE as usize];
    older[..100].fill(3);
    let map = ChangedMap {
        changed: extents(&[0]),
        allocated: extents(&[0]),
    };
    let source = MemorySource::new(older.clone(), Some(map));
    let report = create(&store.copy.target(), source, request("backup-2", "snap-0"))
        .await
        .unwrap();
    assert!(!report.is_incremental);
    assert_eq!(
        read_config(&store.copy, "backup-2").blocks.as_slice().len(),
        1
    );
    let sink = Arc::new(blank());
    let target = store.copy.target();
    restore_onto(
        &target,
        &volume(),
        &backup("backup-2"),
        RestoreOnto::Unknown,
        &sink,
        &Cancel::never(),
    )
    .await
    .unwrap()
    .outcome
    .unwrap();
    assert!(sink.bytes() == older);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_with_another_block_size_is_not_merged() {
    let copy = Copy::empty();
    let bytes = prng(3, 32 << 20, 8);
    create(
        &copy.target(),
        MemorySource::new(bytes.clone(), None),
        request("backup-1", "snap-1"),
    )
    .await
    .unwrap();
    let mut source = MemorySource::new(bytes.clone(), None);
    let nothing = ChangedMap {
        changed: Vec::new(),
        allocated: Vec::new(),
    };
    source
        .since
        .insert(SnapshotName::parse("snap-1").unwrap(), nothing);
    let mut large = request("backup-2", "snap-2");
    large.labels.parameters.block_size = BlockSize::LARGE;
    let report = create(&copy.target(), source, large).await.unwrap();
    assert!(!report.is_incremental);
    let sink = Arc::new(MemorySink::filled(32 << 20, 0xFF));
    let onto = RestoreOnto::Backup(backup("backup-1"));
    let done = restore_onto(
        &copy.target(),
        &volume(),
        &backup("backup-2"),
        onto,
        &sink,
        &Cancel::never(),
    )
    .await;
    done.unwrap().outcome.unwrap();
    assert!(sink.bytes() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_blocks_are_stored_once_and_a_full_backup_repairs_damaged_files() {
    let copy = Copy::empty();
    let target = copy.target();
    let bytes = prng(5, BLOCK as usize, 64).repeat(BLOCKS as usize);
    let report = create(
        &target,
        MemorySource::new(bytes.clone(), None),
        request("backup-1", "snap-1"),
    )
    .await
    .unwrap();
    assert_eq!((report.blocks, report.new_block_files), (BLOCKS, 1));
    let files = copy.block_files(&volume());
    assert_eq!(
        report.newly_uploaded_size,
        fs::metadata(&files[0]).unwrap().len()
    );

    fs::write(&files[0], b"damaged").unwrap();
    let mut full = request("backup-2", "snap-2");
    full.labels.parameters.mode = BackupMode::Full;
    // The method of the volume stays that of its first backup.
    full.method = CompressionMethod::Gzip;
    let report = create(&target, MemorySource::new(bytes.clone(), None), full)
        .await
        .unwrap();
    assert_eq!(report.new_block_files, 0);
    assert_eq!(
        report.re_uploaded_size,
        fs::metadata(&files[0]).unwrap().len()
    );
    assert_eq!(
        read_config(&copy, "backup-2").compression_method,
        CompressionMethod::Lz4
    );
    assert_eq!(read_volume(&copy).block_count, 1);
    let sink = Arc::new(blank());
    restore_onto(
        &target,
        &volume(),
        &backup("backup-1"),
        RestoreOnto::Unknown,
        &sink,
        &Cancel::never(),
    )
    .await
    .unwrap()
    .outcome
    .unwrap();
    assert!(sink.bytes() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_of_a_crashed_writer_is_not_taken_for_a_block() {
    let store = Store::new().await;
    fs::write(store.block_file(2), b"").unwrap();
    let source = MemorySource::new(store.bytes.clone(), None);
    create(&store.copy.target(), source, request("backup-2", "snap-2"))
        .await
        .unwrap();
    let sink = Arc::new(blank());
    store
        .restore(&sink, &Cancel::never())
        .await
        .unwrap()
        .outcome
        .unwrap();
    assert!(sink.bytes() == store.bytes);
}

#[tokio::test]
async fn somebody_who_deletes_keeps_backups_and_restores_out() {
    let store = Store::new().await;
    let locks = store.copy.path().join(layout::locks(&volume()).as_str());
    fs::create_dir_all(&locks).unwrap();
    let file = locks.join("lock-0000000000000000.lck");
    fs::write(
        &file,
        r#"{"Name":"lock-0000000000000000","Type":2,"Acquired":true}"#,
    )
    .unwrap();
    let sink = Arc::new(blank());
    let text = "when performing backup create/restore, please try again later";
    let error = store
        .restore(&sink, &Cancel::never())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("failed to acquire lock") && error.contains(text),
        "{error}"
    );
    let source = MemorySource::new(store.bytes.clone(), None);
    let error = create(&store.copy.target(), source, request("backup-2", "snap-2"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(text), "{error}");
    let mut left = Vec::new();
    walk(&locks, &mut |path| left.push(path.to_owned()));
    assert_eq!(left, [file.clone()]);

    let long_ago = SystemTime::now() - Duration::from_secs(151);
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    store
        .restore(&sink, &Cancel::never())
        .await
        .unwrap()
        .outcome
        .unwrap();
    assert!(sink.bytes() == store.bytes);
}

#[test]
fn targets_that_are_not_offered_say_which_and_what_to_do() {
    for text in [
        "nfs://1.2.3.4:/x",
        "cifs://server/share",
        "s3://bucket@region/",
        "azblob://container/x",
    ] {
        let error = Target::open(&TargetUrl::parse(text).unwrap()).unwrap_err();
        let scheme = text.split("://").next().unwrap();
        assert!(matches!(error, Error::Unimplemented { .. }), "{error:?}");
        assert!(
            error.to_string().contains(&format!("{scheme}://")),
            "{error}"
        );
    }
    let url = BackupUrl::parse("vfs:///x?volume=vol-1&backup=backup-1").unwrap();
    assert!(Target::open(&url.target).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_the_backing_image_and_leaves_it_alone_on_a_fresh_device() {
    let copy = Copy::empty();
    let target = copy.target();
    let bytes = content(4);
    let mut over_image = request("backup-1", "snap-1");
    over_image.backing_image_name = "image-1".into();
    let map = ChangedMap {
        changed: extents(&[3]),
        allocated: extents(&[3]),
    };
    create(
        &target,
        MemorySource::new(bytes.clone(), Some(map)),
        over_image,
    )
    .await
    .unwrap();
    let sink = Arc::new(blank());
    let fresh = RestoreOnto::Fresh;
    let never = Cancel::never();
    let done = restore_onto(
        &target,
        &volume(),
        &backup("backup-1"),
        fresh,
        &sink,
        &never,
    )
    .await
    .unwrap();
    done.outcome.unwrap();
    assert_eq!(done.plan.backing_image_name, "image-1");
    let mut expected = vec![0xFF; SIZE as usize];
    let range = (3 * BLOCK) as usize..(4 * BLOCK) as usize;
    expected[range.clone()].copy_from_slice(&bytes[range]);
    assert!(sink.bytes() == expected);
    assert_eq!(sink.zeroed.load(Ordering::SeqCst), 0);
}
