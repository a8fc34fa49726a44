//! Loopback addresses that no other test process on this machine uses at the same time.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Low numbers are left to people, and to the services of the machine.
const FIRST: u8 = 10;
const LAST: u8 = 250;

/// One of 127.0.0.10 to 127.0.0.250, ours until it is dropped or the test process ends.
pub struct Address {
    ip: Ipv4Addr,
    /// Locked while we use the address; the kernel unlocks it however the process ends.
    _lock: File,
}

impl Address {
    /// Takes a free address.
    pub fn lease() -> Self {
        let directory = lock_directory();
        (FIRST..=LAST)
            .find_map(|number| {
                let lock = File::create(directory.join(number.to_string())).expect("a lock file in the temp directory");
                lock.try_lock().ok()?;
                Some(Address { ip: Ipv4Addr::new(127, 0, 0, number), _lock: lock })
            })
            .unwrap_or_else(|| panic!("all test addresses 127.0.0.{FIRST} to 127.0.0.{LAST} are in use"))
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }
}

fn lock_directory() -> PathBuf {
    let directory = std::env::temp_dir().join("corriente-test-addresses");
    fs::create_dir_all(&directory).expect("a directory for lock files");
    directory
}
