//! Cutting off the hosts of a head. What a host has sent may be under way long after it has closed its connection: in the
//! network, or in the memory of this node while it stood still. A mirror that takes a replica in again, which it had put out, has to
//! know that nothing of it comes after what it sends now.

use super::Replicas;
use super::instance::Turn;
use super::view::ReplicaState;
use crate::name::ReplicaName;
use crate::{Error, Result};

impl Replicas {
    /// Disconnects all hosts of a replica's head. On return nothing that they had sent before can change it any more, and it is
    /// served anew at the same address.
    pub async fn disconnect_hosts(&self, name: &ReplicaName) -> Result<()> {
        let replica = self.known(name)?;
        super::detached(async move { disconnect(&mut replica.turn().await?).await }).await
    }
}

async fn disconnect(turn: &mut Turn<'_>) -> Result<()> {
    turn.require_usable()?;
    let Some(serving) = turn.work.serving.as_ref().filter(|_| turn.state() == ReplicaState::Running) else {
        return Err(Error::precondition(turn.replica.object(), "it does not run, so it has no hosts"));
    };
    let renewed = serving.export_anew().await;
    if let Err(error) = &renewed {
        turn.fail(error);
    }
    renewed
}
