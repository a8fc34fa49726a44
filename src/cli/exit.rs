//! How a command ends. The codes are documented in docs/cli.md and never change.

use std::fmt;
use std::io;
use std::process::ExitCode;

use tonic::{Code, Status};

use crate::error::Error;

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was tried and failed.
    Failed = 1,
    /// The arguments can't be right.
    Usage = 2,
    /// There is no such object.
    NotFound = 3,
    /// The object exists already.
    Exists = 4,
    /// The object's state does not allow it.
    Precondition = 5,
    /// A node does not answer, or not in time.
    Unavailable = 6,
    /// Stored data is not what was written.
    Corrupt = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The end of a command that did not do what it was asked.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The code for scripts.
    pub exit: Exit,
    /// The text for people.
    pub message: String,
}

impl Failure {
    /// With a code of choice.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// It was tried and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The arguments can't be right.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The same, with what was being done in front.
    pub fn during(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The exit for a gRPC code.
fn exit_of(code: Code) -> Exit {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists => Exit::Exists,
        Code::FailedPrecondition => Exit::Precondition,
        // A client never cancels its own call here: tonic reports its own timeout as Cancelled.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Exit::Unavailable,
        Code::DataLoss => Exit::Corrupt,
        _ => Exit::Failed,
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = match status.message() {
            "" => format!("the node answered {:?}", status.code()),
            message => message.to_owned(),
        };
        // What a node has answered has no cause on this side. A call's own limit has one, and a code of its own.
        match std::error::Error::source(&status) {
            Some(cause) if !matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) => {
                let cause = crate::error::root_cause(cause);
                let problem =
                    format!("no answer, the connection broke: {cause}; a node with TLS is spoken to with --tls");
                Self::new(Exit::Unavailable, problem)
            }
            _ => Self::new(exit_of(status.code()), message),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(exit_of(crate::wire::status::code(&error)), error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_that_scripts_rely_on() {
        let table = [
            (Code::Internal, 1),
            (Code::Unknown, 1),
            (Code::ResourceExhausted, 1),
            (Code::Unimplemented, 1),
            (Code::InvalidArgument, 2),
            (Code::NotFound, 3),
            (Code::AlreadyExists, 4),
            (Code::FailedPrecondition, 5),
            (Code::Unavailable, 6),
            (Code::DeadlineExceeded, 6),
            (Code::DataLoss, 7),
        ];
        for (code, exit) in table {
            assert_eq!(Failure::from(Status::new(code, "x")).exit as u8, exit, "{code:?}");
        }
    }
}
