//! A volume of another node, reached through our own NVMe/TCP host and through SPDK's: the same target, the same reactor, the same
//! load, in turn. The target is this program once more, with a malloc bdev, on the other core.
//!
//! `cargo bench --bench remote`; needs two cores, and hugepages or falls back to ordinary pages.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{median, setting};
use corriente::name::{BdevName, HostPort, Nguid, Nqn, ReplicaName};
use corriente::nvme_host;
use corriente::spdk::bdev::{Geometry, IoKind, OpenBdev};
use corriente::spdk::load::{LoadJob, LoadReport, Places, run};
use corriente::spdk::nvme::{self, NvmeOptions, Peer, TcpTarget};
use corriente::spdk::nvmf::{self, Export, Hosts};
use corriente::spdk::reactor::PollMode;
use corriente::spdk::{Control, Environment, EnvironmentConfig, Memory, SpdkError, base};
use uuid::Uuid;

const DEVICE: Geometry = Geometry { block_size: 4096, block_count: 16 * 1024 };
const SLICE: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 24431;
const TARGET_VARIABLE: &str = "CORRIENTE_BENCH_TARGET";

/// Kind, bytes of an I/O, depth.
const CELLS: [(IoKind, usize, usize); 8] = [
    (IoKind::Read, 4096, 1),
    (IoKind::Read, 4096, 32),
    (IoKind::Read, 4096, 128),
    (IoKind::Write, 4096, 1),
    (IoKind::Write, 4096, 32),
    (IoKind::Write, 4096, 128),
    (IoKind::Read, 128 << 10, 16),
    (IoKind::Write, 128 << 10, 16),
];

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a tokio runtime");
    match std::env::var_os(TARGET_VARIABLE) {
        Some(_) => runtime.block_on(serve()),
        None => runtime.block_on(compare()),
    }
}

fn environment(core: u32) -> std::sync::Arc<Environment> {
    let config = EnvironmentConfig {
        cores: vec![core],
        poll: PollMode::Busy,
        memory: Memory::Ordinary { mib: 768 },
        pci: false,
        bdev_io_pool_size: 16 * 1024 - 1,
        bdev_io_cache_size: 256,
        max_exports: 8,
    };
    Environment::start(config).expect("SPDK starts")
}

fn bdev(name: &str) -> BdevName {
    BdevName::parse(name).expect("a name")
}

fn replica() -> ReplicaName {
    ReplicaName::parse("bench-r-00000000").expect("a name")
}

/// The other node: exports until its input ends.
async fn serve() {
    let environment = environment(0);
    let what = Export {
        nqn: Nqn::replica(&replica()),
        bdev: bdev("disk"),
        nguid: Nguid::replica(&replica()),
        uuid: Uuid::from_u128(7),
        listen: HostPort::parse(&format!("127.0.0.1:{PORT}")).expect("an address"),
        hosts: Hosts::Only(vec![Nqn::internal_host()]),
        controller_ids: None,
        ana: false,
    };
    let control = environment.control();
    let exported = control.run(move |on| async move {
        base::create_malloc(on, &bdev("disk"), DEVICE, Uuid::from_u128(7))?;
        nvmf::start_tcp(on, &nvmf::TransportOptions::default()).await?;
        nvmf::export(on, &what).await.map(drop)
    });
    exported.await.unwrap_or_else(|error: SpdkError| panic!("{error}"));
    println!("ready");
    std::io::stdin().lines().for_each(drop);
}

/// The target's process; its input ends with us.
struct Target(Child);

impl Target {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .env(TARGET_VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the target starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let ready = output.lines().map_while(std::result::Result::ok).any(|line| line == "ready");
        assert!(ready, "the target did not start");
        Self(child)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Its work is done, whether it ends in order or not.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn compare() {
    let rounds = setting("BENCH_ROUNDS", 5);
    println!("settings: BENCH_ROUNDS={rounds}");
    let _target = Target::start();
    let environment = environment(1);
    let control = environment.control();
    configure(&control).await;
    println!("op bytes depth | SPDK's kIOPS | ours kIOPS | ours / SPDK's");
    for (kind, bytes, depth) in CELLS {
        let job = LoadJob { kind, depth, bytes, duration: SLICE, places: Places::Uniform };
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            pairs.push((through_spdk(&control, job).await, through_ours(&control, job).await));
        }
        assert!(pairs.iter().all(|(spdk, ours)| spdk.failed + ours.failed == 0), "no I/O of a bench fails");
        let of = |pick: fn(&(LoadReport, LoadReport)) -> f64| median(pairs.iter().map(pick).collect());
        println!(
            "{kind:?} {bytes:>6} {depth:>4} | {:>8.1} | {:>8.1} | {:.3}",
            of(|pair| pair.0.iops()) / 1e3,
            of(|pair| pair.1.iops()) / 1e3,
            of(|pair| pair.1.iops() / pair.0.iops()),
        );
    }
    environment.stop(LIMIT).await.expect("SPDK stops");
}

fn here() -> TcpTarget {
    TcpTarget {
        address: HostPort::parse(&format!("127.0.0.1:{PORT}")).expect("an address"),
        subsystem: Nqn::replica(&replica()),
        host: Nqn::internal_host(),
    }
}

async fn configure(control: &Control) {
    let configured = control.run(async |on| nvme::configure(on, &NvmeOptions::default()));
    configured.await.unwrap_or_else(|error: SpdkError| panic!("{error}"));
}

async fn through_spdk(control: &Control, job: LoadJob) -> LoadReport {
    let worked = control.run(move |on| async move {
        let names = nvme::attach_tcp(on, &bdev("spdk"), &here(), LIMIT).await?;
        let name = nvme::only(on, &bdev("spdk"), names, LIMIT).await?;
        let opened = OpenBdev::open(on, &name, true, |_| {})?;
        let report = run(on, &opened, job).await?;
        drop(opened);
        nvme::detach(on, &bdev("spdk"), Peer::Alive, LIMIT).await?;
        Ok(report)
    });
    worked.await.unwrap_or_else(|error: SpdkError| panic!("{error}"))
}

async fn through_ours(control: &Control, job: LoadJob) -> LoadReport {
    let name = nvme_host::attach(control, &bdev("ours"), &here(), None, LIMIT).await.expect("it is attached");
    let worked = control.run(move |on| async move {
        let opened = OpenBdev::open(on, &name, true, |_| {})?;
        run(on, &opened, job).await
    });
    let report = worked.await.unwrap_or_else(|error: SpdkError| panic!("{error}"));
    nvme_host::detach(control, &bdev("ours"), Peer::Alive, LIMIT).await.expect("it is detached");
    report
}
