//! The NVMe/TCP host of the reactors: namespaces of other nodes as bdevs of ours. It is what a mirror reaches remote replicas
//! through, and what copies between nodes read and write.
//!
//! Why not SPDK's own: its 20.07 connects, resets and detaches by waiting on the thread that calls, which is also the thread
//! that serves other nodes' connections. Two nodes that connect to each other at once then wait for each other for ever, and
//! one frozen peer stops every volume of a reactor. Here a reactor never waits:
//!
//! - [`attach`] brings the controller up on tokio, with [`crate::initiator`]'s admin side, which also keeps it alive.
//! - `device`: the bdev. Each thread that opens a channel gets a queue with a connection of its own, connected on tokio.
//! - `link`: what the threads share. When one connection fails, all I/O of the device fails at once, and goes on failing until it
//!   is detached; who uses it (a mirror) has other members. There is no reconnecting here.
//! - [`queue`]: the commands of one connection, polled by its reactor. No I/O on its own, no SPDK.

mod device;
mod link;
pub mod queue;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use self::device::RemoteDevice;
use self::link::Link;
use self::queue::Settings;
use crate::error::{Error, Result};
use crate::initiator::{Association, InitiatorError, NamespaceInfo, Options};
use crate::name::BdevName;
use crate::spdk::base;
use crate::spdk::bdev::Geometry;
use crate::spdk::nvme::{self, AttachFault, Peer, TcpTarget};
use crate::spdk::vdev::VdevHandle;
use crate::spdk::{Control, OnControl, SpdkError};

/// I/O queues that are asked for: one for each thread that uses a volume, and some whose end the target has not noticed yet.
const IO_QUEUES: u16 = 32;
/// After this long without a sign of us the target gives us up (KATO). As Longhorn's (`engine-behaviour` §1.1).
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long an admin command may take. Past it the controller counts as lost.
const ADMIN_LIMIT: Duration = Duration::from_secs(10);
/// How long a target may take to answer that we go. Nothing is lost when it does not.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// An attached controller; its device is registered.
struct Attached {
    device: VdevHandle<RemoteDevice>,
    link: Arc<Link>,
    nsid: u32,
}

thread_local! {
    /// The attached controllers, by name. Only the control thread has any.
    static ATTACHED: RefCell<HashMap<BdevName, Attached>> = RefCell::new(HashMap::new());
    /// Those that go and are still open somewhere; each watch ends with its device.
    static LEAVING: RefCell<HashMap<BdevName, watch::Receiver<()>>> = RefCell::new(HashMap::new());
}

/// Attaches the one namespace of a target as controller `controller`, within `limit`; returns the name of its bdev, which is
/// there. `fault` spoils the answer, for tests. After an error nothing of it is left, and it can be repeated.
pub async fn attach(
    control: &Control,
    controller: &BdevName,
    target: &TcpTarget,
    fault: Option<AttachFault>,
    limit: Duration,
) -> Result<BdevName> {
    gone(control, controller, limit).await?;
    let options = Options {
        connect_timeout: limit,
        command_timeout: ADMIN_LIMIT,
        keep_alive_timeout: Some(KEEP_ALIVE),
        io_queues: IO_QUEUES,
        ..Options::default()
    };
    let association = Association::connect(target.address.socket(), &target.subsystem, &target.host, &options).await?;
    let association = Arc::new(association);
    let attached = match bring_up(&association, limit).await {
        Ok((namespace, link)) => register(control, controller, namespace, link, fault).await,
        Err(error) => Err(error),
    };
    if attached.is_err() {
        association.disconnect(GOODBYE_LIMIT).await;
    }
    attached
}

/// The target's one namespace, and a link with a queue that is connected.
async fn bring_up(association: &Arc<Association>, limit: Duration) -> Result<(NamespaceInfo, Arc<Link>)> {
    let found = async {
        let namespaces = association.namespaces().await?;
        let &[nsid] = namespaces.as_slice() else {
            let problem = format!("attach: it has {} namespaces for us where there can be only one", namespaces.len());
            return Err(Error::peer(association.peer(), problem));
        };
        let namespace = association.describe(nsid).await?;
        let first = association.open_queue().await?;
        Ok((namespace, Link::new(association.clone(), first)))
    };
    let late = || Error::Timeout { what: format!("attaching {}", association.peer()), limit };
    tokio::time::timeout(limit, found).await.unwrap_or_else(|_| Err(late()))
}

/// Registers the device, and confirms that it is there under its name.
async fn register(
    control: &Control,
    controller: &BdevName,
    namespace: NamespaceInfo,
    link: Arc<Link>,
    fault: Option<AttachFault>,
) -> Result<BdevName> {
    let name = BdevName::parse(&format!("{controller}n{}", namespace.nsid))
        .map_err(|error| Error::internal(format!("controller {controller}"), error.to_string()))?;
    let key = controller.clone();
    let registered = control.run(move |on| async move {
        // Another attach may have been quicker.
        require_free(&key)?;
        let settings = Settings {
            nsid: namespace.nsid,
            block_bytes: namespace.block_size,
            limits: link.association().queue_limits(),
        };
        let geometry = Geometry { block_size: namespace.block_size, block_count: namespace.block_count };
        // Not the namespace's own: on its node, that one's bdev has it.
        let uuid = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_str().as_bytes());
        let device = Arc::new(RemoteDevice::new(link.clone(), settings));
        let device = VdevHandle::create(on, &name, uuid, geometry, device)?;
        let answered = vec![device.registered_name()];
        ATTACHED.with_borrow_mut(|all| {
            let before = all.insert(key.clone(), Attached { device, link, nsid: namespace.nsid });
            assert!(before.is_none(), "it was free, and nothing has waited since");
        });
        match nvme::confirm(on, &key, answered, fault) {
            Ok(name) => Ok(name),
            Err(error) => {
                take_away(on, &key).await?;
                Err(error)
            }
        }
    });
    registered.await.map_err(|error: SpdkError| error.into())
}

