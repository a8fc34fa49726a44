//! One attempt to take a replica in again that failed and may be back. Most find that it is not, and change nothing.
//!
//! 1. Its node describes it and its records, without a lock and within a limit.
//! 2. Under the engine's operation lock: it is proven to be the same copy, whatever it was sent before is cut off, it is opened, and joins
//!    the mirror write-only. Its generation is void from then on.
//! 3. What it missed is copied, range by range, while clients write. A snapshot meanwhile ends that, as it lacks it.
//! 4. Under the lock again: it has all snapshots still, its disk is flushed, and a generation that names it is stored on all.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::MutexGuard;

use super::{Returning, proof, ranges};
use crate::engine::attach::{self, ReplicaPath};
use crate::engine::backend::{Attribute, Backend, HeadMap, ReplicaDescription};
use crate::engine::instance::Engine;
use crate::engine::ownership::records;
use crate::engine::rebuild::Stoppable;
use crate::engine::state::{Chain, EngineState, Published, ReplicaMode};
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::mirror::core::control::MemberMode;
use crate::mirror::core::{Generation, MemberIndex};
use crate::mirror::{Mirror, MirrorStatus, OpenedMember, ResyncProgress};
use crate::name::ReplicaName;
use crate::telemetry::metrics::ReturnResult;

/// How an attempt ended.
pub(super) enum Tried {
    /// The replica is in sync.
    InSync,
    /// It is not back, or the engine is at something else. Nothing has changed.
    NotYet(Error),
    /// It was back, and is out again.
    Failed(Error),
    /// It cannot come back.
    Never(String),
    /// Somebody takes it or the engine away.
    Canceled,
}

/// Why an attempt that has begun does not come to its end.
enum Stop {
    Busy(Error),
    Failed(Error),
    Never(String),
    Canceled,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Canceled { .. } => Self::Canceled,
            error => Self::Failed(error),
        }
    }
}

pub(super) struct Attempt<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) mirror: &'a Arc<Mirror>,
    pub(super) replica: &'a ReplicaName,
    /// The volume's snapshots when the replica was missed.
    pub(super) chain: &'a Chain,
    /// The lvol that its head was then.
    pub(super) head: Option<&'a str>,
}

