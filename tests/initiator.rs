//! The initiator against a small target that this test plays itself, well behaved and hostile.

#[path = "initiator/codec.rs"]
mod codec;
#[path = "initiator/fake_target.rs"]
mod fake_target;
#[path = "initiator/hostile.rs"]
mod hostile;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use corriente::{
    initiator::{AsyncEvent, Digests, Initiator, InitiatorError, Options, discover},
    name::Nqn,
};
use fake_target::{ALL_DIGESTS, BLOCK, Fault, NO_DIGESTS, OPCODE_READ, OPCODE_WRITE, State, Target, state};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const MIB: usize = 1 << 20;

fn nqn(text: &str) -> Nqn {
    Nqn::parse(text).unwrap()
}

/// Limits that no test reaches unless it sets its own.
fn options() -> Options {
    Options {
        connect_timeout: Duration::from_secs(20),
        command_timeout: Duration::from_secs(20),
        keep_alive_timeout: None,
        ..Options::default()
    }
}

async fn connect(target: &Target, options: Options) -> Result<Initiator, InitiatorError> {
    Initiator::connect(target.address, &nqn("nqn.test:disk"), &nqn("nqn.test:host"), options).await
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

#[tokio::test]
async fn describes_the_namespace() {
    let target = Target::with_blocks(100).await;
    let initiator = connect(&target, options()).await.unwrap();
    let namespace = initiator.namespace();
    assert_eq!((namespace.nsid, namespace.block_size, namespace.block_count), (1, 512, 100));
    assert_eq!(namespace.size_bytes(), 51200);
    assert_eq!(namespace.nguid, [0xAB; 16]);
    assert_eq!(namespace.uuid, Some(uuid::Uuid::from_bytes([0xCD; 16])));
}

/// Small writes in the capsule, large ones on request; reads ended by a response or by the SUCCESS flag; with digests
/// and without; over one queue and over three.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_what_it_wrote() {
    for (digests, success_flag, io_queues) in
        [(NO_DIGESTS, true, 1), (NO_DIGESTS, false, 3), (ALL_DIGESTS, true, 1), (ALL_DIGESTS, false, 2)]
    {
        let blocks = 4 * MIB / BLOCK;
        let target = Target::start(State { success_flag, ..state(blocks) }).await;
        let initiator = connect(&target, Options { digests, io_queues, ..options() }).await.unwrap();

        let large = noise(1, 3 * MIB + 3 * BLOCK);
        initiator.write(BLOCK as u64, &large).await.unwrap();
        let small = noise(2, 2 * BLOCK);
        initiator.write(0, &small).await.unwrap();
        initiator.flush().await.unwrap();

        let mut expected = large;
        expected.splice(..BLOCK, small[BLOCK..].iter().copied());
        let mut read = vec![0; expected.len()];
        initiator.read(BLOCK as u64, &mut read).await.unwrap();
        assert!(read == expected, "{digests:?} {success_flag} {io_queues}");
        assert!(target.state.disk.lock().unwrap()[BLOCK..][..expected.len()] == expected);
        assert!(target.state.in_capsule_writes.load(Ordering::SeqCst) > 0);
        assert!(target.state.requests.load(Ordering::SeqCst) > 3 * MIB / (64 << 10), "several requests a command");
        initiator.disconnect().await.unwrap();
        assert_eq!(target.state.configuration.load(Ordering::SeqCst) >> 14 & 3, 1, "normal shutdown was announced");
    }
}

#[tokio::test]
async fn zeroes_and_deallocates_ranges() {
    let target = Target::with_blocks(100).await;
    let initiator = connect(&target, options()).await.unwrap();
    initiator.write(0, &vec![1; 100 * BLOCK]).await.unwrap();
    initiator.write_zeroes(BLOCK as u64, 10 * BLOCK as u64).await.unwrap();
    initiator.deallocate(20 * BLOCK as u64, 30 * BLOCK as u64).await.unwrap();
    let disk = target.state.disk.lock().unwrap();
    let block = |index: usize| disk[index * BLOCK];
    assert_eq!([0, 1, 10, 11, 19, 20, 49, 50].map(block), [1, 0, 0, 1, 1, 0xDE, 0xDE, 1]);
}

