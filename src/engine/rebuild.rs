//! Taking a replica into a running engine.
//!
//! 1. A snapshot on every replica in sync: from here on all that is older is immutable.
//! 2. The new replica gets the snapshots, oldest first, from a source's node, while clients write to the others.
//! 3. It joins the mirror write-only: from here on it misses no write.
//! 4. What the head got between 1 and 3 is copied, range by range, while clients write.
//! 5. It is flushed, and becomes in sync by a generation that names it.
//!
//! Until step 5 it is never read and never a source, and its own node knows that it is not whole. The snapshot of step 1
//! stays until a purge.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::attach::{self, ReplicaPath};
use super::backend::{Attribute, Backend, HeadMap, Layer, ReplicaDescription, SnapshotOptions};
use super::instance::Engine;
use super::state::{EngineState, ListedReplica, Published, ReplicaMode};
use crate::error::{Error, Result};
use crate::mirror::ResyncProgress;
use crate::mirror::core::MemberIndex;
use crate::name::{BackingImageName, ReplicaAddress, ReplicaName, SnapshotName};
use crate::replica::clone::EntryMark;
use crate::replica::rebuild::{CopyState, RebuildOrder, RebuildSnapshot};

/// How often the copy of a snapshot is asked about.
const CHECK_STEP: Duration = Duration::from_millis(250);

/// A request to take a replica in.
#[derive(Debug, Clone)]
pub struct ReplicaAddition {
    /// Which.
    pub replica: ReplicaName,
    /// Where it is exported.
    pub address: ReplicaAddress,
    /// Keep those of its snapshots that are known to equal the source's.
    pub fast_sync: bool,
    /// When the volume is a linked clone: what the replica is to be based on.
    pub linked: Option<EntryMark>,
}

/// A rebuild that runs, for whoever wants to stop it.
pub(super) struct RunningRebuild {
    replica: ReplicaName,
    cancel: watch::Sender<bool>,
    done: watch::Receiver<bool>,
}

struct Rebuild {
    engine: Arc<Engine>,
    addition: ReplicaAddition,
    canceled: watch::Receiver<bool>,
    done: watch::Sender<bool>,
}

/// What a rebuild has once it has started.
struct Plan {
    source: Arc<ReplicaPath>,
    target: Arc<ReplicaPath>,
    /// Oldest first, a parent before its children.
    snapshots: Vec<(SnapshotName, Layer)>,
}

impl Engine {
    /// Starts to take a replica in and returns once its rebuild runs. A refusal leaves the engine as it was.
    pub async fn add_replica(self: &Arc<Self>, addition: ReplicaAddition) -> Result<()> {
        self.claim_rebuild(&addition)?;
        let replica = addition.replica.clone();
        let (cancel, canceled) = watch::channel(false);
        let (done, is_done) = watch::channel(false);
        let running = RunningRebuild { replica: replica.clone(), cancel, done: is_done };
        *self.running_rebuild() = Some(running);
        let (started, answer) = oneshot::channel();
        tokio::spawn(Rebuild { engine: self.clone(), addition, canceled, done }.run(started));
        let ended =
            |_| Error::internal(self.object(), format!("the rebuild of replica {replica} ended before it began"));
        answer.await.map_err(ended)?
    }

    /// Lists the replica as being rebuilt, or says why that cannot be.
    fn claim_rebuild(&self, addition: &ReplicaAddition) -> Result<()> {
        let refusal = self.publish(|published| {
            let refusal = refuse_addition(published, addition);
            if refusal.is_none() {
                published.rebuilding = Some(addition.replica.clone());
                let entry =
                    ListedReplica { address: addition.address, mode: ReplicaMode::WriteOnly, problem: String::new() };
                published.replicas.insert(addition.replica.clone(), entry);
            }
            refusal
        });
        match refusal {
            None => Ok(()),
            Some(problem) => Err(Error::precondition(self.object(), problem)),
        }
    }

    fn running_rebuild(&self) -> std::sync::MutexGuard<'_, Option<RunningRebuild>> {
        self.rebuild.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Cancels the rebuild of this replica, or of any, and waits until it has ended.
    pub(super) async fn cancel_rebuild(&self, replica: Option<&ReplicaName>) {
        let running = self.running_rebuild().take_if(|running| replica.is_none_or(|name| *name == running.replica));
        if let Some(mut running) = running {
            running.cancel.send_replace(true);
            // An error means that the rebuild is gone, which is what is waited for.
            let _ = running.done.wait_for(|done| *done).await;
        }
    }
}

