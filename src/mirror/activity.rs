//! What a mirror does at the moment and has done, for graphs and for people; asked for, never counted for them alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::core::{MAX_MEMBERS, MemberIndex};
use super::device::MirrorDevice;
use crate::error::Result;
use crate::spdk::OnControl;
use crate::spdk::stats::{IoStats, io_stats};
use crate::spdk::vdev::VdevHandle;

/// The activity of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activity {
    /// I/O completed since its start.
    pub completed: IoStats,
    /// I/O that ended with an error for the client since its start.
    pub failed: u64,
    /// By the member's place, I/O that it has not answered.
    pub pending: [u64; MAX_MEMBERS],
    /// What a crash now would leave to compare, and what the last one has.
    pub dirty: DirtyState,
}

/// The dirty log at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirtyState {
    /// Bytes of a region.
    pub region_bytes: u64,
    /// Regions that are, or are to be, dirty on the members; none where no log is needed.
    pub regions: u32,
    /// By the member's place, bytes of the regions in which one that failed and is awaited may lack something; all of them until it
    /// is in sync again.
    pub missed_bytes: [Option<u64>; MAX_MEMBERS],
    /// Bytes in which members may differ since a crash still.
    pub unequal_bytes: u64,
    /// No client's I/O came yet: nothing is known of what a crash has left.
    pub asleep: bool,
}

/// Asks every channel in turn.
pub(super) async fn look(on: OnControl, vdev: &VdevHandle<MirrorDevice>, dirty: DirtyState) -> Result<Activity> {
    let sums: Arc<[AtomicU64; MAX_MEMBERS]> = Arc::default();
    let each = sums.clone();
    let visited = vdev.for_each_channel(move |channel| {
        for member in (0..MAX_MEMBERS).filter_map(MemberIndex::new) {
            each[member.get()].fetch_add(channel.pending(member).into(), Ordering::Relaxed);
        }
    });
    visited.await?;
    Ok(Activity {
        completed: io_stats(on, vdev.name()).await?,
        failed: vdev.device().client_errors(),
        pending: std::array::from_fn(|place| sums[place].load(Ordering::Relaxed)),
        dirty,
    })
}
