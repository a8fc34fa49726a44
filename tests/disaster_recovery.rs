//! longhorn#10139 ruled out, from outside: a disaster-recovery volume on real nodes through full and incremental
//! restores, refused requests, wrong input, a killed node and a failed replica (`engine-behaviour` §13.3).

mod support;

#[path = "disaster_recovery/attach.rs"]
mod attach;
#[path = "disaster_recovery/cancel.rs"]
mod cancel;
#[path = "disaster_recovery/checkpoints.rs"]
mod checkpoints;
#[path = "disaster_recovery/cluster.rs"]
mod cluster;
#[path = "disaster_recovery/crash.rs"]
mod crash;
#[path = "disaster_recovery/marker.rs"]
mod marker;
#[path = "disaster_recovery/members.rs"]
mod members;
#[path = "disaster_recovery/names.rs"]
mod names;
#[path = "disaster_recovery/restore.rs"]
mod restore;
#[path = "disaster_recovery/scene.rs"]
mod scene;
#[path = "disaster_recovery/single.rs"]
mod single;
#[path = "disaster_recovery/single_cancel.rs"]
mod single_cancel;
#[path = "disaster_recovery/store.rs"]
mod store;
