//! What is counted when it happens, outside the I/O path: calls, events of mirrors, pauses; and the page that shows it
//! together with what is sampled.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::sample::{SampleCollector, Sampler};
use super::transfer::TransferMetrics;
use crate::error::{Error, Result};

/// What all series are called first.
const PREFIX: &str = "corriente";

/// The node's metrics. All clones count into the same.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    sampler: Arc<OnceLock<Sampler>>,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<MethodLabel, Histogram, fn() -> Histogram>,
    /// Restores.
    pub restores: TransferMetrics,
    /// Backups.
    pub backups: TransferMetrics,
    member_failures: Family<FailureLabels, Counter>,
    member_errors: Family<VolumeLabel, Counter>,
    member_returns: Family<ReturnLabels, Counter>,
    returned_bytes: Family<VolumeLabel, Counter>,
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
struct VolumeLabel {
    volume: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    volume: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReturnLabels {
    volume: String,
    result: &'static str,
}

/// What became of a replica that failed and was awaited, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnResult {
    /// It is in sync again, with what it missed only.
    InSync,
    /// It was back, and failed again or could not be brought up to date; it is awaited still.
    Failed,
    /// It is awaited no more: it has to be rebuilt.
    GivenUp,
}

impl ReturnResult {
    const ALL: [Self; 3] = [Self::InSync, Self::Failed, Self::GivenUp];

    fn as_str(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Failed => "failed",
            Self::GivenUp => "given-up",
        }
    }
}

/// Why a replica is out of its mirror, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// It failed a write or a flush.
    Write,
    /// It is no longer there.
    Gone,
    /// It did not answer in time.
    Deadline,
    /// It could not store the generation.
    Generation,
    /// It was being rebuilt, and its source failed.
    Source,
    /// It failed an operation, as a snapshot.
    Operation,
}

impl FailureReason {
    const ALL: [Self; 6] = [Self::Write, Self::Gone, Self::Deadline, Self::Generation, Self::Source, Self::Operation];

    fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Gone => "gone",
            Self::Deadline => "deadline",
            Self::Generation => "generation",
            Self::Source => "source",
            Self::Operation => "operation",
        }
    }
}

/// From 1 ms to about 4.5 min, past the deadline of most calls (3 min).
fn call_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 10))
}

