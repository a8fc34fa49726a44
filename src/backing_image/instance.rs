//! One image: its published view, which never waits, the making of it, and its operations, which go one at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::expose::Exposed;
use super::record::{ImageRecord, Outcome};
use super::store::{ImageStore, shown};
use super::view::{BackingImageState, BackingImageView};
use crate::backup::CancelHandle;
use crate::changes::Changes;
use crate::disk::Disk;
use crate::name::LvolName;
use crate::spdk::Control;
use crate::spdk::lvol::LvolInfo;
use crate::telemetry::Events;
use crate::telemetry::events::ObjectKind;
use crate::{Error, Result};

/// How long a cancelled making may take to let go of what it has open.
const END_LIMIT: Duration = Duration::from_secs(30);

/// One image on one disk.
pub(super) struct Image {
    pub(super) disk: Disk,
    pub(super) store: ImageStore,
    changes: Changes,
    events: Events,
    /// What is shown. Replaced whole, never held across a wait.
    view: RwLock<Arc<BackingImageView>>,
    /// What an operation has, from its start to its end.
    work: tokio::sync::Mutex<Work>,
    /// The making of it.
    making: Mutex<Option<Making>>,
}

/// What operations change.
#[derive(Default)]
pub(super) struct Work {
    /// Set while it is exposed.
    pub(super) exposed: Option<Exposed>,
    /// It is deleted; whoever waited for its turn finds nothing.
    pub(super) gone: bool,
}

/// The task that makes an image.
pub(super) struct Making {
    pub(super) cancel: CancelHandle,
    pub(super) task: JoinHandle<()>,
}

/// An operation that has its turn.
pub(super) type Turn<'a> = tokio::sync::MutexGuard<'a, Work>;

impl Image {
    /// Of a record, in the state that it tells, or about to be made.
    pub(super) fn new(
        control: &Control,
        disk: &Disk,
        record: &ImageRecord,
        state: BackingImageState,
        (changes, events): (Changes, Events),
    ) -> Arc<Self> {
        let view = BackingImageView {
            name: record.name.clone(),
            id: record.id.clone(),
            lvs_name: disk.lvs().clone(),
            lvs_uuid: disk.uuid(),
            size: record.size.unwrap_or(0),
            checksum: record.checksum.clone(),
            found: record.found.clone(),
            lvol: None,
            progress: if state == BackingImageState::Ready { 100 } else { 0 },
            state,
            error: record.error.clone(),
        };
        Arc::new(Self {
            disk: disk.clone(),
            store: ImageStore::new(control, disk, &record.name),
            changes,
            events,
            view: RwLock::new(Arc::new(view)),
            work: Default::default(),
            making: Mutex::default(),
        })
    }

    /// One that was found on its disk.
    pub(super) fn found(
        control: &Control,
        disk: &Disk,
        record: &ImageRecord,
        lvol: &LvolInfo,
        tell: (Changes, Events),
    ) -> Arc<Self> {
        let state = match record.outcome {
            Some(Outcome::Ready) => BackingImageState::Ready,
            Some(Outcome::Failed) => BackingImageState::Failed,
            None => BackingImageState::Pending,
        };
        let size = Some(record.size.unwrap_or(lvol.size));
        // One of Longhorn's was found to be what it says before its state was stored.
        let ready = record.outcome == Some(Outcome::Ready);
        let found = record.found.clone().or_else(|| record.checksum.clone().filter(|_| ready));
        let image = Self::new(control, disk, &ImageRecord { size, found, ..record.clone() }, state, tell);
        let shown = shown(lvol);
        image.show(|view| view.lvol = Some(shown));
        image
    }

    /// As it is shown.
    pub(super) fn view(&self) -> Arc<BackingImageView> {
        // Only whole values are put in.
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As errors name it.
    pub(super) fn object(&self) -> String {
        format!("backing image {} on disk {}", self.view().name, self.disk.name())
    }

    /// The lvol that it is in the end.
    pub(super) fn lvol(&self) -> LvolName {
        self.store.image().lvol.clone()
    }

    /// Changes what is shown.
    pub(super) fn show(&self, change: impl FnOnce(&mut BackingImageView)) {
        let mut slot = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let mut view = (**slot).clone();
        change(&mut view);
        if view != **slot {
            if (slot.state, &slot.error) != (view.state, &view.error) {
                let reason = if view.error.is_empty() { String::new() } else { format!(": {}", view.error) };
                let message = format!("{} on disk {}{reason}", view.state.as_str(), view.lvs_name);
                self.events.tell(ObjectKind::BackingImage, &view.name, "state-changed", message);
            }
            *slot = Arc::new(view);
            drop(slot);
            self.changes.announce();
        }
    }

    /// What its lvols are to carry in the state it has.
    pub(super) fn record(&self, outcome: Option<Outcome>, error: String) -> ImageRecord {
        let view = self.view();
        ImageRecord {
            name: view.name.clone(),
            id: view.id.clone(),
            checksum: view.checksum.clone(),
            found: view.found.clone(),
            size: Some(view.size),
            outcome,
            error,
        }
    }

    /// Looks whether its lvol is there still, and how large it is.
    pub(super) async fn refresh(&self) -> Result<()> {
        let state = self.view().state;
        if !matches!(state, BackingImageState::Ready | BackingImageState::Failed) {
            return Ok(());
        }
        let found = self.store.find().await?;
        let shown = found.as_ref().map(shown);
        self.show(|view| {
            if shown.is_none() && view.lvol.is_some() && view.state == state {
                view.state = BackingImageState::Failed;
                view.error = "its lvol is gone from the disk".into();
            }
            view.lvol = shown;
        });
        Ok(())
    }

    /// Waits for the operations before.
    pub(super) async fn turn(&self) -> Result<Turn<'_>> {
        let work = self.work.lock().await;
        match work.gone {
            true => Err(Error::not_found("backing image", self.view().name.as_str())),
            false => Ok(work),
        }
    }

    /// Only a whole image can be used.
    pub(super) fn require_ready(&self) -> Result<()> {
        let view = self.view();
        match view.state {
            BackingImageState::Ready => Ok(()),
            state => {
                let reason = if view.error.is_empty() { String::new() } else { format!(" ({})", view.error) };
                let problem = format!("it is in state {}{reason}; it must be ready", state.as_str());
                Err(Error::precondition(self.object(), problem))
            }
        }
    }

    pub(super) fn making(&self) -> MutexGuard<'_, Option<Making>> {
        // Only whole values are put in.
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the making of it, if it goes on, and waits until it has let go of everything.
    pub(super) async fn cancel_making(&self) -> Result<()> {
        let Some(mut making) = self.making().take() else { return Ok(()) };
        making.cancel.cancel();
        if tokio::time::timeout(END_LIMIT, &mut making.task).await.is_err() {
            *self.making() = Some(making);
            return Err(Error::Timeout {
                what: format!("the end of the making of {}", self.object()),
                limit: END_LIMIT,
            });
        }
        Ok(())
    }
}
