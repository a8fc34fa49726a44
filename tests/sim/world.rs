//! The world of one run: replicas, one engine at a time, a client, and what happens when.

use std::collections::{BTreeMap, VecDeque};

use corriente::mirror::core::{
    Actions, AssemblyError, Candidate, ChannelState, DeadlineWheel, Epoch, Event, FailureCause, Found, Generation,
    GenerationRecord, Incarnation, IoView, MAX_MEMBERS, MemberIndex, MemberMask, MemberOp, Members, MirrorCore,
    Missing, PauseId, ReadTracker, Ticket, WriteTracker, assemble,
};

use crate::check::{Bug, Checker, Violation};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::replica::{BLOCKS, Replica, SIZE_BYTES};
use crate::time::Time;

pub const FAULTS_END_US: u64 = 400_000;
const CLIENT_END_US: u64 = 500_000;
const END_US: u64 = 3_000_000;
pub const DEADLINE_US: u64 = 50_000;

/// What happens at a point in time. What belongs to an engine carries its `life`: nothing outlives a crash but what is
/// on its way to a replica.
#[derive(Debug, Clone)]
pub enum Step {
    ClientIssues,
    Arrive { command: Command, replica: usize, session: u32, life: u32 },
    Return { life: u32, io: u64, member: MemberIndex, result: Result<u64, FailureCause> },
    Deliver { life: u32, channel: usize, message: Message },
    ViewApplied { life: u32, channel: usize, epoch: Epoch },
    Quiesced { life: u32, channel: usize, pause: PauseId },
    Report { life: u32, member: MemberIndex, op: MemberOp, cause: FailureCause },
    PersistArrive { life: u32, persist: Persist, token: u32, replica: usize, session: u32, answered: bool },
    PersistDone { life: u32, persist: Persist, token: u32, answer: PersistAnswer },
    Abandon { life: u32, member: MemberIndex },
    Closed { life: u32, member: MemberIndex },
    Reconnect { life: u32, member: MemberIndex },
    RetryFence { life: u32 },
    CheckDeadlines { life: u32 },
    PauseLimit { life: u32, pause: PauseId },
    PauseEnd { life: u32, pause: PauseId },
    RequestPause { life: u32 },
    Fault,
    Restore { replica: usize },
    Crash,
    Heal,
    Restart,
    FaultsStop,
    End,
}

/// An I/O on its way to a replica.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    pub io: u64,
    pub member: MemberIndex,
    pub kind: Kind,
    pub fate: Fate,
}

/// What a client or a leg does.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Write { block: usize, value: u64 },
    Read { block: usize },
    Flush,
}

/// How a leg ends, whether it takes effect first.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    Fine,
    Fails { lands: bool },
    Vanishes { lands: bool },
}

#[derive(Debug, Clone, Copy)]
pub enum Message {
    View(IoView),
    Pause(PauseId),
    Resume,
}

#[derive(Debug, Clone)]
pub struct Persist {
    pub member: MemberIndex,
    pub generation: Generation,
    pub record: GenerationRecord,
}

/// What a mirror hears of a record that it wanted stored.
#[derive(Debug, Clone, Copy)]
pub enum PersistAnswer {
    Stored,
    Failed,
    /// By the replica, which holds a generation that this one may not follow.
    Refused,
}

pub enum Tracker {
    Queued,
    Write(WriteTracker),
    Read(ReadTracker),
}

pub struct Io {
    pub channel: usize,
    pub kind: Kind,
    pub tracker: Tracker,
    pub answered: bool,
}

pub struct Channel {
    pub state: ChannelState,
    pub wheels: Vec<DeadlineWheel>,
    pub queue: VecDeque<u64>,
    pub applied: Epoch,
    pub quiesced: Option<PauseId>,
    pub pause: Option<PauseId>,
    pub next_delivery_us: u64,
}

#[derive(Default, Clone)]
pub struct Lane {
    pub token: u32,
    pub busy: bool,
    pub queued: Option<Persist>,
}

