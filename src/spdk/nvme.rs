//! SPDK's NVMe driver: controllers over PCIe or TCP, attached and detached; their namespaces are bdevs. Replicas of other nodes are
//! not reached through it but through [`crate::nvme_host`], which says why.
//!
//! An attach answers at least one bdev name, each of a bdev that is there; anything else is an error that names the
//! controller, and the controller is detached again, so that the attach can be repeated.
//!
//! On SPDK 20.07 an attach connects on the control thread and blocks it: probe the address from a plain thread first, and
//! never attach a volume of this process (`spdk-versions` §8, 2 and 3). A controller whose peer died is reset at
//! every poll of its admin queue until it is detached, so detach it soon.
//!
//! A namespace that grows at a TCP peer is seen when it is asked for ([`read_size`]): its openers get a resize event. The peer's own
//! notices are turned off, as SPDK waits for the peer in a loop when it gets one.

use std::ffi::{CString, c_char, c_int, c_void};
use std::time::Duration;

use spdk_sys as sys;

use super::base;
use super::bdev::Geometry;
use super::completion::{self, Slot};
use super::control::OnControl;
use super::errno::{Errno, SpdkError};
use super::text;
use crate::name::{BdevName, HostPort, NameError, NonEmpty, Nqn};

/// Settings of all controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeOptions {
    /// Retries of a failed command by the PCIe driver; TCP has none.
    pub retry_count: u32,
    /// Period of admin polls: how soon an answer to a question is seen and, on 20.07, how often a lost peer is tried.
    pub admin_poll: Duration,
    /// Keep-alive of connections; 20.07 has its own 10 s.
    pub keep_alive: Duration,
    /// After this a lost controller is given up; not on 20.07.
    pub controller_loss: Duration,
    /// Pause between reconnects; not on 20.07.
    pub reconnect_delay: Duration,
    /// After this I/O of a lost controller fails; not on 20.07, where it fails at once.
    pub fast_io_fail: Duration,
}

impl Default for NvmeOptions {
    /// Reconnect 2 s, loss 15 s and keep-alive 10 s are Longhorn's (`engine-behaviour` §1.1); I/O fails as early as SPDK
    /// allows, because the mirror has other members. 500 ms of admin poll keep 20.07 from a hundred resets a second.
    fn default() -> Self {
        Self {
            retry_count: 4,
            admin_poll: Duration::from_millis(500),
            keep_alive: Duration::from_secs(10),
            controller_loss: Duration::from_secs(15),
            reconnect_delay: Duration::from_secs(2),
            fast_io_fail: Duration::from_secs(2),
        }
    }
}

/// A PCI function: domain, bus, device, function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress(Box<str>);

impl PciAddress {
    /// Parses `dddd:bb:dd.f`, in lower-case hexadecimal.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let is_hex = |character: char| matches!(character, '0'..='9' | 'a'..='f');
        let fits = text.len() == 12
            && text.char_indices().all(|(at, character)| match at {
                4 | 7 => character == ':',
                10 => character == '.',
                11 => matches!(character, '0'..='7'),
                _ => is_hex(character),
            });
        if !fits {
            return Err(NameError::Form { problem: format!("{text:?} is not a PCI address of the form 0000:00:00.0") });
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for PciAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A volume of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpTarget {
    /// Where it answers.
    pub address: HostPort,
    /// The subsystem that exports it.
    pub subsystem: Nqn,
    /// Who we say we are.
    pub host: Nqn,
}

/// What is known of the other side when a controller is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// It answers, and is told.
    Alive,
    /// It does not, or may not: nothing is sent, and all I/O in flight fails at once on every thread.
    Lost,
}

/// Sets the options of all controllers; before the first attach.
pub fn configure(_on: OnControl, options: &NvmeOptions) -> Result<(), SpdkError> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let raw = sys::cs_nvme_options {
        retry_count: options.retry_count,
        admin_poll_us: u64::try_from(options.admin_poll.as_micros()).unwrap_or(u64::MAX),
        keep_alive_ms: milliseconds(options.keep_alive),
        controller_loss_s: seconds(options.controller_loss),
        reconnect_delay_s: seconds(options.reconnect_delay),
        fast_io_fail_s: seconds(options.fast_io_fail),
    };
    // SAFETY: on the control thread; the structure is read during the call only.
    let rc = unsafe { sys::cs_nvme_configure(&raw) };
    Errno::check(rc).map_err(|errno| SpdkError::failed("configuration", "the NVMe initiator", errno))
}

