//! Device nodes under a stable name: `/dev/longhorn/<volume>`.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use uuid::Uuid;

use super::sysfs::Device;
use crate::name::VolumeName;

/// The directory of all nodes, below `/dev`.
const FOLDER: &str = "longhorn";

/// Where users of this host find a volume.
pub fn endpoint(volume: &VolumeName) -> PathBuf {
    // A volume's name has no slash and does not start with a dot.
    Path::new("/dev").join(FOLDER).join(volume.as_str())
}

/// Device nodes below a `/dev`, which may be seen at another place from here.
#[derive(Debug, Clone)]
pub struct Nodes(PathBuf);

impl Nodes {
    /// Those below that `/dev`.
    pub fn at(dev: &Path) -> Self {
        Self(dev.join(FOLDER))
    }

    /// Where a volume's node is, seen from here.
    pub fn path(&self, volume: &VolumeName) -> PathBuf {
        self.0.join(volume.as_str())
    }

    /// Makes the volume's node that of the device; at no moment is there half a node.
    pub fn place(&self, volume: &VolumeName, device: &Device) -> io::Result<()> {
        let path = self.path(volume);
        let number = makedev(device.major, device.minor);
        if fs::symlink_metadata(&path).is_ok_and(|there| there.file_type().is_block_device() && there.rdev() == number)
        {
            return Ok(());
        }
        fs::create_dir_all(&self.0)?;
        // By a digest, as a volume's name may fill a file's.
        let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, volume.as_str().as_bytes()).simple();
        let temporary = self.0.join(format!(".{digest}.tmp"));
        remove(&temporary)?;
        mknod(&temporary, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, number)?;
        fs::rename(&temporary, &path)
    }

    /// Removes the volume's node; that there is none is no error.
    pub fn remove(&self, volume: &VolumeName) -> io::Result<()> {
        remove(&self.path(volume))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_made_replaced_and_removed() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root makes device nodes");
            return;
        }
        let dev = tempfile::tempdir().unwrap();
        let nodes = Nodes::at(dev.path());
        let volume = VolumeName::parse("v1").unwrap();
        let device = |minor| Device { name: "nvme0n1".into(), major: 259, minor, size: 1 << 20, nguid: None };
        let placed = || fs::symlink_metadata(nodes.path(&volume)).unwrap();
        nodes.remove(&volume).unwrap();
        nodes.place(&volume, &device(3)).unwrap();
        let first = placed();
        assert!(first.file_type().is_block_device());
        assert_eq!(first.rdev(), makedev(259, 3));
        nodes.place(&volume, &device(3)).unwrap();
        assert_eq!(placed().ino(), first.ino(), "the same node is left alone");
        nodes.place(&volume, &device(4)).unwrap();
        assert_eq!(placed().rdev(), makedev(259, 4));
        nodes.remove(&volume).unwrap();
        assert!(!nodes.path(&volume).exists());
        assert_eq!(endpoint(&volume), Path::new("/dev/longhorn/v1"));
    }
}
