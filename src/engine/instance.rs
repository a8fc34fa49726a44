//! One engine: its replicas, its mirror, its target, and what it publishes. Operations on it run one at a time; readers
//! never wait for them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::EngineRequest;
use super::attach::ReplicaPath;
use super::backend::ReplicaDescription;
use super::clone::RunningClone;
use super::context::EngineContext;
use super::outage::Returning;
use super::rebuild::RunningRebuild;
use super::restore::job::RunningRestore;
use super::state::{Chain, EngineState, ListedReplica, Published, ReplicaMode, out_reason_text};
use super::suspend::Suspension;
use super::target::Target;
use crate::error::{Error, Result};
use crate::mirror::core::control::{MemberMode, OutReason};
use crate::mirror::core::{Incarnation, ReadPolicy};
use crate::mirror::{Mirror, MirrorStatus};
use crate::name::{EngineName, HostPort, ReplicaAddress, ReplicaName, VolumeName};
use crate::telemetry::metrics::FailureReason;

/// How clients reach a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frontend {
    /// Not at all: a volume that is being restored.
    None,
    /// By its NVMe/TCP target.
    NvmeTcp,
    /// By a kernel block device that an engine frontend makes from the target.
    NvmeTcpBlockdev,
}

impl Frontend {
    /// From the wire.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "" => Ok(Self::None),
            "spdk-tcp-nvmf" => Ok(Self::NvmeTcp),
            "spdk-tcp-blockdev" => Ok(Self::NvmeTcpBlockdev),
            "ublk" => {
                Err(Error::Unimplemented { what: "frontend ublk", reason: "this node offers NVMe/TCP frontends" })
            }
            other => Err(Error::invalid(
                "frontend",
                format!("{other:?} is none of \"\", \"spdk-tcp-nvmf\", \"spdk-tcp-blockdev\""),
            )),
        }
    }

    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::NvmeTcp => "spdk-tcp-nvmf",
            Self::NvmeTcpBlockdev => "spdk-tcp-blockdev",
        }
    }
}

/// An engine.
pub struct Engine {
    /// Its name.
    pub name: EngineName,
    /// The volume it serves.
    pub volume: VolumeName,
    /// How the volume's clients reach it.
    pub frontend: Frontend,
    pub(super) context: Arc<EngineContext>,
    /// Brought up again by the next start of the node.
    pub(super) is_remembered: bool,
    published: Mutex<Published>,
    paths: Mutex<BTreeMap<ReplicaName, Arc<ReplicaPath>>>,
    mirror: Mutex<Option<Arc<Mirror>>>,
    pub(super) target: tokio::sync::Mutex<Option<Target>>,
    /// Held by whatever changes membership, snapshots or size; by a rebuild only in the steps that must be alone.
    pub(super) operations: tokio::sync::Mutex<()>,
    pub(super) restore: Mutex<Option<RunningRestore>>,
    pub(super) rebuild: Mutex<Option<RunningRebuild>>,
    /// The replica that failed, is back, and gets what it missed.
    pub(super) returning: Mutex<Option<Returning>>,
    /// The full copy into the volume that it waits for.
    pub(super) clone: Mutex<Option<RunningClone>>,
    pub(super) suspension: Mutex<Suspension>,
    incarnations: Mutex<Vec<Incarnation>>,
    /// Its disks are being looked at, or were a moment ago.
    pub(super) is_looking: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// An engine that is not up yet, in state `pending`, without paths to its replicas.
    pub(super) fn new(context: Arc<EngineContext>, request: &EngineRequest) -> Self {
        Self { is_remembered: true, ..Self::passing(context, request) }
    }

    /// As [`Self::new`], for an engine that no restart brings back.
    pub(super) fn passing(context: Arc<EngineContext>, request: &EngineRequest) -> Self {
        let listed = |(replica, address): (&ReplicaName, &ReplicaAddress)| {
            let listed = ListedReplica { address: *address, mode: ReplicaMode::Error, problem: String::new() };
            (replica.clone(), listed)
        };
        Self {
            name: request.name.clone(),
            volume: request.volume.clone(),
            frontend: request.frontend,
            context,
            is_remembered: false,
            published: Mutex::new(Published {
                state: EngineState::Pending,
                error_message: String::new(),
                target: None,
                replicas: request.replicas.iter().map(listed).collect(),
                chain: Arc::default(),
                restore: Default::default(),
                size: request.size,
                rebuilding: None,
                is_expanding: false,
                expansion_failure: None,
                snapshot_max_count: request.snapshot_max_count,
            }),
            paths: Mutex::default(),
            mirror: Mutex::new(None),
            target: tokio::sync::Mutex::new(None),
            operations: tokio::sync::Mutex::new(()),
            restore: Mutex::new(None),
            rebuild: Mutex::new(None),
            returning: Mutex::default(),
            clone: Mutex::new(None),
            suspension: Mutex::default(),
            incarnations: Mutex::default(),
            is_looking: AtomicBool::new(false),
        }
    }

