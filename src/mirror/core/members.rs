//! The members by place: only what was opened can be one, and no two are the same.

use super::generation::{Generation, GenerationRecord};
use super::mask::{MAX_MEMBERS, MemberIndex, MemberMask};
use crate::name::{BdevName, NonEmpty, ReplicaAddress, ReplicaName};

/// Whether a member's data is on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locality {
    /// Opened directly, no network.
    Local,
    /// Over NVMe-oF.
    Remote,
}

/// A replica that was attached and opened: its names come from the attach's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenMember {
    /// Which replica it is.
    pub replica: ReplicaName,
    /// The bdev that is open.
    pub bdev: BdevName,
    /// Where the replica is exported, also when it is opened directly.
    pub address: ReplicaAddress,
    /// Where its data is.
    pub locality: Locality,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its logical block in bytes.
    pub block_bytes: u32,
}

/// Why members cannot be of one mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// All places are taken.
    #[error("{replica} would be member number {}, at most {MAX_MEMBERS} are allowed", MAX_MEMBERS + 1)]
    TooMany {
        /// The one too many.
        replica: ReplicaName,
    },
    /// Two members have the same replica name, bdev or address.
    #[error("{replica} has the same {what} as {other}")]
    Duplicate {
        /// The second.
        replica: ReplicaName,
        /// The first.
        other: ReplicaName,
        /// What they share.
        what: &'static str,
    },
    /// A member's geometry is not the mirror's.
    #[error(
        "{replica} has {size_bytes} bytes in blocks of {block_bytes}, the mirror has {expected_bytes} in blocks of {expected_block_bytes}"
    )]
    Geometry {
        /// The member.
        replica: ReplicaName,
        /// Its size in bytes.
        size_bytes: u64,
        /// Its block in bytes.
        block_bytes: u32,
        /// The mirror's size in bytes.
        expected_bytes: u64,
        /// The mirror's block in bytes.
        expected_block_bytes: u32,
    },
    /// The last member cannot be taken away.
    #[error("{replica} is the last member")]
    Last {
        /// The member.
        replica: ReplicaName,
    },
}

/// 1 to [`MAX_MEMBERS`] distinct open members of one geometry, each at its place.
#[derive(Debug, Clone)]
pub struct Members {
    slots: [Option<OpenMember>; MAX_MEMBERS],
    size_bytes: u64,
    block_bytes: u32,
}

impl Members {
    /// The members in order at places 0, 1, …
    pub fn new(members: NonEmpty<OpenMember>) -> Result<Self, MembersError> {
        let first = members.first();
        let mut all = Self { slots: Default::default(), size_bytes: first.size_bytes, block_bytes: first.block_bytes };
        for member in members.into_vec() {
            all.add(member)?;
        }
        Ok(all)
    }

    /// Gives `member` the first free place.
    pub fn add(&mut self, member: OpenMember) -> Result<MemberIndex, MembersError> {
        for (_, other) in self.iter() {
            if let Some(what) = shared(&member, other) {
                let other = other.replica.clone();
                return Err(MembersError::Duplicate { replica: member.replica, other, what });
            }
        }
        self.require_geometry(&member)?;
        match MemberIndex::all().find(|index| self.slots[index.get()].is_none()) {
            Some(index) => {
                self.slots[index.get()] = Some(member);
                Ok(index)
            }
            None => Err(MembersError::TooMany { replica: member.replica }),
        }
    }

    /// Has the member at a place open anew. It is the same replica, of the same geometry.
    pub fn reopen(&mut self, index: MemberIndex, member: OpenMember) -> Result<(), MembersError> {
        for (at, other) in self.iter() {
            let what = if at == index { None } else { shared(&member, other) };
            if let Some(what) = what.or((at == index && other.replica != member.replica).then_some("place")) {
                return Err(MembersError::Duplicate { other: other.replica.clone(), replica: member.replica, what });
            }
        }
        self.require_geometry(&member)?;
        self.slots[index.get()] = Some(member);
        Ok(())
    }

    fn require_geometry(&self, member: &OpenMember) -> Result<(), MembersError> {
        if (member.size_bytes, member.block_bytes) == (self.size_bytes, self.block_bytes) {
            return Ok(());
        }
        Err(MembersError::Geometry {
            size_bytes: member.size_bytes,
            block_bytes: member.block_bytes,
            expected_bytes: self.size_bytes,
            expected_block_bytes: self.block_bytes,
            replica: member.replica.clone(),
        })
    }

