//! What the I/O path asks before a write: may it begin in these regions? Shared by all channels, without a lock.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::regions::{REGIONS, RegionSet, Regions};

/// Not known dirty to every member: a write waits for that.
const CLEAN: u8 = 0;
/// Dirty on every member, and nothing was written to it since the last look.
const QUIET: u8 = 1;
/// Dirty on every member, and written to.
const ACTIVE: u8 = 2;

/// The regions that writes may begin in, and those that writes wait for.
pub struct HotMap {
    /// The logarithm of a region's blocks to base 2.
    shift: u32,
    states: Box<[AtomicU8]>,
    wanted: Box<[AtomicU64]>,
}

impl HotMap {
    /// Nothing is hot, for blocks of that size (a power of two).
    pub fn new(regions: Regions, block_bytes: u32) -> Self {
        assert!(block_bytes.is_power_of_two(), "logical blocks are powers of two");
        Self {
            shift: u32::from(regions.shift()).saturating_sub(block_bytes.trailing_zeros()),
            states: (0..REGIONS).map(|_| AtomicU8::new(CLEAN)).collect(),
            wanted: (0..REGIONS / 64).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The numbers of the first and the last region of a change, not reduced to those there are.
    #[inline]
    fn span(&self, first_block: u64, count: u64) -> (u64, u64) {
        let last = first_block.saturating_add(count.saturating_sub(1));
        let (first, last) = (first_block >> self.shift, last >> self.shift);
        (first, last.min(first + REGIONS as u64 - 1))
    }

    /// Whether a change of these blocks may begin. One load and a test for each region that is written to all the time.
    #[inline]
    pub fn admits(&self, first_block: u64, count: u64) -> bool {
        let (first, last) = self.span(first_block, count);
        (first..=last).all(|region| self.touch(region as usize % REGIONS))
    }

    #[inline]
    fn touch(&self, region: usize) -> bool {
        let state = &self.states[region];
        match state.load(Ordering::Acquire) {
            ACTIVE => true,
            // Taken off meanwhile, or written to by another channel.
            QUIET => state.compare_exchange(QUIET, ACTIVE, Ordering::AcqRel, Ordering::Acquire) != Err(CLEAN),
            _ => false,
        }
    }

    /// Notes what a change that was not admitted waits for. To be followed by a word to whoever calls
    /// [`Self::take_wanted`].
    pub fn want(&self, first_block: u64, count: u64) {
        let (first, last) = self.span(first_block, count);
        for region in first..=last {
            let region = region as usize % REGIONS;
            self.wanted[region / 64].fetch_or(1 << (region % 64), Ordering::AcqRel);
        }
    }

    /// All that was wanted since the last call.
    pub fn take_wanted(&self) -> RegionSet {
        let mut set = RegionSet::EMPTY;
        for (index, word) in self.wanted.iter().enumerate() {
            *set.word_mut(index) = word.swap(0, Ordering::AcqRel);
        }
        set
    }

    /// These are dirty on every member: changes of them may begin.
    pub fn admit(&self, regions: &RegionSet) {
        for region in regions.iter() {
            self.states[region].store(ACTIVE, Ordering::Release);
        }
    }

    /// Every region admits changes, or none does.
    pub fn set_all(&self, admitted: bool) {
        for state in &self.states {
            state.store(if admitted { ACTIVE } else { CLEAN }, Ordering::Release);
        }
    }

    /// Takes off what nothing was written to since the call before, and returns it. No change begins there any more, but
    /// those that have begun may still run.
    pub fn age(&self) -> RegionSet {
        let mut off = RegionSet::EMPTY;
        for (region, state) in self.states.iter().enumerate() {
            let change = |from, to| state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if change(QUIET, CLEAN) {
                off.insert(region);
            } else {
                change(ACTIVE, QUIET);
            }
        }
        off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 256 blocks of 4 KiB to a region.
    fn map() -> HotMap {
        HotMap::new(Regions::of_volume(1 << 30), 4096)
    }

    fn set(regions: &[usize]) -> RegionSet {
        let mut set = RegionSet::EMPTY;
        regions.iter().for_each(|region| set.insert(*region));
        set
    }

    #[test]
    fn a_change_needs_all_its_regions() {
        let map = map();
        assert!(!map.admits(0, 1));
        map.admit(&set(&[0]));
        assert!(map.admits(0, 256) && !map.admits(255, 2) && !map.admits(256, 1));
        map.admit(&set(&[1]));
        assert!(map.admits(255, 2) && !map.admits(0, u64::MAX));
    }

    #[test]
    fn what_is_wanted_is_told_once() {
        let map = map();
        map.want(255, 2);
        map.want(256, 1);
        assert_eq!(map.take_wanted(), set(&[0, 1]));
        assert_eq!(map.take_wanted(), RegionSet::EMPTY);
        map.want(0, u64::MAX);
        assert_eq!(map.take_wanted(), RegionSet::ALL);
    }

    #[test]
    fn a_region_is_taken_off_when_nothing_was_written_between_two_looks() {
        let map = map();
        map.admit(&set(&[0, 1]));
        assert_eq!(map.age(), RegionSet::EMPTY);
        assert!(map.admits(0, 1));
        assert_eq!(map.age(), set(&[1]));
        assert!(map.admits(0, 1) && !map.admits(256, 1));
        assert_eq!((map.age(), map.age()), (RegionSet::EMPTY, set(&[0])));
    }
}
