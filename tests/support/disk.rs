//! Sparse files that nodes use as disks.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A sparse file; it lies in a directory of the test and goes away with that.
pub struct Disk {
    path: PathBuf,
    file: File,
}

impl Disk {
    /// Makes `directory/name`, `size` bytes of nothing.
    pub fn create(directory: &Path, name: &str, size: u64) -> Self {
        let path = directory.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("cannot create disk {}: {error}", path.display()));
        file.set_len(size).expect("a sparse file of that size");
        Disk { path, file }
    }

    /// One that was made before.
    pub fn open(directory: &Path, name: &str) -> Self {
        let path = directory.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.unwrap_or_else(|error| panic!("cannot open disk {}: {error}", path.display()));
        Disk { path, file }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that the file takes on its own disk: what a node has allocated and not given back.
    pub fn allocated(&self) -> u64 {
        // st_blocks counts units of 512 bytes whatever the file system (stat(2)).
        self.file.metadata().expect("metadata of an open file").blocks() * 512
    }

    /// Damages the medium below a stopped node.
    pub fn overwrite(&self, offset: u64, data: &[u8]) {
        self.file.write_all_at(data, offset).expect("a write inside the disk");
    }
}
