//! Which backup to build on, which blocks to read, and the list that results (§6).

use std::fmt;

use crate::backup::format::backup_config::BackupConfig;
use crate::backup::format::block::{BackupBlock, BlockList, BlockSize, ByteOffset};
use crate::backup::format::labels::{BackupMode, BackupParameters};
use crate::name::SnapshotName;

use super::changed::{ChangedMap, blocks_touched};

/// Why a backup is a full one. For the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FullReason {
    /// The request says so.
    Requested,
    /// The volume has no backup yet.
    NoLastBackup,
    /// The last backup's cfg file cannot be used.
    Unusable(String),
    /// The last backup is of this very snapshot.
    SameSnapshot,
    /// The last backup has blocks of another size.
    OtherBlockSize,
    /// The source does not have the last backup's snapshot among the ancestors of this one.
    NotAnAncestor,
}

impl fmt::Display for FullReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("a full backup was requested"),
            Self::NoLastBackup => f.write_str("the volume has no last backup"),
            Self::Unusable(problem) => write!(f, "the last backup cannot be the base: {problem}"),
            Self::SameSnapshot => f.write_str("the last backup is of the same snapshot"),
            Self::OtherBlockSize => f.write_str("the last backup has another block size"),
            Self::NotAnAncestor => f.write_str("the last backup's snapshot is no ancestor of this one"),
        }
    }
}

/// A backup that may be built upon, if the source knows its snapshot as an ancestor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupBase {
    /// The snapshot that was backed up.
    pub snapshot: SnapshotName,
    /// Its complete image.
    pub blocks: BlockList,
}

/// Decides whether `last`, the cfg of the volume's last backup, can be the base of a backup of `snapshot`.
pub fn choose_base(
    last: BackupConfig,
    snapshot: &SnapshotName,
    parameters: BackupParameters,
    volume_size: u64,
) -> Result<BackupBase, FullReason> {
    let unusable = |problem: &str| FullReason::Unusable(problem.into());
    if parameters.mode == BackupMode::Full {
        return Err(FullReason::Requested);
    }
    if last.is_in_progress() {
        return Err(unusable("it was never finished"));
    }
    let base = last.snapshot().ok_or_else(|| unusable("it does not say which snapshot it is of"))?;
    if base == *snapshot {
        return Err(FullReason::SameSnapshot);
    }
    if last.blocks.block_size() != parameters.block_size {
        return Err(FullReason::OtherBlockSize);
    }
    last.blocks.check_within(volume_size).map_err(|error| FullReason::Unusable(error.to_string()))?;
    Ok(BackupBase { snapshot: base, blocks: last.blocks })
}

/// What a backup has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupPlan {
    block_size: BlockSize,
    /// Blocks to read from the source, ascending.
    pub read: Vec<ByteOffset>,
    /// Blocks that the base has and that did not change.
    pub kept: Vec<BackupBlock>,
}

impl BackupPlan {
    /// A backup without a base: all that is allocated, or, when the source cannot say, everything.
    pub fn full(map: Option<&ChangedMap>, block_size: BlockSize, volume_size: u64) -> Self {
        let read = match map {
            Some(map) => blocks_touched(&map.allocated, block_size, volume_size).into_iter().collect(),
            None => (0..volume_size).step_by(block_size.length()).map(ByteOffset).collect(),
        };
        Self { block_size, read, kept: Vec::new() }
    }

    /// A backup on top of `base`. The result has exactly the allocated blocks: those that changed or that the base
    /// lacks are read, the others kept, and what lost its allocation since is dropped.
    pub fn incremental(base: &BlockList, map: &ChangedMap, volume_size: u64) -> Self {
        let block_size = base.block_size();
        let mut missing = blocks_touched(&map.allocated, block_size, volume_size);
        let changed = blocks_touched(&map.changed, block_size, volume_size);
        let kept: Vec<_> = base
            .as_slice()
            .iter()
            .filter(|block| !changed.contains(&block.offset) && missing.remove(&block.offset))
            .copied()
            .collect();
        Self { block_size, read: missing.into_iter().collect(), kept }
    }

