//! Replicas of this node: each a head with its chain of snapshots on one disk, exported while it runs.
//!
//! - [`view`]: a replica as it is shown. [`tree`]: which lvols are a replica's, and how they hang together (pure).
//! - [`instance`]: one replica, its published view and its turn-taking. [`lifecycle`], [`snapshot`], [`attribute`]: its
//!   operations. [`discover`]: replicas found again on a disk. `record`: which of them run.
//! - [`base`]: what a chain stands on.
//! - [`store`]: the lvols of a disk. [`attributes`]: what is stored with them.
//! - [`head`]: the bdev that a head is served by. [`export`]: that bdev and its export, as one. [`serving`]: what a running
//!   replica has. [`pace`]: how fast a rebuild is written. [`readers`]: who reads its snapshots.
//! - [`clone`]: a replica made of another's snapshot, linked to it or as a full copy. `base`: what a chain stands on.
//! - [`rebuild`]: a replica made anew as a copy of another. [`head_map`]: what its engine then copies of the head.
//! - [`hash`]: checksums of snapshots. [`orphan`]: lvols that belong to nothing.
//! - [`layers`]: which clusters hold data and which changed (pure). [`backup`]: backups of a snapshot.

mod attribute;
pub mod attributes;
pub mod backup;
mod base;
mod budget;
pub mod clone;
mod dirty;
mod discover;
mod export;
mod hash;
mod head;
mod head_map;
mod hosts;
mod instance;
mod layers;
mod lifecycle;
mod operation;
pub mod orphan;
mod pace;
mod readers;
pub mod rebuild;
mod record;
mod serving;
pub mod snapshot;
mod store;
mod tree;
pub mod view;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::changes::Changes;
use crate::config::NodeConfig;
use crate::disk::{Disk, DiskObserver, Disks, FlushHandle};
use crate::name::{BackingImageName, BdevName, DiskName, ReplicaName, SnapshotName};
use crate::peer::Peers;
use crate::ports::Ports;
use crate::record::Records;
use crate::spdk::Control;
use crate::telemetry::Telemetry;
use crate::telemetry::events::ObjectKind;
use crate::{Error, Result};

use backup::Backups;
use hash::HashLimits;
use instance::{Replica, Turn};
use operation::Operation;
use rebuild::CopyLimits;
use record::ReplicaRecord;
use store::{Store, Survey};
use tree::Tree;

pub use attributes::AttributeKey;
pub use backup::{BackupOrder, BackupPhase, BackupStatus, StartedBackup};
pub use hash::{HashPhase, HashStatus};
pub use orphan::{Orphan, OrphanChoice, OrphanKind};
pub use snapshot::SnapshotOptions;
pub use view::{Child, LvolView, ReplicaPorts, ReplicaState, ReplicaView};

/// A replica to be created, or started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaRequest {
    /// Its name.
    pub name: ReplicaName,
    /// The disk it is on.
    pub disk: DiskChoice,
    /// Bytes of the volume; rounded up to whole clusters.
    pub spec_size: u64,
    /// How many data ports it gets, the first for its export.
    pub port_count: NonZeroU16,
    /// The backing image that a new one stands on; one that is there already must stand on this one if it is given.
    pub backing_image: Option<BackingImageName>,
}

/// A disk, by either of its identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskChoice {
    /// By its lvstore's UUID.
    Uuid(Uuid),
    /// By its name, which is its lvstore's.
    Name(DiskName),
}

/// A running replica's head, for an engine of this node.
#[derive(Debug, Clone)]
pub struct LocalHead {
    /// The bdev to open. Its flush reaches the disk, and its I/O fails when the replica stops.
    pub bdev: BdevName,
    /// The disk's flush, for who would rather not go through the bdev.
    pub flush: FlushHandle,
}

/// All replicas of the node. Cheap to clone.
#[derive(Clone)]
pub struct Replicas(Arc<Shared>);

struct Shared {
    control: Control,
    disks: Disks,
    ports: Ports,
    data_ip: IpAddr,
    changes: Changes,
    telemetry: Telemetry,
    replicas: Mutex<BTreeMap<ReplicaName, Arc<Replica>>>,
    stores: Mutex<BTreeMap<Uuid, Store>>,
    backups: Backups,
    peers: Peers,
    copies: CopyLimits,
    hashes: HashLimits,
    stopping: AtomicBool,
    records: Records<ReplicaRecord>,
}

