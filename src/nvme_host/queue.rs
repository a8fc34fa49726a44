//! The commands of one I/O queue, over a socket that does not block: what is to be sent, what each command still expects, and
//! whether what the target sends fits it. It is polled; it never waits, has no thread and knows no SPDK.
//!
//! A request is split into commands by the target's limits, and answered when the last of them is. The data of a request
//! travel between the socket and its memory directly: `outbox` gathers them, `inbox` scatters them.

mod inbox;
mod outbox;

use std::collections::VecDeque;
use std::io::{Read, Write};

use self::inbox::{Inbox, Received};
use self::outbox::Outbox;
use crate::initiator::command::{Command, Completion, Transfer, deallocate_range};
use crate::initiator::pdu::{DataHeader, Layout, Pdu, ReadyToTransfer, Violation};
use crate::initiator::{QueueLimits, Status};

/// The most blocks of one read, write or write zeroes command (NLB is 16 bits, zero based).
const COMMAND_BLOCKS: u64 = 1 << 16;
/// The most blocks of one deallocated range.
const RANGE_BLOCKS: u64 = u32::MAX as u64;
/// Reads from the socket in one poll: others wait for the reactor too.
const FILLS: usize = 8;
/// Bytes of a deallocated range.
pub const RANGE_BYTES: usize = 16;

/// What is asked of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Blocks into the request's room.
    Read,
    /// The request's data to blocks.
    Write,
    /// Blocks are to read as zeroes.
    WriteZeroes,
    /// Blocks are not needed.
    Deallocate,
    /// All that was written is to be durable.
    Flush,
}

/// Whom the queue works for: it lends memory, and is answered by being consumed.
pub trait Request {
    /// A write's data from byte `offset` to the end, in pieces.
    fn data(&self, offset: usize) -> impl Iterator<Item = &[u8]>;
    /// A read's room from byte `offset` to the end, in pieces.
    fn room(&mut self, offset: usize) -> impl Iterator<Item = &mut [u8]>;
}

/// Why the connection is of no more use.
#[derive(Debug)]
pub enum Broken {
    /// The peer sent what the specification forbids.
    Protocol(Violation),
    /// The peer ended it because of one of our PDUs.
    Terminated(String),
    /// The socket failed or ended.
    Closed(String),
}

impl From<Violation> for Broken {
    fn from(violation: Violation) -> Self {
        Self::Protocol(violation)
    }
}

/// A request that is over.
pub type Finished<R> = (R, Result<(), Status>);

/// What holds for all commands of the queue.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The namespace.
    pub nsid: u32,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// The target's limits.
    pub limits: QueueLimits,
}

/// How our PDUs are made; known when the connection is up.
#[derive(Debug, Clone, Copy)]
struct Wire {
    layout: Layout,
    max_h2c_data: usize,
}

/// A request and how far it is.
struct Entry<R> {
    request: R,
    work: Work,
    first_block: u64,
    blocks: u64,
    /// Blocks for which commands have been made.
    issued: u64,
    /// Commands without an answer.
    outstanding: u32,
    /// The first error.
    failed: Option<Status>,
}

/// A command without an answer.
struct Outstanding {
    /// Of which request.
    entry: usize,
    /// Where its part begins in the request's memory, in bytes.
    offset: usize,
    /// Bytes for the controller that go on request.
    out: usize,
    /// How many of `out` were asked for.
    requested: usize,
    /// Bytes from the controller.
    room: usize,
    /// How many of `room` came.
    received: usize,
    /// Pieces in the outbox. What the outbox points at must stay.
    unsent: u32,
}

/// One queue's commands. `R` is answered through the `finished` list of the call during which it ends.
pub struct Queue<R> {
    settings: Settings,
    wire: Option<Wire>,
    entries: Vec<Option<Entry<R>>>,
    free_entries: Vec<usize>,
    /// Requests with blocks for which there is no command yet. Only the first can have commands already.
    waiting: VecDeque<usize>,
    commands: Box<[Option<Outstanding>]>,
    /// Free identifiers. First in, first out: a late answer then meets a free one, not a new command.
    free_commands: VecDeque<u16>,
    outbox: Outbox,
    inbox: Inbox,
}

