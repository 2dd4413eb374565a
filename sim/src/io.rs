//! The simulated [`Io`]: the production shard's only window to the world. It decides nothing: a [`Port`] shared with the
//! engine holds what arrived and what the shard asked for; the engine carries it out after each turn.

use crate::history::KIND_OFFSET;
use crate::node::node_at;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use synod::shard::jobs::{Done, Job, MAX_JOBS};
use synod_ring::{Arena, BlockFile, Event, FILE_SLOTS, FileSlot, Io, IoError, Loan, RxBuf, Slice, Socket};
use synod_wire::frame::Kind;

/// Receive buffers of each socket.
pub(crate) const RX_BUFFERS: usize = 128;
/// Events that one poll hands out.
pub(crate) const MAX_EVENTS: usize = 64;

/// Something that waits for the shard's next poll.
pub(crate) enum Arrival {
    Datagram { socket: Socket, from: Option<SocketAddrV4>, bytes: Rc<[u8]> },
    Written { token: u64, result: Result<usize, i32> },
    Done(Done),
    Overrun(Socket),
}

/// Something that the shard asked for.
pub(crate) enum Request {
    Peer { peer: usize, bytes: Rc<[u8]> },
    Client { to: SocketAddrV4, bytes: Rc<[u8]> },
    Write { file: Arc<dyn BlockFile>, offset: u64, bytes: Rc<[u8]>, token: u64 },
    Job(Job),
}

/// What engine and shard share.
#[derive(Default)]
pub(crate) struct Port {
    pub(crate) inbox: VecDeque<Arrival>,
    pub(crate) requests: Vec<Request>,
    /// Datagrams in the inbox, by socket: they occupy receive buffers.
    pub(crate) waiting: [usize; 2],
    pub(crate) now_ns: u64,
    pub(crate) wall_ns: u64,
    /// For how long the process stands still once it has read the clocks for its turn: what it reads later shows it.
    pub(crate) stalled_ns: u64,
    pub(crate) jobs_out: usize,
    /// Completions are held back: a turn finds nothing.
    pub(crate) withheld: bool,
}

pub(crate) fn socket_index(socket: Socket) -> usize {
    match socket {
        Socket::Peers => 0,
        Socket::Clients => 1,
    }
}

/// See the module.
pub(crate) struct SimIo {
    port: Rc<RefCell<Port>>,
    now_ns: u64,
    wall_ns: u64,
    stalled_ns: u64,
    buffers: Vec<Option<Rc<[u8]>>>,
    free: Vec<u16>,
    files: [Option<Arc<dyn BlockFile>>; FILE_SLOTS as usize],
    max_datagram_bytes: usize,
    /// The table of peers: the node at each index.
    peers: Vec<usize>,
    /// Where the log's arena lies.
    log: Range<*const u8>,
    /// Datagrams queued since the last poll: the memory, and what was in it then.
    sent: Vec<(Loan, Rc<[u8]>)>,
    /// Log writes that have not ended: token, slot of the file, memory, and what was in it at the start.
    written: Vec<(u64, FileSlot, Loan, Rc<[u8]>)>,
}

impl SimIo {
    pub(crate) fn new(port: Rc<RefCell<Port>>, max_datagram_bytes: usize, log: &Arena, peers: Vec<usize>) -> SimIo {
        let (now_ns, wall_ns) = (port.borrow().now_ns, port.borrow().wall_ns);
        SimIo {
            port,
            now_ns,
            wall_ns,
            stalled_ns: 0,
            buffers: vec![None; 2 * RX_BUFFERS],
            free: (0..2 * RX_BUFFERS as u16).rev().collect(),
            files: Default::default(),
            max_datagram_bytes,
            peers,
            log: log.get(0, log.len()).as_ptr_range(),
            sent: Vec::new(),
            written: Vec::new(),
        }
    }

    /// What was handed over must not change before the kernel has it (ring/src/lib.rs, "Who owns which bytes when").
    fn check_sent(&mut self) {
        for (loan, bytes) in self.sent.drain(..) {
            // SAFETY: the shard, in this thread, is within `poll`, and holds no borrow of its arenas.
            let now = unsafe { loan.bytes() };
            assert!(now == &*bytes, "bytes of a datagram changed before it was sent");
        }
    }

    /// A payload is copied once, from the datagram into the log's arena: what asks for a vote, and what is written, are those bytes.
    fn check_is_of_log(&self, bytes: &[u8]) {
        let of = bytes.as_ptr_range();
        assert!(self.log.start <= of.start && of.end <= self.log.end, "bytes of the log that do not lie in its arena");
    }

    /// The same for a log write, up to its end.
    fn check_written(&mut self, token: u64) {
        let at = self.written.iter().position(|(running, ..)| *running == token).expect("a write that runs");
        let (_, _, loan, before) = self.written.swap_remove(at);
        // SAFETY: as in `check_sent`.
        let now = unsafe { loan.bytes() };
        assert!(now == &*before, "bytes of a log write changed while it ran");
    }

