//! The destination's steps of a rebuild: begin, copy a snapshot, make it, finish. Each is one turn of the replica; the
//! copies themselves run between them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::AbortHandle;
use uuid::Uuid;

use super::aside::no_longer_expired;
use super::plan::{Plan, reusable};
use super::types::{CopyState, RebuildOrder, RebuildSnapshot};
use crate::name::{HostPort, LvolName, ReplicaAddress, SnapshotName};
use crate::replica::attributes::{self, now_text, setting};
use crate::replica::base::Base;
use crate::replica::clone;
use crate::replica::export::ServedLvol;
use crate::replica::instance::{Replica, Turn};
use crate::replica::snapshot::SnapshotOptions;
use crate::replica::view::ReplicaState;
use crate::spdk::xattr::XattrChange;
use crate::{Error, Result};

/// A rebuild of this replica in the life of this process.
pub(in crate::replica) struct Destination {
    pub(super) plan: Plan,
    pub(super) phase: Phase,
    /// What is made, and as which lvols.
    pub(super) made: BTreeMap<SnapshotName, Uuid>,
    pub(super) current: Option<Current>,
    /// The head that was set aside for this round, and is to be deleted.
    pub(super) unfinished_head: Option<LvolName>,
}

impl Destination {
    /// It has neither failed nor come to its end.
    pub(in crate::replica) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }
}

/// What a further round has of the one before.
#[derive(Default)]
struct Continued {
    made: BTreeMap<SnapshotName, Uuid>,
    unfinished_head: Option<LvolName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Failed,
    Finished,
}

/// The snapshot whose content is coming, or is here.
pub(super) struct Current {
    snapshot: SnapshotName,
    origin: Origin,
}

enum Origin {
    /// An lvol of before.
    Expired(LvolName),
    /// A copy from the source, into an lvol that is served for it.
    Copy(RunningCopy),
}

struct RunningCopy {
    number: u64,
    served: ServedLvol,
    follower: Option<AbortHandle>,
}

impl Drop for RunningCopy {
    fn drop(&mut self) {
        if let Some(follower) = &self.follower {
            follower.abort();
        }
    }
}

/// A copy that the source is to be asked for.
pub(super) struct CopyOrder {
    /// Tells it from every other copy of this process.
    pub(super) number: u64,
    pub(super) source: crate::name::ReplicaName,
    pub(super) source_address: ReplicaAddress,
    pub(super) snapshot: SnapshotName,
    /// Where the destination's lvol is served.
    pub(super) address: HostPort,
}

