//! How long members take: one channel's wheels for each member, and which wheel an I/O belongs to.

use std::time::{Duration, Instant};

use super::core::{DeadlineWheel, Expiry, MAX_MEMBERS, MemberIndex, MemberMask, Tickets};
use crate::spdk::bdev::IoKind;

/// What moves no data to the member may take longer there: a trim of a whole volume is zeroed range by range, a flush waits
/// for all that was written before.
pub(super) const BULK_FACTOR: u32 = 6;

/// The deadlines of a mirror's members.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadlineSettings {
    /// A member that has not answered a read or a write for so long is out; at most this long after its submission.
    pub(super) limit: Duration,
}

impl DeadlineSettings {
    /// How often channels are to be asked. A wheel finds an I/O up to a period late, and the question comes up to a
    /// period late; the wheels are set so much shorter that the limit holds.
    pub(super) fn period(self) -> Duration {
        Duration::from_nanos(self.wheel_ns() / 7)
    }

    fn wheel_ns(self) -> u64 {
        // 7/9 and two of its own periods (a seventh each) are the whole.
        u64::try_from(self.limit.as_nanos()).unwrap_or(u64::MAX) / 9 * 7
    }
}

/// The tickets of one I/O's legs, and which wheels they are of.
#[derive(Debug, Clone, Copy)]
pub(super) struct LegTickets {
    legs: Tickets,
    bulk: bool,
}

/// Members that owe an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Late {
    /// For longer than the limit.
    pub(super) late: MemberMask,
    /// Of these, for so long that even the last one in sync is given up.
    pub(super) overdue: MemberMask,
}

/// One channel's view of how long each member takes.
pub(super) struct MemberDeadlines {
    data: [DeadlineWheel; MAX_MEMBERS],
    bulk: [DeadlineWheel; MAX_MEMBERS],
    since: Instant,
}

impl MemberDeadlines {
    pub(super) fn new(settings: DeadlineSettings) -> Self {
        let wheel_ns = settings.wheel_ns();
        Self {
            data: std::array::from_fn(|_| DeadlineWheel::new(wheel_ns, 0)),
            bulk: std::array::from_fn(|_| DeadlineWheel::new(wheel_ns.saturating_mul(BULK_FACTOR.into()), 0)),
            since: Instant::now(),
        }
    }

    /// A leg of an I/O of this kind goes to each of `members`.
    #[inline]
    pub(super) fn submit(&mut self, members: MemberMask, kind: IoKind) -> LegTickets {
        let bulk = !matches!(kind, IoKind::Read | IoKind::Write);
        let wheels = if bulk { &mut self.bulk } else { &mut self.data };
        let mut legs = Tickets::default();
        for member in members.iter() {
            legs.put(member, wheels[member.get()].submit());
        }
        LegTickets { legs, bulk }
    }

    /// A member's leg came back.
    #[inline]
    pub(super) fn complete(&mut self, member: MemberIndex, tickets: &LegTickets) {
        let wheels = if tickets.bulk { &mut self.bulk } else { &mut self.data };
        wheels[member.get()].complete(tickets.legs.of(member));
    }

    /// Turns the wheels; the members that owe an answer for too long.
    pub(super) fn expired(&mut self) -> Late {
        let now_ns = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (mut late, mut overdue) = (MemberMask::EMPTY, MemberMask::EMPTY);
        for member in MemberIndex::all() {
            // Both wheels turn, whatever the first one says.
            let data = self.data[member.get()].advance(now_ns);
            let bulk = self.bulk[member.get()].advance(now_ns);
            if [data, bulk].iter().any(|expiry| *expiry != Expiry::InTime) {
                late = late.with(member);
            }
            if [data, bulk].iter().any(|expiry| matches!(expiry, Expiry::Overdue(_))) {
                overdue = overdue.with(member);
            }
        }
        Late { late, overdue }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_come_often_enough_for_the_limit() {
        let settings = DeadlineSettings { limit: Duration::from_secs(5) };
        let worst = Duration::from_nanos(settings.wheel_ns()) + 2 * settings.period();
        assert!(worst <= settings.limit, "{worst:?}");
        assert!(worst > settings.limit * 9 / 10, "{worst:?} is hasty");
    }

    #[test]
    fn a_leg_is_taken_from_the_wheel_it_was_put_on() {
        let member = |index| MemberIndex::new(index).expect("a place");
        let mut deadlines = MemberDeadlines::new(DeadlineSettings { limit: Duration::from_nanos(9) });
        let both: MemberMask = [member(1), member(6)].into_iter().collect();
        let (write, trim) = (deadlines.submit(both, IoKind::Write), deadlines.submit(both, IoKind::Unmap));
        while deadlines.expired().late != both {}
        deadlines.complete(member(6), &write);
        deadlines.complete(member(6), &trim);
        assert_eq!(deadlines.expired().late, MemberMask::of(member(1)));
        deadlines.complete(member(1), &write);
        deadlines.complete(member(1), &trim);
        assert_eq!(deadlines.expired(), Late { late: MemberMask::EMPTY, overdue: MemberMask::EMPTY });
    }
}
