//! A member as the mirror has it open, and how its disk is flushed.

use std::sync::Arc;

use tokio::sync::watch;

use super::core::OpenMember;
use crate::spdk::bdev::OpenBdev;
use crate::spdk::control::Reply;

/// Makes what was written to a disk of this node durable. An lvol itself has no flush (SPDK's lvol module offers none).
pub trait DiskFlush: Send + Sync + 'static {
    /// Starts a flush; `reply` gets true when all writes that completed before are durable.
    fn flush(&self, reply: Reply<bool>);
}

/// How a flush reaches a member's disk.
#[derive(Clone)]
pub enum MemberFlush {
    /// By a flush on the member's bdev: it passes it on to its own node's disk.
    Bdev,
    /// By the disk below the member, which is on this node.
    Disk(Arc<dyn DiskFlush>),
}

/// An opened member: nothing else can become part of a mirror.
pub struct OpenedMember {
    /// Who and where it is, as the assembly knows it.
    pub open: OpenMember,
    /// Its open device.
    pub bdev: Arc<OpenBdev>,
    /// How it is flushed.
    pub flush: MemberFlush,
    /// True once its device is going away and wants to be closed, also when there is no I/O that would fail.
    pub removed: watch::Receiver<bool>,
}
