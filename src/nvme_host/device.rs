//! The bdev of a namespace at another node: each thread that does I/O on it has a queue of its own, with its own connection.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::link::Link;
use super::queue::{Broken, Finished, Queue, RANGE_BYTES, Request, Settings, Work};
use crate::initiator::{InitiatorError, QueueSocket, Status};
use crate::spdk::bdev::IoKind;
use crate::spdk::poller::Poller;
use crate::spdk::vdev::{LegError, Vdev, Vio};
use crate::spdk::{Errno, OnThread};

/// "Internal path error": what I/O gets whose connection is gone (NVMe base specification, path related status).
const PATH_LOST: Status = Status { kind: 3, code: 0, do_not_retry: false };
/// "Invalid command opcode".
const NO_SUCH_COMMAND: Status = Status { kind: 0, code: 1, do_not_retry: true };

/// The device, shared by all threads.
pub(super) struct RemoteDevice {
    link: Arc<Link>,
    settings: Settings,
}

impl RemoteDevice {
    pub(super) fn new(link: Arc<Link>, settings: Settings) -> Self {
        Self { link, settings }
    }
}

type Io = Vio<RemoteDevice>;

impl Request for Io {
    fn data(&self, offset: usize) -> impl Iterator<Item = &[u8]> {
        Vio::data(self, offset)
    }

    fn room(&mut self, offset: usize) -> impl Iterator<Item = &mut [u8]> {
        Vio::room(self, offset)
    }
}

/// One thread's queue, and what polls it.
pub(super) struct Channel {
    line: Rc<Line>,
    _poller: Poller,
}

impl Channel {
    /// Ends all I/O with an error, also what comes from now on.
    pub(super) fn fail(&self) {
        self.line.end(None);
    }
}

/// A queue and its connection.
struct Line {
    link: Arc<Link>,
    queue: RefCell<Queue<Io>>,
    socket: RefCell<Socket>,
    /// Empty but during a poll; kept for its memory.
    finished: Cell<Vec<Finished<Io>>>,
}

enum Socket {
    /// Being connected on another thread.
    Coming(oneshot::Receiver<Result<QueueSocket, InitiatorError>>),
    Up(QueueSocket),
    Down,
}

impl Vdev for RemoteDevice {
    type Channel = Channel;
    type Io = ();
    const PRODUCT: &'static CStr = c"Corriente NVMe/TCP disk";

    fn supports(&self, kind: IoKind) -> bool {
        match kind {
            IoKind::Read | IoKind::Write | IoKind::Flush => true,
            IoKind::Unmap => self.settings.limits.deallocates && self.settings.limits.in_capsule_bytes >= RANGE_BYTES,
            IoKind::WriteZeroes => self.settings.limits.writes_zeroes,
            IoKind::Reset => false,
        }
    }

    fn open_channel(&self, on: OnThread) -> Result<Channel, Errno> {
        let line = Rc::new(Line {
            link: self.link.clone(),
            queue: RefCell::new(Queue::new(self.settings)),
            socket: RefCell::new(Socket::Coming(self.link.queue())),
            finished: Cell::default(),
        });
        let polled = line.clone();
        let poller = Poller::start(on, c"corriente_nvme_host", move || polled.poll())?;
        Ok(Channel { line, _poller: poller })
    }

    fn new_io(&self) {}

    fn submit(&self, channel: &Channel, io: Io) {
        let work = match io.kind() {
            IoKind::Read => Work::Read,
            IoKind::Write => Work::Write,
            IoKind::WriteZeroes => Work::WriteZeroes,
            IoKind::Unmap => Work::Deallocate,
            IoKind::Flush => Work::Flush,
            IoKind::Reset => return answer(io, Err(NO_SUCH_COMMAND)),
        };
        if channel.line.is_down() {
            return answer(io, Err(PATH_LOST));
        }
        let (first, blocks) = (io.offset_blocks(), io.block_count());
        channel.line.queue.borrow_mut().submit(io, work, first, blocks);
    }

    fn leg_done(&self, _: &Channel, (): &mut (), _: u8, _: Result<(), LegError>) {
        unreachable!("the device serves its I/O itself and forks none");
    }

    fn legs_done(&self, _: &Channel, _: Io) {
        unreachable!("the device serves its I/O itself and forks none");
    }
}

fn answer(io: Io, result: Result<(), Status>) {
    match result {
        Ok(()) => io.succeed(),
        Err(status) => io.fail_with(status.kind.into(), status.code.into()),
    }
}

impl Line {
    fn is_down(&self) -> bool {
        matches!(*self.socket.borrow(), Socket::Down)
    }

    /// One turn. True if there was anything to do.
    fn poll(&self) -> bool {
        if self.link.is_down() {
            return self.end(None);
        }
        let mut finished = self.finished.take();
        let polled = self.turn(&mut finished);
        let worked = !finished.is_empty() || !matches!(polled, Ok(false));
        self.answer_all(finished);
        if let Err(error) = polled {
            self.end(Some(error));
        }
        worked
    }

    fn turn(&self, finished: &mut Vec<Finished<Io>>) -> Result<bool, InitiatorError> {
        let mut socket = self.socket.borrow_mut();
        if let Socket::Coming(coming) = &mut *socket {
            match coming.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return Ok(false),
                Ok(Ok(connected)) => {
                    let agreed = connected.agreed;
                    self.queue.borrow_mut().connected(agreed.layout, agreed.max_h2c_data);
                    *socket = Socket::Up(connected);
                }
                Ok(Err(error)) => return Err(error),
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err(InitiatorError::Disconnected { peer: self.link.peer() });
                }
            }
        }
        let Socket::Up(QueueSocket { stream, .. }) = &mut *socket else { return Ok(false) };
        let mut queue = self.queue.borrow_mut();
        if queue.is_idle() {
            // The admin connection notices when the peer goes.
            return Ok(false);
        }
        queue.poll(stream, finished).map_err(|broken| {
            let peer = self.link.peer();
            match broken {
                Broken::Protocol(violation) => InitiatorError::Protocol { peer, violation },
                Broken::Terminated(problem) => InitiatorError::Terminated { peer, problem },
                Broken::Closed(problem) => InitiatorError::PeerClosed { peer, problem },
            }
        })
    }

    /// Closes the connection and ends all I/O with an error. With a reason the whole controller ends. False if it was over.
    fn end(&self, reason: Option<InitiatorError>) -> bool {
        if self.is_down() {
            return false;
        }
        self.socket.replace(Socket::Down);
        if let Some(reason) = reason {
            self.link.broke(reason);
        }
        let mut finished = self.finished.take();
        self.queue.borrow_mut().fail(PATH_LOST, &mut finished);
        self.answer_all(finished);
        true
    }

    /// Answers, which may bring new I/O at once: nothing of the line is borrowed here.
    fn answer_all(&self, mut finished: Vec<Finished<Io>>) {
        for (io, result) in finished.drain(..) {
            answer(io, result);
        }
        self.finished.set(finished);
    }
}
