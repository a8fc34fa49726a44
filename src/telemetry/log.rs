//! Log lines on standard error, as text or JSON, with a filter that can be changed while the node runs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogConfig, LogFormat};
use crate::error::{Error, Result};

/// Changes what is logged. All clones change the same.
#[derive(Clone)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
    level: Arc<Mutex<Level>>,
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
    Ok(LogControl { handle, level: Arc::new(Mutex::new(Level::of(&config.filter))) })
}

/// The levels of `LogSetLevel`, which are SPDK's (`engine-behaviour` §1.8), and one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing.
    Disabled,
    /// Errors.
    Error,
    /// Warnings too.
    Warning,
    /// What an operator wants to know; the default.
    Notice,
    /// SPDK's details too, of parts whose log flag is set.
    Info,
    /// Our details too.
    Debug,
    /// Everything of ours.
    Trace,
}

/// Every level with the words for it, the first being the one it is shown by, and its filter. What libraries have to say
/// in detail is for `log.filter` alone.
const LEVELS: [(Level, &[&str], &str); 7] = [
    (Level::Disabled, &["DISABLED"], "off"),
    (Level::Error, &["ERROR"], "error"),
    (Level::Warning, &["WARNING", "WARN"], "warn"),
    (Level::Notice, &["NOTICE"], "info"),
    (Level::Info, &["INFO"], "info,spdk=debug"),
    (Level::Debug, &["DEBUG"], "info,corriente=debug,spdk=trace"),
    (Level::Trace, &["TRACE"], "info,corriente=trace,spdk=trace"),
];

impl Level {
    /// A word in any case.
    pub fn parse(word: &str) -> Result<Self> {
        let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(word));
        LEVELS.iter().find(|(_, names, _)| is(names)).map(|(level, _, _)| *level).ok_or_else(|| {
            let known = LEVELS.map(|(_, names, _)| names[0]).join(", ");
            Error::invalid("level", format!("{word:?} is not one of {known}"))
        })
    }

    /// The word that SPDK shows.
    pub fn as_str(self) -> &'static str {
        self.row().1[0]
    }

    fn filter(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> &'static (Level, &'static [&'static str], &'static str) {
        LEVELS.iter().find(|(level, _, _)| *level == self).expect("every level has its row")
    }

    /// The level for everything that the directives name no target for.
    fn of(directives: &str) -> Self {
        let general = directives.split(',').find_map(|directive| directive.trim().parse::<LevelFilter>().ok());
        match general {
            None | Some(LevelFilter::OFF) => Self::Disabled,
            Some(LevelFilter::ERROR) => Self::Error,
            Some(LevelFilter::WARN) => Self::Warning,
            Some(LevelFilter::INFO) => Self::Notice,
            Some(LevelFilter::DEBUG) => Self::Debug,
            Some(LevelFilter::TRACE) => Self::Trace,
        }
    }
}

impl LogControl {
    /// Replaces the filter by a level.
    pub fn set_level(&self, level: Level) -> Result<()> {
        let filter = parse_filter(level.filter())?;
        // The lock spans the change, so that what `level()` says is what is in force.
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(filter).map_err(|error| Error::internal("logging", error.to_string()))?;
        *current = level;
        Ok(())
    }

    /// The level in force, for all that the configuration has no directive of its own for.
    pub fn level(&self) -> Level {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The finest level that anything is logged at.
    pub fn finest(&self) -> LevelFilter {
        let hint = self.handle.with_current(|filter| filter.max_level_hint());
        hint.ok().flatten().unwrap_or(LevelFilter::TRACE)
    }
}

fn parse_filter(directives: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(directives).map_err(|error| Error::invalid("level", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spdks_levels_in_any_case_are_known_and_other_words_are_refused() {
        let table = [("NOTICE", "NOTICE"), ("Warn", "WARNING"), ("warning", "WARNING"), ("disabled", "DISABLED")];
        for (word, shown) in table {
            assert_eq!(Level::parse(word).unwrap().as_str(), shown);
        }
        for wrong in ["", "loud", "info,corriente=debug"] {
            assert!(matches!(Level::parse(wrong), Err(Error::InvalidArgument { field: "level", .. })));
        }
        for (level, _, filter) in LEVELS {
            parse_filter(filter).unwrap_or_else(|error| panic!("{level:?}: {error}"));
        }
    }

    #[test]
    fn the_configured_filter_has_a_level() {
        let table = [
            ("info", "NOTICE"),
            ("corriente=trace, warn", "WARNING"),
            ("corriente=debug", "DISABLED"),
            ("off", "DISABLED"),
        ];
        for (filter, level) in table {
            assert_eq!(Level::of(filter).as_str(), level, "{filter}");
        }
    }

    #[test]
    fn a_change_is_in_force_at_once() {
        let (layer, handle) = reload::Layer::new(EnvFilter::new("warn"));
        let control = LogControl { handle, level: Arc::new(Mutex::new(Level::Warning)) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            assert_eq!(control.finest(), LevelFilter::WARN);
            control.set_level(Level::Debug).expect("a level");
            assert!(tracing::enabled!(tracing::Level::DEBUG));
            assert_eq!((control.level(), control.finest()), (Level::Debug, LevelFilter::TRACE));
            control.set_level(Level::Disabled).expect("a level");
            assert!(!tracing::enabled!(tracing::Level::ERROR));
        });
    }
}
