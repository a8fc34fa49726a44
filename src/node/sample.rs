//! What a scrape of the metrics reads from the running node.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;

use super::Node;
use super::info::resident_bytes;
use crate::disk::{Disk, DiskState};
use crate::engine::instance::Engine;
use crate::engine::state::{EngineState, ReplicaMode};
use crate::replica::ReplicaState;
use crate::spdk::control::Reactor;
use crate::telemetry::sample::{DiskSample, ReactorSample, Sample, Sampler, VolumeIoSample, VolumeSample};

/// How long a part of the node may take to answer; Prometheus waits 10 s by default.
const PART_LIMIT: Duration = Duration::from_secs(3);

/// Samples the node as long as it is there.
pub(super) fn sampler(node: &Arc<Node>) -> Sampler {
    let node = Arc::downgrade(node);
    Arc::new(move || {
        let node = Weak::upgrade(&node);
        Box::pin(async move {
            match node {
                Some(node) => sample(&node).await,
                None => Sample::default(),
            }
        })
    })
}

async fn sample(node: &Node) -> Sample {
    let engines = node.engines.list();
    let ready = node.disks.all_ready();
    let with_mirror = engines.iter().filter(|engine| engine.mirror().is_ok());
    let (disks, volume_io) =
        futures::join!(join_all(ready.iter().map(disk)), join_all(with_mirror.map(|engine| volume_io(engine))));
    let dma = node.environment.memory();
    Sample {
        complete: disks.iter().all(Option::is_some) && volume_io.iter().all(Option::is_some),
        reactors: node.environment.reactors().iter().map(reactor).collect(),
        dma_total_bytes: dma.total_bytes,
        dma_free_bytes: dma.free_bytes,
        resident_bytes: resident_bytes(),
        disk_states: count(DISK_STATES, node.disks.states().into_iter().map(DiskState::as_str)),
        disks: disks.into_iter().flatten().collect(),
        replica_states: count(REPLICA_STATES, node.replicas.states().into_iter().map(ReplicaState::as_str)),
        engine_states: count(ENGINE_STATES, engines.iter().map(|engine| engine.published().state.as_str())),
        volumes: engines.iter().map(|engine| volume(engine)).collect(),
        volume_io: volume_io.into_iter().flatten().collect(),
    }
}

const DISK_STATES: &[&str] = &[DiskState::Creating.as_str(), DiskState::Ready.as_str(), DiskState::Error.as_str()];
const REPLICA_STATES: &[&str] = &[
    ReplicaState::Pending.as_str(),
    ReplicaState::Stopped.as_str(),
    ReplicaState::Running.as_str(),
    ReplicaState::Error.as_str(),
    ReplicaState::Terminating.as_str(),
];
const ENGINE_STATES: &[&str] =
    &[EngineState::Running.as_str(), EngineState::Error.as_str(), EngineState::Terminating.as_str()];
const MODES: &[&str] = &[ReplicaMode::ReadWrite.as_str(), ReplicaMode::WriteOnly.as_str(), ReplicaMode::Error.as_str()];

/// How often each word is found; none is left out.
fn count(words: &[&'static str], found: impl Iterator<Item = &'static str>) -> BTreeMap<&'static str, u64> {
    let mut counts: BTreeMap<_, _> = words.iter().map(|word| (*word, 0)).collect();
    found.for_each(|word| *counts.entry(word).or_default() += 1);
    counts
}

fn reactor(reactor: &Reactor) -> ReactorSample {
    let load = reactor.load();
    ReactorSample {
        core: reactor.core(),
        threads: reactor.thread_count(),
        busy_ns: load.busy_ns,
        idle_ns: load.idle_ns,
        nap_ns: load.nap_ns,
    }
}

async fn disk(disk: &Disk) -> Option<DiskSample> {
    let store = tokio::time::timeout(PART_LIMIT, disk.capacity()).await.ok()?.ok()?;
    let cluster_size = u64::from(store.cluster_size);
    Some(DiskSample {
        disk: disk.name().to_string(),
        total_bytes: store.total_clusters * cluster_size,
        free_bytes: store.free_clusters * cluster_size,
    })
}

fn volume(engine: &Engine) -> VolumeSample {
    let modes = engine.published().replicas.into_values().map(|listed| listed.mode.as_str());
    VolumeSample {
        volume: engine.volume.to_string(),
        generation: engine.mirror().map_or(0, |mirror| mirror.status().generation.counter()),
        modes: count(MODES, modes),
    }
}

/// `None` when it does not answer in time, or is just being taken down.
async fn volume_io(engine: &Engine) -> Option<VolumeIoSample> {
    let mirror = engine.mirror().ok()?;
    let activity = tokio::time::timeout(PART_LIMIT, mirror.activity()).await.ok()?.ok()?;
    let members = mirror.status().members;
    Some(VolumeIoSample {
        volume: engine.volume.to_string(),
        reads: activity.completed.reads,
        read_bytes: activity.completed.read_bytes,
        writes: activity.completed.writes,
        written_bytes: activity.completed.written_bytes,
        errors: activity.failed,
        dirty_regions: activity.dirty.regions.into(),
        unequal_bytes: activity.dirty.unequal_bytes,
        pending: members
            .into_iter()
            .map(|member| (member.replica.to_string(), activity.pending[member.place.get()]))
            .collect(),
    })
}
