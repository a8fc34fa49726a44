//! Work on behalf of a caller: it runs to its end, and a bug in it costs that work alone.
//!
//! A panic in such work is told to who waits for it: the work holds no I/O, and what it holds of a volume is given back as
//! its values are dropped. A panic anywhere else, above all on a reactor, ends the process, because state that was left
//! half-changed must not be served ([`abort_elsewhere`]).

use std::cell::Cell;
use std::future::{Future, poll_fn};

use crate::error::{Error, Result};

/// What the caller is told of a panic.
pub const BUG: &str = "it hit a bug of this node, whose log has the place; volumes go on";

thread_local! {
    /// Whether this thread runs work of a caller at this moment.
    static ON_BEHALF: Cell<bool> = const { Cell::new(false) };
}

/// Makes every panic outside such work end the process, after it was reported. Once, at the start of a node.
pub fn abort_elsewhere() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if !ON_BEHALF.get() {
            std::process::abort();
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a call panicked: a bug, please report it; who waits for the call is told");
    }));
}

/// Runs a step of a caller's work. A panic in it unwinds to whoever called this.
pub fn on_behalf<T>(step: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ON_BEHALF.set(self.0);
        }
    }
    let _restore = Restore(ON_BEHALF.replace(true));
    step()
}

/// Runs work to its end, also when nobody waits for it any more: a half-done change would be seen by the next. `what` is
/// for the message when it panics.
pub async fn to_its_end<T: Send + 'static>(
    what: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut work = Box::pin(work);
    let task = tokio::spawn(poll_fn(move |context| on_behalf(|| work.as_mut().poll(context))));
    task.await.unwrap_or_else(|_| Err(Error::internal(what, BUG)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_goes_on_without_its_caller_and_a_panic_is_an_error_of_it() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let work = to_its_end("the test", async {
            tokio::task::yield_now().await;
            tell.send(ON_BEHALF.get()).map_err(|_| Error::internal("the test", "nobody listens"))
        });
        tokio::select! {
            biased;
            _ = work => unreachable!("it has not run yet"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(told.await, Ok(true));
        let failed: Result<()> = to_its_end("the test", async { panic!("the test's own") }).await;
        assert!(failed.is_err_and(|error| error.to_string().contains(BUG)));
        assert!(!ON_BEHALF.get());
    }
}
