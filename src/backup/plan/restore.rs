//! What a restore has to write and to make zero (§7, §8).

use std::iter::Peekable;

use crate::backup::format::FormatError;
use crate::backup::format::backup_config::BackupConfig;
use crate::backup::format::block::{BackupBlock, BlockList, BlockSize, ByteOffset};
use crate::backup::format::compression::CompressionMethod;
use crate::backup::format::volume_config::VolumeConfig;
use crate::name::{BackupName, VolumeName};

/// The longest range that one step makes zero, so that a cancel does not wait for terabytes. A whole number of blocks
/// of either size.
const ZERO_LIMIT: u64 = 256 << 20;
/// How many zero steps the largest possible volume is cut into at most; from 16 TiB on they are longer than
/// [`ZERO_LIMIT`], so that a cfg file that lies about the size costs no memory.
const ZERO_STEPS: u64 = 1 << 16;

/// What the device holds before a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreOnto {
    /// Nothing but zeroes, known for certain: a volume made for this restore and never written.
    Fresh,
    /// Anything: what the backup does not list is made zero.
    Unknown,
    /// Exactly the image of this backup of the same volume, and nothing was written since.
    Backup(BackupName),
}

/// One thing to do, at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreStep {
    /// Fetch this block and write it.
    Write(BackupBlock),
    /// Make a range read as zeroes.
    Zero {
        /// Where it starts.
        offset: ByteOffset,
        /// How long it is, in bytes.
        length: u64,
    },
}

impl RestoreStep {
    /// Where it starts.
    pub fn offset(&self) -> ByteOffset {
        match self {
            Self::Write(block) => block.offset,
            Self::Zero { offset, .. } => *offset,
        }
    }

    /// Where it ends, given the size of a block.
    pub fn end(&self, block_size: BlockSize) -> ByteOffset {
        match self {
            Self::Write(block) => ByteOffset(block.offset.0 + block_size.bytes()),
            Self::Zero { offset, length } => ByteOffset(offset.0 + length),
        }
    }
}

/// All steps that turn a device into the image of a backup, ascending by offset, none overlapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// The volume of the backup.
    pub volume: VolumeName,
    /// The backup to restore.
    pub backup: BackupName,
    /// What its cfg says about its block files.
    pub method: CompressionMethod,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// The size of the image, in bytes; the device must have at least that.
    pub volume_size: u64,
    /// The image under the volume, which shows through where the backup has no block; empty if there is none. What is to
    /// be zero by this plan is to read as the image then.
    pub backing_image_name: String,
    /// Only differences to what the device holds are written.
    pub is_incremental: bool,
    /// What to do.
    pub steps: Vec<RestoreStep>,
}

impl RestorePlan {
    /// Plans the restore of `config`, the cfg of `backup`, to the size in the volume's cfg.
    ///
    /// `base` is the image the device is known to hold; `None` means anything, unless `fresh` says zeroes. A base
    /// with blocks of another size, or one of a larger volume, cannot be compared, so then the whole image is
    /// written as over anything.
    pub fn new(
        volume: VolumeName,
        backup: BackupName,
        config: &BackupConfig,
        volume_config: &VolumeConfig,
        base: Option<&BlockList>,
        fresh: bool,
    ) -> Result<Self, FormatError> {
        let volume_size = volume_config.size;
        let block_size = config.blocks.block_size();
        block_size.check_volume(volume_size)?;
        config.blocks.check_within(volume_size)?;
        let base = base.filter(|base| base.block_size() == block_size && base.check_within(volume_size).is_ok());
        let steps = match base {
            Some(base) => differences(&config.blocks, base, volume_size),
            None => whole(&config.blocks, volume_size, fresh),
        };
        Ok(Self {
            volume,
            backup,
            method: config.compression_method,
            block_size,
            volume_size,
            backing_image_name: volume_config.backing_image_name.clone(),
            is_incremental: base.is_some(),
            steps,
        })
    }

    /// How many blocks will be fetched and written.
    pub fn blocks_to_write(&self) -> u64 {
        self.steps.iter().filter(|step| matches!(step, RestoreStep::Write(_))).count() as u64
    }

