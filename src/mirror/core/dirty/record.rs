//! The stored form of the dirty regions: an attribute of each replica's head (docs/formats.md).

use crc::{CRC_64_GO_ISO, Crc, Table};

use super::super::generation::{Generation, GenerationOrder, GenerationRecord, Incarnation, RecordError};
use super::regions::{RegionSet, Regions};

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

const MAGIC: &[u8; 4] = b"CDRT";
/// Of a record whose mirror has ended in order.
const RELEASED: &[u8; 4] = b"CDRF";
/// Of a record on its way to a replica that joins; never stored.
const JOIN: &[u8; 4] = b"CDRJ";
/// Of a claim: then come 2 bytes of length and a generation with what it replaces, then the record.
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
    /// The mirror that stored it has ended in order, or sleeps: it has nothing under way. If it goes on, then with this replica.
    pub released: bool,
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
    /// A claim with something that is no generation.
    #[error(transparent)]
    Generation(#[from] RecordError),
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
    /// The generation that it holds; none where it was in no mirror yet.
    pub fn held(&self) -> Option<Generation> {
        self.generation.as_ref().map(|record| record.generation)
    }

    /// Whether no mirror may be using it, for all that it knows: it was in none yet, or who claimed it last has released it.
    pub fn is_free(&self) -> bool {
        match &self.dirty {
            FoundDirty::Nothing => self.generation.is_none(),
            FoundDirty::Known(record) => record.released,
            FoundDirty::Unreadable => false,
        }
    }

    /// Whether it is free, and was not released by the mirror of `incarnation`, since when another may have gone on without it.
    pub fn is_left_to(&self, incarnation: Incarnation) -> bool {
        self.is_free() && self.dirty.claimed_by() != Some(incarnation)
    }

    /// Whether a mirror other than that of `incarnation` has claimed it. Not of one that this mirror has declared void: who
    /// had it before has lost it.
    pub fn is_claimed_by_another(&self, incarnation: Incarnation) -> bool {
        let claimed_by = self.dirty.claimed_by();
        claimed_by.is_some_and(|claimed_by| claimed_by != incarnation) && !self.was_voided_by(incarnation)
    }

    /// The generation that it holds, if the mirror of `incarnation` claimed it last, and raised that, or declared it void. Then nobody else
    /// has changed it since it left that mirror.
    pub fn held_of(&self, incarnation: Incarnation) -> Option<Generation> {
        let record = self.generation.as_ref()?;
        let raised_by = match record.generation {
            Generation::NONE => record.base.incarnation(),
            generation => generation.incarnation(),
        };
        let is_own = raised_by == incarnation && self.dirty.claimed_by() == Some(incarnation);
        is_own.then_some(record.generation)
    }

    /// Whether the replica takes a generation that is not part of a claim: from the mirror that claimed it last. One that is to be
    /// filled (void) is claimed when it has joined.
    pub fn takes(&self, order: &GenerationOrder) -> bool {
        let void = Some(Generation::NONE);
        let is_void = self.held() == void || order.record.generation == Generation::NONE;
        let raised_by = order.record.generation.incarnation();
        let claimed_by_it = self.dirty.claimed_by().is_none_or(|claimed_by| claimed_by == raised_by);
        (is_void || claimed_by_it) && order.may_replace(self.held())
    }
}

/// What a mirror sends to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirtyOrder {
    /// Store this in place of what is there: from the mirror that claimed the replica last.
    Replace(DirtyRecord),
    /// To a replica that the mirror has declared void and that has joined: from now on take records of this mirror only. What
    /// the replica held dirty stays so.
    Join(DirtyRecord),
    /// Hold this generation and, from now on, take records of this mirror only. What the replica held dirty stays so.
    Claim(DirtyRecord, GenerationOrder),
}

/// What a replica stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedOut {
    /// The record of its dirty regions.
    pub dirty: DirtyRecord,
    /// The generation, if it changes.
    pub generation: Option<GenerationRecord>,
}

/// An order that a replica refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another engine has gone on with it, or a later record came first")]
pub struct DirtyRefused;

