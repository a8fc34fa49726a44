//! The wire: gRPC services that parse requests into types, call the domain, and map its errors to codes in one place.
//!
//! - [`server`]: listeners, limits of connections, shutdown. [`call_log`]: a log line and a count for every call.
//! - [`panics`]: what a bug in a handler costs. [`gate`]: what is answered before the node is ready and when it stops.
//!   `not_offered`: calls that say why they do nothing. `health`: the standard service of that name.
//! - [`spdk_service`], [`corriente_service`]: which call goes where. [`disk`], [`backing_image`], [`replica`], [`rebuild`],
//!   [`clone`], [`restore`], [`hash`], [`engine`], [`frontend`], [`log`], [`orphan`]: the calls, from parsed fields to answers.
//!   [`convert`]: answers as messages. `checkpoints`: what replicas know of restores.
//!   `checksum`, `verify`, `events`, `until_stop`: those that stream.
//!
//! The messages, and what is known of them on both sides of the wire, are in [`crate::wire`].

pub mod backing_image;
pub mod call_log;
mod checkpoints;
mod checksum;
pub mod clone;
pub mod convert;
pub mod corriente_service;
pub mod disk;
pub mod engine;
mod events;
pub mod frontend;
pub mod gate;
pub mod hash;
mod health;
pub mod log;
mod not_offered;
pub mod orphan;
pub mod panics;
pub mod rebuild;
pub mod replica;
pub mod restore;
pub mod server;
pub mod spdk_service;
mod until_stop;
mod verify;
