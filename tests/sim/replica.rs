//! A replica: blocks, the durable record, and the link to it.

use corriente::mirror::core::dirty::FoundDirty;
use corriente::mirror::core::{DirtyRecord, Found, Generation, GenerationRecord, Locality, OpenMember};
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
    /// Counts attachments: what an earlier one sent does not arrive after a later one was made.
    pub session: u32,
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
            session: 0,
        }
    }

    pub fn reachable(&self, now_us: u64) -> bool {
        self.up && self.frozen_until_us <= now_us
    }

    pub fn attach(&mut self, now_us: u64) -> Found {
        if !self.reachable(now_us) {
            return Found::Unreachable("no answer".into());
        }
        self.session += 1;
        Found::Opened(self.open(), self.record.clone())
    }

    pub fn open(&self) -> OpenMember {
        OpenMember {
            replica: self.name.clone(),
            bdev: BdevName::parse(&format!("lvs/vol-r-{}n{}", self.number, self.session)).expect("a name"),
            address: ReplicaAddress::parse(&format!("10.0.0.{}:2000", self.number + 1)).expect("an address"),
            locality: if self.number == 0 { Locality::Local } else { Locality::Remote },
            size_bytes: SIZE_BYTES,
            block_bytes: 4096,
        }
    }

    pub fn found_dirty(&self) -> FoundDirty {
        match self.dirty.as_deref().map(DirtyRecord::parse) {
            None => FoundDirty::Nothing,
            Some(record) => FoundDirty::Known(Box::new(record.expect("own form"))),
        }
    }

    /// The replica's side of a store of dirty regions: only the mirror that serves it, and never backwards.
    pub fn store_dirty(&mut self, bytes: &[u8]) -> bool {
        let next = DirtyRecord::parse(bytes).expect("own form");
        let serving = self.record.as_ref().map(|record| match record.generation {
            Generation::NONE => record.base.incarnation(),
            generation => generation.incarnation(),
        });
        let stored = self.dirty.as_deref().map(|stored| DirtyRecord::parse(stored).expect("own form"));
        let allowed = serving.is_some_and(|serving| next.may_replace(stored.as_ref(), serving));
        if allowed {
            self.dirty = Some(bytes.to_vec());
        }
        allowed
    }

    /// The replica's side of a persist: it keeps the rule of generations itself. A void is taken whatever is stored.
    pub fn store(&mut self, record: GenerationRecord) -> bool {
        let allowed = match &self.record {
            None => true,
            Some(stored) => record.generation.may_replace(stored.generation),
        };
        if allowed {
            // What is stored goes through its stored form.
            self.record = Some(GenerationRecord::parse(&record.encode()).expect("own form"));
        }
        allowed
    }
}
