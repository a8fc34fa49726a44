//! Bringing an engine's mirror up: describe and open every replica, choose by generation, start, publish.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};

use super::attach::{self, ReplicaPath};
use super::backend::{Attribute, ReplicaDescription};
use super::instance::{Engine, Frontend};
use super::restore::marker::RestoreMarker;
use super::state::{Chain, EngineState, ReplicaMode, failure_reason};
use crate::error::{Error, Result};
use crate::mirror::core::control::OutReason;
use crate::mirror::core::{
    Assembly, Candidate, Found, GenerationRecord, Incarnation, Locality, Missing, OpenMember, assemble, salvage,
};
use crate::mirror::{Mirror, MirrorHost, MirrorParts, OpenedMember};
use crate::name::{BdevName, NonEmpty, ReplicaName};
use crate::spdk::Control;

/// A replica that answered: what it says, what it durably knows.
struct Probed {
    path: Arc<ReplicaPath>,
    description: ReplicaDescription,
    marker: RestoreMarker,
}

/// Brings the mirror up over all replicas that can take part. Those that cannot are listed with the reason.
pub(super) async fn bring_up(engine: &Arc<Engine>, salvage_requested: bool) -> Result<()> {
    let probed = probe_all(engine).await?;
    roll_back_interrupted_restore(engine, &probed).await?;
    let (candidates, mut opened) = open_all(engine, &probed).await;
    let assembly = choose(engine, candidates, salvage_requested);
    let assembly = match assembly {
        Ok(assembly) => assembly,
        Err(error) => {
            close_all(engine, opened.into_values()).await;
            return Err(error);
        }
    };
    for refused in &assembly.refused {
        note(engine, &refused.replica, refused.reason.to_string());
        if let Some(unused) = opened.remove(&refused.replica) {
            close_all(engine, [unused]).await;
        }
    }
    let members: Vec<_> = assembly.members.iter().filter_map(|(_, open)| opened.remove(&open.replica)).collect();
    let Some(opened) = NonEmpty::from_vec(members) else {
        return Err(Error::internal(engine.object(), "an assembly has no opened member"));
    };
    let mirror = start(engine, assembly, opened).await?;
    adopt(engine, mirror, &probed).await
}

/// Asks every replica. An error only when none answers as it must.
async fn probe_all(engine: &Arc<Engine>) -> Result<Vec<Probed>> {
    let probes = engine.paths().into_iter().map(|path| async move {
        let result = probe(&path).await;
        (path, result)
    });
    let mut probed = Vec::new();
    for (path, result) in join_all(probes).await {
        match result {
            Ok(found) => probed.push(found),
            Err(error) => note(engine, &path.replica, error.to_string()),
        }
    }
    if probed.is_empty() {
        let problems = engine.published().replicas.into_values().map(|listed| listed.problem).collect::<Vec<_>>();
        return Err(Error::peer(engine.object(), format!("no replica can take part: {}", problems.join("; "))));
    }
    Ok(probed)
}

async fn probe(path: &Arc<ReplicaPath>) -> Result<Probed> {
    let description = path.backend.describe().await?;
    if description.state != "running" {
        let problem = format!("it is in state {} {}", description.state, description.error_message);
        return Err(Error::precondition(format!("replica {}", path.replica), problem));
    }
    let stored = path.backend.attribute(Attribute::Restore).await?;
    let marker = RestoreMarker::parse(stored.as_deref()).unwrap_or_else(|problem| {
        tracing::warn!(replica = %path.replica, problem, "its restore marker is unreadable; nothing is assumed of its content");
        RestoreMarker::default()
    });
    Ok(Probed { path: path.clone(), description, marker })
}

