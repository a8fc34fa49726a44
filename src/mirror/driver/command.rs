//! What the owner of a mirror asks its driver for. Each is answered once; an owner that does not wait any more is no error.

use std::ops::Range;
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::activity::Activity;
use super::super::core::control::PauseId;
use super::super::core::{Generation, MemberIndex};
use super::super::member::OpenedMember;
use super::super::range_gate::BlockRange;
use super::{CopyPaths, LockId};
use crate::error::{Error, Result};

/// What the owner asks for.
pub(in crate::mirror) enum Command {
    /// To sleep in, when it is to `rest`.
    Pause {
        limit: Duration,
        rest: bool,
        reply: oneshot::Sender<Result<PauseId>>,
    },
    Resume {
        pause: PauseId,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
    RemoveMember {
        member: MemberIndex,
        failed: bool,
        reply: oneshot::Sender<Result<()>>,
    },
    AddMember {
        opened: OpenedMember,
        reply: oneshot::Sender<Result<MemberIndex>>,
    },
    MemberSynced {
        member: MemberIndex,
        reply: oneshot::Sender<Result<()>>,
    },
    /// A member that failed is open again, and its replica was read to hold that generation.
    ReturnMember {
        opened: OpenedMember,
        holds: Generation,
        reply: oneshot::Sender<Result<MemberIndex>>,
    },
    /// What a member lacks that has returned.
    Missed {
        member: MemberIndex,
        reply: oneshot::Sender<Result<Vec<Range<u64>>>>,
    },
    /// A member that has returned cannot be brought up to date now: as if it had failed once more.
    FailMember {
        member: MemberIndex,
        reply: oneshot::Sender<Result<()>>,
    },
    /// A member that failed is not waited for any more.
    ForgetMember {
        member: MemberIndex,
        reply: oneshot::Sender<Result<()>>,
    },
    CopyPaths {
        target: MemberIndex,
        reply: oneshot::Sender<Result<CopyPaths>>,
    },
    LockRange {
        lock: LockId,
        range: BlockRange,
        target: MemberIndex,
        reply: oneshot::Sender<Result<CopyPaths>>,
    },
    UnlockRange {
        lock: LockId,
        reply: oneshot::Sender<()>,
    },
    Resize {
        block_count: u64,
        reply: oneshot::Sender<Result<()>>,
    },
    Activity {
        reply: oneshot::Sender<Result<Activity>>,
    },
    /// Only to be awake.
    Wake {
        reply: oneshot::Sender<Result<()>>,
    },
    IsAsleep {
        reply: oneshot::Sender<Result<bool>>,
    },
    /// In a pause: to sleep, if nothing keeps the mirror awake.
    Sleep {
        reply: oneshot::Sender<Result<()>>,
    },
    Stop {
        reply: oneshot::Sender<Result<()>>,
    },
}

impl Command {
    /// Whether the mirror must be awake for it.
    pub(super) fn wakes(&self) -> bool {
        matches!(self, Self::Pause { .. } | Self::AddMember { .. } | Self::Wake { .. })
    }

    /// Answers one that wakes, as the mirror cannot.
    pub(super) fn refuse(self, error: impl FnOnce() -> Error) {
        match self {
            Self::Pause { reply, .. } => drop(reply.send(Err(error()))),
            Self::AddMember { reply, .. } => drop(reply.send(Err(error()))),
            Self::Wake { reply } => drop(reply.send(Err(error()))),
            _ => {}
        }
    }
}
