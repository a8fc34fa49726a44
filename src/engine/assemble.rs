//! Bringing an engine's mirror up: ask and open every replica, choose by generation, start, publish.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};

use super::attach;
use super::backend::Attribute;
use super::instance::Engine;
use super::outage;
use super::ownership::records;
use super::probe::Probes;
use super::state::{EngineState, ReplicaMode, failure_reason};
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::mirror::core::control::OutReason;
use crate::mirror::core::{
    Assembly, Candidate, DirtyOrder, Found, GenerationOrder, Incarnation, Locality, Missing, OpenMember, RefusedReason,
    ReplicaRecords, assemble, salvage,
};
use crate::mirror::{Mirror, MirrorHost, MirrorParts, OpenedMember};
use crate::name::{BdevName, NonEmpty, ReplicaName};
use crate::spdk::Control;
use crate::telemetry::events::ObjectKind;

/// What the start of a mirror may take for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The owner lists the replicas that it knows not to have failed, so one that cannot be asked is not newer.
    Listed,
    /// Nobody vouches for a replica that cannot be asked.
    Recovered,
    /// The owner wants the newest replica there is, whatever it may lack.
    Salvage,
    /// Hosts come back to an engine after another one had gone on. As [`Self::Recovered`], but that the other is known to.
    Reopened,
}

/// Brings the mirror up over all replicas that can take part. Those that cannot are listed with the reason.
pub(super) async fn bring_up(engine: &Arc<Engine>, as_asked: Start) -> Result<()> {
    let probes = Probes::ask(engine).await?;
    if as_asked == Start::Recovered {
        // First of all: what another engine works on is not to be touched.
        engine.require_own(&probes.generations())?;
        probes.finish_expansion(engine).await;
    }
    let probes = probes.recover(engine).await?;
    let (candidates, mut opened) = open_all(engine, &probes).await;
    for candidate in &candidates {
        if let Found::Unreachable(problem) = &candidate.found {
            note(engine, &candidate.replica, problem.clone());
        }
    }
    let chosen = match choose(engine, candidates, as_asked) {
        Ok(assembly) => engine.claim(&assembly).await.map(|()| assembly),
        Err(error) => Err(error),
    };
    let assembly = match chosen {
        Ok(assembly) => assembly,
        Err(error) => {
            close_all(engine, opened.into_values()).await;
            return Err(with_problems(engine, error));
        }
    };
    for refused in &assembly.refused {
        if !matches!(refused.reason, RefusedReason::Unreachable(_)) {
            note(engine, &refused.replica, refused.reason.to_string());
        }
        if let Some(unused) = opened.remove(&refused.replica) {
            close_all(engine, [unused]).await;
        }
    }
    let members: Vec<_> = assembly.members.iter().filter_map(|(_, open)| opened.remove(&open.replica)).collect();
    let Some(opened) = NonEmpty::from_vec(members) else {
        return Err(Error::internal(engine.object(), "an assembly has no opened member"));
    };
    let mirror = start(engine, assembly, opened).await?;
    adopt(engine, mirror, &probes).await
}

/// Names the replicas that cannot take part, and why, where that is why nothing can be started.
fn with_problems(engine: &Engine, error: Error) -> Error {
    let listed = engine.published().replicas.into_values();
    let problems: Vec<_> = listed.map(|listed| listed.problem).filter(|problem| !problem.is_empty()).collect();
    match error {
        Error::Precondition { object, problem } if !problems.is_empty() => {
            Error::Precondition { object, problem: format!("{problem}: {}", problems.join("; ")) }
        }
        other => other,
    }
}

