//! The mirror's bdev: the hot path. Each client I/O runs through the trackers of [`super::core`] on its own channel;
//! what a channel learns about members goes to the driver as a report.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc::UnboundedSender;

use super::core::control::PauseId;
use super::core::dirty::StoreId;
use super::core::{
    ChannelState, DirtyRecord, FailureCause, Generation, HotMap, IoView, MAX_MEMBERS, MemberIndex, MemberMask,
    MemberOp, ReadOutcome, ReadPolicy, ReadTracker, RegionSet, ReplicaRecords, UnequalMap, WriteOutcome, WriteTracker,
};
use super::deadlines::{DeadlineSettings, Late, LegTickets, MemberDeadlines};
use super::driver::{ClaimFailure, PieceOutcome, StoreFailure};
use super::member::{MemberFlush, OpenedMember};
use super::range_gate::{BlockRange, RangeGate, Turn};
use crate::spdk::bdev::{IoChannel, IoKind};
use crate::spdk::vdev::{LegError, Vdev, Vio};
use crate::spdk::{Errno, OnThread, status};

/// What a channel tells the driver. Bounded: a member is reported once a view, a pause drains once, an I/O waits for one piece
/// at a time.
#[derive(Debug, Clone)]
pub(super) enum Report {
    /// I/O to a member failed.
    MemberError { member: MemberIndex, op: MemberOp, cause: FailureCause, error: LegError },
    /// Its device is going away.
    MemberRemoved(MemberIndex),
    /// The last client I/O of a pause has its answer.
    Quiesced(PauseId),
    /// No change from before the range was locked is in flight.
    RangeDrained,
    /// A client's I/O came while the mirror sleeps.
    WakeWanted,
    /// What a member's replica holds, or why it does not tell, while the mirror wakes.
    Found { member: MemberIndex, question: StoreId, records: Result<Box<ReplicaRecords>, FailureCause> },
    /// Members are to be asked again what they hold, after that question.
    AskAgain(StoreId),
    /// A member's replica holds that generation and was claimed, with what it held dirty; or could not be.
    Claimed { member: MemberIndex, generation: Generation, outcome: Result<Box<DirtyRecord>, ClaimFailure> },
    /// Writes wait for regions ([`MirrorDevice::take_wanted`]).
    RegionsWanted,
    /// A member has stored its dirty regions, or has not.
    DirtyStored { member: MemberIndex, store: StoreId, outcome: Result<(), StoreFailure> },
    /// The members' disks are flushed, or not all of them.
    DirtyFlushed { done: bool },
    /// An I/O waits until the members are equal in this piece.
    PieceWanted(u64),
    /// The copy of a piece takes so many deadlines already.
    PieceLate { piece: u64, times: u32 },
    /// The copy of a piece has ended.
    PieceEnded { piece: u64, outcome: PieceOutcome },
}

/// What a new channel starts from.
struct Shared {
    view: IoView,
    paused: bool,
    locked: Option<BlockRange>,
    members: [Option<Arc<OpenedMember>>; MAX_MEMBERS],
}

/// The device, shared by all reactors.
pub(super) struct MirrorDevice {
    policy: ReadPolicy,
    deadlines: DeadlineSettings,
    shared: Mutex<Shared>,
    reports: UnboundedSender<Report>,
    /// Channels with client I/O in flight in the pause that is on, plus one while it is being announced.
    draining: AtomicI64,
    /// Some I/O came, or was in flight, since the deadlines were last looked at. A reactor of idle volumes is not woken.
    active: AtomicBool,
    /// The same as `draining` for changes from before a range was locked.
    range_draining: AtomicI64,
    pause: AtomicU32,
    /// Unreadable ranges reported and not taken by the driver yet; bounded, as a client may read a bad block in a loop.
    read_errors: AtomicU32,
    /// I/O that ended with an error for the client.
    client_errors: AtomicU64,
    /// All channels are paused until the driver has claimed the members.
    asleep: AtomicBool,
    /// The driver was told that I/O waits for that.
    wake_asked: AtomicBool,
    /// Where writes may begin.
    hot: HotMap,
    /// The driver was told that regions are wanted, and has not taken them yet.
    asked: AtomicBool,
    /// Where members may differ since a crash.
    unequal: UnequalMap,
    /// I/O that waits for a piece, over all channels.
    piece_waits: AtomicU32,
}

