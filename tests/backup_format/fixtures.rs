//! The golden store: where it is, what its manifest says, and copies of it to write to.

use std::fs;
use std::path::{Path, PathBuf};

use corriente::backup::format::layout;
use corriente::backup::{Target, TargetUrl};
use corriente::name::{BackupName, VolumeName};
use serde::Deserialize;

use crate::image::Op;

#[derive(Deserialize)]
pub struct Manifest {
    pub volumes: Vec<VolumeEntry>,
}

#[derive(Deserialize)]
pub struct VolumeEntry {
    pub name: String,
    pub dir: String,
    pub initial_size: u64,
    pub restore_size: u64,
    pub block_size: u64,
    pub compression_in_volume_cfg: String,
    pub data_engine_after_load: String,
    pub last_backup_name: String,
    pub block_count_in_volume_cfg: u64,
    pub block_files_on_disk: usize,
    pub backups: Vec<BackupEntry>,
    #[serde(default)]
    pub incremental_restores: Vec<PairEntry>,
}

#[derive(Deserialize)]
pub struct BackupEntry {
    pub name: String,
    pub snapshot: String,
    pub snapshot_created_at: String,
    pub state: String,
    pub requested_mode: String,
    pub incremental_base: Option<String>,
    pub is_incremental: bool,
    pub size_at_backup: u64,
    pub ops: Vec<Op>,
    #[serde(default)]
    pub changed_blocks: Vec<(u64, u64)>,
    #[serde(default)]
    pub block_offsets: Vec<u64>,
    pub compression_in_cfg: Option<String>,
    pub image_sha256: Option<String>,
}

#[derive(Deserialize)]
pub struct PairEntry {
    pub from: String,
    pub to: String,
    pub image_sha256: String,
    pub blocks_to_write: u64,
    pub blocks_to_zero: u64,
}

impl VolumeEntry {
    pub fn volume(&self) -> VolumeName {
        VolumeName::parse(&self.name).unwrap()
    }

    pub fn complete(&self) -> impl Iterator<Item = &BackupEntry> {
        self.backups.iter().filter(|backup| backup.state == "complete")
    }
}

impl BackupEntry {
    pub fn backup(&self) -> BackupName {
        BackupName::parse(&self.name).unwrap()
    }
}

/// The golden store, never written to.
pub struct Golden {
    directory: PathBuf,
    pub manifest: Manifest,
}

impl Golden {
    /// `None`, with a line that says so, when the fixtures are not on this machine.
    pub fn find() -> Option<Self> {
        let places = match std::env::var_os("CORRIENTE_FIXTURES") {
            Some(place) => vec![PathBuf::from(place)],
            None => ["../shared", "/work/shared"]
                .map(|shared| Path::new(env!("CARGO_MANIFEST_DIR")).join(shared).join("fixtures/backupstore"))
                .into(),
        };
        let Some(directory) = places.iter().find(|place| place.join("manifest.json").exists()) else {
            println!("SKIPPED: no golden fixtures in {places:?}; set CORRIENTE_FIXTURES to their directory");
            return None;
        };
        let manifest = serde_json::from_slice(&fs::read(directory.join("manifest.json")).unwrap()).unwrap();
        Some(Self { directory: directory.clone(), manifest })
    }

    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// A copy of one volume, to lock and to write to.
    pub fn copy(&self, volume: &VolumeEntry) -> Copy {
        let root = tempfile::tempdir().unwrap();
        copy_tree(&self.store().join(&volume.dir), &root.path().join(&volume.dir));
        Copy { root }
    }
}

/// A store of one's own; gone when dropped.
pub struct Copy {
    root: tempfile::TempDir,
}

impl Copy {
    pub fn empty() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn target(&self) -> Target {
        let url = TargetUrl::parse(&format!("vfs://{}", self.root.path().display())).unwrap();
        Target::open(&url).unwrap()
    }

    pub fn block_files(&self, volume: &VolumeName) -> Vec<PathBuf> {
        block_files(&self.root.path().join(layout::volume(volume).as_str()))
    }
}

/// All block files of the volume in `directory`, sorted.
pub fn block_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&directory.join("blocks"), &mut |file| {
        if file.extension().is_some_and(|extension| extension == "blk") {
            found.push(file.to_owned());
        }
    });
    found.sort();
    found
}

pub fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, visit) } else { visit(&path) }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            // Content only: the fixtures may be read-only and the copy must not be.
            fs::write(&target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}
