//! The safe layer over lvol stores, lvols, initiator and target, on a real SPDK with ordinary pages.
//!
//! A process can start SPDK once, so all tests of a process share one environment and keep to names of their own.

#[path = "spdk_storage/host.rs"]
mod host;
#[path = "spdk_storage/lvols.rs"]
mod lvols;
#[path = "spdk_storage/peers.rs"]
mod peers;
#[path = "spdk_storage/scene.rs"]
mod scene;
