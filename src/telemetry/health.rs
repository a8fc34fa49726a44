//! Whether a node is alive and whether it is ready for calls.

use std::sync::{Arc, PoisonError, RwLock};

/// A node's own account of itself. All clones share it.
#[derive(Debug, Clone)]
pub struct Health(Arc<RwLock<State>>);

#[derive(Debug)]
struct State {
    /// Why the node can't serve, or `None` when it can.
    not_ready: Option<String>,
    /// Why only a restart would help, or `None`.
    broken: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Alive, and not ready yet.
    pub fn new() -> Self {
        Self(Arc::new(RwLock::new(State { not_ready: Some("starting".into()), broken: None })))
    }

    /// Calls are served from now on.
    pub fn set_ready(&self) {
        self.change(|state| state.not_ready = None);
    }

    /// Calls are not served, for this reason.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.change(|state| state.not_ready = Some(reason.into()));
    }

    /// Something that only a restart mends, as a reactor that no longer runs. Never taken back.
    pub fn set_broken(&self, reason: impl Into<String>) {
        self.change(|state| state.broken = state.broken.take().or(Some(reason.into())));
    }

    /// Why the process should be restarted, or `Ok`.
    pub fn alive(&self) -> Result<(), String> {
        self.read(|state| state.broken.clone().map_or(Ok(()), Err))
    }

    /// Why calls should go elsewhere, or `Ok`.
    pub fn ready(&self) -> Result<(), String> {
        self.alive()?;
        self.read(|state| state.not_ready.clone().map_or(Ok(()), Err))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}
