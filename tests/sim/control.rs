//! The engine's glue around the core: carrying out its actions, and the channels' side of views and pauses.

use std::collections::VecDeque;

use corriente::mirror::core::{
    Action, Actions, ChannelState, DeadlineWheel, DirtyOrder, Epoch, Event, Expiry, FailureCause, Generation,
    GenerationOrder, MAX_MEMBERS, MemberIndex, MemberMask, MemberMode, MemberOp, Notice, PauseId, ReadPolicy,
    RegionSet, Replaces,
};

use crate::check::{Bug, Checker};
use crate::replica::BLOCKS;
use crate::sleep::Sleep;
use crate::world::{Channel, DEADLINE_US, Fate, Message, Persist, PersistAnswer, Step, Tracker, World};

const PERSIST_LIMIT_US: u64 = 100_000;
const PAUSE_LIMIT_US: u64 = 30_000;

impl World {
    /// Hands an event to the core and carries out what it says.
    pub fn core(&mut self, event: Event) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let mut out = Actions::new();
        // A refusal is an answer: what is asked here may well come too late.
        let _ = engine.core.handle(event, &mut out);
        for action in out.drain() {
            self.act(action);
        }
        self.check_status();
    }

    pub fn act(&mut self, action: Action) {
        let life = self.life;
        match action {
            Action::SetIoView(view) => {
                if let Some(engine) = &mut self.engine {
                    engine.dirty.log.set_view(&view);
                }
                self.pump_log();
                self.broadcast(Message::View(view));
            }
            Action::PersistGeneration { member, generation, base, in_sync } => {
                let Some(engine) = &mut self.engine else {
                    return;
                };
                let record = engine.members.record(generation, base, in_sync);
                let replaces = match engine.returned[member.get()] {
                    Some(held) if generation == Generation::NONE => Replaces::Only(Some(held)),
                    _ => Replaces::Lower,
                };
                let persist = Persist { member, generation, order: GenerationOrder { record, replaces }, claim: None };
                let lane = &mut engine.lanes[member.get()];
                if lane.busy {
                    lane.queued = Some(persist);
                } else {
                    self.persist(persist);
                }
            }
            Action::CloseMember(member) => {
                if self.random.chance(500) {
                    self.time.after(1, Step::Abandon { life, member });
                }
                let delay = self.random.between(10, 2_000);
                self.time.after(delay, Step::Closed { life, member });
            }
            Action::PauseChannels(pause) => {
                self.broadcast(Message::Pause(pause));
                self.time.after(PAUSE_LIMIT_US, Step::PauseLimit { life, pause });
            }
            Action::PauseGranted(pause) => self.pause_granted(pause),
            Action::ResumeChannels(_) => {
                // Those of a mirror that sleeps stay paused.
                if self.engine.as_ref().is_some_and(|engine| engine.sleep.is_none()) {
                    self.broadcast(Message::Resume);
                }
            }
            Action::Notify(notice) => self.notice(notice),
        }
    }

    fn notice(&mut self, notice: Notice) {
        let life = self.life;
        match notice {
            Notice::Started(_) => self.is_claimed(),
            Notice::Fenced(_) => self.tally.fences += 1,
            Notice::FenceStuck(_) => {
                self.tally.stuck += 1;
                if self.engine.as_ref().is_some_and(|engine| engine.sleep.is_some()) {
                    return self.sleep_on();
                }
                self.time.after(5_000, Step::RetryFence { life });
            }
            Notice::StartRefused(_) => self.ask_anew(),
            Notice::LastMemberError(_) => {
                if let Some(engine) = &mut self.engine {
                    engine.last_member_failed = true;
                }
            }
            // It answers when it thaws.
            Notice::LastMemberLate(_) => {}
            Notice::LastMemberLost(..) => self.tally.lost += 1,
            Notice::LastMemberBack(_) => self.time.after(1_000, Step::RetryFence { life }),
            Notice::Prepared(_) => self.time.after(100, Step::RequestPause { life }),
            Notice::Synced(member) => self.is_synced(member),
            Notice::Joined(member) => self.has_joined(member),
            Notice::PauseExpired(pause) => {
                self.tally.broken_pauses += 1;
                self.closes_not();
                if let Some(engine) = &mut self.engine {
                    engine.broken_pauses.push(pause);
                }
            }
            Notice::Freed(member) => {
                if let Some(engine) = &mut self.engine {
                    engine.members.remove(member).expect("others are left");
                    engine.copied = engine.copied.without(member);
                }
            }
            Notice::Superseded => self.is_superseded_now(),
            Notice::MemberOut(..) | Notice::ReadError(_) => {}
        }
    }

    pub fn open_channels(&mut self) {
        self.check_disks();
        let (now, count) = (self.time.now_us(), self.random.between(1, 4));
        let policy = self.random.pick(&[ReadPolicy::LocalFirst, ReadPolicy::RoundRobin, ReadPolicy::LeastPending]);
        let Some(engine) = &mut self.engine else {
            return;
        };
        let view = engine.core.view();
        engine.dirty.log.view_in_force();
        for _ in 0..count {
            engine.channels.push(Channel {
                state: ChannelState::new(view, policy),
                wheels: vec![DeadlineWheel::new(DEADLINE_US, now); MAX_MEMBERS],
                queue: VecDeque::new(),
                applied: view.epoch,
                quiesced: None,
                pause: None,
                log_held: VecDeque::new(),
                piece_held: VecDeque::new(),
                next_delivery_us: now,
            });
        }
        for channel in &mut engine.channels {
            let _ = channel.state.pause();
        }
    }

    /// Sends to every channel; each receives in order, in its own time.
    pub fn broadcast(&mut self, message: Message) {
        let (life, now) = (self.life, self.time.now_us());
        let Some(engine) = &mut self.engine else {
            return;
        };
        for (number, channel) in engine.channels.iter_mut().enumerate() {
            let mut at = (now + self.random.between(1, 60)).max(channel.next_delivery_us + 1);
            if let (Message::View(view), Some(Bug::ConfirmViewEarly)) = (message, self.bug) {
                self.time.after(1, Step::ViewApplied { life, channel: number, epoch: view.epoch });
                at += 5_000;
            }
            channel.next_delivery_us = at;
            self.time.at(at, Step::Deliver { life, channel: number, message });
        }
    }

    pub fn deliver(&mut self, number: usize, message: Message) {
        let life = self.life;
        let Some(engine) = &mut self.engine else {
            return;
        };
        let channel = &mut engine.channels[number];
        match message {
            Message::View(view) => {
                channel.state.apply(view);
                self.resolve_parked(number);
                self.release_held(number, true, true);
                let delay = self.random.between(1, 60);
                self.time.after(delay, Step::ViewApplied { life, channel: number, epoch: view.epoch });
            }
            Message::ReleaseLogged => self.release_held(number, true, false),
            Message::ReleasePieces => self.release_held(number, false, true),
            Message::Drain => self.channel_drains(number),
            Message::Pause(pause) => {
                channel.pause = Some(pause);
                if channel.state.pause() || self.bug == Some(Bug::HastyQuiesce) {
                    self.time.after(1, Step::Quiesced { life, channel: number, pause });
                }
            }
            Message::Resume => {
                channel.pause = None;
                channel.state.resume();
                for id in std::mem::take(&mut channel.queue) {
                    self.submit(id);
                }
            }
        }
    }

    /// Looks again at what waits for the log or for pieces.
    fn release_held(&mut self, number: usize, logged: bool, pieces: bool) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let channel = &mut engine.channels[number];
        let mut held = VecDeque::new();
        if logged {
            held.append(&mut channel.log_held);
        }
        if pieces {
            held.append(&mut channel.piece_held);
        }
        for id in held {
            self.begin(id);
        }
    }

    fn resolve_parked(&mut self, number: usize) {
        if self.bug == Some(Bug::LostWakeup) {
            return;
        }
        let Some(engine) = &self.engine else { return };
        let ids: Vec<u64> =
            engine.ios.iter().filter(|(_, io)| io.channel == number && !io.answered).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(engine) = &mut self.engine else {
                return;
            };
            let Some(io) = engine.ios.get_mut(&id) else {
                continue;
            };
            if let Tracker::Write(write) = &mut io.tracker {
                let outcome = write.resolve(engine.channels[number].state.view());
                self.after_write(id, outcome);
            }
        }
    }

    pub fn view_applied(&mut self, number: usize, epoch: Epoch) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let channel = &mut engine.channels[number];
        channel.applied = channel.applied.max(epoch);
        let all = engine.channels.iter().map(|channel| channel.applied).min();
        if let Some(epoch) = all {
            if engine.core.view().epoch == epoch {
                engine.dirty.log.view_in_force();
            }
            self.core(Event::ChannelsUpdated { epoch });
        }
    }

    pub fn channel_quiesced(&mut self, number: usize, pause: PauseId) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        engine.channels[number].quiesced = Some(pause);
        if engine.channels.iter().all(|channel| channel.quiesced == Some(pause)) {
            self.core(Event::ChannelsQuiesced { pause });
        }
    }

    fn pause_granted(&mut self, pause: PauseId) {
        self.tally.pauses += 1;
        let Some(engine) = &self.engine else { return };
        let running: u32 = engine.channels.iter().map(|channel| channel.state.in_flight()).sum();
        if running > 0 {
            self.violate(Checker::Pause, format!("{running} I/Os run during a granted pause"));
        } else {
            // The one in use may write meanwhile.
            if self.life == self.serving {
                self.check_equal();
            }
            if self.closing.is_some() && self.life == self.serving && self.close_and_go_on() {
                return self.time.after(100, Step::PauseEnd { life: self.life, pause });
            }
            self.copy_to_new_members();
            let unequal = self.engine.as_ref().is_some_and(|engine| engine.dirty.unequal.left() > 0);
            if self.faulty && self.random.chance(if unequal { 500 } else { 30 }) {
                return self.stop_in_order();
            }
        }
        let hold = if self.random.chance(30) { 2 * PAUSE_LIMIT_US } else { self.random.between(0, 3_000) };
        self.time.after(hold, Step::PauseEnd { life: self.life, pause });
    }

    pub fn pause_ends(&mut self, pause: PauseId) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let broken = engine.broken_pauses.contains(&pause);
        let mut out = Actions::new();
        let answer = engine.core.handle(Event::Resume { pause }, &mut out);
        for action in out.drain() {
            self.act(action);
        }
        if answer.is_ok() == broken {
            self.violate(Checker::Pause, format!("a pause broken: {broken}, resumed with {answer:?}"));
        }
    }

    /// The whole of a rebuild, at once while no I/O runs.
    fn copy_to_new_members(&mut self) {
        let now = self.time.now_us();
        let Some(engine) = &mut self.engine else {
            return;
        };
        let view = engine.core.view();
        let source = view.rw.iter().map(|member| engine.replica_of[member.get()]);
        let Some(source) = source.into_iter().find(|number| self.replicas[*number].reachable(now)) else {
            return;
        };
        let blocks: [u64; BLOCKS] = self.replicas[source].blocks;
        let returned = MemberIndex::all().filter(|member| engine.returned[member.get()].is_some()).collect();
        for member in view.wo.minus(engine.copied).minus(returned).iter() {
            let replica = &mut self.replicas[engine.replica_of[member.get()]];
            if replica.reachable(now) {
                replica.blocks = blocks;
                engine.copied = engine.copied.with(member);
            }
        }
    }

    fn persist(&mut self, mut persist: Persist) {
        let life = self.life;
        let Some(engine) = &mut self.engine else {
            return;
        };
        if engine.sleep.is_some() {
            let store = engine.number_order();
            persist.claim = Some(engine.dirty.record(store, RegionSet::EMPTY));
            persist.order.replaces = Replaces::Only(engine.lanes[persist.member.get()].held);
        }
        let lane = &mut engine.lanes[persist.member.get()];
        lane.token += 1;
        lane.busy = true;
        let token = lane.token;
        let number = engine.replica_of[persist.member.get()];
        let fate = match self.random.chance(self.error_per_mille[number]) {
            false => Fate::Fine,
            true if self.random.chance(500) => Fate::Fails { lands: self.random.chance(500) },
            true => Fate::Vanishes { lands: self.random.chance(500) },
        };
        let session = self.engine.as_ref().map_or(0, |engine| engine.sessions[number]);
        let (done, failed) = (persist.clone(), persist.clone());
        let delay = self.random.between(50, 1_500);
        let answer = PersistAnswer::Failed;
        self.time.after(PERSIST_LIMIT_US, Step::PersistDone { life, persist: failed, token, answer });
        match fate {
            Fate::Fails { lands: false } => {
                let answer = PersistAnswer::Failed;
                self.time.after(delay, Step::PersistDone { life, persist: done, token, answer });
            }
            Fate::Vanishes { lands: false } => {}
            Fate::Fine | Fate::Fails { .. } | Fate::Vanishes { .. } => {
                let answered = matches!(fate, Fate::Fine);
                let arrive = Step::PersistArrive { life, persist, token, replica: number, session, answered };
                self.time.after(delay, arrive);
            }
        }
    }

    pub fn persist_arrives(
        &mut self,
        life: u32,
        persist: Persist,
        token: u32,
        (number, session): (usize, u32),
        answered: bool,
    ) {
        let now = self.time.now_us();
        let replica = &mut self.replicas[number];
        if !replica.takes_orders(session) {
            return;
        }
        if replica.frozen_until_us > now {
            let again = Step::PersistArrive { life, persist, token, replica: number, session, answered };
            self.time.after(2_000, again);
            return;
        }
        let (forgets, fakes) = (self.bug == Some(Bug::ForgetAtClaim), self.bug == Some(Bug::FakePersist));
        let stored = replica.up
            && match persist.claim {
                Some(dirty) => replica.store_dirty(&DirtyOrder::Claim(dirty, persist.order.clone()), forgets),
                None => fakes || replica.store(&persist.order),
            };
        let records = replica.records();
        let incarnation = self.engine.as_ref().map(|engine| engine.dirty.incarnation);
        let claimed = incarnation.is_some_and(|incarnation| records.is_claimed_by_another(incarnation));
        let answer = match (stored, replica.up) {
            (true, _) => PersistAnswer::Stored(Box::new(records.dirty)),
            (false, true) if persist.claim.is_some() => PersistAnswer::Refused,
            (false, true) if claimed => PersistAnswer::Superseded,
            (false, _) => PersistAnswer::Failed,
        };
        if answered {
            let delay = self.random.between(10, 300);
            self.time.after(delay, Step::PersistDone { life, persist, token, answer });
        }
        if self.faulty && self.random.chance(100) {
            self.crash();
        }
    }

    pub fn persist_done(&mut self, persist: Persist, token: u32, answer: PersistAnswer) {
        let Persist { member, generation, .. } = persist;
        let Some(engine) = &mut self.engine else {
            return;
        };
        let lane = &mut engine.lanes[member.get()];
        if lane.token != token || !lane.busy {
            return;
        }
        lane.busy = false;
        if let PersistAnswer::Stored(found) = &answer {
            lane.held = Some(generation);
            if let Some(Sleep::Claiming(claiming)) = &mut engine.sleep {
                claiming.found[member.get()] = Some((**found).clone());
            }
        }
        let next = lane.queued.take();
        self.core(match answer {
            PersistAnswer::Stored(_) => Event::FencePersisted { member, generation },
            PersistAnswer::Failed => Event::FenceFailed { member, generation },
            PersistAnswer::Refused => Event::FenceRefused { member, generation },
            PersistAnswer::Superseded => Event::Superseded,
        });
        let Some(engine) = &mut self.engine else {
            return;
        };
        let lane = &mut engine.lanes[member.get()];
        match (next, lane.busy) {
            (Some(next), false) => self.persist(next),
            (Some(next), true) if lane.queued.is_none() => {
                debug_assert_ne!(next.generation, Generation::NONE, "a void is the first of its member");
            }
            _ => {}
        }
    }

    pub fn check_deadlines(&mut self) {
        let now = self.time.now_us();
        let Some(engine) = &mut self.engine else {
            return;
        };
        let mut late = Vec::new();
        for (number, channel) in engine.channels.iter_mut().enumerate() {
            let found: Vec<_> =
                MemberIndex::all().map(|member| (member, channel.wheels[member.get()].advance(now))).collect();
            let having = |test: fn(&Expiry) -> bool| {
                found.iter().filter(|(_, expiry)| test(expiry)).map(|(member, _)| *member).collect::<MemberMask>()
            };
            let overdue = having(|expiry| matches!(expiry, Expiry::Overdue(_)));
            late.push((number, having(|expiry| *expiry != Expiry::InTime), overdue));
        }
        for (number, expired, overdue) in late {
            self.blame(number, expired, MemberOp::Read, FailureCause::Deadline);
            self.blame(number, overdue, MemberOp::Read, FailureCause::Gone);
        }
        self.time.after(DEADLINE_US / 7, Step::CheckDeadlines { life: self.life });
    }

    pub fn reconnect(&mut self, member: MemberIndex) {
        let now = self.time.now_us();
        let Some(engine) = &mut self.engine else {
            return;
        };
        let number = engine.replica_of[member.get()];
        if !engine.core.status().lost.contains(member) {
            return;
        }
        if self.replicas[number].reachable(now) {
            self.replicas[number].sessions.remove(&engine.sessions[number]);
            engine.sessions[number] = self.replicas[number].session(false);
            engine.closed = engine.closed.without(member);
            self.core(Event::MemberReturned { member });
        } else {
            self.time.after(3_000, Step::Reconnect { life: self.life, member });
        }
    }

    /// What an operator, or Longhorn's manager, does about members that are out, new ones, and healthy ones.
    pub fn heal(&mut self) {
        self.time.after(5_000, Step::Heal);
        let now = self.time.now_us();
        let Some(engine) = &self.engine else { return };
        // With two engines nobody changes who is a member.
        if engine.channels.is_empty() || !self.others.is_empty() || self.closing.is_some() {
            return;
        }
        if engine.sleep.is_some() {
            return self.wake_for_a_command();
        }
        let status = engine.core.status();
        let copied = engine.copied;
        let mut requests = Vec::new();
        let numbered = |member: MemberIndex| (member, engine.replica_of[member.get()]);
        let members: Vec<_> = engine.members.mask().iter().map(numbered).collect();
        for (member, number) in members {
            let healthy = self.anchored && number == 0;
            match status.members[member.get()] {
                Some(MemberMode::Err(_)) if status.absent.contains(member) => {
                    requests.extend(self.what_to_do_about(member, status.may_return.contains(member)));
                }
                Some(MemberMode::Err(_)) => requests.push(Event::RemoveMember { member }),
                Some(MemberMode::Wo) if copied.contains(member) => {
                    requests.push(Event::MemberSynced { member });
                }
                Some(MemberMode::Rw) if !healthy && self.faulty && self.random.chance(8) => {
                    requests.push(Event::RemoveMember { member });
                }
                _ => {}
            }
        }
        if self.random.chance(300) {
            requests.push(Event::PauseRequested);
        }
        for request in requests {
            match request {
                Event::PauseRequested => self.request_pause(),
                Event::MemberBack { member } => self.bring_back(member),
                other => self.core(other),
            }
        }
        let unequal = self.engine.as_ref().is_some_and(|engine| engine.dirty.unequal.left() > 0);
        for number in 0..self.replicas.len() {
            if self.replicas[number].reachable(now) && !unequal {
                self.add_if_out(number);
            }
        }
    }

    fn add_if_out(&mut self, number: usize) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let replica = &mut self.replicas[number];
        if engine.members.find(&replica.name).is_some() {
            return;
        }
        // Its head is another: nobody else reaches it.
        engine.sessions[number] = replica.session(true);
        let Ok(member) = engine.members.add(replica.open()) else {
            return;
        };
        engine.replica_of[member.get()] = number;
        engine.closed = engine.closed.without(member);
        engine.returned[member.get()] = None;
        self.core(Event::AddMember { member, local: number == 0 });
    }
}
