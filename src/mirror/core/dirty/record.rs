//! The stored form of the dirty regions: an attribute of each replica's head (docs/formats.md).

use crc::{CRC_64_GO_ISO, Crc, Table};

use super::super::generation::{Generation, GenerationRecord, Incarnation};
use super::regions::{RegionSet, Regions};

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

const MAGIC: &[u8; 4] = b"CDRT";
/// Of a record on its way to a replica that is to be claimed; never stored.
const CLAIM: &[u8; 4] = b"CDRC";
const VERSION: u8 = 1;
/// Magic, version, shift, length of the bitmap, incarnation, sequence.
const HEADER: usize = 16;
const CHECKSUM: usize = 8;

/// What a replica durably knows of the regions that may differ between it and the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyRecord {
    /// How the volume is divided.
    pub regions: Regions,
    /// As whom the mirror that stored it raises generations: the one that claimed the replica last.
    pub incarnation: Incarnation,
    /// Counts the records of one mirror up: a replica takes none that was overtaken by a later one.
    pub sequence: u32,
    /// The dirty regions.
    pub dirty: RegionSet,
}

/// Bytes that are no record, or not one that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirtyRecordError {
    /// It does not begin as a record does, or has another length than it says.
    #[error("it is not a record of dirty regions")]
    Form,
    /// Of another version.
    #[error("it is of version {0}, known is {VERSION}")]
    Version(u8),
    /// Its checksum is another.
    #[error("its checksum does not fit: it is damaged")]
    Checksum,
}

/// What is found with a replica that becomes a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundDirty {
    /// No record: nothing was written to it, or the mirror was stopped in order before there were such records.
    Nothing,
    /// A record.
    Known(Box<DirtyRecord>),
    /// Something that is no record, or one that cannot be trusted.
    Unreadable,
}

/// The regions in which members that start together may differ: those that any of them holds dirty, and all when one cannot
/// tell. One member alone differs from nobody.
pub fn unequal(found: &[FoundDirty], regions: Regions, size_bytes: u64) -> RegionSet {
    match found {
        [] | [_] => RegionSet::EMPTY,
        found => found.iter().fold(RegionSet::EMPTY, |all, found| all.or(&found.dirty_in(regions, size_bytes))),
    }
}

impl FoundDirty {
    /// From stored bytes; none are no record.
    pub fn parse(bytes: &[u8]) -> Self {
        match (bytes, DirtyRecord::parse(bytes)) {
            ([], _) => Self::Nothing,
            (_, Ok(record)) => Self::Known(Box::new(record)),
            (_, Err(_)) => Self::Unreadable,
        }
    }

    /// What it holds dirty, by another division of the volume.
    pub fn dirty_in(&self, regions: Regions, size_bytes: u64) -> RegionSet {
        match self {
            Self::Nothing => RegionSet::EMPTY,
            Self::Unreadable => RegionSet::ALL,
            Self::Known(record) if record.regions == regions => record.dirty,
            Self::Known(record) => {
                let ranges = record.regions.ranges(&record.dirty, size_bytes);
                ranges.fold(RegionSet::EMPTY, |all, range| all.or(&regions.touched(range)))
            }
        }
    }

    /// Who claimed the replica last, as far as that can be read.
    pub fn claimed_by(&self) -> Option<Incarnation> {
        match self {
            Self::Known(record) => Some(record.incarnation),
            Self::Nothing | Self::Unreadable => None,
        }
    }
}

/// What a replica durably knows of the mirrors that have served it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaRecords {
    /// How recent it is, and by whom; none where it was in no mirror yet.
    pub generation: Option<GenerationRecord>,
    /// Where it may differ from others, and who claimed it.
    pub dirty: FoundDirty,
}

impl ReplicaRecords {
    /// Whether no mirror was assembled over it since the one that raises generations as `incarnation`. If one was, that one may have
    /// gone on with other replicas alone.
    pub fn is_newest(&self, incarnation: Incarnation) -> bool {
        self.generation.as_ref().is_some_and(|record| record.generation.incarnation() == incarnation)
    }

