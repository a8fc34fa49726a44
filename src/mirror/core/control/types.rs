//! What goes into the control core and what comes out.

use super::super::assembly::Standing;
use super::super::generation::Generation;
use super::super::mask::{MAX_MEMBERS, MemberIndex, MemberMask};
use super::super::view::{Epoch, FailureCause, IoView, MemberOp};

/// How a member takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberMode {
    /// In sync: read and written.
    Rw,
    /// Being rebuilt: written, never read, never a source.
    Wo,
    /// Out: neither.
    Err(OutReason),
}

/// Why a member is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutReason {
    /// It failed a write or a flush.
    WriteFailed,
    /// It is no longer there.
    Gone,
    /// It did not answer in time.
    Deadline,
    /// It could not store the generation.
    FenceFailed,
    /// It was being rebuilt, and its last source failed a write: nothing left to be equal to.
    SourceFailed,
    /// It was taken out by request.
    Removed,
    /// It lacks what others hold: another mirror has gone on without it.
    Stale,
}

/// One pause; a late answer about an earlier one is recognised by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PauseId(pub u32);

/// What happened, or is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An I/O to a member failed. Duplicates from several channels are expected.
    MemberIoError {
        /// Which member.
        member: MemberIndex,
        /// What was asked of it.
        op: MemberOp,
        /// How it failed.
        cause: FailureCause,
    },
    /// The member holds `generation` durably.
    FencePersisted {
        /// Which member.
        member: MemberIndex,
        /// The generation of the action.
        generation: Generation,
    },
    /// The member did not store `generation`, or did not say so in time.
    FenceFailed {
        /// Which member.
        member: MemberIndex,
        /// The generation of the action.
        generation: Generation,
    },
    /// The member refused `generation`: another mirror has changed what it holds since it was asked.
    FenceRefused {
        /// Which member.
        member: MemberIndex,
        /// The generation of the action.
        generation: Generation,
    },
    /// Request: try again after [`Notice::FenceStuck`]. The owner decides how often, with back-off.
    RetryFence,
    /// Every channel has applied the view of this epoch, or a later one.
    ChannelsUpdated {
        /// The lowest epoch any channel has.
        epoch: Epoch,
    },
    /// Request: a replica to be rebuilt, at a free place. It joins, write-only, at the first pause after its void
    /// generation is durable ([`Notice::Prepared`]).
    AddMember {
        /// A free place.
        member: MemberIndex,
        /// Whether it is on this node.
        local: bool,
    },
    /// Request: a write-only member holds everything now.
    MemberSynced {
        /// Which member.
        member: MemberIndex,
    },
    /// The last readable member, which was lost, is open again. It missed nothing that was acknowledged.
    MemberReturned {
        /// Which member.
        member: MemberIndex,
    },
    /// Request: a member that failed and is closed is open again, the same copy as it was when it left. It joins as a new one
    /// does, at its own place, and lacks only what was written since.
    MemberBack {
        /// Which member.
        member: MemberIndex,
    },
    /// A member that failed is not waited for any more: what it missed need not be known.
    MemberForgotten {
        /// Which member.
        member: MemberIndex,
    },
    /// Request: take a member out. Its place is free after [`Notice::Freed`].
    RemoveMember {
        /// Which member.
        member: MemberIndex,
    },
    /// The member's descriptor and channels are closed: no lower layer holds an I/O of it. A persist that it has not
    /// answered has failed; no answer may come after this.
    MemberClosed {
        /// Which member.
        member: MemberIndex,
    },
    /// Request: stop client I/O.
    PauseRequested,
    /// No channel admits or has any client I/O. Channels answer for one pause by its id; an answer about an earlier one
    /// does not count.
    ChannelsQuiesced {
        /// The pause of the action.
        pause: PauseId,
    },
    /// The owner's limit on that pause, for its start or its whole length, ran out.
    PauseTimedOut {
        /// The pause of the action.
        pause: PauseId,
    },
    /// Request: let client I/O go on. Refused when the pause was broken by its limit: what was done under it does not
    /// count.
    Resume {
        /// The pause that was granted.
        pause: PauseId,
    },
    /// The mirror sleeps, or could not wake: it changes nothing on any member, as another mirror may be serving them. A member that
    /// leaves is put out durably when it wakes.
    Slept,
    /// The mirror wakes: its members were asked what they hold. A generation is raised above that; then [`Notice::Started`].
    Wakes(Standing),
    /// Another mirror has claimed a replica of this one, or gone on without it. From here on all I/O fails.
    Superseded,
}

