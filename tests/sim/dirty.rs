//! The log of dirty regions and the copies that make members equal, as the driver of a mirror runs them.

use std::collections::{BTreeMap, BTreeSet};

use corriente::mirror::core::dirty::{DirtyRecord, FoundDirty, Regions, StoreId, Todo, unequal};
use corriente::mirror::core::{
    Assembly, DirtyLog, DirtyOrder, Equalizer, Event, FailureCause, HotMap, Incarnation, IoView, MemberIndex,
    MemberMask, MemberOp, RegionSet, UnequalMap, complete,
};

use crate::check::{Bug, Checker};
use crate::replica::{BLOCKS, SIZE_BYTES};
use crate::world::{DEADLINE_US, Fate, Message, Step, StoreFailure, Tracker, World};

/// Regions of 4 blocks, pieces of 2.
const REGION_SHIFT: u8 = 14;
const PIECE_SHIFT: u32 = 1;
const QUIET_US: u64 = 12_000;
const STORE_LIMIT_US: u64 = 100_000;

pub fn regions() -> Regions {
    Regions::of_shift(REGION_SHIFT).expect("a shift")
}

/// What an engine has of the log.
pub struct Dirty {
    pub log: DirtyLog,
    pub hot: HotMap,
    pub unequal: UnequalMap,
    equalizer: Equalizer,
    pub incarnation: Incarnation,
    drain: Option<Drain>,
    copies: BTreeMap<u64, Copying>,
}

/// Waits for the writes that every channel has begun.
#[derive(Default)]
struct Drain {
    channels_seen: usize,
    writes: BTreeSet<u64>,
}

struct Copying {
    /// All are read; those that differ are being written.
    read: bool,
    waiting: MemberMask,
    has: MemberMask,
    failed: MemberMask,
}

impl Dirty {
    /// Of a mirror that sleeps.
    pub fn of(assembly: &Assembly) -> Self {
        let view = IoView {
            epoch: Default::default(),
            rw: assembly.members.mask(),
            wo: MemberMask::EMPTY,
            unfenced: MemberMask::EMPTY,
            local: MemberMask::EMPTY,
            absent: MemberMask::EMPTY,
            writable: true,
        };
        Self {
            log: DirtyLog::new(&view, RegionSet::EMPTY, StoreId(0)),
            hot: HotMap::new(regions(), 4096),
            unequal: UnequalMap::new([], BLOCKS as u64, PIECE_SHIFT),
            equalizer: Equalizer::default(),
            incarnation: assembly.incarnation,
            drain: None,
            copies: BTreeMap::new(),
        }
    }

    /// By what the members held dirty when they were claimed.
    pub fn wake(&mut self, view: &IoView, found: &[FoundDirty], first: StoreId) {
        let set = unequal(found, regions(), SIZE_BYTES);
        self.log = DirtyLog::new(view, set, first);
        self.hot.set_all(false);
        let blocks = regions().ranges(&set, SIZE_BYTES).map(|range| range.start / 4096..range.end / 4096);
        self.unequal.set(blocks, BLOCKS as u64);
        self.equalizer = Equalizer::default();
    }

    /// Nothing is known, and nothing copied.
    pub fn sleep(&mut self) {
        self.hot.set_all(false);
        self.unequal.set([], BLOCKS as u64);
        self.drain = None;
    }

    pub fn copies(&self) -> bool {
        !self.copies.is_empty()
    }

    pub fn order(&self, store: StoreId, dirty: RegionSet, claims: bool) -> DirtyOrder {
        let record = self.record(store, dirty);
        if claims { DirtyOrder::Join(record) } else { DirtyOrder::Replace(record) }
    }

    pub fn record(&self, store: StoreId, dirty: RegionSet) -> DirtyRecord {
        let (incarnation, sequence) = (self.incarnation, store.0);
        DirtyRecord { regions: regions(), incarnation, sequence, dirty, released: false }
    }
}

