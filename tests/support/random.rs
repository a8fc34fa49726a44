//! Seeded data: xorshift64*, as the fixtures define it (shared/fixtures/backupstore/README.md), so that a pattern is the
//! same here and there.

use std::time::{SystemTime, UNIX_EPOCH};

/// A page of [`pattern`]; each page repeats its own few bytes.
const PAGE: usize = 4096;
/// Repeats a run: the seed that a failed one has printed.
const SEED_VARIABLE: &str = "CORRIENTE_TEST_SEED";

pub struct Random {
    state: u64,
}

impl Random {
    /// `seed` is not zero, or every number would be.
    pub fn from_seed(seed: u64) -> Self {
        assert_ne!(seed, 0, "xorshift64* has no seed 0");
        Random { state: seed }
    }

    /// A new seed each run, printed, so that a failed test shows how to repeat it.
    pub fn from_clock() -> Self {
        let seed = match std::env::var(SEED_VARIABLE) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE} must be a number, it is {text:?}")),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos() as u64 | 1,
        };
        println!("random seed: {seed} (repeat with {SEED_VARIABLE}={seed})");
        Random::from_seed(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`; the bias is far below what a test could notice.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }
}

/// `length` bytes of which each 4 KiB page repeats `entropy` (1 to 4096) bytes of its own: the fixtures' `prng`.
pub fn pattern(seed: u64, entropy: usize, length: usize) -> Vec<u8> {
    assert!((1..=PAGE).contains(&entropy), "entropy is 1 to {PAGE}, not {entropy}");
    let mut random = Random::from_seed(seed);
    let mut bytes = Vec::with_capacity(length.next_multiple_of(PAGE));
    while bytes.len() < length {
        let unit = random.bytes(entropy);
        bytes.extend(unit.iter().cycle().take(PAGE));
    }
    bytes.truncate(length);
    bytes
}