impl Attempt<'_> {
    pub(super) async fn carry_out(&self) -> Tried {
        let path = match self.reach().await {
            Ok(path) => path,
            Err(error) => return Tried::NotYet(error),
        };
        if let Err(error) = self.claim() {
            return Tried::NotYet(error);
        }
        let stop = self.engine.register_rebuild(self.replica);
        let progress = Arc::new(ResyncProgress::default());
        let returning = Returning { replica: self.replica.clone(), progress: progress.clone() };
        self.engine.set_returning(Some(returning));
        let outcome = self.take_in(path, &stop, &progress).await;
        self.engine.set_returning(None);
        self.conclude(outcome, &progress).await
        // Only now whoever stops it goes on.
    }

    /// The way to the replica, if it is there, runs, and is the same copy.
    async fn reach(&self) -> Result<Arc<ReplicaPath>> {
        let listed = self.engine.published().replicas.get(self.replica).cloned();
        let listed = listed.ok_or_else(|| Error::not_found("replica", self.replica))?;
        self.in_time("a look at it", async {
            let path = self.engine.context.path(self.replica.clone(), listed.address).await?;
            let found = path.backend.describe().await?;
            match found.state.as_str() {
                "running" => Ok(Arc::new(path)),
                state => {
                    let problem = format!("it is in state {state} {}", found.error_message);
                    Err(Error::precondition(self.object(), problem))
                }
            }
        })
        .await
    }

    async fn in_time<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.engine.context.limits.attach;
        tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(Error::Timeout { what: format!("{}: {what}", self.object()), limit }))
    }

    fn object(&self) -> String {
        format!("the return of replica {}", self.replica)
    }

    /// From here on it counts as one that is being rebuilt: what cannot be beside a rebuild is refused.
    fn claim(&self) -> Result<()> {
        self.engine.refuse_when_suspended("a replica comes back")?;
        let refusal = self.engine.publish(|published| {
            let refusal = refuse(published, self.replica);
            if refusal.is_none() {
                published.rebuilding = Some(self.replica.clone());
            }
            refusal
        });
        refusal.map_or(Ok(()), |problem| Err(Error::precondition(self.engine.object(), problem)))
    }

    async fn take_in(
        &self,
        path: Arc<ReplicaPath>,
        stop: &Stoppable,
        progress: &ResyncProgress,
    ) -> std::result::Result<MutexGuard<'_, ()>, Stop> {
        let place = {
            let _operation = stop.unless_canceled(async { Ok(self.engine.operations.lock().await) }).await?;
            let holds = self.prove(&path).await?;
            stop.unless_canceled(faults::pass(Point::ReturnProven)).await?;
            self.join(path.clone(), holds).await?
        };
        self.engine.apply(&self.mirror.status());
        let filled = stop.unless_canceled(async {
            tokio::select! {
                filled = self.fill(&path, place, progress) => filled.map(|()| true),
                () = self.overtaken() => Ok(false),
            }
        });
        let ended = match filled.await {
            Ok(true) => self.get_in_sync(&path, place, stop).await,
            Ok(false) => Err(Stop::Never("a snapshot was taken or deleted before it was up to date".into())),
            Err(error) => Err(error.into()),
        };
        if ended.is_err() && self.is_member(place) {
            // Never left behind write-only, with nobody who copies.
            let _ = self.mirror.fail_member(place).await;
        }
        ended
    }

    /// The same copy as it was when it left, as far as it and a replica in sync tell now. Gives the generation that it holds.
    async fn prove(&self, path: &ReplicaPath) -> std::result::Result<Generation, Stop> {
        let asked = self.in_time("what it holds", async {
            Ok((path.backend.describe().await?, records(path).await?, self.describe_in_sync().await?))
        });
        let (found, records, in_sync) = asked.await.map_err(Stop::Busy)?;
        if found.rebuilding {
            return Err(Stop::Never("a rebuild of it was begun".into()));
        }
        proof::has_same_head(&found, self.head).map_err(Stop::Never)?;
        let holds = proof::is_own(&records, self.mirror.incarnation()).map_err(Stop::Never)?;
        proof::has_same_layers(&found, &in_sync, &self.chain.snapshots).map_err(Stop::Never)?;
        Ok(holds)
    }

    /// Of a replica that was in sync still when it had answered.
    async fn describe_in_sync(&self) -> Result<ReplicaDescription> {
        self.ask_in_sync(|backend| backend.describe()).await
    }

    async fn ask_in_sync<T>(&self, ask: impl for<'b> Fn(&'b dyn Backend) -> BoxFuture<'b, Result<T>>) -> Result<T> {
        let mut last = None;
        for path in self.engine.in_sync() {
            match ask(&*path.backend).await {
                Ok(answer) if self.is_in_sync(&path.replica) => return Ok(answer),
                Ok(_) => {}
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::precondition(self.engine.object(), "no replica is in sync")))
    }

    fn is_in_sync(&self, replica: &ReplicaName) -> bool {
        let status = self.mirror.status();
        status.member(replica).is_some_and(|member| member.mode == MemberMode::Rw && !member.lost)
    }

    fn is_member(&self, place: MemberIndex) -> bool {
        let status = self.mirror.status();
        status.member(self.replica).is_some_and(|member| member.place == place && member.mode == MemberMode::Wo)
    }

    /// What it was sent before it failed is cut off, wherever it is, and it gets every write from here on.
    async fn join(&self, path: Arc<ReplicaPath>, holds: Generation) -> std::result::Result<MemberIndex, Stop> {
        let (context, replica) = (&self.engine.context, self.replica);
        if path.local.is_none() {
            let cut_off = self.in_time("the end of its connections", path.backend.disconnect_hosts());
            cut_off.await.map_err(Stop::Busy)?;
        }
        let opened: OpenedMember =
            attach::open(&context.control, &path, context.limits.attach).await.map_err(Stop::Busy)?;
        self.engine.remember_path(path);
        tracing::info!(engine = %self.engine.name, volume = %self.engine.volume, %replica, %holds,
            "a replica that failed is back, and joins for what it missed");
        match self.mirror.return_member(opened, holds).await {
            Ok(place) => Ok(place),
            // Refused, and nothing has changed.
            Err(error) if self.mirror.status().member(replica).is_some_and(|member| member.may_return) => {
                Err(Stop::Busy(error))
            }
            Err(error) => Err(Stop::Failed(error)),
        }
    }

    async fn fill(&self, path: &ReplicaPath, place: MemberIndex, progress: &ResyncProgress) -> Result<()> {
        let (engine, replica) = (self.engine, self.replica);
        faults::pass(Point::ReturnJoined).await?;
        let missed = self.mirror.missed(place).await?;
        let maps = self.in_time("which clusters heads have", async {
            let source: HeadMap = self.ask_in_sync(|backend| backend.head_map()).await?;
            Ok((source, path.backend.head_map().await?))
        });
        let (source, own) = maps.await?;
        let size = self.mirror.geometry().size();
        let ranges = ranges::to_copy(&missed, [&source, &own], size);
        let bytes = |ranges: &[std::ops::Range<u64>]| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        let (missed, copies) = (bytes(&missed), bytes(&ranges));
        tracing::info!(engine = %engine.name, volume = %engine.volume, %replica, missed, copies, "what a replica missed is copied");
        let message = format!("of volume {}: {copies} bytes are copied, of {missed} that it may lack", engine.volume);
        engine.tell_of_return(replica, "returning", message);
        self.mirror.resync(&engine.context.control, place, ranges, progress).await?;
        faults::pass(Point::ReturnFilled).await
    }

    /// Waits until the volume has other snapshots than when the replica was missed.
    async fn overtaken(&self) {
        let mut changes = self.engine.context.changes.watch();
        while self.has_same_names() {
            if changes.changed().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn has_same_names(&self) -> bool {
        self.engine.published().chain.snapshots.keys().eq(self.chain.snapshots.keys())
    }

    async fn get_in_sync(
        &self,
        path: &ReplicaPath,
        place: MemberIndex,
        stop: &Stoppable,
    ) -> std::result::Result<MutexGuard<'_, ()>, Stop> {
        let operation = stop.unless_canceled(async { Ok(self.engine.operations.lock().await) }).await?;
        let asked = self.in_time("its snapshots", async {
            let marker = self.ask_in_sync(|backend| backend.attribute(Attribute::Restore)).await?;
            Ok((path.backend.describe().await?, self.describe_in_sync().await?, marker))
        });
        let (found, in_sync, marker) = asked.await?;
        proof::has_same_layers(&found, &in_sync, &self.chain.snapshots).map_err(Stop::Never)?;
        self.mirror.flush_member(&self.engine.context.control, place).await?;
        // What was restored into the volume is in this replica too.
        let marked = path.backend.set_attribute(Attribute::Restore, marker.unwrap_or_default());
        self.in_time("its marker of restores", marked).await?;
        self.mirror.member_synced(place).await?;
        let mut status = self.mirror.watch();
        let is_seen = |status: &MirrorStatus| status.member(self.replica).is_none_or(|member| !member.awaited);
        // An error means that the mirror has stopped.
        let _ = status.wait_for(is_seen).await;
        Ok(operation)
    }

    async fn conclude(
        &self,
        outcome: std::result::Result<MutexGuard<'_, ()>, Stop>,
        progress: &ResyncProgress,
    ) -> Tried {
        let (engine, replica, copied_bytes) = (self.engine, self.replica, progress.copied_bytes());
        let status = self.mirror.status();
        // Under the lock when it is in sync: whoever takes a snapshot next must see that it is.
        engine.publish(|published| {
            published.rebuilding = None;
            if let Some(listed) = published.replicas.get_mut(replica).filter(|_| outcome.is_ok()) {
                listed.mode = ReplicaMode::ReadWrite;
                listed.problem.clear();
            }
        });
        engine.apply(&status);
        match outcome {
            Ok(_operation) => {
                tracing::info!(engine = %engine.name, volume = %engine.volume, %replica, copied_bytes,
                    "a replica that failed is in sync again");
                let message = format!("of volume {}: {copied_bytes} bytes were copied", engine.volume);
                engine.tell_of_return(replica, "returned", message);
                engine.context.telemetry.metrics.member_returned(&engine.volume, ReturnResult::InSync, copied_bytes);
                Tried::InSync
            }
            Err(Stop::Busy(error)) => Tried::NotYet(error),
            Err(Stop::Failed(error)) => Tried::Failed(error),
            Err(Stop::Never(problem)) => Tried::Never(problem),
            Err(Stop::Canceled) => Tried::Canceled,
        }
    }
}

fn refuse(published: &Published, replica: &ReplicaName) -> Option<String> {
    if !published.replicas.contains_key(replica) {
        return Some(format!("replica {replica} is removed"));
    }
    if let Some(other) = &published.rebuilding {
        return Some(format!("replica {other} is being rebuilt"));
    }
    if published.restore.is_restoring() {
        return Some("restore is in progress".into());
    }
    if published.is_expanding {
        return Some("expansion is in progress".into());
    }
    (published.state != EngineState::Running).then(|| format!("it is in state {}", published.state.as_str()))
}
