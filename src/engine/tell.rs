//! What changed between two published states of an engine, told as events. Restores tell of themselves.

use std::sync::Arc;

use super::instance::Engine;
use super::state::{Published, ReplicaMode};
use crate::telemetry::events::ObjectKind;

/// Tells every difference that a watcher may want to know.
pub(super) fn differences(engine: &Engine, before: &Published, after: &Published) {
    state(engine, before, after);
    members(engine, before, after);
    snapshots(engine, before, after);
}

fn tell(engine: &Engine, what: &'static str, message: impl Into<String>) {
    engine.context.telemetry.events.tell(ObjectKind::Engine, &engine.name, what, message);
}

fn state(engine: &Engine, before: &Published, after: &Published) {
    if (before.state, &before.error_message) != (after.state, &after.error_message) {
        let reason = if after.error_message.is_empty() { String::new() } else { format!(": {}", after.error_message) };
        tell(engine, "state-changed", format!("{}{reason}", after.state.as_str()));
    }
    if before.size != after.size {
        tell(engine, "resized", format!("{} bytes", after.size));
    }
}

fn members(engine: &Engine, before: &Published, after: &Published) {
    let events = &engine.context.telemetry.events;
    let volume = &engine.volume;
    for (replica, listed) in &after.replicas {
        let known = before.replicas.get(replica).map(|listed| listed.mode);
        if known == Some(listed.mode) {
            continue;
        }
        let (what, message) = match listed.mode {
            ReplicaMode::ReadWrite => ("in-sync", format!("of volume {volume}")),
            ReplicaMode::WriteOnly => ("rebuilding", format!("of volume {volume}")),
            ReplicaMode::Error => ("failed", format!("of volume {volume}: {}", listed.problem)),
        };
        events.tell(ObjectKind::Member, replica, what, message);
    }
    for replica in before.replicas.keys().filter(|replica| !after.replicas.contains_key(*replica)) {
        events.tell(ObjectKind::Member, replica, "removed", format!("of volume {volume}"));
    }
}

fn snapshots(engine: &Engine, before: &Published, after: &Published) {
    // The first look at a chain finds what was there; a chain that was not read again is the same one.
    if before.chain.head.is_none() || Arc::ptr_eq(&before.chain, &after.chain) {
        return;
    }
    let (before, after) = (&before.chain.snapshots, &after.chain.snapshots);
    for made in after.keys().filter(|name| !before.contains_key(*name)) {
        tell(engine, "snapshot-created", made.to_string());
    }
    for gone in before.keys().filter(|name| !after.contains_key(*name)) {
        tell(engine, "snapshot-deleted", gone.to_string());
    }
}
