//! Consuming bdevs: an opened device that any thread may share, a channel bound to one thread, I/O as futures.

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use spdk_sys as sys;

use super::completion::Slot;
use super::control::{OnControl, OnThread};
use super::dma::DmaBuffer;
use super::errno::{Errno, SpdkError};
use crate::name::BdevName;

/// Size of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a logical block.
    pub block_size: u32,
    /// Logical blocks.
    pub block_count: u64,
}

impl Geometry {
    /// Bytes in all.
    pub fn size(&self) -> u64 {
        u64::from(self.block_size) * self.block_count
    }
}

/// What a bdev tells an opener unasked, on the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BdevEvent {
    /// The device is going away; it waits for its descriptors to be closed.
    Removed,
    /// The device has another size now.
    Resized,
}

/// How a device flushes so that the flush really reaches its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushWay {
    /// The bdev's own flush.
    Bdev,
    /// A raw NVMe Flush: `bdev_nvme` answers a plain one without sending it (`spdk-versions` §8, 12).
    NvmeCommand,
    /// The bdev has no flush; what it has written is as durable as it gets.
    None,
}

struct EventSink(Box<dyn Fn(BdevEvent)>);

/// An open descriptor. Shared by `Arc`; the last owner's drop closes it on the thread that opened it.
pub struct OpenBdev {
    raw: NonNull<sys::spdk_bdev_desc>,
    name: BdevName,
    geometry: Geometry,
    flush: FlushWay,
    io_types: u32,
    sink: *mut EventSink,
    opener: *mut sys::spdk_thread,
}

// SAFETY: a descriptor may be used for channels and I/O from any SPDK thread; only closing is bound to the thread that
// opened it, and Drop sends it there. `sink` is touched only by that thread. The other fields are plain data.
unsafe impl Send for OpenBdev {}
// SAFETY: as above; no method mutates.
unsafe impl Sync for OpenBdev {}

impl OpenBdev {
    /// Opens the bdev of this name or alias. `events` is called on the control thread until the close.
    pub fn open(
        _on: OnControl,
        name: &BdevName,
        write: bool,
        events: impl Fn(BdevEvent) + 'static,
    ) -> Result<Arc<Self>, SpdkError> {
        let text = CString::new(name.as_str()).map_err(|_| SpdkError::NoSuchBdev(name.clone()))?;
        let sink = Box::into_raw(Box::new(EventSink(Box::new(events))));
        let mut raw = std::ptr::null_mut();
        // SAFETY: on the control thread; the name outlives the call, `sink` outlives the descriptor, `raw` is written on success.
        let rc = unsafe { sys::cs_bdev_open(text.as_ptr(), write, sink.cast(), &mut raw) };
        let opened = Errno::check(rc).and_then(|()| NonNull::new(raw).ok_or(Errno::EIO));
        let raw = opened.map_err(|errno| {
            // SAFETY: no descriptor was made, so nothing else knows the sink.
            drop(unsafe { Box::from_raw(sink) });
            match errno {
                Errno::ENODEV => SpdkError::NoSuchBdev(name.clone()),
                errno => SpdkError::failed("open", format!("bdev {name}"), errno),
            }
        })?;
        let info = describe(raw);
        let product = product_of(&info);
        Ok(Arc::new(Self {
            raw,
            name: name.clone(),
            geometry: Geometry { block_size: info.block_size, block_count: info.block_count },
            flush: match (product.as_str(), info.io_types & (1 << sys::CS_IO_FLUSH) != 0) {
                ("NVMe disk", _) => FlushWay::NvmeCommand,
                (_, true) => FlushWay::Bdev,
                (_, false) => FlushWay::None,
            },
            io_types: info.io_types,
            sink,
            // SAFETY: reads the current thread, which is the control thread.
            opener: unsafe { sys::spdk_get_thread() },
        }))
    }

    /// The name it was opened by.
    pub fn name(&self) -> &BdevName {
        &self.name
    }

    /// Its size when it was opened.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Its size now.
    pub fn current_geometry(&self, _on: OnThread) -> Geometry {
        let info = describe(self.raw);
        Geometry { block_size: info.block_size, block_count: info.block_count }
    }

