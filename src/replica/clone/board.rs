//! How the full copy into a replica is getting on, where whoever asks finds it without waiting for its steps.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::types::{CloneMark, CloneStatus};
use crate::Error;
use crate::replica::rebuild::{CopyProgress, CopyState};

/// The last full copy into one replica in the life of this process.
#[derive(Debug, Default)]
pub(in crate::replica) struct CloneBoard(Mutex<Option<CloneStatus>>);

impl CloneBoard {
    /// A copy begins.
    pub(super) fn begin(&self, mark: CloneMark) {
        let (state, percent, error) = (CopyState::Starting, 0, String::new());
        *self.entry() = Some(CloneStatus { mark: Some(mark), state, percent, error });
    }

    /// The source told how far it is. What it has copied is complete only when it is in place here.
    pub(super) fn copied(&self, copy: &CopyProgress) {
        if let Some(status) = &mut *self.entry() {
            let percent = (u128::from(copy.copied_clusters) * 100).checked_div(u128::from(copy.total_clusters));
            // At most 99, so it fits.
            status.percent = status.percent.max(percent.map_or(0, |percent| percent.min(99) as u8));
            status.state = if copy.state == CopyState::Starting { CopyState::Starting } else { CopyState::InProgress };
        }
    }

    /// It is over, and the replica is whole.
    pub(super) fn complete(&self) {
        if let Some(status) = &mut *self.entry() {
            (status.state, status.percent) = (CopyState::Complete, 100);
        }
    }

    /// It failed. The first reason stays: what comes after it is a consequence.
    pub(super) fn fail(&self, error: &Error) {
        if let Some(status) = self.entry().as_mut().filter(|status| status.state != CopyState::Error) {
            (status.state, status.error) = (CopyState::Error, error.to_string());
        }
    }

    /// The last copy, if there was one.
    pub(super) fn get(&self) -> Option<CloneStatus> {
        self.entry().clone()
    }

    fn entry(&self) -> MutexGuard<'_, Option<CloneStatus>> {
        // No code between two changes of the entry can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{HostPort, ReplicaName, SnapshotName};
    use crate::replica::clone::CloneMode;

    #[test]
    fn the_first_reason_of_a_failure_stays_until_the_next_copy() {
        let mark = CloneMark {
            source: ReplicaName::parse("src-r-00000001").unwrap(),
            source_address: HostPort::parse("10.0.0.1:20001").unwrap(),
            snapshot: SnapshotName::parse("s1").unwrap(),
            mode: CloneMode::FullCopy,
        };
        let board = CloneBoard::default();
        board.begin(mark.clone());
        board.fail(&Error::medium("disk d", "EIO"));
        board.fail(&Error::Canceled { what: "the copy".into() });
        let status = board.get().unwrap();
        assert!(status.error.contains("EIO") && status.state == CopyState::Error, "{status:?}");
        board.begin(mark);
        assert_eq!(board.get().unwrap().error, "");
    }
}
