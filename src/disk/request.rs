//! What a disk is asked to be: its path and its driver, as types.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::name::{BdevName, DiskName, LvsName};
use crate::{Error, Result};

/// Longest path of a disk: Linux' `PATH_MAX` with the NUL.
const PATH_LIMIT: usize = 4095;

/// A disk to be created, or found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRequest {
    /// Its name, and that of its lvstore and bdev.
    pub name: DiskName,
    /// The lvstore that must be there. With none given an empty device is formatted.
    pub uuid: Option<Uuid>,
    /// Where it is.
    pub path: DiskPath,
    /// How it is driven.
    pub driver: DiskDriver,
    /// Bytes in a logical block.
    pub block_size: BlockSize,
}

impl DiskRequest {
    /// The name of its lvstore. Shorter than an object's name may be, so this is where a long one is refused.
    pub fn lvs_name(&self) -> Result<LvsName> {
        LvsName::parse(self.name.as_str()).map_err(|error| Error::name("disk_name", error))
    }

    /// The name of its bdev.
    pub fn bdev_name(&self) -> Result<BdevName> {
        BdevName::parse(self.name.as_str()).map_err(|error| Error::name("disk_name", error))
    }
}

/// A file or block device, or a PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskPath {
    /// An absolute path, as given.
    File(PathBuf),
    /// A PCI address like `0000:3b:00.0`, lower case.
    Pci(String),
}

impl DiskPath {
    /// Parses an absolute path or a PCI address (`engine-behaviour` §2).
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |problem: &str| Err(Error::invalid("disk_path", problem));
        if text.trim().is_empty() {
            return refused("must not be empty");
        }
        if text.len() > PATH_LIMIT {
            return refused("is longer than a path can be");
        }
        if text.contains('\0') {
            return refused("has a NUL character");
        }
        let lower = text.to_ascii_lowercase();
        if is_pci_address(&lower) {
            return Ok(Self::Pci(lower));
        }
        match Path::new(text).is_absolute() {
            true => Ok(Self::File(PathBuf::from(text))),
            false => refused("is neither an absolute path nor a PCI address like 0000:3b:00.0"),
        }
    }
}

impl std::fmt::Display for DiskPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Pci(address) => f.write_str(address),
        }
    }
}

/// `dddd:bb:dd.f` in lower-case hexadecimal.
fn is_pci_address(text: &str) -> bool {
    let form = b"xxxx:xx:xx.x";
    text.len() == form.len()
        && text.bytes().zip(form).all(|(byte, form)| match form {
            b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            other => byte == *other,
        })
}

/// How a disk is driven, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskDriver {
    /// As its path says: a PCI address by the kernel driver that holds it now, all else by `aio`.
    Auto,
    /// Linux' asynchronous I/O on a file or block device.
    Aio,
    /// SPDK's own NVMe driver.
    Nvme,
    /// SPDK's driver of virtio block devices.
    VirtioBlk,
    /// SPDK's driver of virtio SCSI adapters.
    VirtioScsi,
    /// One of the two above, whichever the function is.
    VirtioPci,
}

impl DiskDriver {
    /// Parses the wire's word; empty means auto.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "" | "auto" => Ok(Self::Auto),
            "aio" => Ok(Self::Aio),
            "nvme" => Ok(Self::Nvme),
            "virtio-blk" => Ok(Self::VirtioBlk),
            "virtio-scsi" => Ok(Self::VirtioScsi),
            "virtio-pci" => Ok(Self::VirtioPci),
            other => Err(Error::invalid(
                "disk_driver",
                format!("{other:?} is not one of auto, aio, nvme, virtio-blk, virtio-scsi, virtio-pci"),
            )),
        }
    }

    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Aio => "aio",
            Self::Nvme => "nvme",
            Self::VirtioBlk => "virtio-blk",
            Self::VirtioScsi => "virtio-scsi",
            Self::VirtioPci => "virtio-pci",
        }
    }
}

/// Bytes in a logical block of a disk: 512 or 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// Parses the wire's number; 0 means 512, which is what Longhorn's manager asks for.
    pub fn parse(bytes: i64) -> Result<Self> {
        match bytes {
            0 | 512 => Ok(Self::B512),
            4096 => Ok(Self::B4096),
            other => Err(Error::invalid("block_size", format!("{other} is neither 512 nor 4096"))),
        }
    }

    /// The number.
    pub fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_pci_addresses_are_told_apart() {
        assert_eq!(DiskPath::parse("/dev/sdb").unwrap(), DiskPath::File("/dev/sdb".into()));
        assert_eq!(DiskPath::parse("0000:3B:00.0").unwrap(), DiskPath::Pci("0000:3b:00.0".into()));
        assert_eq!(DiskPath::parse("/0000:3b:00.0").unwrap(), DiskPath::File("/0000:3b:00.0".into()));
        for refused in ["", " ", "relative", "/a\0b", "0000:3b:00", "0000:3g:00.0", &format!("/{}", "a".repeat(4095))] {
            assert!(matches!(DiskPath::parse(refused), Err(Error::InvalidArgument { .. })), "{refused:?} was taken");
        }
    }

    #[test]
    fn drivers_and_block_sizes_are_a_closed_set() {
        assert_eq!(DiskDriver::parse("").unwrap(), DiskDriver::Auto);
        for word in ["auto", "aio", "nvme", "virtio-blk", "virtio-scsi", "virtio-pci"] {
            assert_eq!(DiskDriver::parse(word).unwrap().as_str(), word);
        }
        for refused in ["Aio", "virtio", "uring", " aio"] {
            assert!(matches!(DiskDriver::parse(refused), Err(Error::InvalidArgument { .. })), "{refused:?}");
        }
        assert_eq!(BlockSize::parse(0).unwrap().bytes(), 512);
        for refused in [-512, 1, 1024, 4097, i64::MAX] {
            assert!(BlockSize::parse(refused).is_err(), "{refused}");
        }
    }
}
