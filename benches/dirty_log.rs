//! What the dirty log costs: 4 KiB random writes to a mirror with the log against the same without it.
//!
//! Each mirror has two lvols, one on each of two disks of files, and its records are xattrs of them, stored as a node does: a
//! write of the lvol's metadata and a flush of the disk. Each cell is the median of five rounds; in a round the two are measured
//! one after the other, so that noise of the machine meets both. *Uniform* writes go anywhere; of *skewed* ones nine of ten go
//! to a tenth of the volume. The first round of a place pays for making its regions dirty.
//!
//! `cargo bench --bench dirty_log [DIRECTORY]`: the disks are made there, else in the build's directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corriente::error::Error;
use corriente::mirror::core::dirty::FoundDirty;
use corriente::mirror::core::{
    Candidate, DirtyOrder, Found, GenerationOrder, Incarnation, Locality, Missing, OpenMember, ReadPolicy,
    ReplicaRecords, assemble,
};
use corriente::mirror::{MemberFlush, Mirror, MirrorHost, MirrorParts, OpenedMember};
use corriente::name::{BdevName, HostPort, LvolAlias, LvolName, LvsName, NonEmpty, ReplicaName};
use corriente::spdk::bdev::{IoKind, OpenBdev};
use corriente::spdk::load::{LoadJob, LoadReport, Places, run};
use corriente::spdk::lvol::{self, Provision};
use corriente::spdk::lvstore::{self, ClearMethod};
use corriente::spdk::reactor::PollMode;
use corriente::spdk::xattr::{XattrChange, XattrName, XattrValue};
use corriente::spdk::{Control, Environment, EnvironmentConfig, Memory, SpdkError, base};
use futures::future::BoxFuture;
use uuid::Uuid;

const ROUNDS: usize = 5;
const SLICE: Duration = Duration::from_secs(2);
const VOLUME_BYTES: u64 = 512 << 20;
const DISK_BYTES: u64 = 1200 << 20;
const CLUSTER_BYTES: u32 = 4 << 20;
/// Shorter than a node's, so that regions are taken off and put on again while it runs.
const QUIET: Duration = Duration::from_secs(3);

fn main() {
    // Cargo passes `--bench` to it.
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let disks = tempfile::Builder::new().prefix("dirty-log-").tempdir_in(directory).expect("a directory");
    let config = EnvironmentConfig {
        cores: vec![1],
        poll: PollMode::Busy,
        memory: Memory::Ordinary { mib: 512 },
        pci: false,
        bdev_io_pool_size: 16 * 1024 - 1,
        bdev_io_cache_size: 256,
        max_exports: 8,
    };
    let environment = Environment::start(config).expect("SPDK starts");
    let runtime = tokio::runtime::Runtime::new().expect("a tokio runtime");
    runtime.block_on(async {
        compare(&environment.control(), disks.path()).await;
        environment.stop(Duration::from_secs(5)).await.expect("SPDK stops");
    });
}

async fn compare(control: &Control, directory: &Path) {
    let disks = [Disk::make(control, directory, 0).await, Disk::make(control, directory, 1).await];
    let plain = start_mirror(control, &disks, "plain", None).await;
    let logged = start_mirror(control, &disks, "logged", Some(QUIET)).await;
    let opened = [open(control, plain.bdev().clone()).await, open(control, logged.bdev().clone()).await];
    println!("4 KiB random writes: places, depth | without kIOPS | with kIOPS | with / without");
    for places in [Places::Uniform, Places::Skewed] {
        for depth in [1, 32] {
            let mut pairs = Vec::new();
            for _ in 0..ROUNDS {
                let without = load(control, &opened[0], places, depth).await;
                pairs.push((without, load(control, &opened[1], places, depth).await));
            }
            report(places, depth, &pairs);
        }
    }
    drop(opened);
    for mirror in [plain, logged] {
        mirror.stop().await.expect("the mirror stops");
    }
}

