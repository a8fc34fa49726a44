//! The store's format: names of files, cfg files, digests and block files. No I/O, no clock, no threads.

pub mod backup_config;
pub mod block;
pub mod codec;
pub mod compression;
pub mod digest;
pub mod error;
mod json;
pub mod labels;
pub mod layout;
pub mod lock_file;
mod lz4_frame;
mod quantity;
pub mod volume_config;

pub use error::FormatError;
