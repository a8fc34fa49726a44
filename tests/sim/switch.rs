//! Switch-overs of the client from one engine to another, as a frontend makes them: the next engine is assembled while the last one
//! serves; that one is closed to the client, ends what it has begun, and sleeps; then the client goes to the next one.

use crate::check::Bug;
use crate::sleep::Sleep;
use crate::world::{Step, World};

const AGAIN_US: u64 = 1_500;

impl World {
    /// Another engine is assembled over the same replicas, and sleeps.
    pub fn switch_begins(&mut self) {
        let next = self.random.between(15_000, 60_000);
        self.time.after(next, Step::SwitchBegins);
        let settled = self.engine.as_ref().is_some_and(|engine| {
            let status = engine.core.status();
            !engine.channels.is_empty() && engine.core.view().wo.is_empty() && !status.fencing && !status.superseded
        });
        if !self.faulty || !settled || !self.others.is_empty() || self.closing.is_some() {
            return;
        }
        self.two_raised = true;
        let started = self.assemble(false).is_ok();
        self.enter(self.serving);
        if started {
            let delay = self.random.between(3_000, 12_000);
            self.time.after(delay, Step::SwitchCloses);
        }
    }

    /// The engine in use is closed to the client, and what it has begun is waited for.
    pub fn switch_closes(&mut self) {
        if std::mem::take(&mut self.stays_open) {
            return;
        }
        let Some(next) = self.others.keys().next().copied() else { return self.closing = None };
        let Some(engine) = &self.engine else { return };
        if self.others[&next].channels.is_empty() || engine.channels.is_empty() {
            return self.time.after(AGAIN_US, Step::SwitchCloses);
        }
        self.closing = Some(next);
        if matches!(engine.sleep, Some(Sleep::Asleep)) && engine.ios.is_empty() {
            return self.go_on(next);
        }
        if self.bug == Some(Bug::HastyClose) {
            return self.go_on(next);
        }
        // It may sleep yet with I/O that waits.
        self.request_pause();
        self.time.after(AGAIN_US, Step::SwitchCloses);
    }

    /// What the engine in use has begun does not end in time: it stays open, and the switch-over is tried another time or given up.
    pub fn closes_not(&mut self) {
        if self.life == self.serving && self.closing.take().is_some() {
            self.tally.refused += 1;
            self.stays_open = true;
            let delay = self.random.between(2 * AGAIN_US, 5_000);
            self.time.after(delay, Step::SwitchEnds);
        }
    }

    /// Nothing runs at the engine that is closed: it sleeps, and the client goes to the next one. False while copies still run. Not
    /// when it has put a member out that the next one counts: what that one was sent may come late.
    pub fn close_and_go_on(&mut self) -> bool {
        let Some(next) = self.closing else { return false };
        let Some(engine) = &mut self.engine else { return false };
        let view = engine.core.view();
        if !view.unfenced.is_empty() || !view.writable || !engine.core.status().lost.is_empty() {
            // Whoever looks after the volume deletes the engine.
            self.tally.refused += 1;
            self.closing = None;
            self.time.after(5_000, Step::Crash);
            return false;
        }
        // What came before this pause runs first.
        let waits = engine.channels.iter().any(|channel| !channel.queue.is_empty());
        if waits || engine.dirty.copies() || engine.sleep.is_some() {
            return false;
        }
        self.fall_asleep();
        self.go_on(next);
        true
    }

    fn go_on(&mut self, next: u32) {
        let left = self.life;
        self.closing = None;
        self.tally.switches += 1;
        self.take_over(next);
        // What follows in this step is about the one that was left.
        self.enter(left);
        let delay = self.random.between(2_000, 20_000);
        self.time.after(delay, Step::SwitchEnds);
    }

    /// The client uses that engine from now on. One that another has superseded meanwhile is assembled anew.
    pub fn take_over(&mut self, life: u32) {
        let now = self.time.now_us();
        self.enter(life);
        self.serving = life;
        if self.engine.is_none() {
            // It died while it was waited for.
            return self.time.after(5_000, Step::Restart);
        }
        let superseded = self.engine.as_ref().is_some_and(|engine| {
            let generation = engine.core.status().generation;
            let members = engine.core.view().rw;
            let replicas = members.iter().map(|member| &self.replicas[engine.replica_of[member.get()]]);
            // One that does not answer is the mirror's business.
            let mut held =
                replicas.filter(|replica| replica.reachable(now)).filter_map(|replica| replica.records().held());
            held.any(|held| held != generation)
        });
        if !superseded && !self.superseded() {
            return;
        }
        self.tally.switches_back += 1;
        self.engine = None;
        match self.assemble(false) {
            Ok(()) => self.serving = self.life,
            // Nothing serves: whoever looks after the volume starts from what there is.
            Err(_) => self.time.after(10_000, Step::Restart),
        }
    }

    /// The engine that was left is deleted, or the client goes back to it.
    pub fn switch_ends(&mut self) {
        if self.closing.is_some() || self.others.is_empty() {
            return;
        }
        if self.faulty && self.random.chance(400) {
            return self.time.after(1, Step::SwitchCloses);
        }
        self.others.clear();
    }

    /// Another engine has gone on with the replicas of this one. Where clients use it, whoever looks after the volume starts anew.
    pub fn is_superseded_now(&mut self) {
        self.tally.superseded += 1;
        if self.life == self.serving {
            self.time.after(5_000, Step::Crash);
        }
    }
}
