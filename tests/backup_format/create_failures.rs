//! Backups that go wrong or that upstream gets wrong (fact sheet §6), and who is kept out by a lock.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use corriente::Error;
use corriente::backup::format::layout;
use corriente::backup::{
    BackupJob, BackupMode, BlockSize, Cancel, ChangedMap, CompressionMethod, Progress, RestoreOnto,
};
use corriente::name::SnapshotName;

use crate::fixtures::{Copy, walk};
use crate::image::prng;
use crate::memory::{MemorySink, MemorySource, create_settings, restore_onto};
use crate::scene::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_fails_or_is_cancelled_stays_in_progress_and_can_be_made_again() {
    for cancelled in [false, true] {
        let store = Store::new().await;
        let target = store.copy.target();
        let mut source = MemorySource::new(content(8), None);
        source.fail_read_at = (!cancelled).then_some(6 * BLOCK);
        let (handle, cancel) = Cancel::pair();
        let job = BackupJob::prepare(&target, Arc::new(source), request("backup-2", "snap-2"), create_settings())
            .await
            .unwrap();
        if cancelled {
            handle.cancel();
        }
        let error = job.run(&Arc::new(Progress::default()), &cancel).await.unwrap_err();
        assert_eq!(matches!(error, Error::Canceled { .. }), cancelled, "{error:?}");
        assert!(read_config(&store.copy, "backup-2").is_in_progress());
        assert_eq!(read_volume(&store.copy).last_backup_name, "backup-1");
        assert!(!store.copy.path().join(layout::locks(&volume()).as_str()).exists(), "a lock is left");
        let refused = corriente::backup::inspect::inspect_backup(&target, &volume(), &backup("backup-2")).await;
        assert!(refused.unwrap_err().to_string().contains("backup backup-2 is still in progress"));

        let bytes = content(8);
        create(&target, MemorySource::new(bytes.clone(), None), request("backup-2", "snap-2")).await.unwrap();
        let sink = Arc::new(blank());
        restore_onto(&target, &volume(), &backup("backup-2"), RestoreOnto::Unknown, &sink, &Cancel::never())
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
    let error = create(&store.copy.target(), MemorySource::new(content(9), None), request("backup-1", "snap-2")).await;
    assert!(matches!(error.unwrap_err(), Error::AlreadyExists { .. }));
    assert_eq!(read_config(&store.copy, "backup-1"), store.config);
}

#[tokio::test]
async fn a_volume_that_is_no_whole_number_of_blocks_is_refused_up_front() {
    for (size, block_size) in
        [(BLOCK + 4096, BlockSize::DEFAULT), (3 * BLOCK, BlockSize::LARGE), (0, BlockSize::DEFAULT)]
    {
        let copy = Copy::empty();
        let mut request = request("backup-1", "snap-1");
        request.labels.parameters.block_size = block_size;
        let error = create(&copy.target(), MemorySource::new(vec![0; size as usize], None), request).await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { field: "size", .. }), "{error:?}");
        assert_eq!(fs::read_dir(copy.path()).unwrap().count(), 0, "the store was touched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_snapshot_after_a_newer_one_is_backed_up_in_full() {
    let store = Store::new().await;
    // The older snapshot has only block 0; the last backup, of a newer one, is no ancestor of it.
    let mut older = vec![0; SIZE as usize];
    older[..100].fill(3);
    let map = ChangedMap { changed: extents(&[0]), allocated: extents(&[0]) };
    let source = MemorySource::new(older.clone(), Some(map));
    let report = create(&store.copy.target(), source, request("backup-2", "snap-0")).await.unwrap();
    assert!(!report.is_incremental);
    assert_eq!(read_config(&store.copy, "backup-2").blocks.as_slice().len(), 1);
    let sink = Arc::new(blank());
    let target = store.copy.target();
    restore_onto(&target, &volume(), &backup("backup-2"), RestoreOnto::Unknown, &sink, &Cancel::never())
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
    create(&copy.target(), MemorySource::new(bytes.clone(), None), request("backup-1", "snap-1")).await.unwrap();
    let mut source = MemorySource::new(bytes.clone(), None);
    let nothing = ChangedMap { changed: Vec::new(), allocated: Vec::new() };
    source.since.insert(SnapshotName::parse("snap-1").unwrap(), nothing);
    let mut large = request("backup-2", "snap-2");
    large.labels.parameters.block_size = BlockSize::LARGE;
    let report = create(&copy.target(), source, large).await.unwrap();
    assert!(!report.is_incremental);
    let sink = Arc::new(MemorySink::filled(32 << 20, 0xFF));
    let onto = RestoreOnto::Backup(backup("backup-1"));
    let done = restore_onto(&copy.target(), &volume(), &backup("backup-2"), onto, &sink, &Cancel::never()).await;
    done.unwrap().outcome.unwrap();
    assert!(sink.bytes() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_blocks_are_stored_once_and_a_full_backup_repairs_damaged_files() {
    let copy = Copy::empty();
    let target = copy.target();
    let bytes = prng(5, BLOCK as usize, 64).repeat(BLOCKS as usize);
    let report = create(&target, MemorySource::new(bytes.clone(), None), request("backup-1", "snap-1")).await.unwrap();
    assert_eq!((report.blocks, report.new_block_files), (BLOCKS, 1));
    let files = copy.block_files(&volume());
    assert_eq!(report.newly_uploaded_size, fs::metadata(&files[0]).unwrap().len());

    fs::write(&files[0], b"damaged").unwrap();
    let mut full = request("backup-2", "snap-2");
    full.labels.parameters.mode = BackupMode::Full;
    // The method of the volume stays that of its first backup.
    full.method = CompressionMethod::Gzip;
    let report = create(&target, MemorySource::new(bytes.clone(), None), full).await.unwrap();
    assert_eq!(report.new_block_files, 0);
    assert_eq!(report.re_uploaded_size, fs::metadata(&files[0]).unwrap().len());
    assert_eq!(read_config(&copy, "backup-2").compression_method, CompressionMethod::Lz4);
    assert_eq!(read_volume(&copy).block_count, 1);
    let sink = Arc::new(blank());
    restore_onto(&target, &volume(), &backup("backup-1"), RestoreOnto::Unknown, &sink, &Cancel::never())
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
    create(&store.copy.target(), source, request("backup-2", "snap-2")).await.unwrap();
    let sink = Arc::new(blank());
    store.restore(&sink, &Cancel::never()).await.unwrap().outcome.unwrap();
    assert!(sink.bytes() == store.bytes);
}

#[tokio::test]
async fn somebody_who_deletes_keeps_backups_and_restores_out() {
    let store = Store::new().await;
    let locks = store.copy.path().join(layout::locks(&volume()).as_str());
    fs::create_dir_all(&locks).unwrap();
    let file = locks.join("lock-0000000000000000.lck");
    fs::write(&file, r#"{"Name":"lock-0000000000000000","Type":2,"Acquired":true}"#).unwrap();
    let sink = Arc::new(blank());
    let text = "when performing backup create/restore, please try again later";
    let error = store.restore(&sink, &Cancel::never()).await.err().unwrap().to_string();
    assert!(error.contains("failed to acquire lock") && error.contains(text), "{error}");
    let source = MemorySource::new(store.bytes.clone(), None);
    let error = create(&store.copy.target(), source, request("backup-2", "snap-2")).await.unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
    let mut left = Vec::new();
    walk(&locks, &mut |path| left.push(path.to_owned()));
    assert_eq!(left, std::slice::from_ref(&file));

    let long_ago = SystemTime::now() - Duration::from_secs(151);
    fs::File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
    store.restore(&sink, &Cancel::never()).await.unwrap().outcome.unwrap();
    assert!(sink.bytes() == store.bytes);
}
