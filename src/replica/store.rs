//! The lvols of one lvstore, as replicas use them: each call one visit of the control thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::attributes::{Attributes, is_carried};
use super::base::Base;
use super::tree::LvolFacts;
use crate::name::{LvolAlias, LvolName, LvsName};
use crate::spdk::clustermap::ClusterMap;
use crate::spdk::lvol::Provision;
use crate::spdk::lvstore::ClearMethod;
use crate::spdk::xattr::{XattrChange, XattrName, XattrValue};
use crate::spdk::{Control, SpdkError, lvol};
use crate::{Error, Result};

/// For how long a survey answers for sizes, which change with every write.
const SURVEY_LIFE: Duration = Duration::from_secs(1);
/// How long an lvol may be busy or open still, after whoever used it was told to stop.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at such an lvol.
const SETTLE_STEP: Duration = Duration::from_millis(20);

/// All lvols of a store, as they were at one moment.
pub(super) type Survey = Arc<Vec<LvolFacts>>;

/// One lvstore. Cheap to clone.
#[derive(Clone)]
pub(super) struct Store(Arc<Shared>);

struct Shared {
    control: Control,
    lvs: LvsName,
    clear: ClearMethod,
    last: Mutex<Last>,
    /// Held by who makes or removes entry points of linked clones, or what these stand on.
    entry_points: tokio::sync::Mutex<()>,
}

/// The last survey, if nothing was changed since, and how many changes there were.
#[derive(Default)]
struct Last {
    survey: Option<(Instant, Survey)>,
    changes: u64,
}

impl Store {
    /// The store `lvs`, in which clusters are given back by `clear`.
    pub(super) fn new(control: Control, lvs: LvsName, clear: ClearMethod) -> Self {
        Self(Arc::new(Shared { control, lvs, clear, last: Mutex::default(), entry_points: Default::default() }))
    }

    /// The control thread it works on.
    pub(super) fn control(&self) -> &Control {
        &self.0.control
    }

    /// The turn of who makes or removes entry points of linked clones, or a snapshot that may have one. Taken after a
    /// replica's turn, never before.
    pub(super) async fn entry_points(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.entry_points.lock().await
    }

    /// An lvol of this store.
    pub(super) fn alias(&self, lvol: &LvolName) -> LvolAlias {
        LvolAlias { lvs: self.0.lvs.clone(), lvol: lvol.clone() }
    }

    /// All lvols as they are now.
    pub(super) async fn survey(&self) -> Result<Survey> {
        let lvs = self.0.lvs.clone();
        let (taken, changes) = (Instant::now(), self.last().changes);
        let facts = self.0.control.run(move |on| async move {
            let lvols = lvol::list(on, &lvs)?;
            let facts = lvols.into_iter().map(|info| {
                Ok::<_, SpdkError>(LvolFacts {
                    attributes: Attributes::read(on, &info.alias)?,
                    lvol: info.alias.lvol,
                    uuid: info.uuid,
                    size: info.size,
                    actual_size: info.allocated_clusters * (info.size / info.clusters.max(1)),
                    parent: info.parent,
                    children: info.children.len(),
                    is_snapshot: info.is_snapshot,
                    open: info.open,
                })
            });
            facts.collect::<std::result::Result<Vec<_>, _>>()
        });
        let survey = Arc::new(facts.await?);
        let mut last = self.last();
        if last.changes == changes {
            last.survey = Some((taken, survey.clone()));
        }
        Ok(survey)
    }

    /// All lvols as they were at most [`SURVEY_LIFE`] ago, and never before a change that was made through this type.
    pub(super) async fn recent_survey(&self) -> Result<Survey> {
        let recent = self.last().survey.clone().filter(|(taken, _)| taken.elapsed() < SURVEY_LIFE);
        match recent {
            Some((_, survey)) => Ok(survey),
            None => self.survey().await,
        }
    }

    /// Makes a thin lvol.
    pub(super) async fn create(&self, lvol: &LvolName, size: u64) -> Result<()> {
        let (alias, clear) = (self.alias(lvol), self.0.clear);
        self.change(move |on| async move { lvol::create(on, &alias, size, Provision::Thin, clear).await.map(drop) })
            .await
            .map_err(|error| no_room(error, &self.0.lvs))
    }

    /// Makes an lvol of `size` bytes, at least those of `base`, that reads as `base` does.
    pub(super) async fn create_on(&self, base: &Base, lvol: &LvolName, size: u64) -> Result<()> {
        let Some(below) = base.lvol() else { return self.create(lvol, size).await };
        self.clone_of(below, lvol).await?;
        self.grow(lvol, size).await
    }

    /// Takes a snapshot of `lvol` that carries `attributes`.
    pub(super) async fn snapshot(
        &self,
        lvol: &LvolName,
        snapshot: &LvolName,
        attributes: Vec<(XattrName, XattrValue)>,
    ) -> Result<()> {
        let (alias, snapshot) = (self.alias(lvol), snapshot.clone());
        self.change(move |on| async move { lvol::snapshot(on, &alias, &snapshot, &attributes).await.map(drop) })
            .await
            .map_err(|error| no_room(error, &self.0.lvs))
    }

    /// Makes a writable lvol of a snapshot's content.
    pub(super) async fn clone_of(&self, snapshot: &LvolName, lvol: &LvolName) -> Result<()> {
        let (alias, lvol) = (self.alias(snapshot), lvol.clone());
        self.change(move |on| async move { lvol::clone(on, &alias, &lvol).await.map(drop) })
            .await
            .map_err(|error| no_room(error, &self.0.lvs))
    }

