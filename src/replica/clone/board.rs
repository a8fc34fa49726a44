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

    /// It failed.
    pub(super) fn fail(&self, error: &Error) {
        if let Some(status) = &mut *self.entry() {
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
