//! One write on its way: also a flush, an unmap or a write-zeroes, which differ only in what the legs do.

use super::mask::{MemberIndex, MemberMask};
use super::view::{FailureCause, IoView};

/// What to do with the write after something happened to it. `Complete` and `Fail` are returned once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Legs are outstanding, or the client has its answer already.
    Wait,
    /// Answer the client: all members that count have it.
    Complete,
    /// Every leg has ended, and these members missed the write. Report those that are still in the view
    /// ([`super::ChannelState::blame`]), keep the write, and ask [`WriteTracker::resolve`] at each new view.
    Park(MemberMask),
    /// Answer the client with an error: no member that counts has the write.
    Fail(FailureCause),
}

/// The state of one write, stored inside its I/O context.
#[derive(Debug, Clone, Copy)]
pub struct WriteTracker {
    sent: MemberMask,
    outstanding: MemberMask,
    failed: MemberMask,
    /// Out and not durably so when the write began: it misses them like a failed leg.
    skipped: MemberMask,
    /// Given up on while outstanding; the lower layer still holds the I/O's buffers.
    abandoned: MemberMask,
    answered: bool,
    cause: FailureCause,
}

impl WriteTracker {
    /// A write to all members the view has; submit one leg to each of [`Self::targets`]. Made by
    /// [`super::ChannelState::begin_write`], which checks that there is somewhere to write.
    #[inline]
    pub(super) fn start(view: &IoView) -> Self {
        let sent = view.written();
        Self {
            sent,
            outstanding: sent,
            failed: MemberMask::EMPTY,
            skipped: view.unfenced,
            abandoned: MemberMask::EMPTY,
            answered: false,
            cause: FailureCause::Gone,
        }
    }

    /// The members to submit to.
    #[inline]
    pub fn targets(&self) -> MemberMask {
        self.sent
    }

    /// One leg ended. A failed one is also reported at once ([`super::ChannelState::blame`]).
    #[inline]
    pub fn leg_done(&mut self, member: MemberIndex, result: Result<(), FailureCause>, view: &IoView) -> WriteOutcome {
        if !self.outstanding.contains(member) {
            self.abandoned = self.abandoned.without(member);
            return WriteOutcome::Wait;
        }
        self.outstanding = self.outstanding.without(member);
        if let Err(cause) = result {
            self.cause = cause;
            self.failed = self.failed.with(member);
        }
        if !self.outstanding.is_empty() {
            return WriteOutcome::Wait;
        }
        if self.failed.or(self.skipped).is_empty() {
            self.answered = true;
            return WriteOutcome::Complete;
        }
        self.resolve(view)
    }

    /// Stops waiting for legs on `members`, which are out and will not be used again. They count as failed. The
    /// context must live on until [`Self::is_drained`].
    pub fn abandon(&mut self, members: MemberMask, view: &IoView) -> WriteOutcome {
        let given_up = self.outstanding.and(members);
        if given_up.is_empty() {
            return WriteOutcome::Wait;
        }
        self.outstanding = self.outstanding.minus(given_up);
        self.abandoned = self.abandoned.or(given_up);
        self.failed = self.failed.or(given_up);
        self.cause = FailureCause::Deadline;
        self.resolve(view)
    }

    /// Decides about a write whose legs have ended, by the view now in force.
    ///
    /// - No readable member has it: an error. A sole member that failed it stays in the mirror (the core never drops the
    ///   last), so it is the client that must know. With several failed members the core first drops all but one.
    /// - A member missed it and is still in the view, or is out but not durably so: wait for the core.
    /// - Else everyone who missed it is durably out, and every readable member has it: done.
    pub fn resolve(&mut self, view: &IoView) -> WriteOutcome {
        if self.answered || !self.outstanding.is_empty() {
            return WriteOutcome::Wait;
        }
        let missed = self.failed.or(self.skipped);
        let has_it = view.rw.and(self.sent.minus(self.failed));
        let hopeless = has_it.is_empty() && view.rw.count() <= 1;
        let unsettled = missed.and(view.written().or(view.unfenced));
        if hopeless || !view.writable {
            self.answered = true;
            WriteOutcome::Fail(self.cause)
        } else if !unsettled.is_empty() {
            WriteOutcome::Park(missed)
        } else {
            self.answered = true;
            WriteOutcome::Complete
        }
    }

    /// The members this write failed on or skipped.
    pub fn missed(&self) -> MemberMask {
        self.failed.or(self.skipped)
    }

    /// Whether no lower layer holds the I/O's context or buffers any more. An answered write with an abandoned leg is
    /// not drained: the member is out for good, so what it still takes from the buffer does not matter, but the memory
    /// must be there.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.outstanding.or(self.abandoned).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::Epoch;
    use super::*;

