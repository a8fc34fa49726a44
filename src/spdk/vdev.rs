//! Bdevs written in safe Rust.
//!
//! A device implements [`Vdev`]; SPDK's callbacks are monomorphised for it, so the trait costs nothing at run time. An
//! I/O arrives as a [`Vio`], an owned value that is completed by consuming it. To serve it by I/O on other devices it
//! is *forked* into up to [`MAX_LEGS`] legs; when the last leg is back, the device gets the [`Vio`] again, and with it
//! the duty to complete it.

use std::ffi::{CStr, CString, c_int, c_void};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use spdk_sys as sys;
use uuid::Uuid;

use super::bdev::{ChannelInner, Geometry, IoChannel, IoKind, Transfer, submit};
use super::completion;
use super::control::{OnControl, OnThread};
use super::errno::{Errno, SpdkError};
use super::in_flight;
use super::text;
use crate::name::BdevName;

/// Legs an I/O can have at once: the leg's number travels in the three low bits of a pointer.
pub const MAX_LEGS: usize = 8;

/// A block device of ours.
pub trait Vdev: Sized + Send + Sync + 'static {
    /// State of one thread that does I/O on the device. Nothing borrows it across a submit: methods get `&Channel`.
    type Channel: 'static;
    /// State of one I/O: plain data, stored with the I/O, no heap.
    type Io: Copy + 'static;
    /// What kind of bdev this is.
    const PRODUCT: &'static CStr;

    /// Whether the device takes this kind of I/O.
    fn supports(&self, kind: IoKind) -> bool;
    /// Makes a thread's state, on that thread.
    fn open_channel(&self, on: OnThread) -> Result<Self::Channel, Errno>;
    /// The state of an I/O before `submit` sees it.
    fn new_io(&self) -> Self::Io;
    /// Serves an I/O.
    fn submit(&self, channel: &Self::Channel, io: Vio<Self>);
    /// Takes note of a leg's result. Must not do I/O; `legs_done` follows when it was the last.
    fn leg_done(&self, channel: &Self::Channel, state: &mut Self::Io, leg: u8, result: Result<(), LegError>);
    /// All legs are back: fork again or complete.
    fn legs_done(&self, channel: &Self::Channel, io: Vio<Self>);
}

/// How a leg failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegError {
    /// The device answered with an NVMe status: code type and code.
    Status {
        /// Status code type.
        sct: i32,
        /// Status code.
        sc: i32,
    },
    /// SPDK did not take the I/O.
    Refused(Errno),
}

/// The I/O's context as it lies behind SPDK's structure. In this order, so that an I/O of few legs touches few cache lines:
/// at depth the contexts of all I/Os in flight compete for the first-level cache.
#[repr(C)]
struct Context<V: Vdev> {
    io: *mut sys::spdk_bdev_io,
    device: *const V,
    channel: *const V::Channel,
    transfer: Transfer,
    state: V::Io,
    /// Legs in flight, plus one while a fork is being made.
    outstanding: u32,
    /// Only those of legs in flight are initialised.
    legs: [MaybeUninit<*const ChannelInner>; MAX_LEGS],
}

/// Proof at compile time that the context fits where SPDK keeps it, and that its address leaves room for the leg's number.
struct Fits<V: Vdev>(PhantomData<V>);
impl<V: Vdev> Fits<V> {
    const OK: () = {
        assert!(size_of::<Context<V>>() <= sys::CS_VDEV_IO_CONTEXT as usize);
        assert!(align_of::<Context<V>>() == 8);
        assert!(size_of::<*mut V::Channel>() == 8);
    };
}

/// An I/O to be completed. Owned by whoever serves it; dropping it unserved fails it and logs our bug.
pub struct Vio<V: Vdev> {
    context: NonNull<Context<V>>,
}

impl<V: Vdev> Vio<V> {
    /// What is asked.
    pub fn kind(&self) -> IoKind {
        self.context().transfer.kind
    }

