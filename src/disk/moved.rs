//! Where a disk may be whose device has another name than before: the kernel names devices in the order it meets them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::bring_up::{blocking, host_path};
use crate::Result;

/// Where the kernel lists block devices, partitions too.
const BLOCK_DEVICES: &str = "/sys/class/block";
/// What a device with an lvstore starts with.
const SIGNATURE: &[u8] = b"SPDKBLOB";

/// All block devices other than `old` that start as an lvstore does, as paths below `/dev`, in the order of their names.
/// Whose lvstore it is can only be told by loading it.
pub(super) async fn candidates(host_prefix: Option<PathBuf>, old: PathBuf) -> Result<Vec<PathBuf>> {
    blocking(move || {
        let has_store = |path: &PathBuf| *path != old && starts_as_store(&host_path(host_prefix.as_ref(), path));
        Ok(names(Path::new(BLOCK_DEVICES))
            .into_iter()
            .map(|name| Path::new("/dev").join(name))
            .filter(has_store)
            .collect())
    })
    .await
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().replace('!', "/")).collect();
    names.sort();
    names
}

/// What cannot be read is none: an empty drive, a device that is just going away.
fn starts_as_store(path: &Path) -> bool {
    let mut start = [0; SIGNATURE.len()];
    File::open(path).and_then(|mut device| device.read_exact(&mut start)).is_ok() && start == SIGNATURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_starts_as_a_store_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content, expected) in
            [("store", &b"SPDKBLOB and more"[..], true), ("short", b"SPDK", false), ("other", b"EFI PART etc.", false)]
        {
            std::fs::write(folder.path().join(name), content).unwrap();
            assert_eq!(starts_as_store(&folder.path().join(name)), expected, "{name}");
        }
        assert!(!starts_as_store(&folder.path().join("none")));
        std::fs::create_dir(folder.path().join("cciss!c0d0")).unwrap();
        assert_eq!(names(folder.path()), ["cciss/c0d0", "other", "short", "store"]);
        assert_eq!(names(Path::new("/no/such/directory")), Vec::<String>::new());
    }
}
