//! A replica's head as it is served: a bdev of ours over the head's lvol, which adds what an lvol lacks.
//!
//! - A flush really flushes the disk (an lvol has none; DESIGN §5).
//! - What was trimmed reads as zeroes, whatever the disk below does, and trimming what was never written takes no space.
//! - When the replica stops, I/O fails at once, so that who has it open notices.
//! - A write that finds no space is answered so (NVMe's Capacity Exceeded), not as any other failure.
//!
//! There are two for each running replica: one that is exported, and one that an engine of this node opens (an export
//! claims its bdev). What a rebuild is written to is served alike, as fast as the rebuild's limit lets it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::watch;
use uuid::Uuid;

use super::budget::Budget;
use super::layers::held_parts;
use super::pace::Pace;
use crate::disk::FlushHandle;
use crate::faults;
use crate::name::{BdevName, LvolAlias};
use crate::spdk::bdev::{Geometry, IoChannel, IoKind, OpenBdev};
use crate::spdk::clustermap::ClusterMap;
use crate::spdk::vdev::{LegError, Vdev, VdevHandle, Vio};
use crate::spdk::{Control, Errno, OnControl, OnThread, SpdkError, lvol, lvstore, status};

/// Writes of zeroes up to this size go to the lvol as they are: looking for what is allocated would cost more.
const SMALL_ZEROES: u64 = 64 << 10;
/// The longest range zeroed by one I/O.
const ZERO_STEP: u64 = 8 << 20;

/// All I/O passes.
const OPEN: u8 = 0;
/// Tests may order writes to fail ([`crate::faults`]).
const FAULTY: u8 = 1;
/// Nothing passes any more.
const STOPPED: u8 = 2;

thread_local! {
    /// The registered devices. Only the control thread has any.
    static DEVICES: RefCell<HashMap<BdevName, VdevHandle<HeadDevice>>> = RefCell::new(HashMap::new());
    /// Those that are unregistered and still open somewhere; each watch ends with its device.
    static LEAVING: RefCell<HashMap<BdevName, watch::Receiver<()>>> = RefCell::new(HashMap::new());
}

/// The device, shared by all reactors.
pub(super) struct HeadDevice {
    lvol: Arc<OpenBdev>,
    alias: LvolAlias,
    cluster_size: u64,
    flush: FlushHandle,
    control: Control,
    runtime: tokio::runtime::Handle,
    pace: Option<PacedWrites>,
    gate: AtomicU8,
}

/// A limit of the device's writes.
struct PacedWrites {
    pace: Arc<Pace>,
    /// Set when the device stops: who waits for the limit then waits no more.
    released: watch::Sender<bool>,
}

/// What a head device is made of.
pub(super) struct HeadConfig {
    /// Its name.
    pub(super) name: BdevName,
    /// The head's lvol.
    pub(super) alias: LvolAlias,
    /// Bytes in a cluster.
    pub(super) cluster_size: u64,
    /// The disk's flushes.
    pub(super) flush: FlushHandle,
    /// The control thread.
    pub(super) control: Control,
    /// Where waits for the disk run.
    pub(super) runtime: tokio::runtime::Handle,
    /// How fast it may be written, if that is to be limited.
    pub(super) pace: Option<Arc<Pace>>,
}

/// One reactor's share.
pub(super) struct HeadChannel {
    on: OnThread,
    lvol: IoChannel,
    budget: Rc<Budget>,
}

/// The state of one I/O.
#[derive(Clone, Copy)]
pub(super) struct HeadIo {
    leg: Leg,
    /// What it has of the store's budget.
    pieces: u32,
}

/// How the one leg of an I/O ended.
#[derive(Clone, Copy)]
enum Leg {
    Open,
    Done,
    Failed(LegError),
}

/// Opens the head and registers the device over it.
pub(super) fn register(on: OnControl, config: HeadConfig) -> Result<Geometry, SpdkError> {
    let removed = config.alias.bdev();
    let lvol = OpenBdev::open(on, &config.alias.bdev(), true, move |event| {
        tracing::debug!(lvol = %removed, ?event, "a head's lvol has changed");
    })?;
    let geometry = lvol.geometry();
    let device = HeadDevice {
        lvol,
        alias: config.alias,
        cluster_size: config.cluster_size,
        flush: config.flush,
        control: config.control,
        runtime: config.runtime,
        pace: config.pace.map(|pace| PacedWrites { pace, released: watch::Sender::new(false) }),
        gate: AtomicU8::new(if faults::are_on() { FAULTY } else { OPEN }),
    };
    let uuid = Uuid::new_v5(&Uuid::NAMESPACE_OID, config.name.as_str().as_bytes());
    let handle = VdevHandle::create(on, &config.name, uuid, geometry, Arc::new(device))?;
    DEVICES.with_borrow_mut(|devices| devices.insert(config.name, handle));
    Ok(geometry)
}

