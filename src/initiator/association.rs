//! A controller of which only the admin queue lives here, on tokio. Its I/O queues are handed out as connected sockets, for
//! who serves them elsewhere: the reactors ([`crate::nvme_host`]).

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    Options,
    background::Background,
    command::Command,
    controller::{Admitted, Controller, Identity},
    error::{InitiatorError, Result},
    handshake::Agreed,
    identify::NamespaceInfo,
    namespace, queue_socket, within,
};
use crate::name::Nqn;

/// What the target lets the commands of an I/O queue be.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Commands in flight on one queue.
    pub depth: u16,
    /// Data of one command, in bytes.
    pub transfer_bytes: u64,
    /// Data in a command's capsule, in bytes.
    pub in_capsule_bytes: usize,
    /// Dataset Management is supported.
    pub deallocates: bool,
    /// Write Zeroes is supported.
    pub writes_zeroes: bool,
}

/// A connected I/O queue: commands can be sent. Dropping it closes the connection, and its number can be used again.
#[derive(Debug)]
pub struct QueueSocket {
    /// The socket; it does not block.
    pub stream: TcpStream,
    /// What both sides agreed on.
    pub agreed: Agreed,
    _number: Number,
}

/// A queue's number, returned when the queue is gone.
#[derive(Debug)]
struct Number {
    value: u16,
    free: Arc<Mutex<VecDeque<u16>>>,
}

impl Drop for Number {
    fn drop(&mut self) {
        // To the end: the target may take a while to notice that the last queue of this number is gone.
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.value);
    }
}

/// The admin side of a controller; it keeps the controller alive. Dropping it closes the admin connection, and the target then
/// ends the queues.
#[derive(Debug)]
pub struct Association {
    controller: Arc<Controller>,
    _background: Background,
    identity: Identity,
    admitted: Admitted,
    entries: u16,
    free: Arc<Mutex<VecDeque<u16>>>,
    limit: Duration,
}

impl Association {
    /// Brings up the controller of subsystem `nqn` at `address` for at most `options.io_queues` I/O queues.
    pub async fn connect(address: SocketAddr, nqn: &Nqn, host_nqn: &Nqn, options: &Options) -> Result<Self> {
        let identity = Identity { address, nqn: nqn.to_string(), host_nqn: host_nqn.to_string() };
        within(&identity, "connection", options.connect_timeout, Self::bring_up(&identity, options)).await
    }

    async fn bring_up(identity: &Identity, options: &Options) -> Result<Self> {
        let (controller, admitted) = Controller::admin_only(identity, options).await?;
        let queues = controller.request_queues(options.io_queues.max(1)).await?;
        let controller = Arc::new(controller);
        Ok(Self {
            _background: Background::start(&controller, options.keep_alive_timeout),
            controller,
            identity: identity.clone(),
            admitted,
            entries: admitted.entries(options.queue_size),
            free: Arc::new(Mutex::new((1..=queues).collect())),
            limit: options.connect_timeout,
        })
    }

    /// What the target lets a queue's commands be.
    pub fn queue_limits(&self) -> QueueLimits {
        let about = &self.controller.identity;
        QueueLimits {
            depth: self.entries - 1,
            transfer_bytes: self.controller.max_transfer,
            in_capsule_bytes: about.in_capsule_bytes,
            deallocates: about.deallocates,
            writes_zeroes: about.writes_zeroes,
        }
    }

    /// The active namespaces, ascending.
    pub async fn namespaces(&self) -> Result<Vec<u32>> {
        namespace::active(&self.controller).await
    }

    /// A namespace's state now.
    pub async fn describe(&self, nsid: u32) -> Result<NamespaceInfo> {
        namespace::describe(&self.controller, nsid).await
    }

    /// Connects one more I/O queue, within the time that the association itself had.
    pub async fn open_queue(&self) -> Result<QueueSocket> {
        within(&self.identity, "connection of an I/O queue", self.limit, self.connect_queue()).await
    }

    async fn connect_queue(&self) -> Result<QueueSocket> {
        let taken = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(value) = taken else {
            let problem = "all I/O queues that it grants are in use".into();
            return Err(InitiatorError::Unsupported { peer: self.controller.peer.clone(), problem });
        };
        let number = Number { value, free: self.free.clone() };
        let command = Command::connect(value, self.entries, 0);
        let (stream, agreed) =
            queue_socket::connect(&self.identity, &self.controller.peer, self.admitted.id, command).await?;
        Ok(QueueSocket { stream, agreed, _number: number })
    }

    /// Who it is, for messages.
    pub fn peer(&self) -> &str {
        &self.controller.peer
    }

    /// Its end, and why. Who waits for that does not keep it.
    pub fn ended(&self) -> impl Future<Output = InitiatorError> + Send + use<> {
        let fate = self.controller.fate.clone();
        async move { fate.ended().await }
    }

    /// Ends it: one of its queues has failed. Only the first reason counts.
    pub fn end(&self, reason: InitiatorError) {
        self.controller.fate.end(reason);
    }

    /// Why it ended, if it has.
    pub fn reason(&self) -> Option<InitiatorError> {
        self.controller.fate.reason()
    }

    /// Tells the target that we go, unless it is gone, and ends. Its I/O queues are to be closed before. Waits `limit` at most
    /// for the target's answer.
    pub async fn disconnect(&self, limit: Duration) {
        if self.reason().is_none()
            && !matches!(tokio::time::timeout(limit, self.controller.shut_down()).await, Ok(Ok(())))
        {
            tracing::debug!(peer = %self.controller.peer, "the target did not answer that we go");
        }
        self.controller.close().await;
    }
}
