//! Raising the generation: on every survivor, durably, before a write that someone missed is acknowledged.
//!
//! One raise at a time. A member that fails while one is on is dropped, and a new raise, one higher, starts over the
//! rest; so each generation stands for one membership. A raise is over when every survivor has it and every channel has
//! the view without those who are out: from then on no read can start on them either.
//!
//! A rebuilt member's own record comes last, when every survivor's already names it. Otherwise it could, after a crash,
//! be the only one to hold a generation that nobody else has heard of, and the others would go on without asking it.

use super::super::generation::Generation;
use super::super::mask::{MemberIndex, MemberMask};
use super::super::view::Epoch;
use super::MirrorCore;
use super::membership::SlotState;
use super::types::{Action, Actions, MemberMode, Notice, OutReason, Refusal};

/// Where the raise is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fence {
    /// All in sync hold the generation.
    Settled,
    /// These have not said yet that they hold it, the newcomers come after them; and all channels must have the view of
    /// that epoch.
    Raising { awaiting: MemberMask, newcomers: MemberMask, epoch: Epoch },
    /// The last survivor could not store it.
    Stuck,
}

impl MirrorCore {
    /// The start: completes a raise that was cut short, then raises anew.
    pub(super) fn catch_up(&mut self, laggards: MemberMask, out: &mut Actions) {
        if self.catching_up {
            self.persist(laggards, out);
        } else {
            self.settled = self.generation;
            self.raise(out);
        }
    }

    /// Starts a raise, or starts it over with the survivors.
    pub(super) fn raise(&mut self, out: &mut Actions) {
        let survivors = self.in_mode(MemberMode::Rw);
        if self.asleep {
            return self.publish(out);
        }
        if self.readable().is_empty() {
            return self.stick(survivors, out);
        }
        if self.catching_up {
            return self.go_on_catching_up(survivors, out);
        }
        self.highest = self.generation.max(self.highest).next(self.incarnation);
        self.generation = self.highest;
        self.publish(out);
        self.persist(survivors, out);
    }

    /// A raise over members of unequal generations would have no base: catch up first, without those who failed.
    fn go_on_catching_up(&mut self, survivors: MemberMask, out: &mut Actions) {
        match &mut self.fence {
            Fence::Raising { awaiting, .. } => {
                *awaiting = awaiting.and(survivors);
                self.settle(out);
            }
            Fence::Stuck | Fence::Settled => self.persist(survivors, out),
        }
    }

    fn persist(&mut self, awaiting: MemberMask, out: &mut Actions) {
        self.fence = Fence::Raising { awaiting, newcomers: self.promoting, epoch: self.epoch };
        self.send_records(awaiting, out);
    }

    fn send_records(&self, to: MemberMask, out: &mut Actions) {
        let in_sync = self.in_mode(MemberMode::Rw).or(self.promoting);
        for member in to.iter() {
            out.push(Action::PersistGeneration { member, generation: self.generation, base: self.settled, in_sync });
        }
    }

    pub(super) fn persisted(&mut self, member: MemberIndex, generation: Generation, out: &mut Actions) {
        let slot = &mut self.slots[member.get()];
        if let SlotState::Joining { prepared } = &mut slot.state {
            if generation == Generation::NONE && !*prepared {
                *prepared = true;
                out.notify(Notice::Prepared(member));
            }
            return;
        }
        if let Fence::Raising { awaiting, .. } = &mut self.fence
            && generation == self.generation
        {
            *awaiting = awaiting.without(member);
            self.settle(out);
        }
    }

    /// After the survivors, the newcomers. True when nobody is left.
    fn all_persisted(&mut self, out: &mut Actions) -> bool {
        let Fence::Raising { awaiting, newcomers, .. } = &mut self.fence else {
            return false;
        };
        if !awaiting.is_empty() {
            return false;
        }
        let next = std::mem::take(newcomers);
        *awaiting = next;
        self.send_records(next, out);
        next.is_empty()
    }

    pub(super) fn persist_failed(&mut self, member: MemberIndex, generation: Generation, out: &mut Actions) {
        if let SlotState::Joining { .. } = self.slots[member.get()].state {
            if generation == Generation::NONE {
                self.drop_member(member, OutReason::FenceFailed, out);
                self.close_unused(out);
            }
            return;
        }
        if !self.awaits(member, generation) {
            return;
        }
        if self.in_mode(MemberMode::Rw) == MemberMask::of(member) {
            self.stick(MemberMask::of(member), out);
            return;
        }
        if !self.fall_back(member, out) {
            self.drop_member(member, OutReason::FenceFailed, out);
            self.raise(out);
        }
    }

    /// Another mirror has changed what the member holds. One that starts asks all members anew: what the other acknowledged since
    /// may be on this member alone, and a higher generation on the rest would make them the newest.
    pub(super) fn persist_refused(&mut self, member: MemberIndex, generation: Generation, out: &mut Actions) {
        if self.started || !self.awaits(member, generation) {
            return self.persist_failed(member, generation, out);
        }
        if self.sleeps {
            self.sleep();
        } else {
            self.fence = Fence::Stuck;
        }
        self.publish(out);
        out.notify(Notice::StartRefused(member));
    }

    fn awaits(&self, member: MemberIndex, asked: Generation) -> bool {
        matches!(self.fence, Fence::Raising { awaiting, .. } if asked == self.generation && awaiting.contains(member))
    }

    /// The last survivor cannot store the generation: no write may be acknowledged, those that wait fail.
    fn stick(&mut self, survivors: MemberMask, out: &mut Actions) {
        self.fence = Fence::Stuck;
        self.publish(out);
        if let Some(member) = survivors.first() {
            out.notify(Notice::FenceStuck(member));
        }
    }

    pub(super) fn retry_fence(&mut self, out: &mut Actions) -> Result<(), Refusal> {
        if self.fence != Fence::Stuck || self.readable().is_empty() {
            return Err(Refusal::NoStuckFence);
        }
        self.raise(out);
        Ok(())
    }

    pub(super) fn channels_updated(&mut self, epoch: Epoch, out: &mut Actions) {
        self.updated = self.updated.max(epoch);
        self.close_unused(out);
        self.settle(out);
    }

    /// Ends the raise if nothing is awaited any more.
    pub(super) fn settle(&mut self, out: &mut Actions) {
        if !self.all_persisted(out) {
            return;
        }
        match self.fence {
            Fence::Raising { epoch, .. } if self.updated >= epoch => {}
            _ => return,
        }
        self.settled = self.generation;
        if self.catching_up {
            self.catching_up = false;
            return self.raise(out);
        }
        self.fence = Fence::Settled;
        for member in self.promoting.iter() {
            self.slots[member.get()].state = SlotState::In(MemberMode::Rw);
            out.notify(Notice::Synced(member));
        }
        self.absent = self.absent.minus(self.promoting);
        self.promoting = MemberMask::EMPTY;
        self.unfenced = MemberMask::EMPTY;
        let first = !self.started;
        self.started = true;
        self.publish(out);
        out.notify(if first { Notice::Started(self.generation) } else { Notice::Fenced(self.generation) });
        self.close_unused(out);
        self.free_closed(out);
    }
}