impl<R: Request> Queue<R> {
    /// A queue whose connection is not up yet: requests wait.
    pub fn new(settings: Settings) -> Self {
        assert!(settings.limits.depth > 0 && settings.block_bytes > 0);
        Self {
            settings,
            wire: None,
            entries: Vec::new(),
            free_entries: Vec::new(),
            waiting: VecDeque::new(),
            commands: (0..settings.limits.depth).map(|_| None).collect(),
            free_commands: (0..settings.limits.depth).collect(),
            outbox: Outbox::new(),
            inbox: Inbox::new(),
        }
    }

    /// The connection is up.
    pub fn connected(&mut self, layout: Layout, max_h2c_data: usize) {
        assert!(self.wire.is_none(), "a queue has one connection in its life");
        self.wire = Some(Wire { layout, max_h2c_data });
    }

    /// Takes a request in. It is sent at the next poll.
    pub fn submit(&mut self, request: R, work: Work, first_block: u64, blocks: u64) {
        // A flush is of no blocks; it counts as one, so that it has a command.
        let blocks = if work == Work::Flush { 1 } else { blocks };
        assert!(blocks > 0, "an I/O has blocks");
        let entry = Entry { request, work, first_block, blocks, issued: 0, outstanding: 0, failed: None };
        let key = match self.free_entries.pop() {
            Some(key) => {
                self.entries[key] = Some(entry);
                key
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() - 1
            }
        };
        self.waiting.push_back(key);
    }

    /// Whether anything waits for the target or for us.
    pub fn is_idle(&self) -> bool {
        self.free_entries.len() == self.entries.len()
    }

    /// Sends and receives what can be without waiting. True if there was anything. Requests that are over are added to
    /// `finished`. After an error the queue is of no more use but for [`Self::fail`].
    pub fn poll(&mut self, socket: &mut (impl Read + Write), finished: &mut Vec<Finished<R>>) -> Result<bool, Broken> {
        self.issue(finished);
        let mut worked = self.send(socket)?;
        if self.free_commands.len() < self.commands.len() {
            worked |= self.receive(socket, finished)?;
            // Answers made room, and data may have been asked for.
            self.issue(finished);
            worked |= self.send(socket)?;
        }
        Ok(worked)
    }

    /// Ends all requests with `status`.
    pub fn fail(&mut self, status: Status, finished: &mut Vec<Finished<R>>) {
        self.outbox.clear();
        self.waiting.clear();
        self.commands.iter_mut().for_each(|command| *command = None);
        self.free_commands = (0..self.settings.limits.depth).collect();
        for (key, entry) in self.entries.iter_mut().enumerate() {
            if let Some(entry) = entry.take() {
                self.free_entries.push(key);
                finished.push((entry.request, Err(status)));
            }
        }
    }

    /// Makes commands of waiting requests while there are identifiers.
    fn issue(&mut self, finished: &mut Vec<Finished<R>>) {
        let Some(wire) = self.wire else { return };
        while let Some(key) = self.waiting.front().copied() {
            let entry = self.entries[key].as_mut().expect("a waiting request is there");
            if entry.failed.is_some() {
                // The rest of it would be for nothing.
                entry.blocks = entry.issued;
            }
            if entry.issued == entry.blocks {
                self.waiting.pop_front();
                self.end_if_over(key, finished);
                continue;
            }
            let Some(id) = self.free_commands.pop_front() else { return };
            let (outstanding, capsule) = next_command(self.settings, wire, entry, key, id);
            self.outbox.push_header(id, capsule.header);
            if capsule.data > 0 {
                self.outbox.push_data(id, outstanding.offset, capsule.data);
            }
            self.commands[usize::from(id)] = Some(outstanding);
        }
    }

    fn send(&mut self, socket: &mut impl Write) -> Result<bool, Broken> {
        let (entries, commands) = (&self.entries, &mut self.commands);
        self.outbox.send(socket, |id| {
            let command = commands[usize::from(id)].as_ref().expect("what is unsent belongs to a command");
            &entries[command.entry].as_ref().expect("a command's request is there").request
        })?;
        let worked = self.outbox.take_sent(|id| {
            let command = commands[usize::from(id)].as_mut().expect("what was unsent belongs to a command");
            command.unsent -= 1;
        });
        Ok(worked)
    }

    fn receive(&mut self, socket: &mut impl Read, finished: &mut Vec<Finished<R>>) -> Result<bool, Broken> {
        let mut worked = false;
        for _ in 0..FILLS {
            let drained = {
                let (entries, commands) = (&mut self.entries, &self.commands);
                self.inbox.fill(socket, |id| {
                    let command = commands[usize::from(id)].as_ref().expect("data come for a command");
                    &mut entries[command.entry].as_mut().expect("a command's request is there").request
                })?
            };
            while let Some(received) = self.next_received()? {
                worked = true;
                self.take(received, finished)?;
            }
            if drained {
                break;
            }
        }
        Ok(worked)
    }

