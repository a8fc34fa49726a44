//! One queue's TCP connection: an actor task that owns the socket, and the handle through which commands enter.
//!
//! The task runs a sender, a receiver and a watch over deadlines side by side; the first to fail ends the fate of the
//! whole controller, and with it every command in flight. Only a queue that is left in order ends alone. A command that
//! is not answered in time ends the fate too: were only the command given up, a late answer could touch its successor.

mod receive;
mod transmit;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};

use super::{
    command::{Command, Completion, Transfer},
    error::{InitiatorError, PeerName, Result},
    fate::Fate,
    handshake::{self, Agreed},
    inflight::{HostTransfer, InFlight, Payload},
    pdu::Digests,
};

/// What a connection is made with.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// Where the target listens.
    pub address: SocketAddr,
    /// The digests to ask for.
    pub digests: Digests,
    /// How many commands may be in flight.
    pub depth: u16,
    /// How much data a capsule may carry; Fabrics commands always do.
    pub in_capsule_bytes: usize,
    /// How long a command may take.
    pub command_timeout: Duration,
}

/// What a successful command brings.
#[derive(Debug)]
pub struct Answer {
    /// The completion's command specific result.
    pub result: u64,
    /// Data from the controller, as many as asked for.
    pub data: Vec<u8>,
}

/// A command's waiting caller, held in its slot. It owns the place in the queue, so that a caller who goes away does
/// not free the place before the controller has answered.
#[derive(Debug)]
struct Waiter {
    name: &'static str,
    deadline: Option<Instant>,
    reply: oneshot::Sender<Result<Answer>>,
    _place: OwnedSemaphorePermit,
}

/// What the sender puts on the wire.
#[derive(Debug)]
enum Outgoing {
    /// A command with its in-capsule data.
    Command { entry: [u8; 64], data: Bytes },
    /// Data that the controller asked for.
    Data(HostTransfer),
}

/// What the handle and the task share.
#[derive(Debug)]
struct Shared {
    peer: PeerName,
    agreed: Agreed,
    command_timeout: Duration,
    fate: Arc<Fate>,
    /// Told when this queue alone is to end.
    leaving: Notify,
    /// None once the connection has ended.
    in_flight: Mutex<Option<InFlight<Waiter>>>,
}

/// A queue of a controller. Dropping it closes the socket, once what is queued has been sent.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
    places: Arc<Semaphore>,
    in_capsule_bytes: usize,
}

impl Connection {
    /// Connects and initialises; commands can be submitted then. The caller limits the wait.
    pub async fn open(parameters: &Parameters, peer: &PeerName, fate: &Arc<Fate>) -> Result<Self> {
        let mut stream = connect(parameters.address, peer).await?;
        let agreed = handshake::initialize(&mut stream, parameters.digests, peer).await?;
        let depth = parameters.depth.max(1);
        let shared = Arc::new(Shared {
            peer: peer.clone(),
            agreed,
            command_timeout: parameters.command_timeout,
            fate: fate.clone(),
            leaving: Notify::new(),
            in_flight: Mutex::new(Some(InFlight::new(depth))),
        });
        // A command and one answer to an R2T each: more can only come from a peer that breaks the rules.
        let (outgoing, queue) = mpsc::channel(2 * usize::from(depth));
        tokio::spawn(serve(stream, shared.clone(), queue, outgoing.downgrade()));
        Ok(Self {
            shared,
            outgoing,
            places: Arc::new(Semaphore::new(depth.into())),
            in_capsule_bytes: parameters.in_capsule_bytes,
        })
    }

    /// Runs a command to its end. An error status is an error.
    pub async fn submit(&self, command: Command, payload: Payload) -> Result<Answer> {
        let deadline = Instant::now().checked_add(self.shared.command_timeout);
        self.submit_until(command, payload, deadline).await
    }

    /// Runs a command that may stay in flight for ever: an Asynchronous Event Request.
    pub async fn submit_unlimited(&self, command: Command) -> Result<Answer> {
        self.submit_until(command, Payload::None, None).await
    }

