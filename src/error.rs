//! Errors of the domain, by who is to blame: the caller, a peer, the medium, corrupt data, or us.
//!
//! Each says what happened, to which object, and, where there is something to do, what. The wire layer maps them
//! to gRPC codes in one place (`wire::status`).

use std::time::Duration;

use crate::name::NameError;

/// The domain's result.
pub type Result<T> = std::result::Result<T, Error>;

/// The innermost reason of a library's error: the outer ones only say "transport error".
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// What went wrong, by blame.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Caller: a field of the request cannot be what it is.
    #[error("{field}: {problem}")]
    InvalidArgument {
        /// The field, as the wire names it.
        field: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// Caller: there is no such object.
    #[error("{kind} {name} does not exist")]
    NotFound {
        /// What kind of object.
        kind: &'static str,
        /// Its name as given.
        name: String,
    },
    /// Caller: the object is there already.
    #[error("{kind} {name} already exists{detail}")]
    AlreadyExists {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What differs or holds it, starting with `: `, or nothing.
        detail: String,
    },
    /// Caller: the object is not in a state that allows this.
    #[error("{object}: {problem}")]
    Precondition {
        /// The object, kind and name.
        object: String,
        /// What stands in the way, and what to do.
        problem: String,
    },
    /// Caller: another has changed the object since the caller looked at it.
    #[error("{object}: {problem}")]
    Overtaken {
        /// The object, kind and name.
        object: String,
        /// What it is now, and what that means.
        problem: String,
    },
    /// Caller: the call was cancelled.
    #[error("{what} was cancelled")]
    Canceled {
        /// What was cancelled.
        what: String,
    },
    /// Nobody's fault: this is not offered.
    #[error("{what} is not implemented: {reason}")]
    Unimplemented {
        /// What was asked.
        what: &'static str,
        /// Why it is not offered.
        reason: &'static str,
    },
    /// A limit of this node is reached.
    #[error("{resource} is exhausted: {problem}")]
    Exhausted {
        /// What ran out.
        resource: &'static str,
        /// How much there is, who holds it, what to do.
        problem: String,
    },
    /// Peer: another node, an initiator or a backup store does not answer as it should.
    #[error("{peer}: {problem}")]
    Peer {
        /// Who, with its address.
        peer: String,
        /// What it did.
        problem: String,
    },
    /// A wait of ours had its limit.
    #[error("{what} did not finish within {limit:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// The limit of the wait.
        limit: Duration,
    },
    /// Medium: a device refused or failed an operation.
    #[error("{object}: {problem}")]
    Medium {
        /// The device or volume.
        object: String,
        /// What it answered.
        problem: String,
    },
    /// Medium: no space is left.
    #[error("{object} has no space left: {problem}")]
    NoSpace {
        /// The store.
        object: String,
        /// How much is needed or free, and what to do.
        problem: String,
    },
    /// Stored data is not what was written.
    #[error("{object} is corrupt: {problem}")]
    Corruption {
        /// What is corrupt.
        object: String,
        /// How that was seen.
        problem: String,
    },
    /// Our own bug: an invariant does not hold. Report it with the log.
    #[error("internal error in {object}: {problem}")]
    Internal {
        /// Where.
        object: String,
        /// Which invariant.
        problem: String,
    },
}

impl Error {
    /// A name of the wire that does not parse.
    pub fn name(field: &'static str, error: NameError) -> Self {
        Self::InvalidArgument { field, problem: error.to_string() }
    }

    /// A field with an impossible value.
    pub fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::InvalidArgument { field, problem: problem.into() }
    }

    /// No such object.
    pub fn not_found(kind: &'static str, name: impl ToString) -> Self {
        Self::NotFound { kind, name: name.to_string() }
    }

    /// The object is there already.
    pub fn exists(kind: &'static str, name: impl ToString) -> Self {
        Self::AlreadyExists { kind, name: name.to_string(), detail: String::new() }
    }

    /// The object's state forbids it.
    pub fn precondition(object: impl ToString, problem: impl Into<String>) -> Self {
        Self::Precondition { object: object.to_string(), problem: problem.into() }
    }

    /// Another has changed the object.
    pub fn overtaken(object: impl ToString, problem: impl Into<String>) -> Self {
        Self::Overtaken { object: object.to_string(), problem: problem.into() }
    }

    /// An invariant of ours is broken.
    pub fn internal(object: impl ToString, problem: impl Into<String>) -> Self {
        Self::Internal { object: object.to_string(), problem: problem.into() }
    }

    /// A peer misbehaved.
    pub fn peer(peer: impl ToString, problem: impl Into<String>) -> Self {
        Self::Peer { peer: peer.to_string(), problem: problem.into() }
    }

    /// The same error, with what it means for a greater whole after what it says.
    pub fn with_note(mut self, note: &str) -> Self {
        match &mut self {
            Self::InvalidArgument { problem, .. }
            | Self::Precondition { problem, .. }
            | Self::Overtaken { problem, .. }
            | Self::Exhausted { problem, .. }
            | Self::Peer { problem, .. }
            | Self::Medium { problem, .. }
            | Self::NoSpace { problem, .. }
            | Self::Corruption { problem, .. }
            | Self::Internal { problem, .. } => problem.push_str(note),
            Self::AlreadyExists { detail, .. } => detail.push_str(note),
            // Their sentences end with something else.
            Self::NotFound { .. } | Self::Canceled { .. } | Self::Timeout { .. } | Self::Unimplemented { .. } => {}
        }
        self
    }

    /// A device failed.
    pub fn medium(object: impl ToString, problem: impl Into<String>) -> Self {
        Self::Medium { object: object.to_string(), problem: problem.into() }
    }
}