    /// First block.
    pub fn offset_blocks(&self) -> u64 {
        self.context().transfer.offset_blocks
    }

    /// Number of blocks.
    pub fn block_count(&self) -> u64 {
        self.context().transfer.block_count
    }

    /// The device's own state of this I/O.
    pub fn state(&mut self) -> &mut V::Io {
        // SAFETY: the context is alive until completion; `&mut self` and no legs in flight make the access exclusive.
        unsafe { &mut (*self.context.as_ptr()).state }
    }

    /// Begins to serve the I/O by other devices.
    pub fn fork(self) -> Fork<V> {
        // SAFETY: no legs are in flight while a Vio exists, so nothing else touches the counter.
        unsafe { (*self.context.as_ptr()).outstanding = 1 };
        Fork { io: ManuallyDrop::new(self) }
    }

    /// Answers the client: done.
    pub fn succeed(self) {
        self.complete_raw(|io| {
            // SAFETY: the I/O is ours and completed once: `self` is consumed without running Drop.
            unsafe { sys::cs_vio_complete(io, true) }
        });
    }

    /// Answers the client: failed, for no more specific reason than an internal error of the device.
    pub fn fail(self) {
        self.complete_raw(|io| {
            // SAFETY: as in `succeed`.
            unsafe { sys::cs_vio_complete(io, false) }
        });
    }

    /// Answers the client with an NVMe status.
    pub fn fail_with(self, sct: i32, sc: i32) {
        self.complete_raw(|io| {
            // SAFETY: as in `succeed`.
            unsafe { sys::cs_vio_complete_nvme(io, sct, sc) }
        });
    }

    /// Where the I/O's memory lies; nothing for kinds without.
    pub(super) fn memory(&self) -> &[sys::iovec] {
        let Transfer { kind, iovs, iov_count, .. } = self.context().transfer;
        if !matches!(kind, IoKind::Read | IoKind::Write) || iovs.is_null() {
            return &[];
        }
        // SAFETY: SPDK keeps a read's or write's iovecs, that many, in place and unchanged until the I/O is completed, which
        // takes the Vio.
        unsafe { std::slice::from_raw_parts(iovs, usize::try_from(iov_count).unwrap_or(0)) }
    }

    fn complete_raw(self, complete: impl FnOnce(*mut sys::spdk_bdev_io)) {
        let io = self.context().io;
        std::mem::forget(self);
        in_flight::end();
        complete(io);
    }

    fn context(&self) -> &Context<V> {
        // SAFETY: the context lives as long as the I/O, which a Vio keeps open.
        unsafe { self.context.as_ref() }
    }
}

impl<V: Vdev> Drop for Vio<V> {
    fn drop(&mut self) {
        tracing::error!("an I/O was dropped without an answer; it is failed (a bug of Corriente, please report it)");
        let io = self.context().io;
        in_flight::end();
        // SAFETY: the I/O is ours and was not completed, or `complete_raw` had forgotten `self`.
        unsafe { sys::cs_vio_complete(io, false) };
    }
}

/// An I/O while its legs are being submitted.
pub struct Fork<V: Vdev> {
    io: ManuallyDrop<Vio<V>>,
}

impl<V: Vdev> Fork<V> {
    /// The device's own state of this I/O. Legs that finished already have been noted in it.
    pub fn state(&mut self) -> &mut V::Io {
        self.io.state()
    }

    /// Sends the same I/O to another device as leg `leg`. Each number at most once in a fork.
    pub fn submit(&mut self, leg: u8, channel: &IoChannel) {
        assert!((leg as usize) < MAX_LEGS);
        let context = self.io.context.as_ptr();
        // SAFETY: as below.
        let (kind, legs) = unsafe { ((*context).transfer.kind, (*context).outstanding) };
        assert!(kind != IoKind::Read || legs == 1, "two devices must not fill the same memory");
        let inner = Rc::into_raw(channel.0.clone());
        // SAFETY: the context is alive while the fork exists. Legs run on this thread only, so the fields are not
        // shared; the reference count in `legs` is given back by `leg_over`.
        unsafe {
            (*context).outstanding += 1;
            (*context).legs[leg as usize] = MaybeUninit::new(inner);
            send_leg::<V>(context, leg);
        }
    }

