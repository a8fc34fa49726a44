//! A directory of this node as a backup target: local, or whatever is mounted there.
//!
//! All calls block, so each runs on a blocking thread.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::{ObjectStat, TargetError};
use crate::backup::format::layout::{BASE, StorePath};

/// How often a write is begun again because somebody removed the emptied directory under it, or took its
/// temporary name.
const WRITE_ATTEMPTS: usize = 8;
/// The most names that one directory may have, so that a listing has a bound.
const LIST_LIMIT: usize = 1 << 20;
/// As Longhorn's file drivers make them (§2).
const DIRECTORY_MODE: u32 = 0o700;

#[derive(Debug, Clone)]
pub(super) struct DirectoryTarget {
    root: PathBuf,
}

impl DirectoryTarget {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) async fn read(&self, path: &StorePath, limit: u64) -> Result<Vec<u8>, TargetError> {
        self.run("read", path, move |file| read_bounded(file, limit))
            .await?
            .ok_or_else(|| TargetError::TooLarge { path: path.to_string(), limit })
    }

    pub(super) async fn write(&self, path: &StorePath, content: Bytes) -> Result<(), TargetError> {
        let root = self.root.clone();
        self.run("write", path, move |file| write_durably(&root, file, &content)).await
    }

    pub(super) async fn stat(&self, path: &StorePath) -> Result<Option<ObjectStat>, TargetError> {
        self.run("look at", path, |file| {
            let metadata = match fs::metadata(file) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            Ok(Some(ObjectStat { size: metadata.len(), modified: metadata.modified()? }))
        })
        .await
    }

    pub(super) async fn list(&self, path: &StorePath) -> Result<Vec<String>, TargetError> {
        self.run("list", path, list_bounded).await
    }

    pub(super) async fn remove(&self, path: &StorePath) -> Result<(), TargetError> {
        let base = self.root.join(BASE);
        self.run("remove", path, move |file| remove_and_prune(&base, file)).await
    }

    /// Runs blocking work on the file of `path` and names both in its error.
    async fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        path: &StorePath,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, TargetError> {
        let file = self.root.join(path.as_str());
        let done = tokio::task::spawn_blocking(move || work(&file)).await;
        let failed = |problem: String| TargetError::Failed { action, path: path.to_string(), problem };
        match done {
            Err(join) => Err(failed(join.to_string())),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(match error.kind() {
                ErrorKind::NotFound => TargetError::NotFound { path: path.to_string() },
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => TargetError::NoSpace { path: path.to_string() },
                _ => failed(error.to_string()),
            }),
        }
    }
}

/// The content, or `None` if there is more than `limit`.
fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    // Without waiting for the other end, should somebody have put a pipe there.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let size = metadata.len();
    if size > limit {
        return Ok(None);
    }
    // The file may grow while it is read, so its size is only a hint.
    let mut content = Vec::with_capacity(size as usize + 1);
    file.take(limit + 1).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= limit).then_some(content))
}

fn list_bounded(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // Names that are not UTF-8 are none of the store's.
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
        if names.len() > LIST_LIMIT {
            return Err(io::Error::other(format!("the directory has more than {LIST_LIMIT} entries")));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Writes next to the target and renames over it, so that a reader sees the old content or the new.
fn write_durably(root: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("the path has no directory"))?;
    let mut last = None;
    for _ in 0..WRITE_ATTEMPTS {
        match create_directories(root, parent).and_then(|()| write_once(parent, path, content)) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => last = Some(error),
            other => return other,
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no attempt was made")))
}

fn write_once(parent: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".tmp.{nanoseconds}"));
    let temporary = PathBuf::from(temporary);
    // A new file only: two writers may draw the same nanosecond.
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let written = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_directory(parent));
    if written.is_err() {
        // The first error is the one to report; a left-over is ignored by every reader.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes `directory` and what it needs below `root`, each durable in its parent.
fn create_directories(root: &Path, directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if directory == root {
        return DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(root);
    }
    let parent = directory.parent().ok_or_else(|| io::Error::other("the path has no directory"))?;
    create_directories(root, parent)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(parent),
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a file, then its parents as long as they are empty and below `base`.
fn remove_and_prune(base: &Path, path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    let below_base = path.ancestors().skip(1).take_while(|parent| parent.starts_with(base) && *parent != base);
    for parent in below_base {
        match fs::remove_dir(parent) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // Not empty, or held by somebody: either way it stays.
            Err(_) => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
