//! What a replica's node itself sees to when the record of dirty regions changes: who may change it, what of it stays, and in what
//! order it becomes durable with the data.

use super::attribute::stored_generation;
use super::attributes::{AttributeKey, GENERATION, key_of};
use super::instance::Replica;
use crate::mirror::core::dirty::FoundDirty;
use crate::mirror::core::{DirtyOrder, DirtyRecord, ReplicaRecords};
use crate::spdk::xattr::XattrValue;
use crate::{Error, Result};

/// The record that the replica is to have after an order. Called with the attributes locked, so that between a claim and what it
/// found no other record comes. A region that a record takes off holds the same on all replicas, but maybe only in the caches of
/// their disks: this one's is flushed before, so that its record never says more than its disk holds.
pub(super) async fn carry_out(replica: &Replica, key: &AttributeKey, order: Option<&XattrValue>) -> Result<XattrValue> {
    let invalid = |problem: String| Error::invalid("value", problem);
    let order = order.ok_or_else(|| invalid("a record of dirty regions is replaced, not removed".into()))?;
    let order = DirtyOrder::parse(order.as_bytes()).map_err(|error| invalid(error.to_string()))?;
    let head = replica.head();
    let dirty = match replica.store.attribute(&head, key.name()).await? {
        None => FoundDirty::Nothing,
        Some(stored) => FoundDirty::parse(stored.as_bytes()),
    };
    let generation = replica.store.attribute(&head, &key_of(GENERATION)).await?;
    let records = ReplicaRecords { generation: stored_generation(replica, generation.as_ref())?, dirty };
    let size = replica.view().spec_size;
    let next = order.carry_out(&records, size).map_err(|refused| {
        Error::precondition(replica.object(), format!("the record of its dirty regions is refused: {refused}"))
    })?;
    if takes_off(&records.dirty, &next, size) {
        replica.disk.flush().await?;
    }
    XattrValue::new(&next.encode()).map_err(|error| Error::name("value", error))
}

fn takes_off(before: &FoundDirty, next: &DirtyRecord, size: u64) -> bool {
    !before.dirty_in(next.regions, size).is_within(&next.dirty)
}
