//! What must be stored with whom before a write may begin, and what may be taken off again.
//!
//! Three sets of regions, each within the next: the *hot* ones, in which writes may begin; those that every member is
//! known to hold dirty; and the *image*, which every member is to hold. A region becomes hot when the last member holds
//! it, and leaves the image only after it was not hot any more and every write that had begun by then has ended.
//!
//! Where at most one member counts there is nothing to differ from, and no record is stored.
//!
//! The log also knows what members *miss* that failed and may come back: when one leaves, all that is in the image, as a write
//! may be under way there, or in no more than its disk's cache; from then on, each region that gets hot. A region that was hot
//! when it left and is taken off meanwhile gets hot anew before the next write. So nothing needs to be stored for it: a restart
//! forgets what is missed, and whoever missed anything is then not taken for current, by its generation.

use super::super::mask::{MAX_MEMBERS, MemberIndex, MemberMask};
use super::super::view::IoView;
use super::regions::RegionSet;

/// One store: a late answer about an earlier one is recognised by it, and a late arrival at the replica, as it counts up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreId(pub u32);

/// What the owner must do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Todo {
    /// Store these with the member durably, within a limit; then [`DirtyLog::stored`]. One at a time for each member.
    Store {
        /// Which member.
        member: MemberIndex,
        /// Which store it is.
        store: StoreId,
        /// What is to be stored.
        regions: RegionSet,
        /// The member's replica is not this mirror's yet: it is to be claimed.
        claims: bool,
    },
    /// Let writes begin in these, and those go on that wait for them.
    Admit(RegionSet),
    /// Let no write begin anywhere; none is in flight. What is hot comes anew.
    AdmitNone,
    /// Let writes begin everywhere: no log is needed.
    AdmitAll,
    /// Wait until every write that has begun by now has ended; then [`DirtyLog::drained`].
    Drain,
}

/// What is known of one member's record.
#[derive(Debug, Clone, Copy, Default)]
struct Lane {
    /// What the member holds for sure, as the last answer tells; none when nothing is known.
    stored: Option<RegionSet>,
    /// On its way: the member holds this or `stored`.
    sending: Option<(StoreId, RegionSet)>,
    /// The last store failed: nothing is sent until somebody says so.
    failed: bool,
    /// The replica takes this mirror's records.
    claimed: bool,
}

impl Lane {
    /// The regions that are dirty in the member's record, whatever becomes of what is on its way.
    fn certain(&self) -> RegionSet {
        match (&self.stored, &self.sending) {
            (Some(stored), None) => *stored,
            (Some(stored), Some((_, sending))) => stored.and(sending),
            (None, _) => RegionSet::EMPTY,
        }
    }
}

/// How far regions that are taken off have come.
#[derive(Debug, Clone, Copy)]
struct Clearing {
    regions: RegionSet,
    asked: bool,
}

/// The log of one mirror.
#[derive(Debug, Clone)]
pub struct DirtyLog {
    needed: bool,
    /// There are members that could differ, so that records are stored. Else the log is needed for what absent ones miss only.
    stores: bool,
    /// The owner was told of `needed`.
    told: bool,
    /// Nothing is hot, and the owner has not heard yet.
    reset: bool,
    /// By the newest view.
    written: MemberMask,
    /// Those that some channel may still write to, by a view from before: no region gets hot that one of them does not hold.
    targets: MemberMask,
    write_only: MemberMask,
    /// A member is out and not durably so, or nothing can be made durable: what has ended need not be on all that a crash
    /// would bring together.
    undecided: bool,
    image: RegionSet,
    hot: RegionSet,
    wanted: RegionSet,
    /// Members differ there, and not by writes of this mirror: not taken off.
    unequal: RegionSet,
    clearing: Option<Clearing>,
    lanes: [Lane; MAX_MEMBERS],
    /// By member that may come back: what it may lack.
    missed: [Option<Box<RegionSet>>; MAX_MEMBERS],
    next_store: u32,
}

impl DirtyLog {
    /// The log of a mirror that wakes with this view, whose members it has claimed by stores before `first`. `unequal` are the
    /// regions that some member holds dirty from before.
    pub fn new(view: &IoView, unequal: RegionSet, first: StoreId) -> Self {
        let mut lanes = [Lane::default(); MAX_MEMBERS];
        for member in view.written().iter() {
            lanes[member.get()].claimed = true;
        }
        // What one has missed that is absent already is not known.
        let missed = |place: usize| {
            let absent = MemberIndex::new(place).is_some_and(|member| view.absent.contains(member));
            absent.then(|| Box::new(RegionSet::ALL))
        };
        Self {
            needed: is_needed(view),
            stores: may_differ(view),
            told: false,
            reset: false,
            written: view.written(),
            targets: view.written(),
            write_only: view.wo,
            undecided: is_undecided(view),
            image: unequal,
            hot: RegionSet::EMPTY,
            wanted: RegionSet::EMPTY,
            unequal,
            clearing: None,
            lanes,
            missed: std::array::from_fn(missed),
            next_store: first.0,
        }
    }

