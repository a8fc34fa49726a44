//! How the command line's JSON shows what protobuf keeps as numbers: enums by the names of the contract.

use std::collections::BTreeMap;

use serde::Serializer;
use serde::ser::SerializeMap;

use super::spdkrpc::ReplicaMode;

/// The name of a mode, or its number when a newer peer sends one that we don't know.
pub fn mode_name(mode: i32) -> String {
    match ReplicaMode::try_from(mode) {
        Ok(mode) => mode.as_str_name().to_owned(),
        Err(_) => mode.to_string(),
    }
}

pub(crate) fn replica_mode<S: Serializer>(mode: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&mode_name(*mode))
}

pub(crate) fn replica_modes<S: Serializer>(modes: &BTreeMap<String, i32>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(modes.len()))?;
    for (replica, mode) in modes {
        map.serialize_entry(replica, &mode_name(*mode))?;
    }
    map.end()
}
