//! Durable records: what the node must know after a restart, one small JSON file an object below the state directory.
//!
//! A file is replaced whole: written beside, made durable, renamed, and the directory made durable. A file that cannot be
//! read as what it should be is not guessed at: it is logged and set aside under another name, where nobody overwrites it.

use std::fs::File;
use std::io::Write;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, Result};

/// What is kept of one kind of objects.
pub trait Record: Serialize + DeserializeOwned + Send + 'static {
    /// The directory below the state directory.
    const FOLDER: &'static str;
    /// The version of the content; a file of another version is set aside.
    const VERSION: u32;
    /// The object's name, which no other object of the kind has.
    fn name(&self) -> &str;
}

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<R> {
    version: u32,
    record: R,
}

/// The records of one kind. Cheap to clone.
pub struct Records<R> {
    directory: PathBuf,
    /// Changes go one at a time, so that the last one asked for is the one that stays.
    turn: Arc<tokio::sync::Mutex<()>>,
    kind: PhantomData<fn() -> R>,
}

impl<R> Clone for Records<R> {
    fn clone(&self) -> Self {
        Self { directory: self.directory.clone(), turn: self.turn.clone(), kind: PhantomData }
    }
}

impl<R: Record> Records<R> {
    /// Those below the node's state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { directory: state_dir.join(R::FOLDER), turn: Arc::default(), kind: PhantomData }
    }

    /// Writes what `record` gives when it is this record's turn; durable on return. `None` leaves everything as it is.
    pub async fn write(&self, record: impl FnOnce() -> Option<R> + Send) -> Result<()> {
        let _turn = self.turn.lock().await;
        let Some(record) = record() else { return Ok(()) };
        let this = self.clone();
        blocking(move || {
            let path = this.path(record.name());
            let envelope = Envelope { version: R::VERSION, record };
            let text = serde_json::to_vec_pretty(&envelope)
                .map_err(|error| Error::internal(path.display(), error.to_string()))?;
            this.replace(&path, &text).map_err(|error| failed(&path, "written", &error))
        })
        .await
    }

    /// Removes an object's record; that there is none is no error. Durable on return.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (directory, path) = (self.directory.clone(), self.path(name));
        blocking(move || match std::fs::remove_file(&path) {
            Ok(()) => sync(&directory).map_err(|error| failed(&path, "removed", &error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(&path, "removed", &error)),
        })
        .await
    }

    /// All records. Those that cannot be read are logged and set aside.
    pub async fn read_all(&self) -> Result<Vec<R>> {
        let this = self.clone();
        blocking(move || this.read_now()).await
    }

    fn read_now(&self) -> Result<Vec<R>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::medium(self.directory.display(), error.to_string())),
        };
        let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        paths.sort();
        let mut records = Vec::new();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
            match self.read(path) {
                Ok(record) => records.push(record),
                Err(error) => set_aside(path, &error),
            }
        }
        Ok(records)
    }

    fn read(&self, path: &Path) -> Result<R> {
        let corrupt = |problem: String| Error::Corruption { object: path.display().to_string(), problem };
        let text = std::fs::read(path).map_err(|error| Error::medium(path.display(), error.to_string()))?;
        let any: Envelope<serde::de::IgnoredAny> =
            serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if any.version != R::VERSION {
            return Err(corrupt(format!("its version {} is not {}", any.version, R::VERSION)));
        }
        let envelope: Envelope<R> = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if self.path(envelope.record.name()) != path {
            return Err(corrupt(format!("it is the record of {}, under another's name", envelope.record.name())));
        }
        Ok(envelope.record)
    }

    fn replace(&self, path: &Path, text: &[u8]) -> std::io::Result<()> {
        if !self.directory.exists() {
            std::fs::create_dir_all(&self.directory)?;
            // Else a power failure could take the directory, and with it every record that was durable in it.
            self.directory.parent().map_or(Ok(()), sync)?;
        }
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync(&self.directory)
    }

    /// Names have neither a slash nor a dot in front; a long one is shortened by a digest, as a file's name has its limit.
    fn path(&self, name: &str) -> PathBuf {
        const KEPT: usize = 160;
        match name.len() <= KEPT {
            true => self.directory.join(format!("{name}.json")),
            false => {
                let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).simple();
                self.directory.join(format!("{}~{digest}.json", &name[..KEPT]))
            }
        }
    }
}

fn sync(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Error {
    Error::medium(path.display(), format!("the record cannot be {what}: {error}"))
}

/// Moves a file away, to `<name>.unreadable`, or `.unreadable.<n>` when that is taken.
fn set_aside(path: &Path, problem: &Error) {
    const TRIES: u32 = 1000;
    let candidate = |number: u32| match number {
        0 => path.with_extension("unreadable"),
        number => path.with_extension(format!("unreadable.{number}")),
    };
    let moved = match (0..TRIES).map(candidate).find(|aside| !aside.exists()) {
        Some(aside) => std::fs::rename(path, &aside).map(|()| aside),
        None => Err(std::io::Error::other("there are too many such files already")),
    };
    match moved {
        Ok(aside) => {
            tracing::error!(path = %path.display(), %problem, aside = %aside.display(), "a record is unreadable and was set aside");
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %problem, %error, "a record is unreadable and could not be set aside");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::internal("work on a record", error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        name: String,
        size: u64,
    }

    impl Record for Thing {
        const FOLDER: &'static str = "things";
        const VERSION: u32 = 3;

        fn name(&self) -> &str {
            &self.name
        }
    }

    fn thing(name: &str, size: u64) -> Thing {
        Thing { name: name.into(), size }
    }

    #[tokio::test]
    async fn the_last_write_is_what_is_read_and_a_removed_record_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::<Thing>::new(directory.path());
        assert_eq!(records.read_all().await.unwrap(), Vec::new());
        let long = "n".repeat(253);
        for (name, size) in [("a", 1), ("a", 2), (long.as_str(), 3)] {
            records.write(|| Some(thing(name, size))).await.unwrap();
        }
        records.write(|| None).await.unwrap();
        assert_eq!(records.read_all().await.unwrap(), [thing("a", 2), thing(&long, 3)]);
        records.remove("a").await.unwrap();
        records.remove("a").await.unwrap();
        assert_eq!(records.read_all().await.unwrap(), [thing(&long, 3)]);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_set_aside_and_hides_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("things");
        let records = Records::<Thing>::new(directory.path());
        records.write(|| Some(thing("good", 1))).await.unwrap();
        let good = std::fs::read_to_string(folder.join("good.json")).unwrap();
        for (name, text) in [
            ("half", good[..good.len() / 2].to_owned()),
            ("later", good.replace("\"version\": 3", "\"version\": 4")),
            ("other", good.clone()),
            ("more", good.replace("\"size\"", "\"new\": 1, \"size\"").replace("good", "more")),
        ] {
            std::fs::write(folder.join(format!("{name}.json")), text).unwrap();
        }
        std::fs::write(folder.join("half.unreadable"), "of an earlier time").unwrap();
        std::fs::write(folder.join("cut.tmp"), "half a record").unwrap();
        assert_eq!(records.read_all().await.unwrap(), [thing("good", 1)]);
        for aside in ["half.unreadable", "half.unreadable.1", "later.unreadable", "other.unreadable", "more.unreadable"]
        {
            assert!(folder.join(aside).exists(), "{aside}");
        }
        assert_eq!(std::fs::read_to_string(folder.join("half.unreadable")).unwrap(), "of an earlier time");
        assert_eq!(records.read_all().await.unwrap(), [thing("good", 1)], "and once more");
    }
}
