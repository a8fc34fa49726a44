//! Values that others keep with a replica's head, durably: how recent it is, what was restored into it.

use super::attributes::{AttributeKey, GENERATION, REBUILD, key_of};
use super::instance::Replica;
use super::{Replicas, dirty};
use crate::mirror::core::{Generation, GenerationRecord};
use crate::name::ReplicaName;
use crate::spdk::xattr::{XattrChange, XattrValue};
use crate::{Error, Result};

impl Replicas {
    /// A value kept with the replica's head; `None` when there is none. While the replica is cloned into, its generation can be
    /// read, as the head to come will have it.
    pub async fn xattr_get(&self, name: &ReplicaName, key: &str) -> Result<Option<Vec<u8>>> {
        let key = AttributeKey::parse(key)?;
        let replica = self.known(name)?;
        if !key.is_generation() || replica.view().interrupted.is_none() {
            require_head(&replica).await?;
        }
        let value = replica.store.attribute(&replica.head(), key.name()).await?;
        Ok(value.map(|value| value.as_bytes().to_vec()))
    }

    /// Keeps a value with the replica's head; empty removes it. Durable when this returns. It survives snapshots,
    /// reverts and restarts. A generation, or a record of dirty regions, is taken only from the
    /// mirror that may follow the one that is there; else the error is [`Error::Overtaken`].
    pub async fn xattr_set(&self, name: &ReplicaName, key: &str, value: &[u8]) -> Result<()> {
        let key = AttributeKey::parse(key)?;
        let value = match value {
            [] => None,
            bytes => Some(XattrValue::new(bytes).map_err(|error| Error::name("value", error))?),
        };
        let replica = self.known(name)?;
        super::detached(async move { set(&replica, &key, value).await }).await
    }
}

async fn set(replica: &Replica, key: &AttributeKey, value: Option<XattrValue>) -> Result<()> {
    // Not the replica's turn: a fence must not wait for the end of a long operation.
    let _attributes = replica.attributes.lock().await;
    require_head(replica).await?;
    let changes = match &value {
        _ if key.is_dirty() => dirty::carry_out(replica, value.as_ref()).await?,
        Some(order) if key.is_generation() => vec![dirty::raise(replica, order).await?],
        _ => vec![XattrChange { name: key.name().clone(), value }],
    };
    replica.store.apply(&replica.head(), changes).await?;
    replica.disk.flush().await
}

/// Whether the head was in sync in any mirror: of one that joined one only to be filled the generation is void.
pub(super) async fn was_in_sync(replica: &Replica) -> Result<bool> {
    let stored = replica.store.attribute(&replica.head(), &key_of(GENERATION)).await?;
    let record = stored_generation(replica, stored.as_ref())?;
    Ok(record.is_some_and(|record| record.generation != Generation::NONE))
}

/// What has the head's place in a rebuild keeps nothing for others.
async fn require_head(replica: &Replica) -> Result<()> {
    match replica.store.attribute(&replica.head(), &key_of(REBUILD)).await? {
        None => Ok(()),
        Some(_) => {
            let problem = "a rebuild of it is in progress or was interrupted, and it has no head";
            Err(Error::precondition(replica.object(), problem))
        }
    }
}

/// The record that is there.
pub(super) fn stored_generation(replica: &Replica, stored: Option<&XattrValue>) -> Result<Option<GenerationRecord>> {
    let corrupt = |problem: String| Error::Corruption { object: replica.object(), problem };
    let Some(value) = stored else { return Ok(None) };
    let text = value.as_text().ok_or_else(|| corrupt("a generation record is text".into()))?;
    GenerationRecord::parse(text).map(Some).map_err(|error| corrupt(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_REPLICAS;
    use crate::mirror::core::Incarnation;

    #[test]
    fn the_record_of_the_largest_mirror_with_the_longest_names_fits() {
        let longest = (1..4096).rev().find_map(|length| ReplicaName::parse(&"r".repeat(length)).ok());
        let longest = longest.expect("some name is valid");
        let generation = Generation::NONE.next(Incarnation(u32::MAX));
        let in_sync = vec![longest; MAX_REPLICAS as usize];
        let record = GenerationRecord { generation, base: generation, in_sync };
        let value = XattrValue::new(record.encode().as_bytes()).expect("it fits");
        let text = value.as_text().expect("it is text");
        assert_eq!(GenerationRecord::parse(text), Ok(record));
    }
}
