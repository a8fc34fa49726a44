//! The mirror without its I/O: pure state machines, no clock, no allocation after construction.
//!
//! Two halves, joined by a small value, the [`IoView`]:
//!
//! - [`control`]: one [`MirrorCore`] per mirror on its control thread. It takes [`Event`]s (a member failed, a
//!   generation is durable, all channels have the view) and returns [`Action`]s (publish a view, persist a
//!   generation, close a member).
//! - [`channel`]: one [`ChannelState`] per reactor: the view in force there, and what was counted and reported. Each
//!   I/O carries a [`WriteTracker`] or [`ReadTracker`] inline, and asks nobody else while nothing fails.
//!
//! The rule that both serve (DESIGN §5): *a write that some member missed is acknowledged only after every survivor
//! holds, durably, a generation that the member lacks, and after no channel reads from that member any more.*
//!
//! Around them: [`members`] (names and addresses by index), [`generation`] and [`assembly`] (who may take part after a
//! restart), [`policy`] (where to read), [`deadline`] (who does not answer).
//!
//! What may differ after a crash: [`dirty`] (what is durable before a write begins), [`unequal`] (made equal again before a
//! client sees it).
//!
//! A member that was out joins like a new one, [`MemberMode::Wo`].

#![forbid(unsafe_code)]

pub mod assembly;
pub mod channel;
pub mod control;
pub mod deadline;
pub mod dirty;
pub mod generation;
pub mod mask;
pub mod members;
pub mod policy;
pub mod read;
pub mod unequal;
pub mod view;
pub mod waking;
pub mod write;

pub use assembly::{
    Assembly, AssemblyError, Candidate, Found, Loss, Missing, Refused, RefusedReason, Standing, assemble, complete,
    records_that_count, salvage,
};
pub use channel::{ChannelState, Unavailable};
pub use control::{
    Action, Actions, Event, Health, MemberMode, MirrorCore, Notice, OutReason, PauseId, Refusal, Status,
};
pub use deadline::{DeadlineWheel, Expiry, OVERDUE_DEADLINES, Ticket, Tickets};
pub use dirty::{DirtyLog, DirtyOrder, DirtyRecord, HotMap, RegionSet, Regions, ReplicaRecords};
pub use generation::{Generation, GenerationOrder, GenerationRecord, Incarnation, Replaces};
pub use mask::{MAX_MEMBERS, MemberIndex, MemberMask};
pub use members::{Locality, Members, MembersError, OpenMember};
pub use policy::ReadPolicy;
pub use read::{ReadOutcome, ReadTracker};
pub use unequal::{Equalizer, UnequalMap};
pub use view::{Epoch, FailureCause, IoView, MemberOp};
pub use waking::{Verdict, Waking};
pub use write::{WriteOutcome, WriteTracker};
