//! Where a store's files are. A directory today; object stores become further variants.

use std::fmt;
use std::future::Future;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::{Error, Result};

use super::format::layout::StorePath;
use super::url::{Scheme, TargetUrl};

mod directory;

use directory::DirectoryTarget;

/// Why a target did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TargetError {
    /// There is no such object.
    #[error("cannot find {path} in backupstore")]
    NotFound {
        /// Its path below the target.
        path: String,
    },
    /// The object is larger than anything of its kind can be.
    #[error("{path} has more than the {limit} bytes that are read of such a file")]
    TooLarge {
        /// Its path below the target.
        path: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The target is full.
    #[error("no space left to write {path}")]
    NoSpace {
        /// Its path below the target.
        path: String,
    },
    /// The target failed.
    #[error("cannot {action} {path}: {problem}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// Its path below the target.
        path: String,
        /// What the target answered.
        problem: String,
    },
}

impl TargetError {
    /// Makes it an error of the domain, blamed on `target`. A missing object is a missing object of `kind`.
    pub fn blame(self, target: &Target, kind: &'static str, name: &str) -> Error {
        match self {
            Self::NotFound { .. } => Error::NotFound { kind, name: format!("{name} ({self})") },
            Self::NoSpace { .. } => {
                Error::NoSpace { object: target.to_string(), problem: format!("{kind} {name}: {self}") }
            }
            Self::TooLarge { .. } => {
                Error::Corruption { object: format!("{kind} {name} of {target}"), problem: self.to_string() }
            }
            Self::Failed { .. } => Error::peer(target, format!("{kind} {name}: {self}")),
        }
    }
}

/// What a target answers.
pub type TargetResult<T> = std::result::Result<T, TargetError>;

/// Size and age of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectStat {
    /// Bytes.
    pub size: u64,
    /// Last write, by the target's clock.
    pub modified: SystemTime,
}

/// An opened backup target. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Target {
    url: TargetUrl,
    medium: Medium,
    call_timeout: Duration,
}

/// The limit of one call to a target, unless [`Target::with_call_timeout`] sets another.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
enum Medium {
    Directory(DirectoryTarget),
}

impl Target {
    /// Opens a target. Only `vfs` is offered; a directory that does not exist yet is no error.
    pub fn open(url: &TargetUrl) -> Result<Self> {
        let unimplemented = |what| Error::Unimplemented {
            what,
            reason: "only vfs targets are; mount the export or share on this node and name its directory as vfs:///…",
        };
        let medium = match url.scheme() {
            Scheme::Vfs => Medium::Directory(DirectoryTarget::new(url.directory()?)),
            Scheme::Nfs => return Err(unimplemented("a backup target by nfs://")),
            Scheme::Cifs => return Err(unimplemented("a backup target by cifs://")),
            Scheme::S3 => return Err(unimplemented("a backup target by s3://")),
            Scheme::Azblob => return Err(unimplemented("a backup target by azblob://")),
        };
        Ok(Self { url: url.clone(), medium, call_timeout: DEFAULT_CALL_TIMEOUT })
    }

    /// The same target with another limit for each call; a hung mount must not hold a restore for ever.
    pub fn with_call_timeout(self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self }
    }

    /// The URL it was opened by.
    pub fn url(&self) -> &TargetUrl {
        &self.url
    }

    /// Reads a whole object of at most `limit` bytes.
    pub async fn read(&self, path: &StorePath, limit: u64) -> TargetResult<Vec<u8>> {
        match &self.medium {
            Medium::Directory(directory) => self.limited("read", path, directory.read(path, limit)).await,
        }
    }

    /// Writes an object whole or not at all; when this returns, it survives a power failure of the target.
    pub async fn write(&self, path: &StorePath, content: Bytes) -> TargetResult<()> {
        match &self.medium {
            Medium::Directory(directory) => self.limited("write", path, directory.write(path, content)).await,
        }
    }

    /// Size and age of an object, or `None` if there is none.
    pub async fn stat(&self, path: &StorePath) -> TargetResult<Option<ObjectStat>> {
        match &self.medium {
            Medium::Directory(directory) => self.limited("look at", path, directory.stat(path)).await,
        }
    }

    /// The names directly below `path`, sorted; none if there is no such directory.
    pub async fn list(&self, path: &StorePath) -> TargetResult<Vec<String>> {
        match &self.medium {
            Medium::Directory(directory) => self.limited("list", path, directory.list(path)).await,
        }
    }

    /// Removes an object and each directory above it that became empty. A missing object is no error.
    pub async fn remove(&self, path: &StorePath) -> TargetResult<()> {
        match &self.medium {
            Medium::Directory(directory) => self.limited("remove", path, directory.remove(path)).await,
        }
    }

    async fn limited<T>(
        &self,
        action: &'static str,
        path: &StorePath,
        call: impl Future<Output = TargetResult<T>>,
    ) -> TargetResult<T> {
        let limit = self.call_timeout;
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            let problem = format!("no answer within {limit:?}");
            Err(TargetError::Failed { action, path: path.to_string(), problem })
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backup target {}", self.url)
    }
}
