//! The driver's part in making members equal after a crash: which piece is copied when, and what its end means.
//!
//! A piece is equal when every member that a crash could bring back has it, also one that is out and not durably so. So while
//! such a member is there, none is begun and none counts.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;

use super::super::core::{FailureCause, MemberIndex, MemberMask, MemberOp, OVERDUE_DEADLINES, RegionSet};
use super::super::device::Report;
use super::super::member::OpenedMember;
use super::{Driver, Event};
use crate::faults::{self, Point};
use crate::spdk::OnControl;
use crate::spdk::dma::DmaBuffer;

/// The members that a copy waits for, for whoever looks whether they answer in time.
type Waiting = Rc<Cell<MemberMask>>;

/// A copy that runs.
pub(super) struct PieceCopy {
    piece: u64,
    waiting: Waiting,
    clock: tokio::task::JoinHandle<()>,
}

/// How a copy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct PieceOutcome {
    /// These have the same.
    has: MemberMask,
    /// These could not be written.
    failed: MemberMask,
    /// Some block of it could be read from no member.
    unreadable: bool,
}

impl PieceOutcome {
    const NOTHING: Self = Self { has: MemberMask::EMPTY, failed: MemberMask::EMPTY, unreadable: false };
}

/// A member and its place.
type Member = (MemberIndex, Arc<OpenedMember>);

/// How long a piece rests whose copy brought nothing.
const REST: Duration = Duration::from_millis(200);

/// So often a piece is tried that no member can read: those that are only out of reach have left by then.
const UNREADABLE_TRIES: u32 = 30;

impl Driver {
    /// Whether members may differ still.
    pub(super) fn is_unequal(&self) -> bool {
        self.vdev.as_ref().is_some_and(|vdev| vdev.device().unequal().left() > 0)
    }

    /// A client's I/O waits for this piece.
    pub(super) async fn piece_wanted(&mut self, piece: u64) {
        let Some(vdev) = &self.vdev else { return };
        let device = vdev.device().clone();
        match device.unequal().is_left(piece) {
            true => self.equalizer.demand(piece, device.unequal()),
            // It became so between the channel's look and its word.
            false => self.visited(vdev.for_each_channel(move |channel| channel.release_pieces(&device)).await),
        }
    }

    /// Begins the copies that may run now. With one member left there is nothing to be equal to.
    pub(super) async fn pump_pieces(&mut self) {
        let view = self.core.view();
        if !self.is_unequal() || !view.unfenced.is_empty() || self.stopping {
            return;
        }
        if view.written().count() < 2 {
            // A copy that runs may still write to the one that is left.
            let alone = view.written().count() == 1 && self.copies.is_empty();
            if let Some(vdev) = self.vdev.as_ref().filter(|_| alone) {
                self.equalizer.give_up(vdev.device().unequal());
                tracing::warn!(mirror = %self.name, "one member is left, so no other is to be made equal to it");
                self.all_equal().await;
            }
            return;
        }
        while let Some(piece) = self.vdev.as_ref().and_then(|vdev| self.equalizer.next(vdev.device().unequal())) {
            self.copy_piece(piece);
        }
    }

    fn copy_piece(&mut self, piece: u64) {
        let Some(vdev) = &self.vdev else { return };
        let blocks = vdev.device().unequal().blocks(piece);
        let block = u64::from(self.geometry.block_size);
        let range = blocks.start * block..blocks.end * block;
        let written = self.core.view().written();
        let mut members: Vec<_> =
            written.iter().filter_map(|place| Some((place, self.opened[place.get()].clone()?))).collect();
        let local = self.members.local();
        members.sort_by_key(|(place, _)| !local.contains(*place));
        let waiting = Waiting::default();
        let (limit, late) = (self.deadlines.limit, self.reports.0.clone());
        let clock = self.tokio.spawn(async move {
            for times in 1.. {
                tokio::time::sleep(limit).await;
                let _ = late.unbounded_send(Report::PieceLate { piece, times });
            }
        });
        self.copies.push(PieceCopy { piece, waiting: waiting.clone(), clock });
        let (on, reports, tokio) = (self.on, self.reports.0.clone(), self.tokio.clone());
        on.thread().spawn(async move {
            let outcome = equalize(on, &members, range, &waiting).await;
            let ended = Report::PieceEnded { piece, outcome };
            if outcome.unreadable || (outcome.has.is_empty() && outcome.failed.is_empty()) {
                tokio.spawn(async move {
                    tokio::time::sleep(REST).await;
                    let _ = reports.unbounded_send(ended);
                });
            } else {
                let _ = reports.unbounded_send(ended);
            }
        });
    }

