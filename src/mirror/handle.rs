//! A running mirror as its owner holds it: commands to the driver, status from it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use super::activity::Activity;
use super::core::control::{Health, MemberMode, OutReason, PauseId, Status};
use super::core::dirty::Regions;
use super::core::{
    Assembly, DirtyOrder, Generation, GenerationOrder, Incarnation, Locality, MAX_MEMBERS, MemberIndex, Members,
    OpenMember, ReadPolicy, ReplicaRecords,
};
use super::deadlines::DeadlineSettings;
use super::driver::{Command, Driver, Parts};
use super::member::OpenedMember;
use crate::error::{Error, Result};
use crate::name::{BdevName, NonEmpty, ReplicaAddress, ReplicaName};
use crate::spdk::Control;
use crate::spdk::bdev::Geometry;

/// Commands that wait for the driver at most.
const COMMAND_LIMIT: usize = 32;

/// What a mirror needs of its owner: things that take a network or a disk.
pub trait MirrorHost: Send + Sync + 'static {
    /// Stores the record durably with the member's replica. Limited by the caller.
    fn persist(&self, member: &OpenMember, order: GenerationOrder) -> BoxFuture<'static, Result<()>>;
    /// Has the member's replica carry out an order about its record of dirty regions, durably. Limited by the caller.
    fn persist_dirty(&self, member: &OpenMember, order: DirtyOrder) -> BoxFuture<'static, Result<()>>;
    /// Reads what the member's replica durably knows. Limited by the caller.
    fn records(&self, member: &OpenMember) -> BoxFuture<'static, Result<ReplicaRecords>>;
    /// Lets go of what the attach made. The mirror uses the member no more; I/O of a `failed` one may still hang and is
    /// to be aborted.
    fn close(&self, member: OpenMember, failed: bool) -> BoxFuture<'static, ()>;
    /// I/O to a member failed. Here and below: called on the control thread, for those who count; must not wait.
    fn member_error(&self) {}
    /// A member is out.
    fn member_out(&self, _reason: OutReason) {}
    /// Client I/O was paused for this long.
    fn paused(&self, _took: Duration) {}
}

/// A member, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its place in the mirror.
    pub place: MemberIndex,
    /// Which replica.
    pub replica: ReplicaName,
    /// Where it is exported.
    pub address: ReplicaAddress,
    /// The bdev that is (or was last) open.
    pub bdev: BdevName,
    /// Where its data is.
    pub locality: Locality,
    /// How it takes part.
    pub mode: MemberMode,
    /// The last one in sync, and out of reach.
    pub lost: bool,
    /// It failed, and may come back for what it missed.
    pub awaited: bool,
    /// It is put away, so that it may come back now.
    pub may_return: bool,
}

/// A mirror's state, as published after every step of its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorStatus {
    /// In one word.
    pub health: Health,
    /// What all members in sync hold durably.
    pub generation: Generation,
    /// Every member, also those that are out until they are removed.
    pub members: Vec<MemberStatus>,
    /// Members may differ since a crash, in what clients have not seen since, and are being made equal.
    pub unequal: bool,
    /// Another engine has gone on with the replicas: no I/O is served.
    pub superseded: bool,
}

impl MirrorStatus {
    pub(super) fn of(status: &Status, members: &Members, unequal: bool) -> Self {
        let members = members
            .iter()
            .filter_map(|(index, open)| {
                Some(MemberStatus {
                    place: index,
                    replica: open.replica.clone(),
                    address: open.address,
                    bdev: open.bdev.clone(),
                    locality: open.locality,
                    mode: status.members[index.get()]?,
                    lost: status.lost.contains(index),
                    awaited: status.absent.contains(index),
                    may_return: status.may_return.contains(index),
                })
            })
            .collect();
        Self { health: status.health, generation: status.generation, members, unequal, superseded: status.superseded }
    }

    /// A member by its replica.
    pub fn member(&self, replica: &ReplicaName) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.replica == *replica)
    }
}

/// What a mirror is started from.
pub struct MirrorParts {
    /// The name its bdev gets.
    pub name: BdevName,
    /// Who takes part.
    pub assembly: Assembly,
    /// The same members as the assembly's, opened.
    pub opened: NonEmpty<OpenedMember>,
    /// Where reads go.
    pub policy: ReadPolicy,
    /// Storage of generations and detaching.
    pub host: Arc<dyn MirrorHost>,
    /// A member that has not answered a read or a write for this long is out (other I/O may take six times as long);
    /// also the limit on storing one generation with it.
    pub member_deadline: Duration,
    /// A region that nothing was written to for this long, or up to twice as long, is taken off the dirty log. Without it no
    /// log is kept, and members may differ after a crash: for benches.
    pub quiet: Option<Duration>,
    /// What a member misses that fails is noted, so that it may come back for that ([`Mirror::return_member`]).
    pub awaits_returns: bool,
}

