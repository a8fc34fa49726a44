//! A queue against a target in memory, over a socket that takes and gives as little at a time as it likes, from a seed.

use std::io::{Error, ErrorKind, Read, Write};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Broken, Finished, Queue, Request, Settings, Work};
use crate::initiator::pdu::{DataHeader, Layout, PREAMBLE_BYTES, Pdu, Preamble, ReadyToTransfer};
use crate::initiator::{QueueLimits, Status};

const BLOCK: usize = 512;
const DISK_BLOCKS: u64 = 512;
const MAX_H2C_DATA: usize = 1500;
const R2T_BYTES: usize = 2000;

const SETTINGS: Settings = Settings {
    nsid: 1,
    block_bytes: BLOCK as u32,
    limits: QueueLimits {
        depth: 4,
        transfer_bytes: 16 * BLOCK as u64,
        in_capsule_bytes: 2 * BLOCK,
        deallocates: true,
        writes_zeroes: true,
    },
};

/// Memory in pieces of odd sizes.
struct Memory {
    name: usize,
    pieces: Vec<Vec<u8>>,
}

impl Memory {
    fn of(name: usize, bytes: &[u8], random: &mut StdRng) -> Self {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(random.random_range(0..=rest.len().min(3000)));
            pieces.push(piece.to_vec());
            rest = more;
        }
        Self { name, pieces }
    }

    fn bytes(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

impl Request for Memory {
    fn data(&self, offset: usize) -> impl Iterator<Item = &[u8]> {
        let mut skip = offset;
        self.pieces.iter().filter_map(move |piece| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            (skipped < piece.len()).then(|| &piece[skipped..])
        })
    }

    fn room(&mut self, offset: usize) -> impl Iterator<Item = &mut [u8]> {
        let mut skip = offset;
        self.pieces.iter_mut().filter_map(move |piece| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            (skipped < piece.len()).then(|| &mut piece[skipped..])
        })
    }
}

/// A write whose data the target is still asking for.
struct Transfer {
    id: u16,
    first: usize,
    length: usize,
    received: usize,
    /// What the R2T that is being answered ends with.
    asked: usize,
}

/// The target, and the socket to it.
struct Target {
    disk: Vec<u8>,
    /// The status field of commands that touch this block.
    bad: Option<(u64, u16)>,
    to_host: Vec<u8>,
    from_host: Vec<u8>,
    transfers: Vec<Transfer>,
    in_flight: usize,
    most_in_flight: usize,
    commands: Vec<u8>,
    flushes: usize,
    random: StdRng,
    /// Its socket takes nothing.
    deaf: bool,
    /// Answers the commands it has, only now and then.
    held: Vec<[u8; 16]>,
}

impl Target {
    fn new(seed: u64) -> Self {
        Self {
            disk: vec![0; DISK_BLOCKS as usize * BLOCK],
            bad: None,
            to_host: Vec::new(),
            from_host: Vec::new(),
            transfers: Vec::new(),
            in_flight: 0,
            most_in_flight: 0,
            commands: Vec::new(),
            flushes: 0,
            random: StdRng::seed_from_u64(seed),
            deaf: false,
            held: Vec::new(),
        }
    }

    fn say(&mut self, pdu: Pdu) {
        self.to_host.extend(pdu.encode(&Layout::INITIAL));
    }

    fn answer(&mut self, id: u16, status: u16) {
        let mut entry = [0; 16];
        entry[12..14].copy_from_slice(&id.to_le_bytes());
        entry[14..16].copy_from_slice(&status.to_le_bytes());
        self.held.push(entry);
    }