/// What a crash takes away.
pub struct Engine {
    pub core: MirrorCore,
    pub members: Members,
    pub replica_of: [usize; MAX_MEMBERS],
    pub closed: MemberMask,
    pub copied: MemberMask,
    pub channels: Vec<Channel>,
    pub ios: BTreeMap<u64, Io>,
    pub legs: BTreeMap<(u64, MemberIndex), Ticket>,
    pub lanes: [Lane; MAX_MEMBERS],
    pub broken_pauses: Vec<PauseId>,
    pub last_member_failed: bool,
}

/// What a run did, so that a suite can tell that it did something.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub acknowledged: u64,
    pub errors: u64,
    pub fences: u64,
    pub crashes: u64,
    pub caught_up: u64,
    pub rebuilt: u64,
    pub pauses: u64,
    pub broken_pauses: u64,
    pub lost: u64,
    pub stuck: u64,
    pub retried_reads: u64,
    pub abandoned: u64,
}

pub struct World {
    pub time: Time<Step>,
    pub random: Random,
    pub replicas: Vec<Replica>,
    pub error_per_mille: Vec<u64>,
    pub engine: Option<Engine>,
    pub life: u32,
    pub oracle: Oracle,
    pub next_id: u64,
    /// Replica 0 never fails in this run.
    pub anchored: bool,
    pub faulty: bool,
    pub bug: Option<Bug>,
    only: Option<Checker>,
    pub violation: Option<Violation>,
    pub tally: Tally,
}

impl World {
    pub fn new(seed: u64, bug: Option<Bug>, only: Option<Checker>) -> Self {
        let mut random = Random::new(seed);
        let count = random.between(1, 5) as usize;
        let anchored = random.chance(500);
        let mut time = Time::new();
        time.at(0, Step::Restart);
        time.at(1, Step::ClientIssues);
        time.at(5_000, Step::Heal);
        time.at(2_000, Step::Fault);
        time.at(FAULTS_END_US, Step::FaultsStop);
        time.at(END_US, Step::End);
        Self {
            time,
            random,
            replicas: (0..count).map(Replica::new).collect(),
            error_per_mille: vec![0; count],
            engine: None,
            life: 0,
            oracle: Oracle::new(BLOCKS),
            next_id: 1,
            anchored,
            faulty: true,
            bug,
            only,
            violation: None,
            tally: Tally::default(),
        }
    }

    /// Runs to the end or the first violation.
    pub fn run(mut self) -> (Tally, Option<Violation>) {
        while self.violation.is_none() {
            match self.time.next() {
                Some(Step::End) => {
                    self.check_end();
                    break;
                }
                Some(step) => {
                    if std::env::var_os("CORRIENTE_SIM_TRACE").is_some() {
                        eprintln!("{:>8} {step:?}", self.time.now_us());
                    }
                    self.step(step);
                }
                None => break,
            }
        }
        (self.tally, self.violation)
    }

    pub fn violate(&mut self, checker: Checker, what: impl Into<String>) {
        if self.violation.is_none() && self.only.is_none_or(|only| only == checker) {
            self.violation = Some(Violation { checker, at_us: self.time.now_us(), what: what.into() });
        }
    }

