//! The NVMe-oF target: a bdev exported over TCP as the one namespace of a subsystem of its own.
//!
//! SPDK makes one change of a subsystem at a time and fails a second, so changes of one subsystem queue here. A pause, and a
//! stop, waits for the I/O in flight: fault a member that hangs before.
//!
//! An export claims its bdev: from then on nobody can open it for writing, but who has it open keeps it. So what
//! a node both exports and writes itself is opened first and exported then. On SPDK 20.07 do not resize or
//! remove a bdev while its export is paused: the target then misses the event.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use spdk_sys as sys;
use uuid::Uuid;

use super::completion;
use super::control::OnControl;
use super::errno::{Errno, SpdkError};
use super::text;
use crate::name::{BdevName, HostPort, Nguid, Nqn};

/// Settings of the TCP transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportOptions {
    /// Commands in flight on one queue pair.
    pub max_queue_depth: u32,
    /// Queue pairs of one controller, its admin queue included.
    pub max_queues: u32,
    /// Data a write may bring with its command, in bytes; larger ones take a round trip more.
    pub in_capsule_bytes: u32,
    /// Largest I/O, in bytes; hosts split what is larger. At most 16 times `io_unit_bytes`.
    pub max_io_bytes: u32,
    /// Size of a data buffer, in bytes.
    pub io_unit_bytes: u32,
    /// Data buffers of all threads together.
    pub shared_buffers: u32,
    /// Data buffers each thread keeps to itself.
    pub buffer_cache: u32,
}

impl Default for TransportOptions {
    /// SPDK's own 511 buffers of 128 KiB take 64 MiB; 512 of 32 KiB take 16 MiB and serve as many small I/Os.
    fn default() -> Self {
        Self {
            max_queue_depth: 128,
            max_queues: 64,
            in_capsule_bytes: 8 * 1024,
            max_io_bytes: 256 * 1024,
            io_unit_bytes: 32 * 1024,
            shared_buffers: 512,
            buffer_cache: 16,
        }
    }
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hosts {
    /// Whoever comes.
    Any,
    /// These.
    Only(Vec<Nqn>),
}

/// What is exported, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The subsystem.
    pub nqn: Nqn,
    /// The bdev, by name or alias.
    pub bdev: BdevName,
    /// The namespace's identity.
    pub nguid: Nguid,
    /// The namespace's other identity.
    pub uuid: Uuid,
    /// Where hosts connect.
    pub listen: HostPort,
    /// Who may connect.
    pub hosts: Hosts,
    /// The controller ids hosts get here, other ones than from another node's export of the volume, so that a host can
    /// join both to one disk of two paths; `None` for any. No more hosts than ids can be connected. Not on 20.07.
    pub controller_ids: Option<RangeInclusive<u16>>,
    /// Report asymmetric access, as above. Not on 20.07.
    pub ana: bool,
}

/// How a host should think of the path to an export, where the release has asymmetric access (ANA).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnaState {
    /// The path to take.
    Optimized,
    /// A path that works, for when no optimized one does.
    NonOptimized,
    /// No I/O is served on this path.
    Inaccessible,
}

/// Whether an export serves I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportState {
    /// It does not, and nobody is connected.
    Inactive,
    /// It does.
    Active,
    /// It holds I/O back.
    Paused,
    /// It is on its way from one to another.
    Changing,
}

/// An export as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// The subsystem.
    pub nqn: Nqn,
    /// The bdev's own name; `None` when it was removed.
    pub bdev: Option<BdevName>,
    /// Where it listens.
    pub listen: Option<HostPort>,
    /// Whether it serves I/O.
    pub state: ExportState,
    /// Controllers, i.e. connections of hosts.
    pub connected: u32,
}

/// How long a change may wait for its turn and for I/O in flight, where the caller has no say.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);
/// How long the controllers of disconnected hosts may take to go.
const DESTROY_LIMIT: Duration = Duration::from_secs(10);

const MODEL: &str = "Corriente volume";

thread_local! {
    /// One lock per subsystem under change. Only the control thread has any.
    static CHANGES: RefCell<HashMap<Nqn, Rc<tokio::sync::Mutex<()>>>> = RefCell::new(HashMap::new());
}

/// Runs one change of a subsystem when the ones before it are over.
async fn in_turn<T>(nqn: &Nqn, change: impl AsyncFnOnce() -> T) -> T {
    let lock = CHANGES.with_borrow_mut(|changes| changes.entry(nqn.clone()).or_default().clone());
    let guard = lock.lock().await;
    let result = change().await;
    drop(guard);
    CHANGES.with_borrow_mut(|changes| {
        // One reference is the map's, one ours: nobody waits.
        if Rc::strong_count(&lock) == 2 {
            changes.remove(nqn);
        }
    });
    result
}