    /// Serves every whole PDU that has come.
    fn serve(&mut self) {
        while let Some(raw) = self.from_host.first_chunk::<PREAMBLE_BYTES>() {
            let preamble = Preamble::decode(*raw, Layout::INITIAL.digests).expect("a PDU");
            let header = PREAMBLE_BYTES + preamble.rest();
            let Some(rest) = self.from_host.get(PREAMBLE_BYTES..header) else { return };
            let pdu = preamble.finish(rest).expect("a PDU");
            let whole = header + pdu.data_length() as usize;
            if self.from_host.len() < whole {
                return;
            }
            let data = self.from_host[header..whole].to_vec();
            self.from_host.drain(..whole);
            match pdu {
                Pdu::CapsuleCmd { entry, .. } => self.command(&entry, &data),
                Pdu::H2CData(part) => self.data(&part, &data),
                other => panic!("{other:?} from a host"),
            }
        }
    }

    fn command(&mut self, entry: &[u8; 64], data: &[u8]) {
        let id = u16::from_le_bytes([entry[2], entry[3]]);
        let at = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
        let (first, blocks) = match entry[0] {
            0x09 => {
                let range: &[u8; 16] = data.try_into().expect("one range");
                let count = u32::from_le_bytes(range[4..8].try_into().expect("four bytes"));
                (u64::from_le_bytes(range[8..].try_into().expect("eight bytes")), u64::from(count))
            }
            _ => (at(40), (at(48) & 0xFFFF) + 1),
        };
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        self.commands.push(entry[0]);
        let range = first as usize * BLOCK..(first + blocks) as usize * BLOCK;
        if let Some((block, status)) = self.bad
            && entry[0] != 0
            && (first..first + blocks).contains(&block)
        {
            return self.answer(id, status);
        }
        match entry[0] {
            0x00 => {
                self.flushes += 1;
                self.answer(id, 0);
            }
            0x01 if !data.is_empty() => {
                self.disk[range].copy_from_slice(data);
                self.answer(id, 0);
            }
            0x01 => {
                self.transfers.push(Transfer { id, first: range.start, length: range.len(), received: 0, asked: 0 });
                self.ask(id);
            }
            0x02 => self.read(id, range),
            0x08 | 0x09 => {
                self.disk[range].fill(0);
                self.answer(id, 0);
            }
            other => panic!("opcode {other:#x}"),
        }
    }

    fn read(&mut self, id: u16, range: std::ops::Range<usize>) {
        let data = self.disk[range].to_vec();
        let success = self.random.random();
        let mut offset = 0;
        while offset < data.len() {
            let length = self.random.random_range(1..=(data.len() - offset).min(5000));
            let last = offset + length == data.len();
            let header = DataHeader {
                command_id: id,
                tag: 0,
                offset: offset as u32,
                length: length as u32,
                last,
                success: last && success,
            };
            self.say(Pdu::C2HData(header));
            self.to_host.extend(&data[offset..offset + length]);
            offset += length;
        }
        match success {
            true => self.in_flight -= 1,
            false => self.answer(id, 0),
        }
    }

    fn ask(&mut self, id: u16) {
        let transfer = self.transfers.iter_mut().find(|transfer| transfer.id == id).expect("a transfer");
        let length = (transfer.length - transfer.received).min(R2T_BYTES);
        transfer.asked = transfer.received + length;
        let offset = transfer.received as u32;
        self.say(Pdu::R2T(ReadyToTransfer { command_id: id, tag: id ^ 0x5555, offset, length: length as u32 }));
    }

    fn data(&mut self, part: &DataHeader, data: &[u8]) {
        let id = part.command_id;
        let at = self.transfers.iter().position(|transfer| transfer.id == id).expect("a transfer");
        let transfer = &mut self.transfers[at];
        assert!(data.len() <= MAX_H2C_DATA && part.tag == id ^ 0x5555 && part.offset as usize == transfer.received);
        let start = transfer.first + transfer.received;
        transfer.received += data.len();
        assert_eq!(part.last, transfer.received == transfer.asked, "LAST ends what was asked for");
        let (received, length, asked) = (transfer.received, transfer.length, transfer.asked);
        self.disk[start..start + data.len()].copy_from_slice(data);
        if received == length {
            self.transfers.remove(at);
            self.answer(id, 0);
        } else if received == asked {
            self.ask(id);
        }
    }