impl DirtyOrder {
    /// The bytes on their way.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Replace(record) => record.encode(),
            Self::Join(record) => record.bytes(JOIN),
            Self::Claim(record, order) => {
                let text = order.encode();
                let mut bytes = CLAIM.to_vec();
                // At most 2,090: the longest record and what it replaces.
                bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
                bytes.extend_from_slice(&record.encode());
                bytes
            }
        }
    }

    /// Reads them.
    pub fn parse(bytes: &[u8]) -> Result<Self, DirtyRecordError> {
        if bytes.starts_with(JOIN) {
            return DirtyRecord::read(bytes, JOIN).map(Self::Join);
        }
        let Some(claim) = bytes.strip_prefix(CLAIM) else {
            return DirtyRecord::parse(bytes).map(Self::Replace);
        };
        let (length, rest) = claim.split_first_chunk::<2>().ok_or(DirtyRecordError::Form)?;
        let length = usize::from(u16::from_le_bytes(*length));
        let (text, record) = rest.split_at_checked(length).ok_or(DirtyRecordError::Form)?;
        let text = std::str::from_utf8(text).map_err(|_| DirtyRecordError::Form)?;
        Ok(Self::Claim(DirtyRecord::parse(record)?, GenerationOrder::parse(text)?))
    }

    /// What a replica of that size stores when it has these records. Neither a mirror that was replaced nor a message that was
    /// overtaken can take a region off.
    pub fn carry_out(self, records: &ReplicaRecords, size_bytes: u64) -> Result<CarriedOut, DirtyRefused> {
        let in_order = |record: &DirtyRecord| match &records.dirty {
            FoundDirty::Known(stored) if stored.incarnation == record.incarnation => {
                Some(stored.sequence <= record.sequence)
            }
            _ => None,
        };
        let added = |record: DirtyRecord| {
            let dirty = record.dirty.or(&records.dirty.dirty_in(record.regions, size_bytes));
            DirtyRecord { dirty, ..record }
        };
        match self {
            Self::Replace(record) if in_order(&record) == Some(true) => {
                Ok(CarriedOut { dirty: record, generation: None })
            }
            Self::Join(record) if records.was_voided_by(record.incarnation) && in_order(&record) != Some(false) => {
                Ok(CarriedOut { dirty: added(record), generation: None })
            }
            Self::Claim(record, order) if order.may_replace(records.held()) && in_order(&record) != Some(false) => {
                Ok(CarriedOut { dirty: added(record), generation: Some(order.record) })
            }
            Self::Replace(_) | Self::Join(_) | Self::Claim(..) => Err(DirtyRefused),
        }
    }
}

impl ReplicaRecords {
    /// Whether the mirror of `incarnation` has declared its content void: a void record tells whose generation that was at.
    fn was_voided_by(&self, incarnation: Incarnation) -> bool {
        self.generation
            .as_ref()
            .is_some_and(|record| record.generation == Generation::NONE && record.base.incarnation() == incarnation)
    }
}