/// The texts are what Longhorn's manager looks for (`engine-behaviour` §1.4).
fn refuse_addition(published: &Published, addition: &ReplicaAddition) -> Option<String> {
    let replica = &addition.replica;
    if published.rebuilding.as_ref() == Some(replica) {
        return Some(format!("replica add is already in progress for {replica}"));
    }
    if let Some(other) = &published.rebuilding {
        return Some(format!("replica {other} is being rebuilt; {replica} must wait for it"));
    }
    if published.restore.is_restoring() {
        return Some("restore is in progress".into());
    }
    if published.is_expanding {
        return Some("expansion is in progress".into());
    }
    if published.state != EngineState::Running {
        return Some(format!("it is in state {}: {}", published.state.as_str(), published.error_message));
    }
    if published.replicas.contains_key(replica) {
        return Some(format!("replica {replica} already exists in it; remove it first"));
    }
    let twin = published.replicas.iter().find(|(_, listed)| listed.address == addition.address);
    twin.map(|(other, listed)| format!("replica {other} has the address {} already", listed.address))
}

impl Rebuild {
    async fn run(self, started: oneshot::Sender<Result<()>>) {
        let engine = self.engine.clone();
        let Ok(_operation) = engine.operations.try_lock() else {
            let problem = "another operation is in progress; adding a replica must wait for it";
            self.withdraw().await;
            let _ = started.send(Err(Error::precondition(engine.object(), problem)));
            self.done.send_replace(true);
            return;
        };
        match self.prepare().await {
            Ok(plan) => {
                let _ = started.send(Ok(()));
                self.carry_out(plan).await;
            }
            Err(error) => {
                self.withdraw().await;
                let _ = started.send(Err(error));
            }
        }
        self.done.send_replace(true);
    }

    /// As if it had never been asked for.
    async fn withdraw(&self) {
        self.engine.forget_path(&self.addition.replica);
        self.engine.publish(|published| {
            published.rebuilding = None;
            published.replicas.remove(&self.addition.replica);
        });
        self.engine.remember_change().await;
    }

    async fn prepare(&self) -> Result<Plan> {
        let (engine, addition) = (&self.engine, &self.addition);
        engine.refuse_when_suspended("a replica joins")?;
        // Before it can be one that others depend on: a restart of the node must know of it.
        engine.remember().await?;
        let target = Arc::new(engine.context.path(addition.replica.clone(), addition.address).await?);
        self.check_target(&target).await?;
        self.check_base().await?;
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let snapshot = SnapshotName::parse(&format!("rebuild-{}", &unique[..8]))
            .map_err(|error| Error::internal(engine.object(), format!("no name for a snapshot: {error}")))?;
        let prepared = self.prepare_from(&snapshot, &target).await;
        if prepared.is_err() {
            self.discard(&snapshot).await;
        }
        prepared
    }

    /// Takes the snapshot, and readies a replica that has it and the new one for the copies.
    async fn prepare_from(&self, snapshot: &SnapshotName, target: &Arc<ReplicaPath>) -> Result<Plan> {
        let engine = &self.engine;
        let answers = engine.take_snapshot(snapshot, false).await?;
        engine.settle("snapshot of a rebuild", answers).await?;
        engine.refresh_chain().await?;
        let Some(source) = engine.in_sync().into_iter().next() else {
            return Err(Error::precondition(engine.object(), "no replica is in sync, so there is nothing to copy"));
        };
        let snapshots = oldest_first(source.backend.describe().await?.snapshots)
            .map_err(|problem| Error::internal(format!("replica {}", source.replica), problem))?;
        let exposed = source.backend.rebuild_source_start(&target.replica, target.address, snapshot).await?;
        let order = RebuildOrder {
            source: source.replica.clone(),
            source_address: source.address,
            exposed_snapshot: snapshot.clone(),
            exposed_address: exposed,
            snapshots: snapshots.iter().map(as_ordered).collect(),
            linked: self.addition.linked.clone(),
        };
        if let Err(error) = target.backend.rebuild_start(order).await {
            self.finish_source(&source).await;
            return Err(error);
        }
        engine.remember_path(target.clone());
        tracing::info!(engine = %engine.name, volume = %engine.volume, replica = %target.replica, source = %source.replica,
            snapshots = snapshots.len(), "a rebuild starts");
        Ok(Plan { source, target: target.clone(), snapshots })
    }

    /// Deletes the snapshot of a rebuild that did not start, wherever it was taken.
    async fn discard(&self, snapshot: &SnapshotName) {
        let engine = &self.engine;
        let discarded = async {
            engine.delete_snapshot(snapshot).await?;
            engine.refresh_chain().await
        };
        if let Err(error) = discarded.await {
            tracing::warn!(engine = %engine.name, volume = %engine.volume, %snapshot, %error,
                "the snapshot of a rebuild that did not start is left for a purge");
        }
    }