    fn receive(&mut self, socket: Socket, from: Option<SocketAddrV4>, bytes: Rc<[u8]>) -> Event<Done> {
        let id = self.free.pop().expect("the engine delivers no more datagrams than there are buffers");
        let len = bytes.len().min(self.max_datagram_bytes);
        let cut = len < bytes.len();
        self.buffers[usize::from(id)] = Some(bytes);
        Event::Datagram { buf: RxBuf { id, socket, start: 0, len: len as u32, cut }, from }
    }
}

impl Io for SimIo {
    type Job = Job;
    type Done = Done;

    fn poll(&mut self, _deadline_ns: u64, _eager: bool, events: &mut Vec<Event<Done>>) -> Result<(), IoError> {
        assert_eq!(self.free.len(), self.buffers.len(), "each datagram's buffer is released in the turn it came");
        self.check_sent();
        let port = self.port.clone();
        let mut port = port.borrow_mut();
        let most = if port.withheld { 0 } else { MAX_EVENTS };
        for _ in 0..most {
            let Some(arrival) = port.inbox.pop_front() else { break };
            events.push(match arrival {
                Arrival::Datagram { socket, from, bytes } => {
                    port.waiting[socket_index(socket)] -= 1;
                    self.receive(socket, from, bytes)
                }
                Arrival::Written { token, result } => {
                    self.check_written(token);
                    Event::Written { token, result }
                }
                Arrival::Done(done) => {
                    port.jobs_out -= 1;
                    Event::Done(done)
                }
                Arrival::Overrun(socket) => Event::Overrun(socket),
            });
        }
        assert!(port.now_ns >= self.now_ns, "the monotonic clock ran backwards");
        (self.now_ns, self.wall_ns, self.stalled_ns) = (port.now_ns, port.wall_ns, port.stalled_ns);
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn stage_ns(&self) -> u64 {
        self.now_ns + self.stalled_ns
    }

    fn wall_ns(&self) -> u64 {
        self.wall_ns
    }

    fn datagram(&self, buf: &RxBuf) -> &[u8] {
        let bytes = self.buffers[usize::from(buf.id)].as_ref().expect("a buffer that was released");
        &bytes[..buf.len as usize]
    }

    fn release(&mut self, buf: RxBuf) {
        assert!(self.buffers[usize::from(buf.id)].take().is_some(), "a buffer is released once");
        self.free.push(buf.id);
    }

    fn set_peer(&mut self, peer: usize, at: SocketAddrV4) -> Result<(), IoError> {
        let node = node_at(at).expect("a peer is a node");
        match self.peers.get_mut(peer) {
            Some(place) => *place = node,
            None => {
                assert_eq!(peer, self.peers.len(), "peers are added one after the other");
                self.peers.push(node);
            }
        }
        Ok(())
    }

    fn send_peer(&mut self, peer: usize, bytes: Slice<'_>) {
        let peer = self.peers[peer];
        if bytes.bytes().get(KIND_OFFSET) == Some(&(Kind::Accept as u8)) {
            self.check_is_of_log(bytes.bytes());
        }
        let mut port = self.port.borrow_mut();
        // A frame goes to one peer after the other: one copy for all of them.
        let same = match port.requests.last() {
            Some(Request::Peer { bytes: last, .. }) if **last == *bytes.bytes() => Some(last.clone()),
            _ => None,
        };
        let copy = same.unwrap_or_else(|| bytes.bytes().into());
        self.sent.push((bytes.lend(), copy.clone()));
        port.requests.push(Request::Peer { peer, bytes: copy });
    }

    fn send_client(&mut self, to: SocketAddrV4, bytes: Slice<'_>) {
        let copy: Rc<[u8]> = bytes.bytes().into();
        self.sent.push((bytes.lend(), copy.clone()));
        self.port.borrow_mut().requests.push(Request::Client { to, bytes: copy });
    }

    fn attach(&mut self, slot: FileSlot, file: Arc<dyn BlockFile>) -> Result<(), IoError> {
        assert!(self.written.iter().all(|(_, of, ..)| *of != slot), "a segment that is written to lost its slot");
        self.files[usize::from(slot.0)] = Some(file);
        Ok(())
    }

    fn write(&mut self, slot: FileSlot, offset: u64, bytes: Slice<'_>, token: u64) {
        self.check_is_of_log(bytes.bytes());
        let file = self.files[usize::from(slot.0)].clone().expect("a write to a segment that was attached");
        let copy: Rc<[u8]> = bytes.bytes().into();
        self.written.push((token, slot, bytes.lend(), copy.clone()));
        self.port.borrow_mut().requests.push(Request::Write { file, offset, bytes: copy, token });
    }

    fn request(&mut self, job: Job) -> Result<(), Job> {
        let mut port = self.port.borrow_mut();
        if port.jobs_out == MAX_JOBS {
            return Err(job);
        }
        port.jobs_out += 1;
        port.requests.push(Request::Job(job));
        Ok(())
    }
}
