//! What is read from the data path at each scrape, so that the I/O path itself counts nothing for Prometheus.
//!
//! The node hands over a function that fills a [`Sample`] from counters that exist anyway.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The state of the data path at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Nothing below is missing: every part of the node answered in time.
    pub complete: bool,
    /// One for each core.
    pub reactors: Vec<ReactorSample>,
    /// What SPDK's allocator holds, in bytes.
    pub dma_total_bytes: u64,
    /// What of it is free, in bytes.
    pub dma_free_bytes: u64,
    /// The process' memory in RAM, in bytes, without hugepages.
    pub resident_bytes: u64,
    /// Disks by state; all states are there.
    pub disk_states: BTreeMap<&'static str, u64>,
    /// One for each ready disk.
    pub disks: Vec<DiskSample>,
    /// Replicas of this node by state; all states are there.
    pub replica_states: BTreeMap<&'static str, u64>,
    /// Engines by state; all states are there.
    pub engine_states: BTreeMap<&'static str, u64>,
    /// One for each engine whose mirror is up.
    pub volumes: Vec<VolumeSample>,
    /// The I/O of those that answered in time.
    pub volume_io: Vec<VolumeIoSample>,
}

/// The time of one reactor since its start.
#[derive(Debug, Clone)]
pub struct ReactorSample {
    /// The core it is pinned to.
    pub core: u32,
    /// SPDK threads that live there.
    pub threads: u32,
    /// With work, in nanoseconds.
    pub busy_ns: u64,
    /// Polling without work, in nanoseconds.
    pub idle_ns: u64,
    /// Asleep, in nanoseconds.
    pub nap_ns: u64,
}

/// One disk.
#[derive(Debug, Clone)]
pub struct DiskSample {
    /// The disk.
    pub disk: String,
    /// Its size in bytes.
    pub total_bytes: u64,
    /// What is free of it in bytes.
    pub free_bytes: u64,
}

/// One volume: its mirror.
#[derive(Debug, Clone)]
pub struct VolumeSample {
    /// The volume.
    pub volume: String,
    /// How often its generation was raised.
    pub generation: u32,
    /// Its replicas by mode; all modes are there.
    pub modes: BTreeMap<&'static str, u64>,
}

/// The I/O of one volume since its mirror was made: clients, restores and checksums.
#[derive(Debug, Clone)]
pub struct VolumeIoSample {
    /// The volume.
    pub volume: String,
    /// Reads completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// I/O requests that failed.
    pub errors: u64,
    /// Regions that would be compared after a crash now.
    pub dirty_regions: u64,
    /// Bytes in which replicas may differ since the last crash still.
    pub unequal_bytes: u64,
    /// By replica, I/O requests that it has not answered.
    pub pending: Vec<(String, u64)>,
}

/// Fills a sample; called at each scrape. It ends within a limit of its own.
pub type Sampler = Arc<dyn Fn() -> BoxFuture<'static, Sample> + Send + Sync>;

/// Renders a sample.
#[derive(Debug)]
pub(super) struct SampleCollector(pub Sample);

impl Collector for SampleCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let sample = &self.0;
        let encoder = &mut encoder;
        let help = "1 when every part of the node answered this scrape in time";
        single(encoder, "sample_complete", help, sample.complete.into())?;
        encode_memory(sample, encoder)?;
        encode_reactors(&sample.reactors, encoder)?;
        encode_states(encoder, "disks", "Disks by state", &sample.disk_states)?;
        encode_disks(&sample.disks, encoder)?;
        encode_states(encoder, "replicas", "Replicas of this node by state", &sample.replica_states)?;
        encode_states(encoder, "engines", "Engines by state", &sample.engine_states)?;
        encode_volumes(&sample.volumes, encoder)?;
        encode_volume_io(&sample.volume_io, encoder)
    }
}

