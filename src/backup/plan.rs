//! Which blocks have to move. Pure: lists in, lists out.

pub mod changed;
pub mod create;
pub mod restore;
