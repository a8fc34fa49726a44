//! Snapshots of a volume: on all replicas in sync, at one point in time.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;

use super::assemble::Start;
use super::attach::ReplicaPath;
use super::backend::SnapshotOptions;
use super::instance::{Engine, Frontend};
use super::restore::replicas::forget_restores;
use super::state::EngineState;
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::name::{ReplicaName, SnapshotLabels, SnapshotName};

/// What a replica answered.
pub(super) type Answers = Vec<(Arc<ReplicaPath>, Result<()>)>;

impl Engine {
    /// Takes a user's snapshot; a missing name is made up. Returns the name. A replica that is being rebuilt gets it as a copy.
    pub async fn snapshot_create(&self, name: Option<SnapshotName>, labels: SnapshotLabels) -> Result<SnapshotName> {
        let _operation = self.begin_beside_rebuild("a snapshot").await?;
        self.check_count()?;
        let name = match name {
            Some(name) => name,
            None => SnapshotName::parse(&uuid::Uuid::new_v4().simple().to_string()[..8])
                .map_err(|error| Error::internal("snapshot name", error.to_string()))?,
        };
        if self.published().chain.snapshots.contains_key(&name) {
            return Err(Error::exists("snapshot", name));
        }
        let answers = self.take_snapshot(&name, true, labels).await?;
        self.settle("snapshot creation", answers).await?;
        self.refresh_chain().await?;
        Ok(name)
    }

    /// Takes a snapshot on every replica in sync while client I/O is paused, and returns what each answered. The caller
    /// holds the operation, and has seen that there is none of the name.
    pub(super) async fn take_snapshot(
        &self,
        name: &SnapshotName,
        user_created: bool,
        labels: SnapshotLabels,
    ) -> Result<Answers> {
        let timestamp = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let options = SnapshotOptions { user_created, timestamp, labels };
        // Where replicas differ, their snapshots would, for good.
        self.mirror()?.equal(self.context.limits.pause).await?;
        let held = self.hold().await?;
        let answers = self.on_all(|path| {
            let options = options.clone();
            async move {
                faults::pass(Point::SnapshotBegins).await?;
                path.backend.snapshot_create(name, options).await?;
                faults::pass(Point::SnapshotTaken).await
            }
        });
        let answers = answers.await;
        if let Err(broken) = self.release(held).await {
            // Client writes went on meanwhile: the copies may differ, so they are no snapshot.
            self.on_all(|path| async move { path.backend.snapshot_delete(name).await }).await;
            return Err(broken);
        }
        Ok(answers)
    }

    /// The labels of those of its snapshots that have any, as a replica in sync has them.
    pub async fn snapshot_labels(&self) -> Result<BTreeMap<SnapshotName, SnapshotLabels>> {
        match self.in_sync().first() {
            Some(path) => path.backend.snapshot_labels().await,
            None => Err(Error::precondition(self.object(), "no replica is in sync to ask for labels")),
        }
    }

    /// Deletes a snapshot on every replica in sync; one that is missing is fine.
    pub async fn snapshot_delete(&self, name: &SnapshotName) -> Result<()> {
        let _operation = self.begin("a snapshot deletion")?;
        self.delete_snapshot(name).await?;
        self.refresh_chain().await
    }

    /// As [`Engine::snapshot_delete`], within an operation.
    pub(super) async fn delete_snapshot(&self, name: &SnapshotName) -> Result<()> {
        if let Some(layer) = self.published().chain.snapshots.get(name)
            && layer.children.len() > 1
        {
            let problem = format!("it has {} children; delete all but one of them first", layer.children.len());
            return Err(Error::precondition(format!("snapshot {name} of {}", self.object()), problem));
        }
        // A replica that must keep it refuses; the others would have deleted it then, and this one would be taken for failed.
        self.refuse_when_kept(name, &self.kept_snapshots().await)?;
        faults::pass(Point::SnapshotDeletionBegins).await?;
        let mut answers = self.on_all(|path| async move { path.backend.snapshot_delete(name).await }).await;
        if answers.iter().all(|(_, answer)| answer.is_ok()) || answers.iter().all(|(_, answer)| answer.is_err()) {
            return self.settle("snapshot deletion", answers).await;
        }
        // Somebody may have begun to read it since: such a replica is whole. It keeps the snapshot until the call is repeated.
        let kept = self.kept_snapshots().await;
        answers.retain(|(path, answer)| {
            answer.is_ok() || !kept.get(&path.replica).is_some_and(|kept| kept.contains_key(name))
        });
        self.settle("snapshot deletion", answers).await?;
        self.refuse_when_kept(name, &kept)
    }

