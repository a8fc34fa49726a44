//! Frontends of the last run, brought up again from their records while the node serves already.

use std::sync::Arc;
use std::time::Duration;

use super::EngineFrontends;
use super::bring_up::fail;
use super::instance::EngineFrontend;
use super::record::FrontendRecord;
use super::state::FrontendState;
use crate::error::Result;

/// After each attempt, whatever changes.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// The first and the longest wait between two attempts while no engine changes.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl EngineFrontends {
    /// Tells the watchers of frontends of every change of an engine too, as a frontend shows its engine's state.
    pub fn follow_engines(&self) {
        let mut engines = self.0.context.engines.changes().watch();
        let changes = self.changes().clone();
        tokio::spawn(async move {
            while engines.changed().await.is_some() {
                changes.announce();
            }
        });
    }

    /// Takes all records up again. Returns when each is known, in state `pending`; they come up in the background, tried for
    /// `timeouts.recovery`. What does not come up by then is in state `error`, and its record stays.
    pub async fn recover(&self) -> Result<()> {
        for record in self.0.records.read_all().await? {
            let name = crate::record::Record::name(&record).to_owned();
            match self.restore(record) {
                Ok(frontend) => drop(tokio::spawn(self.clone().try_until_up(frontend))),
                Err(error) => {
                    tracing::error!(frontend = name, %error, "a frontend's record cannot be used; it is left as it is");
                }
            }
        }
        Ok(())
    }

    fn restore(&self, record: FrontendRecord) -> Result<Arc<EngineFrontend>> {
        let (request, others) = record.parse()?;
        let frontend = self.make(request, others);
        self.registry().insert(frontend.name.clone(), frontend.clone());
        Ok(frontend)
    }

    async fn try_until_up(self, frontend: Arc<EngineFrontend>) {
        let end = tokio::time::Instant::now() + self.0.context.recovery;
        let mut pause = FIRST_PAUSE;
        let mut engines = self.0.context.engines.changes().watch();
        loop {
            let exclusion = frontend.exclusively().await;
            if !self.has(&frontend) || frontend.published().state != FrontendState::Pending {
                return;
            }
            let Err(error) = self.bring_up(&frontend).await else { return };
            if tokio::time::Instant::now() + pause > end {
                return fail(&frontend, &error);
            }
            tracing::info!(frontend = %frontend.name, volume = %frontend.volume, %error, ?pause, "a frontend is tried again later");
            frontend.publish(|published| published.error_message = error.to_string());
            drop(exclusion);
            tokio::time::sleep(LEAST_PAUSE).await;
            // What it waits for is mostly an engine of this node, which comes up at the same time.
            if tokio::time::timeout(pause, engines.changed()).await.is_err() {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