impl Replicas {
    /// Replicas on `disks`, reached at the node's data address on `ports`. They are found when their disk is loaded, which
    /// they must observe ([`Disks::observe`]). Replicas of other nodes are reached by `peers`.
    pub fn new(
        control: Control,
        disks: Disks,
        ports: Ports,
        peers: Peers,
        config: &NodeConfig,
        telemetry: Telemetry,
    ) -> Self {
        let (limits, timeouts) = (&config.limits, &config.timeouts);
        Self(Arc::new(Shared {
            control,
            disks: disks.clone(),
            ports,
            data_ip: config.data_ip,
            changes: Changes::new(),
            telemetry,
            replicas: Mutex::default(),
            stores: Mutex::default(),
            backups: Backups::new(limits.backups.get(), limits.restore_workers.get(), timeouts.restore_stall),
            peers,
            copies: CopyLimits {
                at_once: Arc::new(Semaphore::new(limits.rebuilds.get())),
                depth: limits.rebuild_queue_depth.get(),
                attach: timeouts.attach,
                stall: timeouts.rebuild_stall,
            },
            hashes: HashLimits::new(limits.hashes.get()),
            stopping: AtomicBool::new(false),
            records: Records::new(&config.state_dir),
        }))
    }

    /// Announces every change of a replica.
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// Creates a replica and exports it, or exports one that is stopped. What fails on this node leaves the replica in
    /// state error, and is no error of the call (`engine-behaviour` §1.4).
    pub async fn create(&self, request: ReplicaRequest) -> Result<Arc<ReplicaView>> {
        let disk = match &request.disk {
            DiskChoice::Uuid(uuid) => self.0.disks.ready_by_uuid(*uuid)?,
            DiskChoice::Name(name) => self.0.disks.ready(name)?,
        };
        let cluster = disk.cluster_size();
        let Some(spec_size) = request.spec_size.checked_next_multiple_of(cluster) else {
            return Err(Error::invalid("spec_size", format!("{} is more than any disk has", request.spec_size)));
        };
        let (replica, is_new) = self.find_or_add(&request.name, &disk)?;
        let replicas = self.clone();
        detached(async move {
            let mut turn = replica.turn().await?;
            let started = replicas.start(&mut turn, spec_size, &request).await;
            if started.is_err() && is_new {
                turn.work.gone = true;
                replicas.forget(&replica);
            }
            started.map(|()| replica.view())
        })
        .await
    }

