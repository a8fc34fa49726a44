//! Backups of a replica's snapshots: started here, followed by name, remembered for a while when they are over.

mod source;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Replicas;
use super::instance::Replica;
use crate::backup::{
    BackupJob, BackupReport, BackupRequest, Cancel, CancelHandle, CreateSettings, Progress, Target, TargetUrl,
};
use crate::name::{BackingImageName, BackupName, ReplicaName, SnapshotName};
use crate::telemetry::events::ObjectKind;
use crate::{Error, Result};

use source::SnapshotSource;

/// Finished backups that are remembered, and failed ones (`engine-behaviour` §9).
const REMEMBERED: usize = 100;

/// A backup to be made.
#[derive(Debug, Clone)]
pub struct BackupOrder {
    /// The replica that is read.
    pub replica: ReplicaName,
    /// Where the backup goes.
    pub target: TargetUrl,
    /// What is backed up, and what is written about it.
    pub request: BackupRequest,
    /// Bytes of the volume; those of the replica when not given.
    pub size: Option<u64>,
    /// Blocks digested and compressed at once; the node's own limit when not given.
    pub workers: Option<NonZeroUsize>,
}

/// A backup that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedBackup {
    /// Its name.
    pub name: BackupName,
    /// Whether another backup is its base.
    pub is_incremental: bool,
}

/// A backup as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStatus {
    /// The replica that is read.
    pub replica: ReplicaName,
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// How far it is, or how it ended.
    pub phase: BackupPhase,
}

/// How far a backup is, or how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupPhase {
    /// It runs: per cent of the blocks, at most 99.
    Running(u32),
    /// It is durable, and can be restored from this URL.
    Complete(String),
    /// It failed, and why.
    Failed(String),
}

/// All backups that this node makes or made.
pub(super) struct Backups {
    records: Mutex<VecDeque<Arc<Record>>>,
    running: Arc<Semaphore>,
    limit: usize,
    workers: usize,
    stall: Duration,
}

struct Record {
    name: BackupName,
    replica: ReplicaName,
    snapshot: SnapshotName,
    progress: Arc<Progress>,
    cancel: CancelHandle,
    /// Set once, at the end.
    end: Mutex<Option<std::result::Result<String, String>>>,
}

impl Record {
    fn end(&self) -> MutexGuard<'_, Option<std::result::Result<String, String>>> {
        // Only whole values are put in.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backups {
    /// At most `limit` at once, each with `workers` unless it asks for fewer, given up after `stall` without progress.
    pub(super) fn new(limit: usize, workers: usize, stall: Duration) -> Self {
        Self { records: Mutex::default(), running: Arc::new(Semaphore::new(limit)), limit, workers, stall }
    }