/// A running mirror. Dropping it stops it in the background; [`Mirror::stop`] waits.
pub struct Mirror {
    bdev: BdevName,
    block_size: u32,
    block_count: AtomicU64,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<MirrorStatus>,
    member_deadline: Duration,
    incarnation: Incarnation,
}

impl Mirror {
    /// Registers the bdev. The mirror is awake then, or sleeps until its first I/O if another may be using its replicas. Must be
    /// called on a tokio runtime.
    pub async fn start(control: &Control, parts: MirrorParts) -> Result<Self> {
        let members = &parts.assembly.members;
        let geometry = Geometry {
            block_size: members.block_bytes(),
            block_count: members.size_bytes() / u64::from(members.block_bytes()),
        };
        let opened = place(members, parts.opened)?;
        let (bdev, member_deadline) = (parts.name.clone(), parts.member_deadline);
        let (status_sender, status) = watch::channel(MirrorStatus {
            health: Health::Faulted,
            generation: Generation::NONE,
            members: Vec::new(),
            unequal: false,
            superseded: false,
        });
        let (commands, receiver) = mpsc::channel(COMMAND_LIMIT);
        let (started_sender, started) = oneshot::channel();
        let regions = Regions::of_volume(members.size_bytes());
        let incarnation = parts.assembly.incarnation;
        let parts = Parts {
            regions,
            quiet: parts.quiet,
            awaits_returns: parts.awaits_returns,
            name: parts.name,
            assembly: parts.assembly,
            opened,
            policy: parts.policy,
            geometry,
            host: parts.host,
            tokio: tokio::runtime::Handle::current(),
            deadlines: DeadlineSettings { limit: member_deadline },
        };
        control
            .run::<_, Error, _, _>(move |on| async move {
                on.thread().spawn(Driver::new(on, parts, status_sender, started_sender).run(receiver));
                Ok(())
            })
            .await?;
        let mirror = Self {
            bdev,
            block_size: geometry.block_size,
            block_count: AtomicU64::new(geometry.block_count),
            commands,
            status,
            member_deadline,
            incarnation,
        };
        match started.await {
            Ok(Ok(())) => Ok(mirror),
            Ok(Err(error)) => {
                let _ = mirror.stop().await;
                Err(error)
            }
            Err(_) => Err(Error::internal(format!("mirror {}", mirror.bdev), "its driver ended at start")),
        }
    }

    /// The bdev.
    pub fn bdev(&self) -> &BdevName {
        &self.bdev
    }

    /// As whom it raises generations: its replicas know by that whether another mirror has had them since.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Its size now.
    pub fn geometry(&self) -> Geometry {
        Geometry { block_size: self.block_size, block_count: self.block_count.load(Ordering::Relaxed) }
    }

    /// The state after the driver's last step.
    pub fn status(&self) -> MirrorStatus {
        self.status.borrow().clone()
    }

    /// Changes of the state; a slow watcher sees the newest only.
    pub fn watch(&self) -> watch::Receiver<MirrorStatus> {
        self.status.clone()
    }