    /// Stops a replica; with `cleanup` also deletes its data. An unknown one is no error.
    pub async fn delete(&self, name: &ReplicaName, cleanup: bool) -> Result<()> {
        let Some(replica) = self.find(name) else { return Ok(()) };
        let replicas = self.clone();
        detached(async move {
            let mut turn = match replica.turn().await {
                Ok(turn) => turn,
                // Deleted by another call meanwhile.
                Err(Error::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            if !cleanup {
                return replicas.stop(&mut turn).await;
            }
            turn.begin_removal().await?;
            replicas.backups().cancel(Some(&replica.name));
            replicas.remove(&mut turn).await?;
            replicas.forget(&replica);
            Ok(())
        })
        .await
    }

    /// Stops all replicas and cancels all backups, as the node goes down. Data stays, and the next start brings them back.
    pub async fn stop_all(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
        self.backups().cancel(None);
        self.replicas().values().for_each(|replica| replica.hashes.cancel_all());
        let all: Vec<_> = self.replicas().values().cloned().collect();
        for replica in all {
            let stopped = match replica.turn().await {
                Ok(mut turn) => self.halt(&mut turn).await,
                Err(error) => Err(error),
            };
            if let Err(error) = stopped {
                tracing::warn!(replica = %replica.name, %error, "a replica could not be stopped");
            }
        }
    }

    /// A replica as it is; sizes may be a second old.
    pub async fn get(&self, name: &ReplicaName) -> Result<Arc<ReplicaView>> {
        let replica = self.known(name)?;
        // An operation that is running shows its outcome itself, and is not waited for.
        if let Some(mut turn) = replica.try_turn() {
            match replica.store.recent_survey().await {
                Ok(survey) if self.has_vanished(&mut turn, &survey) => {
                    tracing::warn!(replica = %name, disk = %replica.disk.name(), "a replica has no lvol any more");
                    turn.work.gone = true;
                    self.forget(&replica);
                    return Err(Error::not_found("replica", name));
                }
                Ok(survey) => turn.take(&survey),
                // What cannot be read is not shown as it once was.
                Err(error) => turn.fail(&error),
            }
        }
        Ok(replica.view())
    }

    /// Whether a stopped replica has none of its lvols left, which only somebody else can have deleted
    /// (`engine-behaviour` §1.2). A running one that has lost its head is in state error: its export is still there.
    fn has_vanished(&self, turn: &mut Turn<'_>, survey: &Survey) -> bool {
        if survey.iter().any(|facts| facts.lvol == turn.replica.head()) {
            return false;
        }
        let tree = Tree::build(&turn.replica.name, survey);
        let is_empty = tree.snapshots.is_empty() && tree.rebuilding.is_none() && tree.expired.is_empty();
        match turn.state() {
            ReplicaState::Stopped => is_empty,
            ReplicaState::Running => {
                turn.fail(&Error::precondition(turn.replica.object(), "its head was deleted by somebody else"));
                false
            }
            ReplicaState::Pending | ReplicaState::Error | ReplicaState::Terminating => false,
        }
    }

    /// All replicas by name, as [`Self::get`] tells them.
    pub async fn list(&self) -> Result<Vec<Arc<ReplicaView>>> {
        let names: Vec<_> = self.replicas().keys().cloned().collect();
        let mut views = Vec::with_capacity(names.len());
        for name in names {
            match self.get(&name).await {
                Ok(view) => views.push(view),
                // Deleted meanwhile.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(views)
    }

    /// The state of each replica.
    pub fn states(&self) -> Vec<ReplicaState> {
        self.replicas().values().map(|replica| replica.view().state).collect()
    }

    /// Grows a replica under I/O to `size` bytes, whole clusters.
    pub async fn expand(&self, name: &ReplicaName, size: u64) -> Result<Arc<ReplicaView>> {
        self.operate(name, Operation::Expand { size }).await
    }

    /// Takes a snapshot.
    pub async fn snapshot_create(
        &self,
        name: &ReplicaName,
        snapshot: &SnapshotName,
        options: SnapshotOptions,
    ) -> Result<Arc<ReplicaView>> {
        self.operate(name, Operation::SnapshotCreate { snapshot: snapshot.clone(), options }).await
    }

    /// Deletes a snapshot; a missing one is no error.
    pub async fn snapshot_delete(&self, name: &ReplicaName, snapshot: &SnapshotName) -> Result<Arc<ReplicaView>> {
        self.operate(name, Operation::SnapshotDelete { snapshot: snapshot.clone() }).await
    }

    /// Makes the head what a snapshot is. Nothing may have the head open but the export.
    pub async fn snapshot_revert(&self, name: &ReplicaName, snapshot: &SnapshotName) -> Result<Arc<ReplicaView>> {
        self.operate(name, Operation::SnapshotRevert { snapshot: snapshot.clone() }).await
    }

    /// Deletes the snapshots that the system made and nobody needs.
    pub async fn snapshot_purge(&self, name: &ReplicaName) -> Result<Arc<ReplicaView>> {
        self.operate(name, Operation::SnapshotPurge).await
    }

    /// A running replica's head, to be opened on this node. `None` when there is no such replica.
    pub async fn local_head(&self, name: &ReplicaName) -> Result<Option<LocalHead>> {
        let Some(replica) = self.find(name) else { return Ok(None) };
        let turn = replica.turn().await?;
        match &turn.work.serving {
            Some(serving) => Ok(Some(LocalHead { bdev: serving.local_bdev()?, flush: serving.flush_handle() })),
            None => {
                let (state, reason) = (turn.state().as_str(), &replica.view().error);
                let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                Err(Error::precondition(
                    replica.object(),
                    format!("it is in state {state}{reason}; it must be running"),
                ))
            }
        }
    }

    /// The replica's disk, and the bytes that are free there.
    pub async fn disk_space(&self, name: &ReplicaName) -> Result<(DiskName, u64)> {
        let replica = self.known(name)?;
        let lvs = replica.disk.capacity().await?;
        Ok((replica.disk.name().clone(), lvs.free_clusters * u64::from(lvs.cluster_size)))
    }

    /// Makes all that the replica acknowledged before the call durable.
    pub async fn flush(&self, name: &ReplicaName) -> Result<()> {
        self.known(name)?.disk.flush().await
    }

    /// Runs an operation in its turn, to its end also when the caller goes away, and returns what it led to.
    async fn operate(&self, name: &ReplicaName, operation: Operation) -> Result<Arc<ReplicaView>> {
        let replica = self.known(name)?;
        detached(async move {
            let mut turn = replica.turn().await?;
            operation.run(&mut turn).await?;
            Ok(replica.view())
        })
        .await
    }

    fn find(&self, name: &ReplicaName) -> Option<Arc<Replica>> {
        self.replicas().get(name).cloned()
    }

    fn known(&self, name: &ReplicaName) -> Result<Arc<Replica>> {
        self.find(name).ok_or_else(|| Error::not_found("replica", name))
    }

    /// The replica of this name, made pending when there is none; and whether it was made.
    fn find_or_add(&self, name: &ReplicaName, disk: &Disk) -> Result<(Arc<Replica>, bool)> {
        let store = self.store(disk);
        let mut replicas = self.replicas();
        if let Some(known) = replicas.get(name) {
            if known.disk.uuid() != disk.uuid() {
                let detail = format!(": it is on disk {}", known.disk.name());
                return Err(Error::AlreadyExists { kind: "replica", name: name.to_string(), detail });
            }
            return Ok((known.clone(), false));
        }
        let (changes, events) = (self.0.changes.clone(), self.0.telemetry.events.clone());
        let added = Replica::new(name.clone(), disk.clone(), store, changes, events);
        replicas.insert(name.clone(), added.clone());
        self.0.telemetry.events.tell(ObjectKind::Replica, name, "created", format!("on disk {}", disk.name()));
        Ok((added, true))
    }

    /// Adds a replica that was found on a disk; false when there is one of its name.
    fn add_found(&self, replica: Arc<Replica>) -> bool {
        let mut replicas = self.replicas();
        if replicas.contains_key(&replica.name) {
            return false;
        }
        let message = format!("on disk {}", replica.disk.name());
        self.0.telemetry.events.tell(ObjectKind::Replica, &replica.name, "found", message);
        replicas.insert(replica.name.clone(), replica);
        drop(replicas);
        self.0.changes.announce();
        true
    }

    fn forget(&self, replica: &Arc<Replica>) {
        let mut replicas = self.replicas();
        if replicas.get(&replica.name).is_some_and(|known| Arc::ptr_eq(known, replica)) {
            replicas.remove(&replica.name);
            self.0.telemetry.events.tell(ObjectKind::Replica, &replica.name, "gone", "");
        }
        drop(replicas);
        self.0.changes.announce();
    }

    /// The one store of a disk, shared by its replicas.
    fn store(&self, disk: &Disk) -> Store {
        let mut stores = self.0.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Store::new(self.0.control.clone(), disk.lvs().clone(), disk.clear_method());
        stores.entry(disk.uuid()).or_insert_with(make).clone()
    }

    fn disks(&self) -> &Disks {
        &self.0.disks
    }

    fn telemetry(&self) -> &Telemetry {
        &self.0.telemetry
    }

    fn backups(&self) -> &Backups {
        &self.0.backups
    }

    fn records(&self) -> &Records<ReplicaRecord> {
        &self.0.records
    }

    fn peers(&self) -> &Peers {
        &self.0.peers
    }

    fn copy_limits(&self) -> &CopyLimits {
        &self.0.copies
    }

    fn hash_limits(&self) -> &HashLimits {
        &self.0.hashes
    }

    /// The node goes down; what can wait for its next start waits.
    fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    fn ports(&self) -> &Ports {
        &self.0.ports
    }

    fn data_ip(&self) -> IpAddr {
        self.0.data_ip
    }

    fn replicas(&self) -> MutexGuard<'_, BTreeMap<ReplicaName, Arc<Replica>>> {
        // No code between two changes of the map can panic.
        self.0.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskObserver for Replicas {
    fn loaded(&self, disk: Disk) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.discover(&disk).await {
                tracing::error!(disk = %disk.name(), %error, "the replicas of a disk could not be found");
            }
        })
    }

    fn unloading(&self, disk: Disk) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let on_disk = |replica: &&Arc<Replica>| replica.disk.uuid() == disk.uuid();
            let leaving: Vec<_> = self.replicas().values().filter(on_disk).cloned().collect();
            for replica in leaving {
                // None of them runs, for a running one holds its disk; but one may be looked at this moment.
                if let Ok(mut turn) = replica.turn().await {
                    turn.work.gone = true;
                }
                self.forget(&replica);
            }
            self.0.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(&disk.uuid());
        })
    }

    fn lost(&self, disk: Disk) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let on_disk = |replica: &&Arc<Replica>| replica.disk.uuid() == disk.uuid();
            let leaving: Vec<_> = self.replicas().values().filter(on_disk).cloned().collect();
            for replica in leaving {
                self.give_up(&replica).await;
            }
            self.0.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(&disk.uuid());
        })
    }
}

/// Runs an operation to its end, also when nobody waits for it any more.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    crate::task::to_its_end("an operation on a replica", work).await
}
