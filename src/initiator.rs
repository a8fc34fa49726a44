//! A host (initiator) for NVMe over TCP: what the command line imports, exports and checks volumes with, and what the
//! black-box tests look at a volume with. Safe Rust on tokio, no kernel driver, no SPDK.
//!
//! Read from the bottom up:
//! - [`pdu`], [`command`], [`status`], [`identify`]: what travels, as values. No I/O.
//! - [`inflight`]: the rules of a queue's commands, as a state machine. No I/O.
//! - `handshake`, `connection`: a queue's socket and the task that owns it.
//! - `controller`, `background`, `namespace`: bringing a controller up and keeping it.
//! - `transfer`, [`discovery`]: what the callers want.
//! - `association`, `queue_socket`: a controller whose I/O queues are served elsewhere, by the reactors.
//!
//! A controller lives and dies as a whole: when one of its connections fails, breaks the protocol or lets a command
//! wait for too long, all its commands fail with that reason. There is no reconnecting here; the caller connects anew.

#![forbid(unsafe_code)]

mod association;
mod background;
pub mod command;
mod connection;
mod controller;
pub mod discovery;
pub mod error;
mod fate;
mod fields;
mod handshake;
pub mod identify;
pub mod inflight;
mod namespace;
pub mod pdu;
mod queue_socket;
pub mod status;
mod transfer;

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::broadcast;

pub use self::{
    association::{Association, QueueLimits, QueueSocket},
    background::AsyncEvent,
    discovery::DiscoveryEntry,
    error::{InitiatorError, Result},
    handshake::Agreed,
    identify::NamespaceInfo,
    pdu::Digests,
    status::Status,
};
use self::{
    background::Background,
    controller::{Controller, Identity},
};
use crate::name::Nqn;

/// How to connect.
#[derive(Debug, Clone)]
pub struct Options {
    /// The limit of the whole bring-up, and of an orderly shutdown.
    pub connect_timeout: Duration,
    /// The limit of a command. Past it the controller is given up.
    pub command_timeout: Duration,
    /// KATO: after this long without a sign of us the target gives us up; none for never.
    pub keep_alive_timeout: Option<Duration>,
    /// I/O queues, each with a connection of its own; the target may grant fewer.
    pub io_queues: u16,
    /// Entries of an I/O queue; one less may be in flight. The target may allow fewer.
    pub queue_size: u16,
    /// The most data of one command, in bytes; the target may allow less.
    pub max_transfer_bytes: u64,
    /// How many commands one call of read or write has in flight at most.
    pub commands_per_call: usize,
    /// The CRC32C digests to ask for.
    pub digests: Digests,
    /// Which namespace; the first active one if none.
    pub nsid: Option<NonZeroU32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(30),
            keep_alive_timeout: Some(Duration::from_secs(15)),
            io_queues: 1,
            queue_size: 128,
            max_transfer_bytes: 1 << 20,
            commands_per_call: 32,
            digests: Digests::default(),
            nsid: None,
        }
    }
}

/// A connection to one namespace of a target. Calls may run side by side; a call that is dropped leaves its commands
/// to run to their end. Dropping it closes the connections without an orderly shutdown.
pub struct Initiator {
    controller: Arc<Controller>,
    background: Background,
    options: Options,
    namespace: Mutex<NamespaceInfo>,
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = f.debug_struct("Initiator");
        text.field("peer", &self.controller.peer).field("namespace", &self.namespace()).finish_non_exhaustive()
    }
}

impl Initiator {
    /// Connects to the subsystem `nqn` at `address` as the host `host_nqn`.
    pub async fn connect(address: SocketAddr, nqn: &Nqn, host_nqn: &Nqn, options: Options) -> Result<Self> {
        let identity = Identity { address, nqn: nqn.to_string(), host_nqn: host_nqn.to_string() };
        within(&identity, "connection", options.connect_timeout, Self::bring_up(&identity, &options)).await
    }

    async fn bring_up(identity: &Identity, options: &Options) -> Result<Self> {
        let controller = Arc::new(Controller::for_io(identity, options).await?);
        let namespace = namespace::find(&controller, options.nsid.map(NonZeroU32::get)).await?;
        let background = Background::start(&controller, options.keep_alive_timeout);
        tracing::debug!(peer = %controller.peer, ?namespace, "connected");
        Ok(Self { controller, background, options: options.clone(), namespace: Mutex::new(namespace) })
    }

    /// The namespace, as the target described it last.
    pub fn namespace(&self) -> NamespaceInfo {
        *self.namespace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the target for the namespace's state, after a resize for example.
    pub async fn refresh_namespace(&self) -> Result<NamespaceInfo> {
        let fresh = namespace::describe(&self.controller, self.namespace().nsid).await?;
        *self.namespace.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(fresh)
    }

    /// What the target tells unasked, from now on.
    pub fn events(&self) -> broadcast::Receiver<AsyncEvent> {
        self.background.events.subscribe()
    }

    /// Shuts the controller down in an orderly manner and closes its connections. After an error they are closed too.
    pub async fn disconnect(self) -> Result<()> {
        let Self { controller, background, options, .. } = self;
        drop(background);
        let limit = options.connect_timeout;
        let shut_down = tokio::time::timeout(limit, controller.shut_down()).await;
        controller.close().await;
        shut_down.unwrap_or_else(|_| {
            Err(InitiatorError::Timeout { peer: controller.peer.clone(), what: "shutdown".into(), limit })
        })
    }
}

/// The subsystems that the target at `address` offers to the host `host_nqn`.
pub async fn discover(address: SocketAddr, host_nqn: &Nqn, options: &Options) -> Result<Vec<DiscoveryEntry>> {
    let identity = Identity { address, nqn: discovery::DISCOVERY_NQN.into(), host_nqn: host_nqn.to_string() };
    // The association lasts for one question; there is no one to keep it alive.
    let options = Options { keep_alive_timeout: None, ..options.clone() };
    let ask = async {
        let controller = Controller::for_admin(&identity, &options).await?;
        let entries = discovery::read(&controller).await;
        let shut_down = controller.shut_down().await;
        controller.close().await;
        entries.and_then(|entries| shut_down.map(|()| entries))
    };
    within(&identity, "discovery", options.connect_timeout, ask).await
}

async fn within<T>(
    identity: &Identity,
    what: &str,
    limit: Duration,
    action: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(limit, action).await.unwrap_or_else(|_| {
        let peer = format!("{} at {}", identity.nqn, identity.address).into();
        Err(InitiatorError::Timeout { peer, what: what.into(), limit })
    })
}
