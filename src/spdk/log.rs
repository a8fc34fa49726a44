//! SPDK's own log: its lines become ours, its threshold and its flags can be changed while it runs.
//!
//! SPDK's severities are finer than ours: a notice of it is our info, its info our debug, its debug our trace. Lines of
//! info and debug come only of parts whose flag is set; there are none of debug in a release build of SPDK.

use std::ffi::{CStr, c_char, c_int, c_void};

use spdk_sys as sys;

use super::control::OnControl;
use super::errno::{Errno, SpdkError};
use super::text;

/// The least severe lines that SPDK formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Threshold {
    /// No line at all.
    Disabled = -1,
    /// Errors.
    Error = 0,
    /// Warnings too.
    Warning = 1,
    /// Notices too.
    Notice = 2,
    /// What parts with a set flag tell too.
    Info = 3,
    /// Everything.
    Debug = 4,
}

/// A part of SPDK whose info and debug lines can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Its name.
    pub name: String,
    /// Whether they are logged.
    pub enabled: bool,
}

/// Sends SPDK's lines to `tracing`, target `spdk`. Before anything else is asked of SPDK.
pub(super) fn hook() {
    // SAFETY: the callback is a function that takes what the shim gives.
    unsafe { sys::cs_log_hook(Some(line)) };
}

/// Sets the threshold, at any time and from any thread.
pub fn set_threshold(threshold: Threshold) {
    // SAFETY: stores two integers that SPDK only reads.
    unsafe { sys::cs_log_level(threshold as c_int) };
}

/// All flags, in the order of their names.
pub fn flags(_on: OnControl) -> Vec<Flag> {
    unsafe extern "C" fn add(arg: *mut c_void, name: *const c_char, enabled: bool) {
        // SAFETY: `arg` is the vector below, used by nobody else during the call; `name` lives for this callback.
        let (found, name) = unsafe { (&mut *arg.cast::<Vec<Flag>>(), text::from_c(name)) };
        found.push(Flag { name, enabled });
    }
    let mut found: Vec<Flag> = Vec::new();
    // SAFETY: on the control thread; the callback fits the argument and is called only during the call.
    unsafe { sys::cs_log_flags(Some(add), (&raw mut found).cast()) };
    found
}

/// Sets exactly these flags, in any case, and clears all others. A name of no flag is an error and changes nothing.
pub fn set_flags(on: OnControl, wanted: &[String]) -> Result<(), SpdkError> {
    let known = flags(on);
    let is = |flag: &Flag, name: &String| flag.name.eq_ignore_ascii_case(name);
    if let Some(unknown) = wanted.iter().find(|name| !known.iter().any(|flag| is(flag, name))) {
        return Err(SpdkError::no_such("log flag", unknown));
    }
    for flag in &known {
        let enabled = wanted.iter().any(|name| is(flag, name));
        let name = text::to_c(&flag.name);
        // SAFETY: on the control thread, the only one that changes flags; the name is read during the call.
        Errno::check(unsafe { sys::cs_log_flag_set(name.as_ptr(), enabled) })
            .map_err(|_| SpdkError::no_such("log flag", &flag.name))?;
    }
    Ok(())
}

unsafe extern "C" fn line(severity: c_int, file: *const c_char, line: c_int, message: *const c_char) {
    // SAFETY: the shim passes two NUL-terminated strings that live for the call.
    let (file, message) =
        unsafe { (CStr::from_ptr(file).to_string_lossy(), CStr::from_ptr(message).to_string_lossy()) };
    let file = file.rsplit('/').next().unwrap_or_default();
    match severity {
        0 => tracing::error!(target: "spdk", %file, line, "{message}"),
        1 => tracing::warn!(target: "spdk", %file, line, "{message}"),
        2 => tracing::info!(target: "spdk", %file, line, "{message}"),
        3 => tracing::debug!(target: "spdk", %file, line, "{message}"),
        _ => tracing::trace!(target: "spdk", %file, line, "{message}"),
    }
}
