//! What a channel needs to know of the mirror to run I/O: a small value the control core publishes.

use super::mask::MemberMask;

/// The number of a published view; the newest is the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The one after this.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Which members I/O goes to. Every channel applies views in the order of their epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoView {
    /// Its number.
    pub epoch: Epoch,
    /// In sync and reachable: written and read.
    pub rw: MemberMask,
    /// Being rebuilt: written, never read.
    pub wo: MemberMask,
    /// Out, but the survivors' generation that says so is not durable everywhere yet: a write which one of these misses
    /// must wait.
    pub unfenced: MemberMask,
    /// On this node.
    pub local: MemberMask,
    /// Out and not, or not again, in sync, and may come back for what it missed: that is noted meanwhile ([`super::dirty`]).
    pub absent: MemberMask,
    /// False when no survivor could make its generation durable: writes fail, reads go on.
    pub writable: bool,
}

impl IoView {
    /// The members a write goes to.
    #[inline]
    pub const fn written(&self) -> MemberMask {
        self.rw.or(self.wo)
    }
}

/// Why an I/O to a member failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureCause {
    /// The device answered with an error for this I/O; it may serve others.
    Medium,
    /// The device is no longer there: hot-removed, disconnected, or silent for several deadlines.
    Gone,
    /// It did not answer within the deadline. The last one in sync is waited for until it is [`Self::Gone`].
    Deadline,
}

/// What was asked of a member. Unmap and write-zeroes are writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberOp {
    /// Changes no block.
    Read,
    /// Changes blocks.
    Write,
    /// Promises that what was written stays written.
    Flush,
}
