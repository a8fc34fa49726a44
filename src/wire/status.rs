//! Domain errors to gRPC codes and back: the one place where both are known.
//!
//! Which code a caller may rely on is `engine-behaviour` §1.4. The text is for people, except for the phrases listed
//! there, which callers match; so it goes over the wire as it is.

use tonic::{Code, Status};

use crate::error::Error;

/// The longest text sent with a code, in bytes: it travels percent-encoded in a header, and peers limit those
/// (many to 8 KiB in all).
const MESSAGE_LIMIT: usize = 2048;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Status::new(code(&error), shorten(error.to_string()))
    }
}

/// The gRPC code of an error.
pub fn code(error: &Error) -> Code {
    match error {
        Error::InvalidArgument { .. } => Code::InvalidArgument,
        Error::NotFound { .. } => Code::NotFound,
        Error::AlreadyExists { .. } => Code::AlreadyExists,
        Error::Precondition { .. } => Code::FailedPrecondition,
        Error::Overtaken { .. } => Code::Aborted,
        Error::Canceled { .. } => Code::Cancelled,
        Error::Unimplemented { .. } => Code::Unimplemented,
        Error::Exhausted { .. } | Error::NoSpace { .. } => Code::ResourceExhausted,
        Error::Peer { .. } => Code::Unavailable,
        Error::Timeout { .. } => Code::DeadlineExceeded,
        Error::Corruption { .. } => Code::DataLoss,
        Error::Medium { .. } | Error::Internal { .. } => Code::Internal,
    }
}

/// What an answer of another node means here. `peer` is the node with its address, `object` what the call was about,
/// as kind and name.
///
/// The code that the peer chose is kept where the caller can act on it (no such object, exists already, wrong state,
/// overtaken, corrupt, no space); all else is the peer's failure. An argument that the peer refuses is one that we composed, and
/// so is our bug, or a difference of versions.
pub fn from_peer(peer: &str, object: (&'static str, &str), status: &Status) -> Error {
    let (kind, name) = object;
    let message = status.message();
    match status.code() {
        Code::NotFound => Error::not_found(kind, format!("{name} on {peer}")),
        Code::AlreadyExists => {
            Error::AlreadyExists { kind, name: name.to_owned(), detail: format!(": {peer} says {message}") }
        }
        Code::FailedPrecondition => Error::precondition(format!("{kind} {name} on {peer}"), message),
        Code::Aborted => Error::overtaken(format!("{kind} {name} on {peer}"), message),
        Code::ResourceExhausted => {
            Error::Exhausted { resource: "a resource of a peer", problem: format!("{peer}: {message}") }
        }
        Code::DataLoss => Error::Corruption { object: format!("{kind} {name} on {peer}"), problem: message.to_owned() },
        Code::InvalidArgument => Error::internal(format!("a call for {kind} {name} to {peer}"), message),
        code => Error::peer(peer, format!("{kind} {name}: {code:?}: {message}")),
    }
}

/// Cuts a text at the limit, at a character's boundary, and shows that it is cut.
fn shorten(mut text: String) -> String {
    if text.len() > MESSAGE_LIMIT {
        let cut = (0..=MESSAGE_LIMIT).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(cut.unwrap_or(0));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One of each kind of error, and the code that `engine-behaviour` §1.4 asks for.
    fn table() -> Vec<(Error, Code)> {
        let text = String::from;
        vec![
            (Error::invalid("name", "must not be empty"), Code::InvalidArgument),
            (Error::not_found("replica", "a"), Code::NotFound),
            (Error::exists("engine", "e"), Code::AlreadyExists),
            (Error::precondition("engine e", "is restoring"), Code::FailedPrecondition),
            (Error::overtaken("replica r", "another engine has gone on with it"), Code::Aborted),
            (Error::Canceled { what: text("a restore") }, Code::Cancelled),
            (Error::Unimplemented { what: "x", reason: "y" }, Code::Unimplemented),
            (Error::Exhausted { resource: "ports", problem: text("all in use") }, Code::ResourceExhausted),
            (Error::NoSpace { object: text("disk d"), problem: text("0 free") }, Code::ResourceExhausted),
            (Error::peer("10.0.0.1:8504", "is silent"), Code::Unavailable),
            (Error::Timeout { what: text("attach"), limit: Duration::from_secs(1) }, Code::DeadlineExceeded),
            (Error::medium("disk d", "EIO"), Code::Internal),
            (Error::Corruption { object: text("block"), problem: text("checksum") }, Code::DataLoss),
            (Error::internal("mirror", "no members"), Code::Internal),
        ]
    }

    #[test]
    fn every_error_has_its_code_and_keeps_its_text() {
        for (error, code) in table() {
            let text = error.to_string();
            let status = Status::from(error);
            assert_eq!((status.code(), status.message()), (code, text.as_str()));
        }
    }

    #[test]
    fn a_peers_code_survives_where_the_caller_can_act_on_it() {
        for kept in [
            Code::NotFound,
            Code::AlreadyExists,
            Code::FailedPrecondition,
            Code::Aborted,
            Code::ResourceExhausted,
            Code::DataLoss,
        ] {
            let error = from_peer("10.0.0.1:8504", ("replica", "r"), &Status::new(kept, "why"));
            assert_eq!(code(&error), kept);
            assert!(error.to_string().contains("10.0.0.1:8504"), "{error}");
        }
        for failed in [Code::Unavailable, Code::Unknown, Code::Unimplemented, Code::DeadlineExceeded, Code::Internal] {
            let error = from_peer("10.0.0.1:8504", ("replica", "r"), &Status::new(failed, "why"));
            assert_eq!(code(&error), Code::Unavailable);
            assert!(error.to_string().contains("why"), "{error}");
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let status = Status::from(Error::invalid("name", "ñ".repeat(4096)));
        assert!(status.message().len() <= MESSAGE_LIMIT + '…'.len_utf8());
        assert!(status.message().ends_with("ñ…"));
    }
}