/// Gives the device the size that its lvol has now.
pub(super) fn resize(on: OnControl, name: &BdevName) -> Result<(), SpdkError> {
    DEVICES.with_borrow(|devices| match devices.get(name) {
        Some(handle) => handle.resize(handle.device().lvol.current_geometry(on.thread()).block_count),
        None => Err(SpdkError::NoSuchBdev(name.clone())),
    })
}

/// Fails all I/O from now on, and unregisters the device when who has it open has closed it. One that is waited for already is
/// waited for again; that there is none is no error.
pub(super) async fn unregister(_on: OnControl, name: &BdevName) -> Result<(), SpdkError> {
    let Some(handle) = DEVICES.with_borrow_mut(|devices| devices.remove(name)) else {
        let leaving = LEAVING.with_borrow(|leaving| leaving.get(name).cloned());
        if let Some(mut leaving) = leaving {
            // An error is its end.
            while leaving.changed().await.is_ok() {}
        }
        return Ok(());
    };
    handle.device().gate.store(STOPPED, Ordering::Release);
    if let Some(paced) = &handle.device().pace {
        paced.released.send_replace(true);
    }
    let (gone, leaving) = watch::channel(());
    LEAVING.with_borrow_mut(|devices| devices.insert(name.clone(), leaving));
    let destroyed = handle.destroy().await;
    LEAVING.with_borrow_mut(|devices| devices.remove(name));
    drop(gone);
    destroyed
}

impl HeadDevice {
    /// Serves the I/O by work that is no I/O on the lvol; true is success.
    fn by_promise(&self, channel: &HeadChannel, io: Vio<Self>, start: impl FnOnce(crate::spdk::control::Reply<bool>)) {
        let mut fork = io.fork();
        let pledge = fork.pledge(0);
        start(channel.on.expect(move |done: Option<bool>| {
            pledge.redeem(if done == Some(true) { Ok(()) } else { Err(LegError::Refused(Errno::EIO)) });
        }));
        fork.finish();
    }

    /// Sends a write to the lvol when the limit lets it.
    fn write_in_pace(&self, paced: &PacedWrites, channel: &HeadChannel, mut io: Vio<Self>, size: u64) {
        let (pace, mut released) = (paced.pace.clone(), paced.released.subscribe());
        let (budget, lvol) = (channel.budget.clone(), channel.lvol.clone());
        let reply = channel.on.expect(move |admitted: Option<bool>| match admitted {
            Some(true) => {
                let pieces = Budget::pieces(size);
                io.state().pieces = pieces;
                budget.send(pieces, &lvol, io);
            }
            _ => io.fail(),
        });
        self.runtime.spawn(async move {
            let admitted = tokio::select! {
                () = pace.admit(size) => true,
                _ = released.wait_for(|released| *released) => false,
            };
            reply.send(admitted);
        });
    }

    /// Answers a change that failed when it is known whether that was for want of space.
    #[cold]
    fn explain(&self, channel: &HeadChannel, io: Vio<Self>, error: LegError) {
        let bytes = u64::from(self.lvol.geometry().block_size);
        let end = io.offset_blocks() + io.block_count().max(1);
        let clusters = io.offset_blocks() * bytes / self.cluster_size..=(end * bytes - 1) / self.cluster_size;
        let reply = channel.on.expect(move |full: Option<bool>| {
            status::fail_with(io, if full == Some(true) { status::CAPACITY_EXCEEDED } else { error });
        });
        let (control, alias) = (self.control.clone(), self.alias.clone());
        self.runtime.spawn(async move {
            // What cannot be looked at stays as it was told.
            let full = control.run(move |on| async move { is_out_of_space(on, &alias, clusters) }).await;
            reply.send(full.unwrap_or(false));
        });
    }

    fn zero(&self, channel: &HeadChannel, io: Vio<Self>) {
        let block_size = u64::from(self.lvol.geometry().block_size);
        let (offset, length) = (io.offset_blocks() * block_size, io.block_count() * block_size);
        let (lvol, alias, cluster_size) = (self.lvol.clone(), self.alias.clone(), self.cluster_size);
        let control = self.control.clone();
        self.by_promise(channel, io, |reply| {
            self.runtime.spawn(async move {
                let zeroed = control.run(move |on| zero_held(on, lvol, alias, cluster_size, offset, length)).await;
                if let Err(error) = &zeroed {
                    tracing::error!(%error, offset, length, "a trimmed range could not be zeroed");
                }
                reply.send(zeroed.is_ok());
            });
        });
    }
}

/// Whether a test has ordered this I/O to fail.
#[cold]
fn is_to_fail(kind: IoKind) -> bool {
    takes_space(kind) && faults::fails(faults::Point::ReplicaWrite)
}

/// Whether such an I/O may need a cluster.
fn takes_space(kind: IoKind) -> bool {
    matches!(kind, IoKind::Write | IoKind::WriteZeroes | IoKind::Unmap)
}