/// What the owner must do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Put the view in force on every channel; then [`Event::ChannelsUpdated`].
    SetIoView(IoView),
    /// Store the record durably with the member (flush included), within a limit; then [`Event::FencePersisted`] or
    /// [`Event::FenceFailed`]. One at a time for each member, the newest wins; the replica's side keeps
    /// [`Generation::may_replace`].
    PersistGeneration {
        /// Which member.
        member: MemberIndex,
        /// The generation; [`Generation::NONE`] voids the content: the replica's side takes it only while the record it
        /// replaces is the one that was read when the member was opened.
        generation: Generation,
        /// What all in `in_sync` hold already.
        base: Generation,
        /// Who is in sync by it.
        in_sync: MemberMask,
    },
    /// Close the member, aborting its I/O where that can be done; then [`Event::MemberClosed`]. No channel starts I/O to it
    /// any more.
    CloseMember(MemberIndex),
    /// Stop admitting client I/O on every channel; when none is left, [`Event::ChannelsQuiesced`].
    PauseChannels(PauseId),
    /// No client I/O runs: whoever asked may act.
    PauseGranted(PauseId),
    /// Admit client I/O again on every channel.
    ResumeChannels(PauseId),
    /// For logs, metrics and watchers.
    Notify(Notice),
}

/// What happened, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The mirror's generation is durable: I/O may start.
    Started(Generation),
    /// A member is out.
    MemberOut(MemberIndex, OutReason),
    /// A member answered a read with a medium error; another served it.
    ReadError(MemberIndex),
    /// The last readable member failed a write or a flush, and the client was told; it stays.
    LastMemberError(MemberIndex),
    /// The last readable member has not answered in time: there is no better one, so its I/O waits for it, until it is
    /// given up.
    LastMemberLate(MemberIndex),
    /// The last readable member cannot be reached: no I/O until it returns.
    LastMemberLost(MemberIndex, FailureCause),
    /// The lost last member is back.
    LastMemberBack(MemberIndex),
    /// All in sync hold this generation; writes that waited for it are answered.
    Fenced(Generation),
    /// The last survivor could not store its generation: reads only, until [`Event::RetryFence`] succeeds.
    FenceStuck(MemberIndex),
    /// The mirror does not start: another one has changed what this member holds since it was asked, or may have gone on with it,
    /// and it does not answer. It sleeps again.
    StartRefused(MemberIndex),
    /// A new member's void generation is durable; it joins at the next pause.
    Prepared(MemberIndex),
    /// A new member takes writes.
    Joined(MemberIndex),
    /// A member is in sync now.
    Synced(MemberIndex),
    /// A member's place is free.
    Freed(MemberIndex),
    /// A pause was broken by its limit.
    PauseExpired(PauseId),
    /// Another mirror has gone on with the replicas.
    Superseded,
}

/// Why a request cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The place has no member in the mode the request needs.
    #[error("member {0} is not in a mode that allows this")]
    WrongMode(MemberIndex),
    /// It would leave nothing in sync.
    #[error("member {0} is the last one in sync")]
    LastMember(MemberIndex),
    /// The place is not free.
    #[error("place {0} is taken")]
    Taken(MemberIndex),
    /// A pause is on already.
    #[error("a pause is on already")]
    PauseBusy,
    /// That pause is not on, or was broken by its limit.
    #[error("this pause is not on any more")]
    PauseOver,
    /// The mirror's generation is not durable yet.
    #[error("the mirror has not started yet")]
    NotStarted,
    /// No fence is stuck, or its last member is still lost.
    #[error("there is no fence to retry")]
    NoStuckFence,
}

/// How much of the mirror works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Every member is in sync, and durably so.
    Optimal,
    /// I/O works; a member is out, joining, being rebuilt, or a fence is on.
    Degraded,
    /// The last survivor could not store its generation: writes fail.
    ReadOnly,
    /// No member can be read, or the mirror has not started.
    Faulted,
}

/// What may be told to users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// In one word.
    pub health: Health,
    /// The generation all in sync hold durably.
    pub generation: Generation,
    /// Whether one is being raised, or is to be once the mirror is awake.
    pub fencing: bool,
    /// The mode by place; `None` where there is no member yet.
    pub members: [Option<MemberMode>; MAX_MEMBERS],
    /// In sync, but cannot be reached (the last one only).
    pub lost: MemberMask,
    /// Failed, and not in sync again since; what they miss is known.
    pub absent: MemberMask,
    /// Of these, closed and durably out: [`Event::MemberBack`] may come.
    pub may_return: MemberMask,
    /// Another mirror has gone on with the replicas: this one serves no I/O any more.
    pub superseded: bool,
}

/// Most actions one event can cause: a record for each member, a close, a notice and a freed place for each, and a few.
const CAPACITY: usize = 5 * MAX_MEMBERS + 8;

/// The actions of one or a few events: a buffer that the caller keeps, no allocation.
#[derive(Debug, Clone)]
pub struct Actions {
    items: [Option<Action>; CAPACITY],
    length: usize,
}

impl Actions {
    /// Empty.
    pub const fn new() -> Self {
        Self { items: [None; CAPACITY], length: 0 }
    }

    pub(super) fn push(&mut self, action: Action) {
        assert!(self.length < CAPACITY, "the owner drains the actions after every event");
        self.items[self.length] = Some(action);
        self.length += 1;
    }

    pub(super) fn notify(&mut self, notice: Notice) {
        self.push(Action::Notify(notice));
    }

    /// Takes all actions, in order. Call it after every event.
    pub fn drain(&mut self) -> impl Iterator<Item = Action> + use<> {
        let taken = std::mem::take(self);
        taken.items.into_iter().flatten()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Default for Actions {
    fn default() -> Self {
        Self::new()
    }
}
