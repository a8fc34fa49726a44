//! Other nodes of the cluster: one connection each, shared by all that call them, and the limits of calls.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::Channel;

use crate::name::{HostPort, ReplicaAddress};
use crate::tls::{self, Credentials};
use crate::wire::status::from_peer;
use crate::{Error, Result};

/// Limits of calls to peers.
#[derive(Debug, Clone, Copy)]
pub struct PeerLimits {
    /// Reaching the node.
    pub connect: Duration,
    /// One call.
    pub call: Duration,
}

/// Connections to other nodes. Cheap to clone; all clones share them.
#[derive(Debug, Clone)]
pub struct Peers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    port: u16,
    limits: PeerLimits,
    credentials: Option<Credentials>,
    channels: Mutex<HashMap<HostPort, Channel>>,
}

/// One other node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peer {
    node: HostPort,
    channel: Channel,
    limit: Duration,
}

impl Peers {
    /// `port` is where every node's gRPC answers; with credentials they are spoken to by TLS.
    pub fn new(port: u16, limits: PeerLimits, credentials: Option<Credentials>) -> Self {
        Self(Arc::new(Shared { port, limits, credentials, channels: Mutex::default() }))
    }

    /// The node that exports a replica at this address. Connects on first use, and again after a failure.
    pub fn node_of(&self, replica: ReplicaAddress) -> Result<Peer> {
        self.node_at("replica_address", replica.ip())
    }

    /// The node with this data address, which `field` of a request names.
    pub fn node_at(&self, field: &'static str, ip: IpAddr) -> Result<Peer> {
        self.node(HostPort::new(ip, self.0.port).map_err(|error| Error::name(field, error))?)
    }

    /// The node whose gRPC answers there.
    pub fn node(&self, node: HostPort) -> Result<Peer> {
        let Shared { limits, credentials, channels, .. } = &*self.0;
        // No code between two changes of the map can panic.
        let mut channels = channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&node) {
            return Ok(Peer { node, channel: channel.clone(), limit: limits.call });
        }
        let endpoint = tls::endpoint(&node.to_string(), credentials.as_ref())
            .map_err(|error| Error::internal("peer address", error.to_string()))?
            .connect_timeout(limits.connect)
            .http2_keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(10));
        let channel = endpoint.connect_lazy();
        channels.insert(node, channel.clone());
        Ok(Peer { node, channel, limit: limits.call })
    }
}

impl Peer {
    /// As errors name it.
    pub fn title(&self) -> String {
        format!("node {}", self.node)
    }

    /// The limit of a call.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// For a generated client.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits for the answer to a call about a replica of that node, within the limit. `what` is for messages.
    pub async fn answer<T>(
        &self,
        what: &str,
        replica: &crate::name::ReplicaName,
        call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        self.answer_about(what, ("replica", replica.as_str()), call).await
    }

    /// The same for a call about anything, told by its kind and name.
    pub async fn answer_about<T>(
        &self,
        what: &str,
        object: (&'static str, &str),
        call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.limit, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(from_peer(&self.title(), object, &status)),
            Err(_) => Err(Error::Timeout {
                what: format!("{what} of {} {} on {}", object.0, object.1, self.title()),
                limit: self.limit,
            }),
        }
    }
}
