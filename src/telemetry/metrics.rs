//! What is counted when it happens, outside the I/O path: calls, restores and backups, events of mirrors.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::sample::{SampleCollector, Sampler};
use crate::error::{Error, Result};

/// The node's metrics. All clones count into the same.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<MethodLabel, Histogram, fn() -> Histogram>,
    /// Restores.
    pub restores: TransferMetrics,
    /// Backups.
    pub backups: TransferMetrics,
    member_failures: Family<MemberLabels, Counter>,
    pauses: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemberLabels {
    volume: String,
    replica: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// How a restore or backup ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Proven complete.
    Complete,
    /// Failed.
    Failed,
    /// Called off.
    Canceled,
}

/// The data that restores or backups move.
#[derive(Debug, Clone, Default)]
pub struct TransferMetrics {
    running: Gauge,
    ended: Family<OutcomeLabel, Counter>,
    store_bytes: Counter,
    volume_bytes: Counter,
}

impl TransferMetrics {
    /// One begins. The guard counts its end: as failed, unless told otherwise.
    pub fn begin(&self) -> Transfer {
        self.running.inc();
        Transfer { metrics: self.clone(), outcome: Outcome::Failed }
    }

    /// Bytes that went over the wire from or to the backup store.
    pub fn add_store_bytes(&self, bytes: u64) {
        self.store_bytes.inc_by(bytes);
    }

    /// Bytes that were written to or read from the volume.
    pub fn add_volume_bytes(&self, bytes: u64) {
        self.volume_bytes.inc_by(bytes);
    }

    fn register(&self, registry: &mut Registry, name: &str) {
        let registry = registry.sub_registry_with_prefix(name);
        registry.register("running", "Running now", self.running.clone());
        registry.register("ended", "By how they ended", self.ended.clone());
        registry.register("store_bytes", "Bytes from or to the backup store", self.store_bytes.clone());
        registry.register("volume_bytes", "Bytes to or from volumes", self.volume_bytes.clone());
    }
}

/// A restore or backup that runs; counted as ended when dropped.
#[derive(Debug)]
pub struct Transfer {
    metrics: TransferMetrics,
    outcome: Outcome,
}

impl Transfer {
    /// Ends it.
    pub fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let outcome = match self.outcome {
            Outcome::Complete => "complete",
            Outcome::Failed => "failed",
            Outcome::Canceled => "canceled",
        };
        self.metrics.running.dec();
        self.metrics.ended.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

/// From 1 ms to about 4.5 min, past the deadline of most calls (3 min).
fn call_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 10))
}

impl Metrics {
    /// All zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("corriente");
        let metrics = Self {
            registry: Arc::default(),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(call_buckets),
            restores: TransferMetrics::default(),
            backups: TransferMetrics::default(),
            member_failures: Family::default(),
            // From 100 µs to about 6.5 s, past the default limit of a pause.
            pauses: Histogram::new(exponential_buckets(0.0001, 4.0, 9)),
        };
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What runs", build);
        registry.register("calls", "gRPC calls by method and code", metrics.calls.clone());
        registry.register("call_seconds", "How long unary gRPC calls took", metrics.call_seconds.clone());
        registry.register("member_failures", "Replicas that left a mirror", metrics.member_failures.clone());
        registry.register("pause_seconds", "How long the I/O of a volume was paused", metrics.pauses.clone());
        metrics.restores.register(&mut registry, "restores");
        metrics.backups.register(&mut registry, "backups");
        Self { registry: Arc::new(Mutex::new(registry)), ..metrics }
    }

    /// From now on each scrape also reads the data path. To be called once.
    pub fn sample_with(&self, sampler: Sampler) {
        self.registry().register_collector(Box::new(SampleCollector(sampler)));
    }

    /// A gRPC call ended.
    pub fn call(&self, method: &str, code: tonic::Code, took: Duration) {
        let method = method.to_owned();
        self.call_seconds.get_or_create(&MethodLabel { method: method.clone() }).observe(took.as_secs_f64());
        self.calls.get_or_create(&CallLabels { method, code: code_name(code) }).inc();
    }

    /// A replica left its mirror.
    pub fn member_failed(&self, volume: &str, replica: &str) {
        let labels = MemberLabels { volume: volume.to_owned(), replica: replica.to_owned() };
        self.member_failures.get_or_create(&labels).inc();
    }

    /// The I/O of a volume was paused for this long.
    pub fn paused(&self, took: Duration) {
        self.pauses.observe(took.as_secs_f64());
    }

    /// Everything in the text format of OpenMetrics.
    pub fn render(&self) -> Result<String> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry()).map_err(|error| Error::internal("metrics", error.to_string()))?;
        Ok(page)
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// The name of a gRPC code as the specification writes it.
pub fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{ReactorSample, Sample};
    use super::*;

    #[test]
    fn what_is_counted_and_what_is_sampled_is_on_the_page() {
        let metrics = Metrics::new();
        metrics.call("EngineGet", tonic::Code::NotFound, Duration::from_millis(2));
        metrics.sample_with(Arc::new(|| Sample {
            reactors: vec![ReactorSample { core: 3, busy_ns: 7, idle_ns: 8, nap_ns: 9 }],
            dma_free_bytes: 11,
            ..Sample::default()
        }));
        let page = metrics.render().expect("a page");
        for line in [
            r#"corriente_calls_total{method="EngineGet",code="NOT_FOUND"} 1"#,
            r#"corriente_reactor_time_nanoseconds_total{core="3",state="busy"} 7"#,
            r#"corriente_reactor_time_nanoseconds_total{core="3",state="nap"} 9"#,
            "corriente_dma_free_bytes 11",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_restore_that_is_dropped_has_failed() {
        let metrics = Metrics::new();
        drop(metrics.restores.begin());
        metrics.restores.begin().end(Outcome::Complete);
        let running = metrics.restores.begin();
        let page = metrics.render().expect("a page");
        drop(running);
        for line in [
            r#"corriente_restores_ended_total{outcome="failed"} 1"#,
            r#"corriente_restores_ended_total{outcome="complete"} 1"#,
            "corriente_restores_running 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }
}
