//! What the benches share: medians, the CPU and memory of a process, and a node with its disks.

// Every bench is a crate of its own and uses a part of this.
#![allow(dead_code)]

pub mod lab;
pub mod process_usage;
#[path = "../../tests/support/mod.rs"]
pub mod support;

/// The middle one of several measurements.
pub fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "a median needs a value");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A setting of a bench from the environment, e.g. a number of rounds.
pub fn setting(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, it is {text:?}")),
        Err(_) => default,
    }
}