    /// Wakes it as a client's I/O would, and waits for that.
    async fn wake(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Wake { reply }, answer).await
    }

    /// Waits until all that clients have begun has its answer, and has it sleep from then on: what another mirror does with the
    /// replicas after that is not disturbed. A member that is being rebuilt or is not durably out keeps it awake.
    pub async fn rest(&self, limit: Duration) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        if self.ask(Command::IsAsleep { reply }, answer).await? {
            return Ok(());
        }
        let guard = self.begin_pause(limit, true).await?;
        let (reply, answer) = oneshot::channel();
        let slept = self.ask(Command::Sleep { reply }, answer).await;
        guard.resume().await?;
        slept
    }

    /// Waits until no member differs any more from another since a crash.
    pub async fn equal(&self, limit: Duration) -> Result<()> {
        self.wake().await?;
        let mut status = self.status.clone();
        match tokio::time::timeout(limit, status.wait_for(|status| !status.unequal)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::precondition(format!("mirror {}", self.bdev), "it is stopped")),
            Err(_) => Err(Error::precondition(
                format!("mirror {}", self.bdev),
                "its members are still being made equal after a crash; repeat later",
            )),
        }
    }

    /// Stops client I/O. It is let go on by the guard, or by itself after `limit`.
    pub async fn pause(&self, limit: Duration) -> Result<PauseGuard> {
        self.begin_pause(limit, false).await
    }

    async fn begin_pause(&self, limit: Duration, rest: bool) -> Result<PauseGuard> {
        let (reply, answer) = oneshot::channel();
        let pause = self.ask(Command::Pause { limit, rest, reply }, answer).await?;
        Ok(PauseGuard { pause: Some(pause), commands: self.commands.clone(), bdev: self.bdev.clone() })
    }

    /// Takes a member out. Refused for the last one in sync.
    pub async fn remove_member(&self, replica: &ReplicaName) -> Result<()> {
        self.take_out(replica, false).await
    }

    /// As [`Self::remove_member`], one that failed something else than an I/O, so that its node is asked for nothing more.
    pub async fn expel_member(&self, replica: &ReplicaName) -> Result<()> {
        self.take_out(replica, true).await
    }

    async fn take_out(&self, replica: &ReplicaName, failed: bool) -> Result<()> {
        let status = self.status();
        let Some(member) = status.member(replica).map(|member| member.place) else {
            return Err(Error::not_found("replica", replica));
        };
        let (reply, answer) = oneshot::channel();
        self.ask(Command::RemoveMember { member, failed, reply }, answer).await
    }

    /// Takes in a replica that is to be rebuilt. From its answer on it gets every write and serves no read; its place in
    /// the mirror is for [`Mirror::resync`] and [`Mirror::member_synced`]. One at a time.
    pub async fn add_member(&self, opened: OpenedMember) -> Result<MemberIndex> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::AddMember { opened, reply }, answer).await
    }

    /// Takes in again a member that failed, the same copy as it was when it left: its replica was read to hold that generation, of
    /// this mirror, and every I/O that it was sent before has ended there. As [`Mirror::add_member`]; it lacks no more than
    /// [`Mirror::missed`]. One that is refused is let go of again.
    pub async fn return_member(&self, opened: OpenedMember, holds: Generation) -> Result<MemberIndex> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::ReturnMember { opened, holds, reply }, answer).await
    }

    /// The bytes that a member may lack that has returned.
    pub async fn missed(&self, member: MemberIndex) -> Result<Vec<Range<u64>>> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Missed { member, reply }, answer).await
    }

    /// Puts out a member that has returned and cannot be brought up to date now. It may come back.
    pub async fn fail_member(&self, member: MemberIndex) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::FailMember { member, reply }, answer).await
    }

    /// Waits no more for a member that failed.
    pub async fn forget_member(&self, member: MemberIndex) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::ForgetMember { member, reply }, answer).await
    }

    /// The member holds everything now: it becomes in sync, by a generation that names it.
    pub async fn member_synced(&self, member: MemberIndex) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::MemberSynced { member, reply }, answer).await
    }

    /// Tells openers of a new size, once every member has it.
    pub async fn resize(&self, block_count: u64) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Resize { block_count, reply }, answer).await?;
        self.block_count.store(block_count, Ordering::Relaxed);
        Ok(())
    }

    /// What it does at the moment and has done. Asks every reactor that serves it.
    pub async fn activity(&self) -> Result<Activity> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Activity { reply }, answer).await
    }

    /// Takes the bdev down and lets all members go. Exports of it must be gone.
    pub async fn stop(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Stop { reply }, answer).await
    }

    pub(super) fn commands(&self) -> &mpsc::Sender<Command> {
        &self.commands
    }

    pub(super) fn member_deadline(&self) -> Duration {
        self.member_deadline
    }

    pub(super) async fn ask<T>(&self, command: Command, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        let gone = || Error::precondition(format!("mirror {}", self.bdev), "it is stopped");
        self.commands.send(command).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Client I/O is stopped while this lives.
#[must_use = "dropping it lets client I/O go on without learning whether the pause held"]
pub struct PauseGuard {
    pause: Option<PauseId>,
    commands: mpsc::Sender<Command>,
    bdev: BdevName,
}

impl PauseGuard {
    /// Lets client I/O go on. An error means that the pause had been broken by its limit: what was done under it was not at
    /// one point in time.
    pub async fn resume(mut self) -> Result<()> {
        let gone = || Error::precondition(format!("mirror {}", self.bdev), "it is stopped");
        let Some(pause) = self.pause else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Resume { pause, reply: Some(reply) }).await;
        let result = match sent {
            Ok(()) => answer.await.map_err(|_| gone())?,
            Err(_) => Err(gone()),
        };
        self.pause = None;
        result
    }
}

impl Drop for PauseGuard {
    fn drop(&mut self) {
        if let Some(pause) = self.pause {
            // A full queue leaves the pause to its own limit.
            let _ = self.commands.try_send(Command::Resume { pause, reply: None });
        }
    }
}

/// Puts each opened member at the place that the assembly gave it.
fn place(members: &Members, opened: NonEmpty<OpenedMember>) -> Result<[Option<Arc<OpenedMember>>; MAX_MEMBERS]> {
    let mut places: [Option<Arc<OpenedMember>>; MAX_MEMBERS] = Default::default();
    for member in opened.into_vec() {
        if let Some(index) = members.find(&member.open.replica) {
            places[index.get()] = Some(Arc::new(member));
        }
    }
    match members.iter().find(|(index, _)| places[index.get()].is_none()) {
        None => Ok(places),
        Some((_, missing)) => {
            Err(Error::internal("mirror", format!("member {} was assembled but not opened", missing.replica)))
        }
    }
}
