//! The wire: gRPC services that parse requests into types, call the domain, and map its errors to codes in one place.
//!
//! - [`status`]: domain errors to gRPC codes and back.
//! - [`wire`]: the messages, clients and server traits generated from `proto/`.

pub mod status;
pub mod wire;