/// Opens all that answered, in parallel.
async fn open_all(engine: &Engine, probes: &Probes) -> (Vec<Candidate>, BTreeMap<ReplicaName, OpenedMember>) {
    let (control, limit) = (&engine.context.control, engine.context.limits.attach);
    let opening = probes.records().map(|(path, record)| async move {
        let found = match record {
            Ok(record) => attach::open(control, path, limit).await.map(|member| (member, record)),
            Err(error) => Err(error),
        };
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

fn choose(engine: &Engine, candidates: Vec<Candidate>, as_asked: Start) -> Result<Assembly> {
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
    if as_asked == Start::Salvage {
        let (assembly, losses) = salvage(candidates, size, incarnation).map_err(refused)?;
        for loss in losses {
            tracing::warn!(engine = %engine.name, volume = %engine.volume, ?loss, "salvage gave something up");
        }
        return Ok(assembly);
    }
    let missing = if as_asked == Start::Listed { Missing::Tolerate } else { Missing::Refuse };
    assemble(candidates, size, incarnation, missing).map_err(refused)
}

async fn start(engine: &Arc<Engine>, assembly: Assembly, opened: NonEmpty<OpenedMember>) -> Result<Arc<Mirror>> {
    let name = BdevName::parse(engine.name.as_str()).map_err(|error| Error::name("name", error))?;
    let parts = MirrorParts {
        name,
        assembly,
        opened,
        policy: engine.context.read_policy,
        host: Arc::new(Host {
            engine: Arc::downgrade(engine),
            control: engine.context.control.clone(),
            runtime: tokio::runtime::Handle::current(),
        }),
        member_deadline: engine.context.limits.member_deadline,
        quiet: Some(engine.context.limits.dirty_quiet),
        awaits_returns: engine.context.limits.return_window.is_some(),
    };
    Mirror::start(&engine.context.control, parts).await.map(Arc::new)
}

/// Makes a started mirror the engine's own.
async fn adopt(engine: &Arc<Engine>, mirror: Arc<Mirror>, probes: &Probes) -> Result<()> {
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
    let modes = engine.published().replicas;
    let in_sync =
        |replica: &ReplicaName| modes.get(replica).is_some_and(|listed| listed.mode == ReplicaMode::ReadWrite);
    let last_restored = probes.last_restored(in_sync, &chain);
    engine.publish(|published| {
        published.size = size;
        published.chain = chain;
        published.restore.last_restored = last_restored;
    });
    follow(engine, &mirror);
    outage::watch(engine, &mirror);
    Ok(())
}

fn tell(engine: &Engine, what: &'static str, message: &str) {
    engine.context.telemetry.events.tell(ObjectKind::Engine, &engine.name, what, message);
}

/// Says that the engine runs, once nothing is missing any more: whoever reads that may connect at once.
pub(super) fn is_up(engine: &Engine) {
    engine.publish(|published| {
        published.state = EngineState::Running;
        published.error_message.clear();
    });
    // What has happened to the mirror since it was adopted.
    if let Ok(mirror) = engine.mirror() {
        engine.apply(&mirror.status());
    }
}

/// Keeps the published modes those of the mirror, as long as it is the engine's.
fn follow(engine: &Arc<Engine>, mirror: &Arc<Mirror>) {
    let mut watch = mirror.watch();
    let mut unequal = false;
    let (engine, mirror) = (Arc::downgrade(engine), Arc::downgrade(mirror));
    tokio::spawn(async move {
        while watch.changed().await.is_ok() {
            let (Some(engine), Some(mirror)) = (engine.upgrade(), mirror.upgrade()) else { return };
            if !engine.mirror().is_ok_and(|current| Arc::ptr_eq(&current, &mirror)) {
                return;
            }
            let status = mirror.status();
            match (std::mem::replace(&mut unequal, status.unequal), status.unequal) {
                (false, true) => {
                    let what = "its replicas may differ in what was being written when it ended; they are made equal";
                    tell(&engine, "equalizing", what);
                }
                (true, false) => tell(&engine, "equal", "its replicas are equal again"),
                _ => {}
            }
            engine.apply(&status);
            engine.explain_failed_members();
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
            attach::detach(&engine.context.control, &open.replica, false).await;
        }
    }
}

/// What a mirror asks of its engine.
struct Host {
    engine: std::sync::Weak<Engine>,
    control: Control,
    /// It is told of errors on a reactor, which is no place to ask other nodes.
    runtime: tokio::runtime::Handle,
}

impl MirrorHost for Host {
    fn persist(&self, member: &OpenMember, order: GenerationOrder) -> BoxFuture<'static, Result<()>> {
        let path = self.engine.upgrade().map(|engine| engine.path(&member.replica));
        Box::pin(async move {
            let path = path.ok_or_else(|| Error::internal("mirror", "its engine is gone"))??;
            faults::pass(Point::GenerationBegins).await?;
            path.backend.set_attribute(Attribute::Generation, order.encode().into_bytes()).await?;
            faults::pass(Point::GenerationStored).await
        })
    }

    fn persist_dirty(&self, member: &OpenMember, order: DirtyOrder) -> BoxFuture<'static, Result<()>> {
        let path = self.engine.upgrade().map(|engine| engine.path(&member.replica));
        Box::pin(async move {
            let path = path.ok_or_else(|| Error::internal("mirror", "its engine is gone"))??;
            faults::pass(Point::DirtyBegins).await?;
            path.backend.set_attribute(Attribute::Dirty, order.encode()).await?;
            faults::pass(Point::DirtyStored).await
        })
    }

    fn records(&self, member: &OpenMember) -> BoxFuture<'static, Result<ReplicaRecords>> {
        let path = self.engine.upgrade().map(|engine| engine.path(&member.replica));
        Box::pin(async move {
            let path = path.ok_or_else(|| Error::internal("mirror", "its engine is gone"))??;
            records(&path).await
        })
    }

    fn member_error(&self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.context.telemetry.metrics.member_error(&engine.volume);
            engine.look_for_full_disks(&self.runtime);
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
                attach::detach(&control, &member.replica, failed).await;
            }
        })
    }
}
