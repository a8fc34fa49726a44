//! Lvols of this node's disks that belong to no object: what an earlier engine or a lost deletion has left. They are listed,
//! deleted or adopted as a replica, one by one and only on request.

mod classify;

use std::sync::Arc;

use uuid::Uuid;

use super::attributes::{self, setting};
use super::instance::{Replica, Turn};
use super::lifecycle::mark;
use super::store::{Store, Survey};
use super::tree::LvolFacts;
use super::view::{ReplicaState, ReplicaView};
use super::{Replicas, detached};
use crate::disk::Disk;
use crate::name::{DiskName, LvolName, ReplicaName};
use crate::{Error, Result};

use classify::{is_anothers, orphans, owner};

pub use classify::OrphanKind;

/// An lvol that belongs to no object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The disk it is on.
    pub disk: DiskName,
    /// Its name.
    pub lvol: LvolName,
    /// Its identity.
    pub uuid: Uuid,
    /// What it is.
    pub kind: OrphanKind,
    /// The replica it most likely belonged to.
    pub owner: Option<ReplicaName>,
    /// Bytes it presents.
    pub size: u64,
    /// Bytes of clusters of its own.
    pub actual_size: u64,
    /// What it is based on.
    pub parent: Option<LvolName>,
    /// How many lvols are based on it.
    pub children: usize,
    /// When it was made, RFC 3339; empty when unknown.
    pub created: String,
    /// Somebody has it open.
    pub open: bool,
}

/// Which orphan is meant. With `uuid`, it must be that one: a name may have been given again since it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanChoice {
    /// The disk it is on.
    pub disk: DiskName,
    /// Its name.
    pub lvol: LvolName,
    /// Its identity.
    pub uuid: Option<Uuid>,
}

impl Replicas {
    /// The orphans of one disk, or of all that are ready; by disk and name.
    pub async fn orphans(&self, disk: Option<&DiskName>) -> Result<Vec<Orphan>> {
        let disks = match disk {
            Some(name) => vec![self.disks().ready(name)?],
            None => self.disks().all_ready(),
        };
        let mut found = Vec::new();
        for disk in disks {
            let survey = self.store(&disk).survey().await?;
            let known = self.on(&disk);
            found.extend(orphans(&survey, &known).into_iter().map(|facts| describe(disk.name(), facts)));
        }
        found.sort_by(|left, right| (&left.disk, &left.lvol).cmp(&(&right.disk, &right.lvol)));
        Ok(found)
    }

    /// Deletes an orphan. A snapshot that one lvol is based on gives its data to that one; with more it is refused.
    pub async fn orphan_delete(&self, choice: OrphanChoice) -> Result<()> {
        let (replicas, disk) = (self.clone(), self.disks().ready(&choice.disk)?);
        detached(async move {
            let store = replicas.store(&disk);
            let _hold = disk.hold(format!("the deletion of lvol {}", choice.lvol))?;
            // A replica whose head it could become must not be created meanwhile.
            let reserved = replicas.reserve(&choice, &disk)?;
            let turn = match &reserved {
                Some(replica) => Some(replica.turn().await?),
                None => None,
            };
            let deleted = async {
                let chosen = replicas.chosen(&store, &disk, &choice, reserved.as_ref()).await?;
                store.delete(&chosen.facts.lvol).await?;
                disk.flush().await
            }
            .await;
            if let (Some(mut turn), Some(replica)) = (turn, &reserved) {
                turn.work.gone = true;
                replicas.forget(replica);
            }
            deleted?;
            tracing::info!(disk = %disk.name(), lvol = %choice.lvol, "an orphan was deleted");
            Ok(())
        })
        .await
    }

    /// Makes an orphan a stopped replica, `name` or the one it most likely belonged to: a writable lvol becomes its head, a
    /// snapshot that nothing is based on gets a head made of it. What it is based on becomes the replica's snapshots.
    pub async fn orphan_adopt(&self, choice: OrphanChoice, name: Option<ReplicaName>) -> Result<Arc<ReplicaView>> {
        let (replicas, disk) = (self.clone(), self.disks().ready(&choice.disk)?);
        detached(async move {
            let store = replicas.store(&disk);
            let _hold = disk.hold(format!("the adoption of lvol {}", choice.lvol))?;
            let name = match name {
                Some(name) => name,
                None => {
                    let chosen = replicas.chosen(&store, &disk, &choice, None).await?;
                    let no_name = || Error::invalid("replica_name", "the lvol's name is no replica's; give it one");
                    owner(&chosen.facts).ok_or_else(no_name)?
                }
            };
            let (replica, is_new) = replicas.find_or_add(&name, &disk)?;
            if !is_new {
                return Err(Error::exists("replica", &name));
            }
            let mut turn = replica.turn().await?;
            let adopted = async {
                let chosen = replicas.chosen(&store, &disk, &choice, Some(&replica)).await?;
                adopt(&mut turn, &chosen).await
            }
            .await;
            if let Err(error) = adopted {
                turn.work.gone = true;
                replicas.forget(&replica);
                return Err(error);
            }
            tracing::info!(disk = %disk.name(), lvol = %choice.lvol, replica = %name, "an orphan was adopted");
            Ok(replica.view())
        })
        .await
    }

    /// The replicas that are known on a disk.
    fn on(&self, disk: &Disk) -> Vec<ReplicaName> {
        let replicas = self.replicas();
        let here = replicas.values().filter(|replica| replica.disk.uuid() == disk.uuid());
        here.map(|replica| replica.name.clone()).collect()
    }

