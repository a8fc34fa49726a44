//! Backups that Longhorn wrote, and the images that they must restore to (shared/fixtures/backupstore/README.md).

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::random::pattern;

const STORE: &str = "shared/fixtures/backupstore";

/// What `manifest.json` says of all volumes.
#[derive(Deserialize)]
pub struct Fixtures {
    #[serde(skip)]
    directory: PathBuf,
    store_dir: String,
    pub volumes: Vec<Volume>,
}

#[derive(Deserialize)]
pub struct Volume {
    pub name: String,
    pub initial_size: u64,
    /// Every restore makes a volume of this size, that of an older and smaller backup too.
    pub restore_size: u64,
    pub block_size: u64,
    /// In the order they were taken.
    pub backups: Vec<Backup>,
    #[serde(default)]
    pub incremental_restores: Vec<IncrementalRestore>,
}

#[derive(Deserialize)]
pub struct Backup {
    pub name: String,
    pub snapshot: String,
    pub state: BackupState,
    pub size_at_backup: u64,
    ops: Vec<Op>,
    /// Of the image at `restore_size`; none for a backup that was never finished.
    pub image_sha256: Option<String>,
    /// The restore must fail, with this in its message.
    pub restore_error_contains: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupState {
    Complete,
    InProgress,
    Deleted,
    Lost,
}

/// A device that holds `from`, and `to` restored on top.
#[derive(Deserialize)]
pub struct IncrementalRestore {
    pub from: String,
    pub to: String,
    pub image_sha256: String,
    pub needs_zeroing: bool,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Op {
    Prng { offset: usize, length: usize, seed: String, entropy: usize },
    Fill { offset: usize, length: usize, byte: u8 },
    Copy { offset: usize, length: usize, from: usize },
    Unmap { offset: usize, length: usize },
}

impl Fixtures {
    /// Reads the manifest. The fixtures lie in a `shared` folder beside the checkout, or further up.
    pub fn load() -> Self {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
        let directory = checkout
            .ancestors()
            .map(|directory| directory.join(STORE))
            .find(|directory| directory.join("manifest.json").is_file())
            .unwrap_or_else(|| panic!("no {STORE}/manifest.json in {} or above it", checkout.display()));
        let manifest = fs::read(directory.join("manifest.json")).expect("a readable manifest");
        let fixtures: Fixtures = serde_json::from_slice(&manifest).expect("a manifest of the known form");
        Fixtures { directory, ..fixtures }
    }

    /// The backup target root; read-only, even a restore would leave a lock file in it.
    pub fn store(&self) -> PathBuf {
        self.directory.join(&self.store_dir)
    }

    /// A copy of the backup target root for a test that writes, at `directory/store`.
    pub fn copy_store(&self, directory: &Path) -> PathBuf {
        let copy = directory.join("store");
        copy_tree(&self.store(), &copy);
        copy
    }

    pub fn volume(&self, name: &str) -> &Volume {
        self.volumes.iter().find(|volume| volume.name == name).unwrap_or_else(|| panic!("no fixture volume {name}"))
    }
}

impl Volume {
    pub fn backup(&self, name: &str) -> &Backup {
        self.backups
            .iter()
            .find(|backup| backup.name == name)
            .unwrap_or_else(|| panic!("no backup {name} of {}", self.name))
    }

    /// What a full restore of that backup must yield, byte for byte.
    pub fn image(&self, backup: &str) -> Vec<u8> {
        let last = self.backup(backup);
        let mut image = vec![0; self.initial_size as usize];
        for backup in &self.backups {
            image.resize(backup.size_at_backup as usize, 0);
            backup.ops.iter().for_each(|op| op.apply(&mut image));
            if std::ptr::eq(backup, last) {
                break;
            }
        }
        image.resize(self.restore_size as usize, 0);
        image
    }
}

impl Op {
    fn apply(&self, image: &mut [u8]) {
        match *self {
            Op::Prng { offset, length, ref seed, entropy } => {
                let seed = seed.parse().expect("a decimal seed");
                image[offset..offset + length].copy_from_slice(&pattern(seed, entropy, length));
            }
            Op::Fill { offset, length, byte } => image[offset..offset + length].fill(byte),
            Op::Copy { offset, length, from } => image.copy_within(from..from + length, offset),
            Op::Unmap { offset, length } => image[offset..offset + length].fill(0),
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory for the copy");
    for entry in fs::read_dir(from).expect("a readable fixture directory") {
        let entry = entry.expect("a directory entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a copied fixture");
        }
    }
}