    /// Counts a leg that is no I/O on a bdev (a disk's own flush, say); it ends by the pledge.
    pub fn pledge(&mut self, leg: u8) -> Pledge<V> {
        assert!((leg as usize) < MAX_LEGS);
        let context = self.io.context;
        // SAFETY: as in `submit`; the pledge owns the count.
        unsafe { (*context.as_ptr()).outstanding += 1 };
        Pledge { context, leg }
    }

    /// All legs are on their way (or back already).
    pub fn finish(self) {
        let context = self.io.context.as_ptr();
        // SAFETY: the fork's own count is given back once, here, as `finish` consumes it.
        unsafe { release::<V>(context) };
    }
}

/// A leg that ends by [`Pledge::redeem`], on the thread of its I/O. Dropping it ends it with an error.
pub struct Pledge<V: Vdev> {
    context: NonNull<Context<V>>,
    leg: u8,
}

impl<V: Vdev> Pledge<V> {
    /// Ends the leg.
    pub fn redeem(self, result: Result<(), LegError>) {
        let (context, leg) = (self.context.as_ptr(), self.leg);
        std::mem::forget(self);
        // SAFETY: the pledge owns one count of the I/O, so its context is alive; it is !Send, so this is its thread.
        unsafe { note_leg::<V>(context, leg, result) };
    }
}

impl<V: Vdev> Drop for Pledge<V> {
    fn drop(&mut self) {
        // SAFETY: as in `redeem`, which forgets the value before it could be dropped.
        unsafe { note_leg::<V>(self.context.as_ptr(), self.leg, Err(LegError::Refused(Errno::EIO))) };
    }
}

/// Tells the device of a leg's end and gives its count back.
///
/// # Safety
/// The caller owns one count of the I/O, which is gone afterwards.
unsafe fn note_leg<V: Vdev>(context: *mut Context<V>, leg: u8, result: Result<(), LegError>) {
    // SAFETY: a counted leg keeps the parent I/O, thus context, device and channel, alive. `state` is borrowed by
    // nobody: a Fork lends it only between submits, and a Vio does not exist while legs are out.
    unsafe {
        (*(*context).device).leg_done(&*(*context).channel, &mut (*context).state, leg, result);
        release::<V>(context);
    }
}

/// # Safety
/// `context` is alive and `legs[leg]` holds a channel reference for this leg.
unsafe fn send_leg<V: Vdev>(context: *mut Context<V>, leg: u8) {
    // SAFETY: by contract; the channel reference is alive until leg_over.
    unsafe {
        let channel = &*(*context).legs[leg as usize].assume_init();
        let arg = (context as usize | leg as usize) as *mut c_void;
        let rc = submit(channel, (*context).transfer, Some(leg_complete::<V>), arg);
        match Errno::check(rc) {
            Ok(()) => {}
            Err(Errno::ENOMEM) => wait_for_io::<V>(context, leg),
            Err(errno) => leg_over::<V>(context, leg, Err(LegError::Refused(errno))),
        }
    }
}

/// Leg waits for a free bdev_io. A degraded path: the shim allocates the wait entry.
///
/// # Safety
/// As [`send_leg`].
unsafe fn wait_for_io<V: Vdev>(context: *mut Context<V>, leg: u8) {
    // SAFETY: by contract; the argument is taken apart again by `leg_again`.
    unsafe {
        let channel = &*(*context).legs[leg as usize].assume_init();
        let arg = (context as usize | leg as usize) as *mut c_void;
        let rc = sys::cs_bdev_wait_for_io(channel.bdev.raw_desc(), channel.raw.as_ptr(), Some(leg_again::<V>), arg);
        if let Err(errno) = Errno::check(rc) {
            leg_over::<V>(context, leg, Err(LegError::Refused(errno)));
        }
    }
}

