//! What an assembly is asked with and what it answers.

use super::super::generation::{Generation, GenerationRecord, Incarnation};
use super::super::mask::{MAX_MEMBERS, MemberMask};
use super::super::members::{Members, MembersError, OpenMember};
use crate::name::ReplicaName;

/// A replica that the mirror is asked to have.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which.
    pub replica: ReplicaName,
    /// What was found there.
    pub found: Found,
}

/// What was found at a candidate's address.
#[derive(Debug, Clone)]
pub enum Found {
    /// It was opened; its record, if it ever was in a mirror.
    Opened(OpenMember, Option<GenerationRecord>),
    /// It could not be reached or opened.
    Unreachable(String),
}

/// What to do when a replica that may be newer cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Refuse to start: it may hold acknowledged writes that nobody else has.
    Refuse,
    /// Start, and say so ([`Assembly::unverified`]). For callers who know that the missing ones are not newer, such as
    /// Longhorn's manager, which lists replicas by their recorded failures.
    Tolerate,
}

/// Why a candidate does not take part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// It could not be reached or opened.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It lacks acknowledged writes.
    #[error("stale: it has generation {found}, the newest is {newest}")]
    Stale {
        /// Its generation.
        found: Generation,
        /// The highest.
        newest: Generation,
    },
    /// Another engine went on from it; it has writes that the chosen ones lack.
    #[error("diverged: it has generation {found}, the chosen ones have {chosen}")]
    Diverged {
        /// Its generation.
        found: Generation,
        /// The one that was chosen.
        chosen: Generation,
    },
    /// Its rebuild was not finished, or it is new.
    #[error("not in sync: its content was never complete")]
    NeverInSync,
    /// It has another size than the mirror.
    #[error("it has {found} bytes, the mirror has {expected}")]
    Size {
        /// Its size in bytes.
        found: u64,
        /// The mirror's size in bytes.
        expected: u64,
    },
}

/// A candidate that does not take part.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Which.
    pub replica: ReplicaName,
    /// To be closed, when it was opened.
    pub open: Option<OpenMember>,
    /// Why.
    pub reason: RefusedReason,
}

/// Why no mirror can start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// No replica is known to be complete. New replicas only make a new mirror when all of them answer.
    #[error("no reachable replica is known to be in sync")]
    NothingInSync,
    /// Two engines went on from one state. Salvage chooses one.
    #[error("replicas {0:?} diverged: each has writes that the other lacks; salvage chooses one")]
    Diverged(Vec<ReplicaName>),
    /// Every complete replica that answered is stale for sure: a void one tells that others had gone on.
    #[error("replicas {holders:?} hold generation {newest} or newer and cannot be asked; all others are stale")]
    Behind {
        /// The generation the mirror is known to have reached.
        newest: Generation,
        /// Who has it.
        holders: Vec<ReplicaName>,
    },
    /// Replicas that may be newer did not answer.
    #[error("replicas {0:?} may be newer and cannot be asked")]
    Unverified(Vec<ReplicaName>),
    /// Every replica in sync has another size than the mirror.
    #[error("the replicas in sync have {found} bytes, the mirror has {expected}")]
    Size {
        /// Their size in bytes.
        found: u64,
        /// The mirror's in bytes.
        expected: u64,
    },
    /// The members do not fit together.
    #[error(transparent)]
    Members(#[from] MembersError),
}

/// A mirror that can start: hand it to [`super::MirrorCore::start`].
#[derive(Debug, Clone)]
pub struct Assembly {
    /// Who takes part, all in sync.
    pub members: Members,
    /// Who does not, and why.
    pub refused: Vec<Refused>,
    /// Replicas that were in sync with the chosen ones and could not be asked; they may hold newer writes.
    pub unverified: Vec<ReplicaName>,
    /// The highest generation that counts; for a new mirror the first.
    pub newest: Generation,
    /// The base of that generation.
    pub base: Generation,
    /// Members that must first be brought to `newest`: a raise was cut short. All, for a new mirror.
    pub laggards: MemberMask,
    /// The highest there is, also one that does not count as it cannot be complete. The next one is above it.
    pub highest: Generation,
    /// What each member's replica was found to hold; none where it has no record. The start changes nothing else.
    pub holds: [Option<Generation>; MAX_MEMBERS],
    /// Who raises generations from now on.
    pub incarnation: Incarnation,
}

/// How the members of a mirror that wakes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The highest generation that counts; for a new mirror the first.
    pub newest: Generation,
    /// The base of that generation.
    pub base: Generation,
    /// The highest there is, also one that does not count. The next one is above it.
    pub highest: Generation,
    /// Members that must first be brought to `newest`. All, for a new mirror.
    pub laggards: MemberMask,
    /// Members that lack what others hold.
    pub stale: MemberMask,
    /// A member that fails meanwhile may be left out: no other mirror can have gone on with it.
    pub may_lose: bool,
}

/// What a salvage gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The replica's own acknowledged writes since the two went apart.
    Diverged(ReplicaName),
    /// The acknowledged writes since the replica, which could not be asked, went on without the others.
    Newer(ReplicaName),
    /// Whatever the replica, which could not be asked, may have on top.
    Unverified(ReplicaName),
}
