//! Names on their way to C and back.

use std::ffi::{CStr, CString, c_char};

use super::errno::SpdkError;
use crate::name::NameError;

/// A parsed name as C wants it.
pub(super) fn to_c(name: &str) -> CString {
    CString::new(name).expect("no kind of name admits a NUL; they are made only by parsing")
}

/// Copies a text of SPDK. Null is the empty text, which no kind of name accepts.
///
/// # Safety
/// `text` is null or a NUL-terminated string that lives for the call.
pub(super) unsafe fn from_c(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Parses a name that SPDK answered; one that does not parse is an error that says of what.
pub(super) fn parse<T>(
    what: &'static str,
    object: impl ToString,
    text: &str,
    parse: fn(&str) -> Result<T, NameError>,
) -> Result<T, SpdkError> {
    parse(text).map_err(|error| SpdkError::answer(what, object, format!("the name {text:?} {error}")))
}
