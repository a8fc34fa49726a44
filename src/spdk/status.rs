//! NVMe statuses that mean something to us: type and code, as the NVM Express base specification numbers them.

use super::vdev::{LegError, Vdev, Vio};

const GENERIC: i32 = 0;

/// Capacity Exceeded: a thin volume had no space for a write. Hosts tell their users "no space left on device".
pub const CAPACITY_EXCEEDED: LegError = LegError::Status { sct: GENERIC, sc: 0x81 };
/// Internal Error: what SPDK makes of every failure that has no status of its own.
pub const INTERNAL_ERROR: LegError = LegError::Status { sct: GENERIC, sc: 0x06 };

/// Answers the client with what a leg failed with.
pub fn fail_with<V: Vdev>(io: Vio<V>, error: LegError) {
    match error {
        LegError::Status { sct, sc } => io.fail_with(sct, sc),
        LegError::Refused(_) => io.fail(),
    }
}
