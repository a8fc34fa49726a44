//! The range of blocks that a resync copies, as one channel sees it: changes of it wait, and those begun before the range
//! was locked are waited for. Between the two nothing can change a block behind the copy's back.

/// Blocks next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockRange {
    pub(super) first: u64,
    pub(super) count: u64,
}

impl BlockRange {
    fn overlaps(self, first: u64, count: u64) -> bool {
        first < self.first.saturating_add(self.count) && self.first < first.saturating_add(count)
    }
}

/// Which of the two counters a change is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn(u8);

/// One channel's gate. At most one range is locked at a time, and the next only after the last was drained everywhere.
#[derive(Debug, Default)]
pub(super) struct RangeGate {
    locked: Option<BlockRange>,
    /// The counter of changes that begin now.
    current: u8,
    in_flight: [u32; 2],
    draining: bool,
}

impl RangeGate {
    /// A gate on which `locked` is locked already; there are no changes from before.
    pub(super) fn new(locked: Option<BlockRange>) -> Self {
        Self { locked, ..Self::default() }
    }

    /// Lets a change begin; none when it must wait for the range.
    #[inline]
    pub(super) fn admit(&mut self, first: u64, count: u64) -> Option<Turn> {
        if self.locked.is_some_and(|range| range.overlaps(first, count)) {
            return None;
        }
        self.in_flight[usize::from(self.current)] += 1;
        Some(Turn(self.current))
    }

    /// A change has ended; true when it was the last one from before the lock.
    #[inline]
    pub(super) fn retire(&mut self, turn: Turn) -> bool {
        let count = &mut self.in_flight[usize::from(turn.0 & 1)];
        *count -= 1;
        let drained = self.draining && turn.0 != self.current && *count == 0;
        self.draining &= !drained;
        drained
    }

    /// Locks a range; true when no change from before is in flight.
    pub(super) fn lock(&mut self, range: BlockRange) -> bool {
        let before = usize::from(self.current);
        self.locked = Some(range);
        self.current ^= 1;
        self.draining = self.in_flight[before] > 0;
        !self.draining
    }

    /// Lets changes of the range begin again.
    pub(super) fn unlock(&mut self) {
        self.locked = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: BlockRange = BlockRange { first: 100, count: 10 };

    #[test]
    fn changes_of_the_range_wait_and_others_do_not() {
        let mut gate = RangeGate::new(Some(RANGE));
        for (first, count, waits) in
            [(90, 10, false), (90, 11, true), (100, 1, true), (109, 1, true), (110, 5, false), (0, u64::MAX, true)]
        {
            assert_eq!(gate.admit(first, count).is_none(), waits, "{first}+{count}");
        }
        gate.unlock();
        assert!(gate.admit(105, 1).is_some());
    }

    #[test]
    fn a_lock_waits_for_changes_from_before_and_for_no_later_ones() {
        let mut gate = RangeGate::new(None);
        let (one, two) = (gate.admit(0, 200).expect("open"), gate.admit(105, 1).expect("open"));
        assert!(!gate.lock(RANGE));
        let later = gate.admit(0, 1).expect("elsewhere");
        assert!(!gate.retire(one));
        assert!(!gate.retire(later));
        assert!(gate.retire(two), "the last one from before");
    }

    #[test]
    fn a_lock_without_changes_is_drained_at_once_and_the_next_one_counts_anew() {
        let mut gate = RangeGate::new(None);
        assert!(gate.lock(RANGE));
        let during = gate.admit(0, 1).expect("elsewhere");
        gate.unlock();
        assert!(!gate.lock(BlockRange { first: 0, count: 1 }), "it may be in the new range");
        assert!(gate.retire(during));
    }
}
