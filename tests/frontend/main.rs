//! Engine frontends from outside: real nodes, gRPC as Longhorn's manager speaks it, and an NVMe/TCP host.

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod contract;
mod delegation;
mod membership;
mod restart;
mod restart_host;
mod suspend;
mod switch_over;
