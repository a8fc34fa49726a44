//! What an engine publishes. One lock guards all of it, so that no reader sees one part newer than another.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backend::Layer;
use super::restore::status::RestoreState;
use crate::mirror::core::control::{MemberMode, OutReason};
use crate::name::{HostPort, ReplicaAddress, ReplicaName, SnapshotName};
use crate::telemetry::metrics::FailureReason;

/// How an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// It is being brought up again after a restart of the node.
    Pending,
    /// The mirror is up.
    Running,
    /// It cannot serve; see the message.
    Error,
    /// It is being deleted.
    Terminating,
}

impl EngineState {
    /// As the wire spells it (`engine-behaviour` §1.3).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Error => "error",
            Self::Terminating => "terminating",
        }
    }
}

/// How a replica takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaMode {
    /// In sync.
    ReadWrite,
    /// Being rebuilt.
    WriteOnly,
    /// Out.
    Error,
}

impl ReplicaMode {
    /// As the wire spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "RW",
            Self::WriteOnly => "WO",
            Self::Error => "ERR",
        }
    }
}

impl From<MemberMode> for ReplicaMode {
    fn from(mode: MemberMode) -> Self {
        match mode {
            MemberMode::Rw => Self::ReadWrite,
            MemberMode::Wo => Self::WriteOnly,
            MemberMode::Err(_) => Self::Error,
        }
    }
}

/// Why a member is out, for people.
pub(super) fn out_reason_text(reason: OutReason) -> &'static str {
    match reason {
        OutReason::WriteFailed => "it failed a write or a flush; is its disk full?",
        OutReason::Gone => "its device is gone",
        OutReason::Deadline => "it did not answer in time",
        OutReason::FenceFailed => "it could not store the generation",
        OutReason::SourceFailed => "the replica it was being rebuilt from failed",
        OutReason::Removed => "it was taken out",
        OutReason::Stale => "another engine has gone on without it",
    }
}

/// The same as it is counted; `None` when it is no failure of the member, or is counted by who took it out.
pub(super) fn failure_reason(reason: OutReason) -> Option<FailureReason> {
    match reason {
        OutReason::WriteFailed => Some(FailureReason::Write),
        OutReason::Gone => Some(FailureReason::Gone),
        OutReason::Deadline => Some(FailureReason::Deadline),
        OutReason::FenceFailed => Some(FailureReason::Generation),
        OutReason::SourceFailed => Some(FailureReason::Source),
        OutReason::Removed | OutReason::Stale => None,
    }
}

/// A replica as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedReplica {
    /// Where it is exported.
    pub address: ReplicaAddress,
    /// How it takes part.
    pub mode: ReplicaMode,
    /// Why it is out; empty when it is not.
    pub problem: String,
}

/// The snapshots and the head, as re-read from a replica in sync.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// All snapshots.
    pub snapshots: BTreeMap<SnapshotName, Layer>,
    /// The writable end.
    pub head: Option<Layer>,
}

/// Everything that is published.
#[derive(Debug, Clone)]
pub struct Published {
    /// The engine's state.
    pub state: EngineState,
    /// Why it is in state `error`.
    pub error_message: String,
    /// Where clients connect, when there is a target.
    pub target: Option<HostPort>,
    /// All replicas, also those that are out until they are removed.
    pub replicas: BTreeMap<ReplicaName, ListedReplica>,
    /// Snapshots and head.
    pub chain: Arc<Chain>,
    /// The restore that runs or ran last.
    pub restore: RestoreState,
    /// Bytes the volume has.
    pub size: u64,
    /// The replica that is being rebuilt.
    pub rebuilding: Option<ReplicaName>,
    /// An expansion runs.
    pub is_expanding: bool,
    /// Why the last expansion failed, and when (RFC 3339).
    pub expansion_failure: Option<(String, String)>,
    /// User snapshots the volume may have; 0 for no limit.
    pub snapshot_max_count: u32,
}
