//! What the threads of a device share: the association with the target, and whether it still holds. Connections are made on tokio,
//! never on a reactor.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::initiator::{Association, InitiatorError, QueueSocket};

/// A controller of another node.
pub(super) struct Link {
    association: Arc<Association>,
    runtime: Handle,
    /// A queue that is connected already, for the first thread.
    first: Mutex<Option<QueueSocket>>,
    down: AtomicBool,
}

impl Link {
    /// Of an association that has one queue connected. To be called on tokio, which makes the others.
    pub(super) fn new(association: Arc<Association>, first: QueueSocket) -> Arc<Self> {
        let ended = association.ended();
        let link = Arc::new(Self {
            association,
            runtime: Handle::current(),
            first: Mutex::new(Some(first)),
            down: AtomicBool::new(false),
        });
        let watched = Arc::downgrade(&link);
        tokio::spawn(async move {
            let reason = ended.await;
            if let Some(link) = watched.upgrade()
                && !link.down.swap(true, Ordering::AcqRel)
            {
                tracing::warn!(peer = %link.peer(), %reason, "the connection to another node's volume is lost");
            }
        });
        link
    }

    /// A connected queue, or the reason why there is none, when it is there.
    pub(super) fn queue(&self) -> oneshot::Receiver<Result<QueueSocket, InitiatorError>> {
        let (tell, told) = oneshot::channel();
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            // Who asks has the other end, so it is not gone.
            Some(first) => drop(tell.send(Ok(first))),
            None => {
                let association = self.association.clone();
                self.runtime.spawn(async move {
                    // Who does not wait any more does not need it.
                    let _ = tell.send(association.open_queue().await);
                });
            }
        }
        told
    }

    /// Whether all I/O is to fail.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    /// All I/O fails from now on, as the device goes.
    pub(super) fn take_down(&self) {
        self.down.store(true, Ordering::Release);
    }

    /// A queue has failed, and all others with it.
    pub(super) fn broke(&self, reason: InitiatorError) {
        self.association.end(reason);
    }

    /// Whom it leads to, for messages.
    pub(super) fn peer(&self) -> Arc<str> {
        self.association.peer().into()
    }

    /// The association.
    pub(super) fn association(&self) -> &Arc<Association> {
        &self.association
    }
}
