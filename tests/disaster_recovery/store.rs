//! A backup store that is damaged or goes away, before a restore and in the middle of it.

use std::fs;
use std::path::{Path, PathBuf};

use corriente::faults::{Action, Point};
use tonic::Code;

use crate::cluster::refused;
use crate::scene::{BOTH, Scene, VOLUME};

/// Files below `directory` whose name ends like that.
fn files(directory: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

fn volume_directory(scene: &Scene) -> PathBuf {
    let cfg = files(&scene.cluster.store, &format!("{}.cfg", scene.points[0].backup)).remove(0);
    cfg.ancestors().nth(2).expect("volume/backups/cfg").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_vanished_backup_fails_the_restore_and_a_mended_one_is_restored() {
    let scene = Scene::start("vol-trim").await;
    scene.restore(0).await;
    let volume = volume_directory(&scene);
    let config = files(&volume, &format!("{}.cfg", scene.points[1].backup)).remove(0);
    for cfg in [config, volume.join("volume.cfg")] {
        let whole = fs::read(&cfg).expect("a cfg");
        for length in [0, whole.len() / 2] {
            fs::write(&cfg, &whole[..length]).expect("a truncated cfg");
            refused(scene.start_restore(1).await, Code::DataLoss, "cfg");
            scene.fails("cfg", 0).await;
        }
        fs::write(&cfg, whole).expect("a whole cfg");
    }

    let blocks = files(&volume, ".blk");
    let hidden = |path: &PathBuf| path.with_extension("hidden");
    blocks.iter().for_each(|path| fs::rename(path, hidden(path)).expect("a hidden block"));
    scene.start_restore(1).await.expect("the restore starts");
    scene.fails("block", 0).await;
    blocks.iter().for_each(|path| fs::rename(hidden(path), path).expect("a block"));

    let backup = &scene.points[1].backup;
    let missing = scene.cluster.url("vol-trim", "backup-ffffffffffffffff");
    refused(scene.cluster.start_restore(VOLUME, missing).await, Code::NotFound, "backup-ffffffffffffffff");
    scene.fails("block", 0).await;

    scene.start_restore(1).await.expect("the restore of a mended backup starts");
    scene.proven(1, &BOTH).await;
    assert_eq!(&scene.cluster.status(VOLUME).await[0].last_restored, backup);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_midway_fails_the_restore_and_leaves_the_last_good_point() {
    // One block at a time: when the first is written, all others are still to be fetched.
    let scene = Scene::start_with("pvc-5f2d1c7e-lz4", |node| node.set("limits.restore_queue_depth", 1)).await;
    scene.restore(0).await;
    let faults = scene.cluster.nodes[0].faults();
    faults.once(Point::RestoreStepDone, Action::Block);
    scene.start_restore(2).await.expect("the restore starts");
    faults.blocked(Point::RestoreStepDone).await;
    let away = scene.cluster.store.with_extension("away");
    fs::rename(&scene.cluster.store, &away).expect("the store goes away");
    faults.lift(Point::RestoreStepDone);
    scene.fails("block", 0).await;
    let refusal = scene.start_restore(2).await.expect_err("there is no store");
    assert!([Code::Unavailable, Code::NotFound].contains(&refusal.code()), "{refusal}");
    fs::rename(&away, &scene.cluster.store).expect("the store comes back");

    assert_eq!(scene.recreate("").await.state, "running");
    scene.stands_at(0, &BOTH).await;
    scene.restore(2).await;
}
