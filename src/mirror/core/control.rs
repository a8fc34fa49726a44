//! One mirror's control: who is a member in which mode, and what must be durable before what.
//!
//! - [`types`]: events, actions, notices, refusals, status.
//! - [`membership`]: failures, joining, removal.
//! - [`fence`]: raising the generation on the survivors.
//! - [`pause`]: stopping client I/O for a moment.
//!
//! Single-threaded: one event at a time, its actions carried out in order. The owner puts a limit on each thing it
//! is asked for (a persist, a pause) and reports the expiry as an event; nothing here waits for ever on its own.

mod fence;
mod membership;
mod pause;
mod types;

#[cfg(test)]
mod tests;

pub use types::{Action, Actions, Event, Health, MemberMode, Notice, OutReason, PauseId, Refusal, Status};

use self::fence::Fence;
use self::membership::{Slot, SlotState};
use self::pause::Pause;
use super::assembly::{Assembly, Standing};
use super::generation::{Generation, Incarnation};
use super::mask::{MAX_MEMBERS, MemberIndex, MemberMask};
use super::view::{Epoch, IoView};

/// The control state machine of one mirror.
#[derive(Debug, Clone)]
pub struct MirrorCore {
    slots: [Slot; MAX_MEMBERS],
    incarnation: Incarnation,
    /// The highest generation asked to be persisted.
    generation: Generation,
    /// The last generation that all who are in sync hold durably.
    settled: Generation,
    /// The next generation is above this one: some replica holds it, or one that it is above.
    highest: Generation,
    fence: Fence,
    /// Out, and not yet durably so.
    unfenced: MemberMask,
    /// Whether what a failed member misses is to be known, so that it may come back.
    awaits_returns: bool,
    /// Failed while in sync, and not in sync again since.
    absent: MemberMask,
    /// Rebuilt, and in sync once the raise that is on settles.
    promoting: MemberMask,
    /// Number of the last view.
    epoch: Epoch,
    /// All channels have applied the view of this number.
    updated: Epoch,
    pause: Pause,
    /// The start completes a raise that a crash cut short.
    catching_up: bool,
    started: bool,
    /// It starts when it wakes, and until then raises no generation.
    sleeps: bool,
    asleep: bool,
    /// It may start without a member that fails meanwhile.
    may_lose: bool,
    /// Another mirror has gone on with the replicas: nothing is read or written any more.
    superseded: bool,
}

impl MirrorCore {
    /// Starts a mirror over an assembly's members. No channel may run I/O before [`Notice::Started`]: the new
    /// generation is durable only then.
    pub fn start(assembly: &Assembly, out: &mut Actions) -> Self {
        let mut core = Self::asleep(assembly);
        (core.sleeps, core.asleep) = (false, false);
        core.catch_up(assembly.laggards, out);
        core
    }

    /// A mirror over an assembly's members that starts when it is told to wake.
    pub fn asleep(assembly: &Assembly) -> Self {
        let mut core = Self {
            slots: [Slot::FREE; MAX_MEMBERS],
            incarnation: assembly.incarnation,
            generation: assembly.newest,
            settled: if assembly.laggards.is_empty() { assembly.newest } else { assembly.base },
            highest: assembly.highest,
            fence: Fence::Settled,
            unfenced: MemberMask::EMPTY,
            awaits_returns: false,
            absent: MemberMask::EMPTY,
            promoting: MemberMask::EMPTY,
            epoch: Epoch(0),
            updated: Epoch(0),
            pause: Pause::NONE,
            catching_up: !assembly.laggards.is_empty(),
            started: false,
            sleeps: true,
            asleep: true,
            may_lose: true,
            superseded: false,
        };
        let local = assembly.members.local();
        for member in assembly.members.mask().iter() {
            core.slots[member.get()] = Slot::in_sync(local.contains(member));
        }
        core
    }

    /// The same; when `awaits`, members that fail may come back for what they missed ([`Event::MemberBack`]). Its owner keeps the log
    /// of dirty regions then.
    pub fn awaiting_returns(self, awaits: bool) -> Self {
        Self { awaits_returns: awaits, ..self }
    }

