//! Bringing a controller up, in the order that the specifications prescribe, and shutting it down.
//!
//! NVMe over Fabrics 1.1, "Initialization": admin queue, Connect, enable, ready, Identify, then the I/O queues.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Options,
    command::{Command, Identify, Property, connect_data},
    connection::{Connection, Parameters},
    error::{InitiatorError, PeerName, Result},
    fate::Fate,
    fields::{le16, le32},
    identify::{ControllerIdentity, IDENTIFY_BYTES},
    inflight::Payload,
    pdu::Violation,
};

/// Entries of the admin queue; the least that a target supports (NVMe-oF, ASQSZ).
const ADMIN_ENTRIES: u16 = 32;
/// "Give me any controller", in Connect on the admin queue.
const ANY_CONTROLLER: u16 = 0xFFFF;
/// The least page size (CAP.MPSMIN) is this times a power of two.
const PAGE_UNIT_BYTES: u64 = 4096;
/// How often the status is read while the controller gets ready or shuts down.
const STATUS_POLL: Duration = Duration::from_millis(5);

/// CC and CSTS, as far as needed here.
mod register {
    /// CC: enabled, NVM command set, pages of 4 KiB, entries of 64 and 16 bytes.
    pub const ENABLE: u32 = 1 | 6 << 16 | 4 << 20;
    /// CC.SHN: normal shutdown.
    pub const SHUT_DOWN: u32 = ENABLE | 1 << 14;
    pub const STATUS_READY: u32 = 1;
    pub const STATUS_FATAL: u32 = 1 << 1;
    pub const STATUS_SHUTDOWN: u32 = 3 << 2;
    pub const STATUS_SHUTDOWN_DONE: u32 = 2 << 2;
}

/// Who connects to what.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Where the target listens.
    pub address: SocketAddr,
    /// The subsystem.
    pub nqn: String,
    /// We.
    pub host_nqn: String,
}

/// CAP, as far as needed here.
#[derive(Debug, Clone, Copy)]
struct Capabilities {
    max_entries: u32,
    smallest_page: u64,
}

/// How the controller let us in.
#[derive(Debug, Clone, Copy)]
pub struct Admitted {
    /// CNTLID: which controller we have.
    pub id: u16,
    max_entries: u32,
}

impl Admitted {
    /// Entries of an I/O queue for which `wanted` are wanted.
    pub fn entries(self, wanted: u16) -> u16 {
        u32::from(wanted).clamp(2, self.max_entries.max(2)) as u16
    }
}

/// An enabled controller and its queues.
#[derive(Debug)]
pub struct Controller {
    /// Whom it belongs to, for messages.
    pub peer: PeerName,
    /// The admin queue.
    pub admin: Connection,
    /// What it says of itself.
    pub identity: ControllerIdentity,
    /// The most data of one command, in bytes, by its limit and ours.
    pub max_transfer: u64,
    /// Shared by all queues.
    pub fate: Arc<Fate>,
    io: Vec<Connection>,
    next: AtomicUsize,
}

impl Controller {
    /// Brings up a controller with I/O queues. The caller limits the wait.
    pub async fn for_io(identity: &Identity, options: &Options) -> Result<Self> {
        let (mut controller, admitted) = Self::admin_only(identity, options).await?;
        let queues = controller.request_queues(options.io_queues.max(1)).await?;
        let entries = admitted.entries(options.queue_size);
        for queue in 1..=queues {
            let parameters = Parameters {
                address: identity.address,
                digests: options.digests,
                depth: entries - 1,
                in_capsule_bytes: controller.identity.in_capsule_bytes,
                command_timeout: options.command_timeout,
            };
            let connection = Connection::open(&parameters, &controller.peer, &controller.fate).await?;
            fabrics_connect(&connection, identity, admitted.id, Command::connect(queue, entries, 0)).await?;
            controller.io.push(connection);
        }
        Ok(controller)
    }

    /// Brings up a controller that is only asked questions: discovery.
    pub async fn for_admin(identity: &Identity, options: &Options) -> Result<Self> {
        Ok(Self::admin_only(identity, options).await?.0)
    }

    /// Brings up a controller without I/O queues, and tells how it let us in. The caller limits the wait.
    pub async fn admin_only(identity: &Identity, options: &Options) -> Result<(Self, Admitted)> {
        let peer: PeerName = format!("{} at {}", identity.nqn, identity.address).into();
        let fate = Arc::new(Fate::new());
        let parameters = Parameters {
            address: identity.address,
            digests: options.digests,
            depth: ADMIN_ENTRIES - 1,
            in_capsule_bytes: 0,
            command_timeout: options.command_timeout,
        };
        let admin = Connection::open(&parameters, &peer, &fate).await?;
        let keep_alive_ms =
            options.keep_alive_timeout.map_or(0, |timeout| timeout.as_millis().min(u32::MAX.into()) as u32);
        let connect = Command::connect(0, ADMIN_ENTRIES, keep_alive_ms);
        let id = fabrics_connect(&admin, identity, ANY_CONTROLLER, connect).await?;

        let raw = admin.submit(Command::property_get(Property::Capabilities), Payload::None).await?.result;
        let capabilities = Capabilities {
            max_entries: (raw & 0xFFFF) as u32 + 1,
            smallest_page: PAGE_UNIT_BYTES << (raw >> 48 & 0xF),
        };
        enable(&admin, &peer).await?;
        let page = identify(&admin, &peer, Identify::Controller, 0).await?;
        let about = ControllerIdentity::parse(&page);
        let max_transfer = transfer_limit(about.transfer_exponent, capabilities, options.max_transfer_bytes);
        let controller =
            Self { peer, admin, identity: about, max_transfer, fate, io: Vec::new(), next: AtomicUsize::new(0) };
        Ok((controller, Admitted { id, max_entries: capabilities.max_entries }))
    }

