//! One replica: its published view, which never waits, and its work, which goes one operation at a time.

use std::sync::{Arc, RwLock};

use tokio::sync::{Mutex, MutexGuard};

use super::clone::{CloneBoard, CloneDestination, Copies};
use super::hash::HashJobs;
use super::pace::Pace;
use super::readers::Readers;
use super::rebuild::{Board, CopyRecord, Destination, Source};
use super::serving::Serving;
use super::store::{Store, Survey};
use super::tree::Tree;
use super::view::{ReplicaState, ReplicaView};
use crate::changes::Changes;
use crate::disk::Disk;
use crate::name::{LvolName, ReplicaName, SnapshotName};
use crate::telemetry::Events;
use crate::telemetry::events::ObjectKind;
use crate::{Error, Result};

/// One replica.
pub(super) struct Replica {
    pub(super) name: ReplicaName,
    pub(super) disk: Disk,
    pub(super) store: Store,
    changes: Changes,
    events: Events,
    /// What is shown. Replaced whole, never held across a wait.
    view: RwLock<Arc<ReplicaView>>,
    /// What an operation has, from its start to its end.
    work: Mutex<Work>,
    /// Changes of attributes, which must not wait for a long operation: a fence is one.
    pub(super) attributes: Mutex<()>,
    /// How fast rebuilds of it are written.
    pub(super) pace: Arc<Pace>,
    /// How the last rebuild of it is getting on.
    pub(super) board: Board,
    /// How the last full copy into it is getting on.
    pub(super) clone_board: CloneBoard,
    /// Full copies from it.
    pub(super) copies: Copies,
    /// Who reads its snapshots.
    pub(super) readers: Readers,
    /// Which of its snapshots are being hashed.
    pub(super) hashes: HashJobs,
    /// The last copy from it.
    copy: std::sync::Mutex<Option<Arc<CopyRecord>>>,
}

/// What operations change.
#[derive(Default)]
pub(super) struct Work {
    /// Set while the replica is exported.
    pub(super) serving: Option<Serving>,
    /// The lvols as of the last look.
    pub(super) tree: Tree,
    /// The rebuild of it that was begun last.
    pub(super) rebuild: Option<Destination>,
    /// Set while a full copy into it runs.
    pub(super) clone: Option<CloneDestination>,
    /// Set while another replica is rebuilt from it.
    pub(super) source: Option<Source>,
    /// It is deleted; whoever waited for its turn finds nothing.
    pub(super) gone: bool,
}

/// An operation that has its turn.
pub(super) struct Turn<'a> {
    pub(super) replica: &'a Replica,
    pub(super) work: MutexGuard<'a, Work>,
}

impl Replica {
    pub(super) fn new(name: ReplicaName, disk: Disk, store: Store, changes: Changes, events: Events) -> Arc<Self> {
        let view = ReplicaView {
            name: name.clone(),
            lvs_name: disk.lvs().clone(),
            lvs_uuid: disk.uuid(),
            spec_size: 0,
            state: ReplicaState::Pending,
            error: String::new(),
            rebuilding: false,
            ports: None,
            head: None,
            snapshots: Default::default(),
            linked: None,
            cloned: None,
            interrupted: None,
            clone_usage: Default::default(),
            backing_image: None,
        };
        Arc::new(Self {
            name,
            disk,
            store,
            changes,
            events,
            view: RwLock::new(Arc::new(view)),
            work: Mutex::default(),
            attributes: Mutex::default(),
            pace: Arc::new(Pace::unlimited()),
            board: Board::default(),
            clone_board: CloneBoard::default(),
            copies: Copies::default(),
            readers: Readers::default(),
            hashes: HashJobs::default(),
            copy: Default::default(),
        })
    }

    /// The last copy from it, to look at or to replace.
    pub(super) fn copy(&self) -> std::sync::MutexGuard<'_, Option<Arc<CopyRecord>>> {
        // Only whole values are put in.
        self.copy.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// As it is shown.
    pub(super) fn view(&self) -> Arc<ReplicaView> {
        // Only whole values are put in.
        self.view.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub(super) fn object(&self) -> String {
        format!("replica {}", self.name)
    }

    pub(super) fn head(&self) -> LvolName {
        LvolName::head(&self.name)
    }

    /// Waits for the operations before.
    pub(super) async fn turn(&self) -> Result<Turn<'_>> {
        let work = self.work.lock().await;
        match work.gone {
            true => Err(Error::not_found("replica", &self.name)),
            false => Ok(Turn { replica: self, work }),
        }
    }

