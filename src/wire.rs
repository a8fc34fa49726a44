//! The wire contracts as Rust: messages, clients and server traits that `build.rs` generates from `proto/`.
//!
//! [`spdkrpc`] is fixed by peers in the field (`spdkrpc-wire`); [`corriente::v1`] is our own. In the generated
//! messages names are still plain text. [`field`], [`backup`], [`clone`], [`rebuild`], [`labels`] and [`hash`] parse what several
//! callers send alike, [`status`] maps errors to codes and back, [`json`] is how the command line prints.

pub mod backup;
pub mod clone;
pub mod field;
pub mod hash;
pub mod json;
pub mod labels;
pub mod rebuild;
pub mod status;

/// Longhorn's service for the v2 data engine.
#[allow(clippy::all, missing_docs)]
pub mod spdkrpc {
    tonic::include_proto!("spdkrpc");
}

/// Our own services.
pub mod corriente {
    /// Version 1 of `CorrienteService`.
    #[allow(clippy::all, missing_docs)]
    pub mod v1 {
        tonic::include_proto!("corriente.v1");
    }
}

/// Both contracts and what they import, as an encoded `google.protobuf.FileDescriptorSet`: for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
