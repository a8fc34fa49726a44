//! The mirror against the bare bdev it is made of: 4 KiB random I/O inside one reactor.
//!
//! Each cell is the median of several runs, bare and mirror taken in turn, so that noise of the machine meets both.
//! `cargo bench --bench mirror`; needs hugepages or falls back to ordinary pages, and says which.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corriente::Result;
use corriente::mirror::core::dirty::FoundDirty;
use corriente::mirror::core::{
    Candidate, DirtyOrder, Found, GenerationOrder, Incarnation, Locality, Missing, OpenMember, ReadPolicy,
    ReplicaRecords, assemble,
};
use corriente::mirror::{MemberFlush, Mirror, MirrorHost, MirrorParts, OpenedMember};
use corriente::name::{BdevName, HostPort, NonEmpty, ReplicaName};
use corriente::spdk::bdev::{Geometry, IoKind, OpenBdev};
use corriente::spdk::load::{LoadJob, LoadReport, Places, run};
use corriente::spdk::reactor::PollMode;
use corriente::spdk::{Control, Environment, EnvironmentConfig, Memory, SpdkError, base};
use futures::future::BoxFuture;
use uuid::Uuid;

const ROUNDS: usize = 5;
const SLICE: Duration = Duration::from_millis(400);
const DEVICE: Geometry = Geometry { block_size: 4096, block_count: 16 * 1024 };

/// Keeps what is stored with a replica, which takes what it is told.
#[derive(Default)]
struct Host(Arc<Mutex<BTreeMap<ReplicaName, ReplicaRecords>>>);

impl Host {
    fn records_of(&self, member: &OpenMember) -> ReplicaRecords {
        let none = ReplicaRecords { generation: None, dirty: FoundDirty::Nothing };
        self.0.lock().expect("no panic").get(&member.replica).cloned().unwrap_or(none)
    }
}

impl MirrorHost for Host {
    fn persist(&self, _: &OpenMember, _: GenerationOrder) -> BoxFuture<'static, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn persist_dirty(&self, member: &OpenMember, order: DirtyOrder) -> BoxFuture<'static, Result<()>> {
        let mut records = self.records_of(member);
        let stored = order.carry_out(&records, DEVICE.size()).expect("the replica is this mirror's");
        records.dirty = FoundDirty::Known(Box::new(stored.dirty));
        records.generation = stored.generation.or(records.generation);
        self.0.lock().expect("no panic").insert(member.replica.clone(), records);
        Box::pin(async { Ok(()) })
    }

    fn records(&self, member: &OpenMember) -> BoxFuture<'static, Result<ReplicaRecords>> {
        let records = self.records_of(member);
        Box::pin(async { Ok(records) })
    }

    fn close(&self, _: OpenMember, _: bool) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

