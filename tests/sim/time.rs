//! Virtual time: what happens next, in microseconds.

use std::collections::BTreeMap;

pub struct Time<S> {
    now_us: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), S>,
}

impl<S> Time<S> {
    pub fn new() -> Self {
        Self { now_us: 0, sequence: 0, queue: BTreeMap::new() }
    }

    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    pub fn after(&mut self, delay_us: u64, step: S) {
        self.at(self.now_us + delay_us, step);
    }

    pub fn at(&mut self, at_us: u64, step: S) {
        self.sequence += 1;
        self.queue.insert((at_us.max(self.now_us), self.sequence), step);
    }

    pub fn next(&mut self) -> Option<S> {
        let ((at_us, _), step) = self.queue.pop_first()?;
        self.now_us = at_us;
        Some(step)
    }
}
