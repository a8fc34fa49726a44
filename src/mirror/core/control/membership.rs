//! Who is in, in which mode; failures, joining and leaving.

use super::super::generation::Generation;
use super::super::mask::{MemberIndex, MemberMask};
use super::super::view::{Epoch, FailureCause, MemberOp};
use super::types::{Action, Actions, MemberMode, Notice, OutReason, Refusal};
use super::{Fence, MirrorCore};

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Nothing.
    Free,
    /// A new member on which no I/O runs yet; prepared once its content is durably void.
    Joining { prepared: bool },
    /// A member.
    In(MemberMode),
}

/// How far a member that is out has been put away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// In use, or out and some channel may still use it.
    Open,
    /// Its owner was told to close it.
    Asked,
    /// No lower layer holds an I/O of it.
    Closed,
}

/// A place and its member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) state: SlotState,
    pub(super) local: bool,
    /// In sync but out of reach, and the last one.
    pub(super) lost: bool,
    /// The first epoch whose view leaves it out.
    out_since: Epoch,
    closing: Closing,
    /// The place becomes free once it is closed and durably out.
    leaving: bool,
}

impl Slot {
    pub(super) const FREE: Self = Self {
        state: SlotState::Free,
        local: false,
        lost: false,
        out_since: Epoch(0),
        closing: Closing::Open,
        leaving: false,
    };

    pub(super) const fn in_sync(local: bool) -> Self {
        Self { state: SlotState::In(MemberMode::Rw), local, ..Self::FREE }
    }

    pub(super) const fn mode(&self) -> Option<MemberMode> {
        match self.state {
            SlotState::In(mode) => Some(mode),
            _ => None,
        }
    }
}

impl MirrorCore {
    /// A member failed an I/O.
    ///
    /// - A medium error on a read is served elsewhere and costs nobody his place.
    /// - Any other failure puts the member out, unless it is the last one in sync.
    /// - The last one in sync keeps its place whatever happens: there is nothing better to go on with. Its failed I/O fails
    ///   to the client; if it cannot be reached, all I/O does, until it returns. Write-only members leave in that case:
    ///   what they hold of the failed write may differ from what the source holds. One that is only late is waited for.
    pub(super) fn io_error(&mut self, member: MemberIndex, op: MemberOp, cause: FailureCause, out: &mut Actions) {
        let slot = &self.slots[member.get()];
        let (SlotState::In(MemberMode::Rw | MemberMode::Wo), false) = (slot.state, slot.lost) else {
            return;
        };
        if (op, cause) == (MemberOp::Read, FailureCause::Medium) {
            out.notify(Notice::ReadError(member));
            return;
        }
        let last = self.in_mode(MemberMode::Rw) == MemberMask::of(member);
        if !last {
            self.drop_member(member, reason_of(cause), out);
            if !self.fall_back(member, out) {
                self.raise(out);
            }
            return;
        }
        if cause == FailureCause::Deadline {
            out.notify(Notice::LastMemberLate(member));
            return;
        }
        let orphans = self.in_mode(MemberMode::Wo);
        for orphan in orphans.iter() {
            self.drop_member(orphan, OutReason::SourceFailed, out);
        }
        if cause == FailureCause::Medium {
            out.notify(Notice::LastMemberError(member));
        } else {
            self.lose(member, cause, out);
        }
        if !orphans.is_empty() && self.started {
            self.raise(out);
        }
    }

    /// The last member in sync is out of reach: no I/O goes to it, its place stays.
    fn lose(&mut self, member: MemberIndex, cause: FailureCause, out: &mut Actions) {
        let slot = &mut self.slots[member.get()];
        slot.lost = true;
        slot.closing = Closing::Open;
        slot.out_since = self.epoch.next();
        self.publish(out);
        out.notify(Notice::LastMemberLost(member, cause));
        self.close_unused(out);
    }

    pub(super) fn returned(&mut self, member: MemberIndex, out: &mut Actions) -> Result<(), Refusal> {
        let slot = &mut self.slots[member.get()];
        if !slot.lost || slot.closing != Closing::Closed {
            return Err(Refusal::WrongMode(member));
        }
        slot.lost = false;
        slot.closing = Closing::Open;
        out.notify(Notice::LastMemberBack(member));
        if self.fence == Fence::Stuck {
            self.raise(out);
        } else {
            self.publish(out);
        }
        Ok(())
    }

    /// Puts a member out; a raise must follow unless no write ever went to it.
    pub(super) fn drop_member(&mut self, member: MemberIndex, reason: OutReason, out: &mut Actions) {
        let comes_back = self.comes_back(member, reason);
        let slot = &mut self.slots[member.get()];
        let written = matches!(slot.state, SlotState::In(_));
        slot.state = SlotState::In(MemberMode::Err(reason));
        slot.out_since = if written { self.epoch.next() } else { Epoch(0) };
        slot.closing = Closing::Open;
        slot.leaving |= reason == OutReason::Removed;
        if written {
            self.unfenced = self.unfenced.with(member);
            self.promoting = self.promoting.without(member);
        }
        self.absent = if comes_back { self.absent.with(member) } else { self.absent.without(member) };
        out.notify(Notice::MemberOut(member, reason));
    }

    /// Whether a member that goes out now may come back for what it will have missed: one that was in sync, or had come back for
    /// that already, and failed.
    fn comes_back(&self, member: MemberIndex, reason: OutReason) -> bool {
        let was_in_sync = self.slots[member.get()].state == SlotState::In(MemberMode::Rw);
        let knows = self.awaits_returns && self.started && was_in_sync && !self.superseded;
        (knows || self.absent.contains(member)) && !matches!(reason, OutReason::Removed | OutReason::Stale)
    }

