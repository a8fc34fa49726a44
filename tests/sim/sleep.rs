//! Mirrors that sleep until their first I/O, and then claim their members' replicas, as the driver of a mirror has them.

use corriente::mirror::core::assembly::{Standing, stand};
use corriente::mirror::core::dirty::{FoundDirty, StoreId};
use corriente::mirror::core::waking::Answer;
use corriente::mirror::core::{
    Event, FailureCause, MAX_MEMBERS, MemberIndex, MemberMask, MemberOp, ReplicaRecords, Verdict,
};

use crate::check::Bug;
use crate::world::{Engine, Fate, Message, Step, World};

const ASK_LIMIT_US: u64 = 50_000;
/// How long what waits for a mirror to wake is held while a member that may be the newest does not answer.
const WAKE_LIMIT_US: u64 = 60_000;
const AGAIN_US: u64 = 5_000;

pub enum Sleep {
    Asleep,
    Asking(Asking),
    Waiting(Attempt),
    Claiming(Claiming),
}

/// One round of questions.
#[derive(Clone, Copy)]
pub struct Attempt {
    question: StoreId,
    since_us: u64,
}

/// The questions of a mirror that wakes.
pub struct Asking {
    attempt: Attempt,
    pending: MemberMask,
    found: Vec<Answer>,
}

/// Its claims.
pub struct Claiming {
    attempt: Attempt,
    pub found: [Option<FoundDirty>; MAX_MEMBERS],
    pub is_started: bool,
}

impl Engine {
    pub fn number_order(&mut self) -> StoreId {
        let order = StoreId(self.stores);
        self.stores += 1;
        order
    }
}