/// Reports of unreadable ranges that wait for the driver at most; more are dropped, a log line each is enough.
const READ_ERROR_LIMIT: u32 = 64;

/// A member as one channel reaches it.
struct MemberPath {
    channel: IoChannel,
    flush: MemberFlush,
}

/// One reactor's share of a mirror.
pub(super) struct MirrorChannel {
    on: OnThread,
    state: RefCell<ChannelState>,
    deadlines: RefCell<MemberDeadlines>,
    /// Mutably borrowed only when a view or a member changes, which never happens inside a submit.
    paths: RefCell<[Option<MemberPath>; MAX_MEMBERS]>,
    /// Writes that some member missed, until the survivors' generation is durable.
    parked: RefCell<Vec<Vio<MirrorDevice>>>,
    /// Client I/O that came during a pause. Bounded by the queue depths of the clients above.
    held: RefCell<VecDeque<Vio<MirrorDevice>>>,
    gate: RefCell<RangeGate>,
    /// Changes of the locked range; bounded as `held` is.
    range_held: RefCell<VecDeque<Vio<MirrorDevice>>>,
    /// Writes into regions that are not dirty on every member yet; bounded as `held` is.
    log_held: RefCell<VecDeque<Vio<MirrorDevice>>>,
    /// I/O, and the piece that it waits for, as it is not equal yet; bounded as `held` is.
    piece_held: RefCell<VecDeque<(u64, Vio<MirrorDevice>)>>,
}

/// The state of one client I/O, inside its context.
#[derive(Clone, Copy)]
pub(super) enum MirrorIo {
    Fresh,
    Read {
        tracker: ReadTracker,
        outcome: ReadOutcome,
        tickets: LegTickets,
    },
    Write {
        tracker: WriteTracker,
        outcome: WriteOutcome,
        tickets: LegTickets,
        turn: Option<Turn>,
        /// The last leg that failed had no space left.
        full: bool,
    },
}

