//! longhorn#10139 ruled out, from outside: a disaster-recovery volume on real nodes through full and incremental
//! restores, refused requests, wrong input, a killed node and a failed replica (`engine-behaviour` §13.3).

mod support;

#[path = "disaster_recovery/cluster.rs"]
mod cluster;
#[path = "disaster_recovery/names.rs"]
mod names;
#[path = "disaster_recovery/restore.rs"]
mod restore;
