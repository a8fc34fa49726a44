//! What a target says it holds.

use std::fs;

use corriente::backup::inspect::{inspect_backup, inspect_volume, list_backups, list_volumes};
use corriente::backup::{Target, TargetUrl};
use corriente::name::{BackupName, VolumeName};

use crate::fixtures::{Copy, Golden};

fn golden_target(golden: &Golden) -> Target {
    // Looking takes no lock, so the fixtures themselves will do.
    let store = fs::canonicalize(golden.store()).unwrap();
    Target::open(&TargetUrl::parse(&format!("vfs://{}", store.display())).unwrap()).unwrap()
}

#[tokio::test]
async fn all_volumes_and_backups_are_listed_and_the_unfinished_marked() {
    let Some(golden) = Golden::find() else { return };
    let target = golden_target(&golden);
    let listed = list_volumes(&target).await.unwrap();
    let mut names: Vec<_> = golden.manifest.volumes.iter().map(|entry| entry.volume()).collect();
    names.sort();
    assert_eq!(listed.iter().map(|volume| volume.name.clone()).collect::<Vec<_>>(), names);
    for entry in &golden.manifest.volumes {
        let found = list_backups(&target, &entry.volume()).await.unwrap();
        let present: Vec<_> = entry.backups.iter().filter(|backup| backup.state != "deleted").collect();
        assert_eq!(found.len(), present.len(), "{}", entry.name);
        for (found, backup) in found.iter().zip(present) {
            assert_eq!(found.name, backup.backup());
            match (&found.summary, backup.state.as_str()) {
                (Ok(summary), "complete") => {
                    assert_eq!(summary.is_incremental, backup.is_incremental && entry.name != "vol-legacy")
                }
                (Err(error), "in_progress") => {
                    assert!(error.to_string().contains("in progress"), "{error}")
                }
                (summary, state) => panic!("{} is {state} but {summary:?}", backup.name),
            }
        }
    }
}

#[tokio::test]
async fn summaries_have_longhorns_keys_and_forms() {
    let Some(golden) = Golden::find() else { return };
    let target = golden_target(&golden);
    let volume = VolumeName::parse("vol-gzip").unwrap();
    let backup = BackupName::parse("backup-2b00000000000002").unwrap();
    let json = serde_json::to_value(inspect_backup(&target, &volume, &backup).await.unwrap()).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = "Name URL SnapshotName SnapshotCreated Created Size Labels Parameters IsIncremental \
        CompressionMethod NewlyUploadedDataSize ReUploadedDataSize VolumeName VolumeSize VolumeCreated \
        VolumeBackingImageName";
    assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(json["Size"], "12582912");
    assert_eq!(json["VolumeSize"], "16777216");
    assert_eq!(json["IsIncremental"], true);
    assert!(json["URL"].as_str().unwrap().ends_with("?backup=backup-2b00000000000002&volume=vol-gzip"));

    let json = serde_json::to_value(inspect_volume(&target, &volume).await.unwrap()).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = "Name Size Labels Created LastBackupName LastBackupAt DataStored BackingImageName \
        BackingImageChecksum StorageClassname DataEngine";
    assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(json["DataStored"], "16777216");
    assert_eq!(json["DataEngine"], "v2");
}

#[tokio::test]
async fn a_directory_without_cfg_is_listed_and_what_is_no_volume_is_not() {
    let copy = Copy::empty();
    let volumes = copy.path().join("backupstore/volumes");
    let orphan = VolumeName::parse("vol-orphan").unwrap();
    let directory = corriente::backup::format::layout::volume(&orphan);
    fs::create_dir_all(copy.path().join(directory.as_str())).unwrap();
    fs::create_dir_all(volumes.join("aa/bb/BACKINGIMAGE/locks")).unwrap();
    fs::create_dir_all(volumes.join("aa/bb/vol-in-the-wrong-place")).unwrap();
    fs::create_dir_all(volumes.join("lost+found")).unwrap();
    fs::write(volumes.join("aa/file"), b"x").unwrap();
    let error = list_volumes(&copy.target()).await;
    let listed = error.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name, orphan);
    let error = listed[0].summary.as_ref().unwrap_err().to_string();
    assert!(error.contains("cannot find") && error.contains("volume.cfg in backupstore"), "{error}");
    assert!(list_volumes(&Copy::empty().target()).await.unwrap().is_empty());
}