    /// A consistent copy of what is published.
    pub fn published(&self) -> Published {
        locked(&self.published).clone()
    }

    /// Where clients connect, when there is a target.
    pub fn target_address(&self) -> Option<HostPort> {
        locked(&self.published).target
    }

    /// Changes what is published, all at once, and tells the watchers.
    pub(super) fn publish<T>(&self, change: impl FnOnce(&mut Published) -> T) -> T {
        let mut published = locked(&self.published);
        let before = published.clone();
        let result = change(&mut published);
        // Under the lock, so that events are in the order of the changes; telling one never waits.
        super::tell::differences(self, &before, &published);
        drop(published);
        self.context.changes.announce();
        result
    }

    /// The engine as errors name it.
    pub(super) fn object(&self) -> String {
        format!("engine {}", self.name)
    }

    /// The mirror, or why there is none.
    pub fn mirror(&self) -> Result<Arc<Mirror>> {
        locked(&self.mirror).clone().ok_or_else(|| {
            let message = locked(&self.published).error_message.clone();
            Error::precondition(self.object(), format!("its mirror is not up: {message}"))
        })
    }

    pub(super) fn set_mirror(&self, mirror: Option<Arc<Mirror>>) -> Option<Arc<Mirror>> {
        std::mem::replace(&mut locked(&self.mirror), mirror)
    }

    /// The path to a replica.
    pub(super) fn path(&self, replica: &ReplicaName) -> Result<Arc<ReplicaPath>> {
        locked(&self.paths).get(replica).cloned().ok_or_else(|| Error::not_found("replica", replica))
    }

    /// As whom the engine has, or may have, raised generations since its last start.
    pub(super) fn incarnations(&self) -> Vec<Incarnation> {
        locked(&self.incarnations).clone()
    }

    pub(super) fn set_incarnations(&self, incarnations: Vec<Incarnation>) {
        *locked(&self.incarnations) = incarnations;
    }

    /// Takes these paths to the replicas, in place of all it had.
    pub(super) fn set_paths(&self, paths: Vec<Arc<ReplicaPath>>) {
        *locked(&self.paths) = paths.into_iter().map(|path| (path.replica.clone(), path)).collect();
    }

    /// All paths.
    pub(super) fn paths(&self) -> Vec<Arc<ReplicaPath>> {
        locked(&self.paths).values().cloned().collect()
    }

    /// Keeps the path to a replica that is being taken in.
    pub(super) fn remember_path(&self, path: Arc<ReplicaPath>) {
        locked(&self.paths).insert(path.replica.clone(), path);
    }

    /// Forgets the path to a replica that was not taken in.
    pub(super) fn forget_path(&self, replica: &ReplicaName) {
        locked(&self.paths).remove(replica);
    }

    /// Forgets a replica that was removed.
    pub(super) fn forget(&self, replica: &ReplicaName) {
        locked(&self.paths).remove(replica);
        self.publish(|published| {
            published.replicas.remove(replica);
        });
    }

    /// The paths of the replicas that are in sync, those of this node first.
    pub(super) fn in_sync(&self) -> Vec<Arc<ReplicaPath>> {
        let modes = locked(&self.published).replicas.clone();
        let mut paths: Vec<_> = self
            .paths()
            .into_iter()
            .filter(|path| modes.get(&path.replica).is_some_and(|listed| listed.mode == ReplicaMode::ReadWrite))
            .collect();
        paths.sort_by_key(|path| path.local.is_none());
        paths
    }

