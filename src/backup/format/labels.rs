//! Labels and parameters of a backup request: `key=value` texts (§13).

use super::block::BlockSize;
use super::json::TextMap;
use crate::{Error, Result};

/// Key of the block size in a backup's `Parameters`.
pub const BLOCK_SIZE_PARAMETER: &str = "backup-block-size";
/// Key of the mode in a backup's `Parameters`.
pub const MODE_PARAMETER: &str = "backup-mode";
/// What turns a label into a parameter.
const PARAMETER_PREFIX: &str = "longhorn.io/backup-parameter.";
const FIELD: &str = "labels";

/// Whether blocks that the store has already are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackupMode {
    /// Only what changed since the last backup is read, and only blocks that are missing are written.
    #[default]
    Incremental,
    /// Everything is read and every block is written again, which repairs damaged block files.
    Full,
}

impl BackupMode {
    /// The text that cfg files and requests use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incremental => "incremental",
            Self::Full => "full",
        }
    }
}

/// How a backup is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupParameters {
    /// Full or incremental.
    pub mode: BackupMode,
    /// The size of its blocks.
    pub block_size: BlockSize,
}

impl Default for BackupParameters {
    fn default() -> Self {
        Self { mode: BackupMode::default(), block_size: BlockSize::DEFAULT }
    }
}

impl BackupParameters {
    /// The `Parameters` of a cfg file: always both keys.
    pub fn to_map(self) -> TextMap {
        TextMap::from([
            (BLOCK_SIZE_PARAMETER.into(), self.block_size.to_string()),
            (MODE_PARAMETER.into(), self.mode.as_str().into()),
        ])
    }
}

/// The labels of a request, with the two parameters that travel among them taken out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackupLabels {
    /// What the cfg files store as `Labels`.
    pub labels: TextMap,
    /// What the cfg file stores as `Parameters`.
    pub parameters: BackupParameters,
}

impl BackupLabels {
    /// Parses `key=value` texts. The key must be a Kubernetes qualified name and the value not empty; the last of
    /// several equal keys wins.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self> {
        let mut parsed = Self::default();
        for text in texts.iter().map(AsRef::as_ref) {
            let (key, value) = split(text)?;
            match key.strip_prefix(PARAMETER_PREFIX) {
                Some(BLOCK_SIZE_PARAMETER) => parsed.parameters.block_size = block_size(value)?,
                Some(MODE_PARAMETER) => parsed.parameters.mode = mode(value)?,
                _ => {
                    parsed.labels.insert(key.into(), value.into());
                }
            }
        }
        Ok(parsed)
    }
}

fn split(text: &str) -> Result<(&str, &str)> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| Error::invalid(FIELD, format!("{text:?} is not <key>=<value>")))?;
    if !is_qualified_name(key) {
        return Err(Error::invalid(FIELD, format!("the key {key:?} is not a Kubernetes qualified name")));
    }
    if value.is_empty() {
        return Err(Error::invalid(FIELD, format!("the value of {key:?} must not be empty")));
    }
    Ok((key, value))
}

fn block_size(text: &str) -> Result<BlockSize> {
    BlockSize::parse_requested(text)
        .map_err(|_| Error::invalid(BLOCK_SIZE_PARAMETER, format!("{text:?} is neither 2 MiB nor 16 MiB")))
}

fn mode(text: &str) -> Result<BackupMode> {
    match text {
        "full" => Ok(BackupMode::Full),
        "incremental" => Ok(BackupMode::Incremental),
        _ => Err(Error::invalid(MODE_PARAMETER, format!("{text:?} is neither full nor incremental"))),
    }
}

/// `[<dns subdomain>/]<name>`: the name up to 63 characters of letters, digits, `-`, `_`, `.`, starting and ending
/// with a letter or digit; the subdomain up to 253.
fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_subdomain) && is_plain(name, 63, |byte| byte.is_ascii_alphanumeric(), b"-_.")
}

fn is_subdomain(text: &str) -> bool {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 253 && text.split('.').all(|label| is_plain(label, 253, lower, b"-"))
}

fn is_plain(text: &str, limit: usize, letter: impl Fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= limit
        && ends.iter().all(|end| end.is_some_and(|byte| letter(*byte)))
        && bytes.iter().all(|byte| letter(*byte) || inner.contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_two_parameters_are_taken_out() {
        let parsed = BackupLabels::parse(&[
            "longhorn.io/backup-parameter.backup-mode=full",
            "longhorn.io/backup-parameter.backup-block-size=16777216",
            "longhorn.io/backup-parameter.other=kept",
            "KubernetesStatus={\"a\":\"b=c\"}",
        ])
        .unwrap();
        assert_eq!(parsed.parameters, BackupParameters { mode: BackupMode::Full, block_size: BlockSize::LARGE });
        assert_eq!(parsed.labels.len(), 2);
        assert_eq!(parsed.labels["KubernetesStatus"], "{\"a\":\"b=c\"}");
        assert_eq!(parsed.labels["longhorn.io/backup-parameter.other"], "kept");
        let parameters = parsed.parameters.to_map();
        assert_eq!(parameters["backup-block-size"], "16777216");
    }

    #[test]
    fn impossible_labels_are_refused() {
        for refused in [
            "novalue",
            "empty=",
            "=x",
            "a b=c",
            "-a=b",
            "a-=b",
            "Upper.io/x=y",
            "/x=y",
            "a/b/c=d",
            "longhorn.io/backup-parameter.backup-mode=sometimes",
            "longhorn.io/backup-parameter.backup-block-size=4194304",
        ] {
            assert!(
                matches!(BackupLabels::parse(&[refused]), Err(Error::InvalidArgument { .. })),
                "{refused} was taken"
            );
        }
        assert!(BackupLabels::parse(&[format!("{}=x", "a".repeat(64))]).is_err());
        assert_eq!(BackupLabels::parse::<&str>(&[]).unwrap(), BackupLabels::default());
    }
}
