//! When to stop: SIGTERM or SIGINT, told to whoever waits.

use tokio::signal::unix::{SignalKind, signal as unix_signal};
use tokio::sync::watch;

/// Keeps the signal alive.
pub(super) struct Stop(#[allow(dead_code)] watch::Sender<bool>);

/// Waits for the signal. All clones wait for the same.
#[derive(Debug, Clone)]
pub struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Until the node is told to stop.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut receiver = self.0.clone();
        async move {
            // An error means that the node is gone, which is a stop too.
            let _ = receiver.wait_for(|stop| *stop).await;
        }
    }
}

/// Listens for signals from now on.
pub(super) fn signal() -> (Stop, Stopping) {
    let (sender, receiver) = watch::channel(false);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let sender = sender.clone();
        match unix_signal(kind) {
            Ok(mut signals) => {
                tokio::spawn(async move {
                    if signals.recv().await.is_some() {
                        tracing::info!("told to stop");
                        sender.send_replace(true);
                    }
                });
            }
            Err(error) => tracing::error!(%error, ?kind, "a signal cannot be listened for"),
        }
    }
    (Stop(sender), Stopping(receiver))
}