impl MirrorDevice {
    pub(super) fn new(
        policy: ReadPolicy,
        deadlines: DeadlineSettings,
        view: IoView,
        members: [Option<Arc<OpenedMember>>; MAX_MEMBERS],
        reports: UnboundedSender<Report>,
        hot: HotMap,
        unequal: UnequalMap,
    ) -> Self {
        Self {
            policy,
            deadlines,
            shared: Mutex::new(Shared { view, paused: false, locked: None, members }),
            reports,
            draining: AtomicI64::new(0),
            active: AtomicBool::new(false),
            range_draining: AtomicI64::new(0),
            pause: AtomicU32::new(0),
            read_errors: AtomicU32::new(0),
            client_errors: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            wake_asked: AtomicBool::new(false),
            hot,
            asked: AtomicBool::new(false),
            unequal,
            piece_waits: AtomicU32::new(0),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Channels that open from now on start with this view.
    pub(super) fn set_view(&self, view: IoView) {
        self.shared().view = view;
    }

    /// Channels that open from now on have this member.
    pub(super) fn add_member(&self, member: MemberIndex, opened: Arc<OpenedMember>) {
        self.shared().members[member.get()] = Some(opened);
    }

    /// Channels that open from now on lack this member.
    pub(super) fn forget_member(&self, member: MemberIndex) {
        self.shared().members[member.get()] = None;
    }

    /// Where writes may begin.
    pub(super) fn hot(&self) -> &HotMap {
        &self.hot
    }

    /// The regions that writes wait for since the last call.
    pub(super) fn take_wanted(&self) -> RegionSet {
        // First, so that what is wanted from here on is told anew.
        self.asked.store(false, Ordering::SeqCst);
        self.hot.take_wanted()
    }

    /// Where members may differ since a crash.
    pub(super) fn unequal(&self) -> &UnequalMap {
        &self.unequal
    }

    /// Channels that open from now on are not paused any more. To be followed by [`MirrorChannel::resume`] on each.
    pub(super) fn wake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
        self.wake_asked.store(false, Ordering::SeqCst);
        self.end_pause();
    }

    /// All channels are paused, and stay so; I/O that comes asks the driver to wake. To be followed by
    /// [`MirrorChannel::ask_if_held`] on each.
    pub(super) fn sleep(&self) {
        self.shared().paused = true;
        self.wake_asked.store(false, Ordering::SeqCst);
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// Whether I/O waits for the mirror to wake, also when the driver has not heard of it yet.
    pub(super) fn is_asked_to_wake(&self) -> bool {
        self.wake_asked.load(Ordering::SeqCst)
    }

    #[cold]
    fn hold(&self, channel: &MirrorChannel, io: Vio<Self>) {
        channel.held.borrow_mut().push_back(io);
        self.ask_to_wake();
    }

    fn ask_to_wake(&self) {
        if self.asleep.load(Ordering::SeqCst) && !self.wake_asked.swap(true, Ordering::SeqCst) {
            self.report(Report::WakeWanted);
        }
    }

    /// Whether any I/O waits for a piece.
    pub(super) fn holds_for_pieces(&self) -> bool {
        self.piece_waits.load(Ordering::SeqCst) > 0
    }

    #[cold]
    fn hold_for_log(&self, channel: &MirrorChannel, io: Vio<Self>) {
        self.hot.want(io.offset_blocks(), io.block_count());
        channel.log_held.borrow_mut().push_back(io);
        if !self.asked.swap(true, Ordering::SeqCst) {
            self.report(Report::RegionsWanted);
        }
    }

    /// Without a member that can be written there is nothing that could make the piece equal, and nothing to wait for.
    #[cold]
    fn hold_for_piece(&self, channel: &MirrorChannel, io: Vio<Self>, piece: u64) {
        if channel.state.borrow().begin_write().is_err() {
            return self.answer(channel, io, false);
        }
        self.piece_waits.fetch_add(1, Ordering::SeqCst);
        channel.piece_held.borrow_mut().push_back((piece, io));
        self.report(Report::PieceWanted(piece));
    }

    /// Whether there is anything to look at for deadlines; asking begins a new time.
    pub(super) fn take_active(&self) -> bool {
        self.active.swap(false, Ordering::Relaxed)
    }

    fn set_active(&self) {
        // Most I/O finds it set, and a load leaves the cache line shared.
        if !self.active.load(Ordering::Relaxed) {
            self.active.store(true, Ordering::Relaxed);
        }
    }

    /// Begins to drain: channels that open from now on are paused. To be followed by [`MirrorChannel::pause`] on each
    /// channel and [`Self::pause_announced`].
    pub(super) fn begin_pause(&self, pause: PauseId) {
        self.pause.store(pause.0, Ordering::Relaxed);
        self.draining.store(1, Ordering::Release);
        self.shared().paused = true;
    }

    /// All channels know of the pause.
    pub(super) fn pause_announced(&self) {
        self.channel_drained();
    }

    /// Channels that open from now on are not paused.
    pub(super) fn end_pause(&self) {
        self.shared().paused = false;
    }

    /// Begins to lock a range. To be followed by [`MirrorChannel::lock_range`] on each channel and
    /// [`Self::lock_announced`].
    pub(super) fn begin_lock(&self, range: BlockRange) {
        self.range_draining.store(1, Ordering::Release);
        self.shared().locked = Some(range);
    }

    /// All channels know of the lock.
    pub(super) fn lock_announced(&self) {
        self.range_drained();
    }

    /// Channels that open from now on have no locked range.
    pub(super) fn end_lock(&self) {
        self.shared().locked = None;
    }

    fn range_drained(&self) {
        if self.range_draining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.report(Report::RangeDrained);
        }
    }

    fn channel_drained(&self) {
        if self.draining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.report(Report::Quiesced(PauseId(self.pause.load(Ordering::Relaxed))));
        }
    }

