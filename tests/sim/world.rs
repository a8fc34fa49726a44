//! The world of one run: replicas, engines over them, a client of one of these, and what happens when.

use std::collections::{BTreeMap, VecDeque};

use corriente::mirror::core::dirty::{FoundDirty, StoreId};
use corriente::mirror::core::{
    AssemblyError, Candidate, ChannelState, DeadlineWheel, DirtyOrder, DirtyRecord, Epoch, Event, FailureCause,
    Generation, GenerationOrder, Incarnation, IoView, MAX_MEMBERS, MemberIndex, MemberMask, MemberOp, Members,
    MirrorCore, Missing, PauseId, ReadTracker, ReplicaRecords, Ticket, Waking, WriteTracker, assemble, salvage,
};

use crate::check::{Bug, Checker, Violation};
use crate::dirty::Dirty;
use crate::oracle::Oracle;
use crate::outage::Returning;
use crate::random::Random;
use crate::replica::{BLOCKS, Replica, SIZE_BYTES};
use crate::sleep::Sleep;
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
    Arrive {
        command: Command,
        replica: usize,
        session: u32,
        life: u32,
    },
    Return {
        life: u32,
        io: u64,
        member: MemberIndex,
        result: Result<u64, FailureCause>,
    },
    Deliver {
        life: u32,
        channel: usize,
        message: Message,
    },
    ViewApplied {
        life: u32,
        channel: usize,
        epoch: Epoch,
    },
    Quiesced {
        life: u32,
        channel: usize,
        pause: PauseId,
    },
    Report {
        life: u32,
        member: MemberIndex,
        op: MemberOp,
        cause: FailureCause,
    },
    PersistArrive {
        life: u32,
        persist: Persist,
        token: u32,
        replica: usize,
        session: u32,
        answered: bool,
    },
    PersistDone {
        life: u32,
        persist: Persist,
        token: u32,
        answer: PersistAnswer,
    },
    AskArrive {
        life: u32,
        member: MemberIndex,
        question: StoreId,
        replica: usize,
    },
    AskAgain {
        life: u32,
        question: StoreId,
    },
    AskDone {
        life: u32,
        member: MemberIndex,
        question: StoreId,
        found: Result<Box<ReplicaRecords>, FailureCause>,
    },
    Abandon {
        life: u32,
        member: MemberIndex,
    },
    Closed {
        life: u32,
        member: MemberIndex,
    },
    Reconnect {
        life: u32,
        member: MemberIndex,
    },
    RetryFence {
        life: u32,
    },
    CheckDeadlines {
        life: u32,
    },
    PauseLimit {
        life: u32,
        pause: PauseId,
    },
    PauseEnd {
        life: u32,
        pause: PauseId,
    },
    RequestPause {
        life: u32,
    },
    RegionsWanted {
        life: u32,
    },
    PieceWanted {
        life: u32,
        piece: u64,
    },
    DirtyArrive {
        life: u32,
        member: MemberIndex,
        store: StoreId,
        order: Box<DirtyOrder>,
        replica: usize,
        session: u32,
        answered: bool,
    },
    DirtyDone {
        life: u32,
        member: MemberIndex,
        store: StoreId,
        outcome: Result<(), StoreFailure>,
    },
    Quiet {
        life: u32,
    },
    PieceRead {
        life: u32,
        piece: u64,
    },
    PieceWrite {
        life: u32,
        piece: u64,
        member: MemberIndex,
        replica: usize,
        session: u32,
        first: usize,
        values: Vec<u64>,
        done: bool,
    },
    PieceWritten {
        life: u32,
        piece: u64,
        member: MemberIndex,
        done: bool,
    },
    PieceLate {
        life: u32,
        piece: u64,
    },
    ReturnCopies {
        life: u32,
        attempt: u32,
    },
    ReturnWrite {
        life: u32,
        attempt: u32,
        replica: usize,
        session: u32,
        first: usize,
        values: Vec<u64>,
        done: bool,
    },
    ReturnWritten {
        life: u32,
        attempt: u32,
        piece: u64,
        outcome: Result<(), FailureCause>,
    },
    SwitchBegins,
    SwitchCloses,
    SwitchEnds,
    Fault,
    Restore {
        replica: usize,
    },
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
    pub writer: Incarnation,
}

/// How an order to a replica failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFailure {
    Member(FailureCause),
    Superseded,
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
    ReleaseLogged,
    ReleasePieces,
    Drain,
}

#[derive(Debug, Clone)]
pub struct Persist {
    pub member: MemberIndex,
    pub generation: Generation,
    pub order: GenerationOrder,
    /// Where it is part of a claim.
    pub claim: Option<DirtyRecord>,
}