    /// How many bytes will be made zero without a block.
    pub fn bytes_to_zero(&self) -> u64 {
        let lengths = self.steps.iter().map(|step| match step {
            RestoreStep::Write(_) => 0,
            RestoreStep::Zero { length, .. } => *length,
        });
        lengths.sum()
    }

    /// The rest of this plan when everything below `checkpoint` is durable already. A step that reaches over the
    /// checkpoint is done again.
    pub fn resume_from(mut self, checkpoint: ByteOffset) -> Self {
        self.steps.retain(|step| step.end(self.block_size) > checkpoint);
        self
    }
}

fn zero_limit(volume_size: u64) -> u64 {
    ZERO_LIMIT.max(volume_size / ZERO_STEPS)
}

/// Every block, and zeroes between them unless the device is fresh.
fn whole(blocks: &BlockList, volume_size: u64, fresh: bool) -> Vec<RestoreStep> {
    let limit = zero_limit(volume_size);
    let size = blocks.block_size().bytes();
    let mut steps = Vec::with_capacity(blocks.as_slice().len());
    let mut covered = 0;
    for block in blocks.as_slice() {
        if !fresh {
            push_zero(&mut steps, covered, block.offset.0, limit);
        }
        steps.push(RestoreStep::Write(*block));
        covered = block.offset.0 + size;
    }
    if !fresh {
        push_zero(&mut steps, covered, volume_size, limit);
    }
    steps
}

/// Blocks that differ from the base, and zeroes where only the base has a block.
fn differences(blocks: &BlockList, base: &BlockList, volume_size: u64) -> Vec<RestoreStep> {
    let limit = zero_limit(volume_size);
    let size = blocks.block_size().bytes();
    let mut steps = Vec::new();
    let mut old = base.as_slice().iter().peekable();
    for block in blocks.as_slice() {
        vanished_before(&mut steps, &mut old, block.offset, size, limit);
        match old.next_if(|held| held.offset == block.offset) {
            Some(held) if held.digest == block.digest => {}
            _ => steps.push(RestoreStep::Write(*block)),
        }
    }
    vanished_before(&mut steps, &mut old, ByteOffset(u64::MAX), size, limit);
    steps
}

fn vanished_before<'a>(
    steps: &mut Vec<RestoreStep>,
    old: &mut Peekable<impl Iterator<Item = &'a BackupBlock>>,
    until: ByteOffset,
    size: u64,
    limit: u64,
) {
    while let Some(gone) = old.next_if(|held| held.offset < until) {
        push_zero(steps, gone.offset.0, gone.offset.0.saturating_add(size), limit);
    }
}

