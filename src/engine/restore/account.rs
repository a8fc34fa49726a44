//! What operators are told of one restore: that it runs, what it moves, how it ended.

use std::sync::Arc;

use crate::backup::Progress;
use crate::engine::instance::Engine;
use crate::error::{Error, Result};
use crate::name::{BackupName, EngineName};
use crate::telemetry::Events;
use crate::telemetry::events::ObjectKind;
use crate::telemetry::transfer::Transfer;

/// A restore that runs; dropped without [`Account::end`] it counts as failed.
pub(super) struct Account {
    engine: EngineName,
    backup: BackupName,
    events: Events,
    transfer: Transfer,
}

/// How a restore ended, to be told once that is published.
pub(super) struct Ended {
    engine: EngineName,
    events: Events,
    what: &'static str,
    message: String,
}

impl Account {
    pub(super) fn begin(engine: &Engine, backup: &BackupName, progress: Arc<Progress>) -> Self {
        let telemetry = &engine.context.telemetry;
        let message = format!("backup {backup} into volume {}", engine.volume);
        telemetry.events.tell(ObjectKind::Restore, &engine.name, "started", message);
        Self {
            engine: engine.name.clone(),
            backup: backup.clone(),
            events: telemetry.events.clone(),
            transfer: telemetry.metrics.restores.begin(progress),
        }
    }

    /// Counts the end.
    pub(super) fn end<T>(self, result: &Result<T>) -> Ended {
        self.transfer.end(result);
        let backup = format!("backup {}", self.backup);
        let (what, message) = match result {
            Ok(_) => ("completed", backup),
            Err(error @ Error::Canceled { .. }) => ("canceled", format!("{backup}: {error}")),
            Err(error) => ("failed", format!("{backup}: {error}")),
        };
        Ended { engine: self.engine, events: self.events, what, message }
    }
}

impl Ended {
    /// Whoever asks from now on finds it so.
    pub(super) fn tell(self) {
        self.events.tell(ObjectKind::Restore, &self.engine, self.what, self.message);
    }
}