impl World {
    /// Whether an I/O of this block must wait, and has been put where it waits.
    pub fn held(&mut self, id: u64, number: usize, block: usize, writes: bool) -> bool {
        let life = self.life;
        let Some(engine) = &mut self.engine else { return false };
        let piece = engine.dirty.unequal.first_in(block as u64, 1).filter(|_| self.bug != Some(Bug::ServeUnequal));
        if let Some(piece) = piece {
            self.tally.waited_for_pieces += 1;
            engine.channels[number].piece_held.push_back(id);
            self.time.after(1, Step::PieceWanted { life, piece });
            return true;
        }
        if !writes {
            return false;
        }
        if engine.dirty.hot.admits(block as u64, 1) {
            return self.held_for_copy(id, block);
        }
        engine.dirty.hot.want(block as u64, 1);
        self.time.after(1, Step::RegionsWanted { life });
        if self.bug == Some(Bug::AdmitEarly) {
            return false;
        }
        engine.channels[number].log_held.push_back(id);
        true
    }

    pub fn regions_wanted(&mut self) {
        if let Some(engine) = &mut self.engine {
            let wanted = engine.dirty.hot.take_wanted();
            engine.dirty.log.want(&wanted);
        }
    }

    pub fn piece_wanted(&mut self, piece: u64) {
        let Some(engine) = &mut self.engine else { return };
        let dirty = &mut engine.dirty;
        match dirty.unequal.is_left(piece) {
            true => dirty.equalizer.demand(piece, &dirty.unequal),
            false => self.broadcast(Message::ReleasePieces),
        }
    }

    /// Does what the log says, and begins what copies may begin.
    pub fn pump(&mut self) {
        self.pump_waking();
        self.pump_log();
        self.pump_pieces();
    }

    pub fn pump_log(&mut self) {
        let mut admitted = false;
        while let Some(todo) = self.started().and_then(|engine| engine.dirty.log.next_todo()) {
            let Some(engine) = &mut self.engine else { return };
            match todo {
                Todo::Store { member, store, regions, claims } => {
                    let order = engine.dirty.order(store, regions, claims);
                    self.send_order(member, store, order);
                }
                Todo::Admit(regions) => {
                    engine.dirty.hot.admit(&regions);
                    admitted = true;
                }
                Todo::AdmitAll => {
                    engine.dirty.hot.set_all(true);
                    admitted = true;
                }
                Todo::AdmitNone => engine.dirty.hot.set_all(false),
                Todo::Drain if self.bug == Some(Bug::HastyDrain) => engine.dirty.log.drained(),
                Todo::Drain => {
                    engine.dirty.drain = Some(Drain::default());
                    self.broadcast(Message::Drain);
                }
            }
        }
        if admitted {
            self.broadcast(Message::ReleaseLogged);
        }
        self.look_at_drain();
    }

    fn started(&mut self) -> Option<&mut crate::world::Engine> {
        self.engine.as_mut().filter(|engine| !engine.channels.is_empty() && engine.sleep.is_none())
    }

    /// A channel has heard of a drain: what it has begun by now counts.
    pub fn channel_drains(&mut self, number: usize) {
        let Some(engine) = &mut self.engine else { return };
        let begun = |(_, io): &(&u64, &crate::world::Io)| {
            io.channel == number && !io.answered && matches!(io.tracker, Tracker::Write(_))
        };
        let writes: Vec<u64> = engine.ios.iter().filter(begun).map(|(id, _)| *id).collect();
        if let Some(drain) = &mut engine.dirty.drain {
            drain.channels_seen += 1;
            drain.writes.extend(writes);
        }
    }

    fn look_at_drain(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let ios = &engine.ios;
        let Some(drain) = &mut engine.dirty.drain else { return };
        drain.writes.retain(|id| ios.get(id).is_some_and(|io| !io.answered));
        if drain.channels_seen == engine.channels.len() && drain.writes.is_empty() {
            engine.dirty.drain = None;
            engine.dirty.log.drained();
            self.tally.cleared += 1;
            self.pump_log();
        }
    }

    pub fn look_for_quiet_regions(&mut self) {
        let life = self.life;
        self.time.after(QUIET_US, Step::Quiet { life });
        let Some(engine) = self.started() else { return };
        for member in engine.core.view().written().iter() {
            engine.dirty.log.retry(member);
        }
        if engine.dirty.log.may_clear() && engine.dirty.drain.is_none() {
            let quiet = engine.dirty.hot.age();
            engine.dirty.log.clear(&quiet);
        }
    }