    /// A copy takes longer than a member may: those it waits for are late, or given up.
    pub(super) fn piece_late(&mut self, piece: u64, times: u32) {
        let Some(copy) = self.copies.iter().find(|copy| copy.piece == piece) else { return };
        let cause = if times >= OVERDUE_DEADLINES { FailureCause::Gone } else { FailureCause::Deadline };
        for member in copy.waiting.get().iter() {
            self.event(Event::MemberIoError { member, op: MemberOp::Write, cause });
        }
    }

    /// A copy has ended.
    pub(super) async fn piece_ended(&mut self, piece: u64, outcome: PieceOutcome) {
        if let Some(at) = self.copies.iter().position(|copy| copy.piece == piece) {
            self.copies.swap_remove(at).clock.abort();
        }
        let view = self.core.view();
        let mut equal = view.written().or(view.unfenced).minus(outcome.has).is_empty();
        if outcome.unreadable {
            let tries = self.unreadable.entry(piece).or_insert(0);
            *tries += 1;
            // Then whoever reads it gets the error, from any of them.
            equal &= *tries >= UNREADABLE_TRIES;
        }
        for member in outcome.failed.iter() {
            self.event(Event::MemberIoError { member, op: MemberOp::Write, cause: FailureCause::Medium });
        }
        let Some(vdev) = &self.vdev else { return };
        let unequal = vdev.device().unequal();
        self.equalizer.ended(piece, equal, unequal);
        match (equal, unequal.left()) {
            (false, _) => {
                // Whoever waits for it has asked once.
                if vdev.device().holds_for_pieces() {
                    self.equalizer.demand(piece, unequal);
                }
            }
            (true, 0) => self.all_equal().await,
            (true, _) => self.piece_equal(piece).await,
        }
    }

    /// Begins no copy any more, and waits for those that run; their members are late or gone as ever. A flush that runs is waited
    /// for as long as a member may take for an I/O: it has the members open.
    pub(super) async fn end_copies(&mut self) {
        self.stopping = true;
        let limit = self.deadlines.limit;
        let mut limit = self.tokio.spawn(async move { tokio::time::sleep(limit).await });
        loop {
            let flushing = self.dirty.as_ref().is_some_and(|dirty| dirty.flushing) && !limit.is_finished();
            if self.copies.is_empty() && !flushing {
                return limit.abort();
            }
            tokio::select! {
                Some(report) = self.reports.1.next() => self.report(report).await,
                Some(event) = self.events.1.next() => self.event(event),
                _ = &mut limit, if flushing => {}
            }
            self.carry_out().await;
        }
    }

    /// Lets those go on who waited for the piece, and tells the log when it was the last of its region.
    async fn piece_equal(&mut self, piece: u64) {
        let Some(vdev) = &self.vdev else { return };
        let device = vdev.device().clone();
        if let Some(dirty) = &mut self.dirty {
            let block = u64::from(self.geometry.block_size);
            let blocks = device.unequal().blocks(piece);
            // Pieces are not larger than regions.
            let region = dirty.regions.touched(blocks.start * block..blocks.end * block);
            let mut ranges = dirty.regions.ranges(&region, self.geometry.size());
            let is_equal = |range: Range<u64>| {
                device.unequal().first_in(range.start / block, (range.end - range.start).div_ceil(block)).is_none()
            };
            if ranges.all(is_equal) {
                dirty.log.set_equal(&region);
            }
        }
        if device.holds_for_pieces() {
            self.visited(vdev.for_each_channel(move |channel| channel.release_pieces(&device)).await);
        }
    }