    fn next_received(&mut self) -> Result<Option<Received>, Broken> {
        let (entries, commands) = (&mut self.entries, &self.commands);
        self.inbox.next(|id| {
            let command = commands[usize::from(id)].as_ref().expect("data come for a command");
            &mut entries[command.entry].as_mut().expect("a command's request is there").request
        })
    }

    fn take(&mut self, received: Received, finished: &mut Vec<Finished<R>>) -> Result<(), Broken> {
        match received {
            Received::Header(Pdu::CapsuleResp { entry }) => {
                self.complete("CapsuleResp", Completion::decode(&entry), finished)
            }
            Received::Header(Pdu::C2HData(header)) => self.data_begin(&header),
            Received::Header(Pdu::R2T(request)) => self.ready_to_transfer(request),
            Received::Header(Pdu::C2HTermReq(term)) => Err(Broken::Terminated(term.text())),
            Received::Header(other) => {
                let problem = format!("{} in this direction or phase", other.kind().name());
                Err(Violation::new("common header", "PDU-Type", problem).into())
            }
            Received::Data { header } => {
                let command = self.command("C2HData", header.command_id)?;
                command.received += header.length as usize;
                match header.success {
                    true => self.complete("C2HData", Completion::implied_success(header.command_id), finished),
                    false => Ok(()),
                }
            }
        }
    }

    fn command(&mut self, pdu: &'static str, id: u16) -> Result<&mut Outstanding, Violation> {
        self.commands
            .get_mut(usize::from(id))
            .and_then(Option::as_mut)
            .ok_or_else(|| Violation::new(pdu, "CCCID", format!("{id}, no such command is in flight")))
    }

    /// The header of data has come; the data follow on the socket.
    fn data_begin(&mut self, header: &DataHeader) -> Result<(), Broken> {
        let command = self.command("C2HData", header.command_id)?;
        let wrong = |field, problem| Err(Violation::new("C2HData", field, problem).into());
        if header.offset as usize != command.received {
            return wrong("DATAO", format!("{}, must be {}", header.offset, command.received));
        }
        let left = command.room - command.received;
        if header.length as usize > left {
            return wrong("DATAL", format!("{} bytes, the command expects {left} more", header.length));
        }
        if header.success && !header.last {
            return wrong("FLAGS.SUCCESS", "set without LAST_PDU".into());
        }
        let at = command.offset + command.received;
        self.inbox.expect_data(*header, at);
        Ok(())
    }

    fn ready_to_transfer(&mut self, request: ReadyToTransfer) -> Result<(), Broken> {
        let max_h2c_data = self.wire.map_or(0, |wire| wire.max_h2c_data);
        let command = self.command("R2T", request.command_id)?;
        let wrong = |field, problem| Err(Violation::new("R2T", field, problem).into());
        if command.unsent > 0 {
            // We announce that a command may have one at a time.
            return wrong("TTAG", format!("{}, but the command's last data are not sent yet", request.tag));
        }
        if request.offset as usize != command.requested {
            return wrong("R2TO", format!("{}, must be {}", request.offset, command.requested));
        }
        let left = command.out - command.requested;
        if request.length == 0 || request.length as usize > left {
            return wrong("R2TL", format!("{} bytes, {left} are left to send", request.length));
        }
        command.requested += request.length as usize;
        let part = command.offset + request.offset as usize;
        let length = request.length as usize;
        let layout = self.wire.map_or(Layout::INITIAL, |wire| wire.layout);
        let mut sent = 0;
        while sent < length {
            let now = (length - sent).min(max_h2c_data.max(1));
            let header = DataHeader {
                command_id: request.command_id,
                tag: request.tag,
                offset: request.offset + sent as u32,
                length: now as u32,
                last: sent + now == length,
                success: false,
            };
            self.outbox.push_header(request.command_id, Pdu::H2CData(header).encode(&layout));
            self.outbox.push_data(request.command_id, part + sent, now);
            self.command("R2T", request.command_id)?.unsent += 2;
            sent += now;
        }
        Ok(())
    }

