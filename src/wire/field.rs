//! Fields that many messages have, as types. Each error names the field as the message spells it.

use std::num::NonZeroU16;

use jiff::Timestamp;
use uuid::Uuid;

use crate::name::{
    BackingImageName, EngineName, FrontendName, HostPort, ReplicaAddress, ReplicaName, SnapshotName, VolumeName,
};
use crate::{Error, Result};

/// The largest volume, 64 TiB: what the sizes of cluster maps were thought for.
const SIZE_LIMIT: u64 = 64 << 40;
/// The most ports one replica gets; Longhorn's manager asks for 5.
const PORT_LIMIT: u16 = 64;

/// The name of an engine.
pub fn engine_name(field: &'static str, text: &str) -> Result<EngineName> {
    EngineName::parse(text).map_err(|error| Error::name(field, error))
}

/// The name of an engine frontend.
pub fn frontend_name(field: &'static str, text: &str) -> Result<FrontendName> {
    FrontendName::parse(text).map_err(|error| Error::name(field, error))
}

/// The name of a volume.
pub fn volume_name(field: &'static str, text: &str) -> Result<VolumeName> {
    VolumeName::parse(text).map_err(|error| Error::name(field, error))
}

/// The name of a replica.
pub fn replica_name(field: &'static str, text: &str) -> Result<ReplicaName> {
    ReplicaName::parse(text).map_err(|error| Error::name(field, error))
}

/// The name of a backing image.
pub fn backing_image_name(field: &'static str, text: &str) -> Result<BackingImageName> {
    BackingImageName::parse(text).map_err(|error| Error::name(field, error))
}

/// The name of a snapshot.
pub fn snapshot_name(field: &'static str, text: &str) -> Result<SnapshotName> {
    SnapshotName::parse(text).map_err(|error| Error::name(field, error))
}

/// Where a replica is exported.
pub fn replica_address(field: &'static str, text: &str) -> Result<ReplicaAddress> {
    HostPort::parse(text).map_err(|error| Error::name(field, error))
}

/// A volume's size in bytes.
pub fn size(field: &'static str, bytes: u64) -> Result<u64> {
    match bytes {
        1..=SIZE_LIMIT => Ok(bytes),
        _ => Err(Error::invalid(field, format!("{bytes} is not within 1 and {SIZE_LIMIT} bytes"))),
    }
}

/// How many ports an object gets.
pub fn ports(count: i32) -> Result<NonZeroU16> {
    let count = u16::try_from(count).ok().filter(|count| *count <= PORT_LIMIT);
    let refused = || Error::invalid("port_count", format!("must be within 1 and {PORT_LIMIT}"));
    count.and_then(NonZeroU16::new).ok_or_else(refused)
}

/// A time of the request as it is stored; none means now.
pub fn timestamp(text: &str) -> Result<String> {
    let time = match text {
        "" => Timestamp::now(),
        text => text
            .parse()
            .map_err(|_| Error::invalid("snapshot_timestamp", format!("{text:?} is not a time as in RFC 3339")))?,
    };
    Ok(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A UUID that may be left out.
pub fn uuid(field: &'static str, text: &str) -> Result<Option<Uuid>> {
    match text {
        "" => Ok(None),
        text => match Uuid::parse_str(text) {
            Ok(uuid) if !uuid.is_nil() => Ok(Some(uuid)),
            _ => Err(Error::invalid(field, format!("{text:?} is not a UUID"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_stored_in_utc_with_whole_seconds() {
        assert_eq!(timestamp("2026-01-01T02:00:00.5+02:00").unwrap(), "2026-01-01T00:00:00Z");
        assert!(timestamp("").unwrap().ends_with('Z'));
        assert!(timestamp("yesterday").is_err());
    }
}