/// Many more commands than the queue has places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_a_small_queue() {
    let target = Target::with_blocks(200).await;
    let initiator = connect(&target, Options { queue_size: 4, ..options() }).await.unwrap();
    let calls = (0..200u64).map(|index| {
        let initiator = &initiator;
        async move {
            let data = noise(index, BLOCK);
            initiator.write(index * BLOCK as u64, &data).await.unwrap();
            let mut read = vec![0; BLOCK];
            initiator.read(index * BLOCK as u64, &mut read).await.unwrap();
            assert_eq!(read, data, "block {index}");
        }
    });
    futures::future::join_all(calls).await;
}

/// A call that goes away leaves its commands to run; their places come back.
#[tokio::test]
async fn abandoned_calls_do_not_leak_places() {
    let target = Target::with_blocks(1000).await;
    let initiator = connect(&target, Options { queue_size: 4, ..options() }).await.unwrap();
    for _ in 0..50 {
        let mut buffer = vec![0; 500 * BLOCK];
        let _ = tokio::time::timeout(Duration::from_micros(50), initiator.read(0, &mut buffer)).await;
        let _ = tokio::time::timeout(Duration::from_micros(50), initiator.write(0, &buffer)).await;
    }
    let mut buffer = vec![0; 1000 * BLOCK];
    initiator.read(0, &mut buffer).await.unwrap();
}

#[tokio::test]
async fn unaligned_ranges_are_the_callers_fault() {
    let target = Target::with_blocks(8).await;
    let initiator = connect(&target, options()).await.unwrap();
    for (offset, length) in [(1, 512), (0, 511), (0, 9 * 512), (8 * 512, 512)] {
        let error = initiator.write(offset, &vec![0; length]).await.unwrap_err();
        let error = corriente::Error::from(error);
        assert!(matches!(error, corriente::Error::InvalidArgument { .. }), "{offset}+{length}: {error}");
    }
    initiator.write(0, &[]).await.unwrap();
}

