//! Volumes made of other volumes' snapshots, on two nodes, over gRPC and NVMe/TCP (`engine-behaviour` §5): linked clones and
//! what protects their sources, full copies, and nodes killed at each step of making and deleting one.

#![allow(dead_code)]

mod support;

#[path = "disaster_recovery/cluster.rs"]
mod cluster;
#[path = "clone/crashes.rs"]
mod crashes;
#[path = "clone/full.rs"]
mod full;
#[path = "clone/full_restart.rs"]
mod full_restart;
#[path = "clone/linked.rs"]
mod linked;
#[path = "clone/protection.rs"]
mod protection;
#[path = "clone/rebuilds.rs"]
mod rebuilds;
#[path = "clone/refusals.rs"]
mod refusals;
#[path = "clone/scene.rs"]
mod scene;