/// What a mirror hears of a record that it wanted stored.
#[derive(Debug, Clone)]
pub enum PersistAnswer {
    /// With what the replica held dirty.
    Stored(Box<FoundDirty>),
    Failed,
    /// The replica holds something else than what it was read to hold.
    Refused,
    /// Another mirror has claimed it.
    Superseded,
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
    pub log_held: VecDeque<u64>,
    pub piece_held: VecDeque<u64>,
    pub next_delivery_us: u64,
}

#[derive(Default, Clone)]
pub struct Lane {
    pub token: u32,
    pub busy: bool,
    pub queued: Option<Persist>,
    /// What the replica held when the engine was assembled, or took from it since.
    pub held: Option<Generation>,
}

/// What a crash takes away.
pub struct Engine {
    pub core: MirrorCore,
    pub dirty: Dirty,
    pub sleep: Option<Sleep>,
    /// A command waits until it is awake.
    pub is_commanded: bool,
    pub waking: Waking,
    /// The number of the next order to a replica, while it sleeps.
    pub stores: u32,
    /// Its attachments, by replica.
    pub sessions: Vec<u32>,
    pub members: Members,
    pub replica_of: [usize; MAX_MEMBERS],
    pub closed: MemberMask,
    pub copied: MemberMask,
    /// Of members that have returned, what their replicas held.
    pub returned: [Option<Generation>; MAX_MEMBERS],
    pub returning: Option<Returning>,
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
    pub dirty_stores: u64,
    pub cleared: u64,
    pub equalized: u64,
    pub waited_for_pieces: u64,
    pub stops: u64,
    pub wakes: u64,
    pub switches: u64,
    pub switches_back: u64,
    pub superseded: u64,
    pub taken_over: u64,
    pub refused: u64,
    pub asked_anew: u64,
    pub slept_on: u64,
    pub salvaged: u64,
    pub returned: u64,
    pub returned_pieces: u64,
    pub returns_failed: u64,
    pub returns_forgotten: u64,
    pub cut_off: u64,
}

pub struct World {
    pub time: Time<Step>,
    pub random: Random,
    pub replicas: Vec<Replica>,
    pub error_per_mille: Vec<u64>,
    /// The engine that a step is about, and which it is; none when that one is dead.
    pub engine: Option<Engine>,
    pub life: u32,
    /// The others that are alive.
    pub others: BTreeMap<u32, Engine>,
    /// The one that the client uses.
    pub serving: u32,
    pub lives: u32,
    /// It is being left for this one.
    /// The engine that was being closed could not be.
    pub stays_open: bool,
    pub closing: Option<u32>,
    /// There were two engines since the last start from nothing but replicas.
    pub two_raised: bool,
    pub oracle: Oracle,
    pub next_id: u64,
    /// Replica 0 never fails in this run.
    pub anchored: bool,
    /// Members that fail may come back.
    pub awaits_returns: bool,
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
        let awaits_returns = random.chance(800);
        let mut time = Time::new();
        time.at(0, Step::Restart);
        time.at(1, Step::ClientIssues);
        time.at(5_000, Step::Heal);
        time.at(2_000, Step::Fault);
        if random.chance(500) {
            time.at(8_000, Step::SwitchBegins);
        }
        time.at(FAULTS_END_US, Step::FaultsStop);
        time.at(END_US, Step::End);
        Self {
            time,
            random,
            replicas: (0..count).map(Replica::new).collect(),
            error_per_mille: vec![0; count],
            engine: None,
            life: 0,
            others: BTreeMap::new(),
            serving: 0,
            lives: 0,
            stays_open: false,
            closing: None,
            two_raised: false,
            oracle: Oracle::new(BLOCKS),
            next_id: 1,
            anchored,
            awaits_returns,
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
        self.enter(life_of(&step).unwrap_or(self.serving));
        self.take(step);
        self.pump();
    }