fn main() {
    let huge = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("HugePages_Free:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .unwrap_or(0);
    let memory = if huge >= 300 { Memory::Huge { mib: 512, directory: None } } else { Memory::Ordinary { mib: 1024 } };
    println!("memory: {memory:?}");
    let config = EnvironmentConfig {
        cores: vec![1],
        poll: PollMode::Busy,
        memory,
        pci: false,
        bdev_io_pool_size: 16 * 1024 - 1,
        bdev_io_cache_size: 256,
        max_exports: 8,
    };
    let environment = Environment::start(config).expect("SPDK starts");
    let runtime = tokio::runtime::Runtime::new().expect("a tokio runtime");
    runtime.block_on(async {
        for kind in ["null", "malloc"] {
            compare(&environment.control(), kind).await;
        }
        environment.stop(Duration::from_secs(5)).await.expect("SPDK stops");
    });
}

async fn compare(control: &Control, kind: &'static str) {
    let bare = create(control, kind, "bare").await;
    let members = [create(control, kind, "a").await, create(control, kind, "b").await];
    let mirror = start_mirror(control, members).await;
    let mirrored = open(control, mirror.bdev().clone()).await;
    println!(
        "\n{kind}: op depth | bare kIOPS | mirror kIOPS | ratio | bare ns | mirror ns | added ns (a member, for writes)"
    );
    for op in [IoKind::Read, IoKind::Write] {
        for depth in [1, 32, 128] {
            let mut pairs = Vec::new();
            for _ in 0..ROUNDS {
                let one = load(control, &bare, op, depth).await;
                let two = load(control, &mirrored, op, depth).await;
                pairs.push((one, two));
            }
            report(op, depth, &pairs);
        }
    }
    drop((bare, mirrored));
    mirror.stop().await.expect("the mirror stops");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(op: IoKind, depth: usize, pairs: &[(LoadReport, LoadReport)]) {
    let failed: u64 = pairs.iter().map(|(one, two)| one.failed + two.failed).sum();
    assert_eq!(failed, 0, "no I/O of a bench fails");
    let of = |pick: fn(&(LoadReport, LoadReport)) -> f64| median(pairs.iter().map(pick).collect());
    let legs = if op == IoKind::Write { 2.0 } else { 1.0 };
    let (bare_ns, mirror_ns) = (of(|pair| pair.0.ns_per_io()), of(|pair| pair.1.ns_per_io()));
    // A write is done twice below the mirror: only what is on top of that is the mirror's own.
    let added = (mirror_ns - bare_ns * legs) / legs;
    println!(
        "{op:?} {depth:>4} | {:>9.0} | {:>9.0} | {:.3} | {bare_ns:>6.1} | {mirror_ns:>6.1} | {added:>6.1}",
        of(|pair| pair.0.iops()) / 1e3,
        of(|pair| pair.1.iops()) / 1e3,
        of(|pair| pair.1.iops() / pair.0.iops()),
    );
}

async fn create(control: &Control, kind: &'static str, name: &str) -> Arc<OpenBdev> {
    let name = BdevName::parse(&format!("{kind}-{name}")).expect("a name");
    let created = name.clone();
    control
        .run(move |on| async move {
            match kind {
                "null" => base::create_null(on, &created, DEVICE, Uuid::new_v4()).map(drop),
                _ => base::create_malloc(on, &created, DEVICE, Uuid::new_v4()).map(drop),
            }
        })
        .await
        .unwrap_or_else(|error: SpdkError| panic!("{error}"));
    open(control, name).await
}

async fn open(control: &Control, name: BdevName) -> Arc<OpenBdev> {
    control
        .run(move |on| async move { OpenBdev::open(on, &name, true, |_| {}) })
        .await
        .unwrap_or_else(|error: SpdkError| panic!("{error}"))
}

async fn load(control: &Control, bdev: &Arc<OpenBdev>, kind: IoKind, depth: usize) -> LoadReport {
    let bdev = bdev.clone();
    let job = LoadJob { kind, depth, bytes: 4096, duration: SLICE, places: Places::Uniform };
    control
        .run(move |on| async move { run(on, &bdev, job).await })
        .await
        .unwrap_or_else(|error: SpdkError| panic!("{error}"))
}

async fn start_mirror(control: &Control, members: [Arc<OpenBdev>; 2]) -> Mirror {
    let opened: Vec<_> = members
        .into_iter()
        .enumerate()
        .map(|(index, bdev)| OpenedMember {
            open: OpenMember {
                replica: ReplicaName::parse(&format!("replica-{index}")).expect("a name"),
                bdev: bdev.name().clone(),
                address: HostPort::parse(&format!("127.0.0.1:{}", 20001 + index)).expect("an address"),
                locality: Locality::Local,
                size_bytes: bdev.geometry().size(),
                block_bytes: bdev.geometry().block_size,
            },
            bdev,
            flush: MemberFlush::Bdev,
            removed: tokio::sync::watch::channel(false).1,
        })
        .collect();
    let candidates = opened
        .iter()
        .map(|member| Candidate {
            replica: member.open.replica.clone(),
            found: Found::Opened(member.open.clone(), None),
        })
        .collect();
    let assembly = assemble(candidates, DEVICE.size(), Incarnation(1), Missing::Refuse).expect("fresh members fit");
    let parts = MirrorParts {
        name: BdevName::parse("mirror").expect("a name"),
        assembly,
        opened: NonEmpty::from_vec(opened).expect("two members"),
        policy: ReadPolicy::LocalFirst,
        host: Arc::new(Host::default()),
        member_deadline: Duration::from_secs(5),
        quiet: Some(Duration::from_secs(10)),
        awaits_returns: false,
    };
    Mirror::start(control, parts).await.expect("the mirror starts")
}
