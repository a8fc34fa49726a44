//! One frontend: what it is, what it publishes, and what excludes what.

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::FrontendRequest;
use super::kernel::node;
use super::kernel::options::Connect;
use super::state::{EnginePath, FrontendState, Published};
use crate::changes::Changes;
use crate::engine::instance::Frontend;
use crate::error::{Error, Result};
use crate::name::{FrontendName, HostPort, Nqn, VolumeName};
use crate::telemetry::events::{Events, ObjectKind};

/// A frontend.
pub struct EngineFrontend {
    /// Its name.
    pub name: FrontendName,
    /// The volume reached through it.
    pub volume: VolumeName,
    /// How the volume is reached.
    pub kind: Frontend,
    /// I/O queues of the kernel's connection, when the owner said how many.
    pub io_queues: Option<NonZeroU16>,
    published: Mutex<Published>,
    changes: Changes,
    events: Events,
    /// Written by what changes the frontend itself: creation, expansion, switch-over, deletion. Read by what goes through
    /// it to the engine, which has rules of its own.
    exclusion: Arc<RwLock<()>>,
}

impl EngineFrontend {
    pub(super) fn new(request: FrontendRequest, others: Vec<EnginePath>, changes: Changes, events: Events) -> Self {
        Self {
            name: request.name,
            volume: request.volume,
            kind: request.kind,
            io_queues: request.io_queues,
            published: Mutex::new(Published {
                state: FrontendState::Pending,
                error_message: String::new(),
                size: request.size,
                active: request.path,
                others,
                switch: None,
                is_expanding: false,
                expansion_failure: None,
                suspension: 0,
                is_suspension_broken: false,
            }),
            changes,
            events,
            exclusion: Arc::default(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Published> {
        // No code between two changes of it can panic.
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A consistent copy of what is published.
    pub fn published(&self) -> Published {
        self.locked().clone()
    }

    /// Changes what is published, all at once, and tells the watchers.
    pub(super) fn publish<T>(&self, change: impl FnOnce(&mut Published) -> T) -> T {
        let mut published = self.locked();
        let before = published.clone();
        let result = change(&mut published);
        // Under the lock, so that events are in the order of the changes; telling one never waits.
        self.tell(&before, &published);
        drop(published);
        self.changes.announce();
        result
    }

    fn tell(&self, before: &Published, after: &Published) {
        if (before.state, &before.error_message) != (after.state, &after.error_message) {
            let reason =
                if after.error_message.is_empty() { String::new() } else { format!(": {}", after.error_message) };
            let message = format!("{}{reason}", after.state.as_str());
            self.events.tell(ObjectKind::Frontend, &self.name, "state-changed", message);
        }
        if !before.active.is_same_engine(&after.active) {
            let message = format!("from engine {} to {}", before.active.engine, after.active.engine);
            self.events.tell(ObjectKind::Frontend, &self.name, "switched-over", message);
        }
    }

    /// The frontend as errors name it.
    pub(super) fn object(&self) -> String {
        format!("engine frontend {}", self.name)
    }

    /// What users are told to open: a target's URL or a device; nothing when there is nothing to open.
    pub fn endpoint(&self) -> String {
        let published = self.published();
        let works = matches!(published.state, FrontendState::Running | FrontendState::Suspended);
        match (self.kind, published.active.target) {
            (Frontend::NvmeTcp, Some(target)) if works => format!("nvmf://{target}/{}", Nqn::volume(&self.volume)),
            (Frontend::NvmeTcpBlockdev, _) if works => node::endpoint(&self.volume).display().to_string(),
            _ => String::new(),
        }
    }

    /// What the kernel is to connect to for a target.
    pub(super) fn connection(&self, target: HostPort) -> Connect {
        Connect { nqn: Nqn::volume(&self.volume), target, io_queues: self.io_queues }
    }

    /// Waits for all others, and keeps them out.
    pub(super) async fn exclusively(&self) -> OwnedRwLockWriteGuard<()> {
        self.exclusion.clone().write_owned().await
    }

    /// Keeps all others out, or says that one is there. Nothing waits: the caller repeats.
    pub(super) fn try_exclusively(&self, what: &str) -> Result<OwnedRwLockWriteGuard<()>> {
        self.exclusion.clone().try_write_owned().map_err(|_| self.busy(what))
    }

    /// Keeps changes of the frontend out, or says that one is under way.
    pub(super) fn try_shared(&self, what: &str) -> Result<OwnedRwLockReadGuard<()>> {
        self.exclusion.clone().try_read_owned().map_err(|_| self.busy(what))
    }

    fn busy(&self, what: &str) -> Error {
        let published = self.published();
        let running = match (published.is_expanding, published.state) {
            (true, _) => "expansion is in progress",
            (_, FrontendState::Pending) => "it is being created",
            (_, FrontendState::Terminating) => "it is being deleted",
            _ => "another operation is in progress",
        };
        Error::precondition(self.object(), format!("{running}; {what} must wait for it"))
    }

    /// Only a frontend that works can be worked with.
    pub(super) fn require_working(&self, what: &str) -> Result<()> {
        let published = self.published();
        match published.state {
            FrontendState::Running | FrontendState::Suspended => Ok(()),
            state => {
                let problem = format!("it is in state {}: {}", state.as_str(), published.error_message);
                Err(Error::precondition(self.object(), format!("{problem}; no {what} now")))
            }
        }
    }

    /// What must not happen while client I/O is held.
    pub(super) fn require_running(&self, what: &str) -> Result<()> {
        self.require_working(what)?;
        match self.published().state {
            FrontendState::Suspended => {
                Err(Error::precondition(self.object(), format!("it is suspended; resume it before its {what}")))
            }
            _ => Ok(()),
        }
    }
}