    pub(super) fn raw_desc(&self) -> *mut sys::spdk_bdev_desc {
        self.raw.as_ptr()
    }

    /// How it flushes.
    pub fn flush_way(&self) -> FlushWay {
        self.flush
    }

    /// Whether it has a command of this kind.
    pub fn supports(&self, kind: IoKind) -> bool {
        self.io_types & (1 << kind.raw()) != 0
    }

    /// A channel for the calling thread.
    pub fn channel(self: &Arc<Self>, on: OnThread) -> Result<IoChannel, SpdkError> {
        let _ = on;
        // SAFETY: on an SPDK thread (the token), with an open descriptor.
        let raw = unsafe { sys::spdk_bdev_get_io_channel(self.raw.as_ptr()) };
        match NonNull::new(raw) {
            Some(raw) => Ok(IoChannel(Rc::new(ChannelInner { raw, bdev: self.clone() }))),
            None => Err(SpdkError::failed("channel", format!("bdev {}", self.name), Errno::ENOMEM)),
        }
    }
}

impl std::fmt::Debug for OpenBdev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenBdev({})", self.name)
    }
}

/// What a close needs, on its way to the thread that opened.
struct Closing {
    raw: *mut sys::spdk_bdev_desc,
    sink: *mut EventSink,
}

unsafe extern "C" fn close(arg: *mut c_void) {
    // SAFETY: `arg` is the box made in Drop, delivered once.
    let closing = unsafe { Box::from_raw(arg.cast::<Closing>()) };
    // SAFETY: this is the thread that opened the descriptor, and its last owner is gone. SPDK delivers no event after
    // the close, so the sink can be freed.
    unsafe {
        sys::spdk_bdev_close(closing.raw);
        drop(Box::from_raw(closing.sink));
    }
}

impl Drop for OpenBdev {
    fn drop(&mut self) {
        let closing = Box::into_raw(Box::new(Closing { raw: self.raw.as_ptr(), sink: self.sink })).cast();
        // SAFETY: the opener thread lives until the reactors stop; `closing` is taken back by `close`.
        unsafe {
            if sys::spdk_get_thread() == self.opener {
                close(closing);
            } else {
                sys::spdk_thread_send_msg(self.opener, Some(close), closing);
            }
        }
    }
}

/// The receiver of all descriptors' events (set once by the environment).
pub(super) unsafe extern "C" fn event(arg: *mut c_void, event: sys::cs_bdev_event) {
    // SAFETY: `arg` is the sink of an open descriptor; it is freed only after the close, which happens on this thread.
    let sink = unsafe { &*arg.cast::<EventSink>() };
    match event {
        sys::CS_BDEV_REMOVE => (sink.0)(BdevEvent::Removed),
        sys::CS_BDEV_RESIZE => (sink.0)(BdevEvent::Resized),
        _ => {}
    }
}

fn describe(raw: NonNull<sys::spdk_bdev_desc>) -> sys::cs_bdev_info {
    // SAFETY: the structure is plain data for which zero is a value; the descriptor is open.
    unsafe {
        let mut info = std::mem::zeroed::<sys::cs_bdev_info>();
        sys::cs_bdev_desc_info(raw.as_ptr(), &mut info);
        info
    }
}

fn product_of(info: &sys::cs_bdev_info) -> String {
    if info.product.is_null() {
        return String::new();
    }
    // SAFETY: a NUL-terminated string of a bdev that is open at this moment.
    unsafe { CStr::from_ptr(info.product) }.to_string_lossy().into_owned()
}

/// Kinds of I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IoKind {
    /// Read into memory.
    Read,
    /// Write from memory.
    Write,
    /// Give blocks back. What they read as afterwards is the device's affair; a replica's head makes it zeroes.
    Unmap,
    /// Make all completed writes durable.
    Flush,
    /// Abort and start over.
    Reset,
    /// Write zeroes without memory.
    WriteZeroes,
}

impl IoKind {
    pub(super) fn raw(self) -> sys::cs_io_type {
        match self {
            Self::Read => sys::CS_IO_READ,
            Self::Write => sys::CS_IO_WRITE,
            Self::Unmap => sys::CS_IO_UNMAP,
            Self::Flush => sys::CS_IO_FLUSH,
            Self::Reset => sys::CS_IO_RESET,
            Self::WriteZeroes => sys::CS_IO_WRITE_ZEROES,
        }
    }

