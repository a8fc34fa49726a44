//! How much I/O one reactor may have in one lvol store.
//!
//! SPDK gives each thread 512 request sets for a store (`SPDK_BLOB_OPTS_DEFAULT_CHANNEL_OPS`), shared by all its lvols.
//! The bdev layer cuts an lvol's I/O into pieces of at most 64 KiB, and a piece that needs a new cluster takes two sets.
//! 20.07 fails a write for good when the sets run out at that point, instead of trying again; so they must not.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::head::HeadDevice;
use crate::name::LvsName;
use crate::spdk::bdev::IoChannel;
use crate::spdk::vdev::Vio;

/// Pieces in a store at once: with two sets each half of what there is, the rest is for backups and metadata.
const PIECES: u32 = 128;
/// The most the bdev layer leaves in one piece.
const PIECE_BYTES: u64 = 64 << 10;

thread_local! {
    static BUDGETS: RefCell<HashMap<LvsName, Rc<Budget>>> = RefCell::new(HashMap::new());
}

/// The pieces of one store on one reactor. I/O beyond them waits in order; clients' queue depths bound how much.
pub(super) struct Budget {
    free: Cell<u32>,
    waiting: RefCell<VecDeque<(u32, IoChannel, Vio<HeadDevice>)>>,
}

impl Budget {
    /// Of a store on the calling reactor.
    pub(super) fn of(store: &LvsName) -> Rc<Self> {
        BUDGETS.with_borrow_mut(|budgets| {
            let new = || Rc::new(Self { free: Cell::new(PIECES), waiting: RefCell::new(VecDeque::new()) });
            budgets.entry(store.clone()).or_insert_with(new).clone()
        })
    }

    /// What an I/O of so many bytes takes; never more than there is.
    pub(super) fn pieces(bytes: u64) -> u32 {
        // One more for an I/O that does not start at a boundary.
        u32::try_from(bytes.div_ceil(PIECE_BYTES) + 1).unwrap_or(PIECES).min(PIECES)
    }

    /// Sends the I/O on its way now, or when there is room.
    pub(super) fn send(&self, pieces: u32, lvol: &IoChannel, io: Vio<HeadDevice>) {
        if self.waiting.borrow().is_empty() && self.free.get() >= pieces {
            self.start(pieces, lvol, io);
        } else {
            self.waiting.borrow_mut().push_back((pieces, lvol.clone(), io));
        }
    }

    /// An I/O is back.
    pub(super) fn give_back(&self, pieces: u32) {
        self.free.set(self.free.get() + pieces);
        assert!(self.free.get() <= PIECES, "every piece is taken before it is given back");
        loop {
            let next = {
                let mut waiting = self.waiting.borrow_mut();
                match waiting.front() {
                    Some((pieces, ..)) if *pieces <= self.free.get() => waiting.pop_front(),
                    _ => None,
                }
            };
            let Some((pieces, lvol, io)) = next else { return };
            self.start(pieces, &lvol, io);
        }
    }

    fn start(&self, pieces: u32, lvol: &IoChannel, io: Vio<HeadDevice>) {
        self.free.set(self.free.get() - pieces);
        let mut fork = io.fork();
        fork.submit(0, lvol);
        fork.finish();
    }
}