    /// Whether the members have records at the moment.
    pub fn stores(&self) -> bool {
        self.stores
    }

    /// Where a member that failed may lack what the others have; none of one that is in sync, or is not waited for.
    pub fn missed(&self, member: MemberIndex) -> Option<&RegionSet> {
        self.missed[member.get()].as_deref()
    }

    /// The regions that are, or are to be, dirty in the members' records.
    pub fn dirty(&self) -> &RegionSet {
        &self.image
    }

    /// A new view is about to be published; [`Self::view_in_force`] follows. One with a new write-only member is so in a pause, when no write is in flight.
    pub fn set_view(&mut self, view: &IoView) {
        self.note_absent(view);
        let joined = view.wo.minus(self.write_only);
        self.write_only = view.wo;
        self.undecided = is_undecided(view);
        if self.undecided {
            // A write that a member missed ends with an error when the others cannot say so: it differs, and stays dirty.
            self.clearing = None;
        }
        if view.written().is_empty() {
            // Nothing can be written until the last member is back, and then it counts with the same others.
            return;
        }
        self.written = view.written();
        self.targets = self.targets.or(view.written());
        for member in joined.iter() {
            self.lanes[member.get()] = Lane::default();
        }
        let needed = is_needed(view);
        if needed && (!self.needed || !joined.is_empty()) {
            self.wanted = self.wanted.or(&self.hot);
            self.hot = RegionSet::EMPTY;
            self.reset = true;
            self.clearing = None;
        }
        if !needed {
            self.wanted = RegionSet::EMPTY;
            self.hot = RegionSet::EMPTY;
            self.unequal = RegionSet::EMPTY;
            self.clearing = None;
            self.reset = false;
        }
        self.told &= needed == self.needed;
        self.needed = needed;
        self.stores = may_differ(view);
        if !self.stores {
            self.clearing = None;
        }
    }

    /// What a member misses that leaves with this view: writes that have begun are all in the image.
    fn note_absent(&mut self, view: &IoView) {
        for member in MemberIndex::all() {
            let missed = &mut self.missed[member.get()];
            if !view.absent.contains(member) {
                *missed = None;
            } else if missed.is_none() || (self.written.contains(member) && !view.written().contains(member)) {
                let before = missed.as_deref().copied().unwrap_or_default();
                *missed = Some(Box::new(before.or(&self.image)));
            }
        }
    }

    /// All channels have the newest view: nothing is written to others any more.
    pub fn view_in_force(&mut self) {
        self.targets = self.written;
    }

    /// Writes wait for these.
    pub fn want(&mut self, regions: &RegionSet) {
        if !self.needed {
            return;
        }
        self.wanted = self.wanted.or(&regions.minus(&self.hot));
        self.image = self.image.or(regions);
        for missed in self.missed.iter_mut().flatten() {
            **missed = missed.or(regions);
        }
        if let Some(clearing) = &mut self.clearing {
            clearing.regions = clearing.regions.minus(regions);
        }
    }

    /// A store has ended; whether it took effect is only known if it did. False when it is not the one that is waited for.
    pub fn stored(&mut self, member: MemberIndex, store: StoreId, done: bool) -> bool {
        let lane = &mut self.lanes[member.get()];
        let Some((sent, regions)) = lane.sending else { return false };
        if sent != store {
            return false;
        }
        if done {
            lane.stored = Some(regions);
            lane.claimed = true;
        } else {
            // The one or the other; what both have is certain.
            lane.stored = lane.stored.map(|stored| stored.and(&regions));
            lane.failed = true;
        }
        lane.sending = None;
        true
    }

    /// A member whose last store failed is to be tried again: it is the last one, or was closed and is open again.
    pub fn retry(&mut self, member: MemberIndex) {
        let lane = &mut self.lanes[member.get()];
        if lane.failed {
            lane.failed = false;
            // What is certain is not what the member holds: store the whole of it.
            lane.stored = None;
        }
    }

    /// Members differ in these no more.
    pub fn set_equal(&mut self, regions: &RegionSet) {
        self.unequal = self.unequal.minus(regions);
    }

