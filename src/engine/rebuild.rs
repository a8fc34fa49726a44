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
//!
//! **Rounds.** Snapshots may be taken of the others during 2 and 4, for which the engine's operation lock is not held. A
//! snapshot cannot be changed, so the new replica can have one only as a copy: before 3 and before 5, under the lock,
//! the snapshots there are now are compared with those that were copied. If there are newer ones, another round copies
//! them. In 4 the new replica leaves the mirror again for that: what its head lacks of a snapshot's point in time is known to
//! nobody afterwards. The last round holds the lock from its beginning, so the rounds come to an end; a snapshot waits for
//! it then.
//!
//! `round`: the copies of one round. `join`: from the mirror's write-only member to one in sync. `source`: whom it asks.

mod join;
mod round;
mod source;

use std::sync::Arc;

use tokio::sync::{MutexGuard, oneshot, watch};

use super::attach::ReplicaPath;
use super::backend::ReplicaDescription;
use super::instance::Engine;
use super::state::{EngineState, ListedReplica, Published, ReplicaMode};
use crate::error::{Error, Result};
use crate::mirror::ResyncProgress;
use crate::name::{BackingImageName, ReplicaAddress, ReplicaName, SnapshotName};
use crate::replica::clone::EntryMark;
use round::Round;
use source::Asked;

/// Rounds of a rebuild at most; in the last one no snapshot can be taken. Each copies only what was written since the one
/// before, so a few catch up with snapshots that are taken every minute.
const ROUNDS: u32 = 8;

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
    stop: Stoppable,
}

/// A rebuild, or what is like one, to whoever carries it out: it is over when this is dropped.
pub(super) struct Stoppable {
    object: String,
    canceled: watch::Receiver<bool>,
    done: watch::Sender<bool>,
}

impl Stoppable {
    /// Does a step, or leaves it where it is when somebody cancels.
    pub(super) async fn unless_canceled<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        let mut canceled = self.canceled.clone();
        tokio::select! {
            outcome = step => outcome,
            // An error means that nobody can cancel any more.
            Ok(_) = canceled.wait_for(|canceled| *canceled) => Err(Error::Canceled { what: self.object.clone() }),
        }
    }
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        self.done.send_replace(true);
    }
}

/// The engine's operation lock.
type Operation<'a> = MutexGuard<'a, ()>;

