//! What goes wrong, and when it stops; and the checks of a whole state.

use corriente::mirror::core::{Generation, GenerationRecord, Health, MemberMode, OutReason, Status};

use crate::check::{Bug, Checker};
use crate::replica::BLOCKS;
use crate::world::{FAULTS_END_US, Step, World};

impl World {
    /// One fault on one replica, or a crash of the engine's node.
    pub fn fault(&mut self) {
        if !self.faulty {
            return;
        }
        let next = self.random.between(1_000, 25_000);
        self.time.after(next, Step::Fault);
        let first = usize::from(self.anchored) as u64;
        if self.random.chance(80) {
            self.time.after(0, Step::Crash);
        }
        if first >= self.replicas.len() as u64 {
            return;
        }
        let number = self.random.between(first, self.replicas.len() as u64) as usize;
        let length = self.random.between(2_000, 120_000);
        let replica = &mut self.replicas[number];
        match self.random.between(0, 5) {
            0 => replica.up = false,
            1 => replica.frozen_until_us = self.time.now_us() + length,
            2 => replica.slow_us = 20_000,
            _ => self.error_per_mille[number] = self.random.between(1, 60),
        }
        self.time.after(length, Step::Restore { replica: number });
    }

    pub fn restore(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        (replica.up, replica.slow_us) = (true, 0);
        self.error_per_mille[number] = 0;
    }

    pub fn stop_faults(&mut self) {
        self.faulty = false;
        for number in 0..self.replicas.len() {
            self.restore(number);
            self.replicas[number].frozen_until_us = FAULTS_END_US;
        }
    }

    /// What users are told, bugs included.
    fn shown_status(&self) -> Option<Status> {
        let engine = self.engine.as_ref().filter(|engine| !engine.channels.is_empty())?;
        let mut status = engine.core.status();
        for mode in status.members.iter_mut().flatten() {
            match (self.bug, *mode) {
                (Some(Bug::RosyStatus), MemberMode::Err(_)) => *mode = MemberMode::Rw,
                (Some(Bug::DropLast), MemberMode::Rw) if engine.last_member_failed => {
                    *mode = MemberMode::Err(OutReason::WriteFailed);
                }
                _ => {}
            }
        }
        Some(status)
    }

    /// Status against what the replicas durably hold.
    pub fn check_status(&mut self) {
        let (Some(status), Some(engine)) = (self.shown_status(), &self.engine) else {
            return;
        };
        let held =
            |record: &Option<GenerationRecord>| record.as_ref().map_or(Generation::NONE, |record| record.generation);
        let mut wrong = None;
        for (member, _) in engine.members.iter() {
            let replica = &self.replicas[engine.replica_of[member.get()]];
            let generation = held(&replica.record);
            match status.members[member.get()] {
                Some(MemberMode::Rw) if generation < status.generation => {
                    wrong = Some(format!("{} is shown in sync, it holds {generation:?}", replica.name));
                }
                Some(MemberMode::Err(_)) if !status.fencing && generation >= status.generation => {
                    wrong = Some(format!("{} is out, yet it holds {generation:?}", replica.name));
                }
                Some(MemberMode::Wo | MemberMode::Err(_)) | None if status.health == Health::Optimal => {
                    wrong = Some(format!("optimal, while {} is not in sync", replica.name));
                }
                _ => {}
            }
        }
        let in_sync = status.members.contains(&Some(MemberMode::Rw));
        if let Some(wrong) = wrong {
            self.violate(Checker::Status, wrong);
        }
        if !in_sync {
            self.violate(Checker::LastMember, "no member is in sync");
        }
    }

    /// The replicas of the members in sync.
    fn in_sync(&self) -> Vec<usize> {
        let Some(engine) = &self.engine else {
            return Vec::new();
        };
        let members = engine.core.status().members;
        let in_sync = |member: usize| members[member] == Some(MemberMode::Rw);
        (0..members.len()).filter(|member| in_sync(*member)).map(|member| engine.replica_of[member]).collect()
    }

    /// No I/O runs: the members in sync hold the same, but for blocks that a crash cut off.
    pub fn check_equal(&mut self) {
        let numbers = self.in_sync();
        let Some(engine) = &self.engine else { return };
        let seen = |block: &usize| engine.dirty.unequal.first_in(*block as u64, 1).is_none();
        let blocks: Vec<usize> = (0..BLOCKS).filter(seen).collect();
        for block in blocks {
            let values: Vec<u64> = numbers.iter().map(|number| self.replicas[*number].blocks[block]).collect();
            if values.windows(2).any(|pair| pair[0] != pair[1]) {
                return self.violate(Checker::Equal, format!("block {block} is {values:?} on {numbers:?}"));
            }
        }
    }

    /// No I/O runs: each member in sync holds what was acknowledged.
    pub fn check_disks(&mut self) {
        for number in self.in_sync() {
            for block in 0..BLOCKS {
                let (value, allowed) = (self.replicas[number].blocks[block], self.oracle.allowed(block));
                if !allowed.contains(&value) {
                    let what = format!("block {block} of replica {number} is {value}, allowed {allowed:?}");
                    return self.violate(Checker::Data, what);
                }
            }
        }
    }

    /// Faults stopped long ago.
    pub fn check_end(&mut self) {
        let Some(engine) = &self.engine else {
            return self.violate(Checker::Answered, "no engine runs at the end");
        };
        let waiting: Vec<u64> = engine.ios.iter().filter(|(_, io)| !io.answered).map(|(id, _)| *id).collect();
        let status = engine.core.status();
        let members = status.members.iter().flatten().count();
        if !waiting.is_empty() {
            self.violate(Checker::Answered, format!("I/Os {waiting:?} were never answered"));
        }
        if status.health != Health::Optimal || members != self.replicas.len() {
            self.violate(Checker::Answered, format!("the mirror did not heal: {status:?}"));
        }
        self.check_equal();
        self.check_disks();
    }
}
