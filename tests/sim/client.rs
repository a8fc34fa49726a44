//! The I/O path: a client's reads and writes, their legs, and their answers.

use corriente::mirror::core::{
    Event, FailureCause, MemberIndex, MemberMask, MemberMode, MemberOp, ReadOutcome, WriteOutcome,
};

use crate::check::{Bug, Checker};
use crate::replica::BLOCKS;
use crate::world::{Command, DEADLINE_US, Fate, Io, Kind, Step, Tracker, World};

impl World {
    pub fn client_issues(&mut self, end_us: u64) {
        if self.time.now_us() > end_us {
            return;
        }
        let pause = self.random.between(20, 400);
        self.time.after(pause, Step::ClientIssues);
        let block = self.random.between(0, BLOCKS as u64) as usize;
        let choice = self.random.between(0, 100);
        let pick = self.random.next() as usize;
        let closed = self.closing.is_some() && self.bug != Some(Bug::HastyClose);
        let Some(engine) = &mut self.engine else {
            return;
        };
        if engine.channels.is_empty() || closed {
            return;
        }
        let id = self.next_id;
        let kind = match choice {
            0..46 if self.oracle.write_issued(block, id) => Kind::Write { block, value: id },
            46..54 => Kind::Flush,
            _ => {
                self.oracle.read_issued(id, block);
                Kind::Read { block }
            }
        };
        self.next_id += 1;
        let channel = pick % engine.channels.len();
        engine.ios.insert(id, Io { channel, kind, tracker: Tracker::Queued, answered: false });
        self.submit(id);
    }

