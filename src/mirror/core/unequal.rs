//! Making members equal again that a crash has left different, while clients are served.
//!
//! Where some member holds a region dirty ([`super::dirty`]), the members may differ in what was being written when the
//! mirror ended: each block has its old or its new content, and nobody has been told which. So any of them may be chosen,
//! once. *Pieces* of these regions are compared and copied from one member to the others, and no client reads or changes a
//! piece before that: whatever a client has seen since the crash is on every member. A member that fails on the way takes
//! nothing with it, as what is left of it has not been seen by anybody; another is the source of the rest.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Pieces that are copied at once on nobody's demand.
const SWEEPING: usize = 2;
/// Pieces that are copied at once.
const AT_ONCE: usize = 8;

/// The pieces in which members may differ. Shared by all channels; as long as there are none, without a lock.
#[derive(Debug)]
pub struct UnequalMap {
    /// The logarithm of a piece's blocks to base 2.
    shift: u32,
    bits: RwLock<Bits>,
    left: AtomicU64,
}

#[derive(Debug)]
struct Bits {
    /// Blocks of the volume that the map knows of.
    blocks: u64,
    words: Box<[AtomicU64]>,
}

impl UnequalMap {
    /// A map of `ranges` (in blocks) for a volume of so many blocks, in pieces of `1 << shift` blocks.
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>, blocks: u64, shift: u32) -> Self {
        let map = Self { shift, bits: RwLock::new(Bits { blocks, words: Box::default() }), left: AtomicU64::new(0) };
        map.set(ranges, blocks);
        map
    }

    /// Makes it a map of these ranges, for a volume of so many blocks. No I/O may run.
    pub fn set(&self, ranges: impl IntoIterator<Item = Range<u64>>, blocks: u64) {
        let shift = self.shift;
        let mut words: Vec<u64> = Vec::new();
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            let (first, last) = (range.start >> shift, (range.end - 1) >> shift);
            words.resize(words.len().max(last as usize / 64 + 1), 0);
            for piece in first..=last {
                words[piece as usize / 64] |= 1 << (piece % 64);
            }
        }
        let left = words.iter().map(|word| u64::from(word.count_ones())).sum();
        let words = words.into_iter().map(AtomicU64::new).collect();
        let mut bits = self.bits.write().unwrap_or_else(PoisonError::into_inner);
        *bits = Bits { blocks, words };
        self.left.store(left, Ordering::Release);
    }

    fn bits(&self) -> RwLockReadGuard<'_, Bits> {
        self.bits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pieces that are left.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Acquire)
    }

    /// The first piece in these blocks that is not equal yet: client I/O there waits for it. One load and a test when there is
    /// none at all.
    #[inline]
    pub fn first_in(&self, first_block: u64, count: u64) -> Option<u64> {
        if self.left.load(Ordering::Acquire) == 0 {
            return None;
        }
        let last = first_block.saturating_add(count.saturating_sub(1));
        self.next_from(first_block >> self.shift).filter(|piece| *piece <= last >> self.shift)
    }

    /// The first piece from `piece` on that is not equal yet.
    pub fn next_from(&self, piece: u64) -> Option<u64> {
        let from = usize::try_from(piece / 64).unwrap_or(usize::MAX);
        let mut mask = u64::MAX << (piece % 64);
        for (index, word) in self.bits().words.iter().enumerate().skip(from) {
            let bits = word.load(Ordering::Acquire) & mask;
            if bits != 0 {
                return Some(index as u64 * 64 + u64::from(bits.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    /// The pieces that are left.
    pub fn pieces(&self) -> impl Iterator<Item = u64> + '_ {
        std::iter::successors(self.next_from(0), |piece| self.next_from(piece + 1))
    }

    /// The blocks of a piece.
    pub fn blocks(&self, piece: u64) -> Range<u64> {
        piece << self.shift..self.bits().blocks.min((piece + 1) << self.shift)
    }

    /// Whether a piece is not equal yet.
    pub fn is_left(&self, piece: u64) -> bool {
        let bits = self.bits();
        bits.words.get(piece as usize / 64).is_some_and(|word| word.load(Ordering::Acquire) & (1 << (piece % 64)) != 0)
    }

    fn set_equal(&self, piece: u64) {
        let bits = self.bits();
        let Some(word) = bits.words.get(piece as usize / 64) else { return };
        let bit = 1 << (piece % 64);
        if word.fetch_and(!bit, Ordering::AcqRel) & bit != 0 {
            self.left.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Which piece is next.
#[derive(Debug, Default)]
pub struct Equalizer {
    /// Clients wait for these.
    demanded: VecDeque<u64>,
    running: Vec<u64>,
    cursor: u64,
}

impl Equalizer {
    /// A client waits for this piece. Asking again changes nothing.
    pub fn demand(&mut self, piece: u64, map: &UnequalMap) {
        let known = self.demanded.contains(&piece) || self.running.contains(&piece);
        if !known && map.is_left(piece) {
            self.demanded.push_back(piece);
        }
    }

    /// The next piece to be copied now; none when enough are.
    pub fn next(&mut self, map: &UnequalMap) -> Option<u64> {
        if self.running.len() >= AT_ONCE {
            return None;
        }
        while let Some(piece) = self.demanded.pop_front() {
            if map.is_left(piece) && !self.running.contains(&piece) {
                self.running.push(piece);
                return Some(piece);
            }
        }
        if self.running.len() >= SWEEPING {
            return None;
        }
        let mut from = self.cursor;
        while let Some(piece) = map.next_from(from) {
            if !self.running.contains(&piece) {
                self.cursor = piece + 1;
                self.running.push(piece);
                return Some(piece);
            }
            from = piece + 1;
        }
        // Those that failed behind the cursor.
        self.cursor = 0;
        None
    }

    /// The copy of a piece has ended; `equal` when every member that is still one has it. Else it is tried again.
    pub fn ended(&mut self, piece: u64, equal: bool, map: &UnequalMap) {
        self.running.retain(|running| *running != piece);
        if equal {
            map.set_equal(piece);
        }
    }

    /// Only one member is left: there is nothing to be equal to. No copy may run, as its end would undo what clients write
    /// from here on.
    pub fn give_up(&mut self, map: &UnequalMap) {
        assert!(self.running.is_empty(), "copies have ended before clients are let in");
        self.demanded.clear();
        let blocks = map.bits().blocks;
        map.set([], blocks);
    }

    /// Pieces that are being copied.
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten pieces of 4 blocks, the last one of 2; 2, 3 and 9 may differ.
    fn map() -> UnequalMap {
        UnequalMap::new([9..13, 14..15, 36..38], 38, 2)
    }

    #[test]
    fn io_waits_for_the_first_piece_it_touches() {
        let map = map();
        assert_eq!(map.left(), 3);
        for (first, count, piece) in
            [(0, 8, None), (0, 9, Some(2)), (11, 1, Some(2)), (12, 100, Some(3)), (16, 20, None), (37, 1, Some(9))]
        {
            assert_eq!(map.first_in(first, count), piece, "{first}+{count}");
        }
        assert_eq!(map.blocks(9), 36..38);
        assert_eq!(map.first_in(1 << 40, 1), None, "what the volume has grown by is equal");
    }

    #[test]
    fn demanded_pieces_come_first_and_each_is_copied_once_at_a_time() {
        let (map, mut equalizer) = (map(), Equalizer::default());
        equalizer.demand(9, &map);
        equalizer.demand(9, &map);
        equalizer.demand(5, &map);
        let order: Vec<_> = std::iter::from_fn(|| equalizer.next(&map)).collect();
        assert_eq!(order, [9, 2], "two at once on nobody's demand");
        equalizer.demand(3, &map);
        assert_eq!(equalizer.next(&map), Some(3));
        equalizer.ended(9, true, &map);
        equalizer.ended(2, false, &map);
        equalizer.ended(3, true, &map);
        assert_eq!((map.left(), equalizer.next(&map)), (1, None));
        assert_eq!(equalizer.next(&map), Some(2), "what failed is tried again");
        equalizer.ended(2, true, &map);
        assert_eq!((map.left(), map.first_in(0, 1000)), (0, None));
    }

    #[test]
    fn with_one_member_left_everything_is_equal() {
        let (map, mut equalizer) = (map(), Equalizer::default());
        let running = equalizer.next(&map).expect("some");
        equalizer.ended(running, false, &map);
        equalizer.give_up(&map);
        assert_eq!((map.left(), map.next_from(0), equalizer.running()), (0, None, 0));
    }
}