#[tokio::test]
async fn an_error_status_fails_the_call_and_nothing_else() {
    let target = Target::with_blocks(1000).await;
    let initiator = connect(&target, options()).await.unwrap();
    let unrecovered_read_error = 0x81 << 1 | 2 << 9 | 0x8000;
    target.fault(OPCODE_READ, Fault::Status(unrecovered_read_error));
    let mut buffer = vec![0; 1000 * BLOCK];
    let error = initiator.read(0, &mut buffer).await.unwrap_err();
    let status = error.status().unwrap();
    assert_eq!((status.kind, status.code, status.do_not_retry), (2, 0x81, true));
    assert!(error.to_string().contains("unrecovered read error"), "{error}");
    assert!(matches!(corriente::Error::from(error), corriente::Error::Medium { .. }));
    target.heal();
    initiator.read(0, &mut buffer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dying_target_fails_all_commands_in_flight() {
    let target = Target::with_blocks(1000).await;
    let initiator = connect(&target, Options { io_queues: 2, ..options() }).await.unwrap();
    target.fault(OPCODE_READ, Fault::Silence);
    target.fault(OPCODE_WRITE, Fault::Die);
    let started = Instant::now();
    let reads = (0..20u64).map(|index| {
        let initiator = &initiator;
        async move { initiator.read(index * BLOCK as u64, &mut [0; BLOCK]).await }
    });
    let die = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        initiator.write(0, &[0; BLOCK]).await
    };
    let (reads, write) = tokio::join!(futures::future::join_all(reads), die);
    for result in reads.into_iter().chain([write]) {
        let error = result.unwrap_err();
        assert!(matches!(error, InitiatorError::PeerClosed { .. }), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "no deadline was waited for");
    let late = initiator.read(0, &mut [0; BLOCK]).await.unwrap_err();
    assert!(matches!(late, InitiatorError::PeerClosed { .. }), "{late}");
    assert!(initiator.disconnect().await.is_err());
}

#[tokio::test]
async fn a_silent_target_meets_the_command_deadline() {
    let target = Target::with_blocks(8).await;
    let limit = Duration::from_millis(300);
    let initiator = connect(&target, Options { command_timeout: limit, ..options() }).await.unwrap();
    target.fault(OPCODE_READ, Fault::Silence);
    let started = Instant::now();
    let error = initiator.read(0, &mut [0; BLOCK]).await.unwrap_err();
    let elapsed = started.elapsed();
    assert!(matches!(corriente::Error::from(error.clone()), corriente::Error::Timeout { .. }), "{error}");
    assert!(elapsed >= limit && elapsed < limit * 20, "{elapsed:?}");
    assert!(initiator.flush().await.is_err(), "the controller is given up");
}

#[tokio::test]
async fn a_mute_target_meets_the_connect_deadline() {
    let target = Target::start(State { mute: true, ..state(8) }).await;
    let limit = Duration::from_millis(300);
    let started = Instant::now();
    let error = connect(&target, Options { connect_timeout: limit, ..options() }).await.unwrap_err();
    assert!(matches!(error, InitiatorError::Timeout { .. }), "{error}");
    assert!(started.elapsed() < limit * 20);
}

#[tokio::test]
async fn refusals_say_why() {
    let target = Target::with_blocks(8).await;
    let host = nqn("nqn.test:host");
    let error = Initiator::connect(target.address, &nqn("nqn.test:forbidden"), &host, options()).await.unwrap_err();
    assert!(matches!(error, InitiatorError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("not allowed"), "{error}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Initiator::connect(nobody, &nqn("nqn.test:disk"), &host, options()).await.unwrap_err();
    assert!(matches!(error, InitiatorError::Refused { .. }), "{error}");

    let nsid = std::num::NonZeroU32::new(9);
    let error = connect(&target, Options { nsid, ..options() }).await.unwrap_err();
    assert!(error.to_string().contains("no namespace 9"), "{error}");
}

#[tokio::test]
async fn discovers_subsystems() {
    let target = Target::with_blocks(8).await;
    let entries = discover(target.address, &nqn("nqn.test:host"), &options()).await.unwrap();
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(
        (entry.nqn.as_str(), entry.address.as_str(), entry.service.as_str()),
        ("nqn.test:disk", "127.0.0.1", "4420")
    );
    assert_eq!((entry.transport, entry.kind), (3, 2));
}

#[tokio::test]
async fn hears_of_a_resize() {
    let target = Target::with_blocks(8).await;
    let initiator = connect(&target, options()).await.unwrap();
    let mut events = initiator.events();
    for blocks in [16, 24] {
        target.state.disk.lock().unwrap().resize(blocks * BLOCK, 0);
        target.state.event.notify_one();
        let event = tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
        assert_eq!(event, AsyncEvent::NamespacesChanged { nsids: vec![1] });
        assert_eq!(initiator.refresh_namespace().await.unwrap().block_count, blocks as u64);
        assert_eq!(initiator.namespace().block_count, blocks as u64);
    }
    initiator.write(23 * BLOCK as u64, &[9; BLOCK]).await.unwrap();
}

#[tokio::test]
async fn keeps_the_association_alive() {
    let target = Target::with_blocks(8).await;
    let keep_alive_timeout = Some(Duration::from_millis(100));
    let initiator = connect(&target, Options { keep_alive_timeout, ..options() }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(target.state.keep_alives.load(Ordering::SeqCst) >= 4);
    initiator.disconnect().await.unwrap();
}

#[tokio::test]
async fn queues_that_the_target_ends_at_the_shutdown_are_no_loss() {
    let target = Target::with_blocks(8).await;
    let initiator = connect(&target, Options { io_queues: 3, ..options() }).await.unwrap();
    initiator.write(0, &[1; BLOCK]).await.unwrap();
    initiator.disconnect().await.unwrap();
    assert_eq!(target.state.configuration.load(Ordering::SeqCst) >> 14 & 3, 1, "normal shutdown was announced");
}

#[tokio::test]
async fn a_wrong_data_digest_is_noticed() {
    let target = Target::with_blocks(8).await;
    let digests = Digests { header: false, data: true };
    let initiator = connect(&target, Options { digests, ..options() }).await.unwrap();
    target.fault(OPCODE_READ, Fault::BadDigest);
    match initiator.read(0, &mut [0; BLOCK]).await.unwrap_err() {
        InitiatorError::Protocol { violation, .. } => assert_eq!(violation.field, "DDGST"),
        other => panic!("{other}"),
    }
}
