//! What the kernel shows of its NVMe controllers and namespaces, below `/sys`. Reads files, changes nothing but by
//! [`Sysfs::delete`].

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::name::{HostPort, Nguid, Nqn};

/// A sysfs, real or made for a test.
#[derive(Debug, Clone)]
pub struct Sysfs(PathBuf);

/// A controller of the kernel's: one connection to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Its name, `nvme3`.
    pub name: String,
    /// Where it is connected to.
    pub target: HostPort,
    /// As the kernel spells it: `live`, `connecting`, `deleting` …
    pub state: String,
}

/// A namespace as a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name, `nvme3n1`.
    pub name: String,
    /// Its number, as in `/dev`.
    pub major: u64,
    /// Its number, as in `/dev`.
    pub minor: u64,
    /// Bytes it has.
    pub size: u64,
    /// Its identity, when the kernel tells it.
    pub nguid: Option<Nguid>,
}

impl Controller {
    /// Whether it serves I/O.
    pub fn is_live(&self) -> bool {
        self.state == "live"
    }

    /// Whether it is on its way out and nothing can be expected of it.
    pub fn is_leaving(&self) -> bool {
        self.state.starts_with("deleting") || self.state == "dead"
    }
}

impl Sysfs {
    /// The one mounted there.
    pub fn at(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Whether the kernel can speak NVMe over TCP now.
    pub fn has_nvme_tcp(&self) -> bool {
        self.0.join("module/nvme_tcp").is_dir()
    }

    /// The TCP controllers of a subsystem, in the order of their names.
    pub fn controllers(&self, nqn: &Nqn) -> io::Result<Vec<Controller>> {
        let class = self.0.join("class/nvme");
        let mut found = Vec::new();
        for name in names_in(&class)? {
            let directory = class.join(&name);
            let text = |file: &str| read_text(&directory.join(file));
            // A controller may go while it is looked at; what cannot be read is not one of ours any more.
            if text("subsysnqn").as_deref() != Some(nqn.as_str()) || text("transport").as_deref() != Some("tcp") {
                continue;
            }
            if let (Some(target), Some(state)) = (text("address").and_then(|text| parse_address(&text)), text("state"))
            {
                found.push(Controller { name, target, state });
            }
        }
        Ok(found)
    }

    /// The namespace of a controller as I/O reaches it: with native multipath the device above all paths.
    pub fn device(&self, controller: &Controller) -> io::Result<Option<Device>> {
        let entries = names_in(&self.0.join("class/nvme").join(&controller.name))?;
        let Some(name) = entries.iter().find_map(|entry| head_name(entry)) else { return Ok(None) };
        let directory = self.0.join("block").join(&name);
        let text = |file: &str| read_text(&directory.join(file));
        let number = text("dev").and_then(|text| {
            let (major, minor) = text.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        /// The unit of `size`, whatever the block size.
        const SECTOR_BYTES: u64 = 512;
        let size = text("size").and_then(|text| text.parse::<u64>().ok()?.checked_mul(SECTOR_BYTES));
        let (Some((major, minor)), Some(size)) = (number, size) else { return Ok(None) };
        let nguid = text("nguid").and_then(|text| uuid::Uuid::parse_str(&text).ok()).map(|id| Nguid(*id.as_bytes()));
        Ok(Some(Device { name, major, minor, size, nguid }))
    }

    /// The access state of a controller's path to its namespace; `None` without native multipath.
    pub fn ana_state(&self, controller: &Controller) -> io::Result<Option<String>> {
        let directory = self.0.join("class/nvme").join(&controller.name);
        let state = |entry: &String| read_text(&directory.join(entry).join("ana_state"));
        Ok(names_in(&directory)?.iter().filter(|entry| head_name(entry).is_some()).find_map(state))
    }

    /// Has the kernel disconnect a controller. It goes when its I/O is over.
    pub fn delete(&self, controller: &Controller) -> io::Result<()> {
        let file = self.0.join("class/nvme").join(&controller.name).join("delete_controller");
        match std::fs::write(file, "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

fn names_in(directory: &Path) -> io::Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn read_text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Reads `traddr=10.0.0.7,trsvcid=20011[,…]`.
fn parse_address(text: &str) -> Option<HostPort> {
    let value = |key: &str| text.split(',').find_map(|pair| pair.trim().strip_prefix(key)?.strip_prefix('='));
    let ip: IpAddr = value("traddr")?.parse().ok()?;
    HostPort::new(ip, value("trsvcid")?.parse().ok()?).ok()
}

/// The block device that a controller's entry stands for: itself for `nvme3n1`, and for the path `nvme3c5n1` of a multipath
/// device `nvme3n1`. `None` for every other entry.
fn head_name(entry: &str) -> Option<String> {
    let (controller, namespace) = entry.strip_prefix("nvme")?.split_once('n')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let subsystem = match controller.split_once('c') {
        None => controller,
        Some((subsystem, path)) if is_number(path) => subsystem,
        Some(_) => return None,
    };
    (is_number(subsystem) && is_number(namespace)).then(|| format!("nvme{subsystem}n{namespace}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_and_paths_to_them_are_devices() {
        for (entry, head) in [("nvme3n1", "nvme3n1"), ("nvme3c5n1", "nvme3n1"), ("nvme10c11n12", "nvme10n12")] {
            assert_eq!(head_name(entry).as_deref(), Some(head));
        }
        for entry in ["nvme3", "nvme3n1p1", "nvme3cn1", "nvmen1", "hwmon2", "ng3n1", "power", "nvme3n"] {
            assert_eq!(head_name(entry), None, "{entry}");
        }
    }

    #[test]
    fn addresses_are_read_as_kernels_print_them() {
        let expected = HostPort::parse("10.0.0.7:20011").unwrap();
        for text in ["traddr=10.0.0.7,trsvcid=20011", "traddr=10.0.0.7,trsvcid=20011,src_addr=10.0.0.9"] {
            assert_eq!(parse_address(text), Some(expected), "{text}");
        }
        assert_eq!(parse_address("traddr=fd00::7,trsvcid=20011"), HostPort::parse("[fd00::7]:20011").ok());
        for text in ["", "0000:00:04.0", "traddr=10.0.0.7", "traddr=nn-0x1:pn-0x2,trsvcid=none"] {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }
}
