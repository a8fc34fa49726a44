//! The wire: gRPC services that parse requests into types, call the domain, and map its errors to codes in one place.
//!
//! - [`server`]: listeners, limits of connections, shutdown. [`call_log`]: a log line and a count for every call.
//! - [`convert`]: answers as messages.
//! - [`spdk_service`], [`corriente_service`]: which call goes where. [`disk`], [`replica`], [`rebuild`], [`hash`],
//!   [`engine`]: the calls.
//!
//! The messages, and what is known of them on both sides of the wire, are in [`crate::wire`].

pub mod call_log;
pub mod convert;
pub mod corriente_service;
pub mod disk;
pub mod engine;
pub mod hash;
pub mod rebuild;
pub mod replica;
pub mod server;
pub mod spdk_service;
