//! One channel (one reactor's share of a mirror): the view in force, the I/Os counted, the members reported.

use super::mask::{MAX_MEMBERS, MemberIndex, MemberMask};
use super::policy::ReadPolicy;
use super::read::ReadTracker;
use super::view::{FailureCause, IoView};
use super::write::WriteTracker;

/// There is no member the I/O could go to, or none that may be written: the client gets an error at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no member of the mirror can take this I/O")]
pub struct Unavailable;

/// The state of one channel. Its owner:
///
/// - asks [`Self::admit`] for every client I/O and queues those refused, until [`Self::resume`];
/// - calls [`Self::retire`] when the client has its answer;
/// - on a new view: [`Self::apply`], then for every parked write [`WriteTracker::resolve`] and, when it stays parked,
///   [`Self::blame`]; then says that it has the epoch;
/// - tells the core of a failed member when [`Self::blame`] says so.
#[derive(Debug, Clone)]
pub struct ChannelState {
    view: IoView,
    policy: ReadPolicy,
    /// By cause: a member that stays, being the last, may fail again in another way.
    reported: [MemberMask; 3],
    paused: bool,
    /// The place after the one that was read last.
    turn: u32,
    in_flight: u32,
    pending: [u32; MAX_MEMBERS],
}

impl ChannelState {
    /// A channel with nothing in flight.
    pub fn new(view: IoView, policy: ReadPolicy) -> Self {
        Self {
            view,
            policy,
            reported: [MemberMask::EMPTY; 3],
            paused: false,
            turn: 0,
            in_flight: 0,
            pending: [0; MAX_MEMBERS],
        }
    }

    /// The view in force.
    #[inline]
    pub fn view(&self) -> &IoView {
        &self.view
    }

    /// Client I/Os admitted and not answered.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Counts a client I/O in; false during a pause: queue it.
    #[inline]
    pub fn admit(&mut self) -> bool {
        if self.paused {
            return false;
        }
        self.in_flight += 1;
        true
    }

    /// Counts a client I/O out. True when a pause is on and this was the last: tell the core.
    #[inline]
    #[must_use]
    pub fn retire(&mut self) -> bool {
        self.in_flight -= 1;
        self.paused && self.in_flight == 0
    }

    /// Starts a write, unmap, write-zeroes or flush.
    #[inline]
    pub fn begin_write(&self) -> Result<WriteTracker, Unavailable> {
        if self.view.rw.is_empty() || !self.view.writable {
            return Err(Unavailable);
        }
        Ok(WriteTracker::start(&self.view))
    }

    /// Starts a read.
    #[inline]
    pub fn begin_read(&mut self) -> Result<ReadTracker, Unavailable> {
        match self.choose_read(MemberMask::EMPTY) {
            Some(member) => Ok(ReadTracker::start(member)),
            None => Err(Unavailable),
        }
    }

    /// The best member for a read that has tried `tried`.
    #[inline]
    pub(super) fn choose_read(&mut self, tried: MemberMask) -> Option<MemberIndex> {
        let candidates = self.view.rw.minus(tried);
        let chosen = self.policy.choose(candidates, self.view.local, &self.pending, self.turn)?;
        self.turn = chosen.get() as u32 + 1;
        Some(chosen)
    }

    /// A leg was submitted to `member`.
    #[inline]
    pub fn leg_submitted(&mut self, member: MemberIndex) {
        self.pending[member.get()] += 1;
    }

    /// A leg was submitted to each of `members`.
    #[inline]
    pub fn legs_submitted(&mut self, members: MemberMask) {
        for member in members.iter() {
            self.leg_submitted(member);
        }
    }

    /// A leg on `member` came back, in time or late.
    #[inline]
    pub fn leg_returned(&mut self, member: MemberIndex) {
        self.pending[member.get()] -= 1;
    }

    /// Legs submitted to `member` that have not come back.
    pub fn pending(&self, member: MemberIndex) -> u32 {
        self.pending[member.get()]
    }

    /// Which of the `failed` members the core must be told of now: those in the view, once an epoch for each cause. The
    /// core answers a report with a new view unless the member is the last one, so the number of reports is bounded.
    pub fn blame(&mut self, failed: MemberMask, cause: FailureCause) -> MemberMask {
        let reported = &mut self.reported[cause as usize];
        let fresh = failed.and(self.view.written()).minus(*reported);
        *reported = reported.or(fresh);
        fresh
    }

    /// Puts a view in force. An older one is ignored.
    pub fn apply(&mut self, view: IoView) {
        if view.epoch > self.view.epoch {
            self.view = view;
            self.reported = [MemberMask::EMPTY; 3];
        }
    }

    /// Stops admitting I/O. True when nothing is in flight: tell the core at once.
    #[must_use]
    pub fn pause(&mut self) -> bool {
        self.paused = true;
        self.in_flight == 0
    }

    /// Admits I/O again; the owner then submits what it queued.
    pub fn resume(&mut self) {
        self.paused = false;
    }
}
