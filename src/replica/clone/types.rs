//! What a clone is asked for and what it tells: plain values.

use serde::{Deserialize, Serialize};

use crate::name::{ReplicaAddress, ReplicaName, SnapshotName};
use crate::replica::rebuild::CopyState;

/// How a clone gets its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloneMode {
    /// All of it is copied; the clone needs its source no more when it is complete.
    FullCopy,
    /// It stays with the source, on whose disk the clone is.
    Linked,
}

/// A clone to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneOrder {
    /// The replica that has the snapshot.
    pub source: ReplicaName,
    /// Where its head is exported; tells its node.
    pub source_address: ReplicaAddress,
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// How.
    pub mode: CloneMode,
}

/// What a replica was cloned from, as it is kept with its head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneMark {
    /// The replica that had the snapshot.
    pub source: ReplicaName,
    /// Where that was exported.
    pub source_address: ReplicaAddress,
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// How.
    pub mode: CloneMode,
}

impl CloneMark {
    /// Of an order that is carried out.
    pub(super) fn of(order: &CloneOrder) -> Self {
        let CloneOrder { source, source_address, snapshot, mode } = order.clone();
        Self { source, source_address, snapshot, mode }
    }

    /// From the record in the head's place, if that is of a clone and not of a rebuild.
    pub(in crate::replica) fn of_record(record: &str) -> Option<Self> {
        let record: serde_json::Value = serde_json::from_str(record).ok()?;
        serde_json::from_value(record.get("clone")?.clone()).ok()
    }

    /// As it is stored.
    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).expect("names and addresses have a JSON form")
    }

    /// Whether it is the same snapshot of the same replica, wherever that is.
    pub(super) fn is_of(&self, order: &CloneOrder) -> bool {
        (&self.source, &self.snapshot, self.mode) == (&order.source, &order.snapshot, order.mode)
    }
}

/// How a clone is getting on, as the replica that is cloned into tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneStatus {
    /// What of; `None` when there was no clone.
    pub mark: Option<CloneMark>,
    /// How far it is.
    pub state: CopyState,
    /// Per cent of the clusters; it does not fall while the copy runs.
    pub percent: u8,
    /// Why it failed; empty when it did not.
    pub error: String,
}

impl Default for CloneStatus {
    fn default() -> Self {
        Self { mark: None, state: CopyState::Idle, percent: 0, error: String::new() }
    }
}

impl CloneStatus {
    /// Of a clone that is complete.
    pub(super) fn complete(mark: &CloneMark) -> Self {
        Self { mark: Some(mark.clone()), state: CopyState::Complete, percent: 100, error: String::new() }
    }

    /// Of a copy that the end of the node has cut short.
    pub(super) fn interrupted(mark: &CloneMark) -> Self {
        let error = "the copy was interrupted; delete the replica, or clone into it again".into();
        Self { mark: Some(mark.clone()), state: CopyState::Error, percent: 0, error }
    }

    /// Whether the copy goes on.
    pub fn is_running(&self) -> bool {
        matches!(self.state, CopyState::Starting | CopyState::InProgress)
    }
}
