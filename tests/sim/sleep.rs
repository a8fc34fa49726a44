//! Mirrors that sleep until their first I/O, and then claim their members' replicas, as the driver of a mirror has them.

use corriente::mirror::core::dirty::{FoundDirty, StoreId};
use corriente::mirror::core::waking::Answer;
use corriente::mirror::core::assembly::{Standing, stand};
use corriente::mirror::core::{
    Event, FailureCause, MAX_MEMBERS, MemberIndex, MemberMask, MemberOp, ReplicaRecords, Verdict,
};

use crate::check::Bug;
use crate::world::{Engine, Fate, Message, Step, World};

const ASK_LIMIT_US: u64 = 50_000;
/// How often all members are asked anew in one wake.
const ATTEMPTS: u32 = 5;

pub enum Sleep {
    Asleep,
    Asking(Asking),
    Claiming(Claiming),
}

/// The questions of a mirror that wakes.
pub struct Asking {
    question: StoreId,
    /// 0 when the mirror was just assembled.
    attempt: u32,
    pending: MemberMask,
    found: Vec<Answer>,
}

/// Its claims.
pub struct Claiming {
    attempt: u32,
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
            self.ask_all(1);
        }
    }

    /// Asks the members that count what they hold, and those that have left since.
    pub fn ask_all(&mut self, attempt: u32) {
        let life = self.life;
        let Some(engine) = &mut self.engine else { return };
        let question = engine.number_order();
        let view = engine.core.view();
        let asked = view.written().or(view.unfenced);
        engine.sleep = Some(Sleep::Asking(Asking { question, attempt, pending: asked, found: Vec::new() }));
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
        if asking.question != question || !asking.pending.contains(member) {
            return;
        }
        asking.pending = asking.pending.without(member);
        match found {
            Ok(records) => asking.found.push((member, self.replicas[number].name.clone(), *records)),
            Err(cause) => self.core(Event::MemberIoError { member, op: MemberOp::Write, cause }),
        }
    }

    /// A pause of a mirror that is awake; one that sleeps wakes, and is paused another time.
    pub fn request_pause(&mut self) {
        match self.engine.as_ref().is_some_and(|engine| engine.sleep.is_none()) {
            true => self.core(Event::PauseRequested),
            false => self.begin_to_wake(),
        }
    }

    /// Another mirror was quicker with a member, or one does not answer that it may have gone on with.
    pub fn ask_anew(&mut self) {
        self.tally.asked_anew += 1;
        if let Some(Sleep::Claiming(Claiming { attempt, .. })) = self.engine.as_ref().and_then(|engine| engine.sleep.as_ref()) {
            match *attempt < ATTEMPTS {
                true => self.ask_all(attempt + 1),
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

    fn judge(&mut self, attempt: u32, found: &[Answer]) {
        let Some(engine) = &mut self.engine else { return };
        let rw = engine.core.view().rw;
        let hasty = self.bug == Some(Bug::EagerWake);
        if attempt == 0 && !hasty && !engine.waking.may_wake_at_once(found, rw) {
            engine.sleep = Some(Sleep::Asleep);
            if engine.channels.iter().any(|channel| !channel.queue.is_empty()) {
                self.begin_to_wake();
            }
            return;
        }
        let members = &engine.members;
        let mut verdict = engine.waking.judge(found, rw, |replica| members.find(replica).is_some());
        if let (Some(Bug::WakeWithoutNewest), Verdict::Unsure(_)) = (self.bug, &verdict) {
            let held: Vec<_> = found.iter().map(|(at, name, records)| (*at, name.clone(), records.generation.clone())).collect();
            if let Ok((standing, _)) = stand(&held, engine.dirty.incarnation) {
                verdict = Verdict::Wakes(Standing { may_lose: true, ..standing });
            }
        }
        match verdict {
            Verdict::Wakes(standing) => {
                for (member, _, records) in found {
                    engine.lanes[member.get()].held = records.held();
                }
                let found = [const { None }; MAX_MEMBERS];
                engine.sleep = Some(Sleep::Claiming(Claiming { attempt, found, is_started: false }));
                self.core(Event::Wakes(standing));
            }
            Verdict::Superseded => self.core(Event::Superseded),
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
