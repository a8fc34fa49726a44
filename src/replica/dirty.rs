//! What a replica's node itself sees to when the record of dirty regions changes: who may change it, what of it stays, and in what
//! order it becomes durable with the data.

use super::attribute::stored_generation;
use super::attributes::{DIRTY, GENERATION, key_of};
use super::instance::Replica;
use crate::mirror::core::dirty::FoundDirty;
use crate::mirror::core::{DirtyOrder, DirtyRecord, GenerationOrder, ReplicaRecords};
use crate::spdk::xattr::{XattrChange, XattrValue};
use crate::{Error, Result};

/// What an order about dirty regions changes, all at once. Called with the attributes locked, so that between a claim and what it
/// found no other record comes. A region that a record takes off holds the same on all replicas, but maybe only in the caches of
/// their disks: this one's is flushed before, so that its record never says more than its disk holds.
pub(super) async fn carry_out(replica: &Replica, order: Option<&XattrValue>) -> Result<Vec<XattrChange>> {
    let invalid = |problem: String| Error::invalid("value", problem);
    let order = order.ok_or_else(|| invalid("a record of dirty regions is replaced, not removed".into()))?;
    let order = DirtyOrder::parse(order.as_bytes()).map_err(|error| invalid(error.to_string()))?;
    let records = records(replica).await?;
    let size = replica.view().spec_size;
    let next = order.carry_out(&records, size).map_err(|refused| {
        Error::overtaken(replica.object(), format!("the record of its dirty regions is refused: {refused}"))
    })?;
    if takes_off(&records.dirty, &next.dirty, size) {
        replica.disk.flush().await?;
    }
    let mut changes = vec![change(DIRTY, &next.dirty.encode())?];
    if let Some(generation) = next.generation {
        changes.push(change(GENERATION, generation.encode().as_bytes())?);
    }
    Ok(changes)
}

fn change(key: &'static str, value: &[u8]) -> Result<XattrChange> {
    let value = XattrValue::new(value).map_err(|error| Error::name("value", error))?;
    Ok(XattrChange { name: key_of(key), value: Some(value) })
}

/// What an order about the generation changes, when it is not part of a claim.
pub(super) async fn raise(replica: &Replica, order: &XattrValue) -> Result<XattrChange> {
    let invalid = |problem: String| Error::invalid("value", problem);
    let text = order.as_text().ok_or_else(|| invalid("a generation record is text".into()))?;
    let order = GenerationOrder::parse(text).map_err(|error| invalid(error.to_string()))?;
    let records = records(replica).await?;
    if !records.takes(&order) {
        let held = records.held().map_or("none".into(), |held| held.to_string());
        let next = order.record.generation;
        let problem =
            format!("its generation is {held}, which {next} may not follow: another engine has gone on with it");
        return Err(Error::overtaken(replica.object(), problem));
    }
    change(GENERATION, order.record.encode().as_bytes())
}

async fn records(replica: &Replica) -> Result<ReplicaRecords> {
    let head = replica.head();
    let dirty = match replica.store.attribute(&head, &key_of(DIRTY)).await? {
        None => FoundDirty::Nothing,
        Some(stored) => FoundDirty::parse(stored.as_bytes()),
    };
    let generation = replica.store.attribute(&head, &key_of(GENERATION)).await?;
    Ok(ReplicaRecords { generation: stored_generation(replica, generation.as_ref())?, dirty })
}

fn takes_off(before: &FoundDirty, next: &DirtyRecord, size: u64) -> bool {
    !before.dirty_in(next.regions, size).is_within(&next.dirty)
}
