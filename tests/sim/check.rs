//! The invariants, one checker each, and the planted bugs that prove each checker can fail.

/// One invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checker {
    /// A read returns the last acknowledged write, or one that was never acknowledged; and when no write came between, the
    /// same as the read before.
    Data,
    /// Members in sync are equal when no I/O runs, but for what a crash has cut off and nobody has seen since.
    Equal,
    /// Replicas that a crash would bring together differ only where one of them durably knows so: what is dirty is stored before
    /// the first write that makes a difference, and taken off only when all have it.
    Dirty,
    /// Status never claims what is not durable.
    Status,
    /// At least one member is always in sync.
    LastMember,
    /// Once faults stop, every I/O is answered and the mirror heals, within a bound.
    Answered,
    /// While one member never fails, the client never sees an error.
    NoError,
    /// No I/O goes to a member that is durably out, or closed.
    OutUnused,
    /// A write reaches no replica that another mirror has claimed since the one it comes from did.
    OneWriter,
    /// A granted pause means that nothing runs, and a broken one is said to be.
    Pause,
}

/// A defect between the core and its surroundings that the simulator can plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A persist is confirmed but not done.
    FakePersist,
    /// A parked write is acknowledged at once.
    AcknowledgeEarly,
    /// A failed leg of a write is taken for a good one.
    SwallowLegError,
    /// A channel confirms a view long before it applies it.
    ConfirmViewEarly,
    /// Status shows members that are out as in sync.
    RosyStatus,
    /// Status drops the last member after an error of its own.
    DropLast,
    /// A channel does not look at its parked writes when a view arrives.
    LostWakeup,
    /// A failed read is not retried.
    NoRetry,
    /// A channel says it is quiesced while I/O runs.
    HastyQuiesce,
    /// A write begins before its region is dirty on every member.
    AdmitEarly,
    /// Regions are taken off while writes into them run.
    HastyDrain,
    /// A mirror that starts does not look at what its members hold dirty.
    ForgetDirty,
    /// A stop in order tells that nothing is dirty while members differ.
    ForgetAtStop,
    /// Clients are served where members differ.
    ServeUnequal,
    /// A mirror wakes when it is assembled, whoever serves the volume.
    EagerWake,
    /// Clients go to the next engine before what they began with the last one has ended.
    HastyClose,
    /// A mirror wakes without a member that another may have gone on with alone.
    WakeWithoutNewest,
    /// A claim overwrites what a replica held dirty.
    ForgetAtClaim,
    /// One region is missing in what a member that has returned is known to have missed.
    ForgetMissed,
    /// A member that has returned is in sync before the last piece that it missed is copied.
    SyncedEarly,
    /// A piece is copied to a member that has returned while clients write to it.
    CopyUnlocked,
    /// What a member was sent before it failed is not cut off when it returns.
    NoCutOff,
}

/// The first thing that was wrong in a run.
#[derive(Debug, Clone)]
pub struct Violation {
    pub checker: Checker,
    pub at_us: u64,
    pub what: String,
}