    fn member(index: usize) -> MemberIndex {
        MemberIndex::new(index).expect("a place")
    }

    fn mask(members: &[usize]) -> MemberMask {
        members.iter().map(|index| member(*index)).collect()
    }

    fn view(rw: &[usize], wo: &[usize], unfenced: &[usize]) -> IoView {
        IoView {
            epoch: Epoch(1),
            rw: mask(rw),
            wo: mask(wo),
            unfenced: mask(unfenced),
            local: MemberMask::EMPTY,
            absent: MemberMask::EMPTY,
            writable: true,
        }
    }

    #[test]
    fn a_write_completes_with_its_last_leg() {
        let view = view(&[0, 1], &[2], &[]);
        let mut write = WriteTracker::start(&view);
        assert_eq!(write.targets(), mask(&[0, 1, 2]));
        assert_eq!(write.leg_done(member(2), Ok(()), &view), WriteOutcome::Wait);
        assert_eq!(write.leg_done(member(0), Ok(()), &view), WriteOutcome::Wait);
        assert_eq!(write.leg_done(member(1), Ok(()), &view), WriteOutcome::Complete);
        assert!(write.is_drained());
    }

    #[test]
    fn a_missed_write_waits_until_the_member_is_durably_out() {
        let before = view(&[0, 1], &[], &[]);
        let mut write = WriteTracker::start(&before);
        write.leg_done(member(0), Ok(()), &before);
        let parked = write.leg_done(member(1), Err(FailureCause::Medium), &before);
        assert_eq!(parked, WriteOutcome::Park(mask(&[1])));
        assert_eq!(write.resolve(&view(&[0], &[], &[1])), WriteOutcome::Park(mask(&[1])));
        assert_eq!(write.resolve(&view(&[0], &[], &[])), WriteOutcome::Complete);
        assert_eq!(write.resolve(&view(&[0], &[], &[])), WriteOutcome::Wait, "answered once");
    }

    #[test]
    fn a_write_begun_during_a_fence_waits_for_it() {
        let during = view(&[0], &[], &[1]);
        let mut write = WriteTracker::start(&during);
        assert_eq!(write.leg_done(member(0), Ok(()), &during), WriteOutcome::Park(mask(&[1])));
        assert_eq!(write.resolve(&view(&[0], &[], &[])), WriteOutcome::Complete);
    }

    #[test]
    fn the_only_members_failure_is_the_clients() {
        let alone = view(&[0], &[1], &[]);
        let mut write = WriteTracker::start(&alone);
        write.leg_done(member(1), Ok(()), &alone);
        let outcome = write.leg_done(member(0), Err(FailureCause::Medium), &alone);
        assert_eq!(outcome, WriteOutcome::Fail(FailureCause::Medium));
    }

    #[test]
    fn two_failed_members_are_settled_by_the_core_first() {
        let both = view(&[0, 1], &[], &[]);
        let mut write = WriteTracker::start(&both);
        write.leg_done(member(0), Err(FailureCause::Medium), &both);
        let parked = write.leg_done(member(1), Err(FailureCause::Medium), &both);
        assert_eq!(parked, WriteOutcome::Park(mask(&[0, 1])));
        let after = view(&[1], &[], &[0]);
        assert_eq!(write.resolve(&after), WriteOutcome::Fail(FailureCause::Medium));
    }

    #[test]
    fn an_abandoned_leg_keeps_the_context_but_not_the_client() {
        let before = view(&[0, 1], &[], &[]);
        let mut write = WriteTracker::start(&before);
        write.leg_done(member(0), Ok(()), &before);
        let after = view(&[0], &[], &[]);
        assert_eq!(write.abandon(mask(&[1]), &after), WriteOutcome::Complete);
        assert!(!write.is_drained());
        assert_eq!(write.leg_done(member(1), Ok(()), &after), WriteOutcome::Wait);
        assert!(write.is_drained());
    }

    #[test]
    fn no_write_is_acknowledged_when_no_survivor_can_fence() {
        let before = view(&[0, 1], &[], &[]);
        let mut write = WriteTracker::start(&before);
        write.leg_done(member(0), Ok(()), &before);
        write.leg_done(member(1), Err(FailureCause::Gone), &before);
        let stuck = IoView { writable: false, ..view(&[0], &[], &[1]) };
        assert_eq!(write.resolve(&stuck), WriteOutcome::Fail(FailureCause::Gone));
    }

    #[test]
    fn trackers_fit_an_io_context() {
        assert!(size_of::<WriteTracker>() <= 16);
        assert!(size_of::<super::super::ReadTracker>() <= 16);
    }
}
