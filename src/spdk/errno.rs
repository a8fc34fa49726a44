//! Errors of the safe layer: what SPDK was asked, of which object, and what it answered.

use crate::error::Error;
use crate::name::BdevName;

/// A positive errno value, as SPDK returns negated.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Input or output error.
    pub const EIO: Self = Self(libc::EIO);
    /// Out of memory or of some pool.
    pub const ENOMEM: Self = Self(libc::ENOMEM);
    /// No such device.
    pub const ENODEV: Self = Self(libc::ENODEV);
    /// The object is busy.
    pub const EBUSY: Self = Self(libc::EBUSY);
    /// The object exists.
    pub const EEXIST: Self = Self(libc::EEXIST);
    /// No space is left.
    pub const ENOSPC: Self = Self(libc::ENOSPC);
    /// An argument is wrong.
    pub const EINVAL: Self = Self(libc::EINVAL);
    /// Nothing of that name.
    pub const ENOENT: Self = Self(libc::ENOENT);
    /// The operation is not offered.
    pub const ENOTSUP: Self = Self(libc::ENOTSUP);
    /// A directory or, here, a snapshot has more than one thing in it.
    pub const ENOTEMPTY: Self = Self(libc::ENOTEMPTY);
    /// The operation is not permitted on this object.
    pub const EPERM: Self = Self(libc::EPERM);
    /// The address is not ours to listen on.
    pub const EADDRNOTAVAIL: Self = Self(libc::EADDRNOTAVAIL);
    /// Bytes that are not what they should be.
    pub const EILSEQ: Self = Self(libc::EILSEQ);
    /// A wait ended.
    pub const ETIMEDOUT: Self = Self(libc::ETIMEDOUT);

    /// `Ok` for 0 and above, else the errno in a C function's result.
    pub fn check(result: i32) -> Result<(), Self> {
        if result < 0 { Err(Self(-result)) } else { Ok(()) }
    }

    /// The value, positive.
    pub fn value(self) -> i32 {
        self.0
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Errno({})", self.0)
    }
}

/// What SPDK could not do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpdkError {
    /// No bdev has this name.
    #[error("bdev {0} does not exist")]
    NoSuchBdev(BdevName),
    /// No other object of SPDK has this name.
    #[error("{kind} {name} does not exist")]
    NoSuch {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object's state does not allow the operation.
    #[error("{object}: {problem}")]
    Refused {
        /// The object's kind and name.
        object: String,
        /// What stands in the way, and what to do.
        problem: String,
    },
    /// An operation failed with an errno.
    #[error("{what} of {object} failed: {errno}")]
    Failed {
        /// The operation, as a noun.
        what: &'static str,
        /// The object's kind and name.
        object: String,
        /// SPDK's answer.
        errno: Errno,
    },
    /// SPDK answered something that cannot be.
    #[error("{what} of {object}: {problem}")]
    Answer {
        /// The operation.
        what: &'static str,
        /// The object's kind and name.
        object: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The reactors are stopped.
    #[error("the reactors of this node are stopped")]
    Stopped,
}

impl SpdkError {
    /// An operation failed.
    pub fn failed(what: &'static str, object: impl ToString, errno: Errno) -> Self {
        Self::Failed { what, object: object.to_string(), errno }
    }

    /// There is no such object.
    pub fn no_such(kind: &'static str, name: impl ToString) -> Self {
        Self::NoSuch { kind, name: name.to_string() }
    }

    /// The object's state forbids it.
    pub fn refused(object: impl ToString, problem: impl Into<String>) -> Self {
        Self::Refused { object: object.to_string(), problem: problem.into() }
    }

    /// SPDK's answer is impossible.
    pub fn answer(what: &'static str, object: impl ToString, problem: impl Into<String>) -> Self {
        Self::Answer { what, object: object.to_string(), problem: problem.into() }
    }

    /// The errno, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Failed { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

impl From<SpdkError> for Error {
    fn from(error: SpdkError) -> Self {
        match error {
            SpdkError::NoSuchBdev(name) => Error::not_found("bdev", name),
            SpdkError::NoSuch { kind, name } => Error::not_found(kind, name),
            SpdkError::Refused { object, problem } => Error::precondition(object, problem),
            SpdkError::Failed { what, object, errno } => {
                let problem = format!("{what} failed: {errno}");
                match errno {
                    Errno::ENOSPC => Error::NoSpace { object, problem },
                    Errno::EEXIST => {
                        Error::AlreadyExists { kind: "object", name: object, detail: format!(": {problem}") }
                    }
                    Errno::ENOMEM => {
                        Error::Exhausted { resource: "memory for SPDK", problem: format!("{object}: {problem}") }
                    }
                    Errno::EBUSY => Error::precondition(object, format!("{problem}; it is in use, try again later")),
                    Errno::ETIMEDOUT => Error::peer(object, problem),
                    _ => Error::medium(object, problem),
                }
            }
            SpdkError::Answer { what, object, problem } => {
                Error::Peer { peer: object, problem: format!("{what}: {problem}") }
            }
            SpdkError::Stopped => Error::precondition("node", "its reactors are stopped"),
        }
    }
}