impl World {
    pub fn superseded(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| engine.core.status().superseded)
    }

    /// An I/O waits for a mirror that sleeps.
    pub fn begin_to_wake(&mut self) {
        if self.engine.as_ref().is_some_and(|engine| matches!(engine.sleep, Some(Sleep::Asleep))) {
            self.ask_all(self.time.now_us());
        }
    }

    /// Asks the members that count what they hold, and those that have left since.
    pub fn ask_all(&mut self, since_us: u64) {
        let life = self.life;
        let Some(engine) = &mut self.engine else { return };
        let question = engine.number_order();
        let view = engine.core.view();
        let asked = view.written().or(view.unfenced);
        let attempt = Attempt { question, since_us };
        engine.sleep = Some(Sleep::Asking(Asking { attempt, pending: asked, found: Vec::new() }));
        for member in asked.iter() {
            let Some(engine) = &self.engine else { return };
            let replica = engine.replica_of[member.get()];
            let delay = self.random.between(50, 1_500);
            let late = Step::AskDone { life, member, question, found: Err(FailureCause::Deadline) };
            self.time.after(ASK_LIMIT_US, late);
            match self.fate(replica) {
                Fate::Fine => self.time.after(delay, Step::AskArrive { life, member, question, replica }),
                Fate::Fails { .. } => {
                    let failed = Step::AskDone { life, member, question, found: Err(FailureCause::Medium) };
                    self.time.after(delay, failed);
                }
                Fate::Vanishes { .. } => {}
            }
        }
    }

    pub fn ask_arrives(&mut self, life: u32, member: MemberIndex, question: StoreId, number: usize) {
        let replica = &self.replicas[number];
        if replica.frozen_until_us > self.time.now_us() {
            return self.time.after(2_000, Step::AskArrive { life, member, question, replica: number });
        }
        let found = if replica.up { Ok(Box::new(replica.records())) } else { Err(FailureCause::Medium) };
        let delay = self.random.between(10, 300);
        self.time.after(delay, Step::AskDone { life, member, question, found });
    }

    pub fn ask_done(
        &mut self,
        member: MemberIndex,
        question: StoreId,
        found: Result<Box<ReplicaRecords>, FailureCause>,
    ) {
        let Some(engine) = &mut self.engine else { return };
        let number = engine.replica_of[member.get()];
        let Some(Sleep::Asking(asking)) = &mut engine.sleep else { return };
        if asking.attempt.question != question || !asking.pending.contains(member) {
            return;
        }
        asking.pending = asking.pending.without(member);
        if let Ok(records) = found {
            asking.found.push((member, self.replicas[number].name.clone(), *records));
        }
    }

    pub fn ask_again(&mut self, question: StoreId) {
        if let Some(Sleep::Waiting(attempt)) = self.engine.as_ref().and_then(|engine| engine.sleep.as_ref())
            && attempt.question == question
        {
            self.ask_all(attempt.since_us);
        }
    }

    /// A pause of a mirror that is awake; one that sleeps wakes, and is paused another time.
    pub fn request_pause(&mut self) {
        match self.engine.as_ref().is_some_and(|engine| engine.sleep.is_none()) {
            true => self.core(Event::PauseRequested),
            false => self.wake_for_a_command(),
        }
    }

    pub fn wake_for_a_command(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.is_commanded = true;
        }
        self.begin_to_wake();
    }

    /// Another mirror was quicker with a member, or one failed that may be the newest.
    pub fn ask_anew(&mut self) {
        self.tally.asked_anew += 1;
        if let Some(Sleep::Claiming(claiming)) = self.engine.as_ref().and_then(|engine| engine.sleep.as_ref()) {
            let since_us = claiming.attempt.since_us;
            match self.time.now_us() < since_us + WAKE_LIMIT_US {
                true => self.ask_all(since_us),
                false => self.sleep_on(),
            }
        }
    }

    /// The members are claimed and hold the generation.
    pub fn is_claimed(&mut self) {
        if let Some(Sleep::Claiming(claiming)) = self.engine.as_mut().and_then(|engine| engine.sleep.as_mut()) {
            claiming.is_started = true;
        }
    }

    /// Goes on when no member owes an answer.
    pub fn pump_waking(&mut self) {
        let superseded = self.superseded();
        let Some(engine) = &mut self.engine else { return };
        let rw = engine.core.view().rw;
        match &mut engine.sleep {
            Some(_) if superseded => self.wake(&[]),
            Some(Sleep::Asking(asking)) if asking.pending.is_empty() => {
                let (attempt, found) = (asking.attempt, std::mem::take(&mut asking.found));
                self.judge(attempt, &found);
            }
            Some(Sleep::Claiming(claiming)) if claiming.is_started => {
                let found: Vec<_> = rw.iter().filter_map(|member| claiming.found[member.get()].take()).collect();
                assert_eq!(found.len(), rw.count() as usize, "each member that counts was claimed");
                self.wake(&found);
            }
            _ => {}
        }
    }

    fn judge(&mut self, attempt: Attempt, found: &[Answer]) {
        let Some(engine) = &mut self.engine else { return };
        let rw = engine.core.view().rw;
        let hasty = self.bug == Some(Bug::EagerWake);
        let is_wanted = engine.is_commanded || engine.channels.iter().any(|channel| !channel.queue.is_empty());
        if !is_wanted && !hasty && !engine.waking.may_wake_at_once(found, rw) {
            engine.sleep = Some(Sleep::Asleep);
            return;
        }
        let members = &engine.members;
        let mut verdict = engine.waking.judge(found, rw, |replica| members.find(replica).is_some());
        if let (Some(Bug::WakeWithoutNewest), Verdict::Unsure(_)) = (self.bug, &verdict) {
            let held: Vec<_> =
                found.iter().map(|(at, name, records)| (*at, name.clone(), records.generation.clone())).collect();
            if let Ok((standing, _)) = stand(&held, engine.dirty.incarnation) {
                verdict = Verdict::Wakes(Standing { may_lose: true, ..standing });
            }
        }
        match verdict {
            Verdict::Wakes(standing) => {
                for (member, _, records) in found {
                    engine.lanes[member.get()].held = records.held();
                }
                let answered = found.iter().map(|(member, ..)| *member);
                let found = [const { None }; MAX_MEMBERS];
                engine.sleep = Some(Sleep::Claiming(Claiming { attempt, found, is_started: false }));
                let answered: MemberMask = answered.collect();
                for member in rw.minus(answered).iter() {
                    let cause = FailureCause::Deadline;
                    self.core(Event::MemberIoError { member, op: MemberOp::Write, cause });
                }
                self.core(Event::Wakes(standing));
            }
            Verdict::Superseded => self.core(Event::Superseded),
            Verdict::Unsure(_) if !is_wanted => engine.sleep = Some(Sleep::Asleep),
            Verdict::Unsure(_) if self.time.now_us() < attempt.since_us + WAKE_LIMIT_US => {
                engine.sleep = Some(Sleep::Waiting(attempt));
                self.time.after(AGAIN_US, Step::AskAgain { life: self.life, question: attempt.question });
            }
            Verdict::Unsure(_) => self.sleep_on(),
        }
        self.pump_waking();
    }

    /// It could not wake: what waits fails. Members that have left are not asked again, and whoever looks after the volume makes the
    /// engine anew.
    pub fn sleep_on(&mut self) {
        self.tally.slept_on += 1;
        let Some(engine) = &mut self.engine else { return };
        engine.sleep = Some(Sleep::Asleep);
        engine.is_commanded = false;
        self.core(Event::Slept);
        self.fail_queued();
        if self.life == self.serving {
            self.time.after(5_000, Step::Crash);
        }
    }

    fn wake(&mut self, found: &[FoundDirty]) {
        self.tally.wakes += 1;
        let Some(engine) = &mut self.engine else { return };
        let found = if self.bug == Some(Bug::ForgetDirty) { &[] } else { found };
        let view = engine.core.view();
        engine.dirty.wake(&view, found, StoreId(engine.stores));
        engine.sleep = None;
        engine.is_commanded = false;
        let unequal = engine.dirty.unequal.left() > 0;
        self.broadcast(Message::Resume);
        if unequal && self.random.chance(300) {
            // So that a stop may come before all is equal.
            self.time.after(50, Step::RequestPause { life: self.life });
        }
    }

    /// In a pause: clears the records of the members and goes to sleep, unless something keeps the mirror awake.
    pub fn fall_asleep(&mut self) {
        let Some(engine) = &self.engine else { return };
        let view = engine.core.view();
        let joining = engine.core.status().members.iter().flatten().count() != engine.members.mask().count() as usize;
        if !view.wo.is_empty() || !view.unfenced.is_empty() || !view.writable || joining {
            return;
        }
        self.store_last_dirty();
        let Some(engine) = &mut self.engine else { return };
        engine.stores = engine.dirty.log.next_number().0;
        engine.dirty.sleep();
        engine.sleep = Some(Sleep::Asleep);
        self.core(Event::Slept);
    }
}