/// Appends the range, grown onto a zero range that ends where it starts, in pieces of at most `limit`.
fn push_zero(steps: &mut Vec<RestoreStep>, mut start: u64, end: u64, limit: u64) {
    if let Some(RestoreStep::Zero { offset, length }) = steps.last_mut()
        && offset.0 + *length == start
        && end > start
    {
        let more = (end - start).min(limit.saturating_sub(*length));
        *length += more;
        start += more;
    }
    while start < end {
        let length = (end - start).min(limit);
        steps.push(RestoreStep::Zero { offset: ByteOffset(start), length });
        start += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::format::digest::Digest;

    const BLOCK: u64 = 2 << 20;

    fn block(index: u64, content: u8) -> BackupBlock {
        BackupBlock { offset: ByteOffset(index * BLOCK), digest: Digest::of(&[content]) }
    }

    fn zero(index: u64, count: u64) -> RestoreStep {
        RestoreStep::Zero { offset: ByteOffset(index * BLOCK), length: count * BLOCK }
    }

    fn list(blocks: &[BackupBlock]) -> BlockList {
        BlockList::new(BlockSize::DEFAULT, blocks.into()).unwrap()
    }

    fn sized(size: u64) -> VolumeConfig {
        let mut config = VolumeConfig::parse(b"{}").unwrap();
        config.size = size;
        config
    }

    fn plan(
        blocks: &[BackupBlock],
        base: Option<&BlockList>,
        fresh: bool,
        volume: u64,
    ) -> Result<RestorePlan, FormatError> {
        let mut config = BackupConfig::parse(br#"{"CreatedTime":"t"}"#).unwrap();
        config.blocks = list(blocks);
        let volume_name = VolumeName::parse("vol-1").unwrap();
        let backup = BackupName::parse("backup-1").unwrap();
        RestorePlan::new(volume_name, backup, &config, &sized(volume * BLOCK), base, fresh)
    }

    #[test]
    fn a_full_restore_zeroes_every_gap_unless_the_device_is_fresh() {
        let blocks = [block(1, 1), block(2, 2), block(5, 3)];
        let over_anything = plan(&blocks, None, false, 8).unwrap();
        let writes = blocks.map(RestoreStep::Write);
        assert_eq!(over_anything.steps, [zero(0, 1), writes[0], writes[1], zero(3, 2), writes[2], zero(6, 2)]);
        assert_eq!(over_anything.bytes_to_zero(), 5 * BLOCK);
        assert_eq!(plan(&blocks, None, true, 8).unwrap().steps, writes);
        assert_eq!(plan(&[], None, false, 8).unwrap().steps, [zero(0, 8)]);
    }

    #[test]
    fn an_incremental_restore_writes_what_differs_and_zeroes_what_vanished() {
        let base = list(&[block(0, 1), block(1, 2), block(3, 4), block(4, 5), block(7, 9)]);
        let target = [block(1, 2), block(2, 7), block(3, 8)];
        let steps = plan(&target, Some(&base), false, 8).unwrap().steps;
        let expected =
            [zero(0, 1), RestoreStep::Write(target[1]), RestoreStep::Write(target[2]), zero(4, 1), zero(7, 1)];
        assert_eq!(steps, expected);
        let nothing = plan(&target, Some(&list(&target)), false, 8).unwrap();
        assert!(nothing.is_incremental && nothing.steps.is_empty());
    }

    #[test]
    fn a_base_of_another_block_size_is_no_base() {
        let base = BlockList::new(BlockSize::LARGE, Vec::new()).unwrap();
        let plan = plan(&[block(0, 1)], Some(&base), false, 8).unwrap();
        assert!(!plan.is_incremental);
        assert_eq!(plan.steps, [RestoreStep::Write(block(0, 1)), zero(1, 7)]);
    }

    #[test]
    fn zero_ranges_are_merged_and_bounded() {
        let blocks_per_step = ZERO_LIMIT / BLOCK;
        let all: Vec<_> = (0..blocks_per_step + 3).map(|index| block(index, 1)).collect();
        let steps = plan(&[], Some(&list(&all)), false, blocks_per_step + 3).unwrap().steps;
        assert_eq!(steps, [zero(0, blocks_per_step), zero(blocks_per_step, 3)]);
    }

    #[test]
    fn a_size_that_is_a_lie_costs_no_memory() {
        let blocks = u64::MAX / BLOCK;
        let plan = plan(&[], None, false, blocks).unwrap();
        assert!(plan.steps.len() as u64 <= ZERO_STEPS + 1);
        assert_eq!(plan.bytes_to_zero(), blocks * BLOCK);
    }

    #[test]
    fn what_does_not_fit_the_volume_is_refused() {
        assert!(matches!(plan(&[block(8, 1)], None, false, 8), Err(FormatError::BeyondEnd { .. })));
        let config = BackupConfig::parse(b"{}").unwrap();
        let volume = VolumeName::parse("vol-1").unwrap();
        let backup = BackupName::parse("backup-1").unwrap();
        let odd = RestorePlan::new(volume, backup, &config, &sized(BLOCK + 512), None, false);
        assert!(matches!(odd, Err(FormatError::VolumeSize { .. })));
    }

    #[test]
    fn a_resumed_plan_leaves_out_only_what_is_whole_below_the_checkpoint() {
        let whole = plan(&[block(1, 1), block(5, 3)], None, false, 8).unwrap();
        let at = |bytes| whole.clone().resume_from(ByteOffset(bytes)).steps.len();
        assert_eq!(at(0), whole.steps.len());
        assert_eq!(at(BLOCK), 4);
        assert_eq!(at(2 * BLOCK - 1), 4);
        assert_eq!(at(2 * BLOCK), 3);
        assert_eq!(at(8 * BLOCK), 0);
    }
}