    /// Lets some answers go, in any order.
    fn let_go(&mut self) {
        while !self.held.is_empty() && self.random.random_bool(0.5) {
            let entry = self.held.swap_remove(self.random.random_range(0..self.held.len()));
            self.in_flight -= 1;
            self.say(Pdu::CapsuleResp { entry });
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.deaf {
            return Err(Error::from(ErrorKind::WouldBlock));
        }
        if self.random.random_bool(0.3) {
            return Err(Error::from(if self.random.random() { ErrorKind::WouldBlock } else { ErrorKind::Interrupted }));
        }
        let taken = self.random.random_range(1..=bytes.len());
        self.from_host.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn write_vectored(&mut self, slices: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        assert!(slices.iter().all(|slice| !slice.is_empty()));
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write(&all)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Read for Target {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.read_vectored(&mut [std::io::IoSliceMut::new(buffer)])
    }

    fn read_vectored(&mut self, slices: &mut [std::io::IoSliceMut<'_>]) -> std::io::Result<usize> {
        if self.to_host.is_empty() || self.random.random_bool(0.2) {
            return Err(Error::from(ErrorKind::WouldBlock));
        }
        let room: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(room > 0, "nothing is asked for");
        let given = self.random.random_range(1..=room.min(self.to_host.len()));
        let bytes: Vec<u8> = self.to_host.drain(..given).collect();
        let mut rest = bytes.as_slice();
        for slice in slices {
            let (now, later) = rest.split_at(rest.len().min(slice.len()));
            slice[..now.len()].copy_from_slice(now);
            rest = later;
        }
        Ok(given)
    }
}

fn queue() -> Queue<Memory> {
    queue_of(SETTINGS)
}

fn queue_of(settings: Settings) -> Queue<Memory> {
    let mut queue = Queue::new(settings);
    queue.connected(Layout::INITIAL, MAX_H2C_DATA);
    queue
}

/// Polls until nothing is under way.
fn run(queue: &mut Queue<Memory>, target: &mut Target) -> Vec<Finished<Memory>> {
    let mut finished = Vec::new();
    for _ in 0..100_000 {
        queue.poll(target, &mut finished).expect("the target keeps to the protocol");
        target.serve();
        target.let_go();
        if queue.is_idle() {
            return finished;
        }
    }
    panic!("requests do not end");
}

#[test]
fn requests_of_all_kinds_reach_the_disk_whole_whatever_the_socket_takes_at_a_time() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut target, mut queue) = (Target::new(seed), queue());
        let mut model = vec![0u8; DISK_BLOCKS as usize * BLOCK];
        for round in 0..10 {
            let mut expected = Vec::new();
            // Side by side only on ranges of their own: between others there is no order.
            let share = DISK_BLOCKS / 8;
            for name in 0..8 {
                let first = name * share + random.random_range(0..share);
                let blocks = random.random_range(1..=(name + 1) * share - first);
                let range = first as usize * BLOCK..(first + blocks) as usize * BLOCK;
                let (work, bytes): (Work, Vec<u8>) = match random.random_range(0..5) {
                    0 => (Work::Read, vec![0xEE; range.len()]),
                    1 => (Work::Write, (0..range.len()).map(|_| random.random()).collect()),
                    2 => (Work::WriteZeroes, Vec::new()),
                    3 => (Work::Deallocate, Vec::new()),
                    _ => (Work::Flush, Vec::new()),
                };
                match work {
                    Work::Write => model[range.clone()].copy_from_slice(&bytes),
                    Work::WriteZeroes | Work::Deallocate => model[range.clone()].fill(0),
                    Work::Read | Work::Flush => {}
                }
                expected.push(if work == Work::Read { model[range].to_vec() } else { bytes.clone() });
                queue.submit(Memory::of(name as usize, &bytes, &mut random), work, first, blocks);
            }
            let finished = run(&mut queue, &mut target);
            assert_eq!(finished.len(), 8, "seed {seed}, round {round}: each is answered once");
            for (memory, result) in finished {
                assert_eq!(result, Ok(()), "seed {seed}, round {round}");
                assert!(memory.bytes() == expected[memory.name], "seed {seed}, round {round}, request {}", memory.name);
            }
            assert!(target.disk == model, "seed {seed}, round {round}: the disk differs");
        }
        assert!(target.most_in_flight <= usize::from(SETTINGS.limits.depth), "seed {seed}: deeper than allowed");
        assert!(target.most_in_flight > 1, "seed {seed}: commands go side by side");
    }
}

/// More pieces of memory than one system call takes, of headers and data alike.
#[test]
fn many_writes_at_once_reach_the_disk_whole() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut target = Target::new(seed);
        let mut queue = queue_of(Settings { limits: QueueLimits { depth: 127, ..SETTINGS.limits }, ..SETTINGS });
        let mut model = vec![0u8; DISK_BLOCKS as usize * BLOCK];
        for name in 0..DISK_BLOCKS as usize {
            let bytes: Vec<u8> = (0..BLOCK).map(|_| random.random()).collect();
            model[name * BLOCK..(name + 1) * BLOCK].copy_from_slice(&bytes);
            let mut memory = Memory::of(name, &bytes, &mut random);
            // A piece that is one slice, in some rounds, so that the limit falls on every kind of piece.
            if seed % 2 == 0 {
                memory.pieces = vec![bytes];
            }
            queue.submit(memory, Work::Write, name as u64, 1);
        }
        let finished = run(&mut queue, &mut target);
        assert_eq!(finished.len(), DISK_BLOCKS as usize);
        assert!(finished.iter().all(|(_, result)| result.is_ok()));
        assert!(target.disk == model, "seed {seed}: the disk differs");
        assert!(target.most_in_flight > 64, "seed {seed}: {} at once", target.most_in_flight);
    }
}

