//! A closed-loop load on a bdev, run inside the control thread's reactor: what benches measure with.
//!
//! Each of `depth` slots has one I/O in flight and submits the next one from the callback of the last, at random places.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spdk_sys as sys;

use super::bdev::{ChannelInner, IoKind, OpenBdev, Transfer, submit};
use super::completion::Slot;
use super::control::OnControl;
use super::dma::DmaBuffer;
use super::errno::{Errno, SpdkError};

/// Where the I/Os of a job go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    /// Anywhere, each place as likely as any other.
    Uniform,
    /// Nine of ten into the first tenth.
    Skewed,
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct LoadJob {
    /// Read or write.
    pub kind: IoKind,
    /// I/Os in flight.
    pub depth: usize,
    /// Bytes of one, whole blocks.
    pub bytes: usize,
    /// For how long.
    pub duration: Duration,
    /// Where.
    pub places: Places,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct LoadReport {
    /// I/Os that were answered.
    pub count: u64,
    /// I/Os that failed.
    pub failed: u64,
    /// From the first submit to the last answer.
    pub elapsed: Duration,
}

impl LoadReport {
    /// Answers a second.
    pub fn iops(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }

    /// Time of the reactor for one I/O, when it had nothing else to do.
    pub fn ns_per_io(&self) -> f64 {
        self.elapsed.as_nanos() as f64 / self.count.max(1) as f64
    }
}

struct Generator {
    channel: Rc<ChannelInner>,
    kind: IoKind,
    io_blocks: u64,
    places: u64,
    skewed: bool,
    random: Cell<u64>,
    until_ticks: u64,
    count: Cell<u64>,
    failed: Cell<u64>,
    in_flight: Cell<usize>,
    done: RefCell<Option<Slot<()>>>,
}

struct LoadSlot {
    generator: *const Generator,
    iov: sys::iovec,
    _buffer: DmaBuffer,
}

/// Runs one job to its end.
pub async fn run(on: OnControl, bdev: &Arc<OpenBdev>, job: LoadJob) -> Result<LoadReport, SpdkError> {
    let channel = bdev.channel(on.thread())?.0;
    let geometry = bdev.geometry();
    let io_blocks = job.bytes as u64 / u64::from(geometry.block_size);
    if io_blocks == 0 || io_blocks > geometry.block_count || job.depth == 0 {
        return Err(SpdkError::failed("load", format!("bdev {}", bdev.name()), Errno::EINVAL));
    }
    let (slot, done) = Slot::new();
    // SAFETY: plain reads of counters.
    let (now, hz) = unsafe { (sys::spdk_get_ticks(), sys::spdk_get_ticks_hz()) };
    let generator = Box::new(Generator {
        channel,
        kind: job.kind,
        io_blocks,
        places: geometry.block_count / io_blocks,
        skewed: job.places == Places::Skewed,
        random: Cell::new(0x9e37_79b9_7f4a_7c15),
        until_ticks: now + (job.duration.as_secs_f64() * hz as f64) as u64,
        count: Cell::new(0),
        failed: Cell::new(0),
        in_flight: Cell::new(job.depth),
        done: RefCell::new(Some(slot)),
    });
    let mut slots = Vec::with_capacity(job.depth);
    for _ in 0..job.depth {
        let buffer = DmaBuffer::zeroed(job.bytes)?;
        let iov = sys::iovec { iov_base: buffer.pointer().cast(), iov_len: job.bytes as _ };
        slots.push(Box::new(LoadSlot { generator: &*generator, iov, _buffer: buffer }));
    }
    let started = Instant::now();
    for slot in &mut slots {
        // SAFETY: slots and generator live until `done`, which is filled when nothing is in flight any more.
        unsafe { next(std::ptr::from_mut(&mut **slot)) };
    }
    done.await;
    Ok(LoadReport { count: generator.count.get(), failed: generator.failed.get(), elapsed: started.elapsed() })
}

/// Submits the slot's next I/O.
///
/// # Safety
/// The slot and its generator are alive and the slot has no I/O in flight.
unsafe fn next(slot: *mut LoadSlot) {
    // SAFETY: by contract.
    let (generator, iovs) = unsafe { (&*(*slot).generator, &raw mut (*slot).iov) };
    let mut random = generator.random.get();
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    generator.random.set(random);
    // Other bits than those that choose within the places.
    let all = generator.places;
    let places = if generator.skewed && (random >> 32) % 10 != 0 { (all / 10).max(1) } else { all };
    let transfer = Transfer {
        kind: generator.kind,
        iovs,
        iov_count: 1,
        offset_blocks: (random & u64::from(u32::MAX)) % places * generator.io_blocks,
        block_count: generator.io_blocks,
    };
    // SAFETY: iovec, buffer and channel live until the callback (the slot does).
    let rc = unsafe { submit(&generator.channel, transfer, Some(answered), slot.cast()) };
    if Errno::check(rc).is_err() {
        generator.failed.set(generator.failed.get() + 1);
        leave(generator);
    }
}

unsafe extern "C" fn answered(io: *mut sys::spdk_bdev_io, success: bool, arg: *mut c_void) {
    let slot = arg.cast::<LoadSlot>();
    // SAFETY: the I/O is finished; slot and generator are alive, as this slot still counts as in flight.
    unsafe {
        sys::spdk_bdev_free_io(io);
        let generator = &*(*slot).generator;
        generator.count.set(generator.count.get() + 1);
        generator.failed.set(generator.failed.get() + u64::from(!success));
        if sys::spdk_get_ticks() < generator.until_ticks { next(slot) } else { leave(generator) }
    }
}

fn leave(generator: &Generator) {
    generator.in_flight.set(generator.in_flight.get() - 1);
    if generator.in_flight.get() == 0
        && let Some(done) = generator.done.borrow_mut().take()
    {
        done.fill(());
    }
}