fn untag<V: Vdev>(arg: *mut c_void) -> (*mut Context<V>, u8) {
    let address = arg as usize;
    ((address & !(MAX_LEGS - 1)) as *mut Context<V>, (address & (MAX_LEGS - 1)) as u8)
}

unsafe extern "C" fn leg_again<V: Vdev>(arg: *mut c_void) {
    let (context, leg) = untag::<V>(arg);
    // SAFETY: the leg is still counted as outstanding, so the context is alive and the reference in place.
    unsafe { send_leg::<V>(context, leg) };
}

unsafe extern "C" fn leg_complete<V: Vdev>(io: *mut sys::spdk_bdev_io, success: bool, arg: *mut c_void) {
    let (context, leg) = untag::<V>(arg);
    let result = if success {
        Ok(())
    } else {
        let (mut sct, mut sc) = (0, 0);
        // SAFETY: the leg's I/O is finished and not freed yet.
        unsafe { sys::cs_bdev_io_status(io, &mut sct, &mut sc) };
        Err(LegError::Status { sct, sc })
    };
    // SAFETY: SPDK hands the finished I/O to its callback to be freed, once; the leg is outstanding until leg_over.
    unsafe {
        sys::spdk_bdev_free_io(io);
        leg_over::<V>(context, leg, result);
    }
}

/// # Safety
/// The leg is outstanding and holds a channel reference; both are gone afterwards.
unsafe fn leg_over<V: Vdev>(context: *mut Context<V>, leg: u8, result: Result<(), LegError>) {
    // SAFETY: the leg's count keeps the context alive until note_leg has given it back; the reference is the one that
    // Fork::submit stored.
    unsafe {
        let channel = (*context).legs[leg as usize].assume_init();
        note_leg::<V>(context, leg, result);
        drop(Rc::from_raw(channel));
    }
}

/// Gives back one count; the last one returns the I/O to its device.
///
/// # Safety
/// The caller owns one count of `outstanding`.
unsafe fn release<V: Vdev>(context: *mut Context<V>) {
    // SAFETY: by contract the context is alive until the count reaches zero, and then the only user is the new Vio.
    unsafe {
        (*context).outstanding -= 1;
        if (*context).outstanding == 0 {
            let io = Vio { context: NonNull::new_unchecked(context) };
            (*(*context).device).legs_done(&*(*context).channel, io);
        }
    }
}

/// A registered device. Bound to the control thread; [`VdevHandle::destroy`] takes it down.
#[must_use = "a device that is not destroyed stays registered"]
pub struct VdevHandle<V: Vdev> {
    raw: NonNull<sys::cs_vdev>,
    device: Arc<V>,
    name: BdevName,
    thread_bound: PhantomData<*mut ()>,
}

impl<V: Vdev> VdevHandle<V> {
    /// Registers `device` as a bdev of this name. The UUID must be of no other bdev, or nil for a new one.
    pub fn create(
        _on: OnControl,
        name: &BdevName,
        uuid: Uuid,
        geometry: Geometry,
        device: Arc<V>,
    ) -> Result<Self, SpdkError> {
        #[allow(clippy::let_unit_value)]
        let () = Fits::<V>::OK;
        let text = CString::new(name.as_str()).map_err(|_| SpdkError::NoSuchBdev(name.clone()))?;
        let config = sys::cs_vdev_config {
            name: text.as_ptr(),
            product: V::PRODUCT.as_ptr(),
            uuid: *uuid.as_bytes(),
            block_size: geometry.block_size,
            block_count: geometry.block_count,
        };
        let ops = sys::cs_vdev_ops {
            channel_create: Some(channel_create::<V>),
            channel_destroy: Some(channel_destroy::<V>),
            submit: Some(submit_entry::<V>),
            supports: Some(supports_entry::<V>),
            destruct: Some(destruct_entry::<V>),
            channel_size: size_of::<*mut V::Channel>() as u32,
        };
        let shared = Arc::into_raw(device.clone());
        let mut raw = std::ptr::null_mut();
        // SAFETY: on the control thread; the strings are copied; the functions fit `V`; `shared` is a reference that
        // destruct_entry gives back.
        let rc = unsafe { sys::cs_vdev_create(&config, &ops, shared.cast_mut().cast(), &mut raw) };
        match Errno::check(rc).and_then(|()| NonNull::new(raw).ok_or(Errno::EIO)) {
            Ok(raw) => Ok(Self { raw, device, name: name.clone(), thread_bound: PhantomData }),
            Err(errno) => {
                // SAFETY: the device was not registered, so nobody else has the reference.
                drop(unsafe { Arc::from_raw(shared) });
                Err(SpdkError::failed("registration", format!("bdev {name}"), errno))
            }
        }
    }