#[test]
fn a_request_fails_with_its_commands_first_error_and_the_rest_of_it_is_not_sent() {
    let mut random = StdRng::seed_from_u64(7);
    let (mut target, mut queue) = (Target::new(7), queue());
    // Medium error, unrecovered read, in the field's place.
    target.bad = Some((3, 2 << 9 | 0x81 << 1));
    queue.submit(Memory::of(0, &vec![0; DISK_BLOCKS as usize * BLOCK], &mut random), Work::Read, 0, DISK_BLOCKS);
    queue.submit(Memory::of(1, &vec![0; BLOCK], &mut random), Work::Read, 40, 1);
    let finished = run(&mut queue, &mut target);
    let of = |name: usize| finished.iter().find(|(memory, _)| memory.name == name).map(|(_, result)| *result);
    assert_eq!(of(0), Some(Err(Status { kind: 2, code: 0x81, do_not_retry: false })));
    assert_eq!(of(1), Some(Ok(())));
    let all = DISK_BLOCKS as usize * BLOCK / SETTINGS.limits.transfer_bytes as usize;
    assert!(target.commands.len() < all, "{} of {all} commands were sent", target.commands.len());
}

#[test]
fn requests_wait_for_the_connection_and_all_end_when_it_fails() {
    let mut random = StdRng::seed_from_u64(1);
    let mut target = Target::new(1);
    let mut queue: Queue<Memory> = Queue::new(SETTINGS);
    for name in 0..20 {
        queue.submit(Memory::of(name, &[1; 8 * BLOCK], &mut random), Work::Write, name as u64 * 8, 8);
    }
    let mut finished = Vec::new();
    assert!(!queue.poll(&mut target, &mut finished).expect("no connection, no error"));
    assert!(target.from_host.is_empty() && finished.is_empty());
    queue.connected(Layout::INITIAL, MAX_H2C_DATA);
    for _ in 0..5 {
        queue.poll(&mut target, &mut finished).expect("the target keeps to the protocol");
        target.serve();
    }
    let lost = Status { kind: 3, code: 0, do_not_retry: false };
    queue.fail(lost, &mut finished);
    assert!(queue.is_idle());
    let mut names: Vec<usize> = finished.iter().map(|(memory, _)| memory.name).collect();
    names.sort_unstable();
    assert_eq!(names, (0..20).collect::<Vec<_>>(), "each is answered once");
    assert!(finished.iter().all(|(_, result)| *result == Err(lost)));
}

