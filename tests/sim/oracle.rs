//! What a client may see: each block is a register with at most one write of ours outstanding.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Default, Clone)]
struct Block {
    /// The value of the last acknowledged write.
    committed: u64,
    /// Values of later writes that are outstanding, failed, or cut off by a crash: each may or may not be there.
    open: BTreeSet<u64>,
    writing: bool,
}

#[derive(Default)]
pub struct Oracle {
    blocks: Vec<Block>,
    /// Reads in flight, with what each may return.
    reads: BTreeMap<u64, Read>,
}

struct Read {
    block: usize,
    allowed: BTreeSet<u64>,
    /// No write of the block was outstanding at any time of the read: what it returns is what the block is.
    alone: bool,
}

impl Oracle {
    pub fn new(blocks: usize) -> Self {
        Self { blocks: vec![Block::default(); blocks], reads: BTreeMap::new() }
    }

    pub fn write_issued(&mut self, block: usize, value: u64) -> bool {
        let state = &mut self.blocks[block];
        if state.writing {
            return false;
        }
        state.writing = true;
        state.open.insert(value);
        for read in self.reads.values_mut().filter(|read| read.block == block) {
            read.allowed.insert(value);
            read.alone = false;
        }
        true
    }

    pub fn write_answered(&mut self, block: usize, value: u64, acknowledged: bool) {
        let state = &mut self.blocks[block];
        state.writing = false;
        if acknowledged {
            *state = Block { committed: value, ..Block::default() };
        }
    }

    pub fn read_issued(&mut self, read: u64, block: usize) {
        let (allowed, alone) = (self.allowed(block), !self.blocks[block].writing);
        self.reads.insert(read, Read { block, allowed, alone });
    }

    /// Whether the value is one that the read may return.
    pub fn read_answered(&mut self, read: u64, value: Option<u64>) -> Result<(), String> {
        let Read { block, allowed, alone } = self.reads.remove(&read).ok_or("a read was answered twice")?;
        match value {
            Some(value) if !allowed.contains(&value) => {
                Err(format!("block {block} was read as {value}, allowed were {allowed:?}"))
            }
            Some(value) if alone => {
                self.blocks[block] = Block { committed: value, ..Block::default() };
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub fn allowed(&self, block: usize) -> BTreeSet<u64> {
        let state = &self.blocks[block];
        state.open.iter().copied().chain([state.committed]).collect()
    }

    pub fn crash(&mut self) {
        self.reads.clear();
        for block in &mut self.blocks {
            block.writing = false;
        }
    }
}
