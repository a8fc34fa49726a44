//! A client of a volume's NVMe/TCP target that knows what it must read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, VolumeName};
use corriente::wire::spdkrpc as wire;

use super::random::Random;

const PIECE: usize = 64 << 10;

/// Connects to a volume's target.
pub async fn connect(engine: &wire::Engine) -> Initiator {
    let address = format!("{}:{}", engine.target_ip, engine.target_port).parse().expect("a target");
    let nqn = Nqn::volume(&VolumeName::parse(&engine.volume_name).expect("a volume name"));
    let host = Nqn::parse("nqn.2026-01.test:host").expect("an NQN");
    Initiator::connect(address, &nqn, &host, Options::default()).await.expect("the target answers")
}

/// A client that writes and reads back pieces one after the other, and remembers what must be there.
pub struct Client {
    initiator: Initiator,
    random: Random,
    size: u64,
    expected: BTreeMap<u64, Vec<u8>>,
    /// Of all its I/Os so far.
    pub slowest: Duration,
}

impl Client {
    /// A client of a volume of `size` bytes.
    pub async fn of(engine: &wire::Engine, size: u64) -> Self {
        let initiator = connect(engine).await;
        Self { initiator, random: Random::from_clock(), size, expected: BTreeMap::new(), slowest: Duration::ZERO }
    }

    /// A client of a volume that holds `image`.
    pub async fn with_image(engine: &wire::Engine, image: Vec<u8>) -> Self {
        let mut client = Self::of(engine, image.len() as u64).await;
        let pieces = image.chunks(PIECE).enumerate();
        client.expected = pieces.map(|(piece, data)| ((piece * PIECE) as u64, data.to_vec())).collect();
        client
    }

    /// Its connection.
    pub fn initiator(&self) -> &Initiator {
        &self.initiator
    }

    /// The volume has another size from now on.
    pub fn resize(&mut self, size: u64) {
        self.size = size;
    }

    /// Writes some pieces, a flush, and reads some: none may fail.
    pub async fn work(&mut self) {
        for _ in 0..8 {
            let offset = self.random.below(self.size / PIECE as u64) * PIECE as u64;
            let data = self.random.bytes(PIECE);
            let since = Instant::now();
            self.initiator.write(offset, &data).await.expect("no write fails while one replica is left");
            self.slowest = self.slowest.max(since.elapsed());
            self.expected.insert(offset, data);
        }
        self.initiator.flush().await.expect("no flush fails while one replica is left");
        self.check(8).await;
    }

    /// Reads back up to so many pieces.
    pub async fn check(&mut self, count: usize) {
        let mut found = vec![0; PIECE];
        for (offset, data) in self.expected.iter().take(count) {
            let since = Instant::now();
            self.initiator.read(*offset, &mut found).await.expect("no read fails while one replica is left");
            self.slowest = self.slowest.max(since.elapsed());
            assert!(found == *data, "the bytes at {offset} are not those that were acknowledged");
        }
    }

    /// Compares a whole image with what was acknowledged.
    pub fn compare(&self, image: &[u8]) {
        for (offset, data) in &self.expected {
            assert!(image[*offset as usize..][..PIECE] == *data, "the bytes at {offset} are not those acknowledged");
        }
    }

    /// The image of a volume that all of was written, whatever part of it the client writes to now.
    pub fn image_of_all(&self) -> Vec<u8> {
        self.expected.values().flatten().copied().collect()
    }

    /// An image as it must be: what was never written is zeroes.
    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; self.size as usize];
        for (offset, data) in &self.expected {
            image[*offset as usize..][..PIECE].copy_from_slice(data);
        }
        image
    }
}
