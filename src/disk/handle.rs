//! A disk that is ready: what the rest of the node holds of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use uuid::Uuid;

use super::flush::{FlushHandle, Flusher};
use super::request::{DiskDriver, DiskRequest};
use crate::name::{BdevName, DiskName, LvsName};
use crate::spdk::Control;
use crate::spdk::bdev::OpenBdev;
use crate::spdk::lvstore::{self, ClearMethod, LvsInfo};
use crate::{Error, Result};

/// A ready disk. Cheap to clone.
#[derive(Clone)]
pub struct Disk(Arc<Inner>);

pub(super) struct Inner {
    pub(super) request: DiskRequest,
    pub(super) control: Control,
    /// `auto` resolved.
    pub(super) driver: DiskDriver,
    pub(super) id: String,
    pub(super) lvs: LvsInfo,
    pub(super) bdev: BdevName,
    /// The bdev as its flusher has it open; of a device that user space drives.
    pub(super) raw: Weak<OpenBdev>,
    pub(super) clear: ClearMethod,
    pub(super) flusher: Flusher,
    pub(super) holds: Arc<Mutex<Holds>>,
}

/// Who uses the disk.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// No more, because the disk is being taken away.
    closed: bool,
    next: u64,
    users: BTreeMap<u64, String>,
}

/// A use of a disk, which keeps it from being deleted. Dropping it ends the use.
#[derive(Debug)]
pub struct DiskHold {
    holds: Arc<Mutex<Holds>>,
    number: u64,
}

impl Drop for DiskHold {
    fn drop(&mut self) {
        lock(&self.holds).users.remove(&self.number);
    }
}

fn lock(holds: &Mutex<Holds>) -> MutexGuard<'_, Holds> {
    // Nothing between two changes can panic.
    holds.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    pub(super) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Its name.
    pub fn name(&self) -> &DiskName {
        &self.0.request.name
    }

    /// Its lvstore's name.
    pub fn lvs(&self) -> &LvsName {
        &self.0.lvs.name
    }

    /// Its lvstore's identity, which is the disk's.
    pub fn uuid(&self) -> Uuid {
        self.0.lvs.uuid
    }

    /// Bytes in a cluster: what volumes on it are multiples of.
    pub fn cluster_size(&self) -> u64 {
        self.0.lvs.cluster_size.into()
    }

    /// Bytes in a logical block of its volumes.
    pub fn block_size(&self) -> u32 {
        self.0.lvs.block_size
    }

    /// How clusters of its volumes must be cleared when they are given back, so that no other volume shows them.
    pub fn clear_method(&self) -> ClearMethod {
        self.0.clear
    }

    /// Whether both are the same bring-up of the same disk.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Uses the disk; `what` says who does, for the message of a refused delete.
    pub fn hold(&self, what: impl Into<String>) -> Result<DiskHold> {
        let mut holds = lock(&self.0.holds);
        if holds.closed {
            return Err(Error::precondition(format!("disk {}", self.name()), "it is being deleted"));
        }
        let number = holds.next;
        holds.next += 1;
        holds.users.insert(number, what.into());
        Ok(DiskHold { holds: self.0.holds.clone(), number })
    }

    /// Lets nobody use the disk any more, or says who still does.
    pub(super) fn close(&self) -> Result<()> {
        let mut holds = lock(&self.0.holds);
        if holds.users.is_empty() {
            holds.closed = true;
            return Ok(());
        }
        let users: Vec<_> = holds.users.values().map(String::as_str).collect();
        Err(Error::precondition(format!("disk {}", self.name()), format!("it is in use: {}", users.join(", "))))
    }

    /// Undoes [`Self::close`].
    pub(super) fn reopen(&self) {
        lock(&self.0.holds).closed = false;
    }

    /// A user's own way to flush the disk; it hears of every failed flush from now on.
    pub fn flush_handle(&self) -> FlushHandle {
        self.0.flusher.handle()
    }

    /// Makes what was written to the disk before the call durable.
    pub async fn flush(&self) -> Result<()> {
        self.flush_handle().flush().await
    }

    /// How full its lvstore is now.
    pub async fn capacity(&self) -> Result<LvsInfo> {
        let lvs = self.lvs().clone();
        let info = self.0.control.run(move |on| async move { lvstore::info(on, &lvs) }).await;
        Ok(info?)
    }

    /// The space that the disk has left; the error of a write when there is none.
    pub async fn require_space(&self, what: &str) -> Result<()> {
        match self.capacity().await?.free_clusters {
            0 => Err(Error::NoSpace {
                object: format!("disk {}", self.name()),
                problem: format!(
                    "{what} does not fit; delete snapshots, replicas or backing images there, or use another disk"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// What the failure of writing `what` means when the disk is full: SPDK only says that it failed.
    pub async fn explain(&self, error: Error, what: &str) -> Error {
        match (&error, self.require_space(what).await) {
            (Error::Medium { .. } | Error::Peer { .. }, Err(full @ Error::NoSpace { .. })) => full,
            _ => error,
        }
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disk({})", self.name())
    }
}