fn report(places: Places, depth: usize, pairs: &[(LoadReport, LoadReport)]) {
    let failed: u64 = pairs.iter().map(|(one, two)| one.failed + two.failed).sum();
    assert_eq!(failed, 0, "no I/O of a bench fails");
    let of = |pick: fn(&(LoadReport, LoadReport)) -> f64| median(pairs.iter().map(pick).collect());
    let (without, with) = (of(|pair| pair.0.iops()) / 1e3, of(|pair| pair.1.iops()) / 1e3);
    let ratio = of(|pair| pair.1.iops() / pair.0.iops());
    let rounds: Vec<_> = pairs.iter().map(|pair| format!("{:.2}", pair.1.iops() / pair.0.iops())).collect();
    println!("{places:?} {depth:>3} | {without:>8.1} | {with:>8.1} | {ratio:.3} of {}", rounds.join(" "));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A file with an lvstore.
struct Disk {
    lvs: LvsName,
    file: Arc<File>,
}

impl Disk {
    async fn make(control: &Control, directory: &Path, number: usize) -> Self {
        let path = directory.join(format!("disk{number}.img"));
        let file = File::create(&path).expect("a file");
        file.set_len(DISK_BYTES).expect("room for a disk");
        let lvs = LvsName::parse(&format!("disk{number}")).expect("a name");
        let (bdev, store) = (BdevName::parse(&format!("base{number}")).expect("a name"), lvs.clone());
        on_control(control, async move |on| {
            base::create_aio(on, &bdev, &path, 4096, Uuid::new_v4())?;
            lvstore::create(on, &bdev, &store, CLUSTER_BYTES, ClearMethod::None).await
        })
        .await;
        Self { lvs, file: Arc::new(file) }
    }
}

/// Stores dirty regions as a replica's node does.
struct Host {
    control: Control,
    records: Arc<Mutex<BTreeMap<ReplicaName, ReplicaRecords>>>,
    replicas: Vec<(ReplicaName, LvolAlias, Arc<File>)>,
}

impl Host {
    fn records_of(&self, member: &OpenMember) -> ReplicaRecords {
        let none = ReplicaRecords { generation: None, dirty: FoundDirty::Nothing };
        self.records.lock().expect("no panic").get(&member.replica).cloned().unwrap_or(none)
    }
}

impl MirrorHost for Host {
    fn persist(&self, _: &OpenMember, _: GenerationOrder) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn persist_dirty(&self, member: &OpenMember, order: DirtyOrder) -> BoxFuture<'static, Result<(), Error>> {
        let mut records = self.records_of(member);
        let stored = order.carry_out(&records, VOLUME_BYTES).expect("the replica is this mirror's");
        let record = stored.dirty;
        records.dirty = FoundDirty::Known(Box::new(record));
        records.generation = stored.generation.or(records.generation);
        self.records.lock().expect("no panic").insert(member.replica.clone(), records);
        let known = self.replicas.iter().find(|(replica, ..)| *replica == member.replica);
        let (_, alias, file) = known.expect("one of the mirror's").clone();
        let control = self.control.clone();
        Box::pin(async move {
            let value = XattrValue::new(&record.encode()).expect("a record fits");
            let change = XattrChange::set(XattrName::parse("corriente.dirty").expect("a key"), value);
            on_control(&control, async move |on| lvol::apply_xattrs(on, &alias, &[change]).await).await;
            let flushed = tokio::task::spawn_blocking(move || file.sync_data()).await;
            flushed.expect("no panic").expect("the disk is flushed");
            Ok(())
        })
    }

    fn records(&self, member: &OpenMember) -> BoxFuture<'static, Result<ReplicaRecords, Error>> {
        let records = self.records_of(member);
        Box::pin(async { Ok(records) })
    }

    fn close(&self, _: OpenMember, _: bool) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

async fn start_mirror(control: &Control, disks: &[Disk], name: &str, quiet: Option<Duration>) -> Mirror {
    let (mut opened, mut replicas) = (Vec::new(), Vec::new());
    for (index, disk) in disks.iter().enumerate() {
        let replica = ReplicaName::parse(&format!("{name}-r-{index}")).expect("a name");
        let lvol = LvolName::parse(replica.as_str()).expect("a name");
        let alias = LvolAlias { lvs: disk.lvs.clone(), lvol };
        let created = alias.clone();
        let bdev = on_control(control, async move |on| {
            lvol::create(on, &created, VOLUME_BYTES, Provision::Thick, ClearMethod::None).await?;
            OpenBdev::open(on, &created.bdev(), true, |_| {})
        })
        .await;
        opened.push(OpenedMember {
            open: OpenMember {
                replica: replica.clone(),
                bdev: bdev.name().clone(),
                address: HostPort::parse(&format!("127.0.0.1:{}", 20001 + index)).expect("an address"),
                locality: Locality::Local,
                size_bytes: bdev.geometry().size(),
                block_bytes: bdev.geometry().block_size,
            },
            bdev,
            flush: MemberFlush::Bdev,
            removed: tokio::sync::watch::channel(false).1,
        });
        replicas.push((replica, alias, disk.file.clone()));
    }
    let found = |member: &OpenedMember| Candidate {
        replica: member.open.replica.clone(),
        found: Found::Opened(member.open.clone(), None),
    };
    let candidates = opened.iter().map(found).collect();
    let assembly = assemble(candidates, VOLUME_BYTES, Incarnation(1), Missing::Refuse).expect("fresh members fit");
    let parts = MirrorParts {
        name: BdevName::parse(name).expect("a name"),
        assembly,
        opened: NonEmpty::from_vec(opened).expect("two members"),
        policy: ReadPolicy::LocalFirst,
        host: Arc::new(Host { control: control.clone(), records: Arc::default(), replicas }),
        member_deadline: Duration::from_secs(30),
        quiet,
        awaits_returns: false,
    };
    Mirror::start(control, parts).await.expect("the mirror starts")
}

async fn open(control: &Control, name: BdevName) -> Arc<OpenBdev> {
    on_control(control, async move |on| OpenBdev::open(on, &name, true, |_| {})).await
}

async fn load(control: &Control, bdev: &Arc<OpenBdev>, places: Places, depth: usize) -> LoadReport {
    let bdev = bdev.clone();
    let job = LoadJob { kind: IoKind::Write, depth, bytes: 4096, duration: SLICE, places };
    on_control(control, async move |on| run(on, &bdev, job).await).await
}

async fn on_control<T, W, F>(control: &Control, work: W) -> T
where
    T: Send + 'static,
    W: FnOnce(corriente::spdk::OnControl) -> F + Send + 'static,
    F: Future<Output = Result<T, SpdkError>> + 'static,
{
    control.run(work).await.unwrap_or_else(|error: SpdkError| panic!("{error}"))
}