/// Makes the transport; before the first export. Doing it again changes nothing.
pub async fn start_tcp(_on: OnControl, options: &TransportOptions) -> Result<(), SpdkError> {
    let raw = sys::cs_nvmf_transport {
        max_queue_depth: options.max_queue_depth,
        max_queues: options.max_queues,
        in_capsule_bytes: options.in_capsule_bytes,
        max_io_bytes: options.max_io_bytes,
        io_unit_bytes: options.io_unit_bytes,
        shared_buffers: options.shared_buffers,
        buffer_cache: options.buffer_cache,
    };
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the options are copied during the call.
        unsafe { sys::cs_nvmf_start_tcp(&raw, cb, arg) }
    })
    .await
    .map_err(|errno| SpdkError::failed("start", "the NVMe/TCP transport", errno))
}

/// Exports a bdev. It is served when this returns; after an error nothing of it is left.
pub async fn export(on: OnControl, export: &Export) -> Result<ExportInfo, SpdkError> {
    in_turn(&export.nqn, async || {
        create(on, export)?;
        if let Err(error) = build(on, export).await {
            if let Err(undo) = tear_down(on, &export.nqn).await {
                tracing::error!(nqn = %export.nqn, %undo, "a half-made export could not be taken back");
            }
            return Err(error);
        }
        info(on, &export.nqn)
    })
    .await
}

/// Takes an export away; its hosts are disconnected, the bdev stays.
pub async fn unexport(on: OnControl, nqn: &Nqn) -> Result<(), SpdkError> {
    in_turn(nqn, async || {
        let before = info(on, nqn)?;
        if before.state == ExportState::Paused {
            // SPDK stops only what is active.
            change(on, nqn, sys::CS_NVMF_RESUME, "resume", CHANGE_LIMIT).await?;
        }
        change(on, nqn, sys::CS_NVMF_STOP, "stop", CHANGE_LIMIT).await?;
        tear_down(on, nqn).await
    })
    .await
}

/// Holds back all I/O of an export, and returns when what was in flight is done. After an error it is served again.
pub async fn pause(on: OnControl, nqn: &Nqn, limit: Duration) -> Result<(), SpdkError> {
    in_turn(nqn, async || change(on, nqn, sys::CS_NVMF_PAUSE, "pause", limit).await).await
}

/// Serves held-back and new I/O again.
pub async fn resume(on: OnControl, nqn: &Nqn) -> Result<(), SpdkError> {
    in_turn(nqn, async || change(on, nqn, sys::CS_NVMF_RESUME, "resume", CHANGE_LIMIT).await).await
}

/// Lets a host connect. I/O is held back for a moment.
pub async fn allow_host(on: OnControl, nqn: &Nqn, host: &Nqn) -> Result<(), SpdkError> {
    let (c_nqn, c_host) = (text::to_c(nqn.as_str()), text::to_c(host.as_str()));
    while_paused(on, nqn, "admission of a host", || {
        // SAFETY: on the control thread; the names are copied during the call.
        unsafe { sys::cs_nvmf_allow_host(c_nqn.as_ptr(), c_host.as_ptr()) }
    })
    .await
}

/// Lets a host connect no more; one that is connected stays so. I/O is held back for a moment.
pub async fn refuse_host(on: OnControl, nqn: &Nqn, host: &Nqn) -> Result<(), SpdkError> {
    let (c_nqn, c_host) = (text::to_c(nqn.as_str()), text::to_c(host.as_str()));
    while_paused(on, nqn, "refusal of a host", || {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_nvmf_refuse_host(c_nqn.as_ptr(), c_host.as_ptr()) }
    })
    .await
}

/// Gives all namespaces of an export a state of access, and tells the hosts. I/O is held back for a moment. Not on 20.07.
pub async fn set_ana(on: OnControl, nqn: &Nqn, listen: &HostPort, state: AnaState) -> Result<(), SpdkError> {
    let raw = match state {
        AnaState::Optimized => sys::CS_NVMF_ANA_OPTIMIZED,
        AnaState::NonOptimized => sys::CS_NVMF_ANA_NON_OPTIMIZED,
        AnaState::Inaccessible => sys::CS_NVMF_ANA_INACCESSIBLE,
    };
    in_turn(nqn, async || {
        let active = info(on, nqn)?.state == ExportState::Active;
        if active {
            change(on, nqn, sys::CS_NVMF_PAUSE, "pause", CHANGE_LIMIT).await?;
        }
        let (c_nqn, listener) = (text::to_c(nqn.as_str()), Listener::of(listen));
        let listener_raw = listener.raw();
        let done = completion::done(|cb, arg| {
            // SAFETY: on the control thread; all strings are copied during the call.
            unsafe { sys::cs_nvmf_set_ana(c_nqn.as_ptr(), &listener_raw, raw, cb, arg) }
        });
        let done = done.await.map_err(|errno| failed("change of access", nqn, errno));
        if active {
            change(on, nqn, sys::CS_NVMF_RESUME, "resume", CHANGE_LIMIT).await?;
        }
        done
    })
    .await
}

