//! A PCI function that SPDK drives itself: taken from the kernel and attached, or detached and given back.

use std::time::Duration;

use super::bring_up::blocking;
use super::pci::PciFunction;
use super::request::{DiskDriver, DiskPath, DiskRequest};
use crate::name::BdevName;
use crate::spdk::nvme::{self, PciAddress, Peer};
use crate::spdk::virtio::{self, VirtioKind};
use crate::spdk::{Capabilities, Control, SpdkError};
use crate::{Error, Result};

/// How long a controller may take to come up, or to be let go.
const LIMIT: Duration = Duration::from_secs(30);

/// Takes the function at `address`; its driver and its one bdev. On an error the kernel has it again.
pub(super) async fn attach(control: &Control, request: &DiskRequest, address: &str) -> Result<(DiskDriver, BdevName)> {
    let pci = parse(address)?;
    let (asked, wanted) = (request.driver, pci.clone());
    let (function, driver) = blocking(move || {
        let function = PciFunction::find(wanted)?;
        let driver = function.resolve(asked)?;
        if kind(driver).is_some() && !Capabilities::linked().virtio {
            return Err(Error::Unimplemented {
                what: "a virtio disk by PCI address",
                reason: "the SPDK of this node was built without virtio drivers; give its block device as an aio disk",
            });
        }
        function.hand_to_user_space()?;
        Ok((function, driver))
    })
    .await?;
    let device = request.bdev_name()?;
    let attached = control.run(move |on| async move {
        match kind(driver) {
            Some(kind) => {
                let names = virtio::attach(on, &device, &pci, kind, LIMIT).await?;
                virtio::only(on, &device, kind, names).await
            }
            None => {
                let names = nvme::attach_pcie(on, &device, &pci, LIMIT).await?;
                nvme::only(on, &device, names, LIMIT).await
            }
        }
    });
    match attached.await {
        Ok(bdev) => Ok((driver, bdev)),
        Err(error) => {
            if let Err(undo) = blocking(move || function.hand_to_kernel()).await {
                tracing::error!(disk = %request.name, error = %undo, "a device could not be given back to the kernel");
            }
            Err(error.into())
        }
    }
}

/// Lets go of the device and gives it back to the kernel, if it is there. Each step that is done already is passed, so that
/// one that failed can be repeated.
pub(super) async fn detach(control: &Control, request: &DiskRequest, driver: DiskDriver, address: &str) -> Result<()> {
    let (device, pci) = (request.bdev_name()?, parse(address)?);
    let peer = if is_there(&pci).await? { Peer::Alive } else { Peer::Lost };
    let detached = control.run(move |on| async move {
        match kind(driver) {
            Some(kind) => virtio::detach(on, &device, kind).await,
            None => nvme::detach(on, &device, peer, LIMIT).await,
        }
    });
    match detached.await {
        Ok(()) | Err(SpdkError::NoSuch { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    blocking(move || match PciFunction::find(pci) {
        Ok(function) => function.hand_to_kernel(),
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    })
    .await
}

/// Whether the disk has a device that has left the machine.
pub(super) async fn is_unplugged(path: &DiskPath) -> bool {
    let DiskPath::Pci(address) = path else { return false };
    match parse(address) {
        Ok(pci) => !is_there(&pci).await.unwrap_or(true),
        Err(_) => false,
    }
}

/// Makes the I/O of a device that has left the machine fail.
pub(super) async fn abandon(control: &Control, request: &DiskRequest, driver: DiskDriver) -> Result<()> {
    let device = request.bdev_name()?;
    let told = control.run(move |on| async move {
        if driver == DiskDriver::Nvme {
            nvme::unplugged(on, &device);
        }
        Ok::<_, SpdkError>(())
    });
    Ok(told.await?)
}

async fn is_there(address: &PciAddress) -> Result<bool> {
    let address = address.clone();
    blocking(move || Ok(PciFunction::is_there(&address))).await
}

fn kind(driver: DiskDriver) -> Option<VirtioKind> {
    match driver {
        DiskDriver::VirtioBlk => Some(VirtioKind::Blk),
        DiskDriver::VirtioScsi => Some(VirtioKind::Scsi),
        DiskDriver::Auto | DiskDriver::Aio | DiskDriver::Nvme | DiskDriver::VirtioPci => None,
    }
}

fn parse(address: &str) -> Result<PciAddress> {
    PciAddress::parse(address).map_err(|error| Error::name("disk_path", error))
}
