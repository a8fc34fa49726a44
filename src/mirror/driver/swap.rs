//! The driver's part in an expansion: a member's device is closed and opened again under a pause, as SPDK 20.07's initiator
//! does not learn of a namespace's new size while it is connected.

use std::sync::Arc;

use super::super::core::MemberIndex;
use super::super::member::OpenedMember;
use super::Driver;
use crate::error::Result;

impl Driver {
    /// Lets go of a member's device everywhere. The pause that is on keeps I/O from noticing.
    pub(super) async fn close_for_swap(&mut self, member: MemberIndex) -> Result<()> {
        if !self.core.is_paused() {
            return Err(self.refused("a member's device can only be changed under a pause".into()));
        }
        if let Some(vdev) = &self.vdev {
            vdev.device().forget_member(member);
            self.visited(vdev.for_each_channel(move |channel| channel.close_member(member)).await);
        }
        self.opened[member.get()] = None;
        Ok(())
    }

    /// Gives a member its new device.
    pub(super) async fn open_swapped(&mut self, member: MemberIndex, opened: OpenedMember) -> Result<()> {
        let same = self.members.get(member).is_some_and(|open| open.replica == opened.open.replica);
        if !same || !self.core.is_paused() {
            return Err(self.refused("the pause for changing a member's device is over".into()));
        }
        let opened = Arc::new(opened);
        self.opened[member.get()] = Some(opened.clone());
        if let Some(vdev) = &self.vdev {
            vdev.device().add_member(member, opened.clone());
            self.visited(vdev.for_each_channel(move |channel| channel.open_member(member, &opened)).await);
        }
        Ok(())
    }
}
