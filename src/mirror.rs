//! RAID1: one block device over 1 to 8 members, each the head of a replica.
//!
//! - [`core`]: who the members are, what an acknowledgement needs, what happens when one fails. Sans-I/O: events and
//!   answers in, actions out, so that `tests/sim.rs` can run it under virtual time with faults.

pub mod core;
