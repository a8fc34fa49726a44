//! Restores that go wrong, and that it is said: which volume, backup and block, and nothing is called done that is not.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corriente::Error;
use corriente::backup::format::layout;
use corriente::backup::store::load_plan;
use corriente::backup::{
    BackupUrl, ByteOffset, Cancel, ChangedMap, Progress, RestoreOnto, RestoreSettings, Target, TargetUrl, restore,
};

use crate::fixtures::Copy;
use crate::memory::{MemorySink, MemorySource, lock, restore_onto, restore_settings};
use crate::scene::*;

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
            _ => fs::File::options().write(true).open(&file).unwrap().set_len(10 << 30).unwrap(),
        }
        let error = store.restore_error(blank(), Some(5)).await;
        assert!(matches!(error, Error::Corruption { .. }), "{damage}: {error:?}");
        if damage == "swapped" {
            assert!(error.to_string().contains("checksum verification failed"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_cut_oversized_or_missing_cfg_stops_the_restore_before_it_writes() {
    for (path, is_volume) in
        [(layout::volume_config(&volume()), true), (layout::backup_config(&volume(), &backup("backup-1")), false)]
    {
        for damage in ["cut", "huge", "missing", "empty"] {
            let store = Store::new().await;
            let file = store.copy.path().join(path.as_str());
            let good = fs::read(&file).unwrap();
            match damage {
                "cut" => fs::write(&file, &good[..good.len() - 1]).unwrap(),
                "huge" => fs::File::options().write(true).open(&file).unwrap().set_len(10 << 30).unwrap(),
                "empty" => fs::write(&file, b"").unwrap(),
                _ => fs::remove_file(&file).unwrap(),
            }
            let sink = Arc::new(blank());
            let error = store.restore(&sink, &Cancel::never()).await.err().unwrap();
            if damage == "missing" {
                assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
                assert!(error.to_string().contains(&format!("cannot find {path} in backupstore")), "{error}");
            } else {
                assert!(matches!(error, Error::Corruption { .. }), "{damage} {is_volume}: {error:?}");
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
    restore(&lock, &plan, sink.clone(), settings, &Arc::new(Progress::default()), &Cancel::never()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_zero_mean_one() {
    let store = Store::new().await;
    let settings = RestoreSettings { blocks_in_flight: 0, fetches: 0, workers: 0, ..restore_settings() };
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
    assert!(error.to_string().contains("backup restoration is cancelled"), "{error}");
    assert!(error.to_string().contains("backup-1") && error.to_string().contains("vol-1"), "{error}");
    assert_eq!(sink.flushes.load(Ordering::SeqCst), 0);
    let writes = sink.writes.load(Ordering::SeqCst);
    assert!(writes <= 2 + restore_settings().blocks_in_flight, "{writes} writes");
    assert!(done.progress.percent() < 99);

    let sink = Arc::new(blank());
    let error = store.restore(&sink, &cancel).await.unwrap().outcome.unwrap_err();
    assert!(matches!(error, Error::Canceled { .. }));
    assert_eq!(sink.writes.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_or_flush_fails_the_restore() {
    let store = Store::new().await;
    let mut sink = blank();
    sink.fail_write_at = Some(4 * BLOCK);
    assert!(matches!(store.restore_error(sink, None).await, Error::Medium { .. }));
    let mut sink = blank();
    sink.fail_flush = true;
    assert!(matches!(store.restore_error(sink, None).await, Error::Medium { .. }));
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
    assert!(mark > ByteOffset(0) && mark <= ByteOffset(7 * BLOCK), "{mark}");
    let held = sink.bytes();
    assert!(held[..mark.0 as usize] == store.bytes[..mark.0 as usize]);

    let plan = first.plan.resume_from(mark);
    assert_eq!(plan.blocks_to_write(), BLOCKS - mark.0 / BLOCK);
    let sink = Arc::new(MemorySink::holding(held));
    let lock = lock(&store.copy.target(), &volume()).await.unwrap();
    let progress = Arc::new(Progress::default());
    restore(&lock, &plan, sink.clone(), &restore_settings(), &progress, &Cancel::never()).await.unwrap();
    assert!(sink.bytes() == store.bytes);
    assert_eq!(progress.written_below(), ByteOffset(SIZE));
}

#[test]
fn targets_that_are_not_offered_say_which_and_what_to_do() {
    for text in ["nfs://1.2.3.4:/x", "cifs://server/share", "s3://bucket@region/", "azblob://container/x"] {
        let error = Target::open(&TargetUrl::parse(text).unwrap()).unwrap_err();
        let scheme = text.split("://").next().unwrap();
        assert!(matches!(error, Error::Unimplemented { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("{scheme}://")), "{error}");
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
    let map = ChangedMap { changed: extents(&[3]), allocated: extents(&[3]) };
    create(&target, MemorySource::new(bytes.clone(), Some(map)), over_image).await.unwrap();
    let sink = Arc::new(blank());
    let fresh = RestoreOnto::Fresh;
    let never = Cancel::never();
    let done = restore_onto(&target, &volume(), &backup("backup-1"), fresh, &sink, &never).await.unwrap();
    done.outcome.unwrap();
    assert_eq!(done.plan.backing_image_name, "image-1");
    let mut expected = vec![0xFF; SIZE as usize];
    let range = (3 * BLOCK) as usize..(4 * BLOCK) as usize;
    expected[range.clone()].copy_from_slice(&bytes[range]);
    assert!(sink.bytes() == expected);
    assert_eq!(sink.zeroed.load(Ordering::SeqCst), 0);
}
