//! What a replica's node itself sees to when the record of dirty regions changes: who may change it, and in what order it
//! becomes durable with the data.

use super::attribute::stored_generation;
use super::attributes::{AttributeKey, GENERATION, key_of};
use super::instance::Replica;
use crate::mirror::core::{DirtyRecord, Generation};
use crate::spdk::xattr::XattrValue;
use crate::{Error, Result};

/// Checks a record that is about to be stored. A region that it takes off holds the same on all replicas, but maybe only in the
/// caches of their disks: this one's is flushed before, so that its record never says more than its disk holds.
pub(super) async fn prepare(replica: &Replica, key: &AttributeKey, next: Option<&XattrValue>) -> Result<()> {
    let invalid = |problem: String| Error::invalid("value", problem);
    let next = next.ok_or_else(|| invalid("a record of dirty regions is replaced, not removed".into()))?;
    let next = DirtyRecord::parse(next.as_bytes()).map_err(|error| invalid(error.to_string()))?;
    let head = replica.head();
    let stored = replica.store.attribute(&head, key.name()).await?;
    // One that cannot be read says nothing that could be kept.
    let stored = stored.and_then(|stored| DirtyRecord::parse(stored.as_bytes()).ok());
    let generation = replica.store.attribute(&head, &key_of(GENERATION)).await?;
    let record = stored_generation(replica, generation.as_ref())?;
    // A void record tells who made it so.
    let serving = match record {
        Some(record) if record.generation == Generation::NONE => record.base.incarnation(),
        Some(record) => record.generation.incarnation(),
        None => return Err(Error::precondition(replica.object(), "it is in no mirror that could store dirty regions")),
    };
    if !next.may_replace(stored.as_ref(), serving) {
        let problem = "the record of dirty regions is not the newest of the mirror that serves it: another engine has gone on \
                       with it, or a later record came first";
        return Err(Error::precondition(replica.object(), problem));
    }
    let adds_only = stored.is_some_and(|stored| stored.regions == next.regions && stored.dirty.is_within(&next.dirty));
    if stored.is_some() && !adds_only { replica.disk.flush().await } else { Ok(()) }
}