    async fn check_target(&self, target: &ReplicaPath) -> Result<()> {
        let found = target.backend.describe().await?;
        let size = self.engine.published().size;
        if found.spec_size != size {
            let problem = format!("it has {} bytes, the volume has {size}", found.spec_size);
            return Err(Error::precondition(format!("replica {}", target.replica), problem));
        }
        // The new replica of a linked clone gets its base in the rebuild, whatever it stands on now.
        match self.engine.in_sync().into_iter().next().filter(|_| self.addition.linked.is_none()) {
            Some(source) => require_same_base(&source.backend.describe().await?, &found),
            None => Ok(()),
        }
    }

    /// A linked clone's snapshots are only what was written to it; a replica with those alone would lack the rest.
    async fn check_base(&self) -> Result<()> {
        match self.engine.linked_bases().await?.first() {
            Some(base) if self.addition.linked.is_none() => {
                let problem = format!(
                    "it serves a linked clone of snapshot {} of replica {}; say which replica of the source volume is on \
                     the new replica's disk (linked_clone_source)",
                    base.snapshot, base.source
                );
                Err(Error::precondition(self.engine.object(), problem))
            }
            _ => Ok(()),
        }
    }

    async fn carry_out(&self, plan: Plan) {
        let progress = ResyncProgress::default();
        let outcome = self.rebuild(&plan, &progress).await;
        self.finish_source(&plan.source).await;
        let engine = &self.engine;
        match &outcome {
            Ok(()) => tracing::info!(engine = %engine.name, volume = %engine.volume, replica = %plan.target.replica,
                head_bytes = progress.copied_bytes(), "a rebuild is complete"),
            Err(error) => {
                tracing::error!(engine = %engine.name, volume = %engine.volume, replica = %plan.target.replica, %error,
                    "a rebuild failed");
                if let Ok(mirror) = engine.mirror() {
                    // It may not have joined yet.
                    let _ = mirror.remove_member(&plan.target.replica).await;
                }
            }
        }
        let status = engine.mirror().map(|mirror| mirror.status());
        engine.publish(|published| {
            published.rebuilding = None;
            if let Some(listed) = published.replicas.get_mut(&plan.target.replica) {
                listed.mode = if outcome.is_ok() { ReplicaMode::ReadWrite } else { ReplicaMode::Error };
                listed.problem = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            }
        });
        if let Ok(status) = status {
            engine.apply(&status);
        }
    }

    async fn rebuild(&self, plan: &Plan, progress: &ResyncProgress) -> Result<()> {
        self.unless_canceled(self.copy_snapshots(plan)).await?;
        // Never dropped half-way, so that no member is left behind that nobody knows of.
        let place = self.join(plan).await?;
        self.unless_canceled(self.fill(plan, place, progress)).await
    }

    async fn unless_canceled(&self, step: impl Future<Output = Result<()>>) -> Result<()> {
        let mut canceled = self.canceled.clone();
        tokio::select! {
            outcome = step => outcome,
            // An error means that nobody can cancel any more.
            Ok(_) = canceled.wait_for(|canceled| *canceled) => Err(Error::Canceled { what: self.object() }),
        }
    }

    /// The rebuild as errors name it.
    fn object(&self) -> String {
        format!("the rebuild of replica {} in {}", self.addition.replica, self.engine.object())
    }

    async fn copy_snapshots(&self, plan: &Plan) -> Result<()> {
        let target = &plan.target.backend;
        for (snapshot, layer) in &plan.snapshots {
            target.rebuild_copy_start(snapshot, self.addition.fast_sync).await?;
            self.copied(&**target, snapshot).await?;
            let options = SnapshotOptions { user_created: layer.user_created, timestamp: layer.timestamp.clone() };
            target.rebuild_snapshot_create(snapshot, options).await?;
        }
        target.rebuild_finish().await
    }

    /// Waits until the copy of a snapshot is complete; one that stands still for too long has failed.
    async fn copied(&self, target: &dyn Backend, snapshot: &SnapshotName) -> Result<()> {
        let limit = self.engine.context.limits.rebuild_stall;
        let (mut last, mut since) = (None, tokio::time::Instant::now());
        loop {
            let copy = target.rebuild_progress().await?;
            match copy.state {
                CopyState::Complete => return Ok(()),
                CopyState::Error => {
                    return Err(Error::peer(format!("replica {}", self.addition.replica), copy.error));
                }
                CopyState::Idle | CopyState::Starting | CopyState::InProgress => {}
            }
            let now = (copy.state, copy.percent);
            if last != Some(now) {
                (last, since) = (Some(now), tokio::time::Instant::now());
            } else if since.elapsed() > limit {
                return Err(Error::Timeout {
                    what: format!("copying snapshot {snapshot} in {}", self.object()),
                    limit,
                });
            }
            tokio::time::sleep(CHECK_STEP).await;
        }
    }