    pub(super) fn from_raw(raw: sys::cs_io_type) -> Option<Self> {
        match raw {
            sys::CS_IO_READ => Some(Self::Read),
            sys::CS_IO_WRITE => Some(Self::Write),
            sys::CS_IO_UNMAP => Some(Self::Unmap),
            sys::CS_IO_FLUSH => Some(Self::Flush),
            sys::CS_IO_RESET => Some(Self::Reset),
            sys::CS_IO_WRITE_ZEROES => Some(Self::WriteZeroes),
            _ => None,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Unmap => "unmap",
            Self::Flush => "flush",
            Self::Reset => "reset",
            Self::WriteZeroes => "write of zeroes",
        }
    }
}

pub(super) struct ChannelInner {
    pub(super) raw: NonNull<sys::spdk_io_channel>,
    pub(super) bdev: Arc<OpenBdev>,
}

impl Drop for ChannelInner {
    fn drop(&mut self) {
        // SAFETY: Rc keeps this value on the thread that got the channel; every I/O in flight holds a reference, so
        // none is left.
        unsafe { sys::spdk_put_io_channel(self.raw.as_ptr()) };
    }
}

/// A thread's way to a device. I/O in flight keeps it alive.
#[derive(Clone)]
pub struct IoChannel(pub(super) Rc<ChannelInner>);

/// Where memory of an I/O lies; `base` is null for kinds without.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    pub(super) kind: IoKind,
    pub(super) iovs: *mut sys::iovec,
    pub(super) iov_count: i32,
    pub(super) offset_blocks: u64,
    pub(super) block_count: u64,
}

/// Submits one I/O. A kind the device lacks is answered at once: flush succeeds, unmap becomes writing zeroes.
///
/// # Safety
/// The iovecs and their memory live until the callback; `cb` fits `arg`; the channel lives until then too.
pub(super) unsafe fn submit(
    channel: &ChannelInner,
    transfer: Transfer,
    cb: sys::spdk_bdev_io_completion_cb,
    arg: *mut c_void,
) -> i32 {
    let (desc, ch) = (channel.bdev.raw.as_ptr(), channel.raw.as_ptr());
    let Transfer { kind, iovs, iov_count, offset_blocks, block_count } = transfer;
    // SAFETY: descriptor and channel are open and of this thread; the rest is this function's contract.
    unsafe {
        match kind {
            IoKind::Read => sys::spdk_bdev_readv_blocks(desc, ch, iovs, iov_count, offset_blocks, block_count, cb, arg),
            IoKind::Write => {
                sys::spdk_bdev_writev_blocks(desc, ch, iovs, iov_count, offset_blocks, block_count, cb, arg)
            }
            IoKind::Unmap if channel.bdev.supports(IoKind::Unmap) => {
                sys::spdk_bdev_unmap_blocks(desc, ch, offset_blocks, block_count, cb, arg)
            }
            IoKind::Unmap | IoKind::WriteZeroes => {
                sys::spdk_bdev_write_zeroes_blocks(desc, ch, offset_blocks, block_count, cb, arg)
            }
            IoKind::Flush => match channel.bdev.flush {
                FlushWay::NvmeCommand => sys::cs_bdev_nvme_flush(desc, ch, cb, arg),
                FlushWay::Bdev | FlushWay::None => {
                    sys::spdk_bdev_flush_blocks(desc, ch, offset_blocks, block_count, cb, arg)
                }
            },
            IoKind::Reset => sys::spdk_bdev_reset(desc, ch, cb, arg),
        }
    }
}

/// How an I/O ended, with its buffer.
type Ended = (Option<DmaBuffer>, Result<(), Errno>);

/// An I/O of ours in flight: owns what SPDK points at until the callback.
struct InFlight {
    channel: Rc<ChannelInner>,
    transfer: Transfer,
    iov: sys::iovec,
    buffer: Option<DmaBuffer>,
    slot: Option<Slot<Ended>>,
}

