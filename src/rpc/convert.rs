//! Disks, replicas and lvols of the domain as messages.

use std::sync::Arc;

use crate::disk::DiskInfo;
use crate::disk::health::DiskHealth;
use crate::name::object::HEAD_NAME;
use crate::replica::{BackupPhase, Child, LvolView, ReplicaView};
use crate::wire::spdkrpc as wire;

/// The only type of disk (`engine-behaviour` §2).
const DISK_TYPE: &str = "block";

/// A disk as the wire has it; one that is not ready has only what its request told.
pub fn disk(info: &DiskInfo) -> wire::Disk {
    let mut disk = wire::Disk {
        name: info.name.to_string(),
        path: info.path.clone(),
        r#type: DISK_TYPE.into(),
        driver: info.driver.into(),
        state: info.state.as_str().into(),
        ..Default::default()
    };
    if let Some(store) = &info.store {
        disk.id = store.id.clone();
        disk.uuid = store.uuid.to_string();
        disk.total_size = signed(store.total_size);
        disk.free_size = signed(store.free_size);
        disk.total_blocks = signed(store.total_size / u64::from(store.block_size));
        disk.free_blocks = signed(store.free_size / u64::from(store.block_size));
        disk.block_size = store.block_size.into();
        disk.cluster_size = store.cluster_size.into();
    }
    disk
}

/// What an NVMe disk says of itself; a temperature that it does not tell is -1.
pub fn disk_health(health: DiskHealth) -> wire::DiskHealthGetResponse {
    let DiskHealth { model, serial, firmware, address, log } = health;
    wire::DiskHealthGetResponse {
        model_number: model,
        serial_number: serial,
        firmware_revision: firmware,
        traddr: address,
        critical_warning: log.critical_warning.into(),
        temperature_celsius: log.temperature.map_or(-1.0, f64::from),
        available_spare_percentage: log.available_spare.into(),
        available_spare_threshold_percentage: log.available_spare_threshold.into(),
        percentage_used: log.percentage_used.into(),
        data_units_read: log.data_units_read,
        data_units_written: log.data_units_written,
        host_read_commands: log.host_reads,
        host_write_commands: log.host_writes,
        controller_busy_time: log.busy_minutes,
        power_cycles: log.power_cycles,
        power_on_hours: log.power_on_hours,
        unsafe_shutdowns: log.unsafe_shutdowns,
        media_errors: log.media_errors,
        num_err_log_entries: log.error_log_entries,
        warning_temperature_time_minutes: log.warning_temperature_minutes.into(),
        critical_composite_temperature_time_minutes: log.critical_temperature_minutes.into(),
    }
}

