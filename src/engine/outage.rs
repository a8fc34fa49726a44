//! Short outages: a replica that failed, and is back in time, gets what was written meanwhile and nothing else.
//!
//! The mirror notes what a member misses that fails while it is in sync ([`crate::mirror::core::dirty`]). Such a replica is awaited
//! here for `timeouts.return_window`: its node is asked again and again, with longer and longer pauses. When it answers,
//! and is provably the copy that it was (`proof`), it joins write-only, gets the clusters that it may lack of what it missed
//! (`ranges`) under clients' I/O, and is in sync by a generation that names it (`attempt`). What fails on the way puts it out again, and
//! it is awaited further. What cannot be proven, a snapshot meanwhile, the end of the window, or one failure too many leaves it
//! out until it is rebuilt on request.
//!
//! All of that is in memory. An engine that starts anew does not take such a replica, by its generation.

mod attempt;
mod proof;
mod ranges;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::instance::Engine;
use super::state::{Chain, ReplicaMode};
use crate::mirror::core::control::MemberMode;
use crate::mirror::{MemberStatus, Mirror, MirrorStatus, ResyncProgress};
use crate::name::ReplicaName;
use crate::telemetry::events::ObjectKind;
use crate::telemetry::metrics::ReturnResult;
use attempt::{Attempt, Tried};

/// The first and the longest wait between two looks at a replica that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// So often a replica that is back may fail before it is in sync, or again within a window after it was: one that does so all the
/// time costs its volume more than it is worth.
const TRIES: u32 = 5;

/// A replica that is being brought up to date, and how far it is.
pub(super) struct Returning {
    replica: ReplicaName,
    progress: Arc<ResyncProgress>,
}

/// How often a replica has failed, and since when it was in sync in between.
#[derive(Debug, Default, Clone, Copy)]
struct Record {
    failures: u32,
    in_sync_since: Option<Instant>,
}

/// One replica that is awaited.
struct Waiter {
    engine: Weak<Engine>,
    mirror: Weak<Mirror>,
    replica: ReplicaName,
    /// The volume's snapshots when it was missed.
    chain: Arc<Chain>,
    /// Its head's lvol, if that was known.
    head: Option<String>,
    window: Duration,
    failures: u32,
}

/// Awaits the members that fail, as long as the mirror is the engine's.
pub(super) fn watch(engine: &Arc<Engine>, mirror: &Arc<Mirror>) {
    let Some(window) = engine.context.limits.return_window else { return };
    let (engine, watched) = (Arc::downgrade(engine), Arc::downgrade(mirror));
    let mut status = mirror.watch();
    tokio::spawn(async move {
        let mut waiters: BTreeMap<ReplicaName, tokio::task::JoinHandle<Record>> = BTreeMap::new();
        let mut records: BTreeMap<ReplicaName, Record> = BTreeMap::new();
        let mut heads: BTreeMap<ReplicaName, String> = BTreeMap::new();
        loop {
            let (Some(here), Some(mirror)) = (engine.upgrade(), watched.upgrade()) else { return };
            if !here.serves(&mirror) {
                return;
            }
            for (replica, waiter) in std::mem::take(&mut waiters) {
                match waiter.is_finished() {
                    true => drop(records.insert(replica, waiter.await.unwrap_or_default())),
                    false => drop(waiters.insert(replica, waiter)),
                }
            }
            // After the waiters: one that has ended has told the mirror whether its member is awaited still.
            let now = mirror.status();
            for member in now.members.iter().filter(|member| member.awaited) {
                let replica = member.replica.clone();
                if waiters.contains_key(&replica) {
                    continue;
                }
                let failures = failures_before(records.get(&replica), window);
                let waiter = Waiter {
                    engine: engine.clone(),
                    mirror: watched.clone(),
                    replica: replica.clone(),
                    chain: here.published().chain,
                    head: heads.get(&replica).cloned(),
                    window,
                    failures,
                };
                waiters.insert(replica, tokio::spawn(waiter.run()));
            }
            heads.retain(|replica, _| match now.member(replica) {
                Some(member) => member.mode == MemberMode::Rw || member.awaited,
                // While it joins.
                None => waiters.contains_key(replica),
            });
            let knows_all = here.learn_heads(&mirror, &mut heads).await;
            drop((here, mirror));
            let changed = match knows_all && waiters.is_empty() {
                true => status.changed().await,
                // Also when a waiter has ended whose member failed again before.
                false => tokio::time::timeout(LONGEST_PAUSE, status.changed()).await.unwrap_or(Ok(())),
            };
            if changed.is_err() {
                return;
            }
        }
    });
}

