//! Telling a running backup or restore to stop.

use std::time::Duration;

use tokio::sync::watch;

/// The side that cancels. Dropping it cancels nothing.
#[derive(Debug, Clone)]
pub struct CancelHandle(watch::Sender<bool>);

impl CancelHandle {
    /// Tells all holders of the [`Cancel`] to stop. What has started finishes first.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

/// The side that is told.
#[derive(Debug, Clone)]
pub struct Cancel(watch::Receiver<bool>);

impl Cancel {
    /// A connected pair.
    pub fn pair() -> (CancelHandle, Self) {
        let (sender, receiver) = watch::channel(false);
        (CancelHandle(sender), Self(receiver))
    }

    /// One that never comes.
    pub fn never() -> Self {
        Self::pair().1
    }

    /// Whether it came.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it comes; for ever if nobody can cancel any more.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sleeps; `false` if the cancel came first.
    pub async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(duration) => !self.is_cancelled(),
            () = self.cancelled() => false,
        }
    }
}
