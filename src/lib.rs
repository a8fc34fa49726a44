//! Corriente: a storage data-plane engine for one Linux node.

pub mod backup;
pub mod changes;
pub mod config;
pub mod disk;
pub mod error;
pub mod mirror;
pub mod name;
pub mod ports;
pub mod rpc;
pub mod spdk;

pub use error::{Error, Result};
