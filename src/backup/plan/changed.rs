//! What a snapshot's source knows about where its data is.

use std::collections::BTreeSet;

use crate::backup::format::block::{BlockSize, ByteOffset};

/// A range of a volume, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub offset: ByteOffset,
    /// How long it is.
    pub length: u64,
}

/// What a source tells about a snapshot, in any granularity and order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangedMap {
    /// Ranges that may differ from the base; without a base, as much as [`Self::allocated`].
    pub changed: Vec<Extent>,
    /// Ranges that have data anywhere in the snapshot's chain. All else reads as zeroes (or as the backing image) and
    /// is left out of the backup, also where the base still had it.
    pub allocated: Vec<Extent>,
}

/// The starts of all blocks that `extents` touch, ascending, none behind the end of the volume.
pub(super) fn blocks_touched(extents: &[Extent], block_size: BlockSize, volume_size: u64) -> BTreeSet<ByteOffset> {
    let size = block_size.bytes();
    let mut blocks = BTreeSet::new();
    for extent in extents {
        let end = extent.offset.0.saturating_add(extent.length).min(volume_size);
        let first = extent.offset.0 - extent.offset.0 % size;
        if extent.offset.0 < end {
            blocks.extend((first..end).step_by(block_size.length()).map(ByteOffset));
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_widened_to_blocks_and_clipped_to_the_volume() {
        let extent = |offset, length| Extent { offset: ByteOffset(offset), length };
        let mebibyte = 1 << 20;
        let extents = [
            extent(3 * mebibyte, mebibyte),
            extent(3 * mebibyte, 2 * mebibyte),
            extent(9 * mebibyte, 512),
            extent(0, 0),
            extent(20 * mebibyte, 1),
            extent(u64::MAX, u64::MAX),
        ];
        let blocks = blocks_touched(&extents, BlockSize::DEFAULT, 10 * mebibyte);
        let expected: Vec<_> = [2, 4, 8].into_iter().map(|start| ByteOffset(start * mebibyte)).collect();
        assert_eq!(blocks.into_iter().collect::<Vec<_>>(), expected);
    }
}
