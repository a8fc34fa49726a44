//! Linked clones of all replicas of a volume at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;

use super::source::SourceVolume;
use super::{CloneRequest, PAIRS};
use crate::engine::assemble::Start;
use crate::engine::attach::ReplicaPath;
use crate::engine::backend::ReplicaDescription;
use crate::engine::instance::Engine;
use crate::engine::restore::replicas::forget_restores;
use crate::error::{Error, Result};
use crate::name::ReplicaName;
use crate::replica::clone::CloneOrder;

/// The order of each replica that gets a source.
type Orders = BTreeMap<ReplicaName, CloneOrder>;

impl Engine {
    pub(super) async fn link(self: &Arc<Self>, request: &CloneRequest, source: &SourceVolume) -> Result<()> {
        let _operation = self.begin("a clone")?;
        let described = self.describe_for_clone().await?;
        let (orders, left_out) = self.orders(request, source, &described)?;
        if is_made(&orders, &described) {
            return Ok(());
        }
        self.require_fresh(&described).await?;
        // Before the others change, so that their newer generation keeps it out for good.
        for (replica, problem) in &left_out {
            self.expel(replica, problem).await;
        }
        self.close_for_clone().await?;
        let answers = join_all(self.in_sync().into_iter().filter_map(|path| {
            let order = orders.get(&path.replica)?.clone();
            Some(async move {
                let made = match forget_restores(&path).await {
                    Ok(()) => path.backend.clone_start(order).await,
                    Err(error) => Err(error),
                };
                (path, made)
            })
        }));
        let answers = answers.await;
        let failed: Vec<_> =
            answers.iter().filter_map(|(path, made)| Some((path.clone(), made.clone().err()?))).collect();
        let any_made = failed.len() < answers.len();
        if any_made {
            // They are as recent as the others still, and hold something else.
            failed.iter().for_each(|(path, _)| self.forget_path(&path.replica));
        }
        self.bring_up_again(Start::Listed).await.map_err(|down| match failed.first() {
            Some((path, error)) => {
                down.with_note(&format!("; before, replica {} did not become a clone: {error}", path.replica))
            }
            None => down,
        })?;
        if any_made {
            failed.iter().for_each(|(path, error)| self.leave_out(path, error));
        }
        self.export().await?;
        self.remember_change().await;
        tracing::info!(engine = %self.name, volume = %self.volume, snapshot = %request.snapshot, source = %request.source,
            replicas = answers.len() - failed.len(), "a volume is a linked clone");
        match failed.into_iter().next() {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }

    /// Lists a replica that did not become a clone, and so did not take part in the new start.
    fn leave_out(&self, path: &Arc<ReplicaPath>, error: &Error) {
        self.remember_path(path.clone());
        self.list_failed(&path.replica, error);
    }

    /// What is asked of each replica in sync, and which of them are left out, and why. An error changes nothing.
    fn orders(
        &self,
        request: &CloneRequest,
        source: &SourceVolume,
        described: &[(Arc<ReplicaPath>, ReplicaDescription)],
    ) -> Result<(Orders, Vec<(ReplicaName, Error)>)> {
        let known = self.published().replicas;
        for (replica, from) in &request.pairs {
            let Some(listed) = known.get(replica) else {
                return Err(Error::invalid(PAIRS, format!("{} has no replica {replica}", self.object())));
            };
            let Some((address, _)) = source.replicas.get(from) else {
                return Err(Error::invalid(PAIRS, format!("{} has no replica {from}", source.object)));
            };
            if address.ip() != listed.address.ip() {
                let problem = format!(
                    "replica {from} is at {address} and replica {replica} at {}; a linked clone is on its source's disk",
                    listed.address
                );
                return Err(Error::invalid(PAIRS, problem));
            }
        }
        let mut orders = Orders::new();
        let mut left_out = Vec::new();
        for (path, _) in described {
            let replica = &path.replica;
            match request.pairs.get(replica).map(|from| (from, source.in_sync(from))) {
                Some((from, Ok(source_address))) => {
                    let (source, snapshot, mode) = (from.clone(), request.snapshot.clone(), request.mode);
                    orders.insert(replica.clone(), CloneOrder { source, source_address, snapshot, mode });
                }
                Some((_, Err(error))) => left_out.push((replica.clone(), error)),
                None => {
                    let problem = format!("it has no source in the linked clone of {}", source.object);
                    left_out.push((replica.clone(), Error::precondition(format!("replica {replica}"), problem)));
                }
            }
        }
        if orders.is_empty() {
            let reasons: Vec<_> = left_out.iter().map(|(_, error)| error.to_string()).collect();
            let problem = format!("no replica would be a linked clone: {}", reasons.join("; "));
            return Err(Error::precondition(self.object(), problem));
        }
        Ok((orders, left_out))
    }
}

/// All of it was done before.
fn is_made(orders: &Orders, described: &[(Arc<ReplicaPath>, ReplicaDescription)]) -> bool {
    described.iter().all(|(path, description)| {
        let order = orders.get(&path.replica);
        let linked = description.linked.as_ref();
        order
            .zip(linked)
            .is_some_and(|(order, linked)| (&order.source, &order.snapshot) == (&linked.source, &linked.snapshot))
    })
}
