//! Safe SPDK. With `spdk-sys` this is the only room where `unsafe` may stand.
//!
//! Read in this order:
//! - [`env`]: start of the process' environment: cores, memory. [`log`]: SPDK's own lines.
//! - [`reactor`]: one pinned loop per core that polls SPDK threads, runs local futures, and naps when idle, which it is not
//!   while I/O is under way (`in_flight`).
//! - [`control`]: how the rest of the program (tokio) gets work done on a reactor.
//! - [`completion`]: C callbacks as futures.
//! - [`dma`], [`bdev`], [`client`]: memory and I/O for consumers of bdevs, on a reactor and from tokio. [`stats`]: what
//!   is counted of it.
//! - [`vdev`]: bdevs written in safe Rust (`vio_memory`: what their I/Os read and write). [`poller`]: what such a device does in
//!   every turn. [`status`]: how an I/O of theirs fails for a reason that its client can act on.
//! - [`base`], [`lvstore`], [`lvol`] (with [`clustermap`], [`xattr`]): disks, stores on them, volumes in those.
//! - [`nvme`], [`nvmf`]: SPDK's NVMe driver for disks of this machine, and volumes of ours as other nodes' disks. [`virtio`]: disks of a virtual machine.
//!
//! What is bound to an SPDK thread is `!Send`; a function that must run on a certain thread takes a token
//! ([`OnThread`], [`OnControl`]) which exists only there.

pub mod base;
pub mod bdev;
pub mod client;
pub mod clustermap;
pub mod completion;
pub mod control;
pub mod dma;
pub mod env;
pub mod errno;
mod executor;
mod in_flight;
pub mod load;
pub mod log;
pub mod lvol;
pub mod lvstore;
pub mod nvme;
pub mod nvmf;
pub mod poller;
pub mod reactor;
pub mod stats;
pub mod status;
mod text;
pub mod vdev;
mod vio_memory;
pub mod virtio;
pub mod xattr;

pub use client::BdevClient;
pub use control::{Control, OnControl, OnThread};
pub use dma::DmaBuffer;
pub use env::{Capabilities, Environment, EnvironmentConfig, Memory};
pub use errno::{Errno, SpdkError};
