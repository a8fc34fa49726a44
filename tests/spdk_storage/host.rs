//! Our own NVMe/TCP host, against SPDK's target in another process.

use std::time::{Duration, Instant};

use corriente::name::Nqn;
use corriente::nvme_host;
use corriente::spdk::bdev::{BdevEvent, Geometry, IoKind, OpenBdev};
use corriente::spdk::nvme::{AttachFault, Peer};
use corriente::spdk::{SpdkError, base};

use crate::peers::{OtherNode, free_port, target};
use crate::scene::*;

/// Runs on tokio, as the host's callers do.
fn on_tokio<T>(work: impl Future<Output = corriente::Result<T>>) -> corriente::Result<T> {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("a runtime")).block_on(work)
}

#[test]
fn a_namespace_of_another_node_is_a_bdev_here() {
    let port = free_port();
    let mut node = OtherNode::start(port);
    let here = target(port, Nqn::internal_host());
    let (spdk, name) = (environment().control(), bdev("host"));
    let attach = |fault| on_tokio(nvme_host::attach(&spdk, &name, &here, fault, LIMIT));

    // A wrong answer is an error that names the controller, leaves nothing, and can be repeated.
    for fault in [AttachFault::NoName, AttachFault::TwoNames, AttachFault::EmptyName] {
        let error = attach(Some(fault)).expect_err("a spoilt answer").to_string();
        assert!(error.contains("NVMe controller host"), "{fault:?}: {error}");
        control(async |on| {
            assert!(!nvme_host::is_attached(on, &bdev("host")));
            assert!(matches!(base::info(on, &bdev("hostn1")), Err(SpdkError::NoSuchBdev(_))));
            Ok(())
        });
    }
    let stranger = target(port, Nqn::parse("nqn.2026-11.test:stranger").expect("an NQN"));
    let refused = on_tokio(nvme_host::attach(&spdk, &name, &stranger, None, LIMIT));
    assert!(refused.is_err_and(|error| error.to_string().contains("stranger")), "a stranger is not admitted");
    let nobody = target(free_port(), Nqn::internal_host());
    assert!(on_tokio(nvme_host::attach(&spdk, &name, &nobody, None, LIMIT)).is_err(), "nobody listens there");

    assert_eq!(attach(None).expect("the node exports it"), bdev("hostn1"));
    assert!(attach(None).is_err_and(|error| error.to_string().contains("attached already")));
    let (events, received) = std::sync::mpsc::channel();
    let opened = control(async move |on| {
        assert_eq!(base::info(on, &bdev("hostn1"))?.geometry, Geometry { block_size: 4096, block_count: 2048 });
        let opened = OpenBdev::open(on, &bdev("hostn1"), true, move |event| {
            let _ = events.send(event);
        })?;
        for kind in [IoKind::Read, IoKind::Write, IoKind::Flush, IoKind::Unmap, IoKind::WriteZeroes] {
            assert!(opened.supports(kind), "{kind:?}");
        }
        let channel = opened.channel(on.into())?;
        // In a capsule, in one transfer, in many commands.
        for (at, length, byte) in [(0, 4096, b'a'), (64 << 10, 64 << 10, b'b'), (MIB, 2 * MIB, b'c')] {
            fill(&channel, at, length as usize, byte).await?;
            assert!(holds(&channel, at, length as usize, byte).await?, "{length} bytes");
        }
        channel.flush().await?;
        channel.write_zeroes(MIB, MIB).await?;
        assert!(holds(&channel, MIB, MIB as usize, 0).await?);
        assert!(holds(&channel, 2 * MIB, MIB as usize, b'c').await?, "no more than that");
        let beyond = channel.read(opened.geometry().size(), corriente::spdk::DmaBuffer::zeroed(4096)?).await;
        assert!(beyond.is_err());
        Ok(opened)
    });
    // Each reactor has a connection of its own.
    for reactor in environment().reactors() {
        let opened = opened.clone();
        let found = on_tokio(reactor.run(move |on| async move {
            let channel = opened.channel(on)?;
            drop(opened);
            holds(&channel, 2 * MIB, MIB as usize, b'c').await.map_err(corriente::Error::from)
        }));
        assert!(found.expect("it reads"), "reactor {}", reactor.core());
    }

    node.ask("grow");
    let seen = on_tokio(nvme_host::read_size(&spdk, &name, LIMIT)).expect("the node answers");
    assert_eq!(seen.size(), 16 * MIB);
    assert_eq!(received.recv_timeout(LIMIT), Ok(BdevEvent::Resized));
    assert!(on_tokio(nvme_host::read_size(&spdk, &bdev("nobody"), LIMIT)).is_err());
    drop(opened);
    on_tokio(nvme_host::detach(&spdk, &name, Peer::Alive, LIMIT)).expect("nobody has it open");
    on_tokio(nvme_host::detach(&spdk, &name, Peer::Alive, LIMIT)).expect("that it is gone is no error");
    node.ask("again");
    assert_eq!(attach(None).expect("a second time"), bdev("hostn1"));
    on_tokio(nvme_host::detach(&spdk, &name, Peer::Alive, LIMIT)).expect("nobody has it open");
}

