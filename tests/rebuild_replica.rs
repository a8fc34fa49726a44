//! A replica rebuilt from another, over gRPC as an engine directs it: between nodes and on one, with branches, with old
//! data, with nodes killed in the middle, with a limit, and with calls that must be refused (`engine-behaviour` §4).

#![allow(dead_code)]

mod support;

#[path = "disaster_recovery/cluster.rs"]
mod cluster;
#[path = "rebuild_replica/copies.rs"]
mod copies;
#[path = "rebuild_replica/crashes.rs"]
mod crashes;
#[path = "rebuild_replica/director.rs"]
mod director;
#[path = "rebuild_replica/refusals.rs"]
mod refusals;
#[path = "rebuild_replica/source.rs"]
mod source;
