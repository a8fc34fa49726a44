//! A volume over several nodes, a client at work, and what must be true of both after an expansion.

use std::net::SocketAddr;

use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, ReplicaName};
use corriente::wire::spdkrpc as wire;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::cluster::{Cluster, LIMIT, NVMF, SIZE};
use crate::support::client::Client;
use crate::support::node::NodeOptions;
use crate::support::wait::wait_until;

pub const ENGINE: &str = "v1-e-0";

/// A volume with a replica on each node; the engine is on the first.
pub struct Lab {
    pub cluster: Cluster,
    pub engine: wire::Engine,
}

impl Lab {
    pub async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, |options| options).await
    }

    pub async fn start_with(nodes: usize, change: impl Fn(NodeOptions) -> NodeOptions) -> Self {
        let cluster = Cluster::start_with(nodes, |options| change(options.faulty())).await;
        let engine = cluster.volume("v1", NVMF).await;
        Self { cluster, engine }
    }

    pub async fn expand(&self, size: u64) -> Result<(), Status> {
        let request = wire::EngineExpandRequest { name: ENGINE.into(), size };
        self.cluster.nodes[0].spdk().engine_expand(request).await.map(drop)
    }

    pub async fn precheck(&self, size: u64) -> Result<bool, Status> {
        let request = wire::EngineExpandPrecheckRequest { name: ENGINE.into(), size };
        let answer = self.cluster.nodes[0].spdk().engine_expand_precheck(request).await?;
        Ok(answer.into_inner().expansion_required)
    }

    pub async fn get(&self) -> wire::Engine {
        self.cluster.engine_get(0, ENGINE).await.expect("the engine is there")
    }

    /// The engine, once it runs with these replicas in sync and all others out.
    pub async fn runs_with(&self, in_sync: &[usize]) -> wire::Engine {
        let wanted: Vec<_> = in_sync.iter().map(|node| replica(*node)).collect();
        wait_until(LIMIT, &format!("{wanted:?} are in sync"), async || {
            let engine = self.cluster.engine_get(0, ENGINE).await.map_err(|status| status.to_string())?;
            let modes = engine.replica_mode_map.iter();
            let rw = modes.filter(|(_, mode)| **mode == wire::ReplicaMode::Rw as i32);
            let mut found: Vec<_> = rw.map(|(name, _)| name.clone()).collect();
            found.sort();
            if engine.state == "running" && found == wanted {
                Ok(engine)
            } else {
                Err(format!("{}: {found:?}: {}", engine.state, engine.error_msg))
            }
        })
        .await
    }

    /// A client of the volume.
    pub async fn client(&self) -> Client {
        Client::of(&self.get().await, self.engine.spec_size).await
    }

    /// The replicas of these nodes are the same, and hold what the client has written.
    pub async fn mirrored(&self, client: &Client, nodes: &[usize]) {
        let expected = client.image();
        for node in nodes {
            let address = &self.engine.replica_address_map[&replica(*node)];
            let found = read_replica(&replica(*node), address).await;
            assert_eq!(found.len(), expected.len(), "{} has another size than the volume", replica(*node));
            let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
            assert_eq!(differs, None, "{} differs from what was acknowledged at that byte", replica(*node));
        }
    }

    /// The bytes that a replica has, as its own node tells.
    pub async fn replica_size(&self, node: usize) -> u64 {
        let request = wire::ReplicaGetRequest { name: replica(node) };
        let found = self.cluster.nodes[node].spdk().replica_get(request).await.expect("the replica is there");
        found.into_inner().spec_size
    }
}

pub fn replica(node: usize) -> String {
    format!("v1-r-0000000{node}")
}

async fn read_replica(name: &str, address: &str) -> Vec<u8> {
    let address: SocketAddr = address.parse().expect("an address");
    let nqn = Nqn::replica(&ReplicaName::parse(name).expect("a replica name"));
    let initiator = Initiator::connect(address, &nqn, &Nqn::internal_host(), Options::default()).await;
    let initiator = initiator.expect("the replica answers");
    let mut image = vec![0; initiator.namespace().size_bytes() as usize];
    initiator.read(0, &mut image).await.expect("the replica can be read");
    initiator.disconnect().await.expect("an orderly end");
    image
}

/// A client that works until it is told to stop. Any error of an I/O, and any loss of its connection, fails the test.
pub struct Work {
    stop: watch::Sender<bool>,
    task: JoinHandle<Client>,
}

impl Work {
    pub fn begin(mut client: Client) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            while !*stopped.borrow() {
                client.work().await;
            }
            client
        });
        Self { stop, task }
    }

    pub async fn end(self) -> Client {
        self.stop.send_replace(true);
        self.task.await.expect("no I/O failed")
    }
}

/// The volume has the size for this client, on the connection it has had all the time; it works in the new range too.
pub async fn works_in(client: &mut Client, size: u64) {
    let seen = client.initiator().refresh_namespace().await.expect("the connection goes on");
    assert_eq!((seen.size_bytes(), size > SIZE), (size, true));
    client.resize(size);
    for _ in 0..4 {
        client.work().await;
    }
    client.check(usize::MAX).await;
}