    /// What follows is about that engine.
    pub fn enter(&mut self, life: u32) {
        if self.life != life {
            let engine = self.others.remove(&life);
            if let Some(left) = std::mem::replace(&mut self.engine, engine) {
                self.others.insert(self.life, left);
            }
            self.life = life;
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::DirtyArrive { life, member, store, order, replica, session, answered } => {
                self.dirty_arrives(life, member, store, order, (replica, session), answered);
            }
            Step::PieceWrite { life, piece, member, replica, session, first, values, done } => {
                self.piece_write(life, piece, member, (replica, session), first, values, done);
            }
            Step::ClientIssues => self.client_issues(CLIENT_END_US),
            Step::Arrive { command, replica, session, life } => {
                self.arrive(command, replica, session, life);
            }
            Step::PersistArrive { life, persist, token, replica, session, answered } => {
                self.persist_arrives(life, persist, token, (replica, session), answered);
            }
            Step::ReturnWrite { life, attempt, replica, session, first, values, done } => {
                self.return_write(life, attempt, (replica, session), first, values, done);
            }
            Step::AskArrive { life, member, question, replica } => self.ask_arrives(life, member, question, replica),
            Step::SwitchBegins => self.switch_begins(),
            Step::SwitchCloses => self.switch_closes(),
            Step::SwitchEnds => self.switch_ends(),
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
            | Step::AskDone { life, .. }
            | Step::AskAgain { life, .. }
            | Step::Abandon { life, .. }
            | Step::Closed { life, .. }
            | Step::Reconnect { life, .. }
            | Step::RetryFence { life }
            | Step::CheckDeadlines { life }
            | Step::PauseLimit { life, .. }
            | Step::PauseEnd { life, .. }
            | Step::RegionsWanted { life }
            | Step::PieceWanted { life, .. }
            | Step::DirtyDone { life, .. }
            | Step::Quiet { life }
            | Step::PieceRead { life, .. }
            | Step::PieceWritten { life, .. }
            | Step::PieceLate { life, .. }
            | Step::ReturnCopies { life, .. }
            | Step::ReturnWritten { life, .. }
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
            Step::AskAgain { question, .. } => self.ask_again(question),
            Step::AskDone { member, question, found, .. } => self.ask_done(member, question, found),
            Step::Abandon { member, .. } => self.abandon(member),
            Step::Closed { member, .. } => self.member_closed(member),
            Step::Reconnect { member, .. } => self.reconnect(member),
            Step::RetryFence { .. } => self.core(Event::RetryFence),
            Step::CheckDeadlines { .. } => self.check_deadlines(),
            Step::PauseLimit { pause, .. } => self.core(Event::PauseTimedOut { pause }),
            Step::PauseEnd { pause, .. } => self.pause_ends(pause),
            Step::RequestPause { .. } => self.request_pause(),
            Step::RegionsWanted { .. } => self.regions_wanted(),
            Step::PieceWanted { piece, .. } => self.piece_wanted(piece),
            Step::DirtyDone { member, store, outcome, .. } => self.dirty_done(member, store, outcome),
            Step::Quiet { .. } => self.look_for_quiet_regions(),
            Step::PieceRead { piece, .. } => self.piece_read(piece),
            Step::PieceWritten { piece, member, done, .. } => self.piece_written(piece, member, done),
            Step::PieceLate { piece, .. } => self.piece_late(piece),
            Step::ReturnCopies { attempt, .. } => self.return_copies(attempt),
            Step::ReturnWritten { attempt, piece, outcome, .. } => self.return_written(attempt, piece, outcome),
            _ => {}
        }
    }

    /// The engine dies: what it knew is gone, what it sent may still arrive.
    pub fn crash(&mut self) {
        if self.engine.take().is_some() {
            self.tally.crashes += 1;
            self.check_dirty();
            if self.life != self.serving {
                return;
            }
            self.closing = None;
            self.oracle.crash();
            let delay = self.random.between(1_000, 20_000);
            self.time.after(delay, Step::Restart);
        }
    }

    /// The client goes on with an engine that is there, or with one that starts from what the replicas durably know.
    fn restart(&mut self) {
        if self.engine.is_some() {
            return;
        }
        let other = self.others.keys().next().copied();
        if let Some(life) = other.filter(|_| self.random.chance(500)) {
            self.tally.taken_over += 1;
            let kept = &self.others[&life].sessions;
            for (replica, kept) in self.replicas.iter_mut().zip(kept) {
                replica.sessions.retain(|session| session == kept);
            }
            return self.take_over(life);
        }
        // Their nodes go, too.
        self.others.clear();
        match self.assemble(true) {
            Ok(()) => (self.serving, self.two_raised) = (self.life, false),
            Err(AssemblyError::Unverified(_) | AssemblyError::Behind { .. } | AssemblyError::NothingInSync)
                if !self.all_here() =>
            {
                self.time.after(10_000, Step::Restart);
            }
            // Two engines raised generations, and the end came between those of one. An operator decides: nothing that was
            // acknowledged may be lost by that.
            Err(AssemblyError::Diverged(_)) if self.two_raised => match self.salvage() {
                true => self.serving = self.life,
                false => self.time.after(10_000, Step::Restart),
            },
            Err(error) => self.violate(Checker::LastMember, format!("no mirror: {error}")),
        }
    }

