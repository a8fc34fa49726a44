//! How a rebuild is getting on, where whoever asks finds it without waiting for the rebuild's steps.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::plan::Plan;
use super::types::{CopyProgress, CopyState, RebuildProgress, RebuildSnapshot};

/// The last rebuild of one replica in the life of this process.
#[derive(Debug, Default)]
pub(in crate::replica) struct Board(Mutex<Option<Entry>>);

#[derive(Debug)]
struct Entry {
    shown: RebuildProgress,
    /// What the snapshots weigh: those that are made, the one being copied, all.
    made: u64,
    current: u64,
    all: u64,
}

/// A snapshot's part of the whole: its bytes, but never nothing, so that each one counts.
fn weight(snapshot: &RebuildSnapshot) -> u64 {
    snapshot.actual_size.max(1)
}

fn percent(part: u64, whole: u64) -> u8 {
    // At most 100, so it fits.
    (u128::from(part) * 100).checked_div(u128::from(whole)).map_or(0, |percent| percent.min(100) as u8)
}

impl Board {
    /// A rebuild begins.
    pub(super) fn begin(&self, plan: &Plan) {
        let shown = RebuildProgress {
            source: plan.order.source.clone(),
            source_address: plan.order.source_address,
            snapshot: None,
            state: CopyState::Idle,
            percent: 0,
            total_state: CopyState::InProgress,
            total_percent: 0,
            error: String::new(),
        };
        let all = plan.order.snapshots.iter().map(weight).sum();
        *self.entry() = Some(Entry { shown, made: 0, current: 0, all });
    }

    /// A further round begins: `made` of its snapshots are there. No number falls, though there is more to do than before.
    pub(super) fn go_on(&self, plan: &Plan, made: impl Fn(&RebuildSnapshot) -> bool) {
        self.change(|entry| {
            let snapshots = &plan.order.snapshots;
            entry.all = snapshots.iter().map(weight).sum();
            entry.made = snapshots.iter().filter(|snapshot| made(snapshot)).map(weight).sum();
            entry.current = 0;
            entry.shown.total_state =
                if snapshots.iter().all(made) { CopyState::Complete } else { CopyState::InProgress };
        });
    }

    /// The copy of a snapshot begins.
    pub(super) fn copying(&self, snapshot: &RebuildSnapshot) {
        self.change(|entry| {
            entry.current = weight(snapshot);
            entry.shown.snapshot = Some(snapshot.name.clone());
            (entry.shown.state, entry.shown.percent) = (CopyState::Starting, 0);
        });
    }

    /// A snapshot was asked for that is made already.
    pub(super) fn made_before(&self, snapshot: &RebuildSnapshot) {
        self.change(|entry| {
            entry.shown.snapshot = Some(snapshot.name.clone());
            (entry.shown.state, entry.shown.percent) = (CopyState::Complete, 100);
        });
    }

    /// The source told how far the copy is.
    pub(super) fn copied(&self, copy: &CopyProgress) {
        self.change(|entry| {
            let whole = copy.state == CopyState::Complete;
            let now = if whole { 100 } else { percent(copy.copied_clusters, copy.total_clusters).min(99) };
            entry.shown.state = copy.state;
            entry.shown.percent = entry.shown.percent.max(now);
            let part = entry.made + entry.current / 100 * u64::from(entry.shown.percent);
            entry.shown.total_percent = entry.shown.total_percent.max(percent(part, entry.all).min(99));
        });
    }

    /// All of the snapshot is here.
    pub(super) fn copy_complete(&self) {
        let (state, error) = (CopyState::Complete, String::new());
        self.copied(&CopyProgress { state, copied_clusters: 0, total_clusters: 0, error });
    }

    /// The snapshot is made of it; `last` when it was the last one.
    pub(super) fn made(&self, last: bool) {
        self.change(|entry| {
            entry.made += std::mem::take(&mut entry.current);
            let now = percent(entry.made, entry.all);
            entry.shown.total_percent = entry.shown.total_percent.max(if last { 100 } else { now.min(99) });
            if last {
                entry.shown.total_state = CopyState::Complete;
            }
        });
    }

    /// The rebuild failed.
    pub(in crate::replica) fn fail(&self, error: &crate::Error) {
        self.change(|entry| {
            let shown = &mut entry.shown;
            if !matches!(shown.state, CopyState::Idle | CopyState::Complete) {
                shown.state = CopyState::Error;
            }
            shown.total_state = CopyState::Error;
            shown.error = error.to_string();
        });
    }

    /// The last rebuild, if there was one.
    pub(super) fn get(&self) -> Option<RebuildProgress> {
        self.entry().as_ref().map(|entry| entry.shown.clone())
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = &mut *self.entry() {
            change(entry);
        }
    }

    fn entry(&self) -> MutexGuard<'_, Option<Entry>> {
        // No code between two changes of the entry can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{HostPort, ReplicaName, SnapshotName};
    use crate::replica::rebuild::RebuildOrder;

