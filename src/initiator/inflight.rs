//! The commands in flight on one queue, without any I/O: what each still expects, and whether what the controller sends
//! fits it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    command::Completion,
    pdu::{DataHeader, ReadyToTransfer, Violation},
};

/// What a command carries besides its entry.
#[derive(Debug, Clone)]
pub enum Payload {
    /// Nothing.
    None,
    /// Data to the controller.
    Out(Bytes),
    /// Room for this many bytes from the controller; a success brings exactly as many.
    In(usize),
}

/// A command that ended.
#[derive(Debug)]
pub struct Finished<Owner> {
    /// Who waits for it.
    pub owner: Owner,
    /// How it ended.
    pub completion: Completion,
    /// The data that it brought.
    pub data: Vec<u8>,
}

/// Data that the controller is ready to receive.
#[derive(Debug, PartialEq, Eq)]
pub struct HostTransfer {
    /// The R2T that asked for them.
    pub request: ReadyToTransfer,
    /// The data.
    pub data: Bytes,
}

#[derive(Debug)]
struct Slot<Owner> {
    owner: Owner,
    /// Data to send on request.
    out: Bytes,
    /// How much of `out` the controller has asked for.
    requested: u32,
    /// The R2T being answered; we announce that a command may have one at a time.
    answering: Option<u16>,
    /// Room for data from the controller.
    room: Vec<u8>,
    /// How much of `room` is filled.
    received: usize,
}

/// The commands in flight; `Owner` is whatever must be told of a command's end.
#[derive(Debug)]
pub struct InFlight<Owner> {
    slots: Vec<Option<Slot<Owner>>>,
    /// Free command identifiers. First in, first out: a late answer then meets a free slot, not a new command.
    free: VecDeque<u16>,
}

impl<Owner> InFlight<Owner> {
    /// A queue for at most `depth` commands.
    pub fn new(depth: u16) -> Self {
        Self { slots: (0..depth).map(|_| None).collect(), free: (0..depth).collect() }
    }

    /// Takes a command in and gives it its identifier, or gives `owner` back when the queue is full. `out` are the
    /// data to be sent on request; data in the capsule are none of them.
    pub fn insert(&mut self, owner: Owner, out: Bytes, room: usize) -> Result<u16, Owner> {
        let Some(command_id) = self.free.pop_front() else {
            return Err(owner);
        };
        let slot = Slot { owner, out, requested: 0, answering: None, room: vec![0; room], received: 0 };
        self.slots[usize::from(command_id)] = Some(slot);
        Ok(command_id)
    }

    /// The owners of all commands in flight.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.slots.iter().flatten().map(|slot| &slot.owner)
    }

    /// Takes every command out.
    pub fn drain(&mut self) -> Vec<Owner> {
        self.slots.iter_mut().filter_map(Option::take).map(|slot| slot.owner).collect()
    }

    fn slot(&mut self, pdu: &'static str, command_id: u16) -> Result<&mut Slot<Owner>, Violation> {
        self.slots
            .get_mut(usize::from(command_id))
            .and_then(Option::as_mut)
            .ok_or_else(|| Violation::new(pdu, "CCCID", format!("{command_id}, no such command is in flight")))
    }

    /// The controller asks for data.
    pub fn ready_to_transfer(&mut self, request: ReadyToTransfer) -> Result<HostTransfer, Violation> {
        let slot = self.slot("R2T", request.command_id)?;
        let wrong = |field, problem| Err(Violation::new("R2T", field, problem));
        if let Some(tag) = slot.answering {
            return wrong("TTAG", format!("{}, but R2T {tag} of the same command is outstanding", request.tag));
        }
        if request.offset != slot.requested {
            return wrong("R2TO", format!("{}, must be {}", request.offset, slot.requested));
        }
        let left = slot.out.len() - slot.requested as usize;
        if request.length == 0 || request.length as usize > left {
            return wrong("R2TL", format!("{} bytes, {left} are left to send", request.length));
        }
        let start = request.offset as usize;
        slot.requested += request.length;
        slot.answering = Some(request.tag);
        Ok(HostTransfer { request, data: slot.out.slice(start..start + request.length as usize) })
    }

    /// All data that `request` asked for are sent.
    pub fn transfer_sent(&mut self, request: &ReadyToTransfer) {
        if let Ok(slot) = self.slot("R2T", request.command_id)
            && slot.answering == Some(request.tag)
        {
            slot.answering = None;
        }
    }

    /// Data arrive: lends the command's room, of which they fill `header.offset` to `header.offset + header.length`.
    /// [`Self::data_received`] takes it back.
    pub fn data_arrives(&mut self, header: &DataHeader) -> Result<Vec<u8>, Violation> {
        let slot = self.slot("C2HData", header.command_id)?;
        let wrong = |field, problem| Err(Violation::new("C2HData", field, problem));
        if header.offset as usize != slot.received {
            return wrong("DATAO", format!("{}, must be {}", header.offset, slot.received));
        }
        let left = slot.room.len() - slot.received;
        if header.length as usize > left {
            return wrong("DATAL", format!("{} bytes, the command expects {left} more", header.length));
        }
        if header.success && !header.last {
            return wrong("FLAGS.SUCCESS", "set without LAST_PDU".into());
        }
        Ok(std::mem::take(&mut slot.room))
    }

    /// The data of `header` are in `room`. With the SUCCESS flag the command ends.
    pub fn data_received(&mut self, header: &DataHeader, room: Vec<u8>) -> Result<Option<Finished<Owner>>, Violation> {
        let slot = self.slot("C2HData", header.command_id)?;
        slot.room = room;
        slot.received += header.length as usize;
        match header.success {
            true => self.finish("C2HData", Completion::implied_success(header.command_id)).map(Some),
            false => Ok(None),
        }
    }

    /// A response capsule ends a command.
    pub fn complete(&mut self, completion: Completion) -> Result<Finished<Owner>, Violation> {
        self.finish("CapsuleResp", completion)
    }

    fn finish(&mut self, pdu: &'static str, completion: Completion) -> Result<Finished<Owner>, Violation> {
        let slot = self.slot(pdu, completion.command_id)?;
        if completion.status.is_success() {
            let (asked, all) = (slot.requested as usize, slot.out.len());
            if asked != all || slot.answering.is_some() {
                let problem = format!("success, but only {asked} of {all} bytes were asked for, or not all were sent");
                return Err(Violation::new(pdu, "Status", problem));
            }
            let (received, all) = (slot.received, slot.room.len());
            if received != all {
                let problem = format!("success, but only {received} of {all} bytes came");
                return Err(Violation::new(pdu, "Status", problem));
            }
        }
        let index = usize::from(completion.command_id);
        let slot = self.slots[index].take().expect("the slot was just found occupied");
        self.free.push_back(completion.command_id);
        Ok(Finished { owner: slot.owner, completion, data: slot.room })
    }
}

#[cfg(test)]
mod tests;