    /// Whether a mirror that raises generations as `incarnation` may claim it: it raised the replica's generation last; or another
    /// did directly on top of its own, and has not claimed the replica since; or it claimed the replica last, so that whoever has
    /// raised the generation since still sleeps.
    pub fn may_be_claimed_by(&self, incarnation: Incarnation) -> bool {
        let Some(record) = &self.generation else { return false };
        // A void record tells who made it so.
        let newest = if record.generation == Generation::NONE { record.base } else { record.generation }.incarnation();
        let before = record.base.incarnation();
        let claimed_by = self.dirty.claimed_by();
        incarnation == newest
            || (incarnation == before && claimed_by != Some(newest))
            || (claimed_by == Some(incarnation) && record.generation != Generation::NONE)
    }
}

/// What a mirror sends to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirtyOrder {
    /// Store this in place of what is there: from the mirror that claimed the replica last.
    Replace(DirtyRecord),
    /// From now on take records of this mirror only. What the replica held dirty stays so.
    Claim(DirtyRecord),
}

/// An order that a replica refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another engine has gone on with it, or a later record came first")]
pub struct DirtyRefused;

impl DirtyOrder {
    /// The bytes on their way: those of a record, but that a claim says so.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Replace(record) => record.bytes(MAGIC),
            Self::Claim(record) => record.bytes(CLAIM),
        }
    }

    /// Reads them.
    pub fn parse(bytes: &[u8]) -> Result<Self, DirtyRecordError> {
        match bytes.strip_prefix(CLAIM) {
            Some(_) => DirtyRecord::read(bytes, CLAIM).map(Self::Claim),
            None => DirtyRecord::read(bytes, MAGIC).map(Self::Replace),
        }
    }

    /// What a replica of that size stores when it has these records. Neither a mirror that was replaced nor a message that was
    /// overtaken can take a region off.
    pub fn carry_out(self, records: &ReplicaRecords, size_bytes: u64) -> Result<DirtyRecord, DirtyRefused> {
        let in_order = |record: &DirtyRecord| match &records.dirty {
            FoundDirty::Known(stored) if stored.incarnation == record.incarnation => {
                Some(stored.sequence <= record.sequence)
            }
            _ => None,
        };
        match self {
            Self::Replace(record) if in_order(&record) == Some(true) => Ok(record),
            Self::Claim(record)
                if records.may_be_claimed_by(record.incarnation) && in_order(&record) != Some(false) =>
            {
                let dirty = record.dirty.or(&records.dirty.dirty_in(record.regions, size_bytes));
                Ok(DirtyRecord { dirty, ..record })
            }
            Self::Replace(_) | Self::Claim(_) => Err(DirtyRefused),
        }
    }
}

impl DirtyRecord {
    /// The stored bytes: 24 to 1,048.
    pub fn encode(&self) -> Vec<u8> {
        self.bytes(MAGIC)
    }

