//! Members that failed and come back for what they missed, as an engine and the driver of its mirror take them in.

use std::collections::VecDeque;

use corriente::mirror::core::{Event, FailureCause, MemberIndex, MemberMode, MemberOp};

use crate::check::Bug;
use crate::dirty::regions;
use crate::replica::{BLOCKS, SIZE_BYTES};
use crate::world::{DEADLINE_US, Fate, Kind, Step, Tracker, World};

/// Blocks that are locked and copied at once.
const PIECE: usize = 2;

/// A member that has joined and gets what it missed.
pub struct Returning {
    member: MemberIndex,
    attempt: u32,
    pieces: VecDeque<u64>,
    /// Writes there wait.
    locked: Option<u64>,
    held: Vec<u64>,
    is_written: bool,
}

fn blocks_of(piece: u64) -> std::ops::Range<usize> {
    let first = piece as usize * PIECE;
    first..BLOCKS.min(first + PIECE)
}

impl World {
    /// Of a member that failed and is awaited: it is tried again, given up, or deleted.
    pub fn what_to_do_about(&mut self, member: MemberIndex, may_return: bool) -> Option<Event> {
        match self.random.between(0, 1000) {
            0..30 => Some(Event::MemberForgotten { member }),
            30..60 => Some(Event::RemoveMember { member }),
            _ => may_return.then_some(Event::MemberBack { member }),
        }
    }

    /// Its replica is looked at, cut off from what it was sent before, and opened anew.
    pub fn bring_back(&mut self, member: MemberIndex) {
        let now = self.time.now_us();
        let Some(engine) = &mut self.engine else { return };
        let number = engine.replica_of[member.get()];
        let replica = &mut self.replicas[number];
        let joins = MemberIndex::all().any(|other| {
            let is_member = engine.members.get(other).is_some();
            is_member && matches!(engine.core.status().members[other.get()], None | Some(MemberMode::Wo))
        });
        if !replica.reachable(now) || joins || engine.dirty.unequal.left() > 0 {
            return;
        }
        let Some(held) = replica.records().held_of(engine.dirty.incarnation) else {
            self.tally.returns_forgotten += 1;
            return self.core(Event::MemberForgotten { member });
        };
        if self.bug != Some(Bug::NoCutOff) {
            replica.cut_off(engine.sessions[number]);
        }
        engine.sessions[number] = replica.session(false);
        engine.members.reopen(member, replica.open()).expect("the same replica");
        engine.returned[member.get()] = Some(held);
        engine.closed = engine.closed.without(member);
        // It may have been rebuilt before it failed.
        engine.copied = engine.copied.without(member);
        self.core(Event::MemberBack { member });
    }

    /// A new member takes writes; one that has returned gets what it missed.
    pub fn has_joined(&mut self, member: MemberIndex) {
        let (life, attempt) = (self.life, self.random.next() as u32);
        let Some(engine) = &mut self.engine else { return };
        if engine.returned[member.get()].is_none() {
            return;
        }
        let missed = *engine.dirty.log.missed(member).expect("it is awaited");
        let mut pieces: VecDeque<u64> = regions()
            .ranges(&missed, SIZE_BYTES)
            .flat_map(|range| range.start / 4096 / PIECE as u64..range.end.div_ceil(4096).div_ceil(PIECE as u64))
            .collect();
        if self.bug == Some(Bug::ForgetMissed) {
            // A region has two pieces.
            pieces.drain(..pieces.len().min(2));
        }
        self.abort_return();
        let Some(engine) = &mut self.engine else { return };
        let (locked, held, is_written) = (None, Vec::new(), false);
        engine.returning = Some(Returning { member, attempt, pieces, locked, held, is_written });
        self.time.after(50, Step::ReturnCopies { life, attempt });
    }

    pub fn is_synced(&mut self, member: MemberIndex) {
        let Some(engine) = &mut self.engine else { return };
        match engine.returned[member.get()].take() {
            Some(_) => self.tally.returned += 1,
            None => self.tally.rebuilt += 1,
        }
    }

    /// Whether a write must wait as its blocks are being copied.
    pub fn held_for_copy(&mut self, id: u64, block: usize) -> bool {
        let Some(returning) = self.engine.as_mut().and_then(|engine| engine.returning.as_mut()) else { return false };
        let held = returning.locked.is_some_and(|piece| blocks_of(piece).contains(&block));
        if held && self.bug != Some(Bug::CopyUnlocked) {
            returning.held.push(id);
            return true;
        }
        false
    }

    /// The one that is being brought up to date, if it is that attempt and takes writes still.
    fn returning(&mut self, attempt: u32) -> Option<&mut Returning> {
        let engine = self.engine.as_mut()?;
        let status = engine.core.status();
        let returning = engine.returning.as_mut().filter(|returning| returning.attempt == attempt)?;
        let is_on = status.members[returning.member.get()] == Some(MemberMode::Wo);
        is_on.then_some(returning)
    }

