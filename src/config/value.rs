//! How the text of a setting becomes a value and back: the trait, and plain types that need no file of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A type that a setting can have. `parse(&v.show())` gives `v` again.
pub trait Value: Sized {
    /// What stands for the value in help texts, as `SIZE`.
    const FORM: &'static str;

    /// Reads the value; the error says what is wrong with it, not which setting it belongs to.
    fn parse(text: &str) -> Result<Self, String>;

    /// The value as a user would write it.
    fn show(&self) -> String;
}

impl Value for SocketAddr {
    const FORM: &'static str = "IP:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        let address: SocketAddr =
            text.parse().map_err(|_| format!("{text:?} is not an address of the form ip:port"))?;
        if address.port() == 0 {
            return Err("port 0 is not a port that others could call".into());
        }
        Ok(address)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    const FORM: &'static str = "PATH";

    fn parse(text: &str) -> Result<Self, String> {
        if text.contains('\0') {
            return Err("has a NUL character".into());
        }
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(format!("{text:?} is not an absolute path"));
        }
        Ok(path.to_owned())
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// An absolute path, or none, which is written as the empty text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptionalPath(pub Option<PathBuf>);

impl Value for OptionalPath {
    const FORM: &'static str = "PATH";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        PathBuf::parse(text).map(|path| Self(Some(path)))
    }

    fn show(&self) -> String {
        self.0.as_ref().map(PathBuf::show).unwrap_or_default()
    }
}

/// The longest wait that a setting can have: the longest deadline that peers use for a call is 72 h.
const LONGEST_WAIT: Duration = Duration::from_secs(72 * 3600);

impl Value for Duration {
    const FORM: &'static str = "DURATION";

    fn parse(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not a duration like 500ms, 5s, 2m or 1h");
        let digits = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(form)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| form())?;
        let unit_ms: u64 = match unit.trim_start() {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(form()),
        };
        let duration = number.checked_mul(unit_ms).map(Duration::from_millis);
        match duration {
            Some(Duration::ZERO) => Err("a wait of zero would always fail".into()),
            Some(duration) if duration <= LONGEST_WAIT => Ok(duration),
            _ => Err(format!("{text} is longer than 72h")),
        }
    }

    fn show(&self) -> String {
        let ms = self.as_millis();
        match (ms % 3_600_000, ms % 60_000, ms % 1000) {
            (0, _, _) => format!("{}h", ms / 3_600_000),
            (_, 0, _) => format!("{}m", ms / 60_000),
            (_, _, 0) => format!("{}s", ms / 1000),
            _ => format!("{ms}ms"),
        }
    }
}

/// A time in which something is tried, or none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window(pub Option<Duration>);

impl Value for Window {
    const FORM: &'static str = "DURATION";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "0" | "0s" => Ok(Self(None)),
            text => Duration::parse(text).map(|window| Self(Some(window))),
        }
    }

    fn show(&self) -> String {
        self.0.map_or_else(|| "0s".to_owned(), |window| window.show())
    }
}

/// The directives of a log filter; checked against the syntax that the logger itself reads.
impl Value for String {
    const FORM: &'static str = "FILTER";

    fn parse(text: &str) -> Result<Self, String> {
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
            Ok(_) => Err("is empty; \"off\" logs nothing".into()),
            Err(error) => Err(format!("{text:?} is not a log filter: {error}")),
        }
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// A host's name, as certificates have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for HostName {
    const FORM: &'static str = "HOST";

    fn parse(text: &str) -> Result<Self, String> {
        match url::Host::parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(format!("{text:?} is not a host's name: {error}")),
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// Ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// What Longhorn's instance manager uses (`engine-behaviour` §0).
    pub const DEFAULT: Self = Self { first: 20001, last: 30000 };

    /// The lowest port.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(&self) -> u16 {
        self.last
    }

    /// Whether a port is one of these.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Value for PortRange {
    const FORM: &'static str = "FIRST-LAST";

    fn parse(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not a range of ports like 20001-30000");
        let (first, last) = text.split_once('-').ok_or_else(form)?;
        let first: u16 = first.trim().parse().map_err(|_| form())?;
        let last: u16 = last.trim().parse().map_err(|_| form())?;
        if first == 0 || first > last {
            return Err(form());
        }
        Ok(Self { first, last })
    }

    fn show(&self) -> String {
        format!("{}-{}", self.first, self.last)
    }
}
