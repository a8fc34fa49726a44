//! The log of the whole process: our lines and SPDK's, changed together.

use tracing_subscriber::filter::LevelFilter;

use crate::error::{Error, Result};
use crate::spdk::log::{self, Threshold};
use crate::spdk::{Control, SpdkError};
use crate::telemetry::LogControl;
use crate::telemetry::log::Level;

/// The word for every flag of SPDK.
const ALL: &str = "all";

/// Changes what is logged.
pub struct Logs {
    ours: LogControl,
    spdk: Control,
}

impl Logs {
    /// SPDK logs what our filter lets through.
    pub(super) fn new(ours: LogControl, spdk: Control) -> Self {
        log::set_threshold(threshold(ours.finest()));
        Self { ours, spdk }
    }

    /// Replaces the filter of the configuration, or an earlier level.
    pub fn set_level(&self, level: Level) -> Result<()> {
        self.ours.set_level(level)?;
        log::set_threshold(threshold(self.ours.finest()));
        tracing::info!(level = level.as_str(), "the log level was set");
        Ok(())
    }

    /// The level in force.
    pub fn level(&self) -> Level {
        self.ours.level()
    }

    /// Sets exactly the flags of a comma list, `all` for every one, the empty text for none. An unknown one changes
    /// nothing.
    pub async fn set_flags(&self, list: &str) -> Result<()> {
        let names: Vec<_> = if list.trim().is_empty() {
            Vec::new()
        } else {
            list.split(',').map(|name| name.trim().to_owned()).collect()
        };
        let set = self.spdk.run(move |on| async move {
            let wanted = match names.iter().any(|name| name.eq_ignore_ascii_case(ALL)) {
                true => log::flags(on).into_iter().map(|flag| flag.name).collect(),
                false => names,
            };
            log::set_flags(on, &wanted)
        });
        set.await.map_err(|error| match error {
            SpdkError::NoSuch { name, .. } => Error::invalid("flags", format!("{name:?} is not a log flag of SPDK")),
            error => error.into(),
        })
    }

    /// The flags that are set, as a comma list.
    pub async fn flags(&self) -> Result<String> {
        let flags = self.spdk.run(|on| async move { Ok::<_, SpdkError>(log::flags(on)) }).await?;
        let set: Vec<_> = flags.into_iter().filter(|flag| flag.enabled).map(|flag| flag.name).collect();
        Ok(set.join(","))
    }
}

/// What of SPDK's own severities can pass a filter as fine as this.
fn threshold(finest: LevelFilter) -> Threshold {
    match finest {
        LevelFilter::OFF => Threshold::Disabled,
        LevelFilter::ERROR => Threshold::Error,
        LevelFilter::WARN => Threshold::Warning,
        LevelFilter::INFO => Threshold::Notice,
        LevelFilter::DEBUG => Threshold::Info,
        LevelFilter::TRACE => Threshold::Debug,
    }
}
