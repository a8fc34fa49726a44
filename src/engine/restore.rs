//! Restoring a backup into a volume: the hot path of the node, and the place of the bug that Corriente exists for.
//!
//! - [`request`]: what is refused, and when a restore is claimed.
//! - [`job`]: from the claim to the proof. [`sink`]: where the blocks go. [`point`]: the snapshot that it leaves.
//! - [`marker`]: what a replica durably knows. [`replicas`]: reading and writing that on all of them.
//! - [`single`]: a restore into one replica by itself.
//! - [`recover`]: what is done about a restore that was cut short. [`status`]: what the manager sees. `account`: what
//!   operators are told.
//!
//! The rules: names come from attaches only; a claim is given back on every path; `last_restored` and the snapshots are
//! published together, after every proof.

mod account;
mod base;
pub mod job;
pub mod marker;
mod point;
pub(in crate::engine) mod recover;
pub(in crate::engine) mod replicas;
pub mod request;
pub mod single;
pub mod sink;
pub mod status;
