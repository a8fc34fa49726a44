//! Tells watchers that something changed, without ever waiting for one of them.
//!
//! A watcher that is slow sees several changes as one: it re-reads the state anyway (`engine-behaviour` §0, Watches).
//! So there is nothing to queue, and nothing that could fill up.

use tokio::sync::watch;

/// The side that announces. Cloning it gives another voice for the same changes.
#[derive(Debug, Clone)]
pub struct Changes(watch::Sender<u64>);

/// The side that waits.
#[derive(Debug)]
pub struct Watcher(watch::Receiver<u64>);

impl Changes {
    /// No change so far, no watcher.
    pub fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Something changed. Never waits.
    pub fn announce(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A watcher of all changes from now on.
    pub fn watch(&self) -> Watcher {
        Watcher(self.0.subscribe())
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self::new()
    }
}

impl Watcher {
    /// Waits for a change that this watcher has not seen. `None` when nobody can announce one any more.
    pub async fn changed(&mut self) -> Option<()> {
        self.0.changed().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn changes_between_two_looks_are_one() {
        let changes = Changes::new();
        let mut watcher = changes.watch();
        assert_eq!(watcher.changed().now_or_never(), None, "a new watcher has nothing to see");
        changes.announce();
        changes.clone().announce();
        assert_eq!(watcher.changed().now_or_never(), Some(Some(())));
        assert_eq!(watcher.changed().now_or_never(), None, "both were seen at once");
        changes.announce();
        assert_eq!(watcher.changed().now_or_never(), Some(Some(())));
    }

    #[tokio::test]
    async fn the_end_of_all_voices_ends_the_watch() {
        let changes = Changes::new();
        let mut watcher = changes.watch();
        drop(changes);
        assert_eq!(watcher.changed().await, None);
    }
}
