//! What a frontend publishes. One lock guards all of it, so that no reader sees one part newer than another.

use std::net::IpAddr;

use crate::engine::target::AnaState;
use crate::name::{EngineName, HostPort};

/// How a frontend is (`engine-behaviour` §1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontendState {
    /// It is being made, or brought up again after a restart of the node.
    Pending,
    /// The volume is reached through it.
    Running,
    /// Client I/O is held.
    Suspended,
    /// It does not work; see the message.
    Error,
    /// It is being deleted.
    Terminating,
}

impl FrontendState {
    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Error => "error",
            Self::Terminating => "terminating",
        }
    }
}

/// A way to the volume: an engine, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnginePath {
    /// The engine.
    pub engine: EngineName,
    /// Its node, by its data address.
    pub node: IpAddr,
    /// Its target; none when the frontend needs none, or before the engine was asked.
    pub target: Option<HostPort>,
    /// What the target's access state was last set to.
    pub ana: AnaState,
}

impl EnginePath {
    /// Whether both lead to the same engine.
    pub fn is_same_engine(&self, other: &Self) -> bool {
        self.engine == other.engine && self.node == other.node
    }
}

/// How far a switch-over has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchStage {
    /// The path to the new engine is there and not used.
    Prepared,
    /// The old engine serves no I/O any more.
    Switched,
}

/// Everything that is published.
#[derive(Debug, Clone)]
pub struct Published {
    /// The frontend's state.
    pub state: FrontendState,
    /// Why it is in state `error`, or still `pending`.
    pub error_message: String,
    /// Bytes the volume has.
    pub size: u64,
    /// The path in use.
    pub active: EnginePath,
    /// Paths that a switch-over has left, or is about to take.
    pub others: Vec<EnginePath>,
    /// A switch-over that was begun, and to where.
    pub switch: Option<(EnginePath, SwitchStage)>,
    /// An expansion runs.
    pub is_expanding: bool,
    /// Why the last expansion failed, and when (RFC 3339).
    pub expansion_failure: Option<(String, String)>,
    /// Counts suspensions, to tell one from the next.
    pub suspension: u64,
    /// The last suspension was ended by its limit, and nobody has been told yet.
    pub is_suspension_broken: bool,
}
