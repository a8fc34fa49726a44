//! Which snapshots of a replica are being hashed, and which could not be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::HashPhase;
use crate::Error;
use crate::backup::{Cancel, CancelHandle};
use crate::name::SnapshotName;

/// Failures of a replica that are remembered.
const REMEMBERED: usize = 100;

/// The jobs of one replica. What is complete is kept with the snapshot and not here.
#[derive(Debug, Default)]
pub(in crate::replica) struct HashJobs(Mutex<BTreeMap<SnapshotName, Arc<Job>>>);

/// One snapshot that is being hashed, or could not be.
#[derive(Debug)]
pub(super) struct Job {
    cancel: CancelHandle,
    cancelled: Cancel,
    state: Mutex<(HashPhase, String)>,
}

impl Job {
    /// Shows how far it is.
    pub(super) fn set(&self, phase: HashPhase) {
        self.state().0 = phase;
    }

    /// Tells whether it was cancelled.
    pub(super) fn cancelled(&self) -> Cancel {
        self.cancelled.clone()
    }

    fn is_running(&self) -> bool {
        matches!(self.state().0, HashPhase::Starting | HashPhase::InProgress)
    }

    fn state(&self) -> MutexGuard<'_, (HashPhase, String)> {
        // Only whole values are put in.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HashJobs {
    /// A new job, unless the snapshot has one that runs.
    pub(super) fn begin(&self, snapshot: &SnapshotName) -> Option<(Arc<Job>, Cancel)> {
        let mut jobs = self.jobs();
        if jobs.get(snapshot).is_some_and(|job| job.is_running()) {
            return None;
        }
        let (cancel, cancelled) = Cancel::pair();
        let state = Mutex::new((HashPhase::Starting, String::new()));
        let job = Arc::new(Job { cancel, cancelled: cancelled.clone(), state });
        jobs.insert(snapshot.clone(), job.clone());
        Some((job, cancelled))
    }

    /// Notes a job's end. A failure is remembered until the next job of the snapshot, if there are not too many.
    pub(super) fn end(&self, snapshot: &SnapshotName, job: &Arc<Job>, outcome: Result<(), Error>) {
        let mut jobs = self.jobs();
        if !jobs.get(snapshot).is_some_and(|known| Arc::ptr_eq(known, job)) {
            return;
        }
        let failed = jobs.values().filter(|job| !job.is_running()).count();
        match outcome {
            Err(error) if !matches!(error, Error::Canceled { .. }) && failed < REMEMBERED => {
                *job.state() = (HashPhase::Error, error.to_string());
            }
            _ => drop(jobs.remove(snapshot)),
        }
    }

    /// How far the snapshot's job is, or why it failed.
    pub(super) fn phase(&self, snapshot: &SnapshotName) -> Option<(HashPhase, String)> {
        self.jobs().get(snapshot).map(|job| job.state().clone())
    }

    /// Whether any job runs.
    pub(super) fn is_busy(&self) -> bool {
        self.jobs().values().any(|job| job.is_running())
    }

    /// Stops the snapshot's job and forgets it, and a failure too.
    pub(super) fn cancel(&self, snapshot: &SnapshotName) {
        if let Some(job) = self.jobs().remove(snapshot) {
            job.cancel.cancel();
        }
    }

    /// Stops and forgets all.
    pub(in crate::replica) fn cancel_all(&self) {
        std::mem::take(&mut *self.jobs()).values().for_each(|job| job.cancel.cancel());
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<SnapshotName, Arc<Job>>> {
        // No code between two changes of the map can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_one_job_at_a_time_and_its_failure_is_remembered_until_the_next() {
        let (jobs, snapshot) = (HashJobs::default(), SnapshotName::parse("s1").unwrap());
        let (first, _) = jobs.begin(&snapshot).unwrap();
        assert!(jobs.begin(&snapshot).is_none() && jobs.is_busy());
        jobs.end(&snapshot, &first, Err(Error::medium("disk d", "EIO")));
        assert!(matches!(jobs.phase(&snapshot), Some((HashPhase::Error, problem)) if problem.contains("EIO")));
        let (second, _) = jobs.begin(&snapshot).unwrap();
        jobs.end(&snapshot, &first, Ok(()));
        assert!(jobs.is_busy(), "the end of an older job changes nothing");
        jobs.end(&snapshot, &second, Ok(()));
        assert_eq!(jobs.phase(&snapshot), None);
    }

    #[test]
    fn a_cancelled_job_is_told_and_forgotten() {
        let (jobs, snapshot) = (HashJobs::default(), SnapshotName::parse("s1").unwrap());
        let (job, cancelled) = jobs.begin(&snapshot).unwrap();
        jobs.cancel(&snapshot);
        assert!(cancelled.is_cancelled() && job.cancelled().is_cancelled() && !jobs.is_busy());
        jobs.cancel(&snapshot);
    }
}
