//! One read on its way: one member at a time, the next best when it fails.

use super::channel::ChannelState;
use super::mask::{MemberIndex, MemberMask};
use super::view::FailureCause;

/// What to do with the read after a leg ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// A late answer of an abandoned leg: nothing to do.
    Wait,
    /// Answer the client. The members in `repair` answered this range with a medium error; rewriting it must be
    /// ordered against client writes to the range (a rewrite that overtakes one would undo it).
    Complete {
        /// Members whose blocks are unreadable there.
        repair: MemberMask,
    },
    /// Read the same range from `member`.
    Retry {
        /// The next best member.
        member: MemberIndex,
        /// An abandoned leg may still write the first buffer: read into another, copy at the end, and free nothing
        /// before [`ReadTracker::is_drained`].
        fresh_buffer: bool,
    },
    /// Answer the client with an error: no member is left to try.
    Fail(FailureCause),
}

/// The state of one read, stored inside its I/O context.
#[derive(Debug, Clone, Copy)]
pub struct ReadTracker {
    current: MemberIndex,
    waiting: bool,
    tried: MemberMask,
    medium_error: MemberMask,
    abandoned: MemberMask,
}

impl ReadTracker {
    /// A read whose first leg goes to `member`. Made by [`ChannelState::begin_read`].
    #[inline]
    pub(super) fn start(member: MemberIndex) -> Self {
        Self {
            current: member,
            waiting: true,
            tried: MemberMask::of(member),
            medium_error: MemberMask::EMPTY,
            abandoned: MemberMask::EMPTY,
        }
    }

    /// The member the read is at.
    #[inline]
    pub fn target(&self) -> MemberIndex {
        self.current
    }

    /// The leg on `member` ended. A failed one is also reported ([`ChannelState::blame`]) unless its cause is
    /// [`FailureCause::Medium`]: one unreadable range is repaired, not punished.
    #[inline]
    pub fn leg_done(
        &mut self,
        member: MemberIndex,
        result: Result<(), FailureCause>,
        channel: &mut ChannelState,
    ) -> ReadOutcome {
        if !self.waiting || member != self.current {
            self.abandoned = self.abandoned.without(member);
            return ReadOutcome::Wait;
        }
        match result {
            Ok(()) => {
                self.waiting = false;
                ReadOutcome::Complete { repair: self.medium_error }
            }
            Err(cause) => {
                if cause == FailureCause::Medium {
                    self.medium_error = self.medium_error.with(member);
                }
                self.retry(cause, channel)
            }
        }
    }

    /// Stops waiting for a leg on one of `members`, which are out.
    pub fn abandon(&mut self, members: MemberMask, channel: &mut ChannelState) -> ReadOutcome {
        if !self.waiting || !members.contains(self.current) {
            return ReadOutcome::Wait;
        }
        self.abandoned = self.abandoned.with(self.current);
        self.retry(FailureCause::Deadline, channel)
    }

    /// Whether no lower layer holds the I/O's context or first buffer any more.
    #[inline]
    pub fn is_drained(&self) -> bool {
        !self.waiting && self.abandoned.is_empty()
    }

    fn retry(&mut self, cause: FailureCause, channel: &mut ChannelState) -> ReadOutcome {
        match channel.choose_read(self.tried) {
            Some(member) => {
                self.current = member;
                self.tried = self.tried.with(member);
                ReadOutcome::Retry { member, fresh_buffer: !self.abandoned.is_empty() }
            }
            None => {
                self.waiting = false;
                ReadOutcome::Fail(cause)
            }
        }
    }
}
