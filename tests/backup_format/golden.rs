//! Reading what Longhorn wrote: every check of the fixtures' README that needs no engine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use corriente::backup::format::codec::{decompress, file_limit};
use corriente::backup::format::layout;
use corriente::backup::{
    BackupConfig, BlockSize, Cancel, CompressionMethod, Digest, RestoreOnto, RestorePlan, VolumeConfig,
};
use corriente::name::{BackupName, VolumeName};

use crate::fixtures::{Golden, VolumeEntry, block_files};
use crate::image::{Image, sha256};
use crate::memory::{MemorySink, restore_onto};

fn cfg_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory.join("backups")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn volumes_are_found_and_their_cfg_files_parse_to_the_manifest() {
    let Some(golden) = Golden::find() else { return };
    for entry in &golden.manifest.volumes {
        assert_eq!(layout::volume(&entry.volume()).as_str(), entry.dir);
        let bytes = fs::read(golden.store().join(&entry.dir).join("volume.cfg")).unwrap();
        let config = VolumeConfig::parse(&bytes).unwrap();
        assert_eq!(config.name, entry.name);
        assert_eq!(config.size, entry.restore_size);
        assert_eq!(config.compression_method.as_str(), entry.compression_in_volume_cfg);
        assert_eq!(config.data_engine, entry.data_engine_after_load);
        assert_eq!(config.last_backup_name, entry.last_backup_name);
        assert_eq!(config.block_count, entry.block_count_in_volume_cfg);
        for backup in entry.complete() {
            let path = layout::backup_config(&entry.volume(), &backup.backup());
            let config = BackupConfig::parse(&fs::read(golden.store().join(path.as_str())).unwrap()).unwrap();
            let offsets: Vec<_> = config.blocks.as_slice().iter().map(|block| block.offset.0).collect();
            assert_eq!(offsets, backup.block_offsets, "{}", backup.name);
            assert_eq!(config.blocks.block_size().bytes(), entry.block_size);
            assert_eq!(config.snapshot_name, backup.snapshot);
            assert_eq!(config.snapshot_created_at, backup.snapshot_created_at);
            assert_eq!(config.size, offsets.len() as u64 * entry.block_size);
            let method = backup.compression_in_cfg.as_deref().unwrap_or("gzip");
            assert_eq!(config.compression_method.as_str(), method);
            assert!(!config.is_in_progress());
        }
    }
}

#[test]
fn cfg_files_are_written_again_byte_for_byte() {
    let Some(golden) = Golden::find() else { return };
    let mut compared = 0;
    for entry in golden.manifest.volumes.iter().filter(|entry| entry.name != "vol-legacy") {
        let directory = golden.store().join(&entry.dir);
        let bytes = fs::read(directory.join("volume.cfg")).unwrap();
        let again = VolumeConfig::parse(&bytes).unwrap().to_bytes();
        assert_eq!(String::from_utf8(again).unwrap(), String::from_utf8(bytes).unwrap());
        // Stubs of unfinished backups included.
        for file in cfg_files(&directory) {
            let bytes = fs::read(&file).unwrap();
            let again = BackupConfig::parse(&bytes).unwrap().to_bytes();
            assert_eq!(String::from_utf8(again).unwrap(), String::from_utf8(bytes).unwrap(), "{file:?}");
            compared += 1;
        }
    }
    assert!(compared >= 20, "only {compared} files were compared");
}

#[test]
fn every_block_file_is_what_its_name_says_and_no_other_content_passes() {
    let Some(golden) = Golden::find() else { return };
    for entry in &golden.manifest.volumes {
        let files = block_files(&golden.store().join(&entry.dir));
        assert_eq!(files.len(), entry.block_files_on_disk, "{}", entry.name);
        let block_size = BlockSize::stored(entry.block_size).unwrap();
        let method = CompressionMethod::parse(&entry.compression_in_volume_cfg).unwrap();
        let mut out = vec![0xFF; block_size.length()];
        for file in files {
            let digest = Digest::parse(file.file_stem().unwrap().to_str().unwrap()).unwrap();
            let bytes = fs::read(&file).unwrap();
            assert!(bytes.len() as u64 <= file_limit(block_size));
            decompress(method, &bytes, digest, &mut out).unwrap_or_else(|error| panic!("{file:?}: {error}"));
            assert_eq!(Digest::of(&out), digest);
            assert!(decompress(method, &bytes, Digest::of(b"other"), &mut out).is_err());
        }
    }
}

#[test]
fn the_models_images_are_those_of_the_manifest() {
    let Some(golden) = Golden::find() else { return };
    for entry in &golden.manifest.volumes {
        let mut image = Image::new(entry.initial_size);
        for backup in &entry.backups {
            image.grow(backup.size_at_backup);
            backup.ops.iter().for_each(|op| image.apply(op));
            if let Some(expected) = &backup.image_sha256 {
                assert_eq!(image.sha256(entry.restore_size), *expected, "{}", backup.name);
            }
        }
    }
}