    /// Asks for I/O queues; grants may be fewer, never none.
    pub async fn request_queues(&self, wanted: u16) -> Result<u16> {
        const NUMBER_OF_QUEUES: u8 = 0x07;
        let zero_based = u32::from(wanted - 1);
        let command = Command::set_features(NUMBER_OF_QUEUES, zero_based << 16 | zero_based);
        let granted = self.admin.submit(command, Payload::None).await?.result as u32;
        let granted = (granted & 0xFFFF).min(granted >> 16) + 1;
        Ok(granted.min(wanted.into()) as u16)
    }

    /// The I/O queue whose turn it is.
    pub fn queue(&self) -> &Connection {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.io[turn % self.io.len()]
    }

    /// Identify.
    pub async fn identify(&self, what: Identify, nsid: u32) -> Result<Box<[u8; IDENTIFY_BYTES]>> {
        identify(&self.admin, &self.peer, what, nsid).await
    }

    /// Shuts the controller down in an orderly manner and closes its queues. The caller limits the wait.
    pub async fn shut_down(&self) -> Result<()> {
        // A target may close them as soon as it hears of the shutdown, which would look like its loss.
        for queue in &self.io {
            queue.leave().await;
        }
        let shut_down = Command::property_set(Property::Configuration, register::SHUT_DOWN);
        self.admin.submit(shut_down, Payload::None).await?;
        while read_status(&self.admin).await? & register::STATUS_SHUTDOWN != register::STATUS_SHUTDOWN_DONE {
            tokio::time::sleep(STATUS_POLL).await;
        }
        Ok(())
    }

    /// Ends all queues and waits until their sockets are closed.
    pub async fn close(&self) {
        self.fate.end(InitiatorError::Disconnected { peer: self.peer.clone() });
        for queue in std::iter::once(&self.admin).chain(&self.io) {
            queue.closed().await;
        }
    }
}

/// Connects a queue to the controller `id` and gives the controller's number.
async fn fabrics_connect(queue: &Connection, identity: &Identity, id: u16, command: Command) -> Result<u16> {
    /// AUTHREQ: bits that ask for authentication.
    const AUTHENTICATION_REQUIRED: u64 = 3 << 16;
    let data = Payload::Out(Bytes::from(admission(identity, id)));
    let answer = queue.submit(command, data).await.map_err(|error| match error {
        InitiatorError::Status { peer, status, .. } => {
            InitiatorError::Refused { peer, problem: format!("host {}: {status}", identity.host_nqn) }
        }
        other => other,
    })?;
    if answer.result & AUTHENTICATION_REQUIRED != 0 {
        let problem = "it asks for in-band authentication, which is not supported".into();
        let peer = format!("{} at {}", identity.nqn, identity.address).into();
        return Err(InitiatorError::Unsupported { peer, problem });
    }
    Ok(le16(&answer.result.to_le_bytes(), 0))
}

/// The data of a Connect to the controller `id`.
pub fn admission(identity: &Identity, id: u16) -> Vec<u8> {
    // The host identifier must be the same whenever this host connects, so it derives from the host's name.
    let host_id = Uuid::new_v5(&Uuid::NAMESPACE_OID, identity.host_nqn.as_bytes());
    connect_data(host_id.into_bytes(), id, &identity.nqn, &identity.host_nqn)
}

async fn enable(admin: &Connection, peer: &PeerName) -> Result<()> {
    admin.submit(Command::property_set(Property::Configuration, register::ENABLE), Payload::None).await?;
    loop {
        let status = read_status(admin).await?;
        if status & register::STATUS_FATAL != 0 {
            let problem = "its controller has the fatal status (CSTS.CFS) after being enabled".into();
            return Err(InitiatorError::Unsupported { peer: peer.clone(), problem });
        }
        if status & register::STATUS_READY != 0 {
            return Ok(());
        }
        tokio::time::sleep(STATUS_POLL).await;
    }
}

async fn read_status(admin: &Connection) -> Result<u32> {
    let answer = admin.submit(Command::property_get(Property::Status), Payload::None).await?;
    Ok(le32(&answer.result.to_le_bytes(), 0))
}

async fn identify(admin: &Connection, peer: &PeerName, what: Identify, nsid: u32) -> Result<Box<[u8; IDENTIFY_BYTES]>> {
    let answer = admin.submit(Command::identify(what, nsid), Payload::In(IDENTIFY_BYTES)).await?;
    let length = answer.data.len();
    answer.data.try_into().map_err(|_| {
        InitiatorError::protocol(peer, Violation::new("Identify", "data", format!("{length} bytes of data")))
    })
}

/// The least of the controller's limit (MDTS, zero for none) and ours; at least a page.
fn transfer_limit(exponent: u8, capabilities: Capabilities, ours: u64) -> u64 {
    let theirs = match exponent {
        0 => u64::MAX,
        exponent => capabilities.smallest_page.saturating_mul(1 << exponent.min(32)),
    };
    // One command transfers at most 4 GiB - 1, the SGL's length field.
    theirs.min(ours).clamp(PAGE_UNIT_BYTES, 1 << 31)
}
