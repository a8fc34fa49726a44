//! The stored form of the dirty regions: an attribute of each replica's head (docs/formats.md).

use crc::{CRC_64_GO_ISO, Crc, Table};

use super::super::generation::Incarnation;
use super::regions::{RegionSet, Regions};

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

const MAGIC: &[u8; 4] = b"CDRT";
const VERSION: u8 = 1;
/// Magic, version, shift, length of the bitmap, incarnation, sequence.
const HEADER: usize = 16;
const CHECKSUM: usize = 8;

/// What a replica durably knows of the regions that may differ between it and the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyRecord {
    /// How the volume is divided.
    pub regions: Regions,
    /// As whom the mirror that stored it raises generations. A replica takes it only from the mirror that raised its own.
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
    if found.len() < 2 {
        return RegionSet::EMPTY;
    }
    found.iter().fold(RegionSet::EMPTY, |all, found| match found {
        FoundDirty::Nothing => all,
        FoundDirty::Unreadable => RegionSet::ALL,
        FoundDirty::Known(record) if record.regions == regions => all.or(&record.dirty),
        FoundDirty::Known(record) => {
            let ranges = record.regions.ranges(&record.dirty, size_bytes);
            ranges.fold(all, |all, range| all.or(&regions.touched(range)))
        }
    })
}

impl DirtyRecord {
    /// Whether a replica may store this one over `stored`, when its content is of the mirror that raises generations as
    /// `serving`: neither a mirror that was replaced nor a message that was overtaken can take a region off.
    pub fn may_replace(&self, stored: Option<&Self>, serving: Incarnation) -> bool {
        let overtaken =
            stored.is_some_and(|stored| stored.incarnation == self.incarnation && stored.sequence > self.sequence);
        self.incarnation == serving && !overtaken
    }

    /// The stored bytes: 24 to 1,048.
    pub fn encode(&self) -> Vec<u8> {
        let bitmap = self.dirty.to_bytes();
        let mut bytes = Vec::with_capacity(HEADER + bitmap.len() + CHECKSUM);
        bytes.extend_from_slice(MAGIC);
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
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(DirtyRecordError::Form)?;
        let (header, bitmap) = content.split_first_chunk::<HEADER>().ok_or(DirtyRecordError::Form)?;
        let [m0, m1, m2, m3, version, shift, l0, l1, i0, i1, i2, i3, s0, s1, s2, s3] = *header;
        if [m0, m1, m2, m3] != *MAGIC {
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
        let known = |regions: &[usize]| FoundDirty::Known(Box::new(record(regions)));
        assert_eq!(unequal(&[known(&[1]), FoundDirty::Nothing, known(&[2])], regions, size), set(&[1, 2]));
        assert_eq!(unequal(&[known(&[1])], regions, size), RegionSet::EMPTY, "one alone differs from nobody");
        assert_eq!(unequal(&[known(&[1]), FoundDirty::Unreadable], regions, size), RegionSet::ALL);
        let grown = Regions::of_volume(2 << 40);
        assert_eq!(unequal(&[known(&[5]), known(&[])], grown, 2 << 40).iter().collect::<Vec<_>>(), [2, 4098]);
    }

    #[test]
    fn only_the_serving_mirrors_newest_record_is_taken() {
        let (one, serving) = (record(&[1]), record(&[]).incarnation);
        let later = DirtyRecord { sequence: 8, ..one };
        assert!(one.may_replace(None, serving) && one.may_replace(Some(&one), serving));
        assert!(later.may_replace(Some(&one), serving) && !one.may_replace(Some(&later), serving));
        let other = DirtyRecord { incarnation: Incarnation(1), sequence: 9, ..one };
        assert!(one.may_replace(Some(&other), serving), "what an earlier mirror left is replaced");
        assert!(!other.may_replace(Some(&one), serving), "an earlier mirror replaces nothing");
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