/// Sum of the sizes of the block files that a plan fetches, one for each reference.
fn bytes_of_blocks(golden: &Golden, plan: &RestorePlan) -> u64 {
    let blocks = plan.steps.iter().filter_map(|step| match step {
        corriente::backup::plan::restore::RestoreStep::Write(block) => Some(block),
        corriente::backup::plan::restore::RestoreStep::Zero { .. } => None,
    });
    let paths = blocks.map(|block| golden.store().join(layout::block(&plan.volume, &block.digest).as_str()));
    paths.map(|path| fs::metadata(path).unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_complete_backup_restores_over_stale_data_and_onto_a_fresh_device() {
    let Some(golden) = Golden::find() else { return };
    let mut restored = 0;
    for entry in &golden.manifest.volumes {
        let copy = golden.copy(entry);
        for backup in entry.complete() {
            for (onto, byte) in [(RestoreOnto::Unknown, 0xFF), (RestoreOnto::Fresh, 0)] {
                let sink = Arc::new(MemorySink::filled(entry.restore_size, byte));
                let volume = entry.volume();
                let done = restore_onto(&copy.target(), &volume, &backup.backup(), onto, &sink, &Cancel::never()).await;
                let done = done.unwrap();
                let report = done.outcome.unwrap();
                assert_eq!(sha256(&sink.bytes()), *backup.image_sha256.as_ref().unwrap(), "{}", backup.name);
                assert_eq!(report.blocks, backup.block_offsets.len() as u64);
                assert_eq!(report.bytes_stored, bytes_of_blocks(&golden, &done.plan));
                assert_eq!(report.bytes_written, sink.written.load(std::sync::atomic::Ordering::SeqCst));
                assert_eq!(done.plan.volume_size, entry.restore_size);
                assert!(!sink.changed_after_flush.load(std::sync::atomic::Ordering::SeqCst));
                restored += 1;
            }
        }
    }
    assert!(restored >= 40, "only {restored} restores");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_incremental_pair_gives_the_correct_image_also_where_longhorn_does_not() {
    let Some(golden) = Golden::find() else { return };
    let name = |text: &str| BackupName::parse(text).unwrap();
    for entry in &golden.manifest.volumes {
        let (copy, volume) = (golden.copy(entry), entry.volume());
        for pair in &entry.incremental_restores {
            let sink = Arc::new(MemorySink::filled(entry.restore_size, 0xFF));
            let never = Cancel::never();
            restore_onto(&copy.target(), &volume, &name(&pair.from), RestoreOnto::Unknown, &sink, &never)
                .await
                .unwrap()
                .outcome
                .unwrap();
            let sink = Arc::new(MemorySink::holding(sink.bytes()));
            let onto = RestoreOnto::Backup(name(&pair.from));
            let second = restore_onto(&copy.target(), &volume, &name(&pair.to), onto, &sink, &never).await.unwrap();
            second.outcome.unwrap();
            let words = format!("{} from {} to {}", entry.name, pair.from, pair.to);
            assert_eq!(sha256(&sink.bytes()), pair.image_sha256, "{words}");
            assert_eq!(second.plan.blocks_to_write(), pair.blocks_to_write, "{words}");
            assert_eq!(second.plan.bytes_to_zero(), pair.blocks_to_zero * entry.block_size, "{words}");
            assert!(second.plan.is_incremental);
        }
    }
}

#[tokio::test]
async fn backups_that_are_unfinished_or_gone_are_refused_with_the_texts_callers_match() {
    let Some(golden) = Golden::find() else { return };
    let mut refused = BTreeSet::new();
    for entry in &golden.manifest.volumes {
        for backup in entry.backups.iter().filter(|backup| backup.state != "complete") {
            let text = match backup.state.as_str() {
                "in_progress" => format!("backup {} is still in progress", backup.name),
                _ => format!("backups/backup_{}.cfg in backupstore", backup.name),
            };
            let error = refusal(&golden, entry, &backup.backup()).await;
            assert!(error.contains(&text), "{error}");
            assert!(backup.state == "in_progress" || error.contains("cannot find backupstore/volumes/"), "{error}");
            refused.insert(backup.state.clone());
        }
    }
    assert!(refused.contains("in_progress") && refused.contains("deleted"), "{refused:?}");
}

async fn refusal(golden: &Golden, entry: &VolumeEntry, backup: &BackupName) -> String {
    let copy = golden.copy(entry);
    let sink = Arc::new(MemorySink::filled(entry.restore_size, 0xFF));
    let volume = entry.volume();
    let inspected = corriente::backup::inspect::inspect_backup(&copy.target(), &volume, backup).await.unwrap_err();
    let done = restore_onto(&copy.target(), &volume, backup, RestoreOnto::Unknown, &sink, &Cancel::never()).await;
    let error = done.err().unwrap().to_string();
    assert_eq!(error, inspected.to_string());
    assert!(sink.bytes().iter().all(|byte| *byte == 0xFF), "a refused restore wrote");
    error
}

#[tokio::test]
async fn a_base_that_is_gone_makes_the_restore_a_full_one() {
    let Some(golden) = Golden::find() else { return };
    let entry = golden.manifest.volumes.iter().find(|entry| entry.name == "vol-gc").unwrap();
    let copy = golden.copy(entry);
    let last = entry.backups.last().unwrap();
    for gone in ["backup-be00000000000002", "backup-never-existed"] {
        let sink = Arc::new(MemorySink::filled(entry.restore_size, 0xFF));
        let onto = RestoreOnto::Backup(BackupName::parse(gone).unwrap());
        let volume: VolumeName = entry.volume();
        let done = restore_onto(&copy.target(), &volume, &last.backup(), onto, &sink, &Cancel::never()).await.unwrap();
        done.outcome.unwrap();
        assert!(!done.plan.is_incremental);
        assert_eq!(sha256(&sink.bytes()), *last.image_sha256.as_ref().unwrap());
    }
}