    async fn all_equal(&mut self) {
        let Some(vdev) = &self.vdev else { return };
        let device = vdev.device().clone();
        if let Some(dirty) = &mut self.dirty {
            dirty.log.set_equal(&RegionSet::ALL);
        }
        tracing::info!(mirror = %self.name, "all members are equal again");
        self.visited(vdev.for_each_channel(move |channel| channel.release_pieces(&device)).await);
    }
}

/// Makes a range the same on all members: what the first that can be read has. What is the same already is not written, so that
/// a thin replica takes no space for it.
async fn equalize(on: OnControl, members: &[Member], range: Range<u64>, waiting: &Waiting) -> PieceOutcome {
    if faults::fails(Point::EqualizeBegins) {
        return PieceOutcome::NOTHING;
    }
    let outcome = match make_equal(on, members, range.clone(), waiting).await {
        outcome if outcome.unreadable => by_blocks(on, members, range, waiting).await,
        outcome => outcome,
    };
    faults::fails(Point::EqualizeDone);
    outcome
}

/// No member can read all of the range: block by block, from whoever can.
async fn by_blocks(on: OnControl, members: &[Member], range: Range<u64>, waiting: &Waiting) -> PieceOutcome {
    let all = members.iter().map(|(place, _)| *place).collect();
    let mut sum = PieceOutcome { has: all, ..PieceOutcome::NOTHING };
    let step = members.first().map_or(1, |(_, member)| u64::from(member.open.block_bytes).max(1));
    for start in range.clone().step_by(step as usize) {
        let block = make_equal(on, members, start..range.end.min(start + step), waiting).await;
        sum.failed = sum.failed.or(block.failed);
        match block.unreadable {
            true => sum.unreadable = true,
            false => sum.has = sum.has.and(block.has),
        }
    }
    sum
}

async fn make_equal(on: OnControl, members: &[Member], range: Range<u64>, waiting: &Waiting) -> PieceOutcome {
    let length = (range.end - range.start) as usize;
    let buffers = members.iter().map(|_| DmaBuffer::zeroed(length)).collect::<Result<Vec<_>, _>>();
    let buffers = match buffers {
        Ok(buffers) => buffers,
        Err(error) => {
            tracing::warn!(%error, "members cannot be compared now");
            return PieceOutcome::NOTHING;
        }
    };
    let reads = members.iter().zip(buffers).map(async |((place, member), buffer)| {
        watched(*place, waiting, async { member.bdev.channel(on.thread())?.read(range.start, buffer).await }).await
    });
    let mut contents: Vec<_> = join_all(reads).await.into_iter().map(Result::ok).collect();
    let Some(source) = contents.iter().position(Option::is_some) else {
        return PieceOutcome { unreadable: true, ..PieceOutcome::NOTHING };
    };
    let differs: Vec<bool> = contents.iter().map(|content| content.as_deref() != contents[source].as_deref()).collect();
    let mut truth = contents[source].take();
    let mut outcome = PieceOutcome::NOTHING;
    // One after the other, as a buffer belongs to the I/O it is used by.
    for ((place, member), differs) in members.iter().zip(differs) {
        let written = match truth.take() {
            Some(content) if differs => {
                let writing = async { member.bdev.channel(on.thread())?.write(range.start, content).await };
                watched(*place, waiting, writing).await
            }
            Some(content) => Ok(content),
            // The write before failed and took the buffer along: the rest is for another time.
            None => return outcome,
        };
        match written {
            Ok(content) => {
                outcome.has = outcome.has.with(*place);
                truth = Some(content);
            }
            Err(error) => {
                let replica = &member.open.replica;
                tracing::warn!(%replica, offset = range.start, %error, "a member could not be made equal");
                outcome.failed = outcome.failed.with(*place);
            }
        }
    }
    outcome
}

/// Shows the member among those that are waited for.
async fn watched<T>(place: MemberIndex, waiting: &Waiting, io: impl Future<Output = T>) -> T {
    waiting.set(waiting.get().with(place));
    let result = io.await;
    waiting.set(waiting.get().without(place));
    result
}
