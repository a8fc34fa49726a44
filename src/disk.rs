//! Disks of this node: a file, a block device, an NVMe controller or a virtio disk, with an lvstore of the same name on it.
//!
//! - [`request`]: what a disk is asked to be, as types. [`info`]: a disk as it is shown. [`handle`]: a ready disk.
//! - [`device`], [`pci`], [`signature`]: a path before SPDK opens it: is it free, large enough, whose data is on it.
//! - [`bring_up`]: from a path to an lvstore; `user_space` where SPDK drives the device itself, `moved` when the kernel
//!   has given it another name. [`record`]: what brings a disk back after a restart.
//! - [`health`]: what an NVMe disk says of itself. [`unplug`]: disks whose device leaves the machine.
//! - [`flush`]: making written data durable, many callers by one flush.

mod bring_up;
mod device;
mod flush;
mod handle;
pub mod health;
pub mod info;
mod moved;
mod pci;
mod record;
pub mod request;
mod signature;
mod unplug;
mod user_space;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::changes::Changes;
use crate::name::DiskName;
use crate::spdk::Control;
use crate::task::to_its_end;
use crate::telemetry::Events;
use crate::telemetry::events::ObjectKind;
use crate::{Error, Result};

use bring_up::{BringUp, blocking};
use record::Records;

pub(crate) use bring_up::host_path;
pub use flush::FlushHandle;
pub use handle::{Disk, DiskHold};
pub use info::{DiskInfo, DiskState, StoreInfo};
pub use request::{BlockSize, DiskDriver, DiskPath, DiskRequest};

/// Who has to know of disks before anybody else: what lies on them.
pub trait DiskObserver: Send + Sync + 'static {
    /// A disk's lvstore is loaded; the disk is shown as ready when this has returned.
    fn loaded(&self, disk: Disk) -> BoxFuture<'_, ()>;
    /// Nobody uses the disk, and it is about to go away.
    fn unloading(&self, disk: Disk) -> BoxFuture<'_, ()>;
    /// The disk's device has left the machine, in the midst of anything: what uses the disk is to be given up. Called again
    /// until nothing does.
    fn lost(&self, disk: Disk) -> BoxFuture<'_, ()>;
}

/// All disks of the node. Cheap to clone.
#[derive(Clone)]
pub struct Disks(Arc<Shared>);

struct Shared {
    bring_up: BringUp,
    records: Records,
    changes: Changes,
    events: Events,
    observers: OnceLock<Vec<Arc<dyn DiskObserver>>>,
    entries: Mutex<BTreeMap<DiskName, Entry>>,
    /// Bring-ups and take-downs go one at a time.
    one_at_a_time: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
enum Entry {
    Creating(DiskRequest),
    Ready(Disk),
    Failed(DiskRequest, Error),
    Deleting(Disk),
    /// Its device has left the machine, and it is being taken away.
    Lost(Disk, Error),
}

impl Entry {
    fn request(&self) -> &DiskRequest {
        match self {
            Self::Creating(request) | Self::Failed(request, _) => request,
            Self::Ready(disk) | Self::Deleting(disk) | Self::Lost(disk, _) => &disk.inner().request,
        }
    }
}

impl Disks {
    /// No disk yet; [`Self::load_all`] brings back those that the state directory knows.
    pub fn new(control: Control, state_dir: &std::path::Path, host_prefix: Option<PathBuf>, events: Events) -> Self {
        Self(Arc::new(Shared {
            bring_up: BringUp { control, host_prefix },
            records: Records::new(state_dir),
            changes: Changes::new(),
            events,
            observers: OnceLock::new(),
            entries: Mutex::default(),
            one_at_a_time: tokio::sync::Mutex::default(),
        }))
    }

    /// Sets who is told of disks first, in this order. Once, before any disk is created.
    pub fn observe(&self, observers: Vec<Arc<dyn DiskObserver>>) {
        if self.0.observers.set(observers).is_err() {
            tracing::error!("the disks have observers already");
        }
    }

    fn observers(&self) -> impl Iterator<Item = &Arc<dyn DiskObserver>> {
        self.0.observers.get().into_iter().flatten()
    }

