//! How fast the rebuild of a replica may be written: a limit that can change at any moment, and those who wait for it.

use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};

/// What was not used of the limit can be caught up with for so long; it evens out the timer's coarse steps.
const BURST: Duration = Duration::from_millis(20);

/// The limit of one replica. Without one, nobody waits.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: watch::Sender<u64>,
    /// Until when the limit is used up. Who has the lock waits; the others queue, first come, first served.
    used_until: Mutex<Instant>,
}

impl Pace {
    pub(super) fn unlimited() -> Self {
        Self { bytes_per_second: watch::Sender::new(0), used_until: Mutex::new(Instant::now()) }
    }

    /// Sets the limit, also for those that wait; 0 is none.
    pub(super) fn set(&self, mib_per_second: u32) {
        self.bytes_per_second.send_replace(u64::from(mib_per_second) << 20);
    }

    pub(super) fn is_limited(&self) -> bool {
        *self.bytes_per_second.borrow() != 0
    }

    /// Returns when so many bytes may be written.
    pub(super) async fn admit(&self, bytes: u64) {
        let mut limit = self.bytes_per_second.subscribe();
        let mut used_until = self.used_until.lock().await;
        loop {
            let rate = *limit.borrow_and_update();
            let now = Instant::now();
            if rate == 0 {
                return;
            }
            let start = now.checked_sub(BURST).map_or(now, |earliest| used_until.max(earliest));
            let due = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
            tokio::select! {
                () = sleep_until(due) => {
                    *used_until = due;
                    return;
                }
                // The sender is ours, so this is a new limit.
                _ = limit.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn so_many_bytes_take_so_long_whoever_asks() {
        let pace = Arc::new(Pace::unlimited());
        pace.set(8);
        let started = Instant::now();
        let writers = (0..4).map(|_| {
            let pace = pace.clone();
            tokio::spawn(async move {
                for _ in 0..4 {
                    pace.admit(MIB / 4).await;
                }
            })
        });
        futures::future::join_all(writers.collect::<Vec<_>>()).await;
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(500) - BURST, "4 MiB at 8 MiB/s took {took:?}");
    }

    #[tokio::test]
    async fn a_new_limit_holds_for_who_waits_already() {
        let pace = Arc::new(Pace::unlimited());
        pace.set(1);
        let slow = tokio::spawn({
            let pace = pace.clone();
            // Eleven days.
            async move { pace.admit(1_000_000 * MIB).await }
        });
        tokio::task::yield_now().await;
        assert!(!slow.is_finished() && pace.is_limited());
        pace.set(0);
        slow.await.unwrap();
        pace.admit(u64::MAX).await;
    }
}
