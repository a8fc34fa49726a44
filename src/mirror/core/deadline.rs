//! Who does not answer: the age of the oldest I/O of one member on one channel, without a clock on the I/O path.
//!
//! I/Os are counted by the period they were submitted in; a period that comes round again while I/Os of its last turn
//! are outstanding has some that are older than the deadline. One increment at submission, one decrement at completion.

use super::mask::{MAX_MEMBERS, MemberIndex};

/// Periods in a wheel.
const PERIODS: usize = 8;

/// An I/O that is as old as so many deadlines is given up, also where nobody else can answer it. With the default deadline
/// of 5 s that is after the 30 s for which Linux waits for a command of an NVMe device.
pub const OVERDUE_DEADLINES: u32 = 6;

/// For so many turns the wheel stands before that; the first deadline has passed when it stops.
const STANDING_TURNS: u32 = (OVERDUE_DEADLINES - 1) * (PERIODS as u32 - 1);

/// The period an I/O was submitted in; kept in its context until it completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticket(u8);

const _: () = assert!(MAX_MEMBERS <= size_of::<Tickets>());

/// The tickets of one I/O's legs, one byte each, in one register: bytes that are stored and then loaded as a word would hold
/// the processor up on every I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tickets(u64);

impl Tickets {
    /// Keeps the ticket of the leg to `member`, which has none yet.
    #[inline]
    pub fn put(&mut self, member: MemberIndex, ticket: Ticket) {
        self.0 |= u64::from(ticket.0) << (8 * member.get());
    }

    /// The ticket of the leg to `member`.
    #[inline]
    pub fn of(self, member: MemberIndex) -> Ticket {
        Ticket((self.0 >> (8 * member.get())) as u8)
    }
}

/// What a turn of the wheel found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Nothing is older than the deadline.
    InTime,
    /// So many I/Os are older than the deadline.
    Expired(u32),
    /// So many, and one of them is older than [`OVERDUE_DEADLINES`] deadlines.
    Overdue(u32),
}

/// Counts a member's outstanding I/Os by age. Ticks are whatever the owner counts (TSC, nanoseconds).
#[derive(Debug, Clone)]
pub struct DeadlineWheel {
    counts: [u32; PERIODS],
    current: u8,
    period_ticks: u64,
    next_turn: u64,
    /// Turns for which it has stood with expired I/Os.
    standing: u32,
}

impl DeadlineWheel {
    /// A wheel that finds an I/O expired between `deadline_ticks` and 8/7 of that after its submission (later if the
    /// owner calls [`Self::advance`] later).
    pub fn new(deadline_ticks: u64, now_ticks: u64) -> Self {
        let period_ticks = deadline_ticks.div_ceil(PERIODS as u64 - 1).max(1);
        let next_turn = now_ticks.saturating_add(period_ticks);
        Self { counts: [0; PERIODS], current: 0, period_ticks, next_turn, standing: 0 }
    }

    /// An I/O was submitted.
    #[inline]
    pub fn submit(&mut self) -> Ticket {
        self.counts[self.current as usize % PERIODS] += 1;
        Ticket(self.current)
    }

    /// The I/O of that ticket completed.
    #[inline]
    pub fn complete(&mut self, ticket: Ticket) {
        self.counts[ticket.0 as usize % PERIODS] -= 1;
    }

    /// How often [`Self::advance`] is worth calling.
    pub fn period_ticks(&self) -> u64 {
        self.period_ticks
    }

    /// Turns the wheel when a period is over, by one period however late the call comes: a reactor that stood still
    /// must first fetch the answers that wait for it before it may blame a member. While I/Os are expired the wheel
    /// stands, and says so at each call.
    pub fn advance(&mut self, now_ticks: u64) -> Expiry {
        if now_ticks < self.next_turn {
            return Expiry::InTime;
        }
        self.next_turn = now_ticks.saturating_add(self.period_ticks);
        let next = (self.current + 1) % PERIODS as u8;
        let left = self.counts[next as usize];
        if left > 0 {
            self.standing = self.standing.saturating_add(1);
            let overdue = self.standing > STANDING_TURNS;
            return if overdue { Expiry::Overdue(left) } else { Expiry::Expired(left) };
        }
        self.standing = 0;
        self.current = next;
        Expiry::InTime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired_at(wheel: &mut DeadlineWheel, from: u64, to: u64, step: u64) -> Option<u64> {
        (from..to).step_by(step as usize).find(|now| wheel.advance(*now) != Expiry::InTime)
    }

    #[test]
    fn an_io_expires_not_before_its_deadline_and_soon_after() {
        for submitted in [0, 99, 100, 150, 650] {
            let mut wheel = DeadlineWheel::new(700, 0);
            assert_eq!(expired_at(&mut wheel, 0, submitted + 1, 1), None);
            wheel.submit();
            let found = expired_at(&mut wheel, submitted + 1, 5000, 1).expect("expires");
            assert!((submitted + 700..=submitted + 800).contains(&found), "{submitted} → {found}");
        }
    }

    #[test]
    fn an_expired_io_is_overdue_six_deadlines_after_its_submission_and_a_late_answer_starts_anew() {
        let mut wheel = DeadlineWheel::new(700, 0);
        let ticket = wheel.submit();
        let overdue = |wheel: &mut DeadlineWheel, from: u64| {
            (from..from + 10_000).find(|now| matches!(wheel.advance(*now), Expiry::Overdue(1))).expect("overdue")
        };
        let found = overdue(&mut wheel, 0);
        assert!((6 * 700..=6 * 700 + 200).contains(&found), "{found}");
        wheel.complete(ticket);
        assert_eq!(wheel.advance(found + 100), Expiry::InTime);
        wheel.submit();
        let again = overdue(&mut wheel, found + 101) - found;
        assert!((6 * 700..=6 * 700 + 400).contains(&again), "{again}");
    }

    #[test]
    fn completed_ios_never_expire() {
        let mut wheel = DeadlineWheel::new(700, 0);
        let mut tickets = std::collections::VecDeque::new();
        for now in 0..10_000 {
            tickets.push_back(wheel.submit());
            if tickets.len() > 600 {
                wheel.complete(tickets.pop_front().expect("just filled"));
            }
            assert_eq!(wheel.advance(now), Expiry::InTime);
        }
    }

    #[test]
    fn a_reactor_that_stood_still_blames_nobody() {
        let mut wheel = DeadlineWheel::new(700, 0);
        let ticket = wheel.submit();
        assert_eq!(wheel.advance(1_000_000), Expiry::InTime);
        wheel.complete(ticket);
        assert_eq!(expired_at(&mut wheel, 1_000_000, 1_010_000, 10), None);
    }

    #[test]
    fn an_expired_io_is_reported_until_it_completes() {
        let mut wheel = DeadlineWheel::new(70, 0);
        let ticket = wheel.submit();
        let found = expired_at(&mut wheel, 0, 1000, 1).expect("expires");
        assert_eq!(wheel.advance(found + 10), Expiry::Expired(1));
        wheel.complete(ticket);
        assert_eq!(wheel.advance(found + 20), Expiry::InTime);
    }
}