    /// Takes one event and adds what must be done to `out`. A refused request changes nothing.
    pub fn handle(&mut self, event: Event, out: &mut Actions) -> Result<(), Refusal> {
        match event {
            Event::MemberIoError { member, op, cause } => self.io_error(member, op, cause, out),
            Event::FencePersisted { member, generation } => self.persisted(member, generation, out),
            Event::FenceFailed { member, generation } => self.persist_failed(member, generation, out),
            Event::FenceRefused { member, generation } => self.persist_refused(member, generation, out),
            Event::RetryFence => return self.retry_fence(out),
            Event::ChannelsUpdated { epoch } => self.channels_updated(epoch, out),
            Event::AddMember { member, local } => return self.add(member, local, out),
            Event::MemberSynced { member } => return self.synced(member, out),
            Event::MemberReturned { member } => return self.returned(member, out),
            Event::MemberBack { member } => return self.back(member, out),
            Event::MemberForgotten { member } => self.forget(member, out),
            Event::RemoveMember { member } => return self.remove(member, out),
            Event::MemberClosed { member } => self.closed(member, out),
            Event::PauseRequested => return self.request_pause(out),
            Event::ChannelsQuiesced { pause } => self.quiesced(pause, out),
            Event::PauseTimedOut { pause } => self.pause_timed_out(pause, out),
            Event::Resume { pause } => return self.resume(pause, out),
            Event::Slept => self.sleep(),
            Event::Wakes(standing) => self.wake(&standing, out),
            Event::Superseded => self.supersede(out),
        }
        Ok(())
    }

    /// The view that is in force, for a channel that opens now. Its epoch counts as applied by that channel.
    pub fn view(&self) -> IoView {
        IoView {
            epoch: self.epoch,
            rw: self.readable(),
            wo: if self.superseded { MemberMask::EMPTY } else { self.in_mode(MemberMode::Wo) },
            unfenced: self.unfenced,
            local: self.having(|slot| slot.local),
            absent: self.absent,
            writable: self.started && self.fence != Fence::Stuck,
        }
    }

    /// What may be told to users: nothing here is ahead of what is durable.
    pub fn status(&self) -> Status {
        let mut members = [None; MAX_MEMBERS];
        for member in MemberIndex::all() {
            members[member.get()] = self.slots[member.get()].mode();
        }
        Status {
            health: self.health(),
            generation: self.settled,
            fencing: self.fence != Fence::Settled || !self.unfenced.is_empty(),
            members,
            lost: self.having(|slot| slot.lost),
            absent: self.absent,
            may_return: self.absent.iter().filter(|member| self.may_return(*member)).collect(),
            superseded: self.superseded,
        }
    }

    /// The start, by what the members hold now.
    fn wake(&mut self, standing: &Standing, out: &mut Actions) {
        if !self.asleep {
            return;
        }
        (self.asleep, self.may_lose) = (false, standing.may_lose);
        (self.generation, self.settled) = (standing.newest, standing.base);
        self.highest = self.highest.max(standing.highest);
        for member in standing.stale.and(self.in_mode(MemberMode::Rw)).iter() {
            self.drop_member(member, OutReason::Stale, out);
        }
        let laggards = standing.laggards.and(self.in_mode(MemberMode::Rw));
        self.catching_up = !laggards.is_empty();
        self.catch_up(laggards, out);
    }

    /// A mirror that wakes cannot go on without that member, and sleeps again; false when it can.
    fn fall_back(&mut self, member: MemberIndex, out: &mut Actions) -> bool {
        if self.started || self.asleep || self.may_lose {
            return false;
        }
        self.sleep();
        self.publish(out);
        out.notify(Notice::StartRefused(member));
        true
    }

    fn sleep(&mut self) {
        (self.sleeps, self.asleep, self.started, self.catching_up) = (true, true, false, false);
        self.fence = Fence::Settled;
        // Others may write meanwhile.
        self.absent = MemberMask::EMPTY;
    }

    fn supersede(&mut self, out: &mut Actions) {
        if !std::mem::replace(&mut self.superseded, true) {
            self.absent = MemberMask::EMPTY;
            self.publish(out);
            out.notify(Notice::Superseded);
        }
    }

    fn health(&self) -> Health {
        let every_rw =
            self.slots.iter().all(|slot| matches!(slot.state, SlotState::Free | SlotState::In(MemberMode::Rw)));
        if self.readable().is_empty() || !(self.started || self.sleeps) {
            Health::Faulted
        } else if self.fence == Fence::Stuck {
            Health::ReadOnly
        } else if every_rw && self.fence == Fence::Settled {
            Health::Optimal
        } else {
            Health::Degraded
        }
    }

    fn publish(&mut self, out: &mut Actions) {
        self.epoch = self.epoch.next();
        // Channels of one that sleeps are open already.
        if self.started || self.sleeps {
            out.push(Action::SetIoView(self.view()));
        } else {
            self.updated = self.epoch;
        }
    }

    fn having(&self, test: impl Fn(&Slot) -> bool) -> MemberMask {
        MemberIndex::all().filter(|member| test(&self.slots[member.get()])).collect()
    }

    fn in_mode(&self, mode: MemberMode) -> MemberMask {
        self.having(|slot| slot.mode() == Some(mode))
    }

    /// In sync and there to be used.
    fn readable(&self) -> MemberMask {
        if self.superseded {
            return MemberMask::EMPTY;
        }
        self.having(|slot| slot.mode() == Some(MemberMode::Rw) && !slot.lost)
    }
}