    /// Whether a member is closed and durably out, and may come back.
    pub(super) fn may_return(&self, member: MemberIndex) -> bool {
        let slot = &self.slots[member.get()];
        let is_put_away = matches!(slot.mode(), Some(MemberMode::Err(_))) && slot.closing == Closing::Closed;
        is_put_away && !slot.leaving && self.absent.contains(member) && !self.unfenced.contains(member)
    }

    /// A member that failed is open again. Its content is void until it is in sync, as a new one's: what it has is neither the state
    /// at which it left nor the present one.
    pub(super) fn back(&mut self, member: MemberIndex, out: &mut Actions) -> Result<(), Refusal> {
        if !self.started {
            return Err(Refusal::NotStarted);
        }
        if !self.may_return(member) || self.fence == Fence::Stuck || self.readable().is_empty() {
            return Err(Refusal::WrongMode(member));
        }
        let local = self.slots[member.get()].local;
        self.begin_to_join(member, local, out);
        Ok(())
    }

    /// Nobody waits for that member any more.
    pub(super) fn forget(&mut self, member: MemberIndex, out: &mut Actions) {
        if self.absent.contains(member) {
            self.absent = self.absent.without(member);
            self.publish(out);
        }
    }

    pub(super) fn add(&mut self, member: MemberIndex, local: bool, out: &mut Actions) -> Result<(), Refusal> {
        if !self.started {
            return Err(Refusal::NotStarted);
        }
        if self.slots[member.get()].state != SlotState::Free {
            return Err(Refusal::Taken(member));
        }
        self.begin_to_join(member, local, out);
        Ok(())
    }

    fn begin_to_join(&mut self, member: MemberIndex, local: bool, out: &mut Actions) {
        let state = SlotState::Joining { prepared: false };
        self.slots[member.get()] = Slot { state, local, ..Slot::FREE };
        out.push(Action::PersistGeneration {
            member,
            generation: Generation::NONE,
            base: self.settled,
            in_sync: self.in_mode(MemberMode::Rw),
        });
    }

    /// During a pause, when no I/O runs: prepared members take writes from the next one on, so none was missed by them
    /// that a later copy could overlook.
    pub(super) fn admit_prepared(&mut self, out: &mut Actions) {
        let joining = self.having(|slot| slot.state == SlotState::Joining { prepared: true });
        if joining.is_empty() || self.readable().is_empty() {
            return;
        }
        for member in joining.iter() {
            self.slots[member.get()].state = SlotState::In(MemberMode::Wo);
            out.notify(Notice::Joined(member));
        }
        self.publish(out);
    }

    /// A rebuilt member becomes in sync by a raise that names it; until that settles it stays write-only.
    pub(super) fn synced(&mut self, member: MemberIndex, out: &mut Actions) -> Result<(), Refusal> {
        let rebuilt = self.slots[member.get()].mode() == Some(MemberMode::Wo);
        if !rebuilt || self.promoting.contains(member) || self.fence == Fence::Stuck {
            return Err(Refusal::WrongMode(member));
        }
        self.promoting = self.promoting.with(member);
        self.raise(out);
        Ok(())
    }

    pub(super) fn remove(&mut self, member: MemberIndex, out: &mut Actions) -> Result<(), Refusal> {
        match self.slots[member.get()].state {
            SlotState::Free => return Err(Refusal::WrongMode(member)),
            SlotState::In(MemberMode::Err(_)) => {
                self.slots[member.get()].leaving = true;
                self.forget(member, out);
                self.free_closed(out);
            }
            SlotState::Joining { .. } => {
                self.forget(member, out);
                self.drop_member(member, OutReason::Removed, out);
                self.close_unused(out);
            }
            SlotState::In(_) if !(self.started || self.sleeps) => return Err(Refusal::NotStarted),
            SlotState::In(MemberMode::Rw) if self.in_mode(MemberMode::Rw) == MemberMask::of(member) => {
                return Err(Refusal::LastMember(member));
            }
            SlotState::In(_) => {
                self.drop_member(member, OutReason::Removed, out);
                self.raise(out);
            }
        }
        Ok(())
    }

    pub(super) fn closed(&mut self, member: MemberIndex, out: &mut Actions) {
        let slot = &mut self.slots[member.get()];
        if slot.closing == Closing::Asked {
            slot.closing = Closing::Closed;
            self.persist_failed(member, self.generation, out);
            self.free_closed(out);
        }
    }

    /// Has those closed that no channel can start I/O on any more.
    pub(super) fn close_unused(&mut self, out: &mut Actions) {
        for member in MemberIndex::all() {
            let updated = self.updated;
            let slot = &mut self.slots[member.get()];
            let out_of_use = slot.lost || matches!(slot.mode(), Some(MemberMode::Err(_)));
            if out_of_use && slot.closing == Closing::Open && slot.out_since <= updated {
                slot.closing = Closing::Asked;
                out.push(Action::CloseMember(member));
            }
        }
    }

    /// Frees the places of those who left, once closed and durably out.
    pub(super) fn free_closed(&mut self, out: &mut Actions) {
        for member in MemberIndex::all() {
            let slot = self.slots[member.get()];
            let gone = slot.leaving && slot.closing == Closing::Closed;
            if gone && !self.unfenced.contains(member) {
                self.slots[member.get()] = Slot::FREE;
                out.notify(Notice::Freed(member));
            }
        }
    }
}

fn reason_of(cause: FailureCause) -> OutReason {
    match cause {
        FailureCause::Medium => OutReason::WriteFailed,
        FailureCause::Gone => OutReason::Gone,
        FailureCause::Deadline => OutReason::Deadline,
    }
}
