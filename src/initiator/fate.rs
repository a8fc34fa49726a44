//! What becomes of a controller: one end for all its queues and background tasks, with the reason of the first failure.

use tokio::sync::watch;

use super::error::InitiatorError;

/// Alive until the first failure.
#[derive(Debug)]
pub struct Fate {
    reason: watch::Sender<Option<InitiatorError>>,
}

impl Fate {
    /// Alive.
    pub fn new() -> Self {
        Self { reason: watch::Sender::new(None) }
    }

    /// Ends it; only the first reason counts.
    pub fn end(&self, error: InitiatorError) {
        self.reason.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                *reason = Some(error);
            }
            first
        });
    }

    /// Why it ended, if it has.
    pub fn reason(&self) -> Option<InitiatorError> {
        self.reason.borrow().clone()
    }

    /// Waits for the end.
    pub async fn ended(&self) -> InitiatorError {
        let mut reasons = self.reason.subscribe();
        match reasons.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(error)) => error,
            _ => unreachable!("the sender lives in self, and the value waited for is a reason"),
        }
    }
}
