//! Polling with an end.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

const PAUSE: Duration = Duration::from_millis(20);

/// Asks `probe` until it answers `Ok`, at most for `limit`. Its `Err` says why not yet; the last one is in the panic.
pub async fn wait_until<T>(limit: Duration, what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    let mut reason = String::from("the first answer did not come");
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(not_yet)) => reason = not_yet,
            Err(_) => panic!("{what}: not within {limit:?}; last: {reason}"),
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}; last: {reason}");
        sleep(PAUSE).await;
    }
}
