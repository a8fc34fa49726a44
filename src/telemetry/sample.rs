//! What is read from the data path at each scrape, so that the I/O path itself counts nothing for Prometheus.
//!
//! The node hands over a function that fills a [`Sample`] from counters that exist anyway; it must not wait.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The state of the data path at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// One for each core.
    pub reactors: Vec<ReactorSample>,
    /// One for each engine of this node.
    pub volumes: Vec<VolumeSample>,
    /// One for each member of each engine of this node.
    pub members: Vec<MemberSample>,
    /// One for each disk.
    pub disks: Vec<DiskSample>,
    /// What SPDK's allocator holds, and what of it is free, in bytes.
    pub dma_total_bytes: u64,
    /// See `dma_total_bytes`.
    pub dma_free_bytes: u64,
}

/// The time of one reactor since its start.
#[derive(Debug, Clone)]
pub struct ReactorSample {
    /// The core it is pinned to.
    pub core: u32,
    /// With work, in nanoseconds.
    pub busy_ns: u64,
    /// Polling without work, in nanoseconds.
    pub idle_ns: u64,
    /// Asleep, in nanoseconds.
    pub nap_ns: u64,
}

/// The I/O of one volume since its engine was created.
#[derive(Debug, Clone)]
pub struct VolumeSample {
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
    /// I/O requests that failed towards the client.
    pub errors: u64,
}

/// One member of a mirror.
#[derive(Debug, Clone)]
pub struct MemberSample {
    /// The volume.
    pub volume: String,
    /// The replica.
    pub replica: String,
    /// `RW`, `WO` or `ERR`.
    pub mode: String,
    /// I/O requests that it has not answered.
    pub pending: u64,
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

/// Fills a sample; called at each scrape on a tokio thread.
pub type Sampler = Arc<dyn Fn() -> Sample + Send + Sync>;

/// Renders what a sampler gives.
pub(super) struct SampleCollector(pub Sampler);

impl fmt::Debug for SampleCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SampleCollector")
    }
}

impl Collector for SampleCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let sample = (self.0)();
        encode_reactors(&sample.reactors, &mut encoder)?;
        encode_volumes(&sample.volumes, &mut encoder)?;
        encode_members(&sample.members, &mut encoder)?;
        encode_disks(&sample.disks, &mut encoder)?;
        let memory = [
            ("dma_total_bytes", "Memory that SPDK holds", sample.dma_total_bytes),
            ("dma_free_bytes", "What of it is free", sample.dma_free_bytes),
        ];
        for (name, help, bytes) in memory {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(bytes as i64).encode(metric)?;
        }
        Ok(())
    }
}

type Labels = Vec<(&'static str, String)>;

fn encode_reactors(reactors: &[ReactorSample], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let times: Vec<_> = reactors
        .iter()
        .flat_map(|reactor| {
            let times = [("busy", reactor.busy_ns), ("idle", reactor.idle_ns), ("nap", reactor.nap_ns)];
            times.map(|(state, ns)| ((reactor.core, state), ns))
        })
        .collect();
    counter(encoder, "reactor_time_nanoseconds", "Time of a reactor by what it did", times.iter(), |(core, state)| {
        vec![("core", core.to_string()), ("state", (*state).to_owned())]
    })
}

fn encode_volumes(volumes: &[VolumeSample], encoder: &mut DescriptorEncoder) -> fmt::Result {
    type Field = fn(&VolumeSample) -> u64;
    let counters: [(&str, &str, Field); 5] = [
        ("volume_reads", "Reads that a volume completed", |volume| volume.reads),
        ("volume_read_bytes", "Bytes read from a volume", |volume| volume.read_bytes),
        ("volume_writes", "Writes that a volume completed", |volume| volume.writes),
        ("volume_written_bytes", "Bytes written to a volume", |volume| volume.written_bytes),
        ("volume_errors", "I/O requests that failed towards a volume's client", |volume| volume.errors),
    ];
    for (name, help, field) in counters {
        let values: Vec<_> = volumes.iter().map(|volume| (&volume.volume, field(volume))).collect();
        counter(encoder, name, help, values.iter(), |volume| vec![("volume", volume.to_string())])?;
    }
    Ok(())
}

fn encode_members(members: &[MemberSample], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let labels = |member: &&MemberSample| {
        vec![("volume", member.volume.clone()), ("replica", member.replica.clone()), ("mode", member.mode.clone())]
    };
    let pending: Vec<_> = members.iter().map(|member| (member, member.pending)).collect();
    gauge(encoder, "member_pending", "I/O requests that a replica has not answered", pending.iter(), labels)
}

fn encode_disks(disks: &[DiskSample], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let labels = |disk: &&DiskSample| vec![("disk", disk.disk.clone())];
    let total: Vec<_> = disks.iter().map(|disk| (disk, disk.total_bytes)).collect();
    let free: Vec<_> = disks.iter().map(|disk| (disk, disk.free_bytes)).collect();
    gauge(encoder, "disk_total_bytes", "Size of a disk", total.iter(), labels)?;
    gauge(encoder, "disk_free_bytes", "What is free of a disk", free.iter(), labels)
}

fn counter<'a, K: 'a>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl Iterator<Item = &'a (K, u64)>,
    labels: impl Fn(&K) -> Labels,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    each(&mut metric, values, labels, |value, encoder| ConstCounter::new(value).encode(encoder))
}

fn gauge<'a, K: 'a>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl Iterator<Item = &'a (K, u64)>,
    labels: impl Fn(&K) -> Labels,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    // Sizes and counts stay below 2^63.
    each(&mut metric, values, labels, |value, encoder| ConstGauge::new(value as i64).encode(encoder))
}

fn each<'a, K: 'a>(
    metric: &mut MetricEncoder,
    values: impl Iterator<Item = &'a (K, u64)>,
    labels: impl Fn(&K) -> Labels,
    encode: impl Fn(u64, MetricEncoder) -> fmt::Result,
) -> fmt::Result {
    for (key, value) in values {
        let labels = labels(key);
        encode(*value, metric.encode_family(&labels)?)?;
    }
    Ok(())
}