impl Turn<'_> {
    /// Begins a rebuild; whatever one was begun before is over. Returns where the head will be.
    /// `linked` is the source of the order's linked clone, if it is one.
    pub(super) async fn rebuild_begin(
        &mut self,
        order: RebuildOrder,
        linked: Option<&Replica>,
    ) -> Result<ReplicaAddress> {
        let replica = self.replica;
        if order.source == replica.name {
            return Err(Error::invalid("src_replica_name", "a replica cannot be rebuilt from itself"));
        }
        let (state, view) = (self.state(), replica.view());
        let Some(serving) = self
            .work
            .serving
            .as_ref()
            .filter(|_| state == ReplicaState::Running || (state == ReplicaState::Error && view.rebuilding))
        else {
            let problem = format!("it is in state {}; create it before it is rebuilt", state.as_str());
            return Err(Error::precondition(replica.object(), problem));
        };
        let address = serving.head_address();
        serving.second_address()?;
        if let Some(source) = &self.work.source {
            let problem = format!("it is the source of the rebuild of replica {}", source.destination());
            return Err(Error::precondition(replica.object(), problem));
        }
        if linked.is_some_and(|linked| linked.name == replica.name) {
            return Err(Error::invalid("linked_clone_source", "a replica cannot be a linked clone of itself"));
        }
        let plan = Plan::new(order, view.spec_size, replica.disk.cluster_size())?;
        let source = plan.order.source.clone();
        // Held until something is based on the entry point.
        let (entry_points, base) = match linked.zip(plan.order.linked.as_ref()) {
            Some((linked, mark)) => {
                let turn = replica.store.entry_points().await;
                let lvol = clone::ensure_entry_point(replica, linked, &mark.snapshot).await?;
                (Some(turn), Base::EntryPoint { lvol })
            }
            None => match &self.work.tree.base {
                image @ Base::BackingImage { .. } => (None, image.clone()),
                Base::Nothing | Base::EntryPoint { .. } => (None, Base::Nothing),
            },
        };
        let record = serde_json::json!({ "source": source, "begun": now_text() }).to_string();
        let begun = self.rebuild_set_up(&plan, &record, &base).await;
        drop(entry_points);
        let continued = match begun {
            Ok(continued) => continued,
            Err(error) => {
                clone::sweep_in_turn(&replica.store).await;
                self.fail(&error);
                return Err(error);
            }
        };
        match &continued {
            Some(Continued { made, .. }) => {
                let snapshots = plan.count() - made.len();
                tracing::info!(replica = %replica.name, %source, snapshots, "a rebuild goes on with newer snapshots");
                replica.board.go_on(&plan, |snapshot| made.contains_key(&snapshot.name));
            }
            None => {
                tracing::info!(replica = %replica.name, %source, snapshots = plan.count(), "a rebuild begins");
                replica.board.begin(&plan);
            }
        }
        let Continued { made, unfinished_head } = continued.unwrap_or_default();
        let (phase, current) = (Phase::Running, None);
        self.work.rebuild = Some(Destination { plan, phase, made, current, unfinished_head });
        self.set_state(ReplicaState::Running);
        Ok(address)
    }

    /// Readies the replica for a plan's copies. Returns what is made of it already, when it is a further round of the rebuild
    /// before.
    async fn rebuild_set_up(&mut self, plan: &Plan, record: &str, base: &Base) -> Result<Option<Continued>> {
        self.refresh().await?;
        if let Some(made) = self.made_before(plan).await? {
            let unfinished_head = self.head_taken_out(plan, record, base).await?;
            return Ok(Some(Continued { made, unfinished_head }));
        }
        self.rebuild_break_off().await?;
        self.refresh().await?;
        self.set_aside(record, base).await?;
        Ok(None)
    }

    /// Prepares the copy of a snapshot. `None` when there is nothing to ask of the source.
    pub(super) async fn rebuild_copy(&mut self, name: &SnapshotName, fast_sync: bool) -> Result<Option<CopyOrder>> {
        let rebuild = self.rebuild_running()?;
        let wanted = rebuild.plan.find(name)?.clone();
        if rebuild.made.contains_key(name) {
            if rebuild.current.is_none() {
                self.replica.board.made_before(&wanted);
            }
            return Ok(None);
        }
        match &rebuild.current {
            Some(current) if current.snapshot == *name => return Ok(None),
            Some(current) => {
                let problem = format!("snapshot {} is to be made before {name} is copied", current.snapshot);
                return Err(Error::precondition(self.replica.object(), problem));
            }
            None => {}
        }
        if let Some(parent) = wanted.parent.as_ref().filter(|parent| !rebuild.made.contains_key(*parent)) {
            let problem = format!("snapshot {parent} is to be made before {name}, which is based on it");
            return Err(Error::precondition(self.replica.object(), problem));
        }
        let prepared = self.rebuild_prepare(&wanted, fast_sync).await;
        if let Err(error) = &prepared {
            self.rebuild_fail(error).await;
        }
        prepared
    }

    async fn rebuild_prepare(&mut self, wanted: &RebuildSnapshot, fast_sync: bool) -> Result<Option<CopyOrder>> {
        self.refresh().await?;
        let replica = self.replica;
        // A root stands on what the replica stands on, and has clusters of its own only.
        let base = self.work.tree.base.clone();
        let parent = match &wanted.parent {
            Some(parent) => Some(self.lvol_of(parent)?),
            None => base.lvol().cloned(),
        };
        let reused = reusable(wanted, parent.as_ref(), &self.work.tree.expired, fast_sync);
        let reused = reused.map(|facts| facts.lvol.clone());
        replica.board.copying(wanted);
        let snapshot = wanted.name.clone();
        if let Some(lvol) = reused {
            tracing::info!(replica = %replica.name, %snapshot, %lvol, "a snapshot of before is used again");
            replica.board.copy_complete();
            self.rebuild_current(Current { snapshot, origin: Origin::Expired(lvol) });
            return Ok(None);
        }
        let lvol = LvolName::rebuilding(&replica.name);
        match &parent {
            Some(parent) => {
                replica.store.clone_of(parent, &lvol).await?;
                replica.store.grow(&lvol, wanted.spec_size).await?;
            }
            None => replica.store.create(&lvol, wanted.spec_size).await?,
        }
        replica.store.apply(&lvol, vec![setting(attributes::CREATED, &now_text())?]).await?;
        let Some(serving) = &self.work.serving else {
            return Err(Error::internal(replica.object(), "a rebuild goes on though its ports are given back"));
        };
        let served = serving.second(replica.store.alias(&lvol), replica.pace.clone())?;
        served.start().await?;
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let address = served.listen();
        let copy = RunningCopy { number, served, follower: None };
        self.rebuild_current(Current { snapshot: snapshot.clone(), origin: Origin::Copy(copy) });
        let order = &self.rebuild_running()?.plan.order;
        let (source, source_address) = (order.source.clone(), order.source_address);
        Ok(Some(CopyOrder { number, source, source_address, snapshot, address }))
    }

    fn rebuild_current(&mut self, current: Current) {
        if let Some(rebuild) = &mut self.work.rebuild {
            rebuild.current = Some(current);
        }
    }

    /// The copy is followed by this task, which ends with it.
    pub(super) fn rebuild_follow(&mut self, number: u64, follower: AbortHandle) {
        match self.rebuild_copy_of(number) {
            Some(copy) => copy.follower = Some(follower),
            None => follower.abort(),
        }
    }

    /// The copy of that number, if it is the one that goes on.
    fn rebuild_copy_of(&mut self, number: u64) -> Option<&mut RunningCopy> {
        match &mut self.work.rebuild.as_mut()?.current.as_mut()?.origin {
            Origin::Copy(copy) if copy.number == number => Some(copy),
            _ => None,
        }
    }

    /// The copy of that number failed.
    pub(super) async fn rebuild_copy_failed(&mut self, number: u64, error: &Error) {
        if let Some(copy) = self.rebuild_copy_of(number) {
            // It is the follower that tells.
            copy.follower = None;
            self.rebuild_fail(error).await;
        }
    }

    /// Makes the snapshot of what was copied.
    pub(super) async fn rebuild_make(&mut self, name: &SnapshotName, options: &SnapshotOptions) -> Result<()> {
        let rebuild = self.rebuild_running()?;
        let wanted = rebuild.plan.find(name)?.clone();
        if rebuild.made.contains_key(name) {
            return Ok(());
        }
        let here = rebuild.current.as_ref().is_some_and(|current| current.snapshot == *name);
        let state = self.replica.board.get().map_or(CopyState::Idle, |progress| progress.state);
        if !here || state != CopyState::Complete {
            let copy = if here { state.as_str() } else { "not begun" };
            let problem = format!("snapshot {name} cannot be made, as its copy is {copy}");
            return Err(Error::precondition(self.replica.object(), problem));
        }
        let made = self.rebuild_make_now(&wanted, options).await;
        if let Err(error) = &made {
            self.rebuild_fail(error).await;
        }
        made
    }

    async fn rebuild_make_now(&mut self, wanted: &RebuildSnapshot, options: &SnapshotOptions) -> Result<()> {
        let replica = self.replica;
        let Some(current) = self.work.rebuild.as_mut().and_then(|rebuild| rebuild.current.take()) else {
            return Err(Error::internal(replica.object(), "the copy of a snapshot is lost"));
        };
        let lvol = LvolName::snapshot(&replica.name, &wanted.name);
        let mut marks = snapshot_marks(replica.name.as_str(), wanted, options)?;
        match current.origin {
            Origin::Expired(expired) => {
                replica.store.rename(&expired, &lvol).await?;
                marks.push(no_longer_expired());
                replica.store.apply(&lvol, marks).await?;
            }
            Origin::Copy(copy) => {
                let rebuilding = LvolName::rebuilding(&replica.name);
                copy.served.stop().await?;
                replica.disk.flush().await?;
                self.rebuild_check_size(&rebuilding, wanted).await?;
                let carried = marks.into_iter().filter_map(|change| Some((change.name, change.value?))).collect();
                replica.store.snapshot(&rebuilding, &lvol, carried).await?;
                replica.store.delete(&rebuilding).await?;
            }
        }
        replica.disk.flush().await?;
        self.refresh().await?;
        let found = self.work.tree.snapshots.get(&wanted.name).filter(|node| node.view.parent == wanted.parent);
        let Some(made) = found.map(|node| node.view.uuid) else {
            let problem = format!("snapshot {} was made, and is not based on {:?}", wanted.name, wanted.parent);
            return Err(Error::internal(replica.object(), problem));
        };
        if let Some(rebuild) = &mut self.work.rebuild {
            rebuild.made.insert(wanted.name.clone(), made);
            replica.board.made(rebuild.made.len() == rebuild.plan.count());
        }
        Ok(())
    }

    /// What the source has in clusters, and only that, must be here.
    async fn rebuild_check_size(&mut self, lvol: &LvolName, wanted: &RebuildSnapshot) -> Result<()> {
        let survey = self.replica.store.survey().await?;
        let found = survey.iter().find(|facts| facts.lvol == *lvol).map(|facts| facts.actual_size);
        if found == Some(wanted.actual_size) {
            return Ok(());
        }
        let (object, found) = (format!("the copy of snapshot {}", wanted.name), found.unwrap_or(0));
        let problem = format!("it has {found} bytes in clusters where its source has {}", wanted.actual_size);
        Err(Error::Corruption { object, problem })
    }

    /// Ends the rebuild; true when it ended now, and what it left over is to be cleared.
    pub(super) async fn rebuild_end(&mut self) -> Result<bool> {
        if self.work.rebuild.as_ref().is_some_and(|rebuild| rebuild.phase == Phase::Finished) {
            return Ok(false);
        }
        let rebuild = self.rebuild_running()?;
        let (made, count) = (rebuild.made.len(), rebuild.plan.count());
        let newest = rebuild.plan.order.exposed_snapshot.clone();
        if made < count {
            let problem = format!("its rebuild was ended when {made} of {count} snapshots were there");
            let error = Error::precondition(self.replica.object(), problem);
            self.rebuild_fail(&error).await;
            return Err(error);
        }
        let ended = async {
            self.refresh().await?;
            let newest = self.lvol_of(&newest)?;
            self.put_head(&newest).await?;
            self.refresh().await
        };
        if let Err(error) = ended.await {
            self.rebuild_fail(&error).await;
            return Err(error);
        }
        if let Some(rebuild) = &mut self.work.rebuild {
            rebuild.phase = Phase::Finished;
        }
        tracing::info!(replica = %self.replica.name, snapshots = count, "a rebuild is complete");
        if let Some(serving) = &self.work.serving
            && let Err(error) = serving.start().await
        {
            self.fail(&error);
            return Err(error);
        }
        Ok(true)
    }

    /// The rebuild that goes on, or why there is none.
    fn rebuild_running(&self) -> Result<&Destination> {
        let refused = |problem: String| Err(Error::precondition(self.replica.object(), problem));
        match &self.work.rebuild {
            Some(rebuild) if rebuild.phase == Phase::Running => Ok(rebuild),
            Some(rebuild) if rebuild.phase == Phase::Failed => {
                let error = self.replica.board.get().map(|progress| progress.error).unwrap_or_default();
                refused(format!("its rebuild has failed and must be begun anew: {error}"))
            }
            _ => refused("no rebuild of it is in progress".into()),
        }
    }

    /// The rebuild failed: the replica is in state error with the reason, and has no head until it is rebuilt.
    pub(super) async fn rebuild_fail(&mut self, error: &Error) {
        self.replica.board.fail(error);
        if let Some(rebuild) = &mut self.work.rebuild {
            rebuild.phase = Phase::Failed;
        }
        if let Err(undo) = self.rebuild_break_off().await {
            tracing::error!(replica = %self.replica.name, %undo, "what a failed rebuild had begun is left over");
        }
        if let Err(unread) = self.refresh().await {
            tracing::error!(replica = %self.replica.name, %unread, "a replica cannot be read after its rebuild failed");
        }
        self.fail(error);
    }

    /// Ends a copy that goes on, and leaves what it has written.
    pub(in crate::replica) async fn rebuild_abandon(&mut self) -> Result<()> {
        let current = self.work.rebuild.as_mut().and_then(|rebuild| rebuild.current.take());
        match current {
            Some(Current { origin: Origin::Copy(copy), .. }) => copy.served.stop().await,
            _ => Ok(()),
        }
    }

    /// Ends a copy that goes on, and deletes what it has written.
    pub(in crate::replica) async fn rebuild_break_off(&mut self) -> Result<()> {
        self.rebuild_abandon().await?;
        self.refresh().await?;
        match self.work.tree.rebuilding.clone() {
            Some(left) if self.work.tree.rebuild.is_some() => self.replica.store.delete(&left).await,
            _ => Ok(()),
        }
    }
}

/// What a rebuilt snapshot carries: the source's attributes, and of what it is a copy.
fn snapshot_marks(replica: &str, wanted: &RebuildSnapshot, options: &SnapshotOptions) -> Result<Vec<XattrChange>> {
    let timestamp = if options.timestamp.is_empty() { &wanted.timestamp } else { &options.timestamp };
    let mut marks = vec![
        setting(attributes::USER_CREATED, if options.user_created { "true" } else { "false" })?,
        setting(attributes::REPLICA, replica)?,
        setting(attributes::SNAPSHOT, wanted.name.as_str())?,
        setting(attributes::CREATED, &now_text())?,
    ];
    if !timestamp.is_empty() {
        marks.push(setting(attributes::SNAPSHOT_TIMESTAMP, timestamp)?);
    }
    if !options.labels.is_empty() {
        marks.push(setting(attributes::LABELS, &options.labels.encode())?);
    }
    if !wanted.checksum.is_empty() {
        marks.push(setting(attributes::CHECKSUM, &wanted.checksum)?);
    }
    if let Some(uuid) = wanted.uuid {
        marks.push(setting(attributes::REBUILT, &uuid.to_string())?);
    }
    Ok(marks)
}