/// Takes a controller and its bdev away. I/O that is still in flight fails at once. Who has the bdev open gets an event, and must
/// close it within `limit`. That there is no such controller is no error.
pub async fn detach(control: &Control, controller: &BdevName, peer: Peer, limit: Duration) -> Result<()> {
    let key = controller.clone();
    let late = || Error::Timeout { what: format!("detaching controller {controller}"), limit };
    let detached = control.run(move |on| async move { take_away(on, &key).await });
    let detached: std::result::Result<_, SpdkError> =
        tokio::time::timeout(limit, detached).await.map_err(|_| late())?;
    if let Some(link) = detached? {
        let association = link.association();
        if peer == Peer::Lost {
            association.end(InitiatorError::Disconnected { peer: link.peer() });
        }
        association.disconnect(GOODBYE_LIMIT).await;
    }
    Ok(())
}

/// Ends the I/O of a controller and unregisters its device; waits until the device is closed everywhere. One that is going already
/// is waited for. The link is given to who took it away.
async fn take_away(_on: OnControl, controller: &BdevName) -> std::result::Result<Option<Arc<Link>>, SpdkError> {
    let Some(Attached { device, link, .. }) = ATTACHED.with_borrow_mut(|all| all.remove(controller)) else {
        let leaving = LEAVING.with_borrow(|leaving| leaving.get(controller).cloned());
        if let Some(mut leaving) = leaving {
            // An error is its end.
            while leaving.changed().await.is_ok() {}
        }
        return Ok(None);
    };
    link.take_down();
    let (going, leaving) = watch::channel(());
    LEAVING.with_borrow_mut(|all| all.insert(controller.clone(), leaving));
    let failed = device.for_each_channel(device::Channel::fail).await;
    let destroyed = device.destroy().await;
    LEAVING.with_borrow_mut(|all| all.remove(controller));
    drop(going);
    failed.and(destroyed)?;
    Ok(Some(link))
}

/// Waits until the last controller of this name has gone; one that stays is an error.
async fn gone(control: &Control, controller: &BdevName, limit: Duration) -> Result<()> {
    let key = controller.clone();
    let looked = control.run(move |_| async move {
        require_free(&key)?;
        Ok::<_, SpdkError>(LEAVING.with_borrow(|all| all.get(&key).cloned()))
    });
    let Some(mut leaving) = looked.await? else { return Ok(()) };
    let over = async { while leaving.changed().await.is_ok() {} };
    let late = |_| Error::Timeout { what: format!("the end of the last controller {controller}"), limit };
    tokio::time::timeout(limit, over).await.map_err(late)
}

fn require_free(controller: &BdevName) -> std::result::Result<(), SpdkError> {
    if ATTACHED.with_borrow(|all| all.contains_key(controller)) {
        let problem = "it is attached already; detach it first";
        return Err(SpdkError::refused(format!("NVMe controller {controller}"), problem));
    }
    Ok(())
}

/// Whether there is a controller of this name.
pub fn is_attached(_on: OnControl, controller: &BdevName) -> bool {
    ATTACHED.with_borrow(|all| all.contains_key(controller))
}

/// Asks the target how large its namespace is now, within `limit`, and gives the bdev that size if it has grown. Returns the bdev's
/// size.
pub async fn read_size(control: &Control, controller: &BdevName, limit: Duration) -> Result<Geometry> {
    let key = controller.clone();
    let found = control.run(move |_| async move {
        ATTACHED
            .with_borrow(|all| all.get(&key).map(|attached| (attached.link.clone(), attached.nsid)))
            .ok_or_else(|| SpdkError::no_such("NVMe controller", &key))
    });
    let (link, nsid) = found.await?;
    let asked = tokio::time::timeout(limit, link.association().describe(nsid)).await;
    let late = |_| Error::Timeout { what: format!("reading the size of {}", link.association().peer()), limit };
    let namespace = asked.map_err(late)??;
    let key = controller.clone();
    let resized = control.run(move |on| async move {
        ATTACHED.with_borrow(|all| {
            let Some(attached) = all.get(&key) else { return Err(SpdkError::no_such("NVMe controller", &key)) };
            let mut geometry = base::info(on, attached.device.name())?.geometry;
            if namespace.block_count > geometry.block_count {
                attached.device.resize(namespace.block_count)?;
                geometry.block_count = namespace.block_count;
            }
            Ok(geometry)
        })
    });
    Ok(resized.await?)
}
