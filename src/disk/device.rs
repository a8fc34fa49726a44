//! A file or block device before SPDK opens it: held against other programs, measured, and looked at for foreign data.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use super::request::BlockSize;
use super::signature::{self, PROBE_LENGTH};
use crate::{Error, Result};

/// A file or block device that is ours alone while this exists.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) size: u64,
}

/// What makes two paths the same device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// A block device: its major and minor numbers.
    Block(u64, u64),
    /// A file: its file system's numbers, and its inode.
    File(u64, u64, u64),
}

impl std::fmt::Display for Identity {
    /// The wire's id: `<major>-<minor>`, and the inode behind that for a file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Block(major, minor) => write!(f, "{major}-{minor}"),
            Self::File(major, minor, inode) => write!(f, "{major}-{minor}-{inode}"),
        }
    }
}

/// Checks that a path leads to something that can become a disk. Fast; for the caller of a create.
pub(super) fn check_path(path: &Path) -> Result<()> {
    let refused = |problem: String| Error::invalid("disk_path", format!("{}: {problem}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    let kind = metadata.file_type();
    if !kind.is_block_device() && !kind.is_file() {
        return Err(refused("is neither a block device nor a file".into()));
    }
    Ok(())
}

impl Device {
    /// Opens and locks the device, and measures it. Blocks.
    pub(super) fn open(path: &Path, block_size: BlockSize) -> Result<Self> {
        let failed = |problem: String| Error::medium(path.display(), problem);
        check_path(path)?;
        let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        let is_block = metadata.file_type().is_block_device();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if is_block {
            // The kernel refuses it while the device is mounted, or part of a RAID, a volume group or a mapping.
            options.custom_flags(libc::O_EXCL);
        }
        let mut file = options.open(path).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => Error::precondition(path.display(), "it is mounted or in use by another driver"),
            _ => failed(error.to_string()),
        })?;
        file.try_lock().map_err(|_| {
            Error::precondition(path.display(), "another program holds a lock on it, such as another node's process")
        })?;
        let identity = if is_block {
            Identity::Block(major(metadata.rdev()), minor(metadata.rdev()))
        } else {
            Identity::File(major(metadata.dev()), minor(metadata.dev()), metadata.ino())
        };
        let size = file.seek(SeekFrom::End(0)).map_err(|error| failed(error.to_string()))?;
        check_size(path, size, block_size, identity)?;
        Ok(Self { file, path: path.to_owned(), identity, size })
    }

    /// Refuses a device that carries something of somebody else. Blocks.
    pub(super) fn check_vacant(&self) -> Result<()> {
        let mut start = Vec::with_capacity(PROBE_LENGTH);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.take(PROBE_LENGTH as u64).read_to_end(&mut start))
            .map_err(|error| Error::medium(self.path.display(), format!("its start cannot be read: {error}")))?;
        check_carried(&self.path.display(), &start)?;
        // A file that is to become a disk is made for it; a used block device may hold remains of anything.
        match self.identity {
            Identity::File(..) if !signature::is_blank(&start) => Err(carries(&self.path.display(), "data")),
            _ => Ok(()),
        }
    }

    /// Makes all of the device read as zeroes if the device can do that without writing them. Blocks.
    pub(super) fn zero_quickly(&self) -> bool {
        let allocated = match (self.identity, self.file.metadata()) {
            (Identity::File(..), Ok(metadata)) => metadata.blocks() * 512,
            _ => self.size,
        };
        // A file that has its space keeps it; a sparse one stays sparse. A block device takes a punched hole only
        // if it promises zeroes afterwards.
        let flags = match self.identity {
            Identity::File(..) if allocated == 0 => return true,
            Identity::File(..) if allocated >= self.size => FallocateFlags::FALLOC_FL_ZERO_RANGE,
            _ => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
        };
        let Ok(length) = i64::try_from(self.size) else { return false };
        fallocate(&self.file, flags | FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length).is_ok()
    }
}

