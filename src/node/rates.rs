//! How fast volumes are read and written: the difference between two looks at the counters of their mirrors, one each
//! [`PERIOD`] (`engine-behaviour` §1.8).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::{Node, Stopping};
use crate::engine::instance::Engine;
use crate::name::EngineName;
use crate::spdk::stats::IoStats;
use crate::{Error, Result};

/// Time between two looks: the cadence of Longhorn's own engine.
const PERIOD: Duration = Duration::from_secs(3);
/// How long a mirror may take to answer; one that does not keeps the rates it had.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// The rates of one volume, averaged over the last period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Bytes read in a second.
    pub read_throughput: u64,
    /// Bytes written in a second.
    pub write_throughput: u64,
    /// Mean time of a read, in nanoseconds; 0 when there was none.
    pub read_latency_ns: u64,
    /// Mean time of a write, in nanoseconds; 0 when there was none.
    pub write_latency_ns: u64,
    /// Reads in a second.
    pub read_iops: u64,
    /// Writes in a second.
    pub write_iops: u64,
}

impl Rate {
    /// Between two looks; `None` when the counters began anew in between, as those of a mirror made again do.
    fn between(before: &Look, after: &Look) -> Option<Self> {
        let elapsed_ns = after.at.checked_duration_since(before.at)?.as_nanos();
        let (old, new) = (&before.counted, &after.counted);
        let reads = new.reads.checked_sub(old.reads)?;
        let writes = new.writes.checked_sub(old.writes)?;
        let a_second = |count: u64| narrow(u128::from(count) * 1_000_000_000 / elapsed_ns.max(1));
        Some(Self {
            read_throughput: a_second(new.read_bytes.checked_sub(old.read_bytes)?),
            write_throughput: a_second(new.written_bytes.checked_sub(old.written_bytes)?),
            read_latency_ns: new.read_ns.checked_sub(old.read_ns)?.checked_div(reads).unwrap_or(0),
            write_latency_ns: new.write_ns.checked_sub(old.write_ns)?.checked_div(writes).unwrap_or(0),
            read_iops: a_second(reads),
            write_iops: a_second(writes),
        })
    }
}

fn narrow(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// The counters of one mirror at one moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    counted: IoStats,
}

/// What is known of one engine.
#[derive(Debug, Clone, Copy)]
struct Known {
    last: Look,
    rate: Option<Rate>,
}

/// The rates of all engines of the node.
#[derive(Debug, Default)]
pub struct Rates(Mutex<BTreeMap<EngineName, Known>>);

impl Rates {
    /// The rates of an engine. [`Error::NotFound`] until it was looked at twice.
    pub fn get(&self, engine: &EngineName) -> Result<Rate> {
        let rate = self.known().get(engine).and_then(|known| known.rate);
        rate.ok_or_else(|| Error::not_found("metrics of engine", format!("{engine} (two looks, {PERIOD:?} apart)")))
    }

    /// Takes over what was seen; engines that are not there any more are forgotten.
    fn take(&self, listed: &[EngineName], looks: Vec<(EngineName, Look)>) {
        let mut known = self.known();
        known.retain(|name, _| listed.contains(name));
        for (name, look) in looks {
            let rate = known.get(&name).and_then(|known| Rate::between(&known.last, &look));
            known.insert(name, Known { last: look, rate });
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<EngineName, Known>> {
        // Only whole values are put in.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at all engines each period, until the node stops.
pub(super) fn follow(node: &Arc<Node>, stopping: Stopping) {
    let node = Arc::downgrade(node);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stopping.wait() => return,
            }
            let Some(node) = node.upgrade() else { return };
            let engines = node.engines.list();
            let looks = join_all(engines.iter().map(|engine| look(engine))).await.into_iter().flatten().collect();
            let listed: Vec<_> = engines.iter().map(|engine| engine.name.clone()).collect();
            node.rates.take(&listed, looks);
        }
    });
}

async fn look(engine: &Engine) -> Option<(EngineName, Look)> {
    let mirror = engine.mirror().ok()?;
    let activity = tokio::time::timeout(LOOK_LIMIT, mirror.activity()).await.ok()?.ok()?;
    Some((engine.name.clone(), Look { at: Instant::now(), counted: activity.completed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, reads: u64, writes: u64) -> Look {
        let counted = IoStats {
            reads,
            read_bytes: reads * 4096,
            read_ns: reads * 1000,
            writes,
            written_bytes: writes * 512,
            write_ns: writes * 3000,
        };
        Look { at, counted }
    }

    #[test]
    fn rates_are_of_the_time_between_and_latencies_of_what_was_done_in_it() {
        let start = Instant::now();
        let (before, after) = (look(start, 100, 7), look(start + Duration::from_secs(2), 300, 7));
        let rate = Rate::between(&before, &after).unwrap();
        let expected = Rate { read_throughput: 409_600, read_iops: 100, read_latency_ns: 1000, ..Rate::default() };
        assert_eq!(rate, expected);
        assert_eq!(Rate::between(&after, &before), None, "time does not go back");
        assert_eq!(Rate::between(&look(start, 9, 9), &look(start + PERIOD, 1, 9)), None, "the counters began anew");
    }

    #[test]
    fn an_engine_has_rates_after_two_looks_and_none_when_it_is_gone() {
        let (rates, name, start) = (Rates::default(), EngineName::parse("v-e-0").unwrap(), Instant::now());
        let at = |seconds: u64, reads: u64| {
            rates.take(
                std::slice::from_ref(&name),
                vec![(name.clone(), look(start + Duration::from_secs(seconds), reads, 0))],
            );
        };
        assert!(matches!(rates.get(&name), Err(Error::NotFound { .. })));
        at(0, 10);
        assert!(matches!(rates.get(&name), Err(Error::NotFound { .. })));
        at(1, 30);
        assert_eq!(rates.get(&name).unwrap().read_iops, 20);
        at(2, 5);
        assert!(rates.get(&name).is_err(), "its mirror was made anew");
        at(3, 6);
        assert_eq!(rates.get(&name).unwrap().read_iops, 1);
        rates.take(&[], Vec::new());
        assert!(rates.get(&name).is_err());
    }
}
