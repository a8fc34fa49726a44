//! What `scripts/lab fetch` has put into the cache.

use std::path::{Path, PathBuf};

/// A complete cache.
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The one of this machine; without it no test of the lab can run.
    pub fn find() -> Self {
        let root = std::env::var_os("CORRIENTE_CACHE").map_or("/var/cache/corriente".into(), PathBuf::from);
        let directory = root.join("lab/current");
        assert!(directory.join("vmlinux").exists(), "{} is not there: run scripts/lab fetch", directory.display());
        // Fetching anew moves the link, not what it names.
        Self { directory: directory.canonicalize().expect("a link to a directory") }
    }

    pub fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    pub fn busybox(&self) -> PathBuf {
        self.directory.join("root/bin/busybox")
    }

    /// A tree to be laid over the guest's root.
    pub fn modules(&self) -> PathBuf {
        self.directory.join("modules")
    }

    pub fn qemu(&self) -> PathBuf {
        self.directory.join("root/usr/bin/qemu-system-x86_64")
    }

    /// Where QEMU finds its firmware.
    pub fn firmware(&self) -> [PathBuf; 2] {
        ["root/usr/share/qemu", "root/usr/share/seabios"].map(|part| self.directory.join(part))
    }

    /// For `LD_LIBRARY_PATH`: what QEMU needs and this machine may not have installed.
    pub fn libraries(&self) -> String {
        let part = |part: &str| self.directory.join(part).display().to_string();
        format!("{}:{}", part("root/usr/lib/x86_64-linux-gnu"), part("root/lib/x86_64-linux-gnu"))
    }
}

/// All files below a directory.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}