    async fn submit_until(&self, command: Command, payload: Payload, deadline: Option<Instant>) -> Result<Answer> {
        // Both waits end: commands in flight complete or reach their deadline, and then the queue is gone.
        let place = self.places.clone().acquire_owned().await.map_err(|_| self.shared.why_gone())?;
        let permit = self.outgoing.reserve().await.map_err(|_| self.shared.why_gone())?;

        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { name: command.name(), deadline, reply, _place: place };
        let (capsule, on_request, room) = self.split(&command, payload);
        let transfer = match (capsule.len(), on_request.len().max(room)) {
            (0, transported) => Transfer::Transport(transported as u32),
            (in_capsule, _) => Transfer::InCapsule(in_capsule as u32),
        };
        let command_id = self.shared.insert(waiter, on_request, room)?;
        permit.send(Outgoing::Command { entry: command.entry(command_id, transfer), data: capsule });
        answer.await.unwrap_or_else(|_| Err(self.shared.why_gone()))
    }

    /// What goes in the capsule, what on request, and how much room an answer needs.
    fn split(&self, command: &Command, payload: Payload) -> (Bytes, Bytes, usize) {
        let nothing = Bytes::new;
        match payload {
            Payload::None => (nothing(), nothing(), 0),
            Payload::In(room) => (nothing(), nothing(), room),
            Payload::Out(data) if command.is_fabrics() || data.len() <= self.in_capsule_bytes => (data, nothing(), 0),
            Payload::Out(data) => (nothing(), data, 0),
        }
    }

    /// Closes the socket; the controller's other queues go on.
    pub async fn leave(&self) {
        self.shared.leaving.notify_one();
        self.closed().await;
    }

    /// Waits until the socket is closed.
    pub async fn closed(&self) {
        self.outgoing.closed().await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<InFlight<Waiter>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_gone(&self) -> InitiatorError {
        self.fate.reason().unwrap_or_else(|| InitiatorError::Disconnected { peer: self.peer.clone() })
    }

    fn insert(&self, waiter: Waiter, out: Bytes, room: usize) -> Result<u16> {
        match self.lock().as_mut() {
            None => Err(self.why_gone()),
            Some(in_flight) => Ok(in_flight
                .insert(waiter, out, room)
                .expect("a command holds a place, and there are as many identifiers as places")),
        }
    }

    /// Answers a command's caller.
    fn reply(&self, waiter: Waiter, completion: Completion, data: Vec<u8>) {
        let answer = match completion.status.is_success() {
            true => Ok(Answer { result: completion.result, data }),
            false => {
                Err(InitiatorError::Status { peer: self.peer.clone(), command: waiter.name, status: completion.status })
            }
        };
        // A caller who went away does not want the answer.
        let _ = waiter.reply.send(answer);
    }

    /// Ends the queue: whoever waits learns why.
    fn fail(&self, error: &InitiatorError) {
        let waiters = self.lock().take().map(|mut in_flight| in_flight.drain()).unwrap_or_default();
        for waiter in waiters {
            let _ = waiter.reply.send(Err(error.clone()));
        }
    }

    /// Returns when a command has been in flight for too long.
    async fn watch_deadlines(&self) -> InitiatorError {
        let tick = (self.command_timeout / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            tokio::time::sleep(tick).await;
            let now = Instant::now();
            let late = self.lock().as_ref().and_then(|in_flight| {
                in_flight.owners().find(|waiter| waiter.deadline.is_some_and(|deadline| deadline < now)).map(|w| w.name)
            });
            if let Some(name) = late {
                let peer = self.peer.clone();
                return InitiatorError::Timeout { peer, what: name.into(), limit: self.command_timeout };
            }
        }
    }
}

/// Connects a socket. The caller limits the wait.
pub(super) async fn connect(address: SocketAddr, peer: &PeerName) -> Result<TcpStream> {
    let refused = |error: std::io::Error| InitiatorError::Refused { peer: peer.clone(), problem: error.to_string() };
    let stream = TcpStream::connect(address).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    Ok(stream)
}

/// The actor: runs until something ends the connection, then tells every waiter why.
async fn serve(
    stream: TcpStream,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Outgoing>,
    outgoing: mpsc::WeakSender<Outgoing>,
) {
    let (read, write) = stream.into_split();
    let failure = tokio::select! {
        biased;
        error = shared.fate.ended() => Some(error),
        () = shared.leaving.notified() => None,
        error = receive::run(read, &shared, &outgoing) => Some(error),
        error = transmit::run(write, &shared, queue) => Some(error),
        error = shared.watch_deadlines() => Some(error),
    };
    if let Some(error) = failure {
        shared.fate.end(error);
    }
    shared.fail(&shared.why_gone());
}
