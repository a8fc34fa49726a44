//! A small NVMe/TCP target for one test: a memory disk behind enough of the protocol, and a way to misbehave.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use corriente::initiator::pdu::{
    DataHeader, Digests, InitializeResponse, Layout, PREAMBLE_BYTES, Pdu, Preamble, ReadyToTransfer, digest::crc32c,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

pub const BLOCK: usize = 512;
/// The most data that one H2CData PDU may have, and that one R2T asks for.
pub const MAX_H2C_DATA: u32 = 4096;
const R2T_BYTES: usize = 10 * 1024;

pub const OPCODE_WRITE: u8 = 0x01;
pub const OPCODE_READ: u8 = 0x02;
pub const OPCODE_FLUSH: u8 = 0x00;

/// What the target does with an I/O command instead of serving it.
#[derive(Clone)]
pub enum Fault {
    /// Completes it with this status field.
    Status(u16),
    /// Closes all connections.
    Die,
    /// Never answers.
    Silence,
    /// Sends these bytes; bytes 8 and 9 become the command's identifier if asked for.
    Raw { bytes: Vec<u8>, with_id: bool },
    /// Serves a read with a wrong data digest.
    BadDigest,
}

/// How the target behaves, and what it saw.
#[derive(Default)]
pub struct State {
    pub disk: Mutex<Vec<u8>>,
    /// By opcode of the I/O command.
    pub faults: Mutex<HashMap<u8, Fault>>,
    /// Accepts connections but never says a word.
    pub mute: bool,
    /// End reads with the SUCCESS flag instead of a response.
    pub success_flag: bool,
    pub in_capsule_bytes: usize,
    pub in_capsule_writes: AtomicUsize,
    pub requests: AtomicUsize,
    pub keep_alives: AtomicUsize,
    pub configuration: AtomicU64,
    pub die: Notify,
    pub shut_down: Notify,
    pub event: Notify,
}

pub struct Target {
    pub address: SocketAddr,
    pub state: Arc<State>,
}

impl Target {
    pub async fn start(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(state);
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move {
                    let served = Queue::new(stream, state.clone());
                    tokio::select! {
                        _ = served.serve() => {}
                        () = state.die.notified() => {}
                    }
                });
            }
        });
        Self { address, state }
    }

    /// A target with a disk of so many blocks.
    pub async fn with_blocks(blocks: usize) -> Self {
        Self::start(state(blocks)).await
    }

    pub fn fault(&self, opcode: u8, fault: Fault) {
        self.state.faults.lock().unwrap().insert(opcode, fault);
    }

    pub fn heal(&self) {
        self.state.faults.lock().unwrap().clear();
    }
}

pub fn state(blocks: usize) -> State {
    State { disk: Mutex::new(vec![0; blocks * BLOCK]), in_capsule_bytes: 4096, ..State::default() }
}

/// A write whose data come on request.
struct Write {
    start: usize,
    data: Vec<u8>,
    received: usize,
}

struct Queue {
    stream: TcpStream,
    state: Arc<State>,
    layout: Layout,
    admin: bool,
    writes: HashMap<u16, Write>,
    event_requests: VecDeque<u16>,
}

impl Queue {
    fn new(stream: TcpStream, state: Arc<State>) -> Self {
        let (writes, event_requests) = (HashMap::new(), VecDeque::new());
        Self { stream, state, layout: Layout::INITIAL, admin: true, writes, event_requests }
    }

    /// Until the host goes away or something is not as it should be.
    async fn serve(mut self) -> Option<()> {
        if self.state.mute {
            std::future::pending::<()>().await;
        }
        let state = self.state.clone();
        loop {
            let mut raw = [0; PREAMBLE_BYTES];
            tokio::select! {
                read = self.stream.read_exact(&mut raw) => { read.ok()?; }
                () = state.shut_down.notified(), if !self.admin => return None,
                () = state.event.notified(), if !self.event_requests.is_empty() => {
                    // Notice, namespace attributes changed, log page 4.
                    let id = self.event_requests.pop_front()?;
                    self.complete(id, 0x02 | 0x04 << 16, 0).await?;
                    continue;
                }
            }
            let preamble = Preamble::decode(raw, self.layout.digests).unwrap();
            let mut rest = vec![0; preamble.rest()];
            self.stream.read_exact(&mut rest).await.ok()?;
            let pdu = preamble.finish(&rest).unwrap();
            let mut data = vec![0; pdu.data_length() as usize];
            self.stream.read_exact(&mut data).await.ok()?;
            if preamble.data_digest() {
                assert_eq!(self.stream.read_u32_le().await.ok()?, crc32c(&data), "data digest of the host");
            }
            match pdu {
                Pdu::IcReq(request) => {
                    let digests = request.digests;
                    let response = InitializeResponse { version: 0, alignment: 0, digests, max_h2c_data: MAX_H2C_DATA };
                    self.send(Pdu::IcResp(response), &[]).await?;
                    self.layout = Layout::new(digests, 0);
                }
                Pdu::CapsuleCmd { entry, .. } => self.command(&entry, data).await?,
                Pdu::H2CData(header) => self.host_data(header, &data).await?,
                other => panic!("a host does not send {other:?}"),
            }
        }
    }