    /// The device.
    pub fn device(&self) -> &Arc<V> {
        &self.device
    }

    /// Its bdev's name.
    pub fn name(&self) -> &BdevName {
        &self.name
    }

    /// The name that SPDK has for it now.
    pub fn registered_name(&self) -> String {
        // SAFETY: on the control thread (the handle is !Send), the vdev is registered, so its name is a string that stays for the
        // call.
        unsafe { text::from_c(sys::cs_vdev_name(self.raw.as_ptr())) }
    }

    /// Tells SPDK and all openers of the device's new size.
    pub fn resize(&self, block_count: u64) -> Result<(), SpdkError> {
        // SAFETY: on the control thread (the handle is !Send), the vdev is registered.
        Errno::check(unsafe { sys::cs_vdev_resize(self.raw.as_ptr(), block_count) })
            .map_err(|errno| SpdkError::failed("resize", format!("bdev {}", self.name), errno))
    }

    /// Calls `visit` with each thread's state, on that thread, one after the other; resolves when all were visited.
    pub async fn for_each_channel(&self, visit: impl Fn(&V::Channel) + Send + Sync + 'static) -> Result<(), SpdkError> {
        let (slot, visited) = completion::Slot::<i32>::new();
        let visit = Box::into_raw(Box::new(Visit::<V> { visit: Box::new(visit), slot: Some(slot) }));
        // SAFETY: the box travels as the argument of both callbacks and is taken back by the last one.
        unsafe {
            sys::cs_vdev_for_each_channel(
                self.raw.as_ptr(),
                Some(visit_entry::<V>),
                visit.cast(),
                Some(visit_over::<V>),
            );
        }
        Errno::check(visited.await)
            .map_err(|errno| SpdkError::failed("visit", format!("channels of bdev {}", self.name), errno))
    }

    /// Unregisters the device. Resolves when no channel and no descriptor is left.
    pub async fn destroy(self) -> Result<(), SpdkError> {
        completion::done(|cb, arg| {
            // SAFETY: on the control thread; `self` is consumed, so the pointer is not used again.
            unsafe { sys::cs_vdev_destroy(self.raw.as_ptr(), cb, arg) }
        })
        .await
        .map_err(|errno| SpdkError::failed("unregistration", format!("bdev {}", self.name), errno))
    }
}

/// What is done with each thread's state.
type Visitor<V> = Box<dyn Fn(&<V as Vdev>::Channel) + Send + Sync>;

/// One walk over the channels of a device.
struct Visit<V: Vdev> {
    visit: Visitor<V>,
    slot: Option<completion::Slot<i32>>,
}

unsafe extern "C" fn visit_entry<V: Vdev>(arg: *mut c_void, channel: *mut c_void) {
    // SAFETY: `arg` is the walk's box, shared by reference until visit_over; `channel` holds the state that
    // channel_create put there, on this thread.
    unsafe {
        let visit = &*arg.cast::<Visit<V>>();
        (visit.visit)(&**channel.cast::<*mut V::Channel>());
    }
}