    /// Takes the modes over from the mirror.
    pub(super) fn apply(&self, status: &MirrorStatus) {
        self.publish(|published| {
            let rebuilding = published.rebuilding.clone();
            for (replica, listed) in &mut published.replicas {
                let is_rebuilt = rebuilding.as_ref() == Some(replica);
                let (mode, problem) = match status.member(replica) {
                    Some(member) if member.lost => (ReplicaMode::Error, "the last one in sync, and out of reach"),
                    // Out only for another round of its rebuild, or until that has told how it ended.
                    Some(member) if is_rebuilt && member.mode == MemberMode::Err(OutReason::Removed) => {
                        (ReplicaMode::WriteOnly, "")
                    }
                    Some(member) => match member.mode {
                        MemberMode::Err(reason) => (ReplicaMode::Error, out_reason_text(reason)),
                        mode => (mode.into(), ""),
                    },
                    // It has not joined the mirror yet.
                    None if is_rebuilt => (ReplicaMode::WriteOnly, ""),
                    None => (ReplicaMode::Error, ""),
                };
                listed.mode = mode;
                if mode != ReplicaMode::Error {
                    listed.problem.clear();
                } else if listed.problem.is_empty() {
                    // What an operation said of the replica would tell more.
                    listed.problem = problem.into();
                }
            }
            if published.state == EngineState::Running && status.superseded {
                published.state = EngineState::Error;
                published.error_message = "another engine has gone on with its replicas: delete this one, or end the other and create this one again".into();
            }
            let any = published.replicas.values().any(|listed| listed.mode == ReplicaMode::ReadWrite);
            if published.state == EngineState::Running && !any {
                published.state = EngineState::Error;
                published.error_message = "no replica is in sync and reachable".into();
            }
        });
    }

    /// Takes a replica out of the mirror after it failed an operation, and says why in the list.
    pub(super) async fn expel(&self, replica: &ReplicaName, problem: &Error) {
        tracing::warn!(engine = %self.name, volume = %self.volume, %replica, %problem, "a replica failed and leaves the mirror");
        // Before it is out, so that the mirror's news of it finds the reason; after it, as the mirror may have had others.
        self.list_failed(replica, problem);
        let removed = match self.mirror() {
            Ok(mirror) => mirror.expel_member(replica).await.map_err(|error| (error, Some(mirror))),
            Err(error) => Err((error, None)),
        };
        match removed {
            Ok(()) => {
                self.list_failed(replica, problem);
                self.context.telemetry.metrics.member_failed(&self.volume, FailureReason::Operation);
            }
            Err((error, mirror)) => {
                tracing::error!(engine = %self.name, volume = %self.volume, %replica, %error, "the failed replica could not be taken out");
                if let Some(mirror) = mirror {
                    self.apply(&mirror.status());
                }
            }
        }
    }

    pub(super) fn list_failed(&self, replica: &ReplicaName, problem: &Error) {
        self.publish(|published| {
            if let Some(listed) = published.replicas.get_mut(replica) {
                listed.mode = ReplicaMode::Error;
                listed.problem = problem.to_string();
            }
        });
    }

    /// Re-reads snapshots and head from a replica in sync. The old view is never kept silently.
    pub(super) async fn read_chain(&self) -> Result<Arc<Chain>> {
        let mut problems = Vec::new();
        for path in self.in_sync() {
            match path.backend.describe().await {
                Ok(description) => {
                    return Ok(Arc::new(Chain { snapshots: description.snapshots, head: description.head }));
                }
                Err(error) => problems.push(format!("{}: {error}", path.replica)),
            }
        }
        let problem = if problems.is_empty() { "none is in sync".to_owned() } else { problems.join("; ") };
        Err(Error::peer(self.object(), format!("no replica could describe its snapshots: {problem}")))
    }

    /// Re-reads the chain and publishes it.
    pub(super) async fn refresh_chain(&self) -> Result<()> {
        let chain = self.read_chain().await?;
        self.publish(|published| published.chain = chain);
        Ok(())
    }

    /// Every replica as the engine lists it and as its node describes it now.
    pub async fn describe_replicas(&self) -> Vec<(ReplicaName, ListedReplica, Result<ReplicaDescription>)> {
        let listed = self.published().replicas;
        let calls = self.paths().into_iter().filter_map(|path| {
            let entry = listed.get(&path.replica)?.clone();
            Some(async move {
                let description = path.backend.describe().await;
                (path.replica.clone(), entry, description)
            })
        });
        futures::future::join_all(calls).await
    }

    /// Where reads of its mirror go.
    pub fn read_policy(&self) -> ReadPolicy {
        self.context.read_policy
    }

    /// Sets how many snapshots the volume may have; 0 for no limit.
    pub async fn set_snapshot_max_count(&self, count: u32) -> Result<()> {
        self.publish(|published| published.snapshot_max_count = count);
        self.remember().await
    }
}
