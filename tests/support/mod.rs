//! The black-box harness: real nodes as processes, disks, fixtures and patience, for the integration tests.
//!
//! - [`node`]: starts, stops, kills and freezes `corriente serve`; each node has an address and a state directory.
//! - [`process`]: a child with a log, that never outlives the test. [`address`], [`memory`]: what a node borrows.
//! - [`client`]: writes to a volume and checks what it reads. [`disk`]: sparse files to serve as disks.
//! - [`fixtures`]: Longhorn's backups and what they must restore to.
//! - [`faults`]: orders to a node to fail, block or kill itself.
//! - [`random`]: seeded data. [`wait`]: polling with an end.

// Every integration test is a crate of its own and uses a part of this.
#![allow(dead_code)]

pub mod address;
pub mod client;
pub mod disk;
pub mod faults;
pub mod fixtures;
pub mod memory;
pub mod node;
pub mod process;
pub mod random;
pub mod wait;
