//! Tests in virtual machines: a real Linux kernel as the initiator, real-looking NVMe controllers, real reboots. Run by
//! `scripts/lab`; docs/lab.md says what they need and how to write one.
//!
//! - [`vm`]: a machine. [`agent`], `guest/agent.rs`: commands into it. [`qmp`]: what is done to its hardware.
//! - [`cache`], [`image`]: what it is made of.
//! - [`node`]: Corriente inside it. [`volume`], [`pci`]: what is asked of it.

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod cache;
mod image;
mod node;
mod pci;
mod qmp;
mod vm;
mod volume;

mod iommu;
mod kernel_device;
mod pci_disk;
mod smoke;
mod unplug;
mod virtio_disk;