    pub fn alive(&self, life: u32) -> bool {
        life == self.life && self.engine.is_some()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::ClientIssues => self.client_issues(CLIENT_END_US),
            Step::Arrive { command, replica, session, life } => {
                self.arrive(command, replica, session, life);
            }
            Step::PersistArrive { life, persist, token, replica, session, answered } => {
                self.persist_arrives(life, persist, token, (replica, session), answered);
            }
            Step::Fault => self.fault(),
            Step::Restore { replica } => self.restore(replica),
            Step::Crash => self.crash(),
            Step::Heal => self.heal(),
            Step::Restart => self.restart(),
            Step::FaultsStop => self.stop_faults(),
            Step::End => {}
            Step::Return { life, .. }
            | Step::Deliver { life, .. }
            | Step::ViewApplied { life, .. }
            | Step::Quiesced { life, .. }
            | Step::Report { life, .. }
            | Step::PersistDone { life, .. }
            | Step::Abandon { life, .. }
            | Step::Closed { life, .. }
            | Step::Reconnect { life, .. }
            | Step::RetryFence { life }
            | Step::CheckDeadlines { life }
            | Step::PauseLimit { life, .. }
            | Step::PauseEnd { life, .. }
            | Step::RequestPause { life } => {
                if self.alive(life) {
                    self.engine_step(step);
                }
            }
        }
    }

    fn engine_step(&mut self, step: Step) {
        match step {
            Step::Return { io, member, result, .. } => self.leg_returns(io, member, result),
            Step::Deliver { channel, message, .. } => self.deliver(channel, message),
            Step::ViewApplied { channel, epoch, .. } => self.view_applied(channel, epoch),
            Step::Quiesced { channel, pause, .. } => self.channel_quiesced(channel, pause),
            Step::Report { member, op, cause, .. } => {
                self.core(Event::MemberIoError { member, op, cause });
            }
            Step::PersistDone { persist, token, answer, .. } => self.persist_done(persist, token, answer),
            Step::Abandon { member, .. } => self.abandon(member),
            Step::Closed { member, .. } => self.member_closed(member),
            Step::Reconnect { member, .. } => self.reconnect(member),
            Step::RetryFence { .. } => self.core(Event::RetryFence),
            Step::CheckDeadlines { .. } => self.check_deadlines(),
            Step::PauseLimit { pause, .. } => self.core(Event::PauseTimedOut { pause }),
            Step::PauseEnd { pause, .. } => self.pause_ends(pause),
            Step::RequestPause { .. } => self.core(Event::PauseRequested),
            _ => {}
        }
    }

    /// The engine dies: what it knew is gone, what it sent may still arrive.
    pub fn crash(&mut self) {
        if self.engine.take().is_some() {
            self.tally.crashes += 1;
            self.life += 1;
            self.oracle.crash();
            let delay = self.random.between(1_000, 20_000);
            self.time.after(delay, Step::Restart);
        }
    }

    /// An engine starts from what the replicas durably know.
    fn restart(&mut self) {
        let now = self.time.now_us();
        let candidates: Vec<_> = self
            .replicas
            .iter_mut()
            .map(|replica| Candidate { replica: replica.name.clone(), found: replica.attach(now) })
            .collect();
        let all_here = candidates.iter().all(|candidate| matches!(candidate.found, Found::Opened(..)));
        let incarnation = Incarnation(self.random.next() as u32);
        match assemble(candidates, SIZE_BYTES, incarnation, Missing::Refuse) {
            Ok(assembly) => {
                let cut_short = assembly.newest.incarnation() != incarnation;
                self.tally.caught_up += u64::from(cut_short && !assembly.laggards.is_empty());
                self.start(assembly);
            }
            Err(AssemblyError::Unverified(_) | AssemblyError::Behind { .. } | AssemblyError::NothingInSync)
                if !all_here =>
            {
                self.time.after(10_000, Step::Restart);
            }
            Err(error) => self.violate(Checker::LastMember, format!("no mirror: {error}")),
        }
    }

    fn start(&mut self, assembly: corriente::mirror::core::Assembly) {
        let mut out = Actions::new();
        let core = MirrorCore::start(&assembly, &mut out);
        let mut replica_of = [0; MAX_MEMBERS];
        for (member, open) in assembly.members.iter() {
            replica_of[member.get()] = self.number(&open.replica);
        }
        self.life += 1;
        self.engine = Some(Engine {
            core,
            members: assembly.members,
            replica_of,
            closed: MemberMask::EMPTY,
            copied: MemberMask::EMPTY,
            channels: Vec::new(),
            ios: BTreeMap::new(),
            legs: BTreeMap::new(),
            lanes: Default::default(),
            broken_pauses: Vec::new(),
            last_member_failed: false,
        });
        for action in out.drain() {
            self.act(action);
        }
        self.time.after(DEADLINE_US / 7, Step::CheckDeadlines { life: self.life });
    }

    pub fn number(&self, name: &corriente::name::ReplicaName) -> usize {
        self.replicas.iter().position(|replica| replica.name == *name).expect("one of ours")
    }
}