    /// Sends an order to a member's replica. Its answer comes within the limit.
    pub fn send_order(&mut self, member: MemberIndex, store: StoreId, order: DirtyOrder) {
        let life = self.life;
        let Some(engine) = &self.engine else { return };
        let number = engine.replica_of[member.get()];
        let session = engine.sessions[number];
        let fate = self.fate(number);
        let delay = self.random.between(50, 1_500);
        let failed = |cause| Step::DirtyDone { life, member, store, outcome: Err(StoreFailure::Member(cause)) };
        self.time.after(STORE_LIMIT_US, failed(FailureCause::Deadline));
        let (lands, answered) = match fate {
            Fate::Fine => (true, true),
            Fate::Fails { lands } => (lands, false),
            Fate::Vanishes { lands } => (lands, false),
        };
        if matches!(fate, Fate::Fails { .. }) {
            self.time.after(delay + 100, failed(FailureCause::Medium));
        }
        if lands {
            let order = Box::new(order);
            let arrive = Step::DirtyArrive { life, member, store, order, replica: number, session, answered };
            self.time.after(delay, arrive);
        }
    }

    pub fn dirty_arrives(
        &mut self,
        life: u32,
        member: MemberIndex,
        store: StoreId,
        order: Box<DirtyOrder>,
        (number, session): (usize, u32),
        answered: bool,
    ) {
        let now = self.time.now_us();
        let replica = &mut self.replicas[number];
        if !replica.takes_orders(session) {
            return;
        }
        if replica.frozen_until_us > now {
            let again = Step::DirtyArrive { life, member, store, order, replica: number, session, answered };
            self.time.after(2_000, again);
            return;
        }
        let stored = replica.up && replica.store_dirty(&order, false);
        let records = replica.records();
        let incarnation = self.engine.as_ref().map(|engine| engine.dirty.incarnation);
        let mine = incarnation.is_none_or(|incarnation| !records.is_claimed_by_another(incarnation));
        let outcome = match (stored, mine || !replica.up) {
            (true, _) => Ok(()),
            (false, true) => Err(StoreFailure::Member(FailureCause::Medium)),
            (false, false) => Err(StoreFailure::Superseded),
        };
        self.tally.dirty_stores += u64::from(stored);
        if answered {
            let delay = self.random.between(10, 300);
            self.time.after(delay, Step::DirtyDone { life, member, store, outcome });
        }
        self.check_dirty();
        if self.faulty && self.random.chance(15) {
            self.crash();
        }
    }

    pub fn dirty_done(&mut self, member: MemberIndex, store: StoreId, outcome: Result<(), StoreFailure>) {
        let Some(engine) = &mut self.engine else { return };
        let counts = engine.dirty.log.stored(member, store, outcome.is_ok());
        match outcome {
            Err(StoreFailure::Superseded) => self.core(Event::Superseded),
            Err(StoreFailure::Member(cause)) if counts => {
                self.core(Event::MemberIoError { member, op: MemberOp::Write, cause });
            }
            Err(StoreFailure::Member(_)) | Ok(_) => {}
        }
    }

    fn pump_pieces(&mut self) {
        let Some(engine) = self.started() else { return };
        let view = engine.core.view();
        let dirty = &mut engine.dirty;
        if dirty.unequal.left() == 0 || !view.unfenced.is_empty() {
            return;
        }
        if view.written().count() < 2 {
            if view.written().count() == 1 && dirty.copies.is_empty() {
                dirty.equalizer.give_up(&dirty.unequal);
                self.pieces_equal();
            }
            return;
        }
        while let Some(piece) = self.engine.as_mut().and_then(|engine| {
            let dirty = &mut engine.dirty;
            dirty.equalizer.next(&dirty.unequal)
        }) {
            let life = self.life;
            let none = MemberMask::EMPTY;
            let copying = Copying { read: false, waiting: view.written(), has: none, failed: none };
            if let Some(engine) = &mut self.engine {
                engine.dirty.copies.insert(piece, copying);
            }
            let delay = self.random.between(20, 400);
            self.time.after(delay, Step::PieceRead { life, piece });
            self.time.after(DEADLINE_US, Step::PieceLate { life, piece });
        }
    }

