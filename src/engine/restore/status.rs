//! The restore of an engine as it is told to the manager (`engine-behaviour` §10.3).

use crate::backup::BackupUrl;
use crate::name::BackupName;

/// How a restore ended, or that it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestorePhase {
    /// None was asked for since the engine was created.
    #[default]
    Idle,
    /// Blocks are being moved.
    InProgress,
    /// Durable, proven, published.
    Complete,
    /// It failed; the message says why.
    Error,
    /// It was cancelled.
    Canceled,
}

impl RestorePhase {
    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "",
            Self::InProgress => "in_progress",
            Self::Complete => "complete",
            Self::Error => "error",
            Self::Canceled => "canceled",
        }
    }
}

/// What is known of restores. `last_restored` is never ahead of what is durable on every counted member.
#[derive(Debug, Clone, Default)]
pub struct RestoreState {
    /// Where the last request stands.
    pub phase: RestorePhase,
    /// The backup whose image the volume is proven to hold.
    pub last_restored: Option<BackupName>,
    /// The backup being restored.
    pub current: Option<BackupName>,
    /// Where the last request pointed.
    pub url: Option<BackupUrl>,
    /// Why the last request failed.
    pub error: String,
    /// 0 to 100; 100 only when complete.
    pub progress: u32,
}

impl RestoreState {
    /// Whether blocks may be moving.
    pub fn is_restoring(&self) -> bool {
        self.phase == RestorePhase::InProgress
    }
}