/// Describes an export.
pub fn info(_on: OnControl, nqn: &Nqn) -> Result<ExportInfo, SpdkError> {
    let c_nqn = text::to_c(nqn.as_str());
    let mut found = Found::new();
    // SAFETY: on the control thread; the callback fits the argument and is called only during the call.
    let rc = unsafe { sys::cs_nvmf_info(c_nqn.as_ptr(), Some(add), (&raw mut found).cast()) };
    Errno::check(rc).map_err(|errno| failed("description", nqn, errno))?;
    found.pop().unwrap_or_else(|| Err(SpdkError::no_such("export", nqn)))
}

/// Describes all exports.
pub fn list(_on: OnControl) -> Result<Vec<ExportInfo>, SpdkError> {
    let mut found = Found::new();
    // SAFETY: on the control thread; the callback fits the argument and is called only during the call.
    unsafe { sys::cs_nvmf_list(Some(add), (&raw mut found).cast()) };
    found.into_iter().collect()
}

fn create(_on: OnControl, export: &Export) -> Result<(), SpdkError> {
    let nqn = text::to_c(export.nqn.as_str());
    // Twenty characters are all a serial number has; the NGUID's start tells volumes apart well enough for a label.
    let serial = text::to_c(&export.nguid.to_string()[..20]);
    let model = text::to_c(MODEL);
    let raw = sys::cs_nvmf_subsystem {
        nqn: nqn.as_ptr(),
        serial: serial.as_ptr(),
        model: model.as_ptr(),
        any_host: export.hosts == Hosts::Any,
        min_cntlid: export.controller_ids.as_ref().map_or(0, |ids| *ids.start()),
        max_cntlid: export.controller_ids.as_ref().map_or(0, |ids| *ids.end()),
        ana: export.ana,
    };
    // SAFETY: on the control thread; all strings are copied during the call.
    Errno::check(unsafe { sys::cs_nvmf_create(&raw) }).map_err(|errno| match errno {
        Errno::ENOSPC => SpdkError::refused(
            format!("export {}", export.nqn),
            "the target has no room for another; raise the limit of exports",
        ),
        errno => failed("creation", &export.nqn, errno),
    })
}

/// From an empty subsystem to one that serves.
async fn build(on: OnControl, export: &Export) -> Result<(), SpdkError> {
    let nqn = text::to_c(export.nqn.as_str());
    if let Hosts::Only(hosts) = &export.hosts {
        for host in hosts {
            let host = text::to_c(host.as_str());
            // SAFETY: on the control thread; the names are copied during the call.
            Errno::check(unsafe { sys::cs_nvmf_allow_host(nqn.as_ptr(), host.as_ptr()) })
                .map_err(|errno| failed("admission of a host", &export.nqn, errno))?;
        }
    }
    add_namespace(on, export, &nqn)?;
    listen(on, export, &nqn).await?;
    change(on, &export.nqn, sys::CS_NVMF_START, "start", CHANGE_LIMIT).await
}

fn add_namespace(_on: OnControl, export: &Export, nqn: &CString) -> Result<(), SpdkError> {
    let bdev = text::to_c(export.bdev.as_str());
    let (nguid, uuid) = (export.nguid.0.as_ptr(), export.uuid.as_bytes().as_ptr());
    // SAFETY: on the control thread; names and the 16 bytes of each identity are copied during the call.
    let rc = unsafe { sys::cs_nvmf_add_namespace(nqn.as_ptr(), bdev.as_ptr(), nguid, uuid) };
    Errno::check(rc).map_err(|errno| match errno {
        Errno::ENODEV => SpdkError::NoSuchBdev(export.bdev.clone()),
        Errno::EPERM => SpdkError::refused(
            format!("bdev {}", export.bdev),
            format!("it is claimed, so it cannot be exported as {}; is it exported already?", export.nqn),
        ),
        errno => failed("namespace", &export.nqn, errno),
    })
}

/// The C strings of an address, kept for the call.
struct Listener {
    address: CString,
    port: CString,
    ipv6: bool,
}

impl Listener {
    fn of(address: &HostPort) -> Self {
        Self {
            address: text::to_c(&address.ip().to_string()),
            port: text::to_c(&address.port().to_string()),
            ipv6: address.ip().is_ipv6(),
        }
    }

    fn raw(&self) -> sys::cs_nvmf_listener {
        sys::cs_nvmf_listener { address: self.address.as_ptr(), port: self.port.as_ptr(), ipv6: self.ipv6 }
    }
}

