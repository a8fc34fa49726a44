//! Restoring a backup into a volume: the hot path of the node, and the place of the bug that Corriente exists for.
//!
//! - [`request`]: what is refused, and when a restore is claimed.
//! - [`job`]: from the claim to the proof.
//! - `account`: what operators are told. [`sink`]: where the blocks go. [`marker`]: what the replicas durably know. [`status`]: what the manager sees.
//!
//! The rules: names come from attaches only; a claim is given back on every path; `last_restored` and the snapshots are
//! published together, after every proof.

mod account;
pub mod job;
pub mod marker;
pub mod request;
pub mod sink;
pub mod status;