    async fn command(&mut self, entry: &[u8; 64], data: Vec<u8>) -> Option<()> {
        let id = u16::from_le_bytes([entry[2], entry[3]]);
        match entry[0] {
            0x7F => self.fabrics(entry, id, &data).await,
            opcode if self.admin => self.admin_command(opcode, entry, id).await,
            opcode => {
                let fault = self.state.faults.lock().unwrap().get(&opcode).cloned();
                match fault {
                    Some(fault) if !matches!(fault, Fault::BadDigest) => self.misbehave(fault, id).await,
                    fault => self.io(opcode, entry, id, data, fault.is_some()).await,
                }
            }
        }
    }

    async fn misbehave(&mut self, fault: Fault, id: u16) -> Option<()> {
        match fault {
            Fault::Status(status) => self.complete(id, 0, status).await,
            Fault::Die => {
                self.state.die.notify_waiters();
                None
            }
            Fault::Silence | Fault::BadDigest => Some(()),
            Fault::Raw { mut bytes, with_id } => {
                if with_id {
                    let at = if bytes[0] == 0x05 { 20 } else { 8 };
                    bytes[at..at + 2].copy_from_slice(&id.to_le_bytes());
                }
                self.stream.write_all(&bytes).await.ok()
            }
        }
    }

    async fn fabrics(&mut self, entry: &[u8; 64], id: u16, data: &[u8]) -> Option<()> {
        let configuration = &self.state.configuration;
        let result = match (entry[4], entry[44]) {
            (0x01, _) => {
                self.admin = entry[42] == 0;
                if data[256..].starts_with(b"nqn.test:forbidden\0") {
                    return self.complete(id, 0, 0x84 << 1 | 1 << 9).await;
                }
                7
            }
            // CAP: 128 entries; CSTS: ready when enabled, shut down when asked to.
            (0x04, 0x00) => 127,
            (0x04, 0x1C) => match configuration.load(Ordering::SeqCst) {
                configuration if configuration >> 14 & 3 != 0 => 1 | 2 << 2,
                configuration => configuration & 1,
            },
            (0x00, 0x14) => {
                let value = u32::from_le_bytes(entry[48..52].try_into().unwrap());
                configuration.store(value.into(), Ordering::SeqCst);
                if value >> 14 & 3 != 0 {
                    // As SPDK 24.09 does: I/O queues end with the shutdown, and the host sees it before the answer.
                    self.state.shut_down.notify_waiters();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                0
            }
            other => panic!("unexpected fabrics command {other:?}"),
        };
        self.complete(id, result, 0).await
    }

    async fn admin_command(&mut self, opcode: u8, entry: &[u8; 64], id: u16) -> Option<()> {
        let page = match (opcode, entry[40]) {
            (0x06, what) => self.identify(what),
            (0x02, 0x70) => discovery_page(entry),
            (0x02, 0x04) => {
                let mut list = vec![0; 4096];
                list[0] = 1;
                list
            }
            (0x09, 0x07) => {
                let granted = u32::from_le_bytes(entry[44..48].try_into().unwrap());
                return self.complete(id, granted.into(), 0).await;
            }
            (0x09, _) => return self.complete(id, 0, 0).await,
            (0x0C, _) => {
                self.event_requests.push_back(id);
                return Some(());
            }
            (0x18, _) => {
                self.state.keep_alives.fetch_add(1, Ordering::SeqCst);
                return self.complete(id, 0, 0).await;
            }
            other => panic!("unexpected admin command {other:?}"),
        };
        self.give(id, &page, false).await
    }

    fn identify(&self, what: u8) -> Vec<u8> {
        let mut page = vec![0; 4096];
        match what {
            0x00 => {
                let blocks = (self.state.disk.lock().unwrap().len() / BLOCK) as u64;
                page[..8].copy_from_slice(&blocks.to_le_bytes());
                page[104..120].copy_from_slice(&[0xAB; 16]);
                page[130] = 9;
            }
            0x01 => {
                page[77] = 4; // 64 KiB a command
                page[93] = 1; // namespace attribute notices
                page[520] = 0b1100;
                let capsule = (64 + self.state.in_capsule_bytes as u32) / 16;
                page[1792..1796].copy_from_slice(&capsule.to_le_bytes());
            }
            0x02 => page[0] = 1,
            _ => {
                page[..2].copy_from_slice(&[3, 16]);
                page[4..20].copy_from_slice(&[0xCD; 16]);
            }
        }
        page
    }

    async fn io(&mut self, opcode: u8, entry: &[u8; 64], id: u16, data: Vec<u8>, bad_digest: bool) -> Option<()> {
        let start = u64::from_le_bytes(entry[40..48].try_into().unwrap()) as usize * BLOCK;
        let length = (usize::from(u16::from_le_bytes([entry[48], entry[49]])) + 1) * BLOCK;
        match opcode {
            OPCODE_READ => {
                let data = self.state.disk.lock().unwrap()[start..start + length].to_vec();
                return self.give(id, &data, bad_digest).await;
            }
            OPCODE_WRITE if data.is_empty() => {
                self.writes.insert(id, Write { start, data: vec![0; length], received: 0 });
                return self.ask(id).await;
            }
            OPCODE_WRITE => {
                assert_eq!(data.len(), length);
                self.state.in_capsule_writes.fetch_add(1, Ordering::SeqCst);
                self.state.disk.lock().unwrap()[start..start + length].copy_from_slice(&data);
            }
            0x08 => self.state.disk.lock().unwrap()[start..start + length].fill(0),
            0x09 => {
                let blocks = u32::from_le_bytes(data[4..8].try_into().unwrap()) as usize;
                let start = u64::from_le_bytes(data[8..16].try_into().unwrap()) as usize * BLOCK;
                self.state.disk.lock().unwrap()[start..start + blocks * BLOCK].fill(0xDE);
            }
            _ => assert_eq!(opcode, OPCODE_FLUSH),
        }
        self.complete(id, 0, 0).await
    }

    /// Asks for the next part of a write.
    async fn ask(&mut self, id: u16) -> Option<()> {
        self.state.requests.fetch_add(1, Ordering::SeqCst);
        let write = &self.writes[&id];
        let length = R2T_BYTES.min(write.data.len() - write.received) as u32;
        let request = ReadyToTransfer { command_id: id, tag: id ^ 0x5555, offset: write.received as u32, length };
        self.send(Pdu::R2T(request), &[]).await
    }

    async fn host_data(&mut self, header: DataHeader, data: &[u8]) -> Option<()> {
        let id = header.command_id;
        assert!(header.length <= MAX_H2C_DATA);
        assert_eq!(header.tag, id ^ 0x5555);
        let write = self.writes.get_mut(&id).unwrap();
        assert_eq!(header.offset as usize, write.received);
        write.data[write.received..write.received + data.len()].copy_from_slice(data);
        write.received += data.len();
        if !header.last {
            return Some(());
        }
        if write.received < write.data.len() {
            return self.ask(id).await;
        }
        let write = self.writes.remove(&id).unwrap();
        self.state.disk.lock().unwrap()[write.start..write.start + write.data.len()].copy_from_slice(&write.data);
        self.complete(id, 0, 0).await
    }

    /// Sends a command's data in two parts, and its end.
    async fn give(&mut self, id: u16, data: &[u8], bad_digest: bool) -> Option<()> {
        let success = self.state.success_flag;
        let (first, second) = data.split_at(data.len() / 2);
        for (offset, part, last) in [(0, first, false), (first.len(), second, true)] {
            let length = part.len() as u32;
            let header =
                DataHeader { command_id: id, tag: 0, offset: offset as u32, length, last, success: last && success };
            let mut bytes = Pdu::C2HData(header).encode(&self.layout);
            bytes.extend_from_slice(part);
            if self.layout.digests.data {
                bytes.extend_from_slice(&(crc32c(part) ^ u32::from(bad_digest)).to_le_bytes());
            }
            self.stream.write_all(&bytes).await.ok()?;
        }
        if success { Some(()) } else { self.complete(id, 0, 0).await }
    }

    async fn complete(&mut self, id: u16, result: u64, status: u16) -> Option<()> {
        self.send(Pdu::CapsuleResp { entry: completion(id, result, status) }, &[]).await
    }

    async fn send(&mut self, pdu: Pdu, data: &[u8]) -> Option<()> {
        let mut bytes = pdu.encode(&self.layout);
        bytes.extend_from_slice(data);
        self.stream.write_all(&bytes).await.ok()
    }
}

pub fn completion(id: u16, result: u64, status: u16) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[..8].copy_from_slice(&result.to_le_bytes());
    entry[12..14].copy_from_slice(&id.to_le_bytes());
    entry[14..].copy_from_slice(&status.to_le_bytes());
    entry
}

/// A header and one entry.
fn discovery_page(entry: &[u8; 64]) -> Vec<u8> {
    let mut log = vec![0; 2048];
    log[0] = 5;
    log[8] = 1;
    log[1024] = 3;
    log[1026] = 2;
    log[1056..1060].copy_from_slice(b"4420");
    log[1280..1293].copy_from_slice(b"nqn.test:disk");
    log[1536..1545].copy_from_slice(b"127.0.0.1");
    let offset = u64::from_le_bytes(entry[48..56].try_into().unwrap()) as usize;
    let length = (usize::from(u16::from_le_bytes([entry[42], entry[43]])) + 1) * 4;
    log[offset..offset + length].to_vec()
}

pub const NO_DIGESTS: Digests = Digests { header: false, data: false };
pub const ALL_DIGESTS: Digests = Digests { header: true, data: true };