    fn board(sizes: [u64; 2]) -> (Board, Vec<RebuildSnapshot>) {
        let snapshot = |(number, actual_size): (usize, u64)| RebuildSnapshot {
            name: SnapshotName::parse(&format!("s{number}")).unwrap(),
            uuid: None,
            spec_size: 100 << 20,
            actual_size: actual_size << 20,
            parent: None,
            user_created: true,
            timestamp: String::new(),
            checksum: String::new(),
        };
        let snapshots: Vec<_> = sizes.into_iter().enumerate().map(snapshot).collect();
        let order = RebuildOrder {
            source: ReplicaName::parse("r").unwrap(),
            source_address: HostPort::parse("10.0.0.1:1").unwrap(),
            exposed_snapshot: snapshots[1].name.clone(),
            exposed_address: HostPort::parse("10.0.0.1:2").unwrap(),
            snapshots: snapshots.clone(),
            linked: None,
        };
        let board = Board::default();
        board.begin(&Plan::new(order, 100 << 20, 1 << 20).unwrap());
        (board, snapshots)
    }

    fn at(copied_clusters: u64, total_clusters: u64) -> CopyProgress {
        CopyProgress { state: CopyState::InProgress, copied_clusters, total_clusters, error: String::new() }
    }

    fn shown(board: &Board) -> (&'static str, u8, &'static str, u8) {
        let shown = board.get().unwrap();
        (shown.state.as_str(), shown.percent, shown.total_state.as_str(), shown.total_percent)
    }

    #[test]
    fn progress_counts_bytes_and_never_falls() {
        let (board, snapshots) = board([30, 10]);
        assert_eq!(shown(&board), ("", 0, "in_progress", 0));
        board.copying(&snapshots[0]);
        assert_eq!(shown(&board), ("starting", 0, "in_progress", 0));
        board.copied(&at(15, 30));
        assert_eq!(shown(&board), ("in_progress", 50, "in_progress", 37));
        board.copied(&at(10, 30));
        assert_eq!(shown(&board), ("in_progress", 50, "in_progress", 37), "a late answer changes nothing");
        board.copied(&at(30, 30));
        assert_eq!(shown(&board).1, 99, "not complete before it is durable");
        board.copy_complete();
        board.made(false);
        assert_eq!(shown(&board), ("complete", 100, "in_progress", 75));
        board.copying(&snapshots[1]);
        assert_eq!(shown(&board), ("starting", 0, "in_progress", 75));
        board.copy_complete();
        assert_eq!(shown(&board).3, 99, "the last snapshot is not made yet");
        board.made(true);
        assert_eq!(shown(&board), ("complete", 100, "complete", 100));
    }

    #[test]
    fn a_further_round_lets_no_number_fall() {
        let (board, snapshots) = board([30, 10]);
        let plan = |sizes: &[u64]| {
            let snapshots = sizes.iter().enumerate().map(|(number, size)| RebuildSnapshot {
                name: SnapshotName::parse(&format!("s{number}")).unwrap(),
                actual_size: size << 20,
                ..snapshots[0].clone()
            });
            let order = RebuildOrder {
                source: ReplicaName::parse("r").unwrap(),
                source_address: HostPort::parse("10.0.0.1:1").unwrap(),
                exposed_snapshot: snapshots.clone().next_back().unwrap().name,
                exposed_address: HostPort::parse("10.0.0.1:2").unwrap(),
                snapshots: snapshots.collect(),
                linked: None,
            };
            Plan::new(order, 100 << 20, 1 << 20).unwrap()
        };
        board.copying(&snapshots[0]);
        board.copy_complete();
        board.made(false);
        assert_eq!(shown(&board).3, 75);
        // Twice as much as before: a half of it is there.
        let larger = plan(&[30, 10, 20]);
        board.go_on(&larger, |snapshot| snapshot.name == snapshots[0].name);
        assert_eq!(shown(&board), ("complete", 100, "in_progress", 75));
        board.copying(&larger.order.snapshots[1]);
        board.copy_complete();
        board.made(false);
        assert_eq!(shown(&board).3, 75, "40 of 60 are less than was shown");
        board.copying(&larger.order.snapshots[2]);
        board.copied(&at(10, 20));
        assert_eq!(shown(&board).3, 83);
        board.copy_complete();
        board.made(true);
        assert_eq!(shown(&board), ("complete", 100, "complete", 100));
        let largest = plan(&[30, 10, 20, 5]);
        board.go_on(&largest, |snapshot| snapshot.actual_size != 5 << 20);
        assert_eq!(shown(&board), ("complete", 100, "in_progress", 100), "what was shown stays");
        board.made_before(&snapshots[0]);
        assert_eq!(board.get().unwrap().snapshot, Some(snapshots[0].name.clone()));
        assert_eq!(shown(&board), ("complete", 100, "in_progress", 100));
        board.go_on(&largest, |_| true);
        assert_eq!(shown(&board).2, "complete", "nothing is left to copy");
    }

    #[test]
    fn a_failure_keeps_where_it_was() {
        let (board, snapshots) = board([0, 0]);
        board.copying(&snapshots[0]);
        board.fail(&crate::Error::peer("node 10.0.0.1:8504", "is silent"));
        let shown = board.get().unwrap();
        assert_eq!((shown.state, shown.total_state), (CopyState::Error, CopyState::Error));
        assert!(shown.error.contains("silent") && shown.snapshot == Some(snapshots[0].name.clone()));
    }
}