    /// A place for the replica whose head the lvol could become, if its name is one; refused when there is that replica.
    fn reserve(&self, choice: &OrphanChoice, disk: &Disk) -> Result<Option<Arc<Replica>>> {
        let Ok(name) = ReplicaName::parse(choice.lvol.as_str()) else { return Ok(None) };
        match self.find_or_add(&name, disk) {
            Ok((replica, true)) => Ok(Some(replica)),
            Ok((_, false)) => Err(owned(disk, &choice.lvol)),
            // A replica of that name on another disk has nothing to do with this lvol.
            Err(Error::AlreadyExists { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The orphan that is meant, as it is now. `but` is a replica that is there only for this call.
    async fn chosen(
        &self,
        store: &Store,
        disk: &Disk,
        choice: &OrphanChoice,
        but: Option<&Arc<Replica>>,
    ) -> Result<Chosen> {
        let survey = store.survey().await?;
        let missing = || Error::not_found("lvol", format!("{} on disk {}", choice.lvol, disk.name()));
        let facts = survey.iter().find(|facts| facts.lvol == choice.lvol).ok_or_else(missing)?;
        if let Some(uuid) = choice.uuid.filter(|uuid| *uuid != facts.uuid) {
            let problem = format!("{uuid} is not that of lvol {}, which is {}", choice.lvol, facts.uuid);
            return Err(Error::invalid("lvol_uuid", problem));
        }
        let mut known = self.on(disk);
        known.retain(|name| but.is_none_or(|replica| replica.name != *name));
        let orphans: Vec<_> = orphans(&survey, &known).into_iter().map(|facts| facts.lvol.clone()).collect();
        match orphans.contains(&facts.lvol) {
            true => Ok(Chosen { facts: facts.clone(), survey, orphans }),
            false => Err(owned(disk, &choice.lvol)),
        }
    }
}

/// An orphan among the lvols of its store.
struct Chosen {
    facts: LvolFacts,
    survey: Survey,
    orphans: Vec<LvolName>,
}

impl Chosen {
    /// The orphans that it is based on, the nearest first. A backing image below them, or the entry point of a linked
    /// clone, is not one of them, and stays what it is.
    fn ancestors(&self) -> Result<Vec<&LvolFacts>> {
        let mut found = Vec::new();
        let mut next = self.facts.parent.as_ref();
        while let Some(parent) = next.and_then(|name| self.survey.iter().find(|other| other.lvol == *name)) {
            if is_anothers(&parent.lvol) {
                break;
            }
            if !self.orphans.contains(&parent.lvol) {
                let problem = format!("it is based on {}, which is a replica's; delete it instead", parent.lvol);
                return Err(Error::precondition(format!("lvol {}", self.facts.lvol), problem));
            }
            found.push(parent);
            next = parent.parent.as_ref();
        }
        Ok(found)
    }
}

/// Gives a replica that has nothing yet its head, and its mark to all that this is based on. Cut short, the lvol is an
/// orphan still, or found as the replica at the next start.
async fn adopt(turn: &mut Turn<'_>, chosen: &Chosen) -> Result<()> {
    let (replica, facts) = (turn.replica, &chosen.facts);
    let head = replica.head();
    let refused = |problem: &str| Err(Error::precondition(format!("lvol {}", facts.lvol), problem.to_owned()));
    if facts.children > 0 {
        return refused("other lvols are based on it; adopt what nothing is based on, and it comes with that");
    }
    if facts.attributes.rebuild.is_some() || facts.attributes.expired || facts.attributes.rebuilt.is_some() {
        return refused("it is of a rebuild that did not come to its end, and may be no copy of a volume");
    }
    if facts.lvol != head && chosen.survey.iter().any(|other| other.lvol == head) {
        return refused("another lvol has the name of that replica's head; choose another replica_name");
    }
    let own = || Ok::<_, Error>(vec![setting(attributes::REPLICA, replica.name.as_str())?]);
    for snapshot in chosen.ancestors()?.into_iter().chain(facts.is_snapshot.then_some(facts)) {
        if snapshot.attributes.replica.as_ref() != Some(&replica.name) {
            replica.store.apply(&snapshot.lvol, own()?).await?;
        }
    }
    if facts.is_snapshot {
        replica.store.clone_of(&facts.lvol, &head).await?;
    } else if facts.lvol != head {
        replica.store.rename(&facts.lvol, &head).await?;
    }
    mark(replica, &head).await?;
    replica.disk.flush().await?;
    turn.refresh().await?;
    turn.set_state(ReplicaState::Stopped);
    Ok(())
}

fn describe(disk: &DiskName, facts: &LvolFacts) -> Orphan {
    let attributes = &facts.attributes;
    let created = attributes.created.clone().or_else(|| attributes.timestamp.clone());
    Orphan {
        disk: disk.clone(),
        lvol: facts.lvol.clone(),
        uuid: facts.uuid,
        kind: if facts.is_snapshot { OrphanKind::Snapshot } else { OrphanKind::Volume },
        owner: owner(facts),
        size: facts.size,
        actual_size: facts.actual_size,
        parent: facts.parent.clone(),
        children: facts.children,
        created: created.unwrap_or_default(),
        open: facts.open,
    }
}

fn owned(disk: &Disk, lvol: &LvolName) -> Error {
    let problem = "it is no orphan: it belongs to an object of this node, or one is based on it";
    Error::precondition(format!("lvol {lvol} on disk {}", disk.name()), problem)
}
