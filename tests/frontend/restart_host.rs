//! A host that is connected when the node of its volume is killed, and that tries again as a kernel would: it goes on with
//! its data, at the same place, by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use corriente::initiator::{Initiator, Options};
use corriente::name::Nqn;
use tokio::sync::watch;

use crate::cluster::{Cluster, LIMIT, NVMF, SIZE, host, request};
use crate::support::random::Random;
use crate::support::wait::wait_until;

const PIECE: u64 = 64 << 10;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);

/// A host that writes piece after piece, each until it is acknowledged.
struct Host {
    address: std::net::SocketAddr,
    nqn: Nqn,
    acknowledged: Arc<AtomicU64>,
    stop: watch::Receiver<bool>,
}

impl Host {
    async fn connect(&self) -> Initiator {
        loop {
            match Initiator::connect(self.address, &self.nqn, &host(), Options::default()).await {
                Ok(initiator) => return initiator,
                Err(_) if !*self.stop.borrow() => tokio::time::sleep(RETRY).await,
                Err(error) => panic!("the volume did not come back: {error}"),
            }
        }
    }

    /// Works until it is told to stop, then reads back all that was acknowledged.
    async fn work(self, mut random: Random) -> Initiator {
        let mut expected = BTreeMap::new();
        let mut volume = self.connect().await;
        while !*self.stop.borrow() {
            let (offset, data) = (random.below(SIZE / PIECE) * PIECE, random.bytes(PIECE as usize));
            // One that was not acknowledged may be there or not; it is written again, as a kernel would do.
            while let Err(error) = volume.write(offset, &data).await {
                println!("the connection is lost: {error}");
                volume = self.connect().await;
            }
            expected.insert(offset, data);
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        for (offset, data) in &expected {
            let mut found = vec![0; data.len()];
            volume.read(*offset, &mut found).await.expect("a read");
            assert!(found == *data, "the bytes at {offset} are not those that were acknowledged");
        }
        volume
    }
}

async fn more_than(acknowledged: &AtomicU64, count: u64) -> u64 {
    wait_until(LIMIT, "the host's writes are acknowledged", async || {
        let now = acknowledged.load(Ordering::Relaxed);
        if now > count { Ok(now) } else { Err(format!("{now} so far")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_host_that_tries_again_goes_on_with_its_data_when_the_node_was_killed() {
    let mut cluster = Cluster::start(2).await;
    cluster.volume("v1", NVMF).await;
    let frontend = cluster.frontend(0, request("v1", NVMF, "")).await;
    let (address, nqn) = frontend.endpoint.strip_prefix("nvmf://").and_then(|rest| rest.split_once('/')).expect("one");
    let identity = {
        let volume = crate::cluster::connect(&frontend.endpoint).await;
        (volume.namespace().nguid, volume.namespace().uuid)
    };
    let (stop, stopped) = watch::channel(false);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let host = Host {
        address: address.parse().expect("an address"),
        nqn: Nqn::parse(nqn).expect("an NQN"),
        acknowledged: acknowledged.clone(),
        stop: stopped,
    };
    let working = tokio::spawn(host.work(Random::from_clock()));
    for round in 0..2 {
        let before = more_than(&acknowledged, acknowledged.load(Ordering::Relaxed) + 8).await;
        cluster.nodes[0].kill9();
        let since = Instant::now();
        cluster.nodes[0].start_again().await;
        // One write may have been acknowledged in the node's last moment.
        more_than(&acknowledged, before + 1).await;
        println!("start {round}: the connected host goes on {:?} after it", since.elapsed());
    }
    more_than(&acknowledged, acknowledged.load(Ordering::Relaxed) + 8).await;
    stop.send_replace(true);
    let volume = working.await.expect("all that was acknowledged is there");
    assert_eq!((volume.namespace().nguid, volume.namespace().uuid), identity);
    assert_eq!(cluster.frontend_get(0, "v1").await.expect("it is there"), frontend, "the same, on the same port");
}
