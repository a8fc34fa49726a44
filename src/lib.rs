//! Corriente: a storage data-plane engine for one Linux node.

pub mod backing_image;
pub mod backup;
pub mod changes;
pub mod cli;
pub mod config;
pub mod digest;
pub mod disk;
pub mod engine;
pub mod error;
pub mod faults;
pub mod frontend;
pub mod initiator;
pub mod mirror;
pub mod name;
pub mod node;
pub mod nvme_host;
pub mod peer;
pub mod ports;
pub mod record;
pub mod remote_bdev;
pub mod replica;
pub mod rpc;
pub mod spdk;
pub mod task;
pub mod telemetry;
pub mod tls;
pub mod wire;

pub use error::{Error, Result};
