//! Labels of snapshots, to the wire and from it.

use std::collections::BTreeMap;

use super::corriente::v1 as own;
use crate::name::{SnapshotLabels, SnapshotName};
use crate::{Error, Result};

/// The labels of a snapshot that is to be taken.
pub fn parse(labels: BTreeMap<String, String>) -> Result<SnapshotLabels> {
    SnapshotLabels::parse(labels).map_err(|error| Error::name("labels", error))
}

/// An answer about the labels of snapshots.
pub fn message(labels: BTreeMap<SnapshotName, SnapshotLabels>) -> own::SnapshotLabelsResponse {
    let entry = |(name, labels): (SnapshotName, SnapshotLabels)| {
        (name.to_string(), own::SnapshotLabels { labels: labels.into() })
    };
    own::SnapshotLabelsResponse { snapshots: labels.into_iter().map(entry).collect() }
}

/// The same of a peer's answer; the error says what in it cannot be.
pub fn parse_answer(
    answer: own::SnapshotLabelsResponse,
) -> std::result::Result<BTreeMap<SnapshotName, SnapshotLabels>, String> {
    let entry = |(name, labels): (String, own::SnapshotLabels)| {
        let parsed = SnapshotName::parse(&name).map_err(|error| format!("the snapshot's name {name:?} {error}"))?;
        let labels =
            SnapshotLabels::parse(labels.labels).map_err(|error| format!("a label of snapshot {name} {error}"))?;
        Ok((parsed, labels))
    };
    answer.snapshots.into_iter().map(entry).collect()
}