/// A restore that was cut short left a mixture in the head. Where every replica has the snapshot of the last complete
/// restore, the heads go back to it: the volume stands at its last good point, the same on all of them.
/// Where there is no such point, the volume can only be restored into, not served.
async fn roll_back_interrupted_restore(engine: &Engine, probed: &[Probed]) -> Result<()> {
    if probed.iter().all(|replica| replica.marker.in_progress.is_none()) {
        return Ok(());
    }
    let last = probed.iter().find_map(|replica| replica.marker.restored.clone());
    let Some(last) =
        last.filter(|last| probed.iter().all(|replica| replica.description.snapshots.contains_key(&last.snapshot)))
    else {
        if engine.frontend == Frontend::None {
            return Ok(());
        }
        let problem = "its first restore was interrupted and there is no earlier point to go back to; restore it again";
        return Err(Error::precondition(engine.object(), problem));
    };
    for replica in probed {
        tracing::info!(engine = %engine.name, replica = %replica.path.replica, snapshot = %last.snapshot,
            "an interrupted restore is rolled back");
        replica.path.backend.snapshot_revert(&last.snapshot).await?;
        let marker = RestoreMarker { restored: Some(last.clone()), in_progress: None };
        replica.path.backend.set_attribute(Attribute::Restore, marker.encode()).await?;
    }
    Ok(())
}

/// Opens all that answered, in parallel.
async fn open_all(engine: &Engine, probed: &[Probed]) -> (Vec<Candidate>, BTreeMap<ReplicaName, OpenedMember>) {
    let limit = engine.context.limits.attach;
    let opening = engine.paths().into_iter().map(|path| async move {
        if !probed.iter().any(|replica| replica.path.replica == path.replica) {
            return (path, Err(Error::peer("replica", "it did not answer")));
        }
        let found = open_one(&engine.context.control, &path, limit).await;
        (path, found)
    });
    let mut candidates = Vec::new();
    let mut opened = BTreeMap::new();
    for (path, result) in join_all(opening).await {
        let found = match result {
            Ok((member, record)) => {
                let found = Found::Opened(member.open.clone(), record);
                opened.insert(path.replica.clone(), member);
                found
            }
            Err(error) => Found::Unreachable(error.to_string()),
        };
        candidates.push(Candidate { replica: path.replica.clone(), found });
    }
    (candidates, opened)
}

async fn open_one(
    control: &Control,
    path: &ReplicaPath,
    limit: std::time::Duration,
) -> Result<(OpenedMember, Option<GenerationRecord>)> {
    let stored = path.backend.attribute(Attribute::Generation).await?;
    let record = match stored {
        None => None,
        Some(bytes) if bytes.is_empty() => None,
        Some(bytes) => {
            let corrupt = |problem: String| Error::Corruption { object: format!("replica {}", path.replica), problem };
            let text = String::from_utf8(bytes).map_err(|_| corrupt("its generation is not text".into()))?;
            Some(GenerationRecord::parse(&text).map_err(|error| corrupt(error.to_string()))?)
        }
    };
    Ok((attach::open(control, path, limit).await?, record))
}

fn choose(engine: &Engine, candidates: Vec<Candidate>, salvage_requested: bool) -> Result<Assembly> {
    let size = candidates
        .iter()
        .filter_map(|candidate| match &candidate.found {
            Found::Opened(open, _) => Some(open.size_bytes),
            Found::Unreachable(_) => None,
        })
        .max()
        .unwrap_or(engine.published().size);
    if size > engine.published().size {
        let problem = format!("the volume has {} bytes, its replicas have {size}", engine.published().size);
        return Err(Error::invalid("spec_size", problem));
    }
    let incarnation = Incarnation(rand::random());
    let refused = |error: crate::mirror::core::AssemblyError| Error::precondition(engine.object(), error.to_string());
    if salvage_requested {
        let (assembly, losses) = salvage(candidates, size, incarnation).map_err(refused)?;
        for loss in losses {
            tracing::warn!(engine = %engine.name, volume = %engine.volume, ?loss, "salvage gave something up");
        }
        return Ok(assembly);
    }
    // Longhorn's manager lists the replicas that it knows not to have failed, so one that cannot be asked is not newer.
    assemble(candidates, size, incarnation, Missing::Tolerate).map_err(refused)
}

async fn start(engine: &Arc<Engine>, assembly: Assembly, opened: NonEmpty<OpenedMember>) -> Result<Arc<Mirror>> {
    let name = BdevName::parse(engine.name.as_str()).map_err(|error| Error::name("name", error))?;
    let parts = MirrorParts {
        name,
        assembly,
        opened,
        policy: engine.context.read_policy,
        host: Arc::new(Host { engine: Arc::downgrade(engine), control: engine.context.control.clone() }),
        persist_limit: engine.context.limits.persist,
    };
    Mirror::start(&engine.context.control, parts).await.map(Arc::new)
}