    /// Nobody is copied to any more: what waits goes on.
    pub fn abort_return(&mut self) {
        let Some(returning) = self.engine.as_mut().and_then(|engine| engine.returning.take()) else { return };
        for id in returning.held {
            self.begin(id);
        }
    }

    /// Locks the next piece, waits for writes from before, and copies it.
    pub fn return_copies(&mut self, attempt: u32) {
        let (life, now) = (self.life, self.time.now_us());
        let early = usize::from(self.bug == Some(Bug::SyncedEarly));
        let Some(returning) = self.returning(attempt) else {
            if self.engine.as_ref().and_then(|engine| engine.returning.as_ref()).is_some_and(|it| it.attempt == attempt)
            {
                self.tally.returns_failed += 1;
                self.abort_return();
            }
            return;
        };
        let member = returning.member;
        if returning.pieces.len() <= early {
            self.abort_return();
            return self.core(Event::MemberSynced { member });
        }
        let piece = returning.pieces[0];
        (returning.locked, returning.is_written) = (Some(piece), false);
        if self.writes_to(piece) && self.bug != Some(Bug::CopyUnlocked) {
            return self.time.after(40, Step::ReturnCopies { life, attempt });
        }
        let Some(engine) = &self.engine else { return };
        let sources: Vec<usize> = engine.core.view().rw.iter().map(|source| engine.replica_of[source.get()]).collect();
        let (number, range) = (engine.replica_of[member.get()], blocks_of(piece));
        let session = engine.sessions[number];
        let source = sources
            .into_iter()
            .find(|source| self.replicas[*source].reachable(now) && !self.random.chance(self.error_per_mille[*source]));
        let Some(source) = source else {
            return self.return_written(attempt, piece, Err(FailureCause::Gone));
        };
        let values = self.replicas[source].blocks[range.clone()].to_vec();
        let fate = self.fate(number);
        let delay = self.random.between(20, 900);
        let (lands, done) = match fate {
            Fate::Fine => (true, true),
            Fate::Fails { lands } | Fate::Vanishes { lands } => (lands, false),
        };
        if lands {
            let first = range.start;
            let write = Step::ReturnWrite { life, attempt, replica: number, session, first, values, done };
            self.time.after(delay, write);
        }
        if matches!(fate, Fate::Fails { .. }) {
            let outcome = Err(FailureCause::Medium);
            self.time.after(delay + 50, Step::ReturnWritten { life, attempt, piece, outcome });
        }
        let outcome = Err(FailureCause::Deadline);
        self.time.after(DEADLINE_US, Step::ReturnWritten { life, attempt, piece, outcome });
    }

    /// Whether a client's write of the piece has begun and has no answer.
    fn writes_to(&self, piece: u64) -> bool {
        let Some(engine) = &self.engine else { return false };
        engine.ios.values().any(|io| {
            let is_there = matches!(io.kind, Kind::Write { block, .. } if blocks_of(piece).contains(&block));
            is_there && !io.answered && matches!(io.tracker, Tracker::Write(_))
        })
    }

    pub fn return_write(
        &mut self,
        life: u32,
        attempt: u32,
        (number, session): (usize, u32),
        first: usize,
        values: Vec<u64>,
        done: bool,
    ) {
        let now = self.time.now_us();
        let replica = &mut self.replicas[number];
        if !replica.sessions.contains(&session) {
            return;
        }
        if replica.frozen_until_us > now {
            let again = Step::ReturnWrite { life, attempt, replica: number, session, first, values, done };
            return self.time.after(2_000, again);
        }
        let up = replica.up;
        if up {
            replica.blocks[first..first + values.len()].copy_from_slice(&values);
        }
        if done || !up {
            let (piece, outcome) = ((first / PIECE) as u64, if up { Ok(()) } else { Err(FailureCause::Gone) });
            self.time.after(30, Step::ReturnWritten { life, attempt, piece, outcome });
        }
        if self.faulty && self.random.chance(20) {
            self.crash();
        }
    }

    /// A piece is on the member, or is not.
    pub fn return_written(&mut self, attempt: u32, piece: u64, outcome: Result<(), FailureCause>) {
        let life = self.life;
        let Some(returning) = self.returning(attempt) else {
            return self.return_copies(attempt);
        };
        if returning.locked != Some(piece) || std::mem::replace(&mut returning.is_written, true) {
            return;
        }
        let member = returning.member;
        returning.locked = None;
        let held = std::mem::take(&mut returning.held);
        match outcome {
            Ok(()) => {
                returning.pieces.pop_front();
                self.tally.returned_pieces += 1;
                self.time.after(10, Step::ReturnCopies { life, attempt });
            }
            Err(cause) => {
                self.tally.returns_failed += 1;
                self.core(Event::MemberIoError { member, op: MemberOp::Write, cause });
            }
        }
        for id in held {
            self.begin(id);
        }
        if outcome.is_err() {
            self.abort_return();
        }
    }
}