/// What the target says, after a read or a write of eight blocks as command 0, and the field that is at fault.
fn violation_of(work: Work, said: &[Pdu]) -> String {
    let mut random = StdRng::seed_from_u64(3);
    let (mut target, mut queue) = (Target::new(3), queue());
    queue.submit(Memory::of(0, &[0; 8 * BLOCK], &mut random), work, 0, 8);
    let mut finished = Vec::new();
    while target.from_host.len() < 72 {
        queue.poll(&mut target, &mut finished).expect("nothing has been said");
    }
    target.deaf = true;
    for pdu in said {
        target.say(pdu.clone());
        target.to_host.extend(std::iter::repeat_n(0, pdu.data_length() as usize));
    }
    for _ in 0..10_000 {
        match queue.poll(&mut target, &mut finished) {
            Ok(_) => assert!(finished.is_empty(), "{said:?} ended the request"),
            Err(Broken::Protocol(violation)) => return format!("{} {}", violation.pdu, violation.field),
            Err(other) => return format!("{other:?}"),
        }
    }
    panic!("{said:?} was taken");
}

#[test]
fn what_the_specification_forbids_ends_the_connection_and_names_the_field() {
    let data = |command_id, offset, length, last, success| {
        Pdu::C2HData(DataHeader { command_id, tag: 0, offset, length, last, success })
    };
    let r2t = |command_id, offset, length| Pdu::R2T(ReadyToTransfer { command_id, tag: 1, offset, length });
    let success = |id: u16| {
        let mut entry = [0; 16];
        entry[12..14].copy_from_slice(&id.to_le_bytes());
        Pdu::CapsuleResp { entry }
    };
    let all = 8 * BLOCK as u32;
    let cases: [(Work, &[Pdu], &str); 15] = [
        (Work::Read, &[success(1)], "CapsuleResp CCCID"),
        (Work::Read, &[success(4)], "CapsuleResp CCCID"),
        (Work::Read, &[success(0)], "CapsuleResp Status"),
        (Work::Read, &[data(0, 0, 512, true, true)], "C2HData Status"),
        (Work::Read, &[data(0, 0, 512, false, true)], "C2HData FLAGS.SUCCESS"),
        (Work::Read, &[data(2, 0, 512, false, false)], "C2HData CCCID"),
        (Work::Read, &[data(0, 512, 512, false, false)], "C2HData DATAO"),
        (Work::Read, &[data(0, 0, all + 1, true, false)], "C2HData DATAL"),
        (Work::Read, &[r2t(0, 0, 512)], "R2T R2TL"),
        (Work::Write, &[data(0, 0, 512, true, false)], "C2HData DATAL"),
        (Work::Write, &[r2t(9, 0, 512)], "R2T CCCID"),
        (Work::Write, &[r2t(0, 512, 512)], "R2T R2TO"),
        (Work::Write, &[r2t(0, 0, all + 512)], "R2T R2TL"),
        (Work::Write, &[r2t(0, 0, 0)], "R2T R2TL"),
        (Work::Write, &[success(0)], "CapsuleResp Status"),
    ];
    for (work, said, field) in cases {
        assert_eq!(violation_of(work, said), field, "{work:?}: {said:?}");
    }
    // Before a byte of what the first asks for can have been sent.
    let twice = violation_of(Work::Write, &[r2t(0, 0, 512), r2t(0, 512, 512)]);
    assert_eq!(twice, "R2T TTAG");
    let early = violation_of(Work::Write, &[r2t(0, 0, all), success(0)]);
    assert_eq!(early, "CapsuleResp CCCID");
}