/// Whether the blobstore may have had no cluster: it says no more than that an I/O has failed.
fn is_unexplained(error: LegError) -> bool {
    error == status::INTERNAL_ERROR || error == LegError::Refused(Errno::EIO)
}

/// Whether the store has no cluster left and the lvol lacks one of these.
fn is_out_of_space(on: OnControl, alias: &LvolAlias, clusters: RangeInclusive<u64>) -> Result<bool, SpdkError> {
    if lvstore::info(on, &alias.lvs)?.free_clusters > 0 {
        return Ok(false);
    }
    let own = lvol::cluster_map(on, alias)?;
    Ok(clusters.into_iter().any(|cluster| !own.contains(cluster)))
}

/// Writes zeroes over those parts of the range that the lvol or one of its ancestors holds; the rest reads as zeroes.
async fn zero_held(
    on: OnControl,
    lvol: Arc<OpenBdev>,
    alias: LvolAlias,
    cluster_size: u64,
    offset: u64,
    length: u64,
) -> Result<(), SpdkError> {
    let mut held = ClusterMap::empty(0);
    for layer in lineage(on, &alias)? {
        held.or(&lvol::cluster_map(on, &layer)?);
    }
    let channel = lvol.channel(on.thread())?;
    for (start, length) in held_parts(&held, cluster_size, offset, length) {
        let end = start + length;
        let mut at = start;
        while at < end {
            let step = ZERO_STEP.min(end - at);
            channel.write_zeroes(at, step).await?;
            at += step;
        }
    }
    Ok(())
}

/// The lvol and its ancestors, itself first.
pub(super) fn lineage(on: OnControl, alias: &LvolAlias) -> Result<Vec<LvolAlias>, SpdkError> {
    let mut lineage = vec![alias.clone()];
    let mut parent = lvol::info(on, alias)?.parent;
    while let Some(lvol) = parent {
        let alias = LvolAlias { lvs: alias.lvs.clone(), lvol };
        parent = lvol::info(on, &alias)?.parent;
        lineage.push(alias);
    }
    Ok(lineage)
}

impl Vdev for HeadDevice {
    type Channel = HeadChannel;
    type Io = HeadIo;
    const PRODUCT: &'static CStr = c"Corriente replica";

    fn supports(&self, kind: IoKind) -> bool {
        !matches!(kind, IoKind::Reset)
    }

    fn open_channel(&self, on: OnThread) -> Result<HeadChannel, Errno> {
        let lvol = self.lvol.channel(on).map_err(|error| error.errno().unwrap_or(Errno::EIO))?;
        Ok(HeadChannel { on, lvol, budget: Budget::of(&self.alias.lvs) })
    }

    fn new_io(&self) -> HeadIo {
        HeadIo { leg: Leg::Open, pieces: 0 }
    }

    fn submit(&self, channel: &HeadChannel, mut io: Vio<Self>) {
        match self.gate.load(Ordering::Relaxed) {
            OPEN => {}
            FAULTY if !is_to_fail(io.kind()) => {}
            _ => return io.fail(),
        }
        let size = io.block_count() * u64::from(self.lvol.geometry().block_size);
        match io.kind() {
            IoKind::Flush => {
                let flush = &self.flush;
                self.by_promise(channel, io, |reply| flush.request(move |outcome| reply.send(outcome.is_ok())));
            }
            IoKind::Unmap => self.zero(channel, io),
            IoKind::WriteZeroes if size > SMALL_ZEROES => self.zero(channel, io),
            IoKind::Read | IoKind::Write | IoKind::WriteZeroes => match &self.pace {
                Some(paced) if io.kind() == IoKind::Write && paced.pace.is_limited() => {
                    self.write_in_pace(paced, channel, io, size);
                }
                _ => {
                    let pieces = Budget::pieces(size);
                    io.state().pieces = pieces;
                    channel.budget.send(pieces, &channel.lvol, io);
                }
            },
            // An lvol's own reset fails (spdk::lvol).
            IoKind::Reset => io.fail(),
        }
    }

    fn leg_done(&self, _channel: &HeadChannel, state: &mut HeadIo, _leg: u8, result: Result<(), LegError>) {
        state.leg = match result {
            Ok(()) => Leg::Done,
            Err(error) => Leg::Failed(error),
        };
    }

    fn legs_done(&self, channel: &HeadChannel, mut io: Vio<Self>) {
        let HeadIo { leg, pieces } = *io.state();
        if pieces > 0 {
            channel.budget.give_back(pieces);
        }
        match leg {
            Leg::Done => io.succeed(),
            Leg::Failed(error) if is_unexplained(error) && takes_space(io.kind()) => self.explain(channel, io, error),
            Leg::Failed(error) => status::fail_with(io, error),
            Leg::Open => io.fail(),
        }
    }
}