    /// The new head gets every write from here on.
    async fn join(&self, plan: &Plan) -> Result<MemberIndex> {
        let (context, target) = (&self.engine.context, &plan.target);
        let mirror = self.engine.mirror()?;
        let member = attach::open(&context.control, target, context.limits.attach).await?;
        let joined = mirror.add_member(member).await;
        match &joined {
            Ok(_) => self.engine.apply(&mirror.status()),
            Err(_) if target.local.is_none() => {
                attach::detach(&context.control, &target.replica, target.address, false).await;
            }
            Err(_) => {}
        }
        joined
    }

    /// Gives the new head what it missed; then it is in sync.
    async fn fill(&self, plan: &Plan, place: MemberIndex, progress: &ResyncProgress) -> Result<()> {
        let control = &self.engine.context.control;
        let mirror = self.engine.mirror()?;
        let missed = plan.source.backend.head_map().await?;
        let ranges = ranges(&missed, self.engine.published().size);
        mirror.resync(control, place, ranges, progress).await?;
        mirror.flush_member(control, place).await?;
        // What was restored into the volume is in the new replica too.
        if let Some(marker) = plan.source.backend.attribute(Attribute::Restore).await? {
            plan.target.backend.set_attribute(Attribute::Restore, marker).await?;
        }
        mirror.member_synced(place).await
    }

    async fn finish_source(&self, source: &ReplicaPath) {
        if let Err(error) = source.backend.rebuild_source_finish(&self.addition.replica).await {
            tracing::warn!(replica = %source.replica, %error, "the source of a rebuild could not be released");
        }
    }
}

/// Only what is above a backing image is copied, so both must stand on the same.
fn require_same_base(source: &ReplicaDescription, target: &ReplicaDescription) -> Result<()> {
    let (wanted, found) = (source.backing_image_name(), target.backing_image_name());
    if wanted == found {
        return Ok(());
    }
    let words = |name: Option<&BackingImageName>| match name {
        Some(name) => format!("backing image {name}"),
        None => "no backing image".into(),
    };
    let problem = format!("it stands on {}, and replica {} on {}", words(found), source.name, words(wanted));
    Err(Error::precondition(format!("replica {}", target.name), problem))
}

fn as_ordered((name, layer): &(SnapshotName, Layer)) -> RebuildSnapshot {
    RebuildSnapshot {
        name: name.clone(),
        uuid: layer.uuid.parse().ok(),
        spec_size: layer.spec_size,
        actual_size: layer.actual_size,
        parent: layer.parent.clone(),
        user_created: layer.user_created,
        timestamp: layer.timestamp.clone(),
        checksum: layer.checksum.clone(),
    }
}

/// The bytes of a volume that a head has of its own.
fn ranges(map: &HeadMap, size: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    let bytes = move |cluster: u64| cluster * map.cluster_size..size.min((cluster + 1) * map.cluster_size);
    map.clusters.iter().map(bytes).filter(|range| !range.is_empty())
}

/// A parent before its children.
fn oldest_first(
    mut snapshots: BTreeMap<SnapshotName, Layer>,
) -> std::result::Result<Vec<(SnapshotName, Layer)>, &'static str> {
    let mut ordered: Vec<(SnapshotName, Layer)> = Vec::with_capacity(snapshots.len());
    while !snapshots.is_empty() {
        let next = snapshots.iter().find_map(|(name, layer)| match &layer.parent {
            Some(parent) if snapshots.contains_key(parent) => None,
            _ => Some(name.clone()),
        });
        let taken = next.and_then(|name| snapshots.remove_entry(&name));
        ordered.push(taken.ok_or("its snapshots are a circle, not a tree")?);
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(edges: &[(&str, Option<&str>)]) -> BTreeMap<SnapshotName, Layer> {
        let name = |text: &str| SnapshotName::parse(text).expect("a name");
        let layer = |parent: &Option<&str>| Layer {
            uuid: String::new(),
            spec_size: 1,
            actual_size: 0,
            parent: parent.map(name),
            children: Vec::new(),
            creation_time: String::new(),
            user_created: true,
            timestamp: String::new(),
            checksum: String::new(),
        };
        edges.iter().map(|(child, parent)| (name(child), layer(parent))).collect()
    }

    #[test]
    fn parents_come_before_their_children_whatever_their_names() {
        let ordered = oldest_first(tree(&[("a", Some("c")), ("b", Some("c")), ("c", Some("d")), ("d", None)]));
        let names: Vec<_> = ordered.expect("a tree").into_iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["d", "c", "a", "b"]);
    }

    #[test]
    fn a_circle_is_refused() {
        assert!(oldest_first(tree(&[("a", Some("b")), ("b", Some("a"))])).is_err());
    }
}
