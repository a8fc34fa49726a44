//! What is counted of restores and backups: how many run, how they end, how long they take, what they move.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::backup::Progress;
use crate::error::Error;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// The counters of all restores, or of all backups. All clones count into the same.
#[derive(Clone)]
pub struct TransferMetrics {
    running: Gauge,
    ended: Family<OutcomeLabel, Counter>,
    seconds: Histogram,
    store_bytes: Counter,
    volume_bytes: Counter,
    zeroed_bytes: Counter,
    meters: Arc<Mutex<Vec<Weak<Meter>>>>,
}

impl Default for TransferMetrics {
    fn default() -> Self {
        Self {
            running: Gauge::default(),
            ended: Family::default(),
            // From 1 s to 4.5 h.
            seconds: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            store_bytes: Counter::default(),
            volume_bytes: Counter::default(),
            zeroed_bytes: Counter::default(),
            meters: Arc::default(),
        }
    }
}

impl TransferMetrics {
    /// One begins. The guard counts its end: as failed, unless told otherwise.
    pub fn begin(&self, source: Arc<dyn Source>) -> Transfer {
        self.running.inc();
        let meter = Arc::new(Meter { source, counted: Mutex::default() });
        let mut meters = self.meters();
        meters.retain(|meter| meter.strong_count() > 0);
        meters.push(Arc::downgrade(&meter));
        drop(meters);
        Transfer { metrics: self.clone(), meter, begun: Instant::now(), outcome: "failed" }
    }

    /// Counts what those that run have moved by now.
    pub(super) fn catch_up(&self) {
        let running: Vec<_> = self.meters().iter().filter_map(Weak::upgrade).collect();
        for meter in running {
            self.count(&meter);
        }
    }

    fn count(&self, meter: &Meter) {
        let moved = meter.advance();
        self.store_bytes.inc_by(moved.store_bytes);
        self.volume_bytes.inc_by(moved.volume_bytes);
        self.zeroed_bytes.inc_by(moved.zeroed_bytes);
    }

    fn meters(&self) -> MutexGuard<'_, Vec<Weak<Meter>>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, registry: &mut Registry, name: &str) {
        let registry = registry.sub_registry_with_prefix(name);
        registry.register("running", "Running now", self.running.clone());
        registry.register("ended", "By how they ended", self.ended.clone());
        registry.register("seconds", "How long they took, however they ended", self.seconds.clone());
        registry.register("store_bytes", "Bytes of block files from or to the backup store", self.store_bytes.clone());
        registry.register("volume_bytes", "Bytes of data to or from volumes", self.volume_bytes.clone());
        registry.register("zeroed_bytes", "Bytes made zero without a write of data", self.zeroed_bytes.clone());
    }
}

/// Bytes that were moved since the start of a transfer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moved {
    /// Of block files, from or to the backup store.
    pub store_bytes: u64,
    /// Of data, to or from the volume.
    pub volume_bytes: u64,
    /// Made zero without a write of data.
    pub zeroed_bytes: u64,
}

/// Tells what a transfer has moved by now.
pub trait Source: Send + Sync + 'static {
    /// Since its start.
    fn moved(&self) -> Moved;
}

impl Source for Progress {
    fn moved(&self) -> Moved {
        Moved { store_bytes: self.bytes_stored(), volume_bytes: self.bytes_moved(), zeroed_bytes: self.bytes_zeroed() }
    }
}

/// One transfer, and what of it is counted.
struct Meter {
    source: Arc<dyn Source>,
    counted: Mutex<Moved>,
}

impl Meter {
    /// What was moved since the last call.
    fn advance(&self) -> Moved {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.source.moved();
        let before = std::mem::replace(&mut *counted, now);
        Moved {
            store_bytes: now.store_bytes.saturating_sub(before.store_bytes),
            volume_bytes: now.volume_bytes.saturating_sub(before.volume_bytes),
            zeroed_bytes: now.zeroed_bytes.saturating_sub(before.zeroed_bytes),
        }
    }
}

/// A restore or backup that runs; counted as ended when dropped.
pub struct Transfer {
    metrics: TransferMetrics,
    meter: Arc<Meter>,
    begun: Instant,
    outcome: &'static str,
}

impl Transfer {
    /// Ends it as its result says.
    pub fn end<T>(mut self, result: &Result<T, Error>) {
        self.outcome = match result {
            Ok(_) => "complete",
            Err(Error::Canceled { .. }) => "canceled",
            Err(_) => "failed",
        };
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.metrics.count(&self.meter);
        self.metrics.running.dec();
        self.metrics.seconds.observe(self.begun.elapsed().as_secs_f64());
        self.metrics.ended.get_or_create(&OutcomeLabel { outcome: self.outcome }).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use prometheus_client::encoding::text;

    use super::*;

    struct Counted(AtomicU64);

    impl Source for Counted {
        fn moved(&self) -> Moved {
            Moved { volume_bytes: self.0.load(Ordering::Relaxed), ..Moved::default() }
        }
    }

    #[test]
    fn what_moves_is_counted_while_it_moves_and_once() {
        let metrics = TransferMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry, "restores");
        let has = |line: &str| {
            metrics.catch_up();
            let mut page = String::new();
            text::encode(&mut page, &registry).expect("a page");
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        };
        let moved = Arc::new(Counted(AtomicU64::new(0)));
        let running = metrics.begin(moved.clone());
        moved.0.store(7, Ordering::Relaxed);
        has("restores_volume_bytes_total 7");
        has("restores_volume_bytes_total 7");
        has("restores_running 1");
        moved.0.store(10, Ordering::Relaxed);
        drop(running);
        has("restores_volume_bytes_total 10");
        has(r#"restores_ended_total{outcome="failed"} 1"#);
        has("restores_seconds_count 1");
        let none = || Arc::new(Counted(AtomicU64::new(0)));
        metrics.begin(none()).end(&Ok(()));
        metrics.begin(none()).end::<()>(&Err(Error::Canceled { what: "it".into() }));
        has(r#"restores_ended_total{outcome="complete"} 1"#);
        has(r#"restores_ended_total{outcome="canceled"} 1"#);
        has("restores_running 0");
    }
}
