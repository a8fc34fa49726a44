//! A replica that is away for a moment, from outside: real nodes that are killed, stopped and started again under a client's verified
//! writes. It comes back by itself with what it missed only, or, when that cannot be, stays out until it is rebuilt.

#![allow(dead_code)]

mod support;

#[path = "disaster_recovery/cluster.rs"]
mod cluster;
#[path = "short_outage/crashes.rs"]
mod crashes;
#[path = "short_outage/fall_back.rs"]
mod fall_back;
#[path = "short_outage/lab.rs"]
mod lab;
#[path = "short_outage/returns.rs"]
mod returns;
