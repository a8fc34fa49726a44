//! How targets, volumes and backups are named on the wire: URLs (§14). Pure.
//!
//! Parsed by hand, because a URL library drops the empty port of `nfs://server:/path`, which must survive a round
//! trip, and encodes queries otherwise than Go does.

use std::fmt;
use std::path::PathBuf;

use crate::name::{BackupName, VolumeName};
use crate::{Error, Result};

mod escape;

use escape::{decode_path, encode, unescape};

const FIELD: &str = "backup_url";
const BACKUP_KEY: &str = "backup";
const VOLUME_KEY: &str = "volume";
/// The longest URL that is taken, in bytes.
const URL_LIMIT: usize = 8 << 10;

/// The kinds of backup target that Longhorn knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// A directory of this node.
    Vfs,
    /// An NFSv4 export.
    Nfs,
    /// An SMB share.
    Cifs,
    /// An S3 bucket.
    S3,
    /// An Azure blob container.
    Azblob,
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "vfs" => Some(Self::Vfs),
            "nfs" => Some(Self::Nfs),
            "cifs" => Some(Self::Cifs),
            "s3" => Some(Self::S3),
            "azblob" => Some(Self::Azblob),
            _ => None,
        }
    }

    /// The text before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vfs => "vfs",
            Self::Nfs => "nfs",
            Self::Cifs => "cifs",
            Self::S3 => "s3",
            Self::Azblob => "azblob",
        }
    }
}

/// The address of a backup target, kept as written apart from the order of its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetUrl {
    scheme: Scheme,
    /// Between `//` and the path: user, host and port, an empty port too.
    authority: String,
    /// Percent-encoded as given.
    path: String,
    /// Decoded; sorted by key, equal keys in the order given.
    query: Vec<(String, String)>,
}

impl TargetUrl {
    /// Parses a target URL; one that names a backup or volume is refused.
    pub fn parse(text: &str) -> Result<Self> {
        let url = Self::parse_any(text)?;
        match url.query.iter().find(|(key, _)| key == BACKUP_KEY || key == VOLUME_KEY) {
            None => Ok(url),
            Some((key, _)) => Err(Error::invalid("backup_target", format!("{text:?} has {key}= in its query"))),
        }
    }

    fn parse_any(text: &str) -> Result<Self> {
        let text = unescape(text);
        if text.is_empty() {
            return Err(Error::invalid(FIELD, "destination URL hasn't been specified"));
        }
        if text.len() > URL_LIMIT || text.chars().any(char::is_control) {
            return Err(Error::invalid(FIELD, format!("must have at most {URL_LIMIT} bytes, none of them control")));
        }
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| Error::invalid(FIELD, format!("{text:?} is not a URL")))?;
        let scheme =
            Scheme::parse(scheme).ok_or_else(|| Error::invalid(FIELD, format!("driver {scheme} is not supported")))?;
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        let mut query: Vec<(String, String)> = ::url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        query.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(Self { scheme, authority: authority.into(), path: path.into(), query })
    }

    /// What kind of target it is.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The directory of a `vfs` target. The host must be empty, the path absolute and without `..`.
    pub fn directory(&self) -> Result<PathBuf> {
        if !self.authority.is_empty() {
            return Err(Error::invalid(FIELD, format!("{self}: a vfs target has no host; write vfs:///path")));
        }
        let path = decode_path(&self.path)
            .ok_or_else(|| Error::invalid(FIELD, format!("{self}: the path is not percent-encoded UTF-8")))?;
        if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
            return Err(Error::invalid(FIELD, format!("{self}: the path must be absolute and without ..")));
        }
        Ok(path.into())
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, extra: &[(&str, &str)]) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority, self.path)?;
        let own = self.query.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut query: Vec<_> = own.chain(extra.iter().copied()).collect();
        query.sort_by(|one, other| one.0.cmp(other.0));
        for (index, (key, value)) in query.into_iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            write!(f, "{separator}{}={}", encode(key), encode(value))?;
        }
        Ok(())
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &[])
    }
}

/// A volume in a target, or one of its backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupUrl {
    /// Where the store is.
    pub target: TargetUrl,
    /// Which volume.
    pub volume: VolumeName,
    /// Which of its backups; `None` means the volume itself.
    pub backup: Option<BackupName>,
}

impl BackupUrl {
    /// Parses a URL as it comes over the wire, with or without the shell's escapes of `&` and quotes around it.
    pub fn parse(text: &str) -> Result<Self> {
        let mut target = TargetUrl::parse_any(text)?;
        let volume = take(&mut target.query, VOLUME_KEY).unwrap_or_default();
        let backup = take(&mut target.query, BACKUP_KEY).filter(|name| !name.is_empty());
        let volume = VolumeName::parse(&volume)
            .map_err(|error| Error::invalid(FIELD, format!("invalid volume name parsed, got {volume} (it {error})")))?;
        let backup = match backup {
            None => None,
            Some(name) => Some(BackupName::parse(&name).map_err(|error| {
                Error::invalid(FIELD, format!("invalid backup name parsed, got {name} (it {error})"))
            })?),
        };
        Ok(Self { target, volume, backup })
    }

    /// The backup, which a request about one backup cannot do without.
    pub fn require_backup(&self) -> Result<&BackupName> {
        self.backup.as_ref().ok_or_else(|| Error::invalid(FIELD, format!("{self} names no backup")))
    }

    /// The URL of another backup of the same volume.
    pub fn with_backup(&self, backup: BackupName) -> Self {
        Self { backup: Some(backup), ..self.clone() }
    }
}

impl fmt::Display for BackupUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let volume = (VOLUME_KEY, self.volume.as_str());
        match &self.backup {
            None => self.target.write(f, &[volume]),
            Some(backup) => self.target.write(f, &[(BACKUP_KEY, backup.as_str()), volume]),
        }
    }
}

/// Removes all items of `key`; the value is that of the first.
fn take(query: &mut Vec<(String, String)>, key: &str) -> Option<String> {
    let first = query.iter().find(|(found, _)| found == key).map(|(_, value)| value.clone());
    query.retain(|(found, _)| found != key);
    first
}

#[cfg(test)]
mod tests;