impl InFlight {
    fn finish(mut self, result: Result<(), Errno>) {
        let buffer = self.buffer.take();
        if let Some(slot) = self.slot.take() {
            slot.fill((buffer, result));
        }
    }

    fn go(mut self: Box<Self>) {
        self.transfer.iovs = &mut self.iov;
        let transfer = self.transfer;
        let channel = self.channel.clone();
        let raw = Box::into_raw(self).cast::<c_void>();
        // SAFETY: the box owns iovec, buffer and a reference to the channel until `io_done` takes it back.
        let rc = unsafe { submit(&channel, transfer, Some(io_done), raw) };
        match Errno::check(rc) {
            Ok(()) => {}
            Err(Errno::ENOMEM) => {
                // SAFETY: SPDK refused the I/O, the box is kept by the wait entry until `io_again`.
                let waits = unsafe {
                    sys::cs_bdev_wait_for_io(channel.bdev.raw.as_ptr(), channel.raw.as_ptr(), Some(io_again), raw)
                };
                if let Err(errno) = Errno::check(waits) {
                    // SAFETY: neither the I/O nor the wait was taken, so the box is ours again.
                    unsafe { Box::from_raw(raw.cast::<Self>()) }.finish(Err(errno));
                }
            }
            Err(errno) => {
                // SAFETY: SPDK refused the I/O and will not call back.
                unsafe { Box::from_raw(raw.cast::<Self>()) }.finish(Err(errno));
            }
        }
    }
}

unsafe extern "C" fn io_done(io: *mut sys::spdk_bdev_io, success: bool, arg: *mut c_void) {
    // SAFETY: `arg` is the box that `go` leaked for exactly this callback; the I/O is finished and ours to free.
    let in_flight = unsafe {
        sys::spdk_bdev_free_io(io);
        Box::from_raw(arg.cast::<InFlight>())
    };
    in_flight.finish(if success { Ok(()) } else { Err(Errno::EIO) });
}

unsafe extern "C" fn io_again(arg: *mut c_void) {
    // SAFETY: `arg` is the box that `go` left with the wait entry, which calls once.
    unsafe { Box::from_raw(arg.cast::<InFlight>()) }.go();
}

/// An NVMe admin command that reads; the numbers are those of the NVMe base specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminRead {
    /// Its opcode.
    pub opcode: u8,
    /// Its namespace identifier; all ones mean the whole controller.
    pub namespace: u32,
    /// Its first parameter.
    pub dword_10: u32,
}

/// The buffer, and the kind and code of a status that is not success.
type AdminEnded = (DmaBuffer, Option<(c_int, c_int)>);

/// An admin command of ours in flight: owns what SPDK points at until the callback.
struct AdminInFlight {
    channel: Rc<ChannelInner>,
    buffer: DmaBuffer,
    slot: Slot<AdminEnded>,
}

unsafe extern "C" fn admin_done(io: *mut sys::spdk_bdev_io, success: bool, arg: *mut c_void) {
    let (mut kind, mut code) = (0, 0);
    // SAFETY: `arg` is the box that `nvme_admin_read` leaked for exactly this callback; the I/O is finished, asked for its
    // status once, and ours to free.
    let ended = unsafe {
        sys::cs_bdev_io_status(io, &mut kind, &mut code);
        sys::spdk_bdev_free_io(io);
        Box::from_raw(arg.cast::<AdminInFlight>())
    };
    let AdminInFlight { channel, buffer, slot } = *ended;
    drop(channel);
    slot.fill((buffer, (!success).then_some((kind, code))));
}

impl IoChannel {
    /// The device.
    pub fn bdev(&self) -> &Arc<OpenBdev> {
        &self.0.bdev
    }

    /// Reads `buffer.len()` bytes at `offset`. Both must be multiples of the block size.
    pub async fn read(&self, offset: u64, buffer: DmaBuffer) -> Result<DmaBuffer, SpdkError> {
        let length = buffer.len() as u64;
        match self.io(IoKind::Read, offset, length, Some(buffer)).await? {
            Some(buffer) => Ok(buffer),
            None => Err(SpdkError::answer("read", self.object(), "the buffer was lost")),
        }
    }