/// Attaches a volume of another node as controller `controller`; its one bdev is named `<controller>n1`.
pub async fn attach_tcp(
    on: OnControl,
    controller: &BdevName,
    target: &TcpTarget,
    limit: Duration,
) -> Result<NonEmpty<BdevName>, SpdkError> {
    let address = text::to_c(&target.address.ip().to_string());
    let port = text::to_c(&target.address.port().to_string());
    let (subsystem, host) = (text::to_c(target.subsystem.as_str()), text::to_c(target.host.as_str()));
    let strings = Strings { address, tcp: Some((port, subsystem, host)) };
    attach(on, controller, strings, target.address.ip().is_ipv6(), limit).await
}

/// Attaches an NVMe disk of this machine. Its function must be bound to a user-space driver.
pub async fn attach_pcie(
    on: OnControl,
    controller: &BdevName,
    address: &PciAddress,
    limit: Duration,
) -> Result<NonEmpty<BdevName>, SpdkError> {
    let strings = Strings { address: text::to_c(address.as_str()), tcp: None };
    attach(on, controller, strings, false, limit).await
}

/// The one bdev of an attach. Where there are more the controller is detached, and that is the error.
pub async fn only(
    on: OnControl,
    controller: &BdevName,
    names: NonEmpty<BdevName>,
    limit: Duration,
) -> Result<BdevName, SpdkError> {
    match names.into_only() {
        Ok(name) => Ok(name),
        Err(names) => {
            give_up(on, controller, limit).await;
            Err(not_one(controller, names.count()))
        }
    }
}

/// Takes a controller and its bdevs away. Their openers get an event and must close them within `limit`.
pub async fn detach(_on: OnControl, controller: &BdevName, peer: Peer, limit: Duration) -> Result<(), SpdkError> {
    let name = text::to_c(controller.as_str());
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the name is read during the call only.
        unsafe { sys::cs_nvme_detach(name.as_ptr(), peer == Peer::Lost, milliseconds(limit), cb, arg) }
    })
    .await
    .map_err(|errno| match errno {
        Errno::ENODEV => SpdkError::no_such("NVMe controller", controller),
        errno => SpdkError::failed("detach", object(controller), errno),
    })
}

/// Tells the driver that the controller's device has left the machine: all I/O fails from now on, and nothing is asked of
/// the device any more. To be followed by a detach with [`Peer::Lost`].
pub fn unplugged(_on: OnControl, controller: &BdevName) {
    let name = text::to_c(controller.as_str());
    // SAFETY: on the control thread, which polls the controller's admin queue; the name is read during the call only.
    unsafe { sys::cs_nvme_unplugged(name.as_ptr()) };
}

/// Whether there is a controller of this name.
pub fn is_attached(_on: OnControl, controller: &BdevName) -> bool {
    let name = text::to_c(controller.as_str());
    // SAFETY: on the control thread; the name is read during the call only.
    unsafe { sys::cs_nvme_is_attached(name.as_ptr()) }
}

/// Asks a TCP peer how large its namespace is now, and gives the controller's bdev that size if it has grown. Returns the bdev's
/// size. Waits for as long as the controller does: the caller has a limit, and detaches a peer that does not answer.
pub async fn read_size(on: OnControl, controller: &BdevName, bdev: &BdevName) -> Result<Geometry, SpdkError> {
    let (name, c_bdev) = (text::to_c(controller.as_str()), text::to_c(bdev.as_str()));
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; both names are copied or read during the call only.
        unsafe { sys::cs_nvme_read_size(name.as_ptr(), c_bdev.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| match errno {
        Errno::ENODEV => SpdkError::no_such("NVMe controller", controller),
        errno => SpdkError::failed("reading the size", object(controller), errno),
    })?;
    Ok(base::info(on, bdev)?.geometry)
}

/// A wrong answer of SPDK's, for tests of what stands above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachFault {
    /// No bdev.
    NoName,
    /// Two bdevs.
    TwoNames,
    /// A bdev without a name.
    EmptyName,
}

/// Makes names of what an attach has answered, as [`attach_tcp`] does with SPDK's answer: exactly one, that of a bdev which is there.
/// `fault` spoils the answer before it is looked at.
pub fn confirm(
    on: OnControl,
    controller: &BdevName,
    mut answered: Vec<String>,
    fault: Option<AttachFault>,
) -> Result<BdevName, SpdkError> {
    match fault {
        None => {}
        Some(AttachFault::NoName) => answered.clear(),
        Some(AttachFault::TwoNames) => answered.extend_from_within(..),
        Some(AttachFault::EmptyName) => answered = vec![String::new()],
    }
    check(on, controller, &answered)?.into_only().map_err(|names| not_one(controller, names.count()))
}

