//! Where things are below a target: the names of directories and files (§2).

use std::fmt;

use crate::name::{BackupName, VolumeName};

use super::digest::{Digest, name_prefix};

/// The directory below the target path that holds everything.
pub const BASE: &str = "backupstore";
/// What Longhorn uses as a volume name to lock backing images; such a directory holds no volume (§15).
pub const BACKING_IMAGE_LOCKS: &str = "BACKINGIMAGE";

const BACKUP_PREFIX: &str = "backup_";
const CONFIG_SUFFIX: &str = ".cfg";
const BLOCK_SUFFIX: &str = ".blk";
/// How lock files end; others in the directory are left-overs of writers that died.
pub const LOCK_SUFFIX: &str = ".lck";

/// The path of an object relative to the target's path, `/` between elements. Made only here, so it cannot leave
/// the target.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(String);

impl StorePath {
    /// The path as text, without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A child by a name that the store itself listed or one of our name types holds; `None` if it is no plain name.
    pub fn child(&self, name: &str) -> Option<Self> {
        let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
        plain.then(|| Self(format!("{}/{name}", self.0)))
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePath({:?})", self.0)
    }
}

/// Where all volumes are: two levels of hash directories, then one directory a volume.
pub fn volumes() -> StorePath {
    StorePath(format!("{BASE}/volumes"))
}

/// The directory of a volume.
pub fn volume(volume: &VolumeName) -> StorePath {
    let prefix = name_prefix(volume.as_str());
    StorePath(format!("{BASE}/volumes/{}/{}/{volume}", &prefix[..2], &prefix[2..]))
}

/// The volume's cfg file.
pub fn volume_config(name: &VolumeName) -> StorePath {
    StorePath(format!("{}/volume.cfg", volume(name)))
}

/// The directory of the volume's backup cfg files.
pub fn backups(name: &VolumeName) -> StorePath {
    StorePath(format!("{}/backups", volume(name)))
}

/// A backup's cfg file.
pub fn backup_config(name: &VolumeName, backup: &BackupName) -> StorePath {
    StorePath(format!("{}/{BACKUP_PREFIX}{backup}{CONFIG_SUFFIX}", backups(name)))
}

/// The backup that a file in [`backups`] describes, or `None` if it is no backup cfg.
pub fn backup_of_file(file: &str) -> Option<BackupName> {
    let name = file.strip_prefix(BACKUP_PREFIX)?.strip_suffix(CONFIG_SUFFIX)?;
    BackupName::parse(name).ok()
}

/// A block's file. Blocks are shared by the backups of one volume, never across volumes.
pub fn block(name: &VolumeName, digest: &Digest) -> StorePath {
    let text = digest.to_string();
    StorePath(format!("{}/blocks/{}/{}/{text}{BLOCK_SUFFIX}", volume(name), &text[..2], &text[2..4]))
}

/// The directory of the volume's lock files.
pub fn locks(name: &VolumeName) -> StorePath {
    StorePath(format!("{}/locks", volume(name)))
}

/// The file of the lock called `lock`, which is `lock-` and 16 hexadecimal digits of `identity`.
pub fn lock(name: &VolumeName, lock: &str) -> StorePath {
    StorePath(format!("{}/{lock}{LOCK_SUFFIX}", locks(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_fact_sheet() {
        let name = VolumeName::parse("pvc-5f2d1c7e-lz4").unwrap();
        assert_eq!(volume(&name).as_str(), "backupstore/volumes/0b/95/pvc-5f2d1c7e-lz4");
        let backup = BackupName::parse("backup-0123456789abcdef").unwrap();
        let path = backup_config(&name, &backup);
        assert!(path.as_str().ends_with("/backups/backup_backup-0123456789abcdef.cfg"));
        assert_eq!(backup_of_file("backup_backup-0123456789abcdef.cfg"), Some(backup));
        assert_eq!(backup_of_file("backup_x.cfg.tmp.17"), None);
        assert_eq!(backup_of_file("backup_../x.cfg"), None);
        let digest = Digest::of(b"");
        let text = digest.to_string();
        let expected = format!("/blocks/{}/{}/{text}.blk", &text[..2], &text[2..4]);
        assert!(block(&name, &digest).as_str().ends_with(&expected));
    }

    #[test]
    fn a_child_cannot_leave_its_directory() {
        for refused in ["", ".", "..", "a/b", "/etc", "a\0"] {
            assert!(volumes().child(refused).is_none(), "{refused:?} was taken");
        }
    }
}