    /// Whether regions may be taken off now: no earlier ones are, and every member holds what it should.
    pub fn may_clear(&self) -> bool {
        let settled = |member: MemberIndex| {
            let lane = &self.lanes[member.get()];
            lane.sending.is_none() && !lane.failed
        };
        self.needed
            && self.stores
            && !self.undecided
            && self.clearing.is_none()
            && self.wanted.is_empty()
            && self.write_only.is_empty()
            && !self.image.is_empty()
            && self.targets.iter().all(settled)
    }

    /// Takes off the `quiet` ones, in which no write begins any more, and what is dirty without being hot.
    pub fn clear(&mut self, quiet: &RegionSet) {
        self.hot = self.hot.minus(quiet);
        let cold = self.image.minus(&self.hot).minus(&self.wanted).minus(&self.unequal);
        if !cold.is_empty() {
            self.clearing = Some(Clearing { regions: cold, asked: false });
        }
    }

    /// What was to be taken off stays: it could not be made sure that all members have it durably.
    pub fn keep(&mut self) {
        self.clearing = None;
    }

    /// Every write that had begun when [`Todo::Drain`] was given has ended.
    pub fn drained(&mut self) {
        if let Some(clearing) = self.clearing.take() {
            if clearing.asked {
                self.image = self.image.minus(&clearing.regions);
            } else {
                self.clearing = Some(clearing);
            }
        }
    }

    /// What every member is to hold when the mirror has stopped, after its last write: where they differ still.
    pub fn at_stop(&self) -> RegionSet {
        self.unequal
    }

    /// The number of the next store, for whoever goes on after this log.
    pub fn next_number(&self) -> StoreId {
        StoreId(self.next_store)
    }

    /// The number of a store that its owner makes, after all others.
    pub fn number_store(&mut self) -> StoreId {
        let store = StoreId(self.next_store);
        // A store takes a write to a disk: four billion of them outlast any mirror.
        self.next_store = self.next_store.saturating_add(1);
        store
    }

    /// What to do next. Call it after every event, until there is nothing.
    pub fn next_todo(&mut self) -> Option<Todo> {
        if !self.needed {
            let told = std::mem::replace(&mut self.told, true);
            return (!told).then_some(Todo::AdmitAll);
        }
        self.told = true;
        if std::mem::take(&mut self.reset) {
            return Some(Todo::AdmitNone);
        }
        if !self.stores {
            let ready = std::mem::take(&mut self.wanted);
            self.hot = self.hot.or(&ready);
            return (!ready.is_empty()).then_some(Todo::Admit(ready));
        }
        if let Some(store) = self.next_store() {
            return Some(store);
        }
        if !self.wanted.is_empty() {
            let ready =
                self.targets.iter().fold(self.wanted, |ready, member| ready.and(&self.lanes[member.get()].certain()));
            if !ready.is_empty() {
                self.wanted = self.wanted.minus(&ready);
                self.hot = self.hot.or(&ready);
                return Some(Todo::Admit(ready));
            }
        }
        match &mut self.clearing {
            Some(clearing) if !clearing.asked => {
                clearing.asked = true;
                Some(Todo::Drain)
            }
            _ => None,
        }
    }

    fn next_store(&mut self) -> Option<Todo> {
        let image = self.image;
        let stale = |lane: &Lane| {
            lane.sending.is_none() && !lane.failed && lane.stored.as_ref().is_none_or(|stored| *stored != image)
        };
        // A mirror that has nothing dirty does not tell so to members that it never told anything; those that joined are claimed.
        let silent = image.is_empty() && self.lanes.iter().all(|lane| lane.stored.is_none());
        let wanted = |lane: &Lane| stale(lane) && !(silent && lane.claimed);
        let member = self.written.iter().find(|member| wanted(&self.lanes[member.get()]))?;
        let store = self.number_store();
        let lane = &mut self.lanes[member.get()];
        lane.sending = Some((store, image));
        Some(Todo::Store { member, store, regions: image, claims: !lane.claimed })
    }
}

fn is_undecided(view: &IoView) -> bool {
    !view.unfenced.is_empty() || !view.writable
}

/// All members that a crash could bring together: with one alone there is nothing to differ from. One that is out is among
/// them until the survivors' generation says so durably.
fn may_differ(view: &IoView) -> bool {
    view.written().or(view.unfenced).count() >= 2
}

fn is_needed(view: &IoView) -> bool {
    may_differ(view) || !view.absent.is_empty()
}

#[cfg(test)]
mod tests;
