//! What is remembered of a disk between two runs of the node: one small JSON file a disk, replaced atomically.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::request::{BlockSize, DiskDriver, DiskPath, DiskRequest};
use crate::name::DiskName;
use crate::{Error, Result};

/// The file's content. Every field is text or number as on the wire, and parsed again when it is read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    name: DiskName,
    uuid: Uuid,
    path: String,
    driver: String,
    block_size: u32,
}

const VERSION: u32 = 1;

/// The directory of all records.
#[derive(Debug, Clone)]
pub(super) struct Records(PathBuf);

impl Records {
    /// Records below the node's state directory.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("disks"))
    }

    /// Writes the record of a disk whose lvstore is `uuid`; durable on return. `driver` is the one in use: after a crash
    /// `auto` could not tell what a device is that user space still has. Blocks.
    pub(super) fn write(&self, request: &DiskRequest, driver: DiskDriver, uuid: Uuid) -> Result<()> {
        let record = Record {
            version: VERSION,
            name: request.name.clone(),
            uuid,
            path: request.path.to_string(),
            driver: driver.as_str().into(),
            block_size: request.block_size.bytes(),
        };
        let text = serde_json::to_vec_pretty(&record).map_err(|error| Error::internal("record", error.to_string()))?;
        self.replace(&request.name, &text).map_err(|error| self.failed(&request.name, "written", &error))
    }

    /// Removes a disk's record; that there is none is no error. Durable on return. Blocks.
    pub(super) fn remove(&self, name: &DiskName) -> Result<()> {
        let removed = match std::fs::remove_file(self.path(name)) {
            Ok(()) => File::open(&self.0).and_then(|directory| directory.sync_all()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|error| self.failed(name, "removed", &error))
    }

    /// All records, as the requests that bring the disks back. One that cannot be read is logged and left as it is.
    /// Blocks.
    pub(super) fn read_all(&self) -> Result<Vec<DiskRequest>> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::medium(self.0.display(), error.to_string())),
        };
        let mut requests = Vec::new();
        for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            if path.extension().is_some_and(|extension| extension == "json") {
                match read(&path) {
                    Ok(request) => requests.push(request),
                    Err(error) => tracing::error!(path = %path.display(), %error, "a disk's record is unreadable"),
                }
            }
        }
        Ok(requests)
    }

    fn replace(&self, name: &DiskName, text: &[u8]) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        let temporary = self.0.join(format!("{name}.tmp"));
        let mut file = File::create(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&temporary, self.path(name))?;
        File::open(&self.0)?.sync_all()
    }

    fn path(&self, name: &DiskName) -> PathBuf {
        // A DiskName has no slash, and does not start with a dot.
        self.0.join(format!("{name}.json"))
    }

    fn failed(&self, name: &DiskName, what: &str, error: &std::io::Error) -> Error {
        Error::medium(self.path(name).display(), format!("the disk's record cannot be {what}: {error}"))
    }
}

fn read(path: &Path) -> Result<DiskRequest> {
    let corrupt = |problem: String| Error::Corruption { object: path.display().to_string(), problem };
    let text = std::fs::read(path).map_err(|error| Error::medium(path.display(), error.to_string()))?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
    if record.version != VERSION {
        return Err(corrupt(format!("its version {} is not {VERSION}", record.version)));
    }
    Ok(DiskRequest {
        name: record.name,
        uuid: Some(record.uuid),
        path: DiskPath::parse(&record.path)?,
        driver: DiskDriver::parse(&record.driver)?,
        block_size: BlockSize::parse(record.block_size.into())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_the_request_with_its_store() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        assert_eq!(records.read_all().unwrap(), Vec::new());
        let request = DiskRequest {
            name: DiskName::parse("disk-1").unwrap(),
            uuid: None,
            path: DiskPath::parse("/dev/disk/by-id/x").unwrap(),
            driver: DiskDriver::Auto,
            block_size: BlockSize::B4096,
        };
        let uuid = Uuid::new_v4();
        records.write(&request, DiskDriver::Aio, uuid).unwrap();
        records.write(&request, DiskDriver::Aio, uuid).unwrap();
        let expected = DiskRequest { uuid: Some(uuid), driver: DiskDriver::Aio, ..request.clone() };
        assert_eq!(records.read_all().unwrap(), vec![expected]);
        records.remove(&request.name).unwrap();
        records.remove(&request.name).unwrap();
        assert_eq!(records.read_all().unwrap(), Vec::new());
    }

    #[test]
    fn an_unreadable_record_does_not_hide_the_others() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("disks")).unwrap();
        let good = r#"{"version":1,"name":"good","uuid":"a9d1f1cb-6f9a-4f9c-8d5b-0d6d3c7e2f10","path":"/d","driver":"aio","block_size":512}"#;
        let write = |name: &str, text: &str| std::fs::write(directory.path().join("disks").join(name), text).unwrap();
        write("good.json", good);
        write("half.json", &good[..40]);
        write("later.json", &good.replace("\"version\":1", "\"version\":2"));
        write("other.tmp", "half a record");
        let names: Vec<_> = Records::new(directory.path()).read_all().unwrap();
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].name.as_str(), "good");
    }
}
