//! Snapshots of a volume that clients use, from outside: deleted in the middle of the chain, counted, and on a disk that is full, as are writes, copies and restores.

mod support;

// A part of what the restores' tests need.
#[allow(dead_code)]
#[path = "disaster_recovery/cluster.rs"]
mod cluster;

#[path = "snapshots/chain.rs"]
mod chain;
#[path = "snapshots/full_disk.rs"]
mod full_disk;
#[path = "snapshots/limits.rs"]
mod limits;