    /// A command is answered.
    fn complete(
        &mut self,
        pdu: &'static str,
        completion: Completion,
        finished: &mut Vec<Finished<R>>,
    ) -> Result<(), Broken> {
        let command = self.command(pdu, completion.command_id)?;
        if command.unsent > 0 {
            return Err(Violation::new(pdu, "CCCID", "answered before all of it was sent").into());
        }
        if completion.status.is_success() {
            let (requested, out, received, room) = (command.requested, command.out, command.received, command.room);
            if requested != out {
                let problem = format!("success, but only {requested} of {out} bytes were asked for");
                return Err(Violation::new(pdu, "Status", problem).into());
            }
            if received != room {
                let problem = format!("success, but only {received} of {room} bytes came");
                return Err(Violation::new(pdu, "Status", problem).into());
            }
        }
        let key = command.entry;
        self.commands[usize::from(completion.command_id)] = None;
        self.free_commands.push_back(completion.command_id);
        let entry = self.entries[key].as_mut().expect("a command's request is there");
        entry.outstanding -= 1;
        if !completion.status.is_success() {
            entry.failed.get_or_insert(completion.status);
        }
        if entry.issued == entry.blocks {
            self.end_if_over(key, finished);
        }
        Ok(())
    }

    /// Gives a request back of which all commands have been made, if all are answered.
    fn end_if_over(&mut self, key: usize, finished: &mut Vec<Finished<R>>) {
        if self.entries[key].as_ref().is_some_and(|entry| entry.outstanding == 0 && entry.issued == entry.blocks)
            && let Some(entry) = self.entries[key].take()
        {
            self.free_entries.push(key);
            finished.push((entry.request, entry.failed.map_or(Ok(()), Err)));
        }
    }
}

/// A command as it is sent.
struct Capsule {
    header: Vec<u8>,
    /// Bytes of the request's data that follow in the capsule.
    data: usize,
}

/// The next command of a request, which has blocks left.
fn next_command<R>(
    settings: Settings,
    wire: Wire,
    entry: &mut Entry<R>,
    key: usize,
    id: u16,
) -> (Outstanding, Capsule) {
    let Settings { nsid, block_bytes, limits } = settings;
    let block_bytes = u64::from(block_bytes);
    let most = match entry.work {
        Work::Read | Work::Write => (limits.transfer_bytes / block_bytes).clamp(1, COMMAND_BLOCKS),
        Work::WriteZeroes => COMMAND_BLOCKS,
        Work::Deallocate => RANGE_BLOCKS,
        Work::Flush => 1,
    };
    let (first, blocks) = (entry.first_block + entry.issued, most.min(entry.blocks - entry.issued));
    let offset = (entry.issued * block_bytes) as usize;
    let bytes = (blocks * block_bytes) as usize;
    let count = blocks as u32;
    entry.issued += blocks;
    entry.outstanding += 1;
    let mut outstanding = Outstanding { entry: key, offset, out: 0, requested: 0, room: 0, received: 0, unsent: 1 };
    let capsule = |command: Command, transfer: Transfer, in_capsule: usize| {
        let pdu = Pdu::CapsuleCmd { entry: command.entry(id, transfer), data_length: in_capsule as u32 };
        pdu.encode(&wire.layout)
    };
    let nothing = Transfer::Transport(0);
    let (header, data) = match entry.work {
        Work::Read => {
            outstanding.room = bytes;
            (capsule(Command::read(nsid, first, count), Transfer::Transport(bytes as u32), 0), 0)
        }
        Work::Write if bytes <= limits.in_capsule_bytes => {
            outstanding.unsent = 2;
            (capsule(Command::write(nsid, first, count), Transfer::InCapsule(bytes as u32), bytes), bytes)
        }
        Work::Write => {
            outstanding.out = bytes;
            (capsule(Command::write(nsid, first, count), Transfer::Transport(bytes as u32), 0), 0)
        }
        Work::WriteZeroes => (capsule(Command::write_zeroes(nsid, first, count), nothing, 0), 0),
        Work::Deallocate => {
            let command = Command::deallocate(nsid, 1);
            let mut header = capsule(command, Transfer::InCapsule(RANGE_BYTES as u32), RANGE_BYTES);
            header.extend_from_slice(&deallocate_range(first, count));
            (header, 0)
        }
        Work::Flush => (capsule(Command::flush(nsid), nothing, 0), 0),
    };
    (outstanding, Capsule { header, data })
}

#[cfg(test)]
mod tests;
