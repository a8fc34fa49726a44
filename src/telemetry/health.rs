//! Whether a node is ready for calls.

use tokio::sync::watch;

/// Where a node is in its life. It only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// Its port is open; its disks are not loaded yet.
    Starting,
    /// Calls are served.
    Ready,
    /// It was told to stop.
    Stopping,
}

/// A node's own account of itself. All clones share it.
#[derive(Debug, Clone)]
pub struct Health(watch::Sender<Readiness>);

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A node that starts.
    pub fn new() -> Self {
        Self(watch::Sender::new(Readiness::Starting))
    }

    /// Goes forward; a step back is ignored.
    pub fn reach(&self, readiness: Readiness) {
        self.0.send_if_modified(|current| {
            let further = readiness > *current;
            if further {
                *current = readiness;
            }
            further
        });
    }

    /// Why calls should go elsewhere, or `Ok`.
    pub fn ready(&self) -> Result<(), &'static str> {
        match *self.0.borrow() {
            Readiness::Starting => Err("the node is starting"),
            Readiness::Ready => Ok(()),
            Readiness::Stopping => Err("the node is stopping"),
        }
    }

    /// Sees each step, the current one first.
    pub fn watch(&self) -> watch::Receiver<Readiness> {
        let mut receiver = self.0.subscribe();
        receiver.mark_changed();
        receiver
    }
}
