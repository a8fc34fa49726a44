//! A volume that grows under its clients' I/O, from outside: three nodes with a replica each, a client that checks all it has
//! written and never connects anew, members that fail in the middle, and ends of nodes between any two steps.

mod support;

// A part of what the frontends' tests need.
#[allow(dead_code)]
#[path = "frontend/cluster.rs"]
mod cluster;

#[path = "expansion/crashes.rs"]
mod crashes;
#[path = "expansion/lab.rs"]
mod lab;
#[path = "expansion/members.rs"]
mod members;
#[path = "expansion/online.rs"]
mod online;