    /// What each replica in sync must keep now, and why. Who does not answer keeps nothing: it will fail the deletion itself.
    async fn kept_snapshots(&self) -> BTreeMap<ReplicaName, BTreeMap<SnapshotName, String>> {
        let asked = self.in_sync().into_iter().map(|path| async move {
            match path.backend.kept_snapshots().await {
                Ok(kept) => Some((path.replica.clone(), kept)),
                Err(error) => {
                    tracing::warn!(engine = %self.name, volume = %self.volume, replica = %path.replica, %error,
                        "a replica does not say which snapshots it must keep");
                    None
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    fn refuse_when_kept(
        &self,
        name: &SnapshotName,
        kept: &BTreeMap<ReplicaName, BTreeMap<SnapshotName, String>>,
    ) -> Result<()> {
        match kept.iter().find_map(|(replica, kept)| Some((replica, kept.get(name)?))) {
            Some((replica, why)) => Err(Error::precondition(format!("snapshot {name} of replica {replica}"), why)),
            None => Ok(()),
        }
    }

    /// Deletes what the system made and nobody needs. What one replica must keep stays on all.
    pub async fn snapshot_purge(&self) -> Result<()> {
        let _operation = self.begin("a purge")?;
        let kept = self.kept_snapshots().await;
        let snapshots = self.published().chain;
        let system = snapshots.snapshots.iter().filter(|(_, layer)| !layer.user_created).map(|(name, _)| name);
        let (kept, unused): (Vec<_>, Vec<_>) =
            system.partition(|name| kept.values().any(|kept| kept.contains_key(*name)));
        if kept.is_empty() {
            let answers = self.on_all(|path| async move { path.backend.snapshot_purge().await }).await;
            self.settle("snapshot purge", answers).await?;
        } else {
            for name in unused {
                self.delete_snapshot(name).await?;
            }
        }
        self.refresh_chain().await
    }

    /// Makes the volume what the snapshot is. Only without a frontend: the mirror is taken down meanwhile.
    pub async fn snapshot_revert(self: &Arc<Self>, name: &SnapshotName) -> Result<()> {
        let _operation = self.begin("a revert")?;
        if self.frontend != Frontend::None {
            let problem = format!("a revert needs the empty frontend, this one is {:?}", self.frontend.as_str());
            return Err(Error::precondition(self.object(), problem));
        }
        if !self.published().chain.snapshots.contains_key(name) {
            return Err(Error::not_found("snapshot", name));
        }
        let in_sync = self.in_sync();
        if let Some(mirror) = self.set_mirror(None) {
            mirror.stop().await?;
        }
        let answers = join_all(in_sync.into_iter().map(|path| async move {
            // Forgotten first: one whose content changes must not be known for the last restore's.
            let result = match forget_restores(&path).await {
                Ok(()) => path.backend.snapshot_revert(name).await,
                Err(error) => Err(error),
            };
            (path, result)
        }))
        .await;
        let failed: Vec<_> = answers.into_iter().filter_map(|(path, result)| Some((path, result.err()?))).collect();
        self.bring_up_again(Start::Listed).await?;
        for (path, error) in &failed {
            self.expel(&path.replica, error).await;
        }
        match failed.into_iter().next() {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }

    /// Takes the mirror up after it was taken down; what fails leaves the engine in state `error` with the reason.
    pub(super) async fn bring_up_again(self: &Arc<Self>, as_asked: Start) -> Result<()> {
        let result = super::assemble::bring_up(self, as_asked).await;
        match &result {
            Ok(()) => super::assemble::is_up(self),
            Err(error) => self.publish(|published| {
                published.state = EngineState::Error;
                published.error_message = error.to_string();
            }),
        }
        result
    }

    /// Runs a call on every replica in sync, in parallel.
    pub(super) async fn on_all<F>(&self, call: impl Fn(Arc<ReplicaPath>) -> F) -> Answers
    where
        F: Future<Output = Result<()>>,
    {
        let calls = self.in_sync().into_iter().map(|path| {
            let answer = call(path.clone());
            async move { (path, answer.await) }
        });
        join_all(calls).await
    }

    /// Who failed alone leaves the mirror, and the caller is told. When all failed, nobody is to blame more than the
    /// others, and all stay.
    pub(super) async fn settle(&self, what: &str, answers: Answers) -> Result<()> {
        if answers.is_empty() {
            return Err(Error::precondition(self.object(), format!("no replica is in sync for the {what}")));
        }
        let all_failed = answers.iter().all(|(_, result)| result.is_err());
        let mut first: Option<(ReplicaName, Error)> = None;
        for (path, result) in answers {
            if let Err(error) = result {
                if !all_failed {
                    self.expel(&path.replica, &error).await;
                }
                first.get_or_insert((path.replica.clone(), error));
            }
        }
        match first {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }

    /// Begins an operation, or says what stands in the way. Nothing waits: the caller repeats.
    pub(super) fn begin(&self, what: &str) -> Result<tokio::sync::MutexGuard<'_, ()>> {
        self.refuse_in_rebuild(what)?;
        let operation = self.begin_alone(what)?;
        // A rebuild does not hold the operations all the time.
        self.refuse_in_rebuild(what)?;
        Ok(operation)
    }

    /// As [`Self::begin`], for what may be done while a replica is being rebuilt: a step of the rebuild that must be alone is
    /// waited for.
    async fn begin_beside_rebuild(&self, what: &str) -> Result<tokio::sync::MutexGuard<'_, ()>> {
        let Some(replica) = self.published().rebuilding else { return self.begin_alone(what) };
        self.refuse_in_restore(what)?;
        let limit = self.context.limits.rebuild_step;
        let operation = tokio::time::timeout(limit, self.operations.lock()).await.map_err(|_| {
            let problem = format!(
                "replica {replica} is being rebuilt and is at its last step, for which {what} has waited {limit:?}; repeat it"
            );
            Error::precondition(self.object(), problem)
        })?;
        self.refuse_in_restore(what)?;
        Ok(operation)
    }

    fn begin_alone(&self, what: &str) -> Result<tokio::sync::MutexGuard<'_, ()>> {
        self.refuse_in_restore(what)?;
        self.operations.try_lock().map_err(|_| {
            Error::precondition(self.object(), format!("another operation is in progress; {what} must wait for it"))
        })
    }

    fn refuse_in_restore(&self, what: &str) -> Result<()> {
        if self.published().restore.is_restoring() {
            return Err(Error::precondition(self.object(), format!("restore is in progress; {what} must wait for it")));
        }
        Ok(())
    }

    /// The rebuild's end may be far away, and what is deleted or changed meanwhile would be missing in its copies.
    pub(super) fn refuse_in_rebuild(&self, what: &str) -> Result<()> {
        if let Some(replica) = self.published().rebuilding {
            let problem = format!("replica {replica} is being rebuilt; {what} must wait for it");
            return Err(Error::precondition(self.object(), problem));
        }
        Ok(())
    }

    fn check_count(&self) -> Result<()> {
        let published = self.published();
        let limit = published.snapshot_max_count as usize;
        if limit != 0 && published.chain.snapshots.len() >= limit {
            let problem = format!("it has {limit} snapshots, its limit; delete some first");
            return Err(Error::Exhausted { resource: "snapshots", problem: format!("{}: {problem}", self.object()) });
        }
        Ok(())
    }
}
