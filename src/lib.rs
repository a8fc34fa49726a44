//! Corriente: a storage data-plane engine for one Linux node.

pub mod error;
pub mod mirror;
pub mod name;

pub use error::{Error, Result};
