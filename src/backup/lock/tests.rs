//! The protocol on a real directory, with files of other parties put there by hand.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use super::*;
use crate::backup::target::Target;
use crate::backup::url::TargetUrl;
use crate::name::VolumeName;

struct Place {
    root: tempfile::TempDir,
    store: VolumeStore,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let url = TargetUrl::parse(&format!("vfs://{}", root.path().display())).unwrap();
        let store = VolumeStore::new(Target::open(&url).unwrap(), VolumeName::parse("vol-1").unwrap());
        Self { root, store }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join(layout::locks(self.store.volume()).as_str())
    }

    /// The lock files; a refresh may be writing its temporary one at any time.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory()).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(layout::LOCK_SUFFIX)).collect()
    }

    fn put(&self, name: &str, content: &str, age: Duration) {
        fs::create_dir_all(self.directory()).unwrap();
        let path = self.directory().join(name);
        fs::write(&path, content).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    async fn acquire(&self, kind: LockKind) -> Result<VolumeLock> {
        VolumeLock::acquire(self.store.clone(), kind, &quick()).await
    }
}

fn quick() -> LockSettings {
    LockSettings { settle: Duration::from_millis(20), refresh: Duration::from_millis(30) }
}

#[tokio::test]
async fn equal_kinds_share_and_other_kinds_exclude() {
    let place = Place::new();
    let first = place.acquire(LockKind::CreateRestore).await.unwrap();
    let second = place.acquire(LockKind::CreateRestore).await.unwrap();
    let error = place.acquire(LockKind::Delete).await.unwrap_err().to_string();
    assert!(error.contains("failed to acquire lock "), "{error}");
    assert!(error.contains("when performing backup delete, please try again later"), "{error}");
    assert_eq!(place.files().len(), 2);
    first.release().await;
    second.release().await;
    assert!(!place.directory().exists());
    place.acquire(LockKind::Delete).await.unwrap().release().await;
}

#[tokio::test]
async fn the_file_goes_with_the_last_hold_also_when_dropped() {
    let place = Place::new();
    let lock = place.acquire(LockKind::CreateRestore).await.unwrap();
    let nested = lock.clone();
    lock.release().await;
    assert_eq!(place.files().len(), 1);
    nested.ensure_held().unwrap();
    drop(nested);
    for _ in 0..200 {
        if place.files().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the lock file stays: {:?}", place.files());
}

#[tokio::test]
async fn a_call_that_is_dropped_while_it_waits_leaves_no_file() {
    let place = Place::new();
    let settings = LockSettings { settle: Duration::from_secs(3600), ..quick() };
    let waiting = VolumeLock::acquire(place.store.clone(), LockKind::Delete, &settings);
    tokio::time::timeout(Duration::from_millis(100), waiting).await.unwrap_err();
    for _ in 0..200 {
        if place.files().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the lock file stays: {:?}", place.files());
}

#[tokio::test]
async fn it_is_written_again_while_held() {
    let place = Place::new();
    let lock = place.acquire(LockKind::CreateRestore).await.unwrap();
    let path = place.directory().join(&place.files()[0]);
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > long_ago + Duration::from_secs(500));
    let file = LockFile::parse(&fs::read(&path).unwrap()).unwrap();
    assert!(file.acquired && file.kind == LockType::BACKUP);
    lock.release().await;
}

#[tokio::test]
async fn only_living_readable_locks_of_others_count() {
    let deletes = r#"{"Name":"lock-00","Type":2,"Acquired":true}"#;
    for (name, content, age, free) in [
        ("lock-00.lck", deletes, 10, false),
        ("lock-00.lck", deletes, 1000, true),
        ("lock-00.lck", "garbage", 10, true),
        ("lock-00.lck.tmp.5", deletes, 10, true),
        ("lock-00.lck", r#"{"Name":"lock-00","Type":0,"Acquired":true}"#, 10, false),
    ] {
        let place = Place::new();
        place.put(name, content, Duration::from_secs(age));
        let taken = place.acquire(LockKind::CreateRestore).await;
        assert_eq!(taken.is_ok(), free, "{name} {content} {age}");
        if let Ok(lock) = taken {
            lock.release().await;
        }
    }
}
