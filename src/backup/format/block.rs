//! Blocks of a backup: their size, their places and the list that makes up an image.

use std::fmt;

use super::digest::Digest;
use super::error::FormatError;
use super::quantity;

const MEBIBYTE: u64 = 1 << 20;

/// The size of a backup's blocks, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(u64);

impl BlockSize {
    /// 2 MiB: the default, and what cfg files without the parameter mean.
    pub const DEFAULT: Self = Self(2 * MEBIBYTE);
    /// 16 MiB: the other size that Longhorn's manager lets through.
    pub const LARGE: Self = Self(16 * MEBIBYTE);
    /// The largest size that is read; it bounds what one block can cost in memory.
    pub const LIMIT: u64 = 64 * MEBIBYTE;
    const PAGE: u64 = 4096;

    /// A size found in a store: any whole number of 4 KiB pages up to [`Self::LIMIT`]; zero means the default.
    pub fn stored(bytes: u64) -> Result<Self, FormatError> {
        match bytes {
            0 => Ok(Self::DEFAULT),
            _ if bytes <= Self::LIMIT && bytes.is_multiple_of(Self::PAGE) => Ok(Self(bytes)),
            _ => Err(FormatError::BlockSize(bytes.to_string())),
        }
    }

    /// The text of a stored `backup-block-size`: a Kubernetes quantity; empty means the default.
    pub fn parse_stored(text: &str) -> Result<Self, FormatError> {
        if text.is_empty() {
            return Ok(Self::DEFAULT);
        }
        let refused = || FormatError::BlockSize(text.chars().take(40).collect());
        Self::stored(quantity::parse_bytes(text).ok_or_else(refused)?)
    }

    /// The text of a requested block size: only 2 MiB and 16 MiB may be written (§1).
    pub fn parse_requested(text: &str) -> Result<Self, FormatError> {
        match Self::parse_stored(text)? {
            size if size == Self::DEFAULT || size == Self::LARGE => Ok(size),
            _ => Err(FormatError::BlockSize(format!("{text} (only 2Mi and 16Mi can be written)"))),
        }
    }

    /// The size in bytes; never zero.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The size as the length of a buffer.
    pub fn length(self) -> usize {
        // At most LIMIT, which fits every address space that SPDK runs on.
        self.0 as usize
    }

    /// Refuses a volume that is not a whole number of blocks: its tail could be neither written nor restored (§6).
    pub fn check_volume(self, volume_size: u64) -> Result<(), FormatError> {
        if volume_size.is_multiple_of(self.0) {
            Ok(())
        } else {
            Err(FormatError::VolumeSize { volume_size, block_size: self.0 })
        }
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockSize({})", self.0)
    }
}

/// A place in a volume, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteOffset(pub u64);

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One block of an image: where it goes and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupBlock {
    /// Where it starts in the volume.
    pub offset: ByteOffset,
    /// What it holds.
    pub digest: Digest,
}

/// All blocks of one image: ascending, unique and aligned. What is not listed reads as zeroes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockList {
    block_size: BlockSize,
    blocks: Vec<BackupBlock>,
}

impl BlockList {
    /// Checks and sorts `blocks`. Two blocks for one place or a block off its grid are refused; mere disorder is
    /// not, because it leaves no doubt about the image.
    pub fn new(block_size: BlockSize, mut blocks: Vec<BackupBlock>) -> Result<Self, FormatError> {
        if !blocks.is_sorted_by_key(|block| block.offset) {
            blocks.sort_by_key(|block| block.offset);
        }
        if let Some(block) = blocks.iter().find(|block| !block.offset.0.is_multiple_of(block_size.0)) {
            return Err(FormatError::Misaligned { offset: block.offset.0, block_size: block_size.0 });
        }
        if let Some(pair) = blocks.windows(2).find(|pair| pair[0].offset == pair[1].offset) {
            return Err(FormatError::Duplicate { offset: pair[0].offset.0 });
        }
        Ok(Self { block_size, blocks })
    }

    /// Refuses blocks that would end behind `volume_size`.
    pub fn check_within(&self, volume_size: u64) -> Result<(), FormatError> {
        let Some(last) = self.blocks.last() else {
            return Ok(());
        };
        match last.offset.0.checked_add(self.block_size.0) {
            Some(end) if end <= volume_size => Ok(()),
            _ => Err(FormatError::BeyondEnd { offset: last.offset.0, volume_size }),
        }
    }

    /// The size of every block in the list.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// The blocks, ascending by offset.
    pub fn as_slice(&self) -> &[BackupBlock] {
        &self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(offset: u64) -> BackupBlock {
        BackupBlock { offset: ByteOffset(offset), digest: Digest::of(&offset.to_le_bytes()) }
    }

    #[test]
    fn a_list_is_sorted_aligned_unique_and_within_the_volume() {
        let size = BlockSize::DEFAULT.bytes();
        let list = BlockList::new(BlockSize::DEFAULT, vec![block(2 * size), block(0)]).unwrap();
        assert_eq!(list.as_slice(), [block(0), block(2 * size)]);
        assert!(list.check_within(3 * size).is_ok());
        assert!(matches!(list.check_within(3 * size - 1), Err(FormatError::BeyondEnd { .. })));

        let twice = BlockList::new(BlockSize::DEFAULT, vec![block(size), block(0), block(size)]);
        assert_eq!(twice, Err(FormatError::Duplicate { offset: size }));
        let off_grid = BlockList::new(BlockSize::LARGE, vec![block(size)]);
        assert!(matches!(off_grid, Err(FormatError::Misaligned { .. })));
        let far = BlockList::new(BlockSize::DEFAULT, vec![block(u64::MAX - size + 1)]).unwrap();
        assert!(matches!(far.check_within(u64::MAX), Err(FormatError::BeyondEnd { .. })));
    }

    #[test]
    fn sizes_are_wide_for_reading_and_narrow_for_writing() {
        assert_eq!(BlockSize::parse_stored(""), Ok(BlockSize::DEFAULT));
        assert_eq!(BlockSize::parse_stored("0"), Ok(BlockSize::DEFAULT));
        assert_eq!(BlockSize::parse_stored("1Mi").map(BlockSize::bytes), Ok(1 << 20));
        for refused in ["1", "4095", "65Mi", "9Ti", "-2Mi", "x"] {
            assert!(BlockSize::parse_stored(refused).is_err(), "{refused} was taken");
        }
        assert_eq!(BlockSize::parse_requested("16Mi"), Ok(BlockSize::LARGE));
        assert_eq!(BlockSize::parse_requested("2097152"), Ok(BlockSize::DEFAULT));
        assert!(BlockSize::parse_requested("4Mi").is_err());
    }
}
