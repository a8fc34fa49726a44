//! What can go wrong between us and a target, by blame.

use std::{sync::Arc, time::Duration};

use super::{pdu::Violation, status::Status};

/// Who we talk to, for messages: the subsystem's NQN and the address.
pub type PeerName = Arc<str>;

/// An initiator's failure, by blame.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InitiatorError {
    /// Caller: an argument cannot be what it is.
    #[error("{field}: {problem}")]
    Argument {
        /// Which argument.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Peer: nobody listens there, or the target does not let us in.
    #[error("target {peer} refused: {problem}")]
    Refused {
        /// Who.
        peer: PeerName,
        /// Why, and what to do.
        problem: String,
    },
    /// Peer: the connection ended under us.
    #[error("target {peer} is gone: {problem}")]
    PeerClosed {
        /// Who.
        peer: PeerName,
        /// What was seen.
        problem: String,
    },
    /// Peer: it ended the connection because it found one of our PDUs at fault.
    #[error("target {peer} ended the connection: {problem}")]
    Terminated {
        /// Who.
        peer: PeerName,
        /// The fatal error that it named.
        problem: String,
    },
    /// Peer: it sent what the specification forbids.
    #[error("target {peer} broke the protocol: {violation}")]
    Protocol {
        /// Who.
        peer: PeerName,
        /// PDU, field, problem.
        violation: Violation,
    },
    /// Peer: it completed a command with an error.
    #[error("target {peer} failed {command}: {status}")]
    Status {
        /// Who.
        peer: PeerName,
        /// The command's name.
        command: &'static str,
        /// NVMe status.
        status: Status,
    },
    /// Peer: it lacks something that we need.
    #[error("target {peer} is not usable: {problem}")]
    Unsupported {
        /// Who.
        peer: PeerName,
        /// What is missing.
        problem: String,
    },
    /// A wait had its limit; the connection is given up then, since a late answer could touch a new command.
    #[error("{what} of target {peer} did not finish within {limit:?}")]
    Timeout {
        /// Who.
        peer: PeerName,
        /// What was waited for.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// We disconnected ourselves.
    #[error("disconnected from target {peer}")]
    Disconnected {
        /// From whom.
        peer: PeerName,
    },
}

/// The initiator's result.
pub type Result<T> = std::result::Result<T, InitiatorError>;

impl InitiatorError {
    pub(super) fn argument(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Argument { field, problem: problem.into() }
    }

    pub(super) fn protocol(peer: &PeerName, violation: Violation) -> Self {
        Self::Protocol { peer: peer.clone(), violation }
    }

    pub(super) fn closed(peer: &PeerName, problem: impl ToString) -> Self {
        Self::PeerClosed { peer: peer.clone(), problem: problem.to_string() }
    }

    /// The NVMe status, if the target completed a command with an error.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl From<InitiatorError> for crate::error::Error {
    fn from(error: InitiatorError) -> Self {
        let problem = error.to_string();
        match error {
            InitiatorError::Argument { field, problem } => Self::InvalidArgument { field, problem },
            InitiatorError::Timeout { peer, what, limit } => {
                Self::Timeout { what: format!("{what} of target {peer}"), limit }
            }
            InitiatorError::Status { peer, command, status } => of_status(&peer, command, status),
            InitiatorError::Disconnected { peer } => Self::Canceled { what: format!("I/O to target {peer}") },
            InitiatorError::Refused { peer, .. }
            | InitiatorError::PeerClosed { peer, .. }
            | InitiatorError::Terminated { peer, .. }
            | InitiatorError::Protocol { peer, .. }
            | InitiatorError::Unsupported { peer, .. } => Self::peer(peer, problem),
        }
    }
}

fn of_status(peer: &PeerName, command: &'static str, status: Status) -> crate::error::Error {
    use crate::error::Error;
    let object = format!("target {peer}");
    let problem = format!("{command} failed: {status}");
    match (status.kind, status.code) {
        (0, 0x80) => Error::InvalidArgument { field: "offset", problem: format!("{object}: {problem}") },
        (0, 0x81) => Error::NoSpace { object, problem },
        (0, 0x20) => Error::Precondition { object, problem },
        (0, 0x06) | (2, _) => Error::Medium { object, problem },
        _ => Error::peer(object, problem),
    }
}