/// What counts of the failures before this one: nothing when it was in sync for a window since.
fn failures_before(record: Option<&Record>, window: Duration) -> u32 {
    match record {
        Some(Record { failures, in_sync_since: Some(since) }) if since.elapsed() < window => *failures + 1,
        _ => 0,
    }
}

impl Engine {
    /// Whether that mirror is its own still.
    fn serves(&self, mirror: &Arc<Mirror>) -> bool {
        self.mirror().is_ok_and(|current| Arc::ptr_eq(&current, mirror))
    }

    /// Learns of the members in sync which lvol their heads are: that stays so as long as they are members. Reverting a replica by itself
    /// makes another. False when one did not tell.
    async fn learn_heads(&self, mirror: &Mirror, heads: &mut BTreeMap<ReplicaName, String>) -> bool {
        // By the mirror, whose news the engine may not have taken over yet.
        let in_sync = |status: &MirrorStatus| -> Vec<ReplicaName> {
            let members = status.members.iter().filter(|member| member.mode == MemberMode::Rw);
            members.map(|member| member.replica.clone()).collect()
        };
        let unknown = in_sync(&mirror.status()).into_iter().filter(|replica| !heads.contains_key(replica));
        let unknown: Vec<_> = unknown.filter_map(|replica| self.path(&replica).ok()).collect();
        let asked = unknown.iter().map(async |path| tokio::time::timeout(LONGEST_PAUSE, path.backend.describe()).await);
        let answers = futures::future::join_all(asked).await;
        let status = mirror.status();
        for answer in answers.into_iter().flatten().flatten() {
            let is_in_sync = status.member(&answer.name).is_some_and(|member| member.mode == MemberMode::Rw);
            if let Some(head) = answer.head.filter(|_| is_in_sync) {
                heads.insert(answer.name, head.uuid);
            }
        }
        in_sync(&status).iter().all(|replica| heads.contains_key(replica))
    }

    /// The replica that is back and gets what it missed, and the bytes that were copied so far.
    pub fn returning(&self) -> Option<(ReplicaName, u64)> {
        let returning = self.returning.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        returning.as_ref().map(|returning| (returning.replica.clone(), returning.progress.copied_bytes()))
    }

    fn set_returning(&self, returning: Option<Returning>) {
        *self.returning.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = returning;
    }

    fn tell_of_return(&self, replica: &ReplicaName, what: &'static str, message: String) {
        self.context.telemetry.events.tell(ObjectKind::Member, replica, what, message);
    }
}

fn awaited<'a>(status: &'a MirrorStatus, replica: &ReplicaName) -> Option<&'a MemberStatus> {
    status.member(replica).filter(|member| member.awaited)
}

