//! How a volume is divided into regions, and sets of them.

use std::fmt;
use std::ops::Range;

/// Regions of a volume, whatever its size: a set of them is a bitmap of 1 KiB.
pub const REGIONS: usize = 8192;

/// The smallest region is of 1 MiB (2^20), the piece in which members are compared.
const SMALLEST_SHIFT: u8 = 20;

const WORDS: usize = REGIONS / 64;

/// How a volume is divided: byte `b` is of region `(b >> shift) mod 8192`. A volume larger than all regions together, as
/// one that grew since, begins with the first region again: such a region stands for several ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regions {
    shift: u8,
}

impl Regions {
    /// The division of a volume of that size: no region stands for two ranges.
    pub const fn of_volume(size_bytes: u64) -> Self {
        let mut shift = SMALLEST_SHIFT;
        while (REGIONS as u64) << shift < size_bytes && shift < 50 {
            shift += 1;
        }
        Self { shift }
    }

    /// Regions of `1 << shift` bytes; none for a shift that no volume has.
    pub const fn of_shift(shift: u8) -> Option<Self> {
        if shift >= 9 && shift <= 50 { Some(Self { shift }) } else { None }
    }

    /// The logarithm of a region's bytes to base 2.
    pub const fn shift(self) -> u8 {
        self.shift
    }

    /// The bytes of a region.
    pub const fn region_bytes(self) -> u64 {
        1 << self.shift
    }

    /// The regions that a range of bytes touches.
    pub fn touched(self, range: Range<u64>) -> RegionSet {
        let mut set = RegionSet::EMPTY;
        if range.is_empty() {
            return set;
        }
        let (first, last) = (range.start >> self.shift, (range.end - 1) >> self.shift);
        if last - first >= REGIONS as u64 {
            return RegionSet::ALL;
        }
        for region in first..=last {
            set.insert(region as usize % REGIONS);
        }
        set
    }

    /// The ranges of bytes that the regions of a set stand for in a volume of that size, in order.
    pub fn ranges(self, set: &RegionSet, size_bytes: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let count = size_bytes.div_ceil(self.region_bytes());
        let dirty = (0..count).filter(|region| set.contains(*region as usize % REGIONS));
        let bytes = self.region_bytes();
        dirty.map(move |region| region * bytes..size_bytes.min((region + 1) * bytes))
    }
}

/// A set of regions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RegionSet([u64; WORDS]);

impl RegionSet {
    /// No region.
    pub const EMPTY: Self = Self([0; WORDS]);
    /// Every region.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// Whether there is none in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many are in it.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether a region (modulo [`REGIONS`]) is in it.
    pub fn contains(&self, region: usize) -> bool {
        self.0[region % REGIONS / 64] & (1 << (region % 64)) != 0
    }

    /// Adds a region.
    pub fn insert(&mut self, region: usize) {
        self.0[region % REGIONS / 64] |= 1 << (region % 64);
    }

    /// The regions of either.
    pub fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// The regions of both.
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// Those that are not in the other.
    pub fn minus(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// Whether the other has all of these.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, two)| one & !two == 0)
    }

    /// The regions in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let bits = |word: u64| (0..64).filter(move |bit| word & (1 << bit) != 0);
        self.0.iter().enumerate().flat_map(move |(index, word)| bits(*word).map(move |bit| index * 64 + bit))
    }

    /// Word `index` of 64 regions, the lowest bit first.
    pub(super) fn word_mut(&mut self, index: usize) -> &mut u64 {
        &mut self.0[index]
    }

    /// The stored form: a bit for each region, the lowest first, without the zero bytes at the end.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used);
        bytes
    }

    /// From the stored form; none when it has more bits than there are regions.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > REGIONS / 8 {
            return None;
        }
        let mut set = Self::EMPTY;
        for (index, byte) in bytes.iter().enumerate() {
            set.0[index / 8] |= u64::from(*byte) << (8 * (index % 8));
        }
        Some(set)
    }
}

impl Default for RegionSet {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for RegionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn set(regions: &[usize]) -> RegionSet {
        let mut set = RegionSet::EMPTY;
        regions.iter().for_each(|region| set.insert(*region));
        set
    }

    #[test]
    fn a_volume_of_any_size_has_at_most_8192_regions_of_at_least_a_mebibyte() {
        for (size, region) in [(1, MIB), (8192 * MIB, MIB), (8192 * MIB + 1, 2 * MIB), (1 << 40, 128 * MIB)] {
            assert_eq!(Regions::of_volume(size).region_bytes(), region, "{size}");
        }
        assert!(Regions::of_volume(u64::MAX).region_bytes() > 0);
    }

    #[test]
    fn a_range_touches_all_regions_that_have_a_byte_of_it() {
        let regions = Regions::of_volume(1 << 30);
        assert_eq!(regions.touched(0..MIB), set(&[0]));
        assert_eq!(regions.touched(MIB - 1..MIB + 1), set(&[0, 1]));
        assert_eq!(regions.touched(5 * MIB..5 * MIB), RegionSet::EMPTY);
        assert_eq!(regions.touched(0..u64::MAX), RegionSet::ALL);
    }

    #[test]
    fn what_a_volume_has_grown_by_shares_the_first_regions() {
        let regions = Regions::of_volume(8192 * MIB);
        assert_eq!(regions.touched(8193 * MIB..8194 * MIB), set(&[1]));
        let ranges: Vec<_> = regions.ranges(&set(&[1]), 8194 * MIB - 5).collect();
        assert_eq!(ranges, [MIB..2 * MIB, 8193 * MIB..8194 * MIB - 5]);
    }

    #[test]
    fn sets_are_sets() {
        let (one, two) = (set(&[0, 63, 64, 8191]), set(&[63, 65]));
        assert_eq!(one.or(&two), set(&[0, 63, 64, 65, 8191]));
        assert_eq!(one.and(&two), set(&[63]));
        assert_eq!(one.minus(&two), set(&[0, 64, 8191]));
        assert!(set(&[64]).is_within(&one) && !two.is_within(&one));
        assert_eq!((one.count(), one.iter().collect::<Vec<_>>()), (4, vec![0, 63, 64, 8191]));
    }
}
