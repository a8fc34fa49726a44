//! A snapshot of a replica as the source of a backup: read through its bdev, changes told from its cluster maps.

use std::sync::Arc;

use jiff::Timestamp;

use crate::backup::{BackupSource, ByteOffset, ChangedMap};
use crate::disk::DiskHold;
use crate::faults::{self, Point};
use crate::name::{BackupName, SnapshotName};
use crate::replica::instance::Replica;
use crate::replica::layers::changed_map;
use crate::replica::readers::Reader;
use crate::spdk::DmaBuffer;
use crate::spdk::client::BdevClient;
use crate::{Error, Result};

/// A snapshot that is open for reading. Its disk cannot be deleted meanwhile, nor can the snapshot.
pub(super) struct SnapshotSource {
    replica: Arc<Replica>,
    snapshot: SnapshotName,
    bdev: BdevClient,
    /// When the snapshot was taken, if that is known.
    pub(super) taken_at: Option<Timestamp>,
    /// What the backup's image has; a snapshot from before an expansion is smaller, and reads as zeroes beyond.
    size: u64,
    _hold: DiskHold,
    _reader: Reader,
}

impl SnapshotSource {
    /// Opens the snapshot for a backup, of that name, of a volume of `size` bytes.
    pub(super) async fn open(
        replica: Arc<Replica>,
        snapshot: &SnapshotName,
        backup: &BackupName,
        size: u64,
    ) -> Result<Self> {
        let mut turn = replica.turn().await?;
        turn.require_usable()?;
        turn.refresh().await?;
        let alias = replica.store.alias(&turn.lvol_of(snapshot)?);
        let view = turn.work.tree.snapshots.get(snapshot).map(|node| &node.view);
        let taken_at = view.and_then(|view| view.snapshot_timestamp.parse().ok());
        let hold = replica.disk.hold(format!("replica {} is being backed up", replica.name))?;
        let bdev = BdevClient::open(replica.store.control(), alias.bdev(), false).await?;
        let reader = replica.readers.add(snapshot, format!("backup {backup}"));
        drop(turn);
        let own = bdev.geometry().size();
        if size < own {
            let problem = format!("{size} is less than the {own} bytes of snapshot {snapshot}");
            return Err(Error::invalid("size", problem));
        }
        Ok(Self { replica, snapshot: snapshot.clone(), bdev, taken_at, size, _hold: hold, _reader: reader })
    }
}

impl BackupSource for SnapshotSource {
    type Buffer = DmaBuffer;

    fn size(&self) -> u64 {
        self.size
    }

    async fn changed(&self, base: Option<&SnapshotName>) -> Result<Option<ChangedMap>> {
        // No merge may move clusters between the layers while their maps are read.
        let mut turn = self.replica.turn().await?;
        let _entry_points = self.replica.store.entry_points().await;
        turn.refresh().await?;
        let chain = turn.work.tree.chain(&self.snapshot);
        let mut layers = self.replica.store.layers(&turn.lvol_of(&self.snapshot)?).await?;
        // What a linked clone sees of its source is its own data to whoever restores it.
        if turn.work.tree.linked.is_none() {
            layers.truncate(chain.len());
        }
        let above_base = match base {
            None => layers.len(),
            Some(base) => match chain.iter().skip(1).position(|ancestor| ancestor == base) {
                Some(behind_first) => behind_first + 1,
                None => return Ok(None),
            },
        };
        Ok(Some(changed_map(&layers, above_base, self.replica.disk.cluster_size())))
    }

    async fn read(&self, offset: ByteOffset, length: usize) -> Result<DmaBuffer> {
        faults::pass(Point::BackupReads).await?;
        let mut buffer = DmaBuffer::zeroed(length)?;
        let inside = self.bdev.geometry().size().saturating_sub(offset.0);
        if inside >= length as u64 {
            return Ok(self.bdev.read(offset.0, buffer).await?);
        }
        if inside > 0 {
            let part = self.bdev.read(offset.0, DmaBuffer::zeroed(inside as usize)?).await?;
            buffer[..part.len()].copy_from_slice(&part);
        }
        Ok(buffer)
    }
}