/// Makes a started mirror the engine's own.
async fn adopt(engine: &Arc<Engine>, mirror: Arc<Mirror>, probed: &[Probed]) -> Result<()> {
    let status = mirror.status();
    let size = mirror.geometry().size();
    engine.set_mirror(Some(mirror.clone()));
    engine.apply(&status);
    let chain = match engine.read_chain().await {
        Ok(chain) => chain,
        Err(error) => {
            engine.set_mirror(None);
            let _ = mirror.stop().await;
            return Err(error);
        }
    };
    let last_restored = last_restored(engine, probed, &chain);
    engine.publish(|published| {
        published.state = EngineState::Running;
        published.error_message.clear();
        published.size = size;
        published.chain = chain;
        published.restore.last_restored = last_restored;
    });
    follow(engine, &mirror);
    Ok(())
}

/// The backup that every replica in sync is known to hold, with its snapshot in place.
fn last_restored(engine: &Engine, probed: &[Probed], chain: &Chain) -> Option<crate::name::BackupName> {
    let modes = engine.published().replicas;
    let in_sync =
        |replica: &ReplicaName| modes.get(replica).is_some_and(|listed| listed.mode == ReplicaMode::ReadWrite);
    let mut restored = probed.iter().filter(|replica| in_sync(&replica.path.replica)).map(|replica| &replica.marker);
    let first = restored.next()?.restored.clone()?;
    let same = restored.all(|marker| marker.restored.as_ref() == Some(&first));
    (same && chain.snapshots.contains_key(&first.snapshot)).then_some(first.backup)
}

/// Keeps the published modes those of the mirror, as long as it is the engine's.
fn follow(engine: &Arc<Engine>, mirror: &Arc<Mirror>) {
    let mut watch = mirror.watch();
    let (engine, mirror) = (Arc::downgrade(engine), Arc::downgrade(mirror));
    tokio::spawn(async move {
        while watch.changed().await.is_ok() {
            let (Some(engine), Some(mirror)) = (engine.upgrade(), mirror.upgrade()) else { return };
            if !engine.mirror().is_ok_and(|current| Arc::ptr_eq(&current, &mirror)) {
                return;
            }
            engine.apply(&mirror.status());
        }
    });
}

fn note(engine: &Engine, replica: &ReplicaName, problem: String) {
    tracing::warn!(engine = %engine.name, volume = %engine.volume, %replica, problem, "a replica does not take part");
    engine.publish(|published| {
        if let Some(listed) = published.replicas.get_mut(replica) {
            listed.mode = ReplicaMode::Error;
            listed.problem = problem;
        }
    });
}

async fn close_all(engine: &Engine, members: impl IntoIterator<Item = OpenedMember>) {
    for member in members {
        let open = member.open.clone();
        drop(member);
        if open.locality == Locality::Remote {
            attach::detach(&engine.context.control, &open.replica, open.address, false).await;
        }
    }
}

/// What a mirror asks of its engine.
struct Host {
    engine: std::sync::Weak<Engine>,
    control: Control,
}

impl MirrorHost for Host {
    fn persist(&self, member: &OpenMember, record: GenerationRecord) -> BoxFuture<'static, Result<()>> {
        let path = self.engine.upgrade().map(|engine| engine.path(&member.replica));
        Box::pin(async move {
            let path = path.ok_or_else(|| Error::internal("mirror", "its engine is gone"))??;
            path.backend.set_attribute(Attribute::Generation, record.encode().into_bytes()).await
        })
    }

    fn member_error(&self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.context.telemetry.metrics.member_error(&engine.volume);
        }
    }

    fn member_out(&self, reason: OutReason) {
        if let (Some(engine), Some(reason)) = (self.engine.upgrade(), failure_reason(reason)) {
            engine.context.telemetry.metrics.member_failed(&engine.volume, reason);
        }
    }

    fn paused(&self, took: Duration) {
        if let Some(engine) = self.engine.upgrade() {
            engine.context.telemetry.metrics.paused(took);
        }
    }

    fn close(&self, member: OpenMember, failed: bool) -> BoxFuture<'static, ()> {
        let control = self.control.clone();
        Box::pin(async move {
            if member.locality == Locality::Remote {
                attach::detach(&control, &member.replica, member.address, failed).await;
            }
        })
    }
}