    /// Starts an I/O, or queues it during a pause.
    pub fn submit(&mut self, id: u64) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let Some(io) = engine.ios.get_mut(&id) else {
            return;
        };
        let channel = &mut engine.channels[io.channel];
        if !channel.state.admit() {
            channel.queue.push_back(id);
            return self.begin_to_wake();
        }
        self.begin(id);
    }

    /// What waits for a mirror to wake fails.
    pub fn fail_queued(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let mut waiting = Vec::new();
        for channel in &mut engine.channels {
            waiting.extend(std::mem::take(&mut channel.queue));
        }
        for id in waiting {
            // It never counted.
            let Some(io) = self.engine.as_mut().and_then(|engine| engine.ios.remove(&id)) else { continue };
            self.answered(id, io.kind, None);
        }
    }

    /// Starts an I/O that counts, or has it wait for the log or a piece.
    pub fn begin(&mut self, id: u64) {
        let Some(io) = self.engine.as_ref().and_then(|engine| engine.ios.get(&id)) else {
            return;
        };
        let (number, kind) = (io.channel, io.kind);
        let can_write = self.engine.as_ref().is_some_and(|engine| engine.channels[number].state.begin_write().is_ok());
        let waits = match kind {
            Kind::Write { block, .. } => can_write && self.held(id, number, block, true),
            Kind::Read { block } => can_write && self.held(id, number, block, false),
            Kind::Flush => false,
        };
        if waits {
            return;
        }
        let Some(engine) = &mut self.engine else {
            return;
        };
        let Some(io) = engine.ios.get_mut(&id) else {
            return;
        };
        let channel = &mut engine.channels[io.channel];
        let unequal = match kind {
            Kind::Read { block } => engine.dirty.unequal.first_in(block as u64, 1).is_some(),
            _ => false,
        };
        if unequal && self.bug != Some(Bug::ServeUnequal) {
            // Nothing can make it equal.
            return self.answer(id, None);
        }
        let targets = match io.kind {
            Kind::Read { .. } => channel.state.begin_read().map(|read| {
                io.tracker = Tracker::Read(read);
                MemberMask::of(read.target())
            }),
            Kind::Write { .. } | Kind::Flush => channel.state.begin_write().map(|write| {
                io.tracker = Tracker::Write(write);
                write.targets()
            }),
        };
        match targets {
            Ok(targets) => targets.iter().for_each(|member| self.submit_leg(id, member)),
            Err(_) => self.answer(id, None),
        }
    }

    fn submit_leg(&mut self, id: u64, member: MemberIndex) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let io = &engine.ios[&id];
        let out = matches!(engine.core.status().members[member.get()], Some(MemberMode::Err(_)));
        let unused = engine.closed.contains(member) || (out && !engine.core.view().unfenced.contains(member));
        let channel = &mut engine.channels[io.channel];
        channel.state.leg_submitted(member);
        engine.legs.insert((id, member), channel.wheels[member.get()].submit());
        let replica = engine.replica_of[member.get()];
        let kind = io.kind;
        if unused {
            self.violate(Checker::OutUnused, format!("I/O {id} goes to member {member}, which is durably out"));
        }
        let fate = self.fate(replica);
        let mut delay = self.random.between(5, 80) + self.random.between(0, 1 + self.replicas[replica].slow_us);
        if matches!(fate, Fate::Vanishes { lands: true }) && self.random.chance(500) {
            // It is in the network for long.
            delay += self.random.between(0, 4 * DEADLINE_US);
        }
        let Some(engine) = &self.engine else { return };
        let (session, writer) = (engine.sessions[replica], engine.dirty.incarnation);
        let command = Command { io: id, member, kind, fate, writer };
        self.time.after(delay, Step::Arrive { command, replica, session, life: self.life });
    }

    pub fn fate(&mut self, replica: usize) -> Fate {
        let lands = self.random.chance(500);
        if !self.random.chance(self.error_per_mille[replica]) {
            Fate::Fine
        } else if self.random.chance(150) {
            Fate::Vanishes { lands }
        } else {
            Fate::Fails { lands }
        }
    }

    /// A leg reaches its replica, unless a later attachment has cut it off.
    pub fn arrive(&mut self, command: Command, number: usize, session: u32, life: u32) {
        let now = self.time.now_us();
        let replica = &mut self.replicas[number];
        if !replica.sessions.contains(&session) {
            self.tally.cut_off += u64::from(replica.orders_only.contains(&session));
            return;
        }
        if replica.frozen_until_us > now {
            let again = Step::Arrive { command, replica: number, session, life };
            self.time.after(2_000, again);
            return;
        }
        let lands = match command.fate {
            Fate::Fine => true,
            Fate::Fails { lands } | Fate::Vanishes { lands } => lands,
        };
        let mut value = 0;
        match command.kind {
            Kind::Write { block, value } if lands && replica.up => replica.blocks[block] = value,
            Kind::Read { block } => value = replica.blocks[block],
            _ => {}
        }
        let records = replica.records();
        // A claim of one that has died meanwhile may come late.
        let engines = self.others.values().chain(&self.engine);
        let lives =
            engines.map(|engine| engine.dirty.incarnation).any(|engine| records.dirty.claimed_by() == Some(engine));
        let stolen = lives && records.is_claimed_by_another(command.writer);
        let result = match command.fate {
            _ if !replica.up => Err(FailureCause::Gone),
            Fate::Fine => Ok(value),
            Fate::Fails { .. } => Err(FailureCause::Medium),
            Fate::Vanishes { .. } => return,
        };
        if stolen && lands && matches!(command.kind, Kind::Write { .. }) {
            self.violate(
                Checker::OneWriter,
                format!("I/O {} writes to replica {number}, another's by now", command.io),
            );
        }
        if now.is_multiple_of(8) && matches!(command.kind, Kind::Write { .. }) {
            self.check_dirty();
        }
        let delay = self.random.between(5, 80);
        let Command { io, member, .. } = command;
        self.time.after(delay, Step::Return { life, io, member, result });
    }

    /// A leg ends at the engine.
    pub fn leg_returns(&mut self, id: u64, member: MemberIndex, result: Result<u64, FailureCause>) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let Some(ticket) = engine.legs.remove(&(id, member)) else {
            return;
        };
        let Some(io) = engine.ios.get_mut(&id) else {
            return;
        };
        let channel = &mut engine.channels[io.channel];
        channel.state.leg_returned(member);
        channel.wheels[member.get()].complete(ticket);
        let mut ended = result.map(|_| ());
        if self.bug == Some(Bug::SwallowLegError) && matches!(io.kind, Kind::Write { .. }) {
            ended = Ok(());
        }
        let number = io.channel;
        let op = op_of(io.kind);
        match &mut io.tracker {
            Tracker::Queued => {}
            Tracker::Write(write) => {
                let outcome = write.leg_done(member, ended, channel.state.view());
                self.after_write(id, outcome);
            }
            Tracker::Read(read) => {
                let outcome = read.leg_done(member, ended, &mut channel.state);
                self.after_read(id, outcome, result.ok());
            }
        }
        if let Err(cause) = ended
            && (op, cause) != (MemberOp::Read, FailureCause::Medium)
        {
            self.blame(number, MemberMask::of(member), op, cause);
        }
        self.forget_drained(id);
    }

    pub fn after_write(&mut self, id: u64, outcome: WriteOutcome) {
        match outcome {
            WriteOutcome::Wait => {}
            WriteOutcome::Complete => self.answer(id, Some(0)),
            WriteOutcome::Park(_) if self.bug == Some(Bug::AcknowledgeEarly) => {
                self.answer(id, Some(0));
            }
            WriteOutcome::Park(missed) => {
                let Some(io) = self.engine.as_ref().and_then(|engine| engine.ios.get(&id)) else {
                    return;
                };
                let (channel, op) = (io.channel, op_of(io.kind));
                self.blame(channel, missed, op, FailureCause::Medium);
            }
            WriteOutcome::Fail(_) => self.answer(id, None),
        }
    }

    fn after_read(&mut self, id: u64, outcome: ReadOutcome, value: Option<u64>) {
        match outcome {
            ReadOutcome::Wait => {}
            ReadOutcome::Complete { .. } => self.answer(id, value),
            ReadOutcome::Retry { .. } if self.bug == Some(Bug::NoRetry) => self.answer(id, None),
            ReadOutcome::Retry { member, .. } => {
                self.tally.retried_reads += 1;
                self.submit_leg(id, member);
            }
            ReadOutcome::Fail(_) => self.answer(id, None),
        }
    }

    /// Tells the core of failed members, as a channel does.
    pub fn blame(&mut self, channel: usize, failed: MemberMask, op: MemberOp, cause: FailureCause) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        for member in engine.channels[channel].state.blame(failed, cause).iter() {
            let delay = self.random.between(1, 50);
            self.time.after(delay, Step::Report { life: self.life, member, op, cause });
        }
    }

    /// The client has its answer; `None` is an error.
    fn answer(&mut self, id: u64, value: Option<u64>) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let Some(io) = engine.ios.get_mut(&id) else {
            return;
        };
        if io.answered {
            return;
        }
        io.answered = true;
        let channel = &mut engine.channels[io.channel];
        if channel.state.retire()
            && let Some(pause) = channel.pause
        {
            let delay = self.random.between(1, 20);
            self.time.after(delay, Step::Quiesced { life: self.life, channel: io.channel, pause });
        }
        let kind = io.kind;
        self.answered(id, kind, value);
        self.forget_drained(id);
    }

    fn answered(&mut self, id: u64, kind: Kind, value: Option<u64>) {
        self.tally.acknowledged += u64::from(value.is_some());
        self.tally.errors += u64::from(value.is_none());
        let wrong = match kind {
            Kind::Write { block, value: written } => {
                self.oracle.write_answered(block, written, value.is_some());
                Ok(())
            }
            Kind::Read { .. } => self.oracle.read_answered(id, value),
            Kind::Flush => Ok(()),
        };
        if let Err(wrong) = wrong {
            self.violate(Checker::Data, wrong);
        }
        // A mirror that cannot wake does not go on without a member that another one may have gone on with.
        let asleep = self.engine.as_ref().is_some_and(|engine| engine.sleep.is_some());
        if value.is_none() && self.anchored && self.others.is_empty() && !self.superseded() && !asleep {
            self.violate(Checker::NoError, format!("I/O {id} failed, though replica 0 never did"));
        }
    }

    fn forget_drained(&mut self, id: u64) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let drained = engine.ios.get(&id).is_some_and(|io| {
            io.answered
                && match &io.tracker {
                    Tracker::Queued => true,
                    Tracker::Write(write) => write.is_drained(),
                    Tracker::Read(read) => read.is_drained() || self.bug == Some(Bug::NoRetry),
                }
        });
        if drained {
            engine.ios.remove(&id);
        }
    }

    /// Gives up on what a member still owes, on all channels.
    pub fn abandon(&mut self, member: MemberIndex) {
        let Some(engine) = &self.engine else { return };
        let owing: Vec<u64> = engine.legs.keys().filter(|(_, of)| *of == member).map(|(io, _)| *io).collect();
        for id in owing {
            let Some(engine) = &mut self.engine else {
                return;
            };
            let Some(io) = engine.ios.get_mut(&id) else {
                continue;
            };
            let channel = &mut engine.channels[io.channel];
            self.tally.abandoned += 1;
            match &mut io.tracker {
                Tracker::Queued => {}
                Tracker::Write(write) => {
                    let outcome = write.abandon(MemberMask::of(member), channel.state.view());
                    self.after_write(id, outcome);
                }
                Tracker::Read(read) => {
                    let outcome = read.abandon(MemberMask::of(member), &mut channel.state);
                    self.after_read(id, outcome, None);
                }
            }
        }
    }

    /// A member's link is closed: what it owed ends now.
    pub fn member_closed(&mut self, member: MemberIndex) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        engine.closed = engine.closed.with(member);
        let lane = &mut engine.lanes[member.get()];
        lane.token += 1;
        (lane.busy, lane.queued) = (false, None);
        let owing: Vec<u64> = engine.legs.keys().filter(|(_, of)| *of == member).map(|(io, _)| *io).collect();
        for id in owing {
            self.leg_returns(id, member, Err(FailureCause::Gone));
        }
        self.copies_lose(member);
        self.core(Event::MemberClosed { member });
        let lost = self.engine.as_ref().is_some_and(|engine| engine.core.status().lost.contains(member));
        if lost {
            self.time.after(3_000, Step::Reconnect { life: self.life, member });
        }
    }
}

fn op_of(kind: Kind) -> MemberOp {
    match kind {
        Kind::Write { .. } => MemberOp::Write,
        Kind::Read { .. } => MemberOp::Read,
        Kind::Flush => MemberOp::Flush,
    }
}
