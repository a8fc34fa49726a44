//! What operators see of a node: log lines, Prometheus metrics, events, and whether it is well.
//!
//! - [`log`]: the tracing subscriber, with a filter that can be changed while the node runs.
//! - [`metrics`]: what is counted when it happens, [`transfer`] for restores and backups. [`sample`]: what is read from the
//!   data path at each scrape.
//! - [`events`]: what happens, for whoever watches.
//! - [`health`]: ready or not. [`http`]: the endpoint for metrics and health.

pub mod events;
pub mod health;
pub mod http;
pub mod log;
pub mod metrics;
pub mod sample;
pub mod transfer;

pub use events::Events;
pub use health::Health;
pub use log::LogControl;
pub use metrics::Metrics;

/// Where the parts of a node say what happens. All clones tell the same.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// For graphs and alerts.
    pub metrics: Metrics,
    /// For watchers.
    pub events: Events,
}

impl Telemetry {
    /// Nothing has happened yet. At least `event_depth` events are kept for a slow watcher.
    pub fn new(event_depth: usize) -> Self {
        Self { metrics: Metrics::new(), events: Events::new(event_depth) }
    }
}
