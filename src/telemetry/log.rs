//! Log lines on standard error, as text or JSON, with a filter that can be changed while the node runs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogConfig, LogFormat};
use crate::error::{Error, Result};

/// Changes what is logged. All clones change the same.
#[derive(Clone)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
    /// The directives in force, as they were given.
    filter: Arc<Mutex<String>>,
}

/// Starts logging for the whole process. Fails when it was started already.
pub fn init(config: &LogConfig) -> Result<LogControl> {
    let (filter, handle) = reload::Layer::new(parse_filter(&config.filter)?);
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| Error::internal("logging", error.to_string()))?;
    Ok(LogControl { handle, filter: Arc::new(Mutex::new(config.filter.clone())) })
}

/// The levels of `LogSetLevel`, which are SPDK's, and what they are here.
const LEVELS: [(&str, &str); 8] = [
    ("disabled", "off"),
    ("error", "error"),
    ("warn", "warn"),
    ("warning", "warn"),
    ("notice", "info"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
];

/// Our filter for a level of `LogSetLevel`, in any case.
pub fn level_filter(level: &str) -> Result<&'static str> {
    let found = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(level));
    found.map(|(_, filter)| *filter).ok_or_else(|| {
        let known = LEVELS.map(|(name, _)| name).join(", ");
        Error::invalid("level", format!("{level:?} is not one of {known}"))
    })
}

impl LogControl {
    /// Replaces the filter by one level for everything.
    pub fn set_level(&self, level: &str) -> Result<()> {
        self.set_filter(level_filter(level)?)
    }

    /// Replaces the filter by these directives.
    pub fn set_filter(&self, directives: &str) -> Result<()> {
        let filter = parse_filter(directives)?;
        // The lock spans the change, so that what `filter()` says is what is in force.
        let mut current = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(filter).map_err(|error| Error::internal("logging", error.to_string()))?;
        directives.clone_into(&mut current);
        Ok(())
    }

    /// The directives in force: a bare level, unless the configuration or a caller asked for more.
    pub fn filter(&self) -> String {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn parse_filter(directives: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(directives).map_err(|error| Error::invalid("level", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spdks_levels_in_any_case_have_ours_and_other_words_are_refused() {
        for (level, filter) in [("NOTICE", "info"), ("Warning", "warn"), ("DEBUG", "debug"), ("disabled", "off")] {
            assert_eq!(level_filter(level).unwrap(), filter);
        }
        for wrong in ["", "loud", "info,corriente=debug"] {
            assert!(matches!(level_filter(wrong), Err(Error::InvalidArgument { field: "level", .. })));
        }
    }

    #[test]
    fn a_change_is_in_force_at_once_and_a_wrong_one_changes_nothing() {
        let (layer, handle) = reload::Layer::new(EnvFilter::new("warn"));
        let control = LogControl { handle, filter: Arc::new(Mutex::new("warn".into())) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            control.set_level("debug").expect("a level");
            assert!(tracing::enabled!(tracing::Level::DEBUG));
            control.set_filter("a=b=c").expect_err("not a filter");
            assert_eq!(control.filter(), "debug");
            assert!(tracing::enabled!(tracing::Level::DEBUG));
        });
    }
}
