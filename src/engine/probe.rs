//! Asking every replica, before any is opened, what it has and what it durably knows; and making good what a restore
//! that was cut short has left.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;

use super::attach::ReplicaPath;
use super::backend::Attribute;
use super::instance::{Engine, Frontend};
use super::restore::recover::{self, Recovery, Standing};
use super::restore::replicas::parse_marker;
use super::state::Chain;
use crate::error::{Error, Result};
use crate::mirror::core::{GenerationRecord, complete, records_that_count};
use crate::name::{BackupName, ReplicaName};

/// A replica that answered.
pub(super) struct Probed {
    standing: Standing,
    pub(super) record: Option<GenerationRecord>,
}

/// All replicas: each with what it answered, or why it cannot take part.
pub(super) struct Probes(Vec<(Arc<ReplicaPath>, Result<Probed>)>);

impl Probes {
    /// Asks every replica. An error only when none answers as it must.
    pub(super) async fn ask(engine: &Engine) -> Result<Self> {
        let probes = engine.paths().into_iter().map(|path| async move {
            let result = probe(&path).await;
            (path, result)
        });
        let mut probes = Self(join_all(probes).await);
        probes.refuse_not_cloned();
        probes.require_one(engine)?;
        probes.require_one_base(engine)?;
        Ok(probes)
    }

    /// Where the making of a linked clone was cut short, the replicas that are one hold the volume, and those that are empty
    /// still do not.
    fn refuse_not_cloned(&mut self) {
        let linked = self.answered().find_map(|probed| probed.standing.description.linked.clone());
        let Some(linked) = linked else { return };
        for (path, result) in &mut self.0 {
            if result.as_ref().is_ok_and(|probed| probed.standing.description.is_fresh()) {
                let problem = format!("it is empty, and others are linked clones of snapshot {}", linked.snapshot);
                *result = Err(Error::precondition(format!("replica {}", path.replica), problem));
            }
        }
    }

    /// What was never written must read alike on all.
    fn require_one_base(&self, engine: &Engine) -> Result<()> {
        let bases: BTreeSet<_> =
            self.answered().map(|probed| probed.standing.description.backing_image_name()).collect();
        if bases.len() <= 1 {
            return Ok(());
        }
        let words: Vec<_> = bases.iter().map(|base| base.map_or("none", |name| name.as_str())).collect();
        let problem = format!("its replicas stand on different backing images: {}", words.join(", "));
        Err(Error::precondition(engine.object(), problem))
    }

    /// A restore that was cut short left a mixture. Where every replica that is up to date has the point before it, they
    /// go back there. Where there is none, the volume can only be restored into, not served. A replica that is not up to
    /// date will not take part, so it is neither asked nor changed.
    pub(super) async fn recover(self, engine: &Engine) -> Result<Self> {
        let records = self.known_records();
        let current = complete(&records);
        let (mut probes, mut standing) = (Vec::new(), Vec::new());
        for (path, result) in self.0 {
            match result {
                Ok(probed) if current.contains(&path.replica) => standing.push(probed.standing),
                other => probes.push((path, other)),
            }
        }
        let recovery = recover::needed(&standing);
        if recovery == Recovery::NoPoint && engine.frontend != Frontend::None {
            let problem =
                "its first restore was interrupted and there is no earlier point to go back to; restore it again";
            return Err(Error::precondition(engine.object(), problem));
        }
        for (path, result) in recover::carry_out(&recovery, standing).await {
            let record = records.iter().find(|(replica, _)| *replica == path.replica);
            let record = record.and_then(|(_, record)| record.clone());
            probes.push((path, result.map(|standing| Probed { standing, record })));
        }
        let probes = Self(probes);
        probes.require_one(engine)?;
        Ok(probes)
    }