    /// Gives an lvol another name.
    pub(super) async fn rename(&self, lvol: &LvolName, name: &LvolName) -> Result<()> {
        let (alias, name) = (self.alias(lvol), name.clone());
        Ok(self.change(move |on| async move { lvol::rename(on, &alias, &name).await.map(drop) }).await?)
    }

    /// Makes an lvol larger.
    pub(super) async fn grow(&self, lvol: &LvolName, size: u64) -> Result<()> {
        let alias = self.alias(lvol);
        self.change(move |on| async move { lvol::grow(on, &alias, size).await.map(drop) })
            .await
            .map_err(|error| no_room(error, &self.0.lvs))
    }

    /// Deletes an lvol, once who had it open has closed it. Waits for that, but not for ever.
    pub(super) async fn delete(&self, lvol: &LvolName) -> Result<()> {
        self.until_closed(lvol).await?;
        let alias = self.alias(lvol);
        Ok(self.change(move |on| async move { lvol::delete(on, &alias).await }).await?)
    }

    async fn until_closed(&self, lvol: &LvolName) -> Result<()> {
        let started = Instant::now();
        loop {
            let alias = self.alias(lvol);
            let open = self
                .0
                .control
                .run(move |on| async move { lvol::find(on, &alias).map(|found| found.is_some_and(|info| info.open)) })
                .await?;
            match open {
                false => return Ok(()),
                true if started.elapsed() > SETTLE_LIMIT => {
                    let problem = "it is in use still (by an engine, a backup or a copy); stop that first";
                    return Err(Error::precondition(format!("lvol {}", self.alias(lvol).bdev()), problem));
                }
                true => tokio::time::sleep(SETTLE_STEP).await,
            }
        }
    }

    /// Which clusters an lvol has of its own.
    pub(super) async fn cluster_map(&self, lvol: &LvolName) -> Result<ClusterMap> {
        let alias = self.alias(lvol);
        Ok(self.0.control.run(move |on| async move { lvol::cluster_map(on, &alias) }).await?)
    }

    /// The own clusters of an lvol and of all that is below it, also of what is not the replica's; the lvol's first.
    pub(super) async fn layers(&self, lvol: &LvolName) -> Result<Vec<ClusterMap>> {
        let alias = self.alias(lvol);
        let layers = self.0.control.run(move |on| async move {
            let lineage = super::head::lineage(on, &alias)?;
            lineage.iter().map(|alias| lvol::cluster_map(on, alias)).collect::<std::result::Result<Vec<_>, SpdkError>>()
        });
        Ok(layers.await?)
    }

    /// One attribute of an lvol.
    pub(super) async fn attribute(&self, lvol: &LvolName, name: &XattrName) -> Result<Option<XattrValue>> {
        let (alias, name) = (self.alias(lvol), name.clone());
        Ok(self.0.control.run(move |on| async move { lvol::xattr(on, &alias, &name) }).await?)
    }

    /// Those attributes of a head that another head in its place must have.
    pub(super) async fn carried_attributes(&self, lvol: &LvolName) -> Result<Vec<XattrChange>> {
        let alias = self.alias(lvol);
        let carried = self.0.control.run(move |on| async move {
            let names = lvol::xattr_names(on, &alias)?.into_iter().filter(|name| is_carried(name.as_str()));
            let mut changes = Vec::new();
            for name in names {
                if let Some(value) = lvol::xattr(on, &alias, &name)? {
                    changes.push(XattrChange::set(name, value));
                }
            }
            Ok::<_, SpdkError>(changes)
        });
        Ok(carried.await?)
    }

    /// Changes attributes of an lvol, all in one write. Another change of the lvol that is under way is waited for.
    pub(super) async fn apply(&self, lvol: &LvolName, changes: Vec<XattrChange>) -> Result<()> {
        let started = Instant::now();
        loop {
            let (alias, changes) = (self.alias(lvol), changes.clone());
            let applied = self.change(move |on| async move { lvol::apply_xattrs(on, &alias, &changes).await }).await;
            match applied {
                // What SPDK refuses here is a second change of a blob at a time.
                Err(SpdkError::Refused { .. }) if started.elapsed() < SETTLE_LIMIT => {
                    tokio::time::sleep(SETTLE_STEP).await;
                }
                other => return other.map_err(|error| no_room(error, &self.0.lvs)),
            }
        }
    }

    async fn change<T, F, Fut>(&self, work: F) -> std::result::Result<T, SpdkError>
    where
        F: FnOnce(crate::spdk::OnControl) -> Fut + Send + 'static,
        Fut: Future<Output = std::result::Result<T, SpdkError>> + 'static,
        T: Send + 'static,
    {
        let result = self.0.control.run(work).await;
        let mut last = self.last();
        last.survey = None;
        last.changes += 1;
        drop(last);
        result
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // No code between two changes of it can panic.
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The blobstore says "no memory" when its pages for metadata are used up.
fn no_room(error: SpdkError, lvs: &LvsName) -> Error {
    use crate::spdk::Errno;
    match error.errno() {
        Some(Errno::ENOSPC | Errno::ENOMEM) => Error::NoSpace {
            object: format!("disk {lvs}"),
            problem: format!("{error}; delete snapshots or replicas, or use another disk"),
        },
        _ => error.into(),
    }
}