/// Spoils the answer of the next attach that succeeds, below this layer.
pub fn inject_fault(_on: OnControl, fault: AttachFault) {
    let raw = match fault {
        AttachFault::NoName => sys::CS_FAULT_ATTACH_NO_NAME,
        AttachFault::TwoNames => sys::CS_FAULT_ATTACH_TWO_NAMES,
        AttachFault::EmptyName => sys::CS_FAULT_ATTACH_EMPTY_NAME,
    };
    // SAFETY: on the control thread, the only one to read what this sets.
    unsafe { sys::cs_fault_attach(raw) };
}

/// What an attach's C strings are kept in for the call.
struct Strings {
    address: CString,
    /// Port, subsystem, host.
    tcp: Option<(CString, CString, CString)>,
}

type Answer = (Vec<String>, c_int);

unsafe extern "C" fn attached(arg: *mut c_void, names: *const *const c_char, count: usize, rc: c_int) {
    // SAFETY: `arg` is the slot of `attach`, which the shim hands back exactly once, on the thread of the call; `names` has
    // `count` strings that live for this callback.
    unsafe {
        let names = (0..count).map(|index| text::from_c(*names.add(index))).collect();
        Slot::<Answer>::from_raw(arg).fill((names, rc));
    }
}

async fn attach(
    on: OnControl,
    controller: &BdevName,
    strings: Strings,
    ipv6: bool,
    limit: Duration,
) -> Result<NonEmpty<BdevName>, SpdkError> {
    let name = text::to_c(controller.as_str());
    let (port, subsystem, host) = match &strings.tcp {
        Some((port, subsystem, host)) => (port.as_ptr(), subsystem.as_ptr(), host.as_ptr()),
        None => (std::ptr::null(), std::ptr::null(), std::ptr::null()),
    };
    let raw = sys::cs_nvme_target {
        name: name.as_ptr(),
        address: strings.address.as_ptr(),
        port,
        subsystem_nqn: subsystem,
        host_nqn: host,
        pcie: strings.tcp.is_none(),
        ipv6,
    };
    let (slot, answer) = Slot::<Answer>::new();
    // SAFETY: on the control thread; the strings are copied during the call, `attached` fits the slot.
    unsafe { sys::cs_nvme_attach(&raw, milliseconds(limit), Some(attached), slot.into_raw()) };
    let (names, rc) = answer.await;
    Errno::check(rc).map_err(|errno| match errno {
        Errno::ENODEV => wrong(controller, "nobody answers there, or it does not admit us"),
        errno => SpdkError::failed("attach", object(controller), errno),
    })?;
    match check(on, controller, &names) {
        Ok(names) => Ok(names),
        Err(error) => {
            give_up(on, controller, limit).await;
            Err(error)
        }
    }
}

/// Names only what is there: at least one, each non-empty and the name of an existing bdev.
fn check(on: OnControl, controller: &BdevName, names: &[String]) -> Result<NonEmpty<BdevName>, SpdkError> {
    let names = names
        .iter()
        .map(|name| {
            let name = text::parse("attach", object(controller), name, BdevName::parse)?;
            base::info(on, &name)
                .map_err(|error| wrong(controller, format!("answered a bdev that is none: {error}")))?;
            Ok(name)
        })
        .collect::<Result<Vec<_>, SpdkError>>()?;
    NonEmpty::from_vec(names).ok_or_else(|| wrong(controller, "answered no bdev: it has no namespace for us"))
}

/// Takes a controller back that cannot be used.
async fn give_up(on: OnControl, controller: &BdevName, limit: Duration) {
    if let Err(error) = detach(on, controller, Peer::Alive, limit).await {
        tracing::error!(%controller, %error, "a controller that cannot be used could not be detached");
    }
}

fn not_one(controller: &BdevName, count: usize) -> SpdkError {
    wrong(controller, format!("answered {count} bdevs where there can be only one"))
}

fn wrong(controller: &BdevName, problem: impl Into<String>) -> SpdkError {
    SpdkError::answer("attach", object(controller), problem)
}

fn object(controller: &BdevName) -> String {
    format!("NVMe controller {controller}")
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::PciAddress;

    #[test]
    fn a_pci_address_has_exactly_its_form() {
        assert!(PciAddress::parse("0000:3b:00.0").is_ok());
        for text in ["", "0000:3b:00", "0000:3b:00.8", "0000:3B:00.0", "000:3b:00.00", "0000-3b-00.0", "/dev/nvme0n1"] {
            assert!(PciAddress::parse(text).is_err(), "{text:?}");
        }
    }
}