/// How a round ended.
enum Ended<'a> {
    /// The replica is in sync.
    InSync(Operation<'a>),
    /// There are newer snapshots than those that were copied.
    Overtaken(Operation<'a>, Box<Asked<ReplicaDescription>>),
}

impl Engine {
    /// Starts to take a replica in and returns once its rebuild runs. A refusal leaves the engine as it was.
    pub async fn add_replica(self: &Arc<Self>, addition: ReplicaAddition) -> Result<()> {
        self.claim_rebuild(&addition)?;
        let replica = addition.replica.clone();
        let stop = self.register_rebuild(&replica);
        let (started, answer) = oneshot::channel();
        tokio::spawn(Rebuild { engine: self.clone(), addition, stop }.run(started));
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

    /// Makes known to whoever wants to stop it that a replica is being taken in. The caller has claimed that.
    pub(super) fn register_rebuild(&self, replica: &ReplicaName) -> Stoppable {
        let (cancel, canceled) = watch::channel(false);
        let (done, is_done) = watch::channel(false);
        *self.running_rebuild() = Some(RunningRebuild { replica: replica.clone(), cancel, done: is_done });
        Stoppable { object: format!("the rebuild of replica {replica} in {}", self.object()), canceled, done }
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
        match self.begin().await {
            Ok(round) => {
                let _ = started.send(Ok(()));
                self.carry_out(round).await;
            }
            Err(error) => {
                self.withdraw().await;
                let _ = started.send(Err(error));
            }
        }
    }

    async fn begin(&self) -> Result<Round> {
        let Ok(_operation) = self.engine.operations.try_lock() else {
            let problem = "another operation is in progress; adding a replica must wait for it";
            return Err(Error::precondition(self.engine.object(), problem));
        };
        self.prepare().await
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

    async fn prepare(&self) -> Result<Round> {
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

    /// Takes the snapshot, and readies the replica for the copies of it and of the older ones.
    async fn prepare_from(&self, snapshot: &SnapshotName, target: &Arc<ReplicaPath>) -> Result<Round> {
        let engine = &self.engine;
        let answers = engine.take_snapshot(snapshot, false, Default::default()).await?;
        engine.settle("snapshot of a rebuild", answers).await?;
        engine.refresh_chain().await?;
        let round = self.begin_round(target.clone(), self.describe_source(None).await?).await?;
        engine.remember_path(target.clone());
        Ok(round)
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

    async fn carry_out(&self, mut round: Round) {
        let progress = ResyncProgress::default();
        let outcome = self.rebuild(&mut round, &progress).await;
        self.finish_source(&round.source).await;
        let (engine, replica) = (&self.engine, &self.addition.replica);
        match &outcome {
            Ok(_operation) => tracing::info!(engine = %engine.name, volume = %engine.volume, %replica,
                head_bytes = progress.copied_bytes(), "a rebuild is complete"),
            Err(error) => {
                tracing::error!(engine = %engine.name, volume = %engine.volume, %replica, %error, "a rebuild failed");
                if let Ok(mirror) = engine.mirror() {
                    // It may not have joined yet.
                    let _ = mirror.remove_member(replica).await;
                }
            }
        }
        let status = engine.mirror().map(|mirror| mirror.status());
        // Under the lock when it is in sync: whoever takes a snapshot next must see that it is.
        engine.publish(|published| {
            published.rebuilding = None;
            if let Some(listed) = published.replicas.get_mut(replica) {
                listed.mode = if outcome.is_ok() { ReplicaMode::ReadWrite } else { ReplicaMode::Error };
                listed.problem = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            }
        });
        if let Ok(status) = status {
            engine.apply(&status);
        }
    }

    /// Rounds of copies until one ends with all snapshots that there are. Returns with the operation lock.
    async fn rebuild(&self, round: &mut Round, progress: &ResyncProgress) -> Result<Operation<'_>> {
        let mut held = None;
        for rounds_left in (0..ROUNDS).rev() {
            match self.one_round(round, held.take(), progress).await? {
                Ended::InSync(operation) => return Ok(operation),
                Ended::Overtaken(..) if rounds_left == 0 => break,
                Ended::Overtaken(operation, now) => {
                    // Kept through the last round: nobody takes a snapshot meanwhile.
                    held = Some(operation).filter(|_| rounds_left == 1);
                    self.next_round(round, *now).await?;
                }
            }
        }
        let problem =
            format!("the snapshots of its source changed in each of {ROUNDS} rounds, by other hands in the last");
        Err(Error::precondition(self.object(), problem))
    }

    async fn one_round<'a>(
        &'a self,
        round: &Round,
        held: Option<Operation<'a>>,
        progress: &ResyncProgress,
    ) -> Result<Ended<'a>> {
        let is_last = held.is_some();
        self.unless_canceled(self.copy_snapshots(round)).await?;
        let operation = self.operation(held).await?;
        let now = self.unless_canceled(self.describe_source(Some(round))).await?;
        if !round.has_all_of(&now.answer) {
            return Ok(Ended::Overtaken(operation, Box::new(now)));
        }
        self.unless_canceled(round.target.backend.rebuild_finish()).await?;
        // Never dropped half-way, so that no member is left behind that nobody knows of.
        let place = self.join(round).await?;
        let held = Some(operation).filter(|_| is_last);
        let is_filled = self.unless_canceled(self.fill_unless_overtaken(round, place, progress)).await?;
        let operation = self.operation(held).await?;
        let now = self.unless_canceled(self.describe_source(Some(round))).await?;
        if !is_filled || !round.has_all_of(&now.answer) {
            self.leave(round).await?;
            return Ok(Ended::Overtaken(operation, Box::new(now)));
        }
        self.unless_canceled(self.get_in_sync(round, place)).await?;
        Ok(Ended::InSync(operation))
    }

    /// The operation lock, as it is held already or when it is free.
    async fn operation<'a>(&'a self, held: Option<Operation<'a>>) -> Result<Operation<'a>> {
        match held {
            Some(operation) => Ok(operation),
            None => self.unless_canceled(async { Ok(self.engine.operations.lock().await) }).await,
        }
    }

    async fn unless_canceled<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        self.stop.unless_canceled(step).await
    }

    /// The rebuild as errors name it.
    fn object(&self) -> String {
        format!("the rebuild of replica {} in {}", self.addition.replica, self.engine.object())
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