    /// Writes the buffer at `offset` and gives it back. Both must be multiples of the block size.
    pub async fn write(&self, offset: u64, buffer: DmaBuffer) -> Result<DmaBuffer, SpdkError> {
        let length = buffer.len() as u64;
        match self.io(IoKind::Write, offset, length, Some(buffer)).await? {
            Some(buffer) => Ok(buffer),
            None => Err(SpdkError::answer("write", self.object(), "the buffer was lost")),
        }
    }

    /// Makes a range read as zeroes, keeping its space.
    pub async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), SpdkError> {
        self.io(IoKind::WriteZeroes, offset, length, None).await.map(drop)
    }

    /// Gives a range's space back.
    pub async fn unmap(&self, offset: u64, length: u64) -> Result<(), SpdkError> {
        self.io(IoKind::Unmap, offset, length, None).await.map(drop)
    }

    /// Makes all that was written durable, as far down as the device can.
    pub async fn flush(&self) -> Result<(), SpdkError> {
        if self.0.bdev.flush == FlushWay::None {
            return Ok(());
        }
        self.io(IoKind::Flush, 0, self.0.bdev.geometry.size(), None).await.map(drop)
    }

    /// Sends an NVMe admin command that fills `buffer`, to a bdev of NVMe that is open for writing.
    pub async fn nvme_admin_read(&self, command: AdminRead, buffer: DmaBuffer) -> Result<DmaBuffer, SpdkError> {
        let (slot, filled) = Slot::new();
        let pending = Box::new(AdminInFlight { channel: self.0.clone(), buffer, slot });
        let (pointer, length) = (pending.buffer.pointer().cast::<c_void>(), pending.buffer.len());
        let (desc, ch) = (self.0.bdev.raw.as_ptr(), self.0.raw.as_ptr());
        let AdminRead { opcode, namespace, dword_10 } = command;
        let raw = Box::into_raw(pending).cast::<c_void>();
        // SAFETY: descriptor and channel are open and of this thread; the box owns the buffer and keeps the channel until
        // `admin_done` takes it back.
        let rc = unsafe {
            sys::cs_bdev_nvme_admin_read(desc, ch, opcode, namespace, dword_10, pointer, length, Some(admin_done), raw)
        };
        if let Err(errno) = Errno::check(rc) {
            // SAFETY: SPDK refused the command and will not call back.
            drop(unsafe { Box::from_raw(raw.cast::<AdminInFlight>()) });
            return Err(SpdkError::failed("admin command", self.object(), errno));
        }
        let (buffer, status) = filled.await;
        match status {
            None => Ok(buffer),
            Some((kind, code)) => {
                let problem = format!("the device answered status {kind:#x}/{code:#x}");
                Err(SpdkError::answer("admin command", self.object(), problem))
            }
        }
    }

    fn object(&self) -> String {
        format!("bdev {}", self.0.bdev.name)
    }

    async fn io(
        &self,
        kind: IoKind,
        offset: u64,
        length: u64,
        buffer: Option<DmaBuffer>,
    ) -> Result<Option<DmaBuffer>, SpdkError> {
        let block = u64::from(self.0.bdev.geometry.block_size);
        if !offset.is_multiple_of(block) || !length.is_multiple_of(block) || length == 0 {
            return Err(SpdkError::answer(
                kind.noun(),
                self.object(),
                format!("{length} bytes at {offset} are not whole blocks of {block}"),
            ));
        }
        let (slot, filled) = Slot::new();
        let iov = sys::iovec {
            iov_base: buffer.as_ref().map_or(std::ptr::null_mut(), |buffer| buffer.pointer().cast()),
            iov_len: buffer.as_ref().map_or(0, |buffer| buffer.len()) as _,
        };
        let transfer = Transfer {
            kind,
            iovs: std::ptr::null_mut(),
            iov_count: 1,
            offset_blocks: offset / block,
            block_count: length / block,
        };
        Box::new(InFlight { channel: self.0.clone(), transfer, iov, buffer, slot: Some(slot) }).go();
        let (buffer, result) = filled.await;
        result.map_err(|errno| {
            SpdkError::failed(kind.noun(), format!("{} at {offset}+{length}", self.object()), errno)
        })?;
        Ok(buffer)
    }
}
