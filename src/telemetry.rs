//! What operators see of a node: log lines, Prometheus metrics, and whether it is well.
//!
//! - [`log`]: the tracing subscriber, with a filter that can be changed while the node runs.
//! - [`metrics`]: what is counted when it happens. [`sample`]: what is read from the data path at each scrape.
//! - [`health`]: alive and ready. [`http`]: the endpoint for all of these.

pub mod health;
pub mod http;
pub mod log;
pub mod metrics;
pub mod sample;

pub use health::Health;
pub use log::LogControl;
pub use metrics::Metrics;
