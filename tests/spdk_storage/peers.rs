//! Initiator and target, in two processes.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use corriente::disk::health::HealthLog;
use corriente::name::{BdevName, HostPort, Nguid, Nqn, ReplicaName};
use corriente::spdk::bdev::{AdminRead, BdevEvent, Geometry, OpenBdev};
use corriente::spdk::lvol::{self, Provision};
use corriente::spdk::lvstore::ClearMethod;
use corriente::spdk::nvme::{self, AttachFault, Peer, TcpTarget};
use corriente::spdk::nvmf::{self, Export, ExportState, Hosts};
use corriente::spdk::{DmaBuffer, SpdkError, base};
use uuid::Uuid;

use crate::scene::*;

/// The other node: this test binary once more, running [`other_node`].
pub struct OtherNode {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

const PORT_VARIABLE: &str = "CORRIENTE_TEST_TARGET_PORT";

pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

impl OtherNode {
    pub fn start(port: u16) -> Self {
        use std::io::BufRead;
        // A test that crashes cannot clean up, so the kernel kills the child with it.
        let mut child = std::process::Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(std::env::current_exe().expect("this binary"))
            .args(["--exact", "peers::other_node", "--nocapture", "--include-ignored"])
            .env(PORT_VARIABLE, port.to_string())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the other node starts");
        let lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut node = Self { child, lines };
        node.wait_for("ready");
        node
    }

    fn wait_for(&mut self, word: &str) {
        let found = self.lines.by_ref().map_while(Result::ok).any(|line| line.ends_with(word));
        assert!(found, "the other node says {word}");
    }

