//! What an operator sees of real nodes: metrics, events, checksums, logs, and that none of it holds a node up.

mod support;

#[path = "operations/calls.rs"]
mod calls;
#[path = "operations/checksum.rs"]
mod checksum;
// Shared with the tests of disaster recovery, which use more of it.
#[allow(dead_code)]
#[path = "disaster_recovery/cluster.rs"]
mod cluster;
#[path = "operations/events.rs"]
mod events;
#[path = "operations/log.rs"]
mod log;
#[path = "operations/metrics.rs"]
mod metrics;
#[path = "operations/panics.rs"]
mod panics;
#[path = "operations/scene.rs"]
mod scene;
#[path = "operations/watchers.rs"]
mod watchers;
