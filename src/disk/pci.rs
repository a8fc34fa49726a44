//! A PCI function before SPDK drives it: what it is, which kernel driver has it, whether it is in use, and handing it over.

use std::fs::{OpenOptions, read_dir, read_link, read_to_string, write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::request::DiskDriver;
use crate::spdk::nvme::PciAddress;
use crate::{Error, Result};

/// Where the kernel shows its devices and drivers.
const SYSFS: &str = "/sys";
/// Drivers that leave a function to user space, the better first: vfio-pci keeps it within its memory.
const USER_SPACE: [&str; 2] = ["vfio-pci", "uio_pci_generic"];
/// How long a driver may take to take a function.
const BIND_LIMIT: Duration = Duration::from_secs(5);

/// PCI class of NVMe controllers: mass storage, non-volatile memory, NVM Express' interface for I/O.
const NVME_CLASS: u32 = 0x01_08_02;

/// PCI vendor of virtio devices, and the device numbers of the two kinds of disks (virtio 1.2, §4.1.2): those of functions
/// that also speak the old protocol, which SPDK does not drive, and of modern ones.
const VIRTIO_VENDOR: u32 = 0x1af4;
const VIRTIO_BLK: [u32; 2] = [0x1001, 0x1042];
const VIRTIO_SCSI: [u32; 2] = [0x1004, 0x1048];
const MODERN_FROM: u32 = 0x1040;

/// A PCI function.
#[derive(Debug, Clone)]
pub(super) struct PciFunction {
    address: PciAddress,
    sysfs: PathBuf,
    directory: PathBuf,
}

impl PciFunction {
    /// The function at this address, which must be there.
    pub(super) fn find(address: PciAddress) -> Result<Self> {
        Self::find_in(Path::new(SYSFS), address)
    }

    fn find_in(sysfs: &Path, address: PciAddress) -> Result<Self> {
        let directory = sysfs.join("bus/pci/devices").join(address.as_str());
        match directory.exists() {
            true => Ok(Self { address, sysfs: sysfs.to_owned(), directory }),
            false => Err(Error::not_found("PCI function", address)),
        }
    }

    /// Whether the machine still has the function at this address.
    pub(super) fn is_there(address: &PciAddress) -> bool {
        Path::new(SYSFS).join("bus/pci/devices").join(address.as_str()).exists()
    }

    /// Its kernel driver.
    fn driver(&self) -> Option<String> {
        let link = read_link(self.directory.join("driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// The driver of SPDK's that `asked` means for this function: `auto` goes by the kernel driver that has it now
    /// (`engine-behaviour` §2), which it cannot once user space has it; `virtio-pci` by what the function is.
    pub(super) fn resolve(&self, asked: DiskDriver) -> Result<DiskDriver> {
        match asked {
            DiskDriver::Auto => match self.driver().as_deref() {
                Some("nvme") => Ok(DiskDriver::Nvme),
                Some("virtio-pci") => self.virtio_kind(),
                other => Err(Error::precondition(
                    self.object(),
                    format!(
                        "its driver is {}, which does not tell what it is; say driver nvme, virtio-blk or virtio-scsi",
                        other.unwrap_or("none")
                    ),
                )),
            },
            DiskDriver::VirtioPci => self.virtio_kind(),
            DiskDriver::VirtioBlk | DiskDriver::VirtioScsi if self.virtio_kind()? != asked => Err(Error::precondition(
                self.object(),
                format!("it is no {} device; leave the driver to auto", asked.as_str()),
            )),
            DiskDriver::VirtioBlk | DiskDriver::VirtioScsi => Ok(asked),
            DiskDriver::Nvme => match self.number("class") {
                Some(NVME_CLASS) => Ok(asked),
                class => {
                    let class = class.map_or("unknown".into(), |class| format!("{class:06x}"));
                    let problem = format!("it is no NVMe controller: its class is {class}, not {NVME_CLASS:06x}");
                    Err(Error::precondition(self.object(), problem))
                }
            },
            DiskDriver::Aio => {
                let problem = format!("{} is a PCI address; the aio driver needs a file or block device", self.address);
                Err(Error::invalid("disk_path", problem))
            }
        }
    }

    /// One of the numbers that it says what it is by.
    fn number(&self, file: &str) -> Option<u32> {
        let text = read_to_string(self.directory.join(file)).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    }

    /// Which kind of virtio disk it is.
    fn virtio_kind(&self) -> Result<DiskDriver> {
        let (vendor, device) = (self.number("vendor").unwrap_or(0), self.number("device").unwrap_or(0));
        let kind = match (vendor, device) {
            (VIRTIO_VENDOR, device) if VIRTIO_BLK.contains(&device) => DiskDriver::VirtioBlk,
            (VIRTIO_VENDOR, device) if VIRTIO_SCSI.contains(&device) => DiskDriver::VirtioScsi,
            _ => {
                let problem =
                    format!("{vendor:04x}:{device:04x} is neither a virtio block device nor a virtio SCSI adapter");
                return Err(Error::precondition(self.object(), problem));
            }
        };
        if device < MODERN_FROM {
            let problem = "it is a transitional virtio function, which SPDK does not drive; make it modern (QEMU: \
                           disable-legacy=on), or give its block device as an aio disk";
            return Err(Error::precondition(self.object(), problem));
        }
        Ok(kind)
    }

    /// Takes it from the kernel. Refused while one of its block devices is in use. Blocks.
    pub(super) fn hand_to_user_space(&self) -> Result<()> {
        match self.driver().as_deref() {
            Some(driver) if USER_SPACE.contains(&driver) => return Ok(()),
            Some("nvme" | "virtio-pci") => self.check_unused()?,
            Some(other) => return Err(Error::precondition(self.object(), format!("the driver {other} has it"))),
            None => {}
        }
        let drivers = self.sysfs.join("bus/pci/drivers");
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
        step(&self.sysfs.join("bus/pci/drivers_probe"), self.address.as_str())?;
        let started = Instant::now();
        while !bound.exists() {
            if started.elapsed() > BIND_LIMIT {
                return Err(Error::Timeout { what: format!("a driver for {}", self.object()), limit: BIND_LIMIT });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Opens each of its block devices exclusively, which the kernel refuses for one that is mounted, has a mounted
    /// partition or is in a RAID.
    fn check_unused(&self) -> Result<()> {
        for device in self.block_devices() {
            let path = Path::new("/dev").join(&device);
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&path);
            if opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
                return Err(Error::precondition(self.object(), format!("{} is mounted or in use", path.display())));
            }
        }
        Ok(())
    }

    /// Names of the block devices that the kernel has of it, partitions too.
    fn block_devices(&self) -> Vec<String> {
        let mut found = Vec::new();
        let Ok(function) = self.directory.canonicalize() else { return found };
        for entry in read_dir(self.sysfs.join("class/block")).into_iter().flatten().flatten() {
            let is_its = entry.path().canonicalize().is_ok_and(|device| device.starts_with(&function));
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_its {
                found.push(shared_namespace(&name).unwrap_or(name));
            }
        }
        found
    }

    fn object(&self) -> String {
        format!("PCI function {}", self.address)
    }
}

/// The device that is opened of a namespace with several paths: of the path `nvme0c1n2`, which is hidden, `nvme0n2`.
fn shared_namespace(name: &str) -> Option<String> {
    let (subsystem, path) = name.strip_prefix("nvme")?.split_once('c')?;
    let (controller, namespace) = path.split_once('n')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(subsystem) && digits(controller)).then(|| format!("nvme{subsystem}n{namespace}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ADDRESS: &str = "0000:00:05.0";

    /// A sysfs with one function: its driver, and its numbers.
    fn machine(driver: Option<&str>, vendor: &str, device: &str) -> (tempfile::TempDir, PciFunction) {
        let root = tempfile::tempdir().unwrap();
        let function = root.path().join("devices/pci0000:00").join(ADDRESS);
        let devices = root.path().join("bus/pci/devices");
        std::fs::create_dir_all(&function).unwrap();
        std::fs::create_dir_all(&devices).unwrap();
        std::fs::create_dir_all(root.path().join("class/block")).unwrap();
        symlink(&function, devices.join(ADDRESS)).unwrap();
        write(function.join("vendor"), format!("{vendor}\n")).unwrap();
        write(function.join("device"), format!("{device}\n")).unwrap();
        write(function.join("class"), if vendor == "0x1af4" { "0x020000\n" } else { "0x010802\n" }).unwrap();
        if let Some(driver) = driver {
            let driver = root.path().join("bus/pci/drivers").join(driver);
            std::fs::create_dir_all(&driver).unwrap();
            symlink(&driver, function.join("driver")).unwrap();
        }
        let found = PciFunction::find_in(root.path(), PciAddress::parse(ADDRESS).unwrap()).unwrap();
        (root, found)
    }

    #[test]
    fn auto_goes_by_the_kernels_driver_and_the_kind_of_the_function() {
        let auto = |driver, vendor, device| machine(driver, vendor, device).1.resolve(DiskDriver::Auto);
        assert_eq!(auto(Some("nvme"), "0x8086", "0x0a54").unwrap(), DiskDriver::Nvme);
        assert_eq!(auto(Some("virtio-pci"), "0x1af4", "0x1042").unwrap(), DiskDriver::VirtioBlk);
        assert_eq!(auto(Some("virtio-pci"), "0x1af4", "0x1048").unwrap(), DiskDriver::VirtioScsi);
        let network = auto(Some("virtio-pci"), "0x1af4", "0x1041").unwrap_err().to_string();
        assert!(network.contains("1af4:1041"), "{network}");
        let old = auto(Some("virtio-pci"), "0x1af4", "0x1001").unwrap_err().to_string();
        assert!(old.contains("disable-legacy"), "{old}");
        for taken in [Some("vfio-pci"), Some("uio_pci_generic"), Some("ahci"), None] {
            let refused = auto(taken, "0x1af4", "0x1042");
            assert!(matches!(refused, Err(Error::Precondition { .. })), "{taken:?}: {refused:?}");
        }
    }

    #[test]
    fn what_is_said_is_checked_where_it_can_be() {
        let (_root, blk) = machine(Some("vfio-pci"), "0x1af4", "0x1042");
        assert_eq!(blk.resolve(DiskDriver::VirtioPci).unwrap(), DiskDriver::VirtioBlk);
        assert_eq!(blk.resolve(DiskDriver::VirtioBlk).unwrap(), DiskDriver::VirtioBlk);
        assert!(matches!(blk.resolve(DiskDriver::Nvme), Err(Error::Precondition { .. })));
        assert!(matches!(blk.resolve(DiskDriver::VirtioScsi), Err(Error::Precondition { .. })));
        assert!(matches!(blk.resolve(DiskDriver::Aio), Err(Error::InvalidArgument { field: "disk_path", .. })));
        let (_root, nvme) = machine(Some("vfio-pci"), "0x8086", "0x0a54");
        assert_eq!(nvme.resolve(DiskDriver::Nvme).unwrap(), DiskDriver::Nvme);
        assert!(matches!(nvme.resolve(DiskDriver::VirtioPci), Err(Error::Precondition { .. })));
    }

    #[test]
    fn a_function_is_not_taken_from_a_driver_that_is_not_a_disks_nor_without_one_for_user_space() {
        let (_root, function) = machine(Some("ahci"), "0x8086", "0x2922");
        assert!(function.hand_to_user_space().unwrap_err().to_string().contains("ahci"));
        let (_root, function) = machine(Some("nvme"), "0x8086", "0x0a54");
        assert!(function.hand_to_user_space().unwrap_err().to_string().contains("modprobe vfio-pci"));
        let (_root, function) = machine(Some("vfio-pci"), "0x8086", "0x0a54");
        function.hand_to_user_space().unwrap();
    }

    #[test]
    fn block_devices_and_partitions_are_found_wherever_the_kernel_puts_them() {
        let (root, function) = machine(Some("nvme"), "0x8086", "0x0a54");
        let own = root.path().join("devices/pci0000:00").join(ADDRESS);
        let other = root.path().join("devices/pci0000:00/0000:00:06.0");
        for device in [
            own.join("nvme/nvme0/nvme0n1"),
            own.join("nvme/nvme0/nvme0n1/nvme0n1p1"),
            own.join("nvme/nvme0/nvme0c0n2"),
            own.join("virtio3/block/vdb"),
            own.join("virtio4/host2/target2:0:0/2:0:0:0/block/sdq"),
            other.join("nvme/nvme1/nvme1n1"),
        ] {
            std::fs::create_dir_all(&device).unwrap();
            symlink(&device, root.path().join("class/block").join(device.file_name().unwrap())).unwrap();
        }
        let mut found = function.block_devices();
        found.sort();
        assert_eq!(found, ["nvme0n1", "nvme0n1p1", "nvme0n2", "sdq", "vdb"]);
    }

    #[test]
    fn a_hidden_path_of_a_namespace_stands_for_the_namespace() {
        assert_eq!(shared_namespace("nvme0c12n3").as_deref(), Some("nvme0n3"));
        for other in ["nvme0n1", "nvme0n1p2", "sdc", "nvmec1n1", "nvme0cn1", "vdc1n"] {
            assert_eq!(shared_namespace(other), None, "{other}");
        }
    }

    #[test]
    fn a_function_that_is_not_there_is_not_found() {
        let address = PciAddress::parse("ffff:ff:1f.7").unwrap();
        assert!(matches!(PciFunction::find(address), Err(Error::NotFound { .. })));
    }
}