async fn listen(_on: OnControl, export: &Export, nqn: &CString) -> Result<(), SpdkError> {
    let listener = Listener::of(&export.listen);
    let raw = listener.raw();
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; all strings are copied during the call.
        unsafe { sys::cs_nvmf_listen(nqn.as_ptr(), &raw, cb, arg) }
    })
    .await
    .map_err(|errno| match errno {
        Errno::EADDRNOTAVAIL => SpdkError::refused(
            format!("export {}", export.nqn),
            format!("it cannot listen on {}: the address is not of this machine, or the port is taken", export.listen),
        ),
        errno => failed("listener", &export.nqn, errno),
    })
}

/// From an inactive subsystem to none.
async fn tear_down(on: OnControl, nqn: &Nqn) -> Result<(), SpdkError> {
    let c_nqn = text::to_c(nqn.as_str());
    if let Some(address) = info(on, nqn)?.listen {
        let listener = Listener::of(&address);
        // SAFETY: on the control thread; the strings are read during the call only.
        Errno::check(unsafe { sys::cs_nvmf_unlisten(c_nqn.as_ptr(), &listener.raw()) })
            .map_err(|errno| failed("end of listening", nqn, errno))?;
    }
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the name is read during the call only.
        unsafe { sys::cs_nvmf_destroy(c_nqn.as_ptr(), milliseconds(DESTROY_LIMIT), cb, arg) }
    })
    .await
    .map_err(|errno| failed("destruction", nqn, errno))
}

async fn change(
    _on: OnControl,
    nqn: &Nqn,
    kind: sys::cs_nvmf_change,
    what: &'static str,
    limit: Duration,
) -> Result<(), SpdkError> {
    let c_nqn = text::to_c(nqn.as_str());
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the name is copied during the call.
        unsafe { sys::cs_nvmf_change(c_nqn.as_ptr(), kind, milliseconds(limit), cb, arg) }
    })
    .await
    .map_err(|errno| failed(what, nqn, errno))
}

/// Makes a change that SPDK allows only in an export that is paused or inactive.
async fn while_paused(
    on: OnControl,
    nqn: &Nqn,
    what: &'static str,
    step: impl FnOnce() -> i32,
) -> Result<(), SpdkError> {
    in_turn(nqn, async || {
        let active = info(on, nqn)?.state == ExportState::Active;
        if active {
            change(on, nqn, sys::CS_NVMF_PAUSE, "pause", CHANGE_LIMIT).await?;
        }
        let done = Errno::check(step()).map_err(|errno| failed(what, nqn, errno));
        if active {
            change(on, nqn, sys::CS_NVMF_RESUME, "resume", CHANGE_LIMIT).await?;
        }
        done
    })
    .await
}

type Found = Vec<Result<ExportInfo, SpdkError>>;

unsafe extern "C" fn add(arg: *mut c_void, raw: *const sys::cs_nvmf_info) {
    // SAFETY: `arg` is the vector of `info` or `list`, used by nobody else during the call; `raw` and its strings
    // live for this callback.
    unsafe {
        let raw = &*raw;
        let [nqn, bdev, address, port] = [raw.nqn, raw.bdev, raw.address, raw.port].map(|one| text::from_c(one));
        (*arg.cast::<Found>()).push(describe(raw, &nqn, &bdev, &address, &port));
    }
}

fn describe(
    raw: &sys::cs_nvmf_info,
    nqn: &str,
    bdev: &str,
    address: &str,
    port: &str,
) -> Result<ExportInfo, SpdkError> {
    let of = || format!("export {nqn}");
    let listen = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    Ok(ExportInfo {
        nqn: text::parse("description", of(), nqn, Nqn::parse)?,
        bdev: (!raw.bdev.is_null()).then(|| text::parse("namespace", of(), bdev, BdevName::parse)).transpose()?,
        listen: (!raw.address.is_null())
            .then(|| text::parse("listener", of(), &listen, HostPort::parse))
            .transpose()?,
        state: match raw.state {
            sys::CS_NVMF_INACTIVE => ExportState::Inactive,
            sys::CS_NVMF_ACTIVE => ExportState::Active,
            sys::CS_NVMF_PAUSED => ExportState::Paused,
            _ => ExportState::Changing,
        },
        connected: raw.connected,
    })
}

fn failed(what: &'static str, nqn: &Nqn, errno: Errno) -> SpdkError {
    match errno {
        Errno::ENODEV => SpdkError::no_such("export", nqn),
        Errno::EBUSY => SpdkError::refused(format!("export {nqn}"), format!("its state does not allow a {what} now")),
        errno => SpdkError::failed(what, format!("export {nqn}"), errno),
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
