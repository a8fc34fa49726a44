//! Stopping client I/O for a moment: for a snapshot at one point in time, and for a new member to join.
//!
//! The owner limits a pause, its start and its whole length, by one event; a pause that outlasts it is broken, and the
//! one who holds it learns so when resuming.

use super::MirrorCore;
use super::types::{Action, Actions, Notice, PauseId, Refusal};

/// Where the pause is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Client I/O runs.
    Running,
    /// Channels are draining.
    Pausing,
    /// No client I/O runs.
    Paused,
}

/// The pause that is on, or the last one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    phase: Phase,
    id: PauseId,
}

impl Pause {
    pub(super) const NONE: Self = Self { phase: Phase::Running, id: PauseId(0) };

    fn is(&self, phase: Phase, id: PauseId) -> bool {
        (self.phase, self.id) == (phase, id)
    }
}

impl MirrorCore {
    pub(super) fn request_pause(&mut self, out: &mut Actions) -> Result<(), Refusal> {
        if !self.started {
            return Err(Refusal::NotStarted);
        }
        if self.pause.phase != Phase::Running {
            return Err(Refusal::PauseBusy);
        }
        let id = PauseId(self.pause.id.0.wrapping_add(1));
        self.pause = Pause { phase: Phase::Pausing, id };
        out.push(Action::PauseChannels(id));
        Ok(())
    }

    pub(super) fn quiesced(&mut self, id: PauseId, out: &mut Actions) {
        if self.pause.is(Phase::Pausing, id) {
            self.pause.phase = Phase::Paused;
            self.admit_prepared(out);
            out.push(Action::PauseGranted(id));
        }
    }

    pub(super) fn pause_timed_out(&mut self, id: PauseId, out: &mut Actions) {
        if self.pause.is(Phase::Pausing, id) || self.pause.is(Phase::Paused, id) {
            self.pause.phase = Phase::Running;
            out.push(Action::ResumeChannels(id));
            out.notify(Notice::PauseExpired(id));
        }
    }

    pub(super) fn resume(&mut self, id: PauseId, out: &mut Actions) -> Result<(), Refusal> {
        if !self.pause.is(Phase::Paused, id) && !self.pause.is(Phase::Pausing, id) {
            return Err(Refusal::PauseOver);
        }
        self.pause.phase = Phase::Running;
        out.push(Action::ResumeChannels(id));
        Ok(())
    }
}
