//! A configured and built SPDK source tree: where it is, which release, what its headers need.

use std::path::{Path, PathBuf};

/// The oldest release: what Debian's archive carries.
const OLDEST: (u32, u32) = (20, 7);
/// Between the oldest and this one nothing is tested.
const MODERN: (u32, u32) = (24, 9);

pub struct Tree {
    pub root: PathBuf,
    /// `major.minor`, e.g. `20.7`.
    pub version: String,
    major: u32,
    minor: u32,
}

impl Tree {
    pub fn find() -> Result<Self, String> {
        let root = match std::env::var_os("SPDK_DIR") {
            Some(directory) if !directory.is_empty() => PathBuf::from(directory),
            _ => cached(),
        };
        println!("cargo::rerun-if-changed={}", root.join("include/spdk/version.h").display());
        let (major, minor) = release(&root)?;
        if (major, minor) != OLDEST && (major, minor) < MODERN {
            return Err(format!(
                "SPDK {major}.{minor:02} in {} is not accepted: use 20.07, or 24.09 or newer (docs/setup.md)",
                root.display()
            ));
        }
        if !root.join("build/lib/libspdk_bdev.a").exists() {
            return Err(format!(
                "{} has no build/lib/libspdk_bdev.a: configure and build SPDK there, static (docs/setup.md)",
                root.display()
            ));
        }
        Ok(Self { root, version: format!("{major}.{minor}"), major, minor })
    }

    pub fn is_modern(&self) -> bool {
        (self.major, self.minor) >= MODERN
    }

    /// Public headers, then the module-private and internal ones that some files of the shim own.
    pub fn includes(&self) -> Vec<PathBuf> {
        ["include", "module", "lib", "dpdk/build/include", "build/include"]
            .iter()
            .map(|folder| self.root.join(folder))
            .filter(|folder| folder.exists())
            .collect()
    }
}

fn cached() -> PathBuf {
    let cache = std::env::var_os("CORRIENTE_CACHE").unwrap_or_else(|| "/var/cache/corriente".into());
    PathBuf::from(cache).join("spdk/current")
}

fn release(root: &Path) -> Result<(u32, u32), String> {
    let header = root.join("include/spdk/version.h");
    let text = std::fs::read_to_string(&header).map_err(|error| {
        format!(
            "no SPDK in {} ({error}): run scripts/setup, or set SPDK_DIR to a built tree (docs/setup.md)",
            root.display()
        )
    })?;
    let number = |name: &str| {
        text.lines()
            .filter_map(|line| line.strip_prefix("#define "))
            .filter_map(|line| line.split_once(|character: char| character.is_ascii_whitespace()))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.trim().parse::<u32>().ok())
            .ok_or_else(|| format!("{} has no number for {name}", header.display()))
    };
    Ok((number("SPDK_VERSION_MAJOR")?, number("SPDK_VERSION_MINOR")?))
}