    /// All members are read, then those that differ are written.
    pub fn piece_read(&mut self, piece: u64) {
        let (life, now) = (self.life, self.time.now_us());
        let Some(engine) = &mut self.engine else { return };
        let Some(copying) = engine.dirty.copies.get_mut(&piece) else { return };
        copying.waiting = copying.waiting.minus(engine.closed);
        let waiting = copying.waiting;
        let replica_of = engine.replica_of;
        let blocks = engine.dirty.unequal.blocks(piece);
        if waiting.iter().any(|member| self.replicas[replica_of[member.get()]].frozen_until_us > now) {
            return self.time.after(2_000, Step::PieceRead { life, piece });
        }
        copying.read = true;
        let mut contents = Vec::new();
        for member in waiting.iter() {
            let number = replica_of[member.get()];
            let readable = self.replicas[number].up && !self.random.chance(self.error_per_mille[number]);
            let content = self.replicas[number].blocks[blocks.start as usize..blocks.end as usize].to_vec();
            contents.push((member, number, readable.then_some(content)));
        }
        let Some(truth) = contents.iter().find_map(|(_, _, content)| content.clone()) else {
            return self.piece_over(piece);
        };
        for (member, number, content) in contents {
            if content.as_ref() == Some(&truth) {
                self.time.after(1, Step::PieceWritten { life, piece, member, done: true });
                continue;
            }
            let fate = self.fate(number);
            let session = self.engine.as_ref().map_or(0, |engine| engine.sessions[number]);
            let delay = self.random.between(20, 900);
            let (lands, done) = match fate {
                Fate::Fine => (true, true),
                Fate::Fails { lands } | Fate::Vanishes { lands } => (lands, false),
            };
            if lands {
                let (values, first) = (truth.clone(), blocks.start as usize);
                let write = Step::PieceWrite { life, piece, member, replica: number, session, first, values, done };
                self.time.after(delay, write);
            }
            if !done && !matches!(fate, Fate::Vanishes { .. }) {
                self.time.after(delay + 50, Step::PieceWritten { life, piece, member, done: false });
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub fn piece_write(
        &mut self,
        life: u32,
        piece: u64,
        member: MemberIndex,
        (number, session): (usize, u32),
        first: usize,
        values: Vec<u64>,
        done: bool,
    ) {
        let now = self.time.now_us();
        let replica = &mut self.replicas[number];
        if !replica.sessions.contains(&session) {
            return;
        }
        if replica.frozen_until_us > now {
            let again = Step::PieceWrite { life, piece, member, replica: number, session, first, values, done };
            return self.time.after(2_000, again);
        }
        let up = replica.up;
        if up {
            replica.blocks[first..first + values.len()].copy_from_slice(&values);
        }
        if done || !up {
            self.time.after(30, Step::PieceWritten { life, piece, member, done: done && up });
        }
        if self.faulty && self.random.chance(15) {
            self.crash();
        }
    }

    pub fn piece_written(&mut self, piece: u64, member: MemberIndex, done: bool) {
        let Some(engine) = &mut self.engine else { return };
        let Some(copying) = engine.dirty.copies.get_mut(&piece) else { return };
        if !copying.waiting.contains(member) {
            return;
        }
        copying.waiting = copying.waiting.without(member);
        match done {
            true => copying.has = copying.has.with(member),
            false => copying.failed = copying.failed.with(member),
        }
        if copying.waiting.is_empty() {
            self.piece_over(piece);
        }
    }

    fn piece_over(&mut self, piece: u64) {
        let Some(engine) = &mut self.engine else { return };
        let Some(copying) = engine.dirty.copies.remove(&piece) else { return };
        let view = engine.core.view();
        let equal = view.written().or(view.unfenced).minus(copying.has).is_empty();
        let dirty = &mut engine.dirty;
        dirty.equalizer.ended(piece, equal, &dirty.unequal);
        self.tally.equalized += u64::from(equal);
        for member in copying.failed.iter() {
            self.core(Event::MemberIoError { member, op: MemberOp::Write, cause: FailureCause::Medium });
        }
        self.pieces_equal();
    }

    fn pieces_equal(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let dirty = &mut engine.dirty;
        let differs = dirty.unequal.pieces().fold(RegionSet::EMPTY, |set, piece| {
            let blocks = dirty.unequal.blocks(piece);
            set.or(&regions().touched(blocks.start * 4096..blocks.end * 4096))
        });
        dirty.log.set_equal(&RegionSet::ALL.minus(&differs));
        self.broadcast(Message::ReleasePieces);
    }

    pub fn piece_late(&mut self, piece: u64) {
        let life = self.life;
        let Some(engine) = &self.engine else { return };
        let Some(copying) = engine.dirty.copies.get(&piece) else { return };
        // A read that has come back is not waited for.
        let frozen = |member: &MemberIndex| {
            let replica = &self.replicas[engine.replica_of[member.get()]];
            replica.frozen_until_us > self.time.now_us()
        };
        let late: Vec<_> = copying.waiting.iter().filter(|member| copying.read || frozen(member)).collect();
        self.time.after(DEADLINE_US, Step::PieceLate { life, piece });
        for member in late {
            self.core(Event::MemberIoError { member, op: MemberOp::Write, cause: FailureCause::Deadline });
        }
    }

    /// The engine stops in order while no client's I/O runs: what is dirty still is where members differ from before.
    pub fn stop_in_order(&mut self) {
        if self.store_last_dirty() {
            self.tally.stops += 1;
        }
        self.crash();
    }

    /// The last record of each member; false when it cannot be told now.
    pub fn store_last_dirty(&mut self) -> bool {
        let now = self.time.now_us();
        let Some(engine) = &mut self.engine else { return false };
        let view = engine.core.view();
        if !view.unfenced.is_empty() || !view.writable {
            return false;
        }
        let left = match self.bug {
            Some(Bug::ForgetAtStop) => RegionSet::EMPTY,
            _ => engine.dirty.log.at_stop(),
        };
        let mut orders = Vec::new();
        for member in view.rw.iter() {
            let store = engine.dirty.log.number_store();
            let record = DirtyRecord { released: true, ..engine.dirty.record(store, left) };
            orders.push((engine.replica_of[member.get()], DirtyOrder::Replace(record)));
        }
        for (number, order) in orders {
            let lands = match self.fate(number) {
                Fate::Fine => true,
                Fate::Fails { lands } | Fate::Vanishes { lands } => lands,
            };
            if lands && self.replicas[number].reachable(now) {
                self.replicas[number].store_dirty(&order, false);
            }
        }
        true
    }

    /// A closed member's part in copies ends.
    pub fn copies_lose(&mut self, member: MemberIndex) {
        let Some(engine) = &self.engine else { return };
        let pieces: Vec<u64> = engine.dirty.copies.keys().copied().collect();
        for piece in pieces {
            self.piece_written(piece, member, false);
        }
    }

    /// Any two replicas that a crash now would bring together differ only where one of them holds it dirty.
    pub fn check_dirty(&mut self) {
        let records: Vec<_> =
            self.replicas.iter().map(|replica| (replica.name.clone(), replica.record.clone())).collect();
        let current = complete(&records);
        let together: Vec<_> = self.replicas.iter().filter(|replica| current.contains(&replica.name)).collect();
        let mut wrong = None;
        for (at, one) in together.iter().enumerate() {
            for two in &together[at + 1..] {
                let dirty = unequal(&[one.found_dirty(), two.found_dirty()], regions(), SIZE_BYTES);
                let differs = |block: &usize| one.blocks[*block] != two.blocks[*block];
                let clean = |block: &usize| {
                    let start = *block as u64 * 4096;
                    !regions().touched(start..start + 4096).is_within(&dirty)
                };
                if let Some(block) = (0..BLOCKS).filter(differs).find(clean) {
                    wrong = Some(format!("block {block} differs on {} and {}, and neither knows", one.name, two.name));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.violate(Checker::Dirty, wrong);
        }
    }
}
