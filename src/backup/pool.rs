//! Running many steps with a bound on how many at once, started in order, none left behind.

use std::future::Future;

use tokio::task::JoinSet;

use super::cancel::Cancel;
use crate::{Error, Result};

/// Runs `step` for each item, at most `limit` at once (zero means one), started in the items' order.
///
/// The first error or the cancel stops the start of further steps; those that run are awaited, so that nothing of
/// them happens after this returns. Returns the first error, or `Ok(false)` if the cancel came first.
pub(super) async fn run<I, F>(
    items: impl IntoIterator<Item = I>,
    limit: usize,
    cancel: &Cancel,
    mut step: impl FnMut(I) -> F,
) -> Result<bool>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut items = items.into_iter();
    let mut running = JoinSet::new();
    let mut failure = None;
    let mut exhausted = false;
    loop {
        while failure.is_none() && !exhausted && running.len() < limit.max(1) && !cancel.is_cancelled() {
            match items.next() {
                Some(item) => {
                    running.spawn(step(item));
                }
                None => exhausted = true,
            }
        }
        let Some(joined) = running.join_next().await else {
            break;
        };
        let result = joined.unwrap_or_else(|error| Err(Error::internal("backup task", error.to_string())));
        failure = failure.or(result.err());
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(exhausted),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn no_more_than_the_limit_run_at_once_and_all_run() {
        let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)));
        let shared = counts.clone();
        let never = Cancel::never();
        let all = run(0..50, 3, &never, move |_| {
            let counts = shared.clone();
            async move {
                let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
                counts.1.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                counts.0.fetch_sub(1, Ordering::SeqCst);
                counts.2.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        });
        assert!(all.await.unwrap());
        assert_eq!(counts.1.load(Ordering::SeqCst), 3);
        assert_eq!(counts.2.load(Ordering::SeqCst), 50);
    }

    #[tokio::test]
    async fn after_an_error_nothing_starts_and_what_runs_is_awaited() {
        let done = Arc::new(AtomicUsize::new(0));
        let shared = done.clone();
        let never = Cancel::never();
        let result = run(0..50, 4, &never, move |item| {
            let done = shared.clone();
            async move {
                if item == 1 {
                    return Err(Error::medium("x", "failed"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                done.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        });
        assert!(matches!(result.await, Err(Error::Medium { .. })));
        assert_eq!(done.load(Ordering::SeqCst), 3);
    }
}
