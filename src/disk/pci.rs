//! A PCI function before SPDK drives it: which kernel driver has it, whether it is in use, and handing it over.

use std::fs::{OpenOptions, read_dir, read_link, write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::spdk::nvme::PciAddress;
use crate::{Error, Result};

/// Where the kernel shows PCI functions and drivers.
const BUS: &str = "/sys/bus/pci";
/// Drivers that leave a function to user space, the better first: vfio-pci keeps it within its memory.
const USER_SPACE: [&str; 2] = ["vfio-pci", "uio_pci_generic"];
/// How long a driver may take to take a function.
const BIND_LIMIT: Duration = Duration::from_secs(5);

/// A PCI function.
#[derive(Debug, Clone)]
pub(super) struct PciFunction {
    address: PciAddress,
    directory: PathBuf,
}

impl PciFunction {
    /// The function at this address, which must be there.
    pub(super) fn find(address: PciAddress) -> Result<Self> {
        let directory = Path::new(BUS).join("devices").join(address.as_str());
        match directory.exists() {
            true => Ok(Self { address, directory }),
            false => Err(Error::not_found("PCI function", address)),
        }
    }

    /// Its kernel driver.
    fn driver(&self) -> Option<String> {
        let link = read_link(self.directory.join("driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether it is an NVMe controller, judged by its driver (`engine-behaviour` §2): `auto` cannot tell once user space
    /// has it.
    pub(super) fn check_is_nvme(&self) -> Result<()> {
        match self.driver().as_deref() {
            Some("nvme") => Ok(()),
            Some("virtio-pci") => Err(Error::Unimplemented {
                what: "a virtio disk by PCI address",
                reason: "give its block device as an aio disk",
            }),
            other => Err(Error::precondition(
                self.object(),
                format!("its driver is {}; say driver nvme if it is an NVMe controller", other.unwrap_or("none")),
            )),
        }
    }

    /// Takes it from the kernel. Refused while one of its namespaces is in use. Blocks.
    pub(super) fn hand_to_user_space(&self) -> Result<()> {
        match self.driver().as_deref() {
            Some(driver) if USER_SPACE.contains(&driver) => return Ok(()),
            Some("nvme") => self.check_unused()?,
            Some(other) => return Err(Error::precondition(self.object(), format!("the driver {other} has it"))),
            None => {}
        }
        let drivers = Path::new(BUS).join("drivers");
        let Some(driver) = USER_SPACE.iter().find(|driver| drivers.join(driver).exists()) else {
            let problem = "neither vfio-pci nor uio_pci_generic is loaded; load one of them (modprobe vfio-pci)";
            return Err(Error::precondition(self.object(), problem));
        };
        self.bind(driver)
    }

    /// Gives it back to the kernel's own driver. Blocks.
    pub(super) fn hand_to_kernel(&self) -> Result<()> {
        self.bind("")
    }

    /// Binds it to `driver`; empty lets the kernel choose.
    fn bind(&self, driver: &str) -> Result<()> {
        let step = |path: &Path, text: &str| {
            write(path, text)
                .map_err(|error| Error::medium(self.object(), format!("writing {}: {error}", path.display())))
        };
        let bound = self.directory.join("driver");
        if bound.exists() {
            step(&bound.join("unbind"), self.address.as_str())?;
        }
        step(&self.directory.join("driver_override"), &format!("{driver}\n"))?;
        step(&Path::new(BUS).join("drivers_probe"), self.address.as_str())?;
        let started = Instant::now();
        while !bound.exists() {
            if started.elapsed() > BIND_LIMIT {
                return Err(Error::Timeout { what: format!("a driver for {}", self.object()), limit: BIND_LIMIT });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Opens each of its block devices exclusively, which the kernel refuses for one that is mounted or in a RAID.
    fn check_unused(&self) -> Result<()> {
        for device in block_devices(&self.directory.join("nvme")) {
            let path = Path::new("/dev").join(&device);
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&path);
            if opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
                return Err(Error::precondition(self.object(), format!("{} is mounted or in use", path.display())));
            }
        }
        Ok(())
    }

    fn object(&self) -> String {
        format!("PCI function {}", self.address)
    }
}

/// Names of the namespaces and partitions below the `nvme` directory of a function.
fn block_devices(directory: &Path) -> Vec<String> {
    let children = |directory: &Path, prefix: &str| -> Vec<PathBuf> {
        let entries = read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        entries.filter(named).collect()
    };
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let namespaces: Vec<_> =
        children(directory, "nvme").iter().flat_map(|controller| children(controller, "nvme")).collect();
    let partitions = namespaces.iter().flat_map(|namespace| children(namespace, "nvme"));
    namespaces.iter().cloned().chain(partitions).filter_map(|path| name(&path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_and_partitions_are_found() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["nvme0/nvme0n1/nvme0n1p1", "nvme0/nvme0n1/queue", "nvme0/nvme0n2", "nvme0/power"] {
            std::fs::create_dir_all(directory.path().join(path)).unwrap();
        }
        let mut found = block_devices(directory.path());
        found.sort();
        assert_eq!(found, ["nvme0n1", "nvme0n1p1", "nvme0n2"]);
    }

    #[test]
    fn a_function_that_is_not_there_is_not_found() {
        let address = PciAddress::parse("ffff:ff:1f.7").unwrap();
        assert!(matches!(PciFunction::find(address), Err(Error::NotFound { .. })));
    }
}