    fn bytes(&self, magic: &[u8; 4]) -> Vec<u8> {
        let bitmap = self.dirty.to_bytes();
        let mut bytes = Vec::with_capacity(HEADER + bitmap.len() + CHECKSUM);
        bytes.extend_from_slice(magic);
        bytes.extend_from_slice(&[VERSION, self.regions.shift()]);
        // At most 1,024.
        bytes.extend_from_slice(&(bitmap.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&self.incarnation.0.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&bitmap);
        bytes.extend_from_slice(&CRC.checksum(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the stored bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, DirtyRecordError> {
        Self::read(bytes, MAGIC)
    }

    fn read(bytes: &[u8], magic: &[u8; 4]) -> Result<Self, DirtyRecordError> {
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(DirtyRecordError::Form)?;
        let (header, bitmap) = content.split_first_chunk::<HEADER>().ok_or(DirtyRecordError::Form)?;
        let [m0, m1, m2, m3, version, shift, l0, l1, i0, i1, i2, i3, s0, s1, s2, s3] = *header;
        if [m0, m1, m2, m3] != *magic {
            return Err(DirtyRecordError::Form);
        }
        if version != VERSION {
            return Err(DirtyRecordError::Version(version));
        }
        if CRC.checksum(content) != u64::from_le_bytes(*checksum) {
            return Err(DirtyRecordError::Checksum);
        }
        if usize::from(u16::from_le_bytes([l0, l1])) != bitmap.len() {
            return Err(DirtyRecordError::Form);
        }
        Ok(Self {
            regions: Regions::of_shift(shift).ok_or(DirtyRecordError::Form)?,
            incarnation: Incarnation(u32::from_le_bytes([i0, i1, i2, i3])),
            sequence: u32::from_le_bytes([s0, s1, s2, s3]),
            dirty: RegionSet::from_bytes(bitmap).ok_or(DirtyRecordError::Form)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(regions: &[usize]) -> DirtyRecord {
        let mut dirty = RegionSet::EMPTY;
        regions.iter().for_each(|region| dirty.insert(*region));
        DirtyRecord { regions: Regions::of_volume(1 << 40), incarnation: Incarnation(0xdead_beef), sequence: 7, dirty }
    }

    #[test]
    fn records_survive_storage_and_are_as_short_as_can_be() {
        for (regions, length) in [(&[][..], 24), (&[0], 25), (&[7, 9], 26), (&[8191], 1048)] {
            let bytes = record(regions).encode();
            assert_eq!(bytes.len(), length, "{regions:?}");
            assert_eq!(DirtyRecord::parse(&bytes), Ok(record(regions)));
        }
        let all = DirtyRecord { dirty: RegionSet::ALL, ..record(&[]) };
        assert_eq!(DirtyRecord::parse(&all.encode()), Ok(all));
    }

    #[test]
    fn the_stored_form_is_the_documented_one() {
        let bytes = record(&[1, 8]).encode();
        assert_eq!(bytes[..18], *b"CDRT\x01\x1b\x02\x00\xef\xbe\xad\xde\x07\x00\x00\x00\x02\x01");
    }

    #[test]
    fn members_differ_at_most_where_one_of_them_says_so() {
        let set = |regions: &[usize]| record(regions).dirty;
        let (size, regions) = (1 << 40, record(&[]).regions);
        let known = |regions: &[usize]| known(record(regions));
        assert_eq!(unequal(&[known(&[1]), FoundDirty::Nothing, known(&[2])], regions, size), set(&[1, 2]));
        assert_eq!(unequal(&[known(&[1])], regions, size), RegionSet::EMPTY, "one alone differs from nobody");
        assert_eq!(unequal(&[known(&[1]), FoundDirty::Unreadable], regions, size), RegionSet::ALL);
        let grown = Regions::of_volume(2 << 40);
        assert_eq!(unequal(&[known(&[5]), known(&[])], grown, 2 << 40).iter().collect::<Vec<_>>(), [2, 4098]);
    }

    const SIZE: u64 = 1 << 40;

    fn of(incarnation: u32, sequence: u32, regions: &[usize]) -> DirtyRecord {
        DirtyRecord { incarnation: Incarnation(incarnation), sequence, ..record(regions) }
    }

    fn known(record: DirtyRecord) -> FoundDirty {
        FoundDirty::Known(Box::new(record))
    }

    /// Of a replica whose generation was raised by one incarnation on top of another's.
    fn raised(by: u32, on: u32, dirty: FoundDirty) -> ReplicaRecords {
        let base = Generation::NONE.next(Incarnation(on));
        let generation = GenerationRecord { generation: base.next(Incarnation(by)), base, in_sync: vec![] };
        ReplicaRecords { generation: Some(generation), dirty }
    }

    #[test]
    fn only_the_newest_record_of_who_claimed_last_is_taken() {
        let records = raised(2, 1, known(of(2, 5, &[1])));
        let replace = |record| DirtyOrder::Replace(record).carry_out(&records, SIZE);
        assert_eq!(replace(of(2, 5, &[])), Ok(of(2, 5, &[])));
        assert_eq!(replace(of(2, 6, &[3])), Ok(of(2, 6, &[3])));
        assert_eq!(replace(of(2, 4, &[3])), Err(DirtyRefused), "it was overtaken");
        assert_eq!(replace(of(1, 9, &[3])), Err(DirtyRefused), "another has claimed the replica");
        let nothing = DirtyOrder::Replace(of(2, 0, &[])).carry_out(&raised(2, 1, FoundDirty::Nothing), SIZE);
        assert_eq!(nothing, Err(DirtyRefused), "nobody has claimed the replica");
    }

    #[test]
    fn a_claim_keeps_what_was_dirty_and_is_for_the_newest_or_the_one_before_it() {
        let claim = |record, records: &ReplicaRecords| DirtyOrder::Claim(record).carry_out(records, SIZE);
        let before = || known(of(1, 70, &[1]));
        let sleeping = raised(2, 1, before());
        assert_eq!(claim(of(2, 0, &[3]), &sleeping), Ok(of(2, 0, &[1, 3])));
        assert_eq!(claim(of(1, 71, &[]), &sleeping), Ok(of(1, 71, &[1])), "the newest sleeps");
        let claimed = raised(2, 1, known(of(2, 0, &[1])));
        assert_eq!(claim(of(1, 71, &[]), &claimed), Err(DirtyRefused), "the newest has claimed it");
        assert_eq!(claim(of(1, 71, &[]), &raised(3, 2, before())), Ok(of(1, 71, &[1])), "both that came since sleep");
        let third = raised(3, 2, known(of(4, 0, &[])));
        assert_eq!(claim(of(1, 71, &[]), &third), Err(DirtyRefused), "others have gone on without it");
        assert_eq!(claim(of(2, 0, &[]), &claimed), Ok(of(2, 0, &[1])), "again is the same");
        let later = raised(2, 1, known(of(2, 1, &[])));
        assert_eq!(claim(of(2, 0, &[]), &later), Err(DirtyRefused), "it was overtaken");
        let all = claim(of(2, 0, &[]), &raised(2, 1, FoundDirty::Unreadable)).expect("a claim");
        assert_eq!(all.dirty, RegionSet::ALL);
        assert_eq!(claim(of(2, 0, &[]), &ReplicaRecords { generation: None, ..sleeping }), Err(DirtyRefused));
    }

    #[test]
    fn a_void_replica_is_claimed_by_who_made_it_so() {
        let base = Generation::NONE.next(Incarnation(2));
        let generation = Some(GenerationRecord { generation: Generation::NONE, base, in_sync: vec![] });
        let void = ReplicaRecords { generation, dirty: known(of(1, 7, &[])) };
        assert!(void.may_be_claimed_by(Incarnation(2)) && !void.may_be_claimed_by(Incarnation(1)));
    }

    #[test]
    fn orders_survive_the_way_and_a_claim_is_no_stored_record() {
        for order in [DirtyOrder::Claim(record(&[7])), DirtyOrder::Replace(record(&[7]))] {
            assert_eq!(DirtyOrder::parse(&order.encode()), Ok(order));
        }
        assert!(DirtyRecord::parse(&DirtyOrder::Claim(record(&[7])).encode()).is_err());
    }

    #[test]
    fn a_record_with_any_bit_turned_or_cut_anywhere_is_refused() {
        let bytes = record(&[3, 70]).encode();
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(DirtyRecord::parse(&damaged).is_err(), "bit {at}");
        }
        for length in 0..bytes.len() {
            assert!(DirtyRecord::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut newer = bytes;
        newer[4] = 2;
        assert_eq!(DirtyRecord::parse(&newer), Err(DirtyRecordError::Version(2)));
    }
}