    /// I/O that ended with an error for the client, since the start.
    pub(super) fn client_errors(&self) -> u64 {
        self.client_errors.load(Ordering::Relaxed)
    }

    fn report(&self, report: Report) {
        // The driver outlives the device; if it is gone, so is whoever could act on this.
        let _ = self.reports.unbounded_send(report);
    }

    fn report_read_error(&self, member: MemberIndex, error: LegError) {
        if self.read_errors.fetch_add(1, Ordering::Relaxed) < READ_ERROR_LIMIT {
            self.report(Report::MemberError { member, op: MemberOp::Read, cause: FailureCause::Medium, error });
        } else {
            self.read_errors.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The driver has taken a report of an unreadable range.
    pub(super) fn read_error_taken(&self) {
        self.read_errors.fetch_sub(1, Ordering::Relaxed);
    }

    fn blame(&self, channel: &MirrorChannel, members: MemberMask, op: MemberOp, error: LegError) {
        let cause = cause_of(error);
        let fresh = channel.state.borrow_mut().blame(members, cause);
        for member in fresh.iter() {
            self.report(Report::MemberError { member, op, cause, error });
        }
    }

    #[cold]
    fn leg_failed(&self, channel: &MirrorChannel, member: MemberIndex, op: MemberOp, error: LegError) {
        if op == MemberOp::Read && cause_of(error) == FailureCause::Medium {
            self.report_read_error(member, error);
        } else {
            self.blame(channel, MemberMask::of(member), op, error);
        }
    }

    fn read(&self, channel: &MirrorChannel, mut io: Vio<Self>) {
        if let Some(piece) = self.unequal.first_in(io.offset_blocks(), io.block_count()) {
            return self.hold_for_piece(channel, io, piece);
        }
        let tracker = channel.state.borrow_mut().begin_read();
        match tracker {
            Ok(tracker) => {
                let member = tracker.target();
                let tickets = channel.deadlines.borrow_mut().submit(MemberMask::of(member), IoKind::Read);
                *io.state() = MirrorIo::Read { tracker, outcome: ReadOutcome::Wait, tickets };
                self.read_leg(channel, io, member);
            }
            Err(_) => self.answer(channel, io, false),
        }
    }

    #[cold]
    fn read_again(&self, channel: &MirrorChannel, mut io: Vio<Self>, member: MemberIndex) {
        if let MirrorIo::Read { tickets, .. } = io.state() {
            *tickets = channel.deadlines.borrow_mut().submit(MemberMask::of(member), IoKind::Read);
        }
        self.read_leg(channel, io, member);
    }

    fn read_leg(&self, channel: &MirrorChannel, io: Vio<Self>, member: MemberIndex) {
        channel.state.borrow_mut().leg_submitted(member);
        let mut fork = io.fork();
        match &channel.paths.borrow()[member.get()] {
            Some(path) => fork.submit(member.get() as u8, &path.channel),
            None => fork.pledge(member.get() as u8).redeem(Err(LegError::Refused(Errno::ENODEV))),
        }
        fork.finish();
    }

    fn write(&self, channel: &MirrorChannel, mut io: Vio<Self>) {
        let tracker = channel.state.borrow().begin_write();
        let Ok(tracker) = tracker else {
            self.answer(channel, io, false);
            return;
        };
        let flush = io.kind() == IoKind::Flush;
        if !flush {
            let (first, count) = (io.offset_blocks(), io.block_count());
            if let Some(piece) = self.unequal.first_in(first, count) {
                return self.hold_for_piece(channel, io, piece);
            }
            if !self.hot.admits(first, count) {
                return self.hold_for_log(channel, io);
            }
        }
        let turn = if flush { None } else { channel.gate.borrow_mut().admit(io.offset_blocks(), io.block_count()) };
        if turn.is_none() && !flush {
            channel.range_held.borrow_mut().push_back(io);
            return;
        }
        let tickets = channel.deadlines.borrow_mut().submit(tracker.targets(), io.kind());
        *io.state() = MirrorIo::Write { tracker, outcome: WriteOutcome::Wait, tickets, turn, full: false };
        let mut fork = io.fork();
        channel.state.borrow_mut().legs_submitted(tracker.targets());
        let paths = channel.paths.borrow();
        for member in tracker.targets().iter() {
            let leg = member.get() as u8;
            match &paths[member.get()] {
                Some(MemberPath { flush: MemberFlush::Disk(disk), .. }) if flush => {
                    let pledge = fork.pledge(leg);
                    let reply = channel.on.expect(move |done: Option<bool>| {
                        let failed = LegError::Refused(Errno::EIO);
                        pledge.redeem(if done == Some(true) { Ok(()) } else { Err(failed) });
                    });
                    disk.flush(reply);
                }
                Some(path) => fork.submit(leg, &path.channel),
                None => fork.pledge(leg).redeem(Err(LegError::Refused(Errno::ENODEV))),
            }
        }
        drop(paths);
        fork.finish();
    }

    /// Answers the client and counts its I/O out.
    fn answer(&self, channel: &MirrorChannel, mut io: Vio<Self>, success: bool) {
        let drained = channel.state.borrow_mut().retire();
        if success {
            io.succeed()
        } else {
            self.client_errors.fetch_add(1, Ordering::Relaxed);
            let full = matches!(io.state(), MirrorIo::Write { full: true, .. });
            status::fail_with(io, if full { status::CAPACITY_EXCEEDED } else { status::INTERNAL_ERROR });
        }
        if drained {
            self.channel_drained();
        }
    }

    /// Counts a change out of the gate and answers the client.
    fn answer_write(&self, channel: &MirrorChannel, mut io: Vio<Self>, success: bool) {
        if let MirrorIo::Write { turn: Some(turn), .. } = *io.state()
            && channel.gate.borrow_mut().retire(turn)
        {
            self.range_drained();
        }
        self.answer(channel, io, success);
    }

    fn write_over(&self, channel: &MirrorChannel, io: Vio<Self>, outcome: WriteOutcome) {
        match outcome {
            WriteOutcome::Complete => self.answer_write(channel, io, true),
            WriteOutcome::Fail(_) => self.answer_write(channel, io, false),
            WriteOutcome::Park(missed) => {
                self.blame(channel, missed, MemberOp::Write, LegError::Refused(Errno::EIO));
                channel.parked.borrow_mut().push(io);
            }
            WriteOutcome::Wait => unreachable!("all legs of a write are back, so its tracker has decided"),
        }
    }
}

fn cause_of(error: LegError) -> FailureCause {
    /// NVMe status code types: generic, media and data integrity, path related.
    const GENERIC: i32 = 0;
    const PATH: i32 = 3;
    /// Generic codes that mean the queue went away under the command: aborts and a deleted submission queue.
    const ABORTED: std::ops::RangeInclusive<i32> = 7..=8;
    match error {
        LegError::Refused(Errno::ENODEV) => FailureCause::Gone,
        LegError::Refused(_) => FailureCause::Medium,
        LegError::Status { sct: PATH, .. } => FailureCause::Gone,
        LegError::Status { sct: GENERIC, sc } if ABORTED.contains(&sc) => FailureCause::Gone,
        LegError::Status { .. } => FailureCause::Medium,
    }
}

impl Vdev for MirrorDevice {
    type Channel = MirrorChannel;
    type Io = MirrorIo;
    const PRODUCT: &'static CStr = c"Corriente mirror";

    fn supports(&self, kind: IoKind) -> bool {
        kind != IoKind::Reset
    }

    fn open_channel(&self, on: OnThread) -> Result<MirrorChannel, Errno> {
        let shared = self.shared();
        let mut state = ChannelState::new(shared.view, self.policy);
        if shared.paused {
            let _ = state.pause();
        }
        let mut paths: [Option<MemberPath>; MAX_MEMBERS] = Default::default();
        for (path, member) in paths.iter_mut().zip(&shared.members) {
            if let Some(member) = member {
                *path = Some(MemberPath::open(on, member)?);
            }
        }
        Ok(MirrorChannel {
            on,
            state: RefCell::new(state),
            deadlines: RefCell::new(MemberDeadlines::new(self.deadlines)),
            paths: RefCell::new(paths),
            parked: RefCell::new(Vec::new()),
            held: RefCell::new(VecDeque::new()),
            gate: RefCell::new(RangeGate::new(shared.locked)),
            range_held: RefCell::new(VecDeque::new()),
            log_held: RefCell::new(VecDeque::new()),
            piece_held: RefCell::new(VecDeque::new()),
        })
    }

    fn new_io(&self) -> MirrorIo {
        MirrorIo::Fresh
    }

    #[inline]
    fn submit(&self, channel: &MirrorChannel, io: Vio<Self>) {
        self.set_active();
        if !channel.state.borrow_mut().admit() {
            return self.hold(channel, io);
        }
        if io.kind() == IoKind::Read { self.read(channel, io) } else { self.write(channel, io) }
    }

    #[inline]
    fn leg_done(&self, channel: &MirrorChannel, state: &mut MirrorIo, leg: u8, result: Result<(), LegError>) {
        let member = MemberIndex::new(leg as usize).expect("legs are numbered by members");
        let outcome_of = result.map_err(cause_of);
        let mut shared = channel.state.borrow_mut();
        shared.leg_returned(member);
        let op = match state {
            MirrorIo::Read { tracker, outcome, tickets } => {
                channel.deadlines.borrow_mut().complete(member, tickets);
                *outcome = tracker.leg_done(member, outcome_of, &mut shared);
                MemberOp::Read
            }
            MirrorIo::Write { tracker, outcome, tickets, full, .. } => {
                channel.deadlines.borrow_mut().complete(member, tickets);
                if let Err(error) = result {
                    *full = error == status::CAPACITY_EXCEEDED;
                }
                *outcome = tracker.leg_done(member, outcome_of, shared.view());
                MemberOp::Write
            }
            MirrorIo::Fresh => unreachable!("an I/O has its tracker before its first leg"),
        };
        drop(shared);
        if let Err(error) = result {
            self.leg_failed(channel, member, op, error);
        }
    }

    #[inline]
    fn legs_done(&self, channel: &MirrorChannel, mut io: Vio<Self>) {
        match *io.state() {
            MirrorIo::Read { outcome: ReadOutcome::Complete { .. }, .. } => self.answer(channel, io, true),
            MirrorIo::Read { outcome: ReadOutcome::Retry { member, .. }, .. } => self.read_again(channel, io, member),
            MirrorIo::Write { outcome, .. } => self.write_over(channel, io, outcome),
            MirrorIo::Read { .. } | MirrorIo::Fresh => self.answer(channel, io, false),
        }
    }
}

impl MemberPath {
    fn open(on: OnThread, member: &OpenedMember) -> Result<Self, Errno> {
        let channel = member.bdev.channel(on).map_err(|error| error.errno().unwrap_or(Errno::EIO))?;
        Ok(Self { channel, flush: member.flush.clone() })
    }
}

impl MirrorChannel {
    /// Puts a view in force and decides about the parked writes anew.
    pub(super) fn apply(&self, device: &MirrorDevice, view: IoView) {
        self.state.borrow_mut().apply(view);
        for mut io in self.parked.take() {
            let outcome = match io.state() {
                MirrorIo::Write { tracker, .. } => tracker.resolve(&view),
                _ => unreachable!("only writes are parked"),
            };
            device.write_over(self, io, outcome);
        }
        // What can be written to no more has nothing to wait for.
        self.release_logged(device);
        self.release_pieces(device);
    }

    /// Has the driver wake the mirror when I/O came before it was asleep.
    pub(super) fn ask_if_held(&self, device: &MirrorDevice) {
        if !self.held.borrow().is_empty() {
            device.ask_to_wake();
        }
    }

    /// Fails the I/O that waits for the mirror to wake.
    pub(super) fn fail_held(&self, device: &MirrorDevice) {
        let held = self.held.take();
        for io in held {
            device.client_errors.fetch_add(1, Ordering::Relaxed);
            io.fail();
        }
    }

    /// Looks again at the writes that wait for dirty regions, in order.
    pub(super) fn release_logged(&self, device: &MirrorDevice) {
        let held = self.log_held.take();
        for io in held {
            device.write(self, io);
        }
    }

    /// Looks again at the I/O that waits for pieces, in order.
    pub(super) fn release_pieces(&self, device: &MirrorDevice) {
        let held = self.piece_held.take();
        let can_wait = self.state.borrow().begin_write().is_ok();
        for (piece, io) in held {
            if can_wait && device.unequal.is_left(piece) {
                self.piece_held.borrow_mut().push_back((piece, io));
                continue;
            }
            device.piece_waits.fetch_sub(1, Ordering::SeqCst);
            if io.kind() == IoKind::Read { device.read(self, io) } else { device.write(self, io) }
        }
    }

    /// Opens a member that no view has yet. One that cannot be opened here fails its first I/O and so leaves the mirror.
    pub(super) fn open_member(&self, member: MemberIndex, opened: &OpenedMember) {
        match MemberPath::open(self.on, opened) {
            Ok(path) => self.paths.borrow_mut()[member.get()] = Some(path),
            Err(error) => {
                tracing::error!(replica = %opened.open.replica, ?error, "a new member could not be opened on a reactor");
            }
        }
    }

    /// Changes of the range wait from now on.
    pub(super) fn lock_range(&self, device: &MirrorDevice, range: BlockRange) {
        let idle = self.gate.borrow_mut().lock(range);
        if !idle {
            device.range_draining.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Serves the changes that waited for the range, in order.
    pub(super) fn unlock_range(&self, device: &MirrorDevice) {
        self.gate.borrow_mut().unlock();
        let held = self.range_held.take();
        for io in held {
            device.write(self, io);
        }
    }

    /// Lets go of a member that no view has any more.
    pub(super) fn close_member(&self, member: MemberIndex) {
        // Bound outside the borrow: the last reference may run SPDK's channel teardown.
        let path = self.paths.borrow_mut()[member.get()].take();
        drop(path);
    }

    /// Reports the members that have not answered for too long. Their I/O comes back when the driver has closed them.
    pub(super) fn check_deadlines(&self, device: &MirrorDevice) {
        if self.state.borrow().in_flight() > 0 {
            device.set_active();
        }
        let Late { late, overdue } = self.deadlines.borrow_mut().expired();
        for (members, cause) in [(late, FailureCause::Deadline), (overdue, FailureCause::Gone)] {
            let fresh = self.state.borrow_mut().blame(members, cause);
            for member in fresh.iter() {
                let error = LegError::Refused(Errno::ETIMEDOUT);
                device.report(Report::MemberError { member, op: MemberOp::Write, cause, error });
            }
        }
    }

    /// I/O that a member has not answered on this channel.
    pub(super) fn pending(&self, member: MemberIndex) -> u32 {
        self.state.borrow().pending(member)
    }

    /// Stops admitting client I/O.
    pub(super) fn pause(&self, device: &MirrorDevice) {
        let idle = self.state.borrow_mut().pause();
        if !idle {
            device.draining.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Admits client I/O again, first what was held, in order.
    pub(super) fn resume(&self, device: &MirrorDevice) {
        self.state.borrow_mut().resume();
        let held = self.held.take();
        for io in held {
            device.submit(self, io);
        }
    }
}
