//! A member's place in the mirror, and sets of such places.

use std::fmt;

/// Most members a mirror can have.
pub const MAX_MEMBERS: usize = 8;

/// A member's place: 0 up to [`MAX_MEMBERS`], exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberIndex(u8);

impl MemberIndex {
    /// The place `index`; `None` when there is no such place.
    pub const fn new(index: usize) -> Option<Self> {
        if index < MAX_MEMBERS { Some(Self(index as u8)) } else { None }
    }

    /// As an array index, always below [`MAX_MEMBERS`].
    #[inline]
    pub const fn get(self) -> usize {
        (self.0 & (MAX_MEMBERS as u8 - 1)) as usize
    }

    /// Every place in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_MEMBERS as u8).map(Self)
    }
}

impl fmt::Display for MemberIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of members.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct MemberMask(u8);

impl MemberMask {
    /// No member.
    pub const EMPTY: Self = Self(0);

    /// Just `member`.
    #[inline]
    pub const fn of(member: MemberIndex) -> Self {
        Self(1 << member.0)
    }

    /// Whether there is no member in the set.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many members are in the set.
    #[inline]
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether `member` is in the set.
    #[inline]
    pub const fn contains(self, member: MemberIndex) -> bool {
        self.0 & (1 << member.0) != 0
    }

    /// Whether the two sets have a member in common.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The members in both.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members in either.
    #[inline]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The members in `self` that are not in `other`.
    #[inline]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// With `member`.
    #[inline]
    pub const fn with(self, member: MemberIndex) -> Self {
        Self(self.0 | (1 << member.0))
    }

    /// Without `member`.
    #[inline]
    pub const fn without(self, member: MemberIndex) -> Self {
        Self(self.0 & !(1 << member.0))
    }

    /// The first member in order.
    #[inline]
    pub const fn first(self) -> Option<MemberIndex> {
        if self.0 == 0 { None } else { Some(MemberIndex(self.0.trailing_zeros() as u8)) }
    }

    /// The first member at `place` or after it, going round; only the lowest three bits of `place` count.
    #[inline]
    pub const fn from_place(self, place: u32) -> Option<MemberIndex> {
        let shift = place % MAX_MEMBERS as u32;
        let turned = self.0.rotate_right(shift);
        if turned == 0 {
            return None;
        }
        Some(MemberIndex(((turned.trailing_zeros() + shift) % MAX_MEMBERS as u32) as u8))
    }

    /// The members in order.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = MemberIndex> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let member = rest.first()?;
            rest = rest.without(member);
            Some(member)
        })
    }
}

impl FromIterator<MemberIndex> for MemberMask {
    fn from_iter<I: IntoIterator<Item = MemberIndex>>(members: I) -> Self {
        members.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for MemberMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|member| member.0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(index: usize) -> MemberIndex {
        MemberIndex::new(index).expect("a place")
    }

    #[test]
    fn places_end_at_the_limit() {
        assert!(MemberIndex::new(MAX_MEMBERS - 1).is_some());
        assert_eq!(MemberIndex::new(MAX_MEMBERS), None);
    }

    #[test]
    fn going_round_visits_each_member_in_turn() {
        let mask: MemberMask = [member(1), member(4), member(7)].into_iter().collect();
        let mut place = 0;
        let visited = (0..6).filter_map(|_| {
            let next = mask.from_place(place)?.get();
            place = next as u32 + 1;
            Some(next)
        });
        assert_eq!(visited.collect::<Vec<_>>(), [1, 4, 7, 1, 4, 7]);
        assert_eq!(MemberMask::EMPTY.from_place(3), None);
    }
}
