//! Mirrors that sleep until their first I/O, and then claim their members' replicas, as the driver of a mirror has them.

use corriente::mirror::core::dirty::{FoundDirty, StoreId};
use corriente::mirror::core::{Event, MemberIndex, MemberMask, MemberOp, RegionSet};

use crate::check::Bug;
use crate::world::{Engine, Message, Step, StoreFailure, World};

pub enum Sleep {
    Asleep,
    Waking(Waking),
}

/// The claims of a mirror that wakes.
pub struct Waking {
    store: StoreId,
    pending: MemberMask,
    claimed: Vec<(MemberIndex, FoundDirty)>,
    /// No other mirror was assembled over those that are claimed.
    newest: bool,
}

impl Engine {
    pub fn is_waking(&self, store: StoreId) -> bool {
        matches!(&self.sleep, Some(Sleep::Waking(waking)) if waking.store == store)
    }
}

impl World {
    pub fn superseded(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| engine.core.status().superseded)
    }

    /// An I/O waits for a mirror that sleeps.
    pub fn begin_to_wake(&mut self) {
        let Some(engine) = self.engine.as_mut().filter(|engine| !engine.channels.is_empty()) else { return };
        if !matches!(engine.sleep, Some(Sleep::Asleep)) {
            return;
        }
        let store = StoreId(engine.stores);
        engine.stores += 1;
        let members = engine.core.view().written();
        let order = engine.dirty.order(store, RegionSet::EMPTY, true);
        engine.sleep = Some(Sleep::Waking(Waking { store, pending: members, claimed: Vec::new(), newest: true }));
        for member in members.iter() {
            self.send_order(member, store, order.clone());
        }
    }

    /// A pause of a mirror that is awake; one that sleeps wakes, and is paused another time.
    pub fn request_pause(&mut self) {
        match self.engine.as_ref().is_some_and(|engine| engine.sleep.is_none()) {
            true => self.core(Event::PauseRequested),
            false => self.begin_to_wake(),
        }
    }

    pub fn claimed(&mut self, member: MemberIndex, outcome: Result<FoundDirty, StoreFailure>, is_newest: bool) {
        let Some(Sleep::Waking(waking)) = self.engine.as_mut().and_then(|engine| engine.sleep.as_mut()) else { return };
        if !waking.pending.contains(member) {
            return;
        }
        waking.pending = waking.pending.without(member);
        match outcome {
            Ok(found) => {
                waking.newest &= is_newest;
                waking.claimed.push((member, found));
            }
            Err(StoreFailure::Member(cause)) => self.core(Event::MemberIoError { member, op: MemberOp::Write, cause }),
            Err(StoreFailure::Superseded) => self.core(Event::Superseded),
        }
    }

    /// Goes on when no member that counts owes an answer to its claim.
    pub fn pump_waking(&mut self) {
        let superseded = self.superseded();
        let Some(engine) = &mut self.engine else { return };
        let Some(Sleep::Waking(waking)) = &engine.sleep else { return };
        let view = engine.core.view();
        let written = view.written();
        if !superseded && !waking.pending.and(written).is_empty() {
            return;
        }
        if !superseded && !view.unfenced.is_empty() && !waking.newest && self.bug != Some(Bug::WakeWithoutNewest) {
            // Another mirror may have gone on with the member that does not answer, and without these.
            self.core(Event::Superseded);
            return self.pump_waking();
        }
        let claimed = waking.claimed.iter().filter(|(member, _)| written.contains(*member));
        let found: Vec<_> = claimed.map(|(_, found)| found.clone()).collect();
        if superseded || (!found.is_empty() && found.len() == written.count() as usize) {
            self.tally.wakes += 1;
            let found = if self.bug == Some(Bug::ForgetDirty) { Vec::new() } else { found };
            engine.dirty.wake(&view, &found, StoreId(engine.stores));
            engine.sleep = None;
            let unequal = engine.dirty.unequal.left() > 0;
            self.broadcast(Message::Resume);
            self.core(Event::Woke);
            if unequal && self.random.chance(300) {
                // So that a stop may come before all is equal.
                self.time.after(50, Step::RequestPause { life: self.life });
            }
        } else {
            engine.sleep = Some(Sleep::Asleep);
            self.fail_queued();
        }
    }

    /// In a pause: clears the records of the members and goes to sleep, unless something keeps the mirror awake.
    pub fn fall_asleep(&mut self) {
        let Some(engine) = &self.engine else { return };
        let view = engine.core.view();
        let joining = engine.core.status().members.iter().flatten().count() != engine.members.mask().count() as usize;
        if !view.wo.is_empty() || !view.unfenced.is_empty() || !view.writable || joining {
            return;
        }
        self.store_last_dirty();
        let Some(engine) = &mut self.engine else { return };
        engine.stores = engine.dirty.log.next_number().0;
        engine.dirty.sleep();
        engine.sleep = Some(Sleep::Asleep);
        self.core(Event::Slept);
    }
}
