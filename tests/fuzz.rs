//! Random and malformed requests for every call of both services, over the wire.
//!
//! Whatever is asked: the node lives, no call is answered INTERNAL, nothing that was there has changed, nothing is left
//! behind, and memory does not grow. A failed run prints its seed.

mod support;

#[path = "fuzz/caller.rs"]
mod caller;
#[allow(dead_code)]
#[path = "disaster_recovery/cluster.rs"]
mod cluster;
#[path = "fuzz/methods.rs"]
mod methods;
#[path = "fuzz/requests.rs"]
mod requests;
#[path = "fuzz/state.rs"]
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caller::{Caller, Outcome};
use cluster::{Cluster, create_replica};
use methods::Method;
use requests::{Requests, Vocabulary};
use state::{State, free_bytes, resident_bytes};
use support::client::Client;
use support::random::Random;
use tonic::Code;

/// Calls of a run with strange names; `CORRIENTE_FUZZ_CALLS` sets another number.
const CALLS: u64 = 100_000;
/// Calls of a run with the names of what there is. Fewer, because many of them do something.
const CALLS_ON_WHAT_THERE_IS: u64 = 4_000;
const CALLS_VARIABLE: &str = "CORRIENTE_FUZZ_CALLS";
const CONNECTIONS: u64 = 8;
const SIZE: u64 = 16 << 20;
const REPLICA: &str = "vol-r-00000000";
/// Of the process, from the time when it has served a fifth of the calls. Allocators keep some of what they were given.
const GROWTH_LIMIT_BYTES: u64 = 32 << 20;

fn calls() -> u64 {
    match std::env::var(CALLS_VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{CALLS_VARIABLE} must be a number, it is {text:?}")),
        Err(_) => CALLS,
    }
}

/// A node with a disk, a replica, and an engine with a client.
async fn lab() -> (Cluster, Client) {
    let cluster = Cluster::start_with(|options| options.set("log.filter", "error")).await;
    let replica = create_replica(&cluster.nodes[0], REPLICA, SIZE).await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", [(REPLICA.into(), replica)].into()).await;
    let mut client = Client::of(&engine, SIZE).await;
    client.work().await;
    (cluster, client)
}

/// Sends `count` requests over several connections, and counts the answers by call and code.
async fn storm(cluster: &Cluster, seed: u64, count: u64, vocabulary: Vocabulary) -> BTreeMap<(String, String), u64> {
    let mut methods = methods::all();
    // The disk stays, or there would be nothing to call for.
    methods.retain(|method| vocabulary == Vocabulary::Strange || !method.path.ends_with("/DiskDelete"));
    let methods = Arc::new(methods);
    let left = Arc::new(AtomicU64::new(count));
    let workers = (0..CONNECTIONS).map(|worker| {
        let mut requests = Requests::new(seed.wrapping_add(worker.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1, vocabulary);
        let caller = Caller::new(cluster.nodes[0].grpc_address());
        let (methods, left) = (methods.clone(), left.clone());
        tokio::spawn(async move {
            let mut answers: BTreeMap<_, u64> = BTreeMap::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let method: &Method = requests.pick(&methods);
                let (body, is_message) = requests.body(method);
                let outcome = caller.call(method, body.clone()).await;
                check(method, &body, is_message, &outcome);
                *answers.entry((method.path.clone(), format!("{:?}", outcome.code))).or_default() += 1;
            }
            answers
        })
    });
    let mut all: BTreeMap<_, u64> = BTreeMap::new();
    for answers in futures::future::join_all(workers).await {
        for (key, count) in answers.unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
            *all.entry(key).or_default() += count;
        }
    }
    all
}

fn check(method: &Method, body: &[u8], is_message: bool, outcome: &Outcome) {
    // What is no message is refused by the protocol's own library, with a code that it chose.
    let undecodable = !is_message && outcome.code == Code::Internal && outcome.text.contains("decode");
    let bad = [Code::Internal, Code::Unknown, Code::DataLoss, Code::DeadlineExceeded].contains(&outcome.code);
    assert!(!bad || undecodable, "{} answered {outcome:?} to {body:02x?}", method.path);
    if outcome.code == Code::InvalidArgument {
        assert!(!outcome.text.trim().is_empty(), "{} refused {body:02x?} without a word", method.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_strange_names_change_nothing_leave_nothing_and_cost_no_memory() {
    let (cluster, mut client) = lab().await;
    let pid = cluster.nodes[0].pid();
    let seed = Random::from_clock().next();
    let before = State::of(&cluster).await;
    let count = calls();
    let mut answers = storm(&cluster, seed, count / 5, Vocabulary::Strange).await;
    let memory = resident_bytes(pid);
    for (key, count) in storm(&cluster, seed ^ 0x5555, count - count / 5, Vocabulary::Strange).await {
        *answers.entry(key).or_default() += count;
    }
    let grown = resident_bytes(pid).saturating_sub(memory);

    assert_eq!(State::of(&cluster).await, before, "seed {seed}");
    assert!(grown < GROWTH_LIMIT_BYTES, "seed {seed}: {count} calls cost {grown} bytes");
    assert_eq!(cluster.nodes[0].pid(), pid);
    client.work().await;
    let reached: std::collections::BTreeSet<_> = answers.keys().map(|(path, _)| path.clone()).collect();
    assert_eq!(reached.len(), methods::all().len(), "a call was never made: more calls are needed");
    println!("seed {seed}: {answers:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_what_there_is_never_break_the_node_and_all_of_it_can_be_deleted() {
    let mut cluster = Cluster::start_with(|options| options.set("log.filter", "error")).await;
    let free = free_bytes(&cluster).await;
    let replica = create_replica(&cluster.nodes[0], REPLICA, SIZE).await;
    cluster.engine("vol", SIZE, "spdk-tcp-nvmf", [(REPLICA.into(), replica)].into()).await;
    let seed = Random::from_clock().next();
    storm(&cluster, seed, CALLS_ON_WHAT_THERE_IS, Vocabulary::Known).await;
    state::delete_everything(&cluster).await;
    assert_eq!(free_bytes(&cluster).await, free, "seed {seed}: something is left on the disk");
    cluster.nodes[0].stop().await;
}
