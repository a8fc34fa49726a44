//! A replica: blocks, the durable record, and the link to it.

use std::collections::BTreeSet;

use corriente::mirror::core::dirty::FoundDirty;
use corriente::mirror::core::{
    DirtyOrder, Found, GenerationOrder, GenerationRecord, Locality, OpenMember, ReplicaRecords,
};
use corriente::name::{BdevName, ReplicaAddress, ReplicaName};

pub const BLOCKS: usize = 24;
pub const SIZE_BYTES: u64 = BLOCKS as u64 * 4096;

pub struct Replica {
    pub number: usize,
    pub name: ReplicaName,
    pub blocks: [u64; BLOCKS],
    pub record: Option<GenerationRecord>,
    /// The record of dirty regions in its stored form.
    pub dirty: Option<Vec<u8>>,
    /// Answers errors at once when false.
    pub up: bool,
    /// Answers nothing before this time.
    pub frozen_until_us: u64,
    /// Adds to each answer's time.
    pub slow_us: u64,
    /// The attachments that are not cut off: what another one sent does not arrive any more.
    pub sessions: BTreeSet<u32>,
    /// Those that are cut off for I/O; orders go to the replica's node, and may come late still.
    pub orders_only: BTreeSet<u32>,
    /// Counts attachments.
    attached: u32,
}

impl Replica {
    pub fn new(number: usize) -> Self {
        Self {
            number,
            name: ReplicaName::parse(&format!("vol-r-{number}")).expect("a name"),
            blocks: [0; BLOCKS],
            record: None,
            dirty: None,
            up: true,
            frozen_until_us: 0,
            slow_us: 0,
            sessions: BTreeSet::new(),
            orders_only: BTreeSet::new(),
            attached: 0,
        }
    }

    pub fn reachable(&self, now_us: u64) -> bool {
        self.up && self.frozen_until_us <= now_us
    }

    /// What an engine finds that attaches, and its attachment. What dead engines have sent has landed or is lost when a new one
    /// comes (`alone`); one that is alive stays attached.
    pub fn attach(&mut self, now_us: u64, alone: bool) -> (Found, u32) {
        if !self.reachable(now_us) {
            return (Found::Unreachable("no answer".into()), 0);
        }
        let session = self.session(alone);
        (Found::Opened(self.open(), self.record.clone()), session)
    }

    /// A new attachment, which cuts off all others if it is alone.
    pub fn session(&mut self, alone: bool) -> u32 {
        if alone {
            self.sessions.clear();
            self.orders_only.clear();
        }
        self.attached += 1;
        self.sessions.insert(self.attached);
        self.attached
    }

    /// What that attachment has sent reaches the blocks no more.
    pub fn cut_off(&mut self, session: u32) {
        if self.sessions.remove(&session) {
            self.orders_only.insert(session);
        }
    }

    /// Whether an order of that attachment arrives.
    pub fn takes_orders(&self, session: u32) -> bool {
        self.sessions.contains(&session) || self.orders_only.contains(&session)
    }

    pub fn open(&self) -> OpenMember {
        OpenMember {
            replica: self.name.clone(),
            bdev: BdevName::parse(&format!("lvs/vol-r-{}n{}", self.number, self.attached)).expect("a name"),
            address: ReplicaAddress::parse(&format!("10.0.0.{}:2000", self.number + 1)).expect("an address"),
            locality: if self.number == 0 { Locality::Local } else { Locality::Remote },
            size_bytes: SIZE_BYTES,
            block_bytes: 4096,
        }
    }

    pub fn found_dirty(&self) -> FoundDirty {
        FoundDirty::parse(self.dirty.as_deref().unwrap_or_default())
    }

    pub fn records(&self) -> ReplicaRecords {
        ReplicaRecords { generation: self.record.clone(), dirty: self.found_dirty() }
    }

    /// The replica's side of an order about dirty regions. A claim that `forgets` is a bug.
    pub fn store_dirty(&mut self, order: &DirtyOrder, forgets: bool) -> bool {
        let mut records = self.records();
        if forgets && matches!((order, &records.dirty), (DirtyOrder::Claim(..), FoundDirty::Known(_))) {
            records.dirty = FoundDirty::Nothing;
        }
        let order = DirtyOrder::parse(&order.encode()).expect("own form");
        let Ok(stored) = order.carry_out(&records, SIZE_BYTES) else { return false };
        self.dirty = Some(stored.dirty.encode());
        if let Some(generation) = stored.generation {
            self.keep(&generation);
        }
        true
    }

    /// The replica's side of a generation that is not part of a claim: it keeps the rules itself.
    pub fn store(&mut self, order: &GenerationOrder) -> bool {
        let order = GenerationOrder::parse(&order.encode()).expect("own form");
        let taken = self.records().takes(&order);
        if taken {
            self.keep(&order.record);
        }
        taken
    }

    /// What is stored goes through its stored form.
    fn keep(&mut self, record: &GenerationRecord) {
        self.record = Some(GenerationRecord::parse(&record.encode()).expect("own form"));
    }
}