unsafe extern "C" fn visit_over<V: Vdev>(arg: *mut c_void, rc: c_int) {
    // SAFETY: the last callback of the walk, on the thread that began it: the slot's own.
    let mut visit = unsafe { Box::from_raw(arg.cast::<Visit<V>>()) };
    if let Some(slot) = visit.slot.take() {
        slot.fill(rc);
    }
}

unsafe extern "C" fn channel_create<V: Vdev>(device: *mut c_void, channel: *mut c_void) -> c_int {
    // SAFETY: the device is registered and alive; SPDK calls on an SPDK thread and gives channel_size bytes of memory.
    unsafe {
        let device = &*device.cast::<V>();
        match device.open_channel(OnThread::new()) {
            Ok(state) => {
                *channel.cast::<*mut V::Channel>() = Box::into_raw(Box::new(state));
                0
            }
            Err(errno) => -errno.value(),
        }
    }
}

unsafe extern "C" fn channel_destroy<V: Vdev>(_device: *mut c_void, channel: *mut c_void) {
    // SAFETY: SPDK destroys each channel once, on its thread, when no I/O is left on it.
    drop(unsafe { Box::from_raw(*channel.cast::<*mut V::Channel>()) });
}

unsafe extern "C" fn supports_entry<V: Vdev>(device: *mut c_void, kind: sys::cs_io_type) -> bool {
    // SAFETY: the device is registered and alive.
    IoKind::from_raw(kind).is_some_and(|kind| unsafe { &*device.cast::<V>() }.supports(kind))
}

unsafe extern "C" fn destruct_entry<V: Vdev>(device: *mut c_void) {
    // SAFETY: the reference that `create` gave away; SPDK destructs once, after the last channel.
    drop(unsafe { Arc::from_raw(device.cast::<V>().cast_const()) });
}

unsafe extern "C" fn submit_entry<V: Vdev>(device: *mut c_void, channel: *mut c_void, vio: *const sys::cs_vio) {
    // SAFETY: SPDK submits on the channel's thread, with the device alive; `vio` is valid for this call. The context bytes
    // are ours for this I/O, big and aligned enough (Fits), and every field is written before anything reads it, but
    // for `legs`, of which an element is written before its leg is sent.
    unsafe {
        let vio = &*vio;
        let context = vio.context.cast::<Context<V>>();
        debug_assert!((context as usize).is_multiple_of(8));
        let channel = *channel.cast::<*mut V::Channel>();
        let Some(kind) = IoKind::from_raw(vio.type_) else {
            sys::cs_vio_complete(vio.io, false);
            return;
        };
        (&raw mut (*context).io).write(vio.io);
        (&raw mut (*context).device).write(device.cast());
        (&raw mut (*context).channel).write(channel);
        (&raw mut (*context).outstanding).write(0);
        (&raw mut (*context).transfer).write(Transfer {
            kind,
            iovs: vio.iovs,
            iov_count: vio.iov_count,
            offset_blocks: vio.offset_blocks,
            block_count: vio.block_count,
        });
        (&raw mut (*context).state).write((*device.cast::<V>()).new_io());
        in_flight::begin();
        if vio.needs_buffer {
            sys::cs_vio_get_buffer(vio.io, Some(buffer_found::<V>));
            return;
        }
        (*device.cast::<V>()).submit(&*channel, Vio { context: NonNull::new_unchecked(context) });
    }
}

unsafe extern "C" fn buffer_found<V: Vdev>(
    _channel: *mut sys::spdk_io_channel,
    io: *mut sys::spdk_bdev_io,
    success: bool,
) {
    // SAFETY: the context was written by submit_entry before it asked for the buffer.
    unsafe {
        let context = sys::cs_vio_context(io).cast::<Context<V>>();
        if !success {
            in_flight::end();
            sys::cs_vio_complete(io, false);
            return;
        }
        (*context).transfer.iovs = sys::cs_vio_iovs(io, &mut (*context).transfer.iov_count);
        (*(*context).device).submit(&*(*context).channel, Vio { context: NonNull::new_unchecked(context) });
    }
}
