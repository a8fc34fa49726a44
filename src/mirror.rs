//! RAID1: one block device over 1 to 8 members, each the head of a replica.
//!
//! - [`core`]: who the members are, what an acknowledgement needs, what happens when one fails. Sans-I/O: events and
//!   answers in, actions out, so that `tests/sim.rs` can run it under virtual time with faults.
//! - [`member`]: a member as the mirror has it open.
//! - `device`: the bdev, the hot path: one [`core::ChannelState`] a reactor, one tracker an I/O.
//! - `deadlines`: how long members take, by reactor.
//! - [`activity`]: what it does at the moment.
//! - `driver`: runs [`core::control::MirrorCore`] on the control thread.
//! - `driver/join`: how a new member joins, and how a range is locked for it. `range_gate`: such a range on one reactor.
//! - `resync`: copies what a joined member lacks while clients write.
//! - [`handle`]: what the owner holds.

pub mod activity;
pub mod core;
mod deadlines;
mod device;
mod driver;
pub mod handle;
pub mod member;
mod range_gate;
mod resync;

pub use activity::Activity;
pub use handle::{MemberStatus, Mirror, MirrorHost, MirrorParts, MirrorStatus, PauseGuard};
pub use member::{DiskFlush, MemberFlush, OpenedMember};
pub use resync::ResyncProgress;
