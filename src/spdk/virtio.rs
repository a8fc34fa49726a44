//! Virtio disks of this machine, driven by SPDK instead of the kernel. Their function must be bound to a user-space driver.
//!
//! Only "modern" functions, as QEMU makes them with `disable-legacy=on`: SPDK's driver knows no other. A device is asked for
//! no write cache (SPDK does not negotiate flushes), so that the host writes through: there is nothing to flush.

use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

use spdk_sys as sys;

use super::base;
use super::completion::{self, Slot};
use super::control::OnControl;
use super::errno::{Errno, SpdkError};
use super::nvme::PciAddress;
use super::text;
use crate::name::{BdevName, NonEmpty};

/// What kind of virtio disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtioKind {
    /// A block device; its bdev has the device's name.
    Blk,
    /// A SCSI adapter; each of its targets is a bdev `<device>t<target>`.
    Scsi,
}

impl VirtioKind {
    fn raw(self) -> sys::cs_virtio_kind {
        match self {
            Self::Blk => sys::CS_VIRTIO_BLK,
            Self::Scsi => sys::CS_VIRTIO_SCSI,
        }
    }
}

type Answer = (Vec<String>, c_int);

unsafe extern "C" fn attached(arg: *mut c_void, names: *const *const c_char, count: usize, rc: c_int) {
    // SAFETY: `arg` is the slot of `attach`, which the shim hands back exactly once, on the thread of the call; `names` has
    // `count` strings that live for this callback.
    unsafe {
        let names = (0..count).map(|index| text::from_c(*names.add(index))).collect();
        Slot::<Answer>::from_raw(arg).fill((names, rc));
    }
}

/// Takes a function as device `device`; at least one bdev, or an error and nothing is left.
pub async fn attach(
    on: OnControl,
    device: &BdevName,
    address: &PciAddress,
    kind: VirtioKind,
    limit: Duration,
) -> Result<NonEmpty<BdevName>, SpdkError> {
    let (name, pci) = (text::to_c(device.as_str()), text::to_c(address.as_str()));
    let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    let (slot, answer) = Slot::<Answer>::new();
    // SAFETY: on the control thread; the strings are copied during the call, `attached` fits the slot.
    unsafe {
        sys::cs_virtio_attach(name.as_ptr(), pci.as_ptr(), kind.raw(), limit_ms, Some(attached), slot.into_raw());
    };
    let (names, rc) = answer.await;
    Errno::check(rc).map_err(|errno| match errno {
        Errno::ENOTSUP => SpdkError::refused(object(device), "the SPDK of this node was built without virtio drivers"),
        Errno::EPERM => SpdkError::refused(
            object(device),
            "it needs an IOMMU that translates what it addresses (QEMU: iommu_platform=on), or SPDK's virtio driver does I/O in \
             wrong memory; bind the device to vfio-pci, or give its block device as an aio disk",
        ),
        Errno::ENODEV => SpdkError::refused(
            object(device),
            format!("SPDK cannot drive {address}: it must be a modern virtio function (QEMU: disable-legacy=on)"),
        ),
        errno => SpdkError::failed("attach", object(device), errno),
    })?;
    match check(on, device, &names) {
        Ok(names) => Ok(names),
        Err(error) => {
            give_up(on, device, kind).await;
            Err(error)
        }
    }
}

/// The one bdev of an attach. Where there are more the device is let go of, and that is the error.
pub async fn only(
    on: OnControl,
    device: &BdevName,
    kind: VirtioKind,
    names: NonEmpty<BdevName>,
) -> Result<BdevName, SpdkError> {
    match names.into_only() {
        Ok(name) => Ok(name),
        Err(names) => {
            give_up(on, device, kind).await;
            let problem =
                format!("it has {} targets, and a disk is one; give each an adapter of its own", names.count());
            Err(SpdkError::refused(object(device), problem))
        }
    }
}

/// Lets go of a device with its bdevs. Refused while one of them is open or claimed.
pub async fn detach(_on: OnControl, device: &BdevName, kind: VirtioKind) -> Result<(), SpdkError> {
    let name = text::to_c(device.as_str());
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the name is read during the call only.
        unsafe { sys::cs_virtio_detach(name.as_ptr(), kind.raw(), cb, arg) }
    })
    .await
    .map_err(|errno| match errno {
        Errno::ENODEV => SpdkError::no_such("virtio device", device),
        Errno::EBUSY => SpdkError::refused(object(device), "it is open or claimed; stop its users first"),
        errno => SpdkError::failed("detach", object(device), errno),
    })
}

/// Names only what is there: at least one, each the name of an existing bdev.
fn check(on: OnControl, device: &BdevName, names: &[String]) -> Result<NonEmpty<BdevName>, SpdkError> {
    let names = names
        .iter()
        .map(|name| {
            let name = text::parse("attach", object(device), name, BdevName::parse)?;
            base::info(on, &name)?;
            Ok(name)
        })
        .collect::<Result<Vec<_>, SpdkError>>()?;
    NonEmpty::from_vec(names).ok_or_else(|| SpdkError::answer("attach", object(device), "answered no bdev: no target"))
}

async fn give_up(on: OnControl, device: &BdevName, kind: VirtioKind) {
    if let Err(error) = detach(on, device, kind).await {
        tracing::error!(%device, %error, "a virtio device that cannot be used could not be let go of");
    }
}

fn object(device: &BdevName) -> String {
    format!("virtio device {device}")
}