impl Waiter {
    /// Until the replica is in sync again, or is awaited no more.
    async fn run(mut self) -> Record {
        let end = Instant::now() + self.window;
        self.begins();
        let mut pause = FIRST_PAUSE;
        loop {
            if self.failures >= TRIES {
                return self.give_up(format!("it failed {TRIES} times in a row")).await;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            let (Some(engine), Some(mirror)) = (self.engine.upgrade(), self.mirror.upgrade()) else {
                return self.ends(None);
            };
            let status = mirror.status();
            // While it joins it has no mode, and nobody but us has it join.
            let Some(member) = awaited(&status, &self.replica) else { return self.ends(None) };
            let may_return = member.may_return;
            if Instant::now() > end {
                drop((engine, mirror));
                return self.give_up(format!("it was not back within {:?}", self.window)).await;
            }
            if !may_return {
                continue;
            }
            let (replica, chain, head) = (&self.replica, &self.chain, self.head.as_deref());
            let attempt = Attempt { engine: &engine, mirror: &mirror, replica, chain, head };
            match attempt.carry_out().await {
                Tried::InSync => return self.ends(Some(Instant::now())),
                Tried::NotYet(error) => {
                    tracing::debug!(engine = %engine.name, volume = %engine.volume, replica = %self.replica, %error,
                        "a replica that failed is not back yet");
                }
                Tried::Failed(error) => {
                    self.failures += 1;
                    let (replica, failures) = (&self.replica, self.failures);
                    tracing::warn!(engine = %engine.name, volume = %engine.volume, %replica, failures, %error,
                        "a replica that was back could not be brought up to date");
                    engine.tell_of_return(replica, "return-failed", format!("of volume {}: {error}", engine.volume));
                    engine.context.telemetry.metrics.member_returned(&engine.volume, ReturnResult::Failed, 0);
                }
                Tried::Never(problem) => {
                    drop((engine, mirror));
                    return self.give_up(problem).await;
                }
                Tried::Canceled => return self.ends(None),
            }
        }
    }

    fn begins(&self) {
        let Some(engine) = self.engine.upgrade() else { return };
        let (replica, window) = (&self.replica, self.window);
        tracing::info!(engine = %engine.name, volume = %engine.volume, %replica, ?window, "a replica that failed is awaited");
        engine.tell_of_return(replica, "awaited", format!("of volume {}, for {window:?}", engine.volume));
    }

    fn ends(&self, in_sync_since: Option<Instant>) -> Record {
        Record { failures: self.failures, in_sync_since }
    }

    /// The replica stays out until it is rebuilt, and is listed with the reason.
    async fn give_up(&self, problem: String) -> Record {
        let (Some(engine), Some(mirror)) = (self.engine.upgrade(), self.mirror.upgrade()) else {
            return self.ends(None);
        };
        let replica = &self.replica;
        tracing::warn!(engine = %engine.name, volume = %engine.volume, %replica, problem,
            "a replica that failed is awaited no more; it has to be rebuilt");
        if let Some(member) = awaited(&mirror.status(), replica)
            && let Err(error) = mirror.forget_member(member.place).await
        {
            tracing::debug!(%replica, %error, "the mirror has stopped meanwhile");
        }
        // The engine's list follows the mirror a moment later; it is to show the replica as out before it gets the reason.
        let mut status = mirror.watch();
        let is_out = |member: &MemberStatus| !member.awaited && matches!(member.mode, MemberMode::Err(_));
        let seen = status.wait_for(|status| status.member(replica).is_none_or(is_out));
        let seen = tokio::time::timeout(LONGEST_PAUSE, seen).await.map(|seen| seen.map(|seen| seen.clone()));
        if let Ok(Ok(seen)) = seen {
            engine.apply(&seen);
        }
        engine.publish(|published| {
            if let Some(listed) = published.replicas.get_mut(replica).filter(|it| it.mode == ReplicaMode::Error) {
                listed.problem = format!("{}; it cannot come back by itself: {problem}; rebuild it", listed.problem);
            }
        });
        engine.tell_of_return(replica, "return-given-up", format!("of volume {}: {problem}", engine.volume));
        engine.context.telemetry.metrics.member_returned(&engine.volume, ReturnResult::GivenUp, 0);
        self.ends(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_fails_again_within_a_window_is_counted_and_later_begins_anew() {
        let window = Duration::from_secs(60);
        assert_eq!(failures_before(None, window), 0);
        let record = Record { failures: 2, in_sync_since: Some(Instant::now()) };
        assert_eq!(failures_before(Some(&record), window), 3);
        assert_eq!(failures_before(Some(&record), Duration::ZERO), 0);
        assert_eq!(failures_before(Some(&Record { in_sync_since: None, ..record }), window), 0);
    }
}