/// The wire counts bytes of disks in signed numbers; none of a real disk needs the sign.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The wire counts in signed numbers; no store has so many lvols.
fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A replica as the wire has it.
pub fn replica(view: &Arc<ReplicaView>) -> wire::Replica {
    let (ip, port_start, port_end) = match view.ports {
        Some(ports) => (ports.ip.to_string(), ports.first.into(), ports.last.into()),
        None => Default::default(),
    };
    wire::Replica {
        name: view.name.to_string(),
        lvs_name: view.lvs_name.to_string(),
        lvs_uuid: view.lvs_uuid.to_string(),
        spec_size: view.spec_size,
        actual_size: view.actual_size(),
        ip,
        port_start,
        port_end,
        head: view.head.as_ref().map(|head| lvol(HEAD_NAME, head)),
        snapshots: view.snapshots.iter().map(|(name, view)| (name.to_string(), lvol(name.as_str(), view))).collect(),
        rebuilding: view.rebuilding,
        state: view.state.as_str().into(),
        error_msg: view.error.clone(),
        linked_clone_info: view.linked.as_ref().map(|linked| wire::LinkedCloneInfo {
            source_replica_name: linked.source.to_string(),
            source_snapshot_name: linked.snapshot.to_string(),
        }),
        clone_snapshot_usage: view.clone_usage.iter().map(|(name, count)| (name.to_string(), number(*count))).collect(),
        uuid: view.head.as_ref().map(|head| head.uuid.to_string()).unwrap_or_default(),
        backing_image_name: view.backing_image.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// An lvol under the name that the wire knows it by.
fn lvol(name: &str, view: &LvolView) -> wire::Lvol {
    let child = |child: &Child| match child {
        Child::Snapshot(name) => (name.to_string(), true),
        Child::Head => (HEAD_NAME.into(), true),
    };
    wire::Lvol {
        name: name.into(),
        uuid: view.uuid.to_string(),
        spec_size: view.spec_size,
        actual_size: view.actual_size,
        parent: view.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        children: view.children.iter().map(child).collect(),
        creation_time: view.creation_time.clone(),
        user_created: view.user_created,
        snapshot_timestamp: view.snapshot_timestamp.clone(),
        snapshot_checksum: view.checksum.clone(),
    }
}

/// A backup, running or ended (`engine-behaviour` §9).
pub fn backup(snapshot_name: String, replica_address: String, phase: BackupPhase) -> wire::BackupStatusResponse {
    let (state, progress, backup_url, error) = match phase {
        // At most 99.
        BackupPhase::Running(percent) => ("in_progress", percent as i32, String::new(), String::new()),
        BackupPhase::Complete(url) => ("complete", 100, url, String::new()),
        BackupPhase::Failed(problem) => ("error", 0, String::new(), problem),
    };
    wire::BackupStatusResponse { state: state.into(), progress, backup_url, error, snapshot_name, replica_address }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use uuid::Uuid;

    use super::*;
    use crate::name::{BackingImageName, LvsName, ReplicaName, SnapshotName};
    use crate::replica::ReplicaState;

    #[test]
    fn a_chain_goes_over_by_snapshot_names() {
        let snapshot = SnapshotName::parse("s1").unwrap();
        let layer = |parent: Option<&SnapshotName>, children: &[Child]| LvolView {
            uuid: Uuid::nil(),
            spec_size: 4 << 20,
            actual_size: 1 << 20,
            parent: parent.cloned(),
            children: children.iter().cloned().collect::<BTreeSet<_>>(),
            creation_time: String::new(),
            user_created: true,
            snapshot_timestamp: "2026-01-01T00:00:00Z".into(),
            checksum: "18446744073709551615".into(),
            silently_corrupted: false,
            labels: Default::default(),
        };
        let view = Arc::new(ReplicaView {
            name: ReplicaName::parse("r").unwrap(),
            lvs_name: LvsName::parse("d").unwrap(),
            lvs_uuid: Uuid::nil(),
            spec_size: 4 << 20,
            state: ReplicaState::Stopped,
            error: String::new(),
            rebuilding: false,
            ports: None,
            head: Some(layer(Some(&snapshot), &[])),
            snapshots: BTreeMap::from([(snapshot, layer(None, &[Child::Head]))]),
            linked: None,
            cloned: None,
            interrupted: None,
            clone_usage: BTreeMap::new(),
            backing_image: Some(BackingImageName::parse("parrot").unwrap()),
        });
        let replica = replica(&view);
        assert_eq!((replica.ip.as_str(), replica.port_start, replica.state.as_str()), ("", 0, "stopped"));
        assert_eq!((replica.actual_size, replica.backing_image_name.as_str()), (2 << 20, "parrot"));
        let head = replica.head.unwrap();
        assert_eq!((head.name.as_str(), head.parent.as_str()), ("volume-head", "s1"));
        assert_eq!(replica.snapshots["s1"].name, "s1");
        assert_eq!(replica.snapshots["s1"].parent, "");
        assert_eq!(replica.snapshots["s1"].snapshot_checksum, "18446744073709551615");
        assert_eq!(replica.snapshots["s1"].children.keys().collect::<Vec<_>>(), ["volume-head"]);
    }
}