/// Writers on both reactors; how each ended is what is returned.
fn write_on(opened: &std::sync::Arc<OpenBdev>) -> Vec<tokio::task::JoinHandle<u64>> {
    let writers = environment().reactors().iter().map(|reactor| {
        let (reactor, opened) = (reactor.clone(), opened.clone());
        tokio::spawn(async move {
            let written = reactor.run(move |on| async move {
                let channel = opened.channel(on)?;
                drop(opened);
                let mut written = 0u64;
                while fill(&channel, 0, 4096, b'f').await.is_ok() {
                    written += 1;
                }
                Ok::<_, SpdkError>(written)
            });
            written.await.expect("a reactor")
        })
    });
    writers.collect()
}

#[test]
fn a_frozen_peer_holds_up_nobody_and_is_let_go_at_once() {
    let port = free_port();
    let node = OtherNode::start(port);
    let here = target(port, Nqn::internal_host());
    let (spdk, name) = (environment().control(), bdev("frozen-host"));
    let work = async {
        let bdev = nvme_host::attach(&spdk, &name, &here, None, LIMIT).await?;
        let opened = spdk.run(move |on| async move { OpenBdev::open(on, &bdev, true, |_| {}) }).await?;
        let writers = write_on(&opened);
        drop(opened);
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.signal(nix::sys::signal::Signal::SIGSTOP);
        tokio::time::sleep(Duration::from_millis(300)).await;

        // The kernel accepts for the frozen one, which then says nothing.
        let short = Duration::from_millis(500);
        let late = nvme_host::attach(&spdk, &crate::scene::bdev("second-host"), &here, None, short).await;
        assert!(matches!(late, Err(corriente::Error::Timeout { .. })), "{late:?}");
        let start = Instant::now();
        spdk.run(async |_| Ok::<_, SpdkError>(())).await?;
        assert!(start.elapsed() < LIMIT / 2, "the control thread waits for nobody");

        nvme_host::detach(&spdk, &name, Peer::Lost, LIMIT).await?;
        for writer in writers {
            assert!(writer.await.expect("no panic") > 0, "it wrote until the peer was lost");
        }
        Ok(())
    };
    on_tokio(work).expect("the frozen peer is let go");
}

#[test]
fn the_io_of_a_peer_that_dies_fails_at_once_and_its_bdev_stays_until_it_is_detached() {
    let port = free_port();
    let node = OtherNode::start(port);
    let here = target(port, Nqn::internal_host());
    let (spdk, name) = (environment().control(), bdev("dead-host"));
    let work = async {
        let bdev = nvme_host::attach(&spdk, &name, &here, None, LIMIT).await?;
        let remote = bdev.clone();
        let opened = spdk.run(move |on| async move { OpenBdev::open(on, &remote, true, |_| {}) }).await?;
        let writers = write_on(&opened);
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(node);
        for writer in writers {
            let written = tokio::time::timeout(LIMIT, writer).await.expect("its I/O fails").expect("no panic");
            assert!(written > 0, "it wrote until the peer died");
        }
        spdk.run(move |on| async move {
            let channel = opened.channel(on.into())?;
            drop(opened);
            assert!(fill(&channel, 0, 4096, b'd').await.is_err(), "it goes on failing");
            base::info(on, &bdev).map(drop)
        })
        .await?;
        nvme_host::detach(&spdk, &name, Peer::Lost, LIMIT).await
    };
    on_tokio(work).expect("the dead peer is let go");
}