    /// The complete list: what was kept and what was `read`.
    pub fn merge(&self, read: Vec<BackupBlock>) -> Result<BlockList, crate::backup::format::FormatError> {
        let mut blocks = read;
        blocks.extend_from_slice(&self.kept);
        BlockList::new(self.block_size, blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::format::digest::Digest;
    use crate::backup::plan::changed::Extent;

    const BLOCK: u64 = 2 << 20;
    const VOLUME: u64 = 8 * BLOCK;

    fn block(index: u64, content: u8) -> BackupBlock {
        BackupBlock { offset: ByteOffset(index * BLOCK), digest: Digest::of(&[content]) }
    }

    fn extents(indexes: &[u64]) -> Vec<Extent> {
        indexes.iter().map(|index| Extent { offset: ByteOffset(index * BLOCK), length: BLOCK }).collect()
    }

    fn offsets(indexes: &[u64]) -> Vec<ByteOffset> {
        indexes.iter().map(|index| ByteOffset(index * BLOCK)).collect()
    }

    #[test]
    fn delta_wins_vanished_is_dropped_and_what_the_base_lacks_is_read() {
        let base = [block(0, 1), block(1, 2), block(2, 3), block(3, 4)];
        let base = BlockList::new(BlockSize::DEFAULT, base.into()).unwrap();
        // Block 1 was overwritten, 2 trimmed, 3 trimmed by an overwrite that freed it, 5 allocated before the base
        // without being in its list, 6 new.
        let map = ChangedMap { changed: extents(&[1, 3, 6]), allocated: extents(&[0, 1, 5, 6]) };
        let plan = BackupPlan::incremental(&base, &map, VOLUME);
        assert_eq!(plan.read, offsets(&[1, 5, 6]));
        assert_eq!(plan.kept, [block(0, 1)]);
        let list = plan.merge(vec![block(6, 9), block(1, 8), block(5, 7)]).unwrap();
        assert_eq!(list.as_slice(), [block(0, 1), block(1, 8), block(5, 7), block(6, 9)]);
    }

    #[test]
    fn a_full_plan_reads_what_is_allocated_or_all() {
        let map = ChangedMap { changed: extents(&[1]), allocated: extents(&[1, 4]) };
        assert_eq!(BackupPlan::full(Some(&map), BlockSize::DEFAULT, VOLUME).read, offsets(&[1, 4]));
        assert_eq!(BackupPlan::full(None, BlockSize::DEFAULT, VOLUME).read.len(), 8);
    }

    fn last(change: impl FnOnce(&mut BackupConfig)) -> Result<BackupBase, FullReason> {
        let mut config = BackupConfig::parse(br#"{"SnapshotName":"snap-a","CreatedTime":"t"}"#).unwrap();
        config.blocks = BlockList::new(BlockSize::DEFAULT, vec![block(3, 1)]).unwrap();
        change(&mut config);
        choose_base(config, &SnapshotName::parse("snap-b").unwrap(), BackupParameters::default(), 4 * BLOCK)
    }

    #[test]
    fn only_a_finished_fitting_backup_of_another_snapshot_is_a_base() {
        assert!(last(|_| {}).is_ok());
        assert!(matches!(last(|config| config.created_time.clear()), Err(FullReason::Unusable(_))));
        assert!(matches!(last(|config| config.snapshot_name.clear()), Err(FullReason::Unusable(_))));
        assert_eq!(last(|config| config.snapshot_name = "snap-b".into()), Err(FullReason::SameSnapshot));
        let large = BlockList::new(BlockSize::LARGE, Vec::new()).unwrap();
        assert_eq!(last(|config| config.blocks = large), Err(FullReason::OtherBlockSize));
        let beyond = BlockList::new(BlockSize::DEFAULT, vec![block(4, 1)]).unwrap();
        assert!(matches!(last(|config| config.blocks = beyond), Err(FullReason::Unusable(_))));
    }
}