    /// Announces every change of a disk's state.
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// Brings back the disks of the last run, all at the same time; returns when each is ready or in state error.
    pub async fn load_all(&self) -> Result<()> {
        let _one_at_a_time = self.0.one_at_a_time.lock().await;
        let records = self.0.records.clone();
        let requests = blocking(move || records.read_all()).await?;
        let bring_ups = requests.into_iter().filter_map(|request| {
            let mut entries = self.entries();
            if entries.contains_key(&request.name) {
                return None;
            }
            entries.insert(request.name.clone(), Entry::Creating(request.clone()));
            // A device that two records name is locked by the first to open it.
            Some(self.bring_up_in_turn(request))
        });
        futures::future::join_all(bring_ups.collect::<Vec<_>>()).await;
        self.find_moved().await;
        Ok(())
    }

    /// Looks for those whose device has another name than in the last run; one after the other, when all that are where
    /// they were have theirs.
    async fn find_moved(&self) {
        let failed = |entry: &Entry| match entry {
            Entry::Failed(request, _) => Some(request.clone()),
            _ => None,
        };
        let missing: Vec<_> = self.entries().values().filter_map(failed).collect();
        for request in missing {
            let others: Vec<_> = self.entries().values().filter_map(identity).collect();
            match self.0.bring_up.search(&request, &others).await {
                Ok(Some(disk)) => {
                    let found = self.publish(disk).await;
                    self.settle(&request, found);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(disk = %request.name, %error, "a disk could not be looked for"),
            }
        }
    }

    /// Begins to create a disk and returns at once. The same request again is answered with the disk as it is.
    pub async fn create(&self, request: DiskRequest) -> Result<DiskInfo> {
        request.lvs_name()?;
        let known = self.entries().get(&request.name).cloned();
        if let Some(entry) = known {
            return self.repeated(entry, &request).await;
        }
        if let DiskPath::File(path) = &request.path {
            let path = host_path(self.0.bring_up.host_prefix.as_ref(), path);
            blocking(move || device::check_path(&path)).await?;
        }
        let raced = {
            let mut entries = self.entries();
            let known = entries.get(&request.name).cloned();
            if known.is_none() {
                entries.insert(request.name.clone(), Entry::Creating(request.clone()));
            }
            known
        };
        if let Some(entry) = raced {
            return self.repeated(entry, &request).await;
        }
        self.0.changes.announce();
        tokio::spawn(self.clone().bring_up(request.clone()));
        Ok(DiskInfo::creating(&request))
    }

    async fn repeated(&self, entry: Entry, request: &DiskRequest) -> Result<DiskInfo> {
        let known = entry.request();
        // A disk that was found by its lvstore may be asked for by either of its paths.
        let is_meant = matches!(&entry, Entry::Ready(disk) if request.uuid == Some(disk.uuid()));
        if known.path != request.path && !is_meant {
            return Err(Error::AlreadyExists {
                kind: "disk",
                name: request.name.to_string(),
                detail: format!(": its path is {}", known.path),
            });
        }
        self.show(entry).await
    }

    /// A disk as it is now.
    pub async fn get(&self, name: &DiskName) -> Result<DiskInfo> {
        let entry = self.entries().get(name).cloned();
        self.show(entry.ok_or_else(|| Error::not_found("disk", name))?).await
    }

    /// All disks by name.
    pub async fn list(&self) -> Result<Vec<DiskInfo>> {
        let entries: Vec<_> = self.entries().values().cloned().collect();
        futures::future::try_join_all(entries.into_iter().map(|entry| self.show(entry))).await
    }

    /// A ready disk by its name.
    pub fn ready(&self, name: &DiskName) -> Result<Disk> {
        match self.entries().get(name) {
            Some(Entry::Ready(disk)) => Ok(disk.clone()),
            Some(Entry::Failed(_, error) | Entry::Lost(_, error)) => {
                Err(Error::precondition(format!("disk {name}"), format!("it is in state error: {error}")))
            }
            Some(_) => Err(Error::precondition(format!("disk {name}"), "it is not ready")),
            None => Err(Error::not_found("disk", name)),
        }
    }

    /// A ready disk by its lvstore's identity.
    pub fn ready_by_uuid(&self, uuid: Uuid) -> Result<Disk> {
        let entries = self.entries();
        let found = entries.values().find_map(|entry| match entry {
            Entry::Ready(disk) if disk.uuid() == uuid => Some(disk.clone()),
            _ => None,
        });
        found.ok_or_else(|| Error::not_found("disk with lvstore", uuid))
    }

    /// Takes a disk away from the node; its data stays on it. An unknown disk is no error. Refused while something
    /// uses the disk. With `uuid`, the disk of this name must have that lvstore.
    pub async fn delete(&self, name: &DiskName, uuid: Option<Uuid>) -> Result<()> {
        let disks = self.clone();
        let (name, uuid) = (name.clone(), uuid);
        // A caller that goes away must not leave the disk half deleted.
        to_its_end("deletion of a disk", async move { disks.delete_now(&name, uuid).await }).await
    }

    async fn delete_now(&self, name: &DiskName, uuid: Option<Uuid>) -> Result<()> {
        if let Some(uuid) = uuid {
            self.check_identity(name, uuid)?;
        }
        let _one_at_a_time = self.0.one_at_a_time.lock().await;
        let entry = self.entries().get(name).cloned();
        match entry {
            None => return Ok(()),
            Some(Entry::Creating(_)) => {
                return Err(Error::precondition(format!("disk {name}"), "it is being created; try again later"));
            }
            Some(Entry::Failed(..)) => {}
            Some(Entry::Lost(disk, _)) => self.take_away(&disk).await?,
            Some(Entry::Ready(disk) | Entry::Deleting(disk)) => self.take_down(disk).await?,
        }
        let (records, removed) = (self.0.records.clone(), name.clone());
        blocking(move || records.remove(&removed)).await?;
        self.entries().remove(name);
        self.0.changes.announce();
        self.0.events.tell(ObjectKind::Disk, name, "deleted", "its data is kept");
        tracing::info!(disk = %name, "disk deleted; its data is kept");
        Ok(())
    }

    /// Takes all disks away as the node goes down; the next start brings them back.
    pub async fn unload_all(&self) {
        let _one_at_a_time = self.0.one_at_a_time.lock().await;
        let entries: Vec<_> = self.entries().values().cloned().collect();
        for entry in entries {
            let Entry::Ready(disk) = entry else { continue };
            let name = disk.name().clone();
            match self.take_down(disk).await {
                Ok(()) => drop(self.entries().remove(&name)),
                Err(error) => tracing::warn!(disk = %name, %error, "a disk could not be unloaded"),
            }
        }
        self.0.changes.announce();
    }

    async fn take_down(&self, disk: Disk) -> Result<()> {
        let name = disk.name().clone();
        disk.close()?;
        self.set(&name, Entry::Deleting(disk.clone()));
        for observer in self.observers() {
            observer.unloading(disk.clone()).await;
        }
        if let Err(error) = bring_up::unload(&disk).await {
            tracing::error!(disk = %name, %error, "a disk could not be unloaded, and is used further");
            disk.reopen();
            for observer in self.observers() {
                observer.loaded(disk.clone()).await;
            }
            self.set(&name, Entry::Ready(disk));
            return Err(error);
        }
        bring_up::let_go(&disk).await
    }

    /// An lvstore that is another disk's, or a disk with another lvstore, is not what the caller means.
    fn check_identity(&self, name: &DiskName, uuid: Uuid) -> Result<()> {
        for (other, entry) in self.entries().iter() {
            if let Entry::Ready(disk) | Entry::Deleting(disk) = entry
                && (disk.uuid() == uuid) != (other == name)
                && (other == name || disk.uuid() == uuid)
            {
                let problem = format!("disk {other} has lvstore {}", disk.uuid());
                return Err(Error::invalid("disk_uuid", format!("{uuid} is not that of disk {name}: {problem}")));
            }
        }
        Ok(())
    }

    async fn bring_up(self, request: DiskRequest) {
        let _one_at_a_time = self.0.one_at_a_time.lock().await;
        self.bring_up_in_turn(request).await;
    }

    /// As [`Self::bring_up`], by who has the turn.
    async fn bring_up_in_turn(&self, request: DiskRequest) {
        let others: Vec<_> = self.entries().values().filter_map(identity).collect();
        let outcome = match self.0.bring_up.run(&request, &others).await {
            Ok(disk) => self.publish(disk).await,
            Err(error) => Err(error),
        };
        self.settle(&request, outcome);
    }

    /// Takes over how a bring-up ended.
    fn settle(&self, request: &DiskRequest, outcome: Result<Disk>) {
        let entry = match outcome {
            Ok(disk) => {
                tracing::info!(disk = %request.name, path = %request.path, uuid = %disk.uuid(), "disk is ready");
                Entry::Ready(disk)
            }
            Err(error) => {
                tracing::error!(disk = %request.name, path = %request.path, %error, "disk could not be created");
                Entry::Failed(request.clone(), error)
            }
        };
        self.set(&request.name, entry);
    }

    /// Makes the disk durable knowledge of the node, and its content known.
    async fn publish(&self, disk: Disk) -> Result<Disk> {
        let (records, recorded) = (self.0.records.clone(), disk.clone());
        if let Err(error) = blocking(move || {
            let inner = recorded.inner();
            records.write(&inner.request, inner.driver, recorded.uuid())
        })
        .await
        {
            bring_up::unload(&disk).await?;
            bring_up::let_go(&disk).await?;
            return Err(error);
        }
        for observer in self.observers() {
            observer.loaded(disk.clone()).await;
        }
        Ok(disk)
    }

    async fn show(&self, entry: Entry) -> Result<DiskInfo> {
        match entry {
            Entry::Creating(request) => Ok(DiskInfo::creating(&request)),
            Entry::Failed(request, error) => Ok(DiskInfo::failed(&request, &error)),
            Entry::Lost(disk, error) => Ok(DiskInfo::failed(&disk.inner().request, &error)),
            Entry::Ready(disk) => DiskInfo::ready(&disk).await,
            // The wire has no state for that.
            Entry::Deleting(disk) => {
                let problem = Error::precondition(format!("disk {}", disk.name()), "it is being deleted");
                Ok(DiskInfo::failed(&disk.inner().request, &problem))
            }
        }
    }

    fn set(&self, name: &DiskName, entry: Entry) {
        let message = match &entry {
            Entry::Creating(_) => "creating".into(),
            Entry::Ready(_) => "ready".into(),
            Entry::Failed(_, error) | Entry::Lost(_, error) => format!("error: {error}"),
            Entry::Deleting(_) => "it is being deleted".into(),
        };
        self.0.events.tell(ObjectKind::Disk, name, "state-changed", message);
        self.entries().insert(name.clone(), entry);
        self.0.changes.announce();
    }

    /// The state of each disk.
    pub fn states(&self) -> Vec<DiskState> {
        let state = |entry: &Entry| match entry {
            Entry::Creating(_) => DiskState::Creating,
            Entry::Ready(_) => DiskState::Ready,
            Entry::Failed(..) | Entry::Deleting(_) | Entry::Lost(..) => DiskState::Error,
        };
        self.entries().values().map(state).collect()
    }

    /// All disks that are ready.
    pub fn all_ready(&self) -> Vec<Disk> {
        let ready = |entry: &Entry| match entry {
            Entry::Ready(disk) => Some(disk.clone()),
            _ => None,
        };
        self.entries().values().filter_map(ready).collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<DiskName, Entry>> {
        // Nothing between two changes of the map can panic.
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(entry: &Entry) -> Option<(String, String)> {
    match entry {
        Entry::Ready(disk) | Entry::Deleting(disk) | Entry::Lost(disk, _) => {
            Some((disk.inner().id.clone(), disk.name().to_string()))
        }
        Entry::Creating(_) | Entry::Failed(..) => None,
    }
}
