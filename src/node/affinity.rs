//! Keeps management threads off the reactors' cores: threads inherit the affinity of the one that makes them.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::config::CoreList;
use crate::error::{Error, Result};

/// Restricts the calling thread, and so all that it will make, to the cores that no reactor has. When reactors have all
/// of them, management shares, and idle reactors nap.
pub(super) fn leave_to_reactors(reactors: &CoreList) -> Result<()> {
    let this = Pid::from_raw(0);
    let failed = |error: nix::Error| Error::internal("CPU affinity", error.to_string());
    let allowed = sched_getaffinity(this).map_err(failed)?;
    let mut rest = CpuSet::new();
    let mut any = false;
    for core in 0..CpuSet::count() {
        let is_reactor = reactors.cores().iter().any(|reactor| *reactor as usize == core);
        if allowed.is_set(core).map_err(failed)? && !is_reactor {
            rest.set(core).map_err(failed)?;
            any = true;
        }
    }
    if let Some(missing) = reactors.cores().iter().find(|core| !allowed.is_set(**core as usize).unwrap_or(false)) {
        return Err(Error::invalid("reactor.cores", format!("core {missing} is not one this process may use")));
    }
    if any {
        sched_setaffinity(this, &rest).map_err(failed)?;
    } else {
        tracing::info!("reactors have all cores; management shares them");
    }
    Ok(())
}
