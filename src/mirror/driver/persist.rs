//! The driver's part in generations: one record at a time on its way to each member, the newest wins. While the mirror wakes a
//! record is part of a claim ([`super::sleep`]).

use super::super::core::{
    FailureCause, Generation, GenerationOrder, GenerationRecord, MemberIndex, OpenMember, Replaces, ReplicaRecords,
};
use super::sleep::{StoreFailure, blame};
use super::{Driver, Event};

/// A record on its way to a member, and the newest one that came meanwhile.
#[derive(Default)]
pub(super) struct Persisting {
    pub(super) running: bool,
    pub(super) next: Option<GenerationRecord>,
    /// What the replica held before the mirror has started.
    pub(super) held: Option<Generation>,
}

impl Persisting {
    pub(super) fn after(held: Option<Generation>) -> Self {
        Self { held, ..Self::default() }
    }
}

impl Driver {
    pub(super) fn persist_next(&mut self, member: MemberIndex) {
        let slot = &mut self.persisting[member.get()];
        let Some(open) = self.members.get(member) else { return };
        if slot.running {
            return;
        }
        let Some(record) = slot.next.take() else { return };
        slot.running = true;
        let open = open.clone();
        match self.sleep {
            Some(_) => self.claim(member, open, record),
            None => self.persist(member, open, record),
        }
    }

    /// Stores a record with a member that is this mirror's, or that is to become so by being declared void.
    fn persist(&mut self, member: MemberIndex, open: OpenMember, record: GenerationRecord) {
        let generation = record.generation;
        let replaces = match (self.started.is_some(), self.returned[member.get()]) {
            (true, _) => Replaces::Only(self.persisting[member.get()].held),
            (false, Some(read)) if generation == Generation::NONE => Replaces::Only(Some(read)),
            (false, _) => Replaces::Lower,
        };
        let persist = self.host.persist(&open, GenerationOrder { record, replaces });
        let (limit, events, host) = (self.deadlines.limit, self.events.0.clone(), self.host.clone());
        let (mirror, replica, incarnation) = (self.name.clone(), open.replica.clone(), self.incarnation);
        self.tokio.spawn(async move {
            let outcome = match tokio::time::timeout(limit, persist).await {
                Ok(Ok(())) => Event::FencePersisted { member, generation },
                Ok(Err(error)) => {
                    tracing::warn!(%mirror, %replica, %error, "the generation could not be stored");
                    // One that is not void yet is another's, and that says nothing about the others.
                    let is_ours = |found: &ReplicaRecords| {
                        generation == Generation::NONE || !found.is_claimed_by_another(incarnation)
                    };
                    match blame(&*host, &open, limit, FailureCause::Medium, is_ours).await {
                        StoreFailure::Superseded => Event::Superseded,
                        StoreFailure::Member(_) => Event::FenceFailed { member, generation },
                    }
                }
                Err(_) => {
                    tracing::warn!(%mirror, %replica, ?limit, "the generation was not stored in time");
                    Event::FenceFailed { member, generation }
                }
            };
            let _ = events.unbounded_send(outcome);
        });
    }
}
