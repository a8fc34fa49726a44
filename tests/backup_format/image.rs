//! What a volume holds: the operations of the manifest, carried out in memory.

use std::collections::BTreeSet;

use corriente::backup::{ByteOffset, Extent};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Allocation granularity of the modelled lvol, as in Longhorn.
pub const CLUSTER: u64 = 1 << 20;

#[derive(Deserialize, Clone, Debug)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Op {
    Prng { offset: u64, length: u64, seed: String, entropy: usize },
    Fill { offset: u64, length: u64, byte: u8 },
    Copy { offset: u64, length: u64, from: u64 },
    Unmap { offset: u64, length: u64 },
}

/// A volume's content and which of its clusters are allocated.
#[derive(Clone)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub allocated: BTreeSet<u64>,
}

impl Image {
    pub fn new(size: u64) -> Self {
        Self { bytes: vec![0; size as usize], allocated: BTreeSet::new() }
    }

    pub fn grow(&mut self, size: u64) {
        self.bytes.resize(size as usize, 0);
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Prng { offset, length, seed, entropy } => {
                let content = prng(seed.parse().unwrap(), *length as usize, *entropy);
                self.write(*offset, &content);
            }
            Op::Fill { offset, length, byte } => self.write(*offset, &vec![*byte; *length as usize]),
            Op::Copy { offset, length, from } => {
                let content = self.bytes[*from as usize..(from + length) as usize].to_vec();
                self.write(*offset, &content);
            }
            Op::Unmap { offset, length } => self.unmap(*offset, *length),
        }
    }

    pub fn write(&mut self, offset: u64, content: &[u8]) {
        let end = offset + content.len() as u64;
        self.bytes[offset as usize..end as usize].copy_from_slice(content);
        self.allocated.extend(offset / CLUSTER..end.div_ceil(CLUSTER));
    }

    /// Frees whole clusters only, and zeroes all of the range.
    pub fn unmap(&mut self, offset: u64, length: u64) {
        self.bytes[offset as usize..(offset + length) as usize].fill(0);
        for cluster in offset.div_ceil(CLUSTER)..(offset + length) / CLUSTER {
            self.allocated.remove(&cluster);
        }
    }

    pub fn allocated_extents(&self) -> Vec<Extent> {
        extents(self.allocated.iter().copied())
    }

    /// As the manifest has it: zero-extended to the size that restores have.
    pub fn sha256(&self, size: u64) -> String {
        let mut image = self.clone();
        image.grow(size);
        sha256(&image.bytes)
    }
}

pub fn extents(clusters: impl Iterator<Item = u64>) -> Vec<Extent> {
    clusters.map(|cluster| Extent { offset: ByteOffset(cluster * CLUSTER), length: CLUSTER }).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// xorshift64*, as the fixtures' README defines it.
pub struct XorShift(pub u64);

impl XorShift {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `limit`, which must not be zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

pub fn prng(seed: u64, length: usize, entropy: usize) -> Vec<u8> {
    let mut state = XorShift(seed);
    let mut out = Vec::with_capacity(length + 4096);
    while out.len() < length {
        let mut pattern: Vec<u8> = (0..entropy.div_ceil(8)).flat_map(|_| state.next().to_le_bytes()).collect();
        pattern.truncate(entropy);
        out.extend(pattern.iter().copied().cycle().take(4096));
    }
    out.truncate(length);
    out
}

#[test]
fn the_generator_is_the_one_of_the_fixtures() {
    let start: String = prng(101, 16, 64).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(start, "0c1abb5adb5c8eb6d2c78b32813902f9");
    let hash = sha256(&prng(103, 2_097_152, 4096));
    assert_eq!(hash, "53a2458a8b12a376973094b229f05118954476fdf114b147de44c39bab30cb65");
}