    /// Tells the running backups of a replica, or of all, to stop.
    pub(super) fn cancel(&self, replica: Option<&ReplicaName>) {
        for record in self.records().iter().filter(|record| replica.is_none_or(|replica| record.replica == *replica)) {
            record.cancel.cancel();
        }
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit> {
        self.running.clone().try_acquire_owned().map_err(|_| Error::Exhausted {
            resource: "the node's backups at once",
            problem: format!("{} are running, which is the limit (limits.backups); try again later", self.limit),
        })
    }

    /// Remembers a backup, unless one of its name is running or done. One that failed gives way.
    fn add(&self, record: Arc<Record>) -> Result<()> {
        let mut records = self.records();
        let failed = |known: &Arc<Record>| matches!(&*known.end(), Some(Err(_)));
        if records.iter().any(|known| known.name == record.name && !failed(known)) {
            return Err(Error::exists("backup", &record.name));
        }
        records.retain(|known| known.name != record.name);
        records.push_back(record);
        Ok(())
    }

    fn forget(&self, record: &Arc<Record>) {
        self.records().retain(|known| !Arc::ptr_eq(known, record));
    }

    /// Notes how a backup ended, and forgets the oldest of too many that ended alike.
    fn end(&self, record: &Record, end: std::result::Result<String, String>) {
        let succeeded = end.is_ok();
        *record.end() = Some(end);
        let mut records = self.records();
        let alike = |known: &Arc<Record>| known.end().as_ref().is_some_and(|end| end.is_ok() == succeeded);
        let mut surplus = records.iter().filter(|known| alike(known)).count().saturating_sub(REMEMBERED);
        records.retain(|known| {
            let goes = surplus > 0 && alike(known);
            surplus -= usize::from(goes);
            !goes
        });
    }

    fn find(&self, name: &BackupName) -> Option<Arc<Record>> {
        self.records().iter().find(|record| record.name == *name).cloned()
    }

    fn records(&self) -> MutexGuard<'_, VecDeque<Arc<Record>>> {
        // No code between two changes of the list can panic.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replicas {
    /// Starts a backup; returns when it is planned and its volume locked in the store. What fails later is told by
    /// [`Self::backup_status`].
    pub async fn backup_create(&self, order: BackupOrder) -> Result<StartedBackup> {
        let replicas = self.clone();
        super::detached(async move { replicas.backup_start(order).await }).await
    }

    async fn backup_start(&self, order: BackupOrder) -> Result<StartedBackup> {
        let replica = self.known(&order.replica)?;
        let backups = self.backups();
        let permit = backups.admit()?;
        let (cancel, cancelled) = Cancel::pair();
        let record = Arc::new(Record {
            name: order.request.backup.clone(),
            replica: order.replica.clone(),
            snapshot: order.request.snapshot.clone(),
            progress: Arc::default(),
            cancel,
            end: Mutex::default(),
        });
        backups.add(record.clone())?;
        let workers = order.workers.map_or(backups.workers, |workers| workers.get().min(backups.workers));
        let settings = CreateSettings { workers, blocks_in_flight: 2 * workers, ..CreateSettings::default() };
        let prepared = async {
            let size = order.size.unwrap_or_else(|| replica.view().spec_size);
            let base = base_of(&replica).await?;
            let source =
                Arc::new(SnapshotSource::open(replica, &order.request.snapshot, &order.request.backup, size).await?);
            let mut request = order.request;
            name_base(&mut request, base)?;
            request.snapshot_created_at = source.taken_at.unwrap_or(request.snapshot_created_at);
            BackupJob::prepare(&Target::open(&order.target)?, source, request, settings).await
        };
        let job = match prepared.await {
            Ok(job) => job,
            Err(error) => {
                backups.forget(&record);
                return Err(error);
            }
        };
        let started = StartedBackup { name: record.name.clone(), is_incremental: job.is_incremental() };
        tokio::spawn(self.clone().backup_run(job, record, cancelled, permit));
        Ok(started)
    }

    async fn backup_run(
        self,
        job: BackupJob<SnapshotSource>,
        record: Arc<Record>,
        cancelled: Cancel,
        _permit: OwnedSemaphorePermit,
    ) {
        let backups = self.backups();
        let events = &self.telemetry().events;
        let transfer = self.telemetry().metrics.backups.begin(record.progress.clone());
        let source = format!("of snapshot {} of replica {}", record.snapshot, record.replica);
        events.tell(ObjectKind::Backup, &record.name, "started", &source);
        let outcome: Result<BackupReport> = tokio::select! {
            outcome = job.run(&record.progress, &cancelled) => outcome,
            limit = stalled(&record.progress, backups.stall) => {
                Err(Error::Timeout { what: format!("a block of backup {}", record.name), limit })
            }
        };
        transfer.end(&outcome);
        let (name, replica, snapshot) = (&record.name, &record.replica, &record.snapshot);
        match &outcome {
            Ok(report) => {
                let (blocks, new) = (report.blocks, report.new_block_files);
                tracing::info!(backup = %name, %replica, %snapshot, blocks, new, "a backup is complete");
                events.tell(ObjectKind::Backup, name, "completed", source);
            }
            Err(error) => {
                tracing::error!(backup = %name, %replica, %snapshot, %error, "a backup failed");
                events.tell(ObjectKind::Backup, name, "failed", error.to_string());
            }
        }
        let end = outcome.map(|report| report.url.to_string()).map_err(|error| error.to_string());
        backups.end(&record, end);
    }

    /// How far a backup is that this node makes or made.
    pub fn backup_status(&self, name: &BackupName) -> Result<BackupStatus> {
        let record = self.backups().find(name).ok_or_else(|| Error::not_found("backup", name))?;
        let phase = match &*record.end() {
            None => BackupPhase::Running(record.progress.percent()),
            Some(Ok(url)) => BackupPhase::Complete(url.clone()),
            Some(Err(problem)) => BackupPhase::Failed(problem.clone()),
        };
        Ok(BackupStatus { replica: record.replica.clone(), snapshot: record.snapshot.clone(), phase })
    }
}

/// The backing image that a replica stands on, with its checksum where that is known.
async fn base_of(replica: &Replica) -> Result<Option<(BackingImageName, String)>> {
    let Some(name) = replica.view().backing_image.clone() else { return Ok(None) };
    let survey = replica.store.survey().await?;
    let mut images = survey.iter().filter_map(|facts| facts.attributes.image.as_ref());
    let checksum = images.find(|image| image.name == name).and_then(|image| image.checksum.as_ref());
    Ok(Some((name, checksum.map(ToString::to_string).unwrap_or_default())))
}

/// The backup says what shows through where it has no block. What the caller says of it must be so.
fn name_base(request: &mut BackupRequest, base: Option<(BackingImageName, String)>) -> Result<()> {
    let (name, checksum) = base.map_or_else(Default::default, |(name, checksum)| (name.to_string(), checksum));
    let named = &request.backing_image_name;
    if !named.is_empty() && *named != name {
        let found = if name.is_empty() { "none".to_owned() } else { name };
        let problem = format!("{named} is not what the replica stands on: {found}");
        return Err(Error::invalid("backing_image_name", problem));
    }
    if request.backing_image_checksum.is_empty() {
        request.backing_image_checksum = checksum;
    }
    request.backing_image_name = name;
    Ok(())
}

/// Ends when no block was finished for `limit`.
async fn stalled(progress: &Progress, limit: Duration) -> Duration {
    loop {
        let before = progress.blocks_done();
        tokio::time::sleep(limit).await;
        if progress.blocks_done() == before {
            return limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Arc<Record> {
        Arc::new(Record {
            name: BackupName::parse(name).unwrap(),
            replica: ReplicaName::parse("r").unwrap(),
            snapshot: SnapshotName::parse("s").unwrap(),
            progress: Arc::default(),
            cancel: Cancel::pair().0,
            end: Mutex::default(),
        })
    }

    fn backups() -> Backups {
        Backups::new(2, 2, Duration::from_secs(1))
    }

    #[test]
    fn a_name_is_taken_while_it_runs_and_when_it_is_done_but_not_when_it_failed() {
        let backups = backups();
        let first = record("b1");
        backups.add(first.clone()).unwrap();
        assert!(matches!(backups.add(record("b1")), Err(Error::AlreadyExists { .. })));
        backups.end(&first, Err("why".into()));
        let second = record("b1");
        backups.add(second.clone()).unwrap();
        assert_eq!(backups.records().len(), 1);
        backups.end(&second, Ok("url".into()));
        assert!(backups.add(record("b1")).is_err());
    }

    #[test]
    fn the_oldest_of_each_kind_is_forgotten_first() {
        let backups = backups();
        let running = record("running");
        backups.add(running).unwrap();
        for index in 0..REMEMBERED + 2 {
            for (kind, end) in [("good", Ok("url".to_owned())), ("bad", Err("why".to_owned()))] {
                let record = record(&format!("{kind}-{index}"));
                backups.add(record.clone()).unwrap();
                backups.end(&record, end);
            }
        }
        let known = |name: &str| backups.find(&BackupName::parse(name).unwrap()).is_some();
        assert_eq!(backups.records().len(), 2 * REMEMBERED + 1);
        assert!(known("running") && known("good-2") && known("bad-101"));
        assert!(!known("good-0") && !known("good-1") && !known("bad-1"));
    }

    #[test]
    fn a_backup_names_the_image_below_and_refuses_another() {
        let request = |name: &str| BackupRequest {
            volume: crate::name::VolumeName::parse("volume").unwrap(),
            backup: BackupName::parse("b1").unwrap(),
            snapshot: SnapshotName::parse("s").unwrap(),
            snapshot_created_at: jiff::Timestamp::UNIX_EPOCH,
            labels: crate::backup::BackupLabels::parse::<&str>(&[]).unwrap(),
            method: crate::backup::CompressionMethod::Lz4,
            backing_image_name: name.into(),
            backing_image_checksum: String::new(),
            storage_class_name: String::new(),
        };
        let base = || Some((BackingImageName::parse("parrot").unwrap(), "sum".to_owned()));
        for named in ["", "parrot"] {
            let mut request = request(named);
            name_base(&mut request, base()).unwrap();
            assert_eq!(
                (request.backing_image_name.as_str(), request.backing_image_checksum.as_str()),
                ("parrot", "sum")
            );
        }
        for (named, base) in [("other", base()), ("parrot", None)] {
            let refused = name_base(&mut request(named), base);
            assert!(matches!(refused, Err(Error::InvalidArgument { field: "backing_image_name", .. })), "{refused:?}");
        }
    }

    #[test]
    fn more_than_the_limit_are_refused() {
        let backups = backups();
        let _running = (backups.admit().unwrap(), backups.admit().unwrap());
        assert!(matches!(backups.admit(), Err(Error::Exhausted { .. })));
    }
}