type Labels = Vec<(&'static str, String)>;

fn encode_memory(sample: &Sample, encoder: &mut DescriptorEncoder) -> fmt::Result {
    let memory = [
        ("dma_total_bytes", "Memory that SPDK holds", sample.dma_total_bytes),
        ("dma_free_bytes", "What of it is free", sample.dma_free_bytes),
        ("resident_bytes", "The process' memory in RAM, without hugepages", sample.resident_bytes),
    ];
    memory.into_iter().try_for_each(|(name, help, bytes)| single(encoder, name, help, bytes))
}

fn encode_reactors(reactors: &[ReactorSample], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let core = |reactor: &ReactorSample| ("core", reactor.core.to_string());
    let times = reactors.iter().flat_map(|reactor| {
        let times = [("busy", reactor.busy_ns), ("idle", reactor.idle_ns), ("nap", reactor.nap_ns)];
        times.map(|(state, ns)| (vec![core(reactor), ("state", state.to_owned())], ns as f64 / 1e9))
    });
    let mut metric =
        encoder.encode_descriptor("reactor_seconds", "Time of a reactor by what it did", None, MetricType::Counter)?;
    each(&mut metric, times, |value, encoder| ConstCounter::new(value).encode(encoder))?;
    let threads = reactors.iter().map(|reactor| (vec![core(reactor)], reactor.threads.into()));
    gauge(encoder, "reactor_threads", "SPDK threads on a reactor", threads)
}

fn encode_states(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    states: &BTreeMap<&'static str, u64>,
) -> fmt::Result {
    let counts = states.iter().map(|(state, count)| (vec![("state", (*state).to_owned())], *count));
    gauge(encoder, name, help, counts)
}

fn encode_disks(disks: &[DiskSample], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let of =
        |bytes: fn(&DiskSample) -> u64| disks.iter().map(move |disk| (vec![("disk", disk.disk.clone())], bytes(disk)));
    gauge(encoder, "disk_total_bytes", "Size of a disk", of(|disk| disk.total_bytes))?;
    gauge(encoder, "disk_free_bytes", "What is free of a disk", of(|disk| disk.free_bytes))
}

fn encode_volumes(volumes: &[VolumeSample], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let volume = |volume: &VolumeSample| ("volume", volume.volume.clone());
    let modes = volumes.iter().flat_map(|sample| {
        let count = |(mode, count): (&&'static str, &u64)| (vec![volume(sample), ("mode", (*mode).to_owned())], *count);
        sample.modes.iter().map(count).collect::<Vec<_>>()
    });
    gauge(encoder, "members", "Replicas of a volume by mode", modes)?;
    let generations = volumes.iter().map(|sample| (vec![volume(sample)], sample.generation.into()));
    gauge(encoder, "mirror_generation", "How often the generation of a volume was raised", generations)
}

fn encode_volume_io(volumes: &[VolumeIoSample], encoder: &mut DescriptorEncoder) -> fmt::Result {
    type Field = fn(&VolumeIoSample) -> u64;
    let counters: [(&str, &str, Field); 5] = [
        ("volume_reads", "Reads that a volume completed", |volume| volume.reads),
        ("volume_read_bytes", "Bytes read from a volume", |volume| volume.read_bytes),
        ("volume_writes", "Writes that a volume completed", |volume| volume.writes),
        ("volume_written_bytes", "Bytes written to a volume", |volume| volume.written_bytes),
        ("volume_errors", "I/O requests to a volume that failed", |volume| volume.errors),
    ];
    for (name, help, field) in counters {
        let values = volumes.iter().map(|volume| (vec![("volume", volume.volume.clone())], field(volume)));
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        each(&mut metric, values, |value, encoder| ConstCounter::new(value).encode(encoder))?;
    }
    let gauges: [(&str, &str, Field); 2] = [
        ("dirty_regions", "Regions of a volume that would be compared after a crash now", |volume| {
            volume.dirty_regions
        }),
        ("unequal_bytes", "Bytes in which replicas may differ since the last crash still", |volume| {
            volume.unequal_bytes
        }),
    ];
    for (name, help, field) in gauges {
        let values = volumes.iter().map(|volume| (vec![("volume", volume.volume.clone())], field(volume)));
        gauge(encoder, name, help, values)?;
    }
    let pending = volumes.iter().flat_map(|volume| {
        let labels = |replica: &str| vec![("volume", volume.volume.clone()), ("replica", replica.to_owned())];
        volume.pending.iter().map(move |(replica, count)| (labels(replica), *count))
    });
    gauge(encoder, "member_pending", "I/O requests that a replica has not answered", pending)
}

fn single(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    // Sizes and counts stay below 2^63.
    ConstGauge::new(value as i64).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    each(&mut metric, values, |value, encoder| ConstGauge::new(value as i64).encode(encoder))
}

fn each<V>(
    metric: &mut MetricEncoder,
    values: impl IntoIterator<Item = (Labels, V)>,
    encode: impl Fn(V, MetricEncoder) -> fmt::Result,
) -> fmt::Result {
    values.into_iter().try_for_each(|(labels, value)| encode(value, metric.encode_family(&labels)?))
}