/// Refuses a device whose start says that it carries something of somebody else.
pub(super) fn check_carried(device: &impl ToString, start: &[u8]) -> Result<()> {
    match signature::find(start) {
        Some(kind) => Err(carries(device, kind)),
        None => Ok(()),
    }
}

fn carries(device: &impl ToString, what: &str) -> Error {
    let wipe = "wipe it first (wipefs -a, blkdiscard) if that is meant";
    Error::precondition(device.to_string(), format!("it carries {what}, and no lvstore; it is not overwritten: {wipe}"))
}

fn check_size(path: &Path, size: u64, block_size: BlockSize, identity: Identity) -> Result<()> {
    let refused = |problem: String| Err(Error::precondition(path.display(), problem));
    let bytes = u64::from(block_size.bytes());
    if size == 0 {
        return refused("it has no bytes".into());
    }
    if !size.is_multiple_of(bytes) {
        return refused(format!("its {size} bytes are not whole blocks of {bytes}"));
    }
    match logical_block_size(identity) {
        Some(native) if native > bytes => {
            refused(format!("its own blocks have {native} bytes, so a block size of {bytes} is not possible"))
        }
        _ => Ok(()),
    }
}

/// What the kernel says of a block device; a partition asks its whole disk.
fn logical_block_size(identity: Identity) -> Option<u64> {
    let Identity::Block(major, minor) = identity else { return None };
    let device = format!("/sys/dev/block/{major}:{minor}");
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| std::fs::read_to_string(format!("{device}/{queue}/logical_block_size")).ok())
        .and_then(|text| text.trim().parse().ok())
}

fn major(device: u64) -> u64 {
    nix::sys::stat::major(device)
}

fn minor(device: u64) -> u64 {
    nix::sys::stat::minor(device)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file_of(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    #[test]
    fn a_new_file_is_vacant_and_becomes_zeroes() {
        let file = file_of(8 << 20);
        let device = Device::open(file.path(), BlockSize::B4096).unwrap();
        device.check_vacant().unwrap();
        assert!(device.zero_quickly());
        assert_eq!(device.size, 8 << 20);
    }

    #[test]
    fn old_data_behind_a_blank_start_reads_as_zeroes_afterwards() {
        let mut file = file_of(8 << 20);
        file.as_file_mut().seek(SeekFrom::Start(4 << 20)).unwrap();
        file.write_all(b"secret").unwrap();
        let device = Device::open(file.path(), BlockSize::B512).unwrap();
        device.check_vacant().unwrap();
        if device.zero_quickly() {
            let content = std::fs::read(file.path()).unwrap();
            assert_eq!(content.len(), 8 << 20);
            assert!(signature::is_blank(&content));
        }
    }

    #[test]
    fn a_file_with_anything_in_it_is_not_formatted() {
        let mut file = file_of(2 << 20);
        file.write_all(b"hello").unwrap();
        let device = Device::open(file.path(), BlockSize::B512).unwrap();
        let refused = device.check_vacant().unwrap_err().to_string();
        assert!(refused.contains("carries data"), "{refused}");
    }

    #[test]
    fn a_device_is_opened_once() {
        let file = file_of(1 << 20);
        let first = Device::open(file.path(), BlockSize::B512).unwrap();
        assert!(matches!(Device::open(file.path(), BlockSize::B512), Err(Error::Precondition { .. })));
        drop(first);
        assert!(Device::open(file.path(), BlockSize::B512).is_ok());
    }

    #[test]
    fn sizes_and_kinds_that_cannot_be_a_disk_are_refused() {
        assert!(Device::open(file_of(0).path(), BlockSize::B512).is_err());
        assert!(Device::open(file_of(512 * 9).path(), BlockSize::B4096).is_err());
        assert!(matches!(check_path(Path::new("/")), Err(Error::InvalidArgument { .. })));
        assert!(matches!(check_path(Path::new("/no/such/path")), Err(Error::InvalidArgument { .. })));
    }
}