    pub fn ask(&mut self, word: &str) {
        use std::io::Write;
        writeln!(self.child.stdin.as_mut().expect("piped"), "{word}").expect("the other node listens");
        self.wait_for(&format!("done {word}"));
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(id, signal).expect("our child");
    }
}

impl Drop for OtherNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn replica() -> ReplicaName {
    ReplicaName::parse("vol-r-12345678").expect("a replica's name")
}

fn export(bdev: BdevName, port: u16) -> Export {
    Export {
        nqn: Nqn::replica(&replica()),
        bdev,
        nguid: Nguid::replica(&replica()),
        uuid: Uuid::from_u128(7),
        listen: HostPort::parse(&format!("127.0.0.1:{port}")).expect("an address"),
        hosts: Hosts::Only(vec![Nqn::internal_host()]),
        controller_ids: None,
        ana: false,
    }
}

#[test]
#[ignore = "the other half of the tests below, which start it"]
fn other_node() {
    use std::io::BufRead;
    let Ok(port) = std::env::var(PORT_VARIABLE) else { return };
    let (disk, store) = (Disk::new("target-disk", 64), lvs("target"));
    disk.format(&store);
    let head = alias(&store, "head");
    let what = export(head.bdev(), port.parse().expect("a port"));
    control({
        let (head, what) = (head.clone(), what.clone());
        async move |on| {
            lvol::create(on, &head, 8 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await?;
            nvmf::start_tcp(on, &nvmf::TransportOptions::default()).await?;
            let info = nvmf::export(on, &what).await?;
            assert_eq!((info.state, info.listen, info.connected), (ExportState::Active, Some(what.listen), 0));
            Ok(())
        }
    });
    println!("ready");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (head, what, word) = (head.clone(), what.clone(), line.clone());
        control(async move |on| match word.as_str() {
            "grow" => lvol::grow(on, &head, 16 * MIB).await.map(drop),
            "pause" => nvmf::pause(on, &what.nqn, LIMIT).await,
            "resume" => nvmf::resume(on, &what.nqn).await,
            "connected" => {
                assert!(nvmf::info(on, &what.nqn)?.connected > 0);
                Ok(())
            }
            "again" => {
                nvmf::unexport(on, &what.nqn).await?;
                assert_eq!(nvmf::list(on)?, []);
                nvmf::export(on, &what).await.map(drop)
            }
            other => panic!("{other:?} is no request"),
        });
        println!("done {line}");
    }
}

/// Once in a process, and before its first attach.
fn configure_initiator() {
    static CONFIGURED: OnceLock<()> = OnceLock::new();
    CONFIGURED.get_or_init(|| control(async |on| nvme::configure(on, &nvme::NvmeOptions::default())));
}

#[test]
fn an_export_claims_its_volume_but_leaves_it_to_who_has_it() {
    let (disk, store) = (Disk::new("claim-disk", 64), lvs("claim"));
    disk.format(&store);
    let head = alias(&store, "head");
    let mut what = export(head.bdev(), free_port());
    what.nqn = Nqn::parse("nqn.2026-11.test:claim").expect("an NQN");
    control(async move |on| {
        lvol::create(on, &head, 4 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await?;
        nvmf::start_tcp(on, &nvmf::TransportOptions::default()).await?;
        let mine = open(on, &head.bdev(), true)?;
        nvmf::export(on, &what).await?;
        assert!(nvmf::export(on, &what).await.is_err(), "the same export twice");
        fill(&mine, 0, 4096, b'm').await?;
        assert!(open(on, &head.bdev(), true).is_err(), "nobody else can open it for writing");
        assert!(holds(&open(on, &head.bdev(), false)?, 0, 4096, b'm').await?, "but for reading");
        let mut second = what.clone();
        second.nqn = Nqn::parse("nqn.2026-11.test:claim-twice").expect("an NQN");
        second.listen = HostPort::parse(&format!("127.0.0.1:{}", free_port())).expect("an address");
        assert!(matches!(nvmf::export(on, &second).await, Err(SpdkError::Refused { .. })));
        assert!(nvmf::info(on, &second.nqn).is_err(), "nothing is left of an export that failed");
        second.bdev = bdev("no-such-bdev");
        assert!(matches!(nvmf::export(on, &second).await, Err(SpdkError::NoSuchBdev(_))));
        nvmf::pause(on, &what.nqn, LIMIT).await?;
        assert_eq!(nvmf::info(on, &what.nqn)?.state, ExportState::Paused);
        nvmf::unexport(on, &what.nqn).await?;
        open(on, &head.bdev(), true).map(drop)
    });
}

pub fn target(port: u16, host: Nqn) -> TcpTarget {
    TcpTarget {
        address: HostPort::parse(&format!("127.0.0.1:{port}")).expect("an address"),
        subsystem: Nqn::replica(&replica()),
        host,
    }
}

#[test]
fn a_volume_of_another_node_is_a_bdev_here() {
    let port = free_port();
    let mut node = OtherNode::start(port);
    let name = bdev("remote");
    let here = target(port, Nqn::internal_host());
    configure_initiator();

    // A wrong answer is an error that names the controller, leaves nothing, and can be repeated.
    for fault in [AttachFault::NoName, AttachFault::TwoNames, AttachFault::EmptyName] {
        let (name, here) = (name.clone(), here.clone());
        let error = control(async move |on| {
            nvme::inject_fault(on, fault);
            let error = nvme::attach_tcp(on, &name, &here, LIMIT).await.expect_err("a spoilt answer");
            assert!(!nvme::is_attached(on, &name));
            Ok(error.to_string())
        });
        assert!(error.contains("NVMe controller remote"), "{fault:?}: {error}");
    }
    control({
        let (name, here) = (name.clone(), target(port, Nqn::parse("nqn.2026-11.test:stranger").expect("an NQN")));
        async move |on| {
            assert!(nvme::attach_tcp(on, &name, &here, LIMIT).await.is_err(), "a stranger is not admitted");
            Ok(())
        }
    });

    let (events, received) = std::sync::mpsc::channel();
    let opened = control({
        let (name, here) = (name.clone(), here.clone());
        async move |on| {
            let names = nvme::attach_tcp(on, &name, &here, LIMIT).await?;
            let only = nvme::only(on, &name, names, LIMIT).await?;
            assert_eq!(only, bdev("remoten1"));
            assert_eq!(base::info(on, &only)?.geometry, Geometry { block_size: 4096, block_count: 2048 });
            let opened = OpenBdev::open(on, &only, true, move |event| {
                let _ = events.send(event);
            })?;
            let channel = opened.channel(on.into())?;
            fill(&channel, MIB, MIB as usize, b'r').await?;
            channel.flush().await?;
            assert!(holds(&channel, MIB, MIB as usize, b'r').await?);
            // What the other side says of itself, and of its health: SPDK's target tells nothing of the latter.
            let identify = AdminRead { opcode: 0x06, namespace: 0, dword_10: 1 };
            let identity = channel.nvme_admin_read(identify, DmaBuffer::zeroed(4096)?).await?;
            assert!(identity[24..64].starts_with(b"Corriente volume "), "{:?}", &identity[..72]);
            let health = AdminRead { opcode: 0x02, namespace: u32::MAX, dword_10: 0x02 | (127 << 16) };
            let page = channel.nvme_admin_read(health, DmaBuffer::zeroed(512)?).await?;
            assert_eq!(HealthLog::parse(&page).temperature, None, "no temperature at all is none that can be");
            let unknown = AdminRead { dword_10: 0xee | (127 << 16), ..health };
            let refused = channel.nvme_admin_read(unknown, DmaBuffer::zeroed(512)?).await;
            assert!(matches!(refused, Err(SpdkError::Answer { .. })), "{refused:?}");
            Ok(opened)
        }
    });
    node.ask("connected");

    node.ask("grow");
    let start = Instant::now();
    control({
        let (name, opened) = (name.clone(), opened.clone());
        async move |on| {
            assert_eq!(nvme::read_size(on, &name, &bdev("remoten1")).await?.size(), 16 * MIB);
            println!("a resize was seen after {:?}", start.elapsed());
            assert_eq!(opened.current_geometry(on.into()).size(), 16 * MIB);
            let nobody = nvme::read_size(on, &bdev("nobody"), &bdev("nobodyn1")).await;
            assert!(matches!(nobody, Err(SpdkError::NoSuch { .. })), "{nobody:?}");
            Ok(())
        }
    });
    assert_eq!(received.recv_timeout(LIMIT), Ok(BdevEvent::Resized));
    node.ask("pause");
    node.ask("resume");
    drop(opened);
    control({
        let name = name.clone();
        async move |on| nvme::detach(on, &name, Peer::Alive, LIMIT).await
    });
    node.ask("again");
    control(async move |on| {
        let names = nvme::attach_tcp(on, &name, &here, LIMIT).await?;
        let channel = open(on, names.first(), false)?;
        assert!(holds(&channel, MIB, MIB as usize, b'r').await?);
        drop(channel);
        nvme::detach(on, &name, Peer::Alive, LIMIT).await
    });
}

#[test]
fn a_frozen_peer_is_let_go_at_once() {
    let port = free_port();
    let node = OtherNode::start(port);
    let name = bdev("frozen");
    configure_initiator();
    let here = target(port, Nqn::internal_host());
    let opened = control({
        let name = name.clone();
        async move |on| {
            let names = nvme::attach_tcp(on, &name, &here, LIMIT).await?;
            OpenBdev::open(on, names.first(), true, |_| {})
        }
    });
    // Writers on both reactors, so that some I/O is in flight whenever the peer stops to answer.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let writing: Vec<_> = environment()
        .reactors()
        .iter()
        .map(|reactor| {
            let (reactor, opened) = (reactor.clone(), opened.clone());
            runtime.spawn(async move {
                reactor
                    .run(move |on| async move {
                        let channel = opened.channel(on)?;
                        drop(opened);
                        let mut written = 0u64;
                        while fill(&channel, 0, 4096, b'f').await.is_ok() {
                            written += 1;
                        }
                        Ok::<_, SpdkError>(written)
                    })
                    .await
            })
        })
        .collect();
    drop(opened);
    std::thread::sleep(Duration::from_millis(500));
    node.signal(nix::sys::signal::Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    control(async move |on| {
        nvme::detach(on, &name, Peer::Lost, LIMIT).await?;
        assert!(!nvme::is_attached(on, &name));
        Ok(())
    });
    let took = start.elapsed();
    for one in writing {
        let written = runtime.block_on(one).expect("no panic").unwrap_or_else(|error| panic!("{error}"));
        assert!(written > 0, "it wrote until the peer was lost");
    }
    // SPDK's own way to let go waits ten seconds for the peer's answer.
    assert!(took < Duration::from_secs(8), "letting go of a frozen peer took {took:?}");
}
