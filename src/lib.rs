//! Corriente: a storage data-plane engine for one Linux node.

pub mod backup;
pub mod error;
pub mod name;

pub use error::{Error, Result};