    fn salvage(&mut self) -> bool {
        let now = self.time.now_us();
        if !self.all_here() {
            return false;
        }
        let (mut candidates, mut sessions) = (Vec::new(), Vec::new());
        for replica in &mut self.replicas {
            let (found, session) = replica.attach(now, true);
            candidates.push(Candidate { replica: replica.name.clone(), found });
            sessions.push(session);
        }
        let incarnation = Incarnation(self.random.next() as u32);
        let Ok((assembly, _)) = salvage(candidates, SIZE_BYTES, incarnation) else { return false };
        self.tally.salvaged += 1;
        self.start(assembly, sessions);
        true
    }

    fn all_here(&self) -> bool {
        let now = self.time.now_us();
        self.replicas.iter().all(|replica| replica.reachable(now))
    }

    /// An engine starts over all replicas that can be reached, in a life of its own, which this is about from then on.
    pub fn assemble(&mut self, alone: bool) -> Result<(), AssemblyError> {
        let now = self.time.now_us();
        let (mut candidates, mut sessions) = (Vec::new(), Vec::new());
        for replica in &mut self.replicas {
            let (found, session) = replica.attach(now, alone);
            candidates.push(Candidate { replica: replica.name.clone(), found });
            sessions.push(session);
        }
        let incarnation = Incarnation(self.random.next() as u32);
        let assembly = assemble(candidates, SIZE_BYTES, incarnation, Missing::Refuse)?;
        let cut_short = assembly.newest.incarnation() != incarnation;
        self.tally.caught_up += u64::from(cut_short && !assembly.laggards.is_empty());
        self.start(assembly, sessions);
        Ok(())
    }

    fn start(&mut self, assembly: corriente::mirror::core::Assembly, sessions: Vec<u32>) {
        let core = MirrorCore::asleep(&assembly).awaiting_returns(self.awaits_returns);
        let waking = Waking::new(&assembly);
        let mut replica_of = [0; MAX_MEMBERS];
        for (member, open) in assembly.members.iter() {
            replica_of[member.get()] = self.number(&open.replica);
        }
        self.lives += 1;
        self.enter(self.lives);
        self.engine = Some(Engine {
            core,
            dirty: Dirty::of(&assembly),
            sleep: Some(Sleep::Asleep),
            is_commanded: false,
            waking,
            stores: 0,
            sessions,
            members: assembly.members,
            replica_of,
            closed: MemberMask::EMPTY,
            copied: MemberMask::EMPTY,
            returned: [None; MAX_MEMBERS],
            returning: None,
            channels: Vec::new(),
            ios: BTreeMap::new(),
            legs: BTreeMap::new(),
            lanes: assembly.holds.map(|held| Lane { held, ..Lane::default() }),
            broken_pauses: Vec::new(),
            last_member_failed: false,
        });
        self.open_channels();
        self.ask_all(self.time.now_us());
        self.time.after(DEADLINE_US / 7, Step::CheckDeadlines { life: self.life });
        self.time.after(10_000, Step::Quiet { life: self.life });
    }

    pub fn number(&self, name: &corriente::name::ReplicaName) -> usize {
        self.replicas.iter().position(|replica| replica.name == *name).expect("one of ours")
    }
}

/// Which engine a step is about.
fn life_of(step: &Step) -> Option<u32> {
    match step {
        Step::Arrive { life, .. }
        | Step::Return { life, .. }
        | Step::Deliver { life, .. }
        | Step::ViewApplied { life, .. }
        | Step::Quiesced { life, .. }
        | Step::Report { life, .. }
        | Step::PersistArrive { life, .. }
        | Step::PersistDone { life, .. }
        | Step::AskArrive { life, .. }
        | Step::AskDone { life, .. }
        | Step::AskAgain { life, .. }
        | Step::Abandon { life, .. }
        | Step::Closed { life, .. }
        | Step::Reconnect { life, .. }
        | Step::RetryFence { life }
        | Step::CheckDeadlines { life }
        | Step::PauseLimit { life, .. }
        | Step::PauseEnd { life, .. }
        | Step::RequestPause { life }
        | Step::RegionsWanted { life }
        | Step::PieceWanted { life, .. }
        | Step::DirtyArrive { life, .. }
        | Step::DirtyDone { life, .. }
        | Step::Quiet { life }
        | Step::PieceRead { life, .. }
        | Step::PieceWrite { life, .. }
        | Step::PieceWritten { life, .. }
        | Step::PieceLate { life, .. }
        | Step::ReturnCopies { life, .. }
        | Step::ReturnWrite { life, .. }
        | Step::ReturnWritten { life, .. } => Some(*life),
        Step::ClientIssues
        | Step::SwitchBegins
        | Step::SwitchCloses
        | Step::SwitchEnds
        | Step::Fault
        | Step::Restore { .. }
        | Step::Crash
        | Step::Heal
        | Step::Restart
        | Step::FaultsStop
        | Step::End => None,
    }
}
