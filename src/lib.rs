//! Corriente: a storage data-plane engine for one Linux node.

pub mod backup;
pub mod config;
pub mod error;
pub mod initiator;
pub mod mirror;
pub mod name;
pub mod rpc;
pub mod spdk;
pub mod telemetry;

pub use error::{Error, Result};