    /// Finishes an expansion that the end of the node cut short: all that are up to date get the size that one of them has. One
    /// that cannot grow does not take part.
    pub(super) async fn finish_expansion(&self, engine: &Engine) {
        let current = complete(&self.known_records());
        let current: Vec<_> = self
            .answered()
            .map(|probed| &probed.standing)
            .filter(|found| current.contains(&found.path.replica))
            .collect();
        let Some(size) = current.iter().map(|found| found.description.spec_size).max() else { return };
        let behind = current.iter().filter(|found| found.description.spec_size < size);
        let grown = behind.map(|found| async { (&found.path.replica, found.path.backend.expand(size).await) });
        for (replica, result) in join_all(grown).await {
            if let Err(error) = result {
                tracing::warn!(engine = %engine.name, volume = %engine.volume, %replica, %error,
                    "an expansion that was cut short could not be finished");
            }
        }
        if size > engine.published().size {
            tracing::info!(engine = %engine.name, volume = %engine.volume, size, "an expansion that was cut short is finished");
            engine.publish(|published| published.size = size);
        }
    }

    fn known_records(&self) -> Vec<(ReplicaName, Option<GenerationRecord>)> {
        self.answered().map(|probed| (probed.replica().clone(), probed.record.clone())).collect()
    }

    /// When no replica can take part, that is the error; that of the data, when it is all of them that are damaged.
    fn require_one(&self, engine: &Engine) -> Result<()> {
        let problems: Vec<_> = self.0.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
        if problems.len() < self.0.len() {
            return Ok(());
        }
        let damaged = problems.iter().all(|error| matches!(error, Error::Corruption { .. }));
        let words: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let problem = format!("no replica can take part: {}", words.join("; "));
        match damaged {
            true => Err(Error::Corruption { object: engine.object(), problem }),
            false => Err(Error::peer(engine.object(), problem)),
        }
    }

    fn answered(&self) -> impl Iterator<Item = &Probed> {
        self.0.iter().filter_map(|(_, result)| result.as_ref().ok())
    }

    /// What the records of the replicas that answered stand for; none of one that was never in a mirror.
    pub(super) fn generations(&self) -> Vec<GenerationRecord> {
        records_that_count(&self.known_records())
    }

    /// Each replica's path, with its record or why it cannot take part.
    pub(super) fn records(&self) -> impl Iterator<Item = (&Arc<ReplicaPath>, Result<Option<GenerationRecord>>)> {
        let record = |result: &Result<Probed>| match result {
            Ok(probed) => Ok(probed.record.clone()),
            Err(error) => Err(error.clone()),
        };
        self.0.iter().map(move |(path, result)| (path, record(result)))
    }

    /// The backup that every replica of `in_sync` is known to hold, with its snapshot in place on each, no other
    /// restore's beside it, and nothing begun since.
    pub(super) fn last_restored(&self, in_sync: impl Fn(&ReplicaName) -> bool, chain: &Chain) -> Option<BackupName> {
        let mut members = self.answered().filter(|probed| in_sync(probed.replica())).peekable();
        let point = members.peek()?.standing.marker.restored.clone()?;
        let holds = members.all(|probed| probed.standing.holds_exactly(&point));
        (holds && chain.snapshots.contains_key(&point.snapshot)).then_some(point.backup)
    }
}

impl Probed {
    fn replica(&self) -> &ReplicaName {
        &self.standing.path.replica
    }
}

async fn probe(path: &Arc<ReplicaPath>) -> Result<Probed> {
    let description = path.backend.describe().await?;
    if description.state != "running" {
        let problem = format!("it is in state {} {}", description.state, description.error_message);
        return Err(Error::precondition(format!("replica {}", path.replica), problem));
    }
    if description.rebuilding {
        let problem = "a copy into it is in progress or was interrupted, and it has no head";
        return Err(Error::precondition(format!("replica {}", path.replica), problem));
    }
    let record = parse_record(&path.replica, path.backend.attribute(Attribute::Generation).await?)?;
    let marker = parse_marker(&path.replica, path.backend.attribute(Attribute::Restore).await?.as_deref())?;
    Ok(Probed { standing: Standing { path: path.clone(), description, marker }, record })
}

pub(super) fn parse_record(replica: &ReplicaName, stored: Option<Vec<u8>>) -> Result<Option<GenerationRecord>> {
    let corrupt =
        |problem: String| Error::Corruption { object: format!("the generation of replica {replica}"), problem };
    let Some(bytes) = stored.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| corrupt("it is not text".into()))?;
    GenerationRecord::parse(&text).map(Some).map_err(|error| corrupt(error.to_string()))
}