impl Metrics {
    /// All zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let metrics = Self {
            registry: Arc::default(),
            sampler: Arc::default(),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(call_buckets),
            restores: TransferMetrics::default(),
            backups: TransferMetrics::default(),
            member_failures: Family::default(),
            member_errors: Family::default(),
            member_returns: Family::default(),
            returned_bytes: Family::default(),
            // From 100 µs to about 6.5 s, past the default limit of a pause.
            pauses: Histogram::new(exponential_buckets(0.0001, 4.0, 9)),
        };
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What runs", build);
        registry.register("calls", "gRPC calls by method and code", metrics.calls.clone());
        registry.register("call_seconds", "How long unary gRPC calls took", metrics.call_seconds.clone());
        registry.register("member_failures", "Replicas that failed and left a mirror", metrics.member_failures.clone());
        registry.register(
            "member_errors",
            "Failures of I/O to replicas that a mirror acted on",
            metrics.member_errors.clone(),
        );
        registry.register(
            "member_returns",
            "What became of replicas that failed and were awaited",
            metrics.member_returns.clone(),
        );
        registry.register(
            "member_returned_bytes",
            "Bytes that were copied to replicas that came back for what they missed",
            metrics.returned_bytes.clone(),
        );
        registry.register("pause_seconds", "How long the I/O of a volume was paused", metrics.pauses.clone());
        metrics.restores.register(&mut registry, "restores");
        metrics.backups.register(&mut registry, "backups");
        Self { registry: Arc::new(Mutex::new(registry)), ..metrics }
    }

    /// From now on each page also has what this gives. Only the first sampler counts.
    pub fn sample_with(&self, sampler: Sampler) {
        let _ = self.sampler.set(sampler);
    }

    /// A gRPC call ended.
    pub fn call(&self, method: &str, code: tonic::Code, took: Duration) {
        let method = method.to_owned();
        self.call_seconds.get_or_create(&MethodLabel { method: method.clone() }).observe(took.as_secs_f64());
        self.calls.get_or_create(&CallLabels { method, code: code_name(code) }).inc();
    }

    /// A volume is served from now on: its series begin at zero, so that the first failure is an increase.
    pub fn volume_begins(&self, volume: impl fmt::Display) {
        let volume = volume.to_string();
        for reason in FailureReason::ALL {
            let labels = FailureLabels { volume: volume.clone(), reason: reason.as_str() };
            drop(self.member_failures.get_or_create(&labels));
        }
        for result in ReturnResult::ALL {
            let labels = ReturnLabels { volume: volume.clone(), result: result.as_str() };
            drop(self.member_returns.get_or_create(&labels));
        }
        drop(self.returned_bytes.get_or_create(&VolumeLabel { volume: volume.clone() }));
        drop(self.member_errors.get_or_create(&VolumeLabel { volume }));
    }

    /// A volume is not served any more: its series end.
    pub fn volume_ends(&self, volume: impl fmt::Display) {
        let volume = volume.to_string();
        for reason in FailureReason::ALL {
            self.member_failures.remove(&FailureLabels { volume: volume.clone(), reason: reason.as_str() });
        }
        for result in ReturnResult::ALL {
            self.member_returns.remove(&ReturnLabels { volume: volume.clone(), result: result.as_str() });
        }
        self.returned_bytes.remove(&VolumeLabel { volume: volume.clone() });
        self.member_errors.remove(&VolumeLabel { volume });
    }

    /// A replica failed and left its mirror.
    pub fn member_failed(&self, volume: impl fmt::Display, reason: FailureReason) {
        let labels = FailureLabels { volume: volume.to_string(), reason: reason.as_str() };
        self.member_failures.get_or_create(&labels).inc();
    }

    /// A replica that failed came back, or is awaited no more; so many bytes were copied to it.
    pub fn member_returned(&self, volume: impl fmt::Display, result: ReturnResult, copied_bytes: u64) {
        let volume = volume.to_string();
        self.returned_bytes.get_or_create(&VolumeLabel { volume: volume.clone() }).inc_by(copied_bytes);
        self.member_returns.get_or_create(&ReturnLabels { volume, result: result.as_str() }).inc();
    }

    /// I/O to a replica failed.
    pub fn member_error(&self, volume: impl fmt::Display) {
        self.member_errors.get_or_create(&VolumeLabel { volume: volume.to_string() }).inc();
    }

    /// The I/O of a volume was paused for this long.
    pub fn paused(&self, took: Duration) {
        self.pauses.observe(took.as_secs_f64());
    }

    /// Everything in the text format of OpenMetrics.
    pub async fn page(&self) -> Result<String> {
        let sample = match self.sampler.get() {
            Some(sampler) => Some(sampler().await),
            None => None,
        };
        self.restores.catch_up();
        self.backups.catch_up();
        self.encode(sample.map(SampleCollector)).map_err(|error| Error::internal("metrics", error.to_string()))
    }

    fn encode(&self, sample: Option<SampleCollector>) -> std::result::Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode_registry(&mut page, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        if let Some(sample) = sample {
            let mut sampled = Registry::with_prefix(PREFIX);
            sampled.register_collector(Box::new(sample));
            text::encode_registry(&mut page, &sampled)?;
        }
        text::encode_eof(&mut page)?;
        Ok(page)
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

    fn has(page: &str, line: &str) {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }

    #[tokio::test]
    async fn what_is_counted_and_what_is_sampled_is_on_the_page() {
        let metrics = Metrics::new();
        metrics.call("EngineGet", tonic::Code::NotFound, Duration::from_millis(2));
        metrics.sample_with(Arc::new(|| {
            Box::pin(async {
                Sample {
                    reactors: vec![ReactorSample {
                        core: 3,
                        threads: 2,
                        busy_ns: 1_500_000_000,
                        idle_ns: 0,
                        nap_ns: 500_000_000,
                    }],
                    dma_free_bytes: 11,
                    ..Sample::default()
                }
            })
        }));
        let page = metrics.page().await.expect("a page");
        for line in [
            r#"corriente_calls_total{method="EngineGet",code="NOT_FOUND"} 1"#,
            r#"corriente_reactor_seconds_total{core="3",state="busy"} 1.5"#,
            r#"corriente_reactor_seconds_total{core="3",state="nap"} 0.5"#,
            r#"corriente_reactor_threads{core="3"} 2"#,
            "corriente_dma_free_bytes 11",
            "# EOF",
        ] {
            has(&page, line);
        }
    }

    #[tokio::test]
    async fn the_series_of_a_volume_begin_at_zero_and_end_with_it() {
        let metrics = Metrics::new();
        metrics.volume_begins("v");
        has(&metrics.page().await.expect("a page"), r#"corriente_member_failures_total{volume="v",reason="gone"} 0"#);
        metrics.member_failed("v", FailureReason::Gone);
        has(&metrics.page().await.expect("a page"), r#"corriente_member_failures_total{volume="v",reason="gone"} 1"#);
        metrics.volume_ends("v");
        assert!(!metrics.page().await.expect("a page").contains(r#"volume="v""#));
    }
}
