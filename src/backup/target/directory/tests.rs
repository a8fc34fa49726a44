//! A real directory: atomic writes, bounds, pruning.

use std::os::unix::fs::PermissionsExt;

use std::time::Duration;

use super::*;
use crate::backup::format::layout;
use crate::backup::target::{Target, TargetResult};
use crate::backup::url::TargetUrl;
use crate::name::VolumeName;

fn place() -> (tempfile::TempDir, DirectoryTarget, StorePath) {
    let root = tempfile::tempdir().unwrap();
    let target = DirectoryTarget::new(root.path().join("not/there/yet"));
    let path = layout::volume_config(&VolumeName::parse("vol-1").unwrap());
    (root, target, path)
}

#[tokio::test]
async fn what_is_written_is_read_and_nothing_is_left_over() {
    let (_root, target, path) = place();
    assert_eq!(target.stat(&path).await.unwrap(), None);
    assert!(matches!(target.read(&path, 10).await, Err(TargetError::NotFound { .. })));
    target.write(&path, "old".into()).await.unwrap();
    target.write(&path, "newer".into()).await.unwrap();
    assert_eq!(target.read(&path, 5).await.unwrap(), b"newer");
    assert!(matches!(target.read(&path, 4).await, Err(TargetError::TooLarge { limit: 4, .. })));
    assert_eq!(target.stat(&path).await.unwrap().unwrap().size, 5);
    let directory = layout::volume(&VolumeName::parse("vol-1").unwrap());
    assert_eq!(target.list(&directory).await.unwrap(), ["volume.cfg"]);
    let mode = fs::metadata(target.root.join(directory.as_str())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, DIRECTORY_MODE);
}

#[tokio::test]
async fn removing_prunes_empty_parents_but_not_the_base() {
    let (_root, target, path) = place();
    let other = layout::volume_config(&VolumeName::parse("vol-2").unwrap());
    target.write(&path, vec![1].into()).await.unwrap();
    target.write(&other, vec![2].into()).await.unwrap();
    target.remove(&path).await.unwrap();
    target.remove(&path).await.unwrap();
    assert_eq!(target.read(&other, 1).await.unwrap(), [2]);
    assert!(!target.root.join(path.as_str()).parent().unwrap().exists());
    target.remove(&other).await.unwrap();
    assert_eq!(fs::read_dir(target.root.join(BASE)).unwrap().count(), 0);
}

#[tokio::test]
async fn an_endless_file_costs_no_memory() {
    let (_root, target, path) = place();
    target.write(&path, Bytes::new()).await.unwrap();
    // A sparse terabyte, and a device without an end.
    File::options().write(true).open(target.root.join(path.as_str())).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(target.read(&path, 1 << 20).await, Err(TargetError::TooLarge { .. })));
    let endless = layout::backups(&VolumeName::parse("vol-1").unwrap());
    std::os::unix::fs::symlink("/dev/zero", target.root.join(endless.as_str())).unwrap();
    assert!(matches!(target.read(&endless, 1 << 20).await, Err(TargetError::Failed { .. })));
}

#[tokio::test]
async fn a_pipe_in_place_of_a_file_holds_nobody() {
    let (_root, target, path) = place();
    target.write(&path, Bytes::new()).await.unwrap();
    let pipe = layout::backups(&VolumeName::parse("vol-1").unwrap());
    let made = std::process::Command::new("mkfifo").arg(target.root.join(pipe.as_str())).status();
    assert!(made.unwrap().success());
    assert!(matches!(target.read(&pipe, 10).await, Err(TargetError::Failed { .. })));
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_given_up() {
    let (_root, directory, path) = place();
    let url = TargetUrl::parse(&format!("vfs://{}", directory.root.display())).unwrap();
    let target = Target::open(&url).unwrap().with_call_timeout(Duration::from_millis(5));
    let silence = std::future::pending::<TargetResult<()>>();
    let error = target.limited("read", &path, silence).await.unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
}

#[tokio::test]
async fn a_directory_in_place_of_a_file_is_a_failure_that_names_it() {
    let (_root, target, path) = place();
    fs::create_dir_all(target.root.join(path.as_str())).unwrap();
    let error = target.read(&path, 10).await.unwrap_err();
    assert!(matches!(error, TargetError::Failed { action: "read", .. }), "{error:?}");
    assert!(error.to_string().contains(path.as_str()));
}