impl DirtyRecord {
    /// The stored bytes: 24 to 1,048.
    pub fn encode(&self) -> Vec<u8> {
        self.bytes(if self.released { RELEASED } else { MAGIC })
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
        let magic = if bytes.starts_with(RELEASED) { RELEASED } else { MAGIC };
        Self::read(bytes, magic)
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
            released: magic == RELEASED,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::generation::Replaces;
    use super::*;

    fn record(regions: &[usize]) -> DirtyRecord {
        let mut dirty = RegionSet::EMPTY;
        regions.iter().for_each(|region| dirty.insert(*region));
        DirtyRecord {
            regions: Regions::of_volume(1 << 40),
            incarnation: Incarnation(0xdead_beef),
            sequence: 7,
            dirty,
            released: false,
        }
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

    fn replaced(record: DirtyRecord) -> Result<CarriedOut, DirtyRefused> {
        Ok(CarriedOut { dirty: record, generation: None })
    }

    #[test]
    fn only_the_newest_record_of_who_claimed_last_is_taken() {
        let records = raised(2, 1, known(of(2, 5, &[1])));
        let replace = |record| DirtyOrder::Replace(record).carry_out(&records, SIZE);
        assert_eq!(replace(of(2, 5, &[])), replaced(of(2, 5, &[])));
        assert_eq!(replace(of(2, 6, &[3])), replaced(of(2, 6, &[3])));
        assert_eq!(replace(of(2, 4, &[3])), Err(DirtyRefused), "it was overtaken");
        assert_eq!(replace(of(1, 9, &[3])), Err(DirtyRefused), "another has claimed the replica");
        let nothing = DirtyOrder::Replace(of(2, 0, &[])).carry_out(&raised(2, 1, FoundDirty::Nothing), SIZE);
        assert_eq!(nothing, Err(DirtyRefused), "nobody has claimed the replica");
    }

    /// A claim by `by` of a replica that was read at the generation of `raised(on, …)`.
    fn claim(by: u32, sequence: u32, regions: &[usize], read: &ReplicaRecords) -> DirtyOrder {
        let base = read.held().expect("a generation");
        let record = GenerationRecord { generation: base.next(Incarnation(by)), base, in_sync: vec![] };
        DirtyOrder::Claim(of(by, sequence, regions), GenerationOrder { record, replaces: Replaces::Only(Some(base)) })
    }

    #[test]
    fn a_claim_keeps_what_was_dirty_and_is_taken_only_by_what_was_read() {
        let read = raised(1, 9, known(of(1, 70, &[1])));
        let taken = claim(2, 0, &[3], &read).carry_out(&read, SIZE).expect("a claim");
        assert_eq!(taken.dirty, of(2, 0, &[1, 3]));
        let claimed = ReplicaRecords { generation: taken.generation, dirty: known(taken.dirty) };
        assert_eq!(claimed.held().map(Generation::incarnation), Some(Incarnation(2)));
        assert!(claim(2, 0, &[], &read).carry_out(&claimed, SIZE).is_ok(), "again is the same");
        assert_eq!(claim(3, 0, &[], &read).carry_out(&claimed, SIZE), Err(DirtyRefused), "another was first");
        let all = claim(2, 0, &[], &read).carry_out(&raised(1, 9, FoundDirty::Unreadable), SIZE).expect("a claim");
        assert_eq!(all.dirty.dirty, RegionSet::ALL);
        let later = ReplicaRecords { dirty: known(of(2, 1, &[])), ..claimed };
        assert_eq!(claim(2, 0, &[], &read).carry_out(&later, SIZE), Err(DirtyRefused), "it was overtaken");
    }

    #[test]
    fn a_generation_is_taken_from_who_claimed_last() {
        let claimed = raised(2, 1, known(of(2, 0, &[])));
        let raise = |by| {
            let base = claimed.held().expect("a generation");
            let record = GenerationRecord { generation: base.next(Incarnation(by)), base, in_sync: vec![] };
            GenerationOrder { record, replaces: Replaces::Lower }
        };
        assert!(claimed.takes(&raise(2)) && !claimed.takes(&raise(1)));
    }

    #[test]
    fn a_void_replica_joins_whoever_made_it_so() {
        let base = Generation::NONE.next(Incarnation(2));
        let generation = Some(GenerationRecord { generation: Generation::NONE, base, in_sync: vec![] });
        let void = ReplicaRecords { generation, dirty: known(of(1, 7, &[])) };
        assert_eq!(DirtyOrder::Join(of(2, 0, &[3])).carry_out(&void, SIZE), replaced(of(2, 0, &[3])));
        assert_eq!(DirtyOrder::Join(of(1, 8, &[3])).carry_out(&void, SIZE), Err(DirtyRefused));
        assert!(
            !void.is_claimed_by_another(Incarnation(2)),
            "an order that fails there does not mean that it has lost others"
        );
        assert!(void.is_claimed_by_another(Incarnation(3)));
        let real = raised(2, 1, FoundDirty::Nothing);
        assert_eq!(DirtyOrder::Join(of(2, 0, &[3])).carry_out(&real, SIZE), Err(DirtyRefused));
    }

    #[test]
    fn a_replica_is_a_mirrors_own_while_nobody_else_has_raised_claimed_or_voided_it() {
        let own = Incarnation(2);
        let raised_twice = raised(2, 2, known(of(2, 0, &[])));
        assert_eq!(raised_twice.held_of(own), raised_twice.held());
        let void = |by| {
            let base = Generation::NONE.next(Incarnation(by));
            let generation = Some(GenerationRecord { generation: Generation::NONE, base, in_sync: vec![] });
            ReplicaRecords { generation, dirty: known(of(2, 0, &[])) }
        };
        assert_eq!(void(2).held_of(own), Some(Generation::NONE), "it was on its way back before");
        assert_eq!(void(3).held_of(own), None, "another fills it");
        assert_eq!(raised(3, 2, known(of(3, 0, &[]))).held_of(own), None, "claimed by another");
        assert_eq!(raised(2, 2, known(of(3, 0, &[]))).held_of(own), None);
        let new = ReplicaRecords { generation: None, dirty: FoundDirty::Nothing };
        assert_eq!(new.held_of(own), None, "deleted and made anew");
    }

    #[test]
    fn a_replica_is_left_to_others_once_its_mirror_has_released_it() {
        let claimed = |released| raised(2, 1, known(DirtyRecord { released, ..of(2, 0, &[]) }));
        let (own, other) = (Incarnation(2), Incarnation(3));
        assert!(!claimed(false).is_free() && claimed(true).is_free());
        assert!(claimed(true).is_left_to(other) && !claimed(true).is_left_to(own));
        assert!(claimed(false).is_claimed_by_another(other) && !claimed(false).is_claimed_by_another(own));
        assert!(!raised(2, 1, FoundDirty::Nothing).is_free(), "of a mirror before there were such records");
        assert!(!raised(2, 1, FoundDirty::Unreadable).is_free());
        assert!(ReplicaRecords { generation: None, dirty: FoundDirty::Nothing }.is_left_to(own));
    }

    #[test]
    fn orders_survive_the_way_and_only_a_replacement_is_a_stored_record() {
        let read = raised(1, 9, FoundDirty::Nothing);
        let released = DirtyRecord { released: true, ..record(&[7]) };
        let orders = [
            DirtyOrder::Claim(record(&[7]), GenerationOrder { replaces: Replaces::Only(None), ..order_of(&read) }),
            DirtyOrder::Join(record(&[7])),
            DirtyOrder::Replace(record(&[7])),
            DirtyOrder::Replace(released),
        ];
        for order in orders {
            assert_eq!(DirtyOrder::parse(&order.encode()), Ok(order.clone()));
            let is_stored = matches!(order, DirtyOrder::Replace(_));
            assert_eq!(DirtyRecord::parse(&order.encode()).is_ok(), is_stored);
        }
        for bytes in [&b"CDRC"[..], b"CDRC\x05\x00only", b"CDRC\x00\x00"] {
            assert!(DirtyOrder::parse(bytes).is_err(), "{bytes:?}");
        }
    }

    fn order_of(read: &ReplicaRecords) -> GenerationOrder {
        let record = read.generation.clone().expect("a record");
        GenerationOrder { record, replaces: Replaces::Lower }
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