    /// A turn, if no operation is running.
    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        let work = self.work.try_lock().ok().filter(|work| !work.gone)?;
        Some(Turn { replica: self, work })
    }

    /// Changes what is shown.
    pub(super) fn show(&self, change: impl FnOnce(&mut ReplicaView)) {
        let mut slot = self.view.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut view = (**slot).clone();
        change(&mut view);
        if view != **slot {
            tell(&self.events, &slot, &view);
            *slot = Arc::new(view);
            drop(slot);
            self.changes.announce();
        }
    }
}

/// What watchers of events should know of a change.
fn tell(events: &Events, before: &ReplicaView, after: &ReplicaView) {
    let tell = |what, message: String| events.tell(ObjectKind::Replica, &after.name, what, message);
    // That a replica was found again, and with what, is told by who found it.
    let found = before.state == ReplicaState::Pending && after.state == ReplicaState::Stopped;
    if !found && (before.state, &before.error) != (after.state, &after.error) {
        let reason = if after.error.is_empty() { String::new() } else { format!(": {}", after.error) };
        tell("state-changed", format!("{}{reason}", after.state.as_str()));
    }
    if before.head.is_some() {
        for made in after.snapshots.keys().filter(|name| !before.snapshots.contains_key(*name)) {
            tell("snapshot-created", made.to_string());
        }
        for gone in before.snapshots.keys().filter(|name| !after.snapshots.contains_key(*name)) {
            tell("snapshot-deleted", gone.to_string());
        }
    }
}

impl Turn<'_> {
    /// Reads the lvols anew and shows them.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        let survey = self.replica.store.survey().await?;
        self.take(&survey);
        Ok(())
    }

    /// Takes over what a survey says, and shows it.
    pub(super) fn take(&mut self, survey: &Survey) {
        let tree = Tree::build(&self.replica.name, survey);
        self.replica.show(|view| {
            let in_place = tree.rebuild.as_ref().map(|facts| facts.size);
            view.spec_size = tree.head.as_ref().map(|head| head.spec_size).or(in_place).unwrap_or(view.spec_size);
            view.rebuilding = tree.rebuild.is_some();
            view.head = tree.head.clone();
            view.snapshots = tree.snapshot_views();
            view.linked = tree.linked.clone();
            view.cloned = tree.cloned.clone();
            view.interrupted = tree.interrupted.clone();
            let used = tree.clones.iter().filter(|(_, clones)| !clones.is_empty());
            view.clone_usage = used.map(|(snapshot, clones)| (snapshot.clone(), clones.len())).collect();
            view.backing_image = tree.base.backing_image().cloned();
            view.ports = self.work.serving.as_ref().map(Serving::address);
        });
        self.work.tree = tree;
    }

    /// Where the replica is in its life.
    pub(super) fn state(&self) -> ReplicaState {
        self.replica.view().state
    }

    pub(super) fn set_state(&self, state: ReplicaState) {
        self.replica.show(|view| {
            view.state = state;
            if state != ReplicaState::Error {
                view.error.clear();
            }
        });
    }

    /// Shows a problem that leaves the state as it is.
    pub(super) fn note(&self, problem: &Error) {
        self.replica.show(|view| view.error = problem.to_string());
    }

    /// Puts the replica into state error, with the reason.
    pub(super) fn fail(&self, error: &Error) {
        tracing::error!(replica = %self.replica.name, %error, "a replica is in state error");
        self.replica.show(|view| {
            view.state = ReplicaState::Error;
            view.error = error.to_string();
        });
    }

    /// Only a replica that is stopped or running, and not being rebuilt, can be worked on.
    pub(super) fn require_usable(&self) -> Result<()> {
        match self.state() {
            ReplicaState::Stopped | ReplicaState::Running if self.replica.view().rebuilding => {
                let what = match self.replica.view().interrupted {
                    Some(_) => "a full copy into it",
                    None => "a rebuild of it",
                };
                let problem = format!("{what} is in progress or was interrupted; it must come to its end first");
                Err(Error::precondition(self.replica.object(), problem))
            }
            ReplicaState::Stopped | ReplicaState::Running => Ok(()),
            state => Err(Error::precondition(
                self.replica.object(),
                format!("it is in state {}; it must be stopped or running", state.as_str()),
            )),
        }
    }

    /// The lvol of a snapshot.
    pub(super) fn lvol_of(&self, snapshot: &SnapshotName) -> Result<LvolName> {
        match self.work.tree.snapshots.get(snapshot) {
            Some(node) => Ok(node.lvol.clone()),
            None => Err(Error::not_found("snapshot", format!("{snapshot} of replica {}", self.replica.name))),
        }
    }
}