    /// Frees a place once the core has freed it; `None` when it is free already.
    pub fn remove(&mut self, index: MemberIndex) -> Result<Option<OpenMember>, MembersError> {
        if let (Some(member), 1) = (self.get(index), self.mask().count()) {
            return Err(MembersError::Last { replica: member.replica.clone() });
        }
        Ok(self.slots[index.get()].take())
    }

    /// The member at a place.
    pub fn get(&self, index: MemberIndex) -> Option<&OpenMember> {
        self.slots[index.get()].as_ref()
    }

    /// Where a replica is.
    pub fn find(&self, replica: &ReplicaName) -> Option<MemberIndex> {
        self.iter().find(|(_, member)| member.replica == *replica).map(|(index, _)| index)
    }

    /// All in order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (MemberIndex, &OpenMember)> {
        MemberIndex::all().filter_map(|index| Some((index, self.get(index)?)))
    }

    /// The taken places.
    pub fn mask(&self) -> MemberMask {
        self.iter().map(|(index, _)| index).collect()
    }

    /// The places of members on this node.
    pub fn local(&self) -> MemberMask {
        self.iter().filter(|(_, member)| member.locality == Locality::Local).map(|(index, _)| index).collect()
    }

    /// All members have this size now.
    pub fn resize(&mut self, size_bytes: u64) {
        self.size_bytes = size_bytes;
        for member in self.slots.iter_mut().flatten() {
            member.size_bytes = size_bytes;
        }
    }

    /// The mirror's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The mirror's logical block in bytes.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// What to store for [`super::Action::PersistGeneration`].
    pub fn record(&self, generation: Generation, base: Generation, in_sync: MemberMask) -> GenerationRecord {
        let in_sync = in_sync.iter().filter_map(|index| Some(self.get(index)?.replica.clone())).collect();
        GenerationRecord { generation, base, in_sync }
    }
}

fn shared(one: &OpenMember, other: &OpenMember) -> Option<&'static str> {
    if one.replica == other.replica {
        Some("name")
    } else if one.bdev == other.bdev {
        Some("bdev")
    } else if one.address == other.address {
        Some("address")
    } else {
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn open(number: usize) -> OpenMember {
        OpenMember {
            replica: ReplicaName::parse(&format!("vol-r-{number}")).expect("a name"),
            bdev: BdevName::parse(&format!("lvs/vol-r-{number}")).expect("a name"),
            address: ReplicaAddress::parse(&format!("10.0.0.{}:2000", number + 1)).expect("an address"),
            locality: if number == 0 { Locality::Local } else { Locality::Remote },
            size_bytes: 1 << 30,
            block_bytes: 4096,
        }
    }

    fn members(count: usize) -> Members {
        let list = NonEmpty::from_vec((0..count).map(open).collect()).expect("some");
        Members::new(list).expect("distinct")
    }

    #[test]
    fn a_mirror_has_one_to_eight_members() {
        let mut full = members(MAX_MEMBERS);
        assert_eq!(full.mask().count(), 8);
        assert!(matches!(full.add(open(8)), Err(MembersError::TooMany { .. })));
        let mut one = members(1);
        let only = one.find(&open(0).replica).expect("there");
        assert!(matches!(one.remove(only), Err(MembersError::Last { .. })));
    }

    #[test]
    fn no_two_members_share_a_name_a_bdev_or_an_address() {
        let fresh = open(3);
        for (twin, expected) in [
            (OpenMember { replica: open(1).replica, ..fresh.clone() }, "name"),
            (OpenMember { bdev: open(1).bdev, ..fresh.clone() }, "bdev"),
            (OpenMember { address: open(1).address, ..fresh.clone() }, "address"),
        ] {
            match members(2).add(twin) {
                Err(MembersError::Duplicate { what, .. }) => assert_eq!(what, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_member_of_another_size_is_refused() {
        let small = OpenMember { size_bytes: 1 << 20, ..open(2) };
        assert!(matches!(members(2).add(small), Err(MembersError::Geometry { .. })));
        let fine = OpenMember { block_bytes: 512, ..open(2) };
        assert!(matches!(members(2).add(fine), Err(MembersError::Geometry { .. })));
    }

    #[test]
    fn a_freed_place_is_taken_again() {
        let mut members = members(3);
        let middle = members.find(&open(1).replica).expect("there");
        assert_eq!(members.remove(middle), Ok(Some(open(1))));
        assert_eq!(members.add(open(5)), Ok(middle));
    }
}
