//! What a crash leaves between the members of a mirror, from outside: two nodes with a replica each that are killed with writes in
//! flight, at each durable step of the dirty log, and in the middle of the copies that make members equal again.

// A part of what other tests need.
#![allow(dead_code)]

mod support;

#[path = "disaster_recovery/cluster.rs"]
mod cluster;

#[path = "dirty_log/copies.rs"]
mod copies;
#[path = "dirty_log/crashes.rs"]
mod crashes;
#[path = "dirty_log/lab.rs"]
mod lab;
#[path = "dirty_log/quiet.rs"]
mod quiet;
