//! The reactor on io_uring: [`crate::Io`] as the kernel does it best.
//!
//! One ring, made on the thread that runs it and used by that thread alone (SINGLE_ISSUER, DEFER_TASKRUN: completions run when
//! this thread enters the kernel, never in between; TASKRUN_FLAG: a word in shared memory says when that is worth while). Two
//! sockets, each with one multishot receive into a ring of buffers of its own; sends whose success makes no completion; log
//! writes from a registered arena with RWF_DSYNC, or by a thread of its own (see [`crate::writer`], [`choice`]); a read of an eventfd
//! for wakes by other threads. Called by: the shard, through `Io`. May touch: everything that a [`Settings`] names, and nothing else.
//!
//! # Who owns which bytes when
//! - *Receive buffers*: see [`receive`]. Bytes are shown only while the shard holds the buffer.
//! - *Sent bytes and their addresses* are read by the kernel inside of the `io_uring_enter` that submits them, and not after:
//!   there is no SQPOLL thread and no ASYNC, LINK or DRAIN flag, so that each submission is tried on the spot; and MSG_DONTWAIT
//!   marks it as one that must not wait (the kernel's REQ_F_NOWAIT), so that a full socket buffer is an EAGAIN for the sender,
//!   where the kernel would otherwise arm a poll, or hand the request to a worker, and read the bytes later. A poll does not
//!   return before the kernel took every submission, see [`UringIo::turn`]. Hence the rule of `Io`: unchanged until the next
//!   poll returns.
//! - *Log writes* are read until their completion, from the log arena, whose pages the kernel pinned when it was registered (or
//!   pins for each write, where it may not keep so many);
//!   the log-writer thread holds a reference to it.
//! - *Both arenas* are kept by reference count. A slice of any other arena is refused by assertion: nothing would keep it.
//!
//! # Going down
//! [`UringIo::close`], or dropping the reactor, cancels the receives, waits for the writes and for everything else to end, takes
//! files and buffers out of the ring, and closes it; only then is memory unmapped. If the disk does not answer in
//! [`CLOSE_WAIT`], the memory that the kernel might still write to is given up (leaked) rather than unmapped.

mod choice;
mod close;
mod complete;
mod enter;
mod receive;
mod setup;

pub(crate) use setup::probe_with;
pub use setup::{Features, probe};

use crate::arena::{Mapping, kept};
use crate::buffers::{Piece, ReceiveMemory};
use crate::giveway::GiveWay;
use crate::port::Port;
use crate::settings::{LogWriter, Settings, Stats};
use crate::socket::{self, ADDRESS_BYTES, UdpSocket, sockaddr};
use crate::trains::Trains;
use crate::wait::{Step, Waiter};
use crate::wake::Waker;
use crate::writer::{LogThreadGot, Writers};
use crate::writes::{Route, Write, Writes};
use crate::{Arena, BlockFile, Event, FILE_SLOTS, FileSlot, Io, IoError, Reactor, RxBuf, Slice, Socket, clock};
use choice::Choice;
use enter::Ring;
use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use receive::RxPool;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

/// Places in the ring's table of files.
const FILE_PEERS: types::Fixed = types::Fixed(0);
const FILE_CLIENTS: types::Fixed = types::Fixed(1);
const FILE_WAKE: types::Fixed = types::Fixed(2);
const FILE_LOG_FIRST: u32 = 3;
const FILES: usize = FILE_LOG_FIRST as usize + FILE_SLOTS as usize;

/// The log arena's place in the ring's table of buffers.
const BUFFER_LOG: u16 = 0;
/// The largest piece of memory that the kernel registers as one buffer.
const REGISTERED_MAX_BYTES: usize = 1 << 30;

/// Memory besides buffers that requests point to while they are in flight.
struct Scratch {
    /// How datagrams are received together with what the kernel knows of them; only the lengths in it matter.
    message: libc::msghdr,
    /// Where the eventfd's counter goes.
    wake_count: UnsafeCell<u64>,
}

/// The reactor. Lives and dies on the thread that made it.
pub struct UringIo<J, D> {
    // First, so that it is closed before any memory below is let go.
    ring: Ring,
    rx: [RxPool; 2],
    /// Datagrams that came together and that the last poll had no room for.
    rest: Option<Piece>,
    scratch: Rc<Scratch>,
    log: Arc<Mapping>,
    send: Arc<Mapping>,
    sockets: [UdpSocket; 2],
    peers: Box<[libc::sockaddr_in]>,
    /// Addresses of the clients that submissions not taken yet go to, one place for each submission that fits.
    clients: Box<[libc::sockaddr_in]>,
    clients_next: usize,
    napi: Result<(), i32>,
    receive_offload: Result<(), i32>,
    /// The log arena is registered, which keeps it in memory.
    locked: Result<(), i32>,
    trains: Trains,
    /// Several datagrams to one receiver go in one submission, from the members' socket and from the clients'.
    segmentation: [bool; 2],
    writes: Writes,
    choice: Choice,
    /// The log-writer threads, unless all writes go through the ring.
    writers: Writers,
    files: [Option<Arc<dyn BlockFile>>; FILE_SLOTS as usize],
    wake_armed: bool,
    port: Port<J, D>,
    /// Answers may be waiting in the port.
    answers: bool,
    /// Ended writes may be waiting in the writer's port.
    written: bool,
    waiter: Waiter,
    way: GiveWay,
    max_events: usize,
    now_ns: u64,
    wall_ns: u64,
    stats: Stats,
    /// What broke where no error could be returned; the next poll does.
    failed: Option<IoError>,
    closed: bool,
    /// SINGLE_ISSUER: the kernel refuses any other thread.
    _one_thread: PhantomData<*const ()>,
}

impl<J: Send, D: Send> UringIo<J, D> {
    /// Makes a reactor, to be used by this thread.
    pub fn new(
        settings: Settings,
        receive: ReceiveMemory,
        log_arena: &Arena,
        send_arena: &Arena,
        port: Port<J, D>,
    ) -> Result<Self, IoError> {
        settings.check()?;
        check_log_arena(log_arena)?;
        let open = |address| socket::open(address, settings.socket_buffer_bytes, settings.dont_fragment);
        let sockets = [open(settings.peers_listen)?, open(settings.clients_listen)?];
        let receive_offload = if settings.receive_offload { socket::receive_offload(&sockets) } else { Ok(()) };
        let offload = settings.receive_offload && receive_offload.is_ok();
        let pool = |socket, memory| RxPool::new(socket, &settings, offload, memory);
        let ReceiveMemory([peers, clients]) = receive;
        let rx = [pool(Socket::Peers, peers)?, pool(Socket::Clients, clients)?];
        let (log, send) = (log_arena.mapping(), send_arena.mapping());

        let (ring, _) = setup::open(settings.sq_entries, settings.cq_entries)?;
        setup::check_features(&ring)?;
        setup::check_opcodes(&ring)?;
        let ring = Ring::new(ring);
        register(&ring, &rx, &sockets, port.wake().event().as_raw_fd())?;
        let locked = register_log(&ring, &log)?;
        let napi = setup::busy_poll(&ring, settings.napi_busy_poll_us);
        let writers = match settings.log_writer {
            LogWriter::Ring => Writers::none(),
            LogWriter::Thread(thread) | LogWriter::Auto(thread) => {
                Writers::start(settings.log_threads, thread, &log, &port)?
            }
        };

        let stats = Stats {
            receive_buffer_bytes_peers: sockets[0].receive_buffer_bytes as u64,
            receive_buffer_bytes_clients: sockets[1].receive_buffer_bytes as u64,
            ..Stats::default()
        };
        let nowhere = sockaddr(SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0));
        Ok(UringIo {
            clients: vec![nowhere; ring.sq_entries() as usize].into_boxed_slice(),
            ring,
            rx,
            rest: None,
            scratch: Rc::new(Scratch::new(offload)),
            log,
            send,
            sockets,
            peers: settings.peers.iter().map(|address| sockaddr(*address)).collect(),
            clients_next: 0,
            napi,
            receive_offload,
            locked,
            trains: Trains::new(),
            segmentation: [settings.segmentation; 2],
            writes: Writes::new(),
            choice: Choice::new(&settings.log_writer),
            writers,
            files: Default::default(),
            wake_armed: false,
            port,
            answers: false,
            written: false,
            waiter: Waiter::new(settings.wait),
            way: GiveWay::new(),
            max_events: settings.max_events,
            now_ns: clock::monotonic_ns(),
            wall_ns: clock::wall_ns(),
            stats,
            failed: None,
            closed: false,
            _one_thread: PhantomData,
        })
    }

    /// Wakes this reactor from other threads.
    pub fn waker(&self) -> Waker {
        Waker::new(self.port.wake().clone())
    }

    /// Whether the kernel polls the network cards' queues as asked; the errno if it does not. Fine if that was not asked.
    pub fn napi_busy_poll(&self) -> Result<(), i32> {
        self.napi
    }

    /// Whether the kernel hands datagrams out several at once as asked; the errno if it does not. Fine if that was not asked.
    pub fn receive_offload(&self) -> Result<(), i32> {
        self.receive_offload
    }

    /// Whether the log arena is registered with the kernel, which keeps it in memory; the errno if the kernel refuses.
    pub fn log_locked(&self) -> Result<(), i32> {
        self.locked
    }

    /// What the kernel let the log-writer threads have, if there are any: they all ask for the same.
    pub fn log_thread(&self) -> Option<LogThreadGot> {
        self.writers.got()
    }

    /// Where members' datagrams come in: the address asked for, with the port that the kernel chose if that was 0.
    pub fn peers_address(&self) -> SocketAddrV4 {
        self.sockets[0].address
    }

    /// Where clients' datagrams come in, likewise.
    pub fn clients_address(&self) -> SocketAddrV4 {
        self.sockets[1].address
    }

    /// Changes where members listen, index by index as in [`Settings::peers`].
    pub fn set_peers(&mut self, peers: &[SocketAddrV4]) -> Result<(), IoError> {
        // Submissions that point into the old table must be gone.
        self.submit_all()?;
        self.peers = peers.iter().map(|address| sockaddr(*address)).collect();
        Ok(())
    }
}

impl Scratch {
    fn new(offload: bool) -> Scratch {
        // SAFETY: all bytes zero is a valid msghdr: no name, no pieces, no control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        let (control_bytes, name_bytes) = receive::header_lengths(offload);
        message.msg_controllen = control_bytes as _;
        message.msg_namelen = name_bytes as libc::socklen_t;
        Scratch { message, wake_count: UnsafeCell::new(0) }
    }
}

fn check_log_arena(log_arena: &Arena) -> Result<(), IoError> {
    if log_arena.len() <= REGISTERED_MAX_BYTES {
        return Ok(());
    }
    Err(IoError::Unsupported {
        reason: format!("the log arena has {} bytes, and the kernel registers 1 GiB at most", log_arena.len()),
        mend: "Make the log arena smaller".to_string(),
    })
}

/// Tells the ring the memory that log writes are taken from, so that the kernel pins it once and not for each write. Where it may not
/// pin so much (RLIMIT_MEMLOCK, without CAP_IPC_LOCK), writes go without: the errno.
fn register_log(ring: &Ring, log: &Mapping) -> Result<Result<(), i32>, IoError> {
    let piece = libc::iovec { iov_base: log.base().cast_mut().cast(), iov_len: log.len() };
    // SAFETY: the mapping outlives the ring, see `UringIo`'s order of fields and `close`.
    match unsafe { ring.submitter().register_buffers(&[piece]) } {
        Ok(()) => Ok(Ok(())),
        Err(error) => match error.raw_os_error() {
            Some(errno @ (libc::ENOMEM | libc::EPERM)) => Ok(Err(errno)),
            _ => Err(setup::refused("io_uring_register(BUFFERS)", &error)),
        },
    }
}

/// Tells the ring its files and its receive buffers.
fn register(ring: &Ring, rx: &[RxPool; 2], sockets: &[UdpSocket; 2], wake: i32) -> Result<(), IoError> {
    let explain = |call| move |error: std::io::Error| setup::refused(call, &error);
    let submitter = ring.submitter();
    let mut files = [-1; FILES];
    files[0] = sockets[0].fd.as_raw_fd();
    files[1] = sockets[1].fd.as_raw_fd();
    files[2] = wake;
    submitter.register_files(&files).map_err(explain("io_uring_register(FILES)"))?;
    for pool in rx {
        // SAFETY: the ring of buffers is page-aligned, has that many entries, and outlives the ring likewise.
        unsafe { submitter.register_buf_ring_with_flags(pool.ring_address(), pool.count(), pool.group(), 0) }
            .map_err(explain("io_uring_register(PBUF_RING)"))?;
    }
    Ok(())
}

fn send_entry(socket: types::Fixed, to: *const libc::sockaddr_in, address: *const u8, len: u32) -> Entry {
    opcode::Send::new(socket, address, len)
        .flags(libc::MSG_DONTWAIT)
        .dest_addr(to.cast())
        .dest_addr_len(ADDRESS_BYTES)
        .build()
        .flags(Flags::SKIP_SUCCESS)
        .user_data(complete::SEND)
}

/// `registered`: the log arena is.
fn write_entry(place: u8, write: Write, registered: bool) -> Entry {
    let file = types::Fixed(FILE_LOG_FIRST + u32::from(write.file.0));
    let Write { address, len, offset, .. } = write;
    let entry = match registered {
        true => {
            opcode::WriteFixed::new(file, address, len, BUFFER_LOG).offset(offset).rw_flags(libc::RWF_DSYNC).build()
        }
        false => opcode::Write::new(file, address, len).offset(offset).rw_flags(libc::RWF_DSYNC).build(),
    };
    entry.user_data(complete::WRITE | u64::from(place))
}

impl<J, D> UringIo<J, D> {
    /// Submits, waits if `deadline_ns` lets it, and reaps, until there is something to tell or the time is over.
    ///
    /// It does not return before the kernel took all submissions: from then on sent bytes are the caller's again.
    fn turn(&mut self, deadline_ns: u64, eager: bool, events: &mut Vec<Event<D>>) -> Result<(), IoError> {
        let before = events.len();
        let limit = before + self.max_events;
        let begun_ns = clock::monotonic_ns();
        let mut now_ns = begun_ns;
        // What is there already is taken first, without waiting.
        let mut over = false;
        let mut look = self.answers || self.written || self.rest.is_some();
        look |= self.port.wake().has_reasons() || self.ring.has_completions();
        loop {
            self.arm()?;
            over |= now_ns >= deadline_ns;
            let step = if over || look { Step::Spin } else { self.waiter.step(now_ns, now_ns - begun_ns, eager) };
            now_ns = self.pass(step, now_ns, deadline_ns)?;
            self.reap(events, limit);
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            over |= events.len() > before;
            look = false;
            if over && self.ring.queued() == 0 {
                self.trains.clear();
                return Ok(());
            }
        }
    }

    /// One round of a wait: enters the kernel if that does something, else passes the time. Returns the time after it.
    fn pass(&mut self, step: Step, now_ns: u64, deadline_ns: u64) -> Result<u64, IoError> {
        match step {
            // If a reason to look came meanwhile, it does not sleep, but looks.
            Step::Block if self.port.wake().may_sleep() => {
                self.stats.blocks_backed_off += u64::from(self.waiter.backs_off(now_ns));
                let slept = self.ring.enter_and_wait(deadline_ns.saturating_sub(now_ns));
                self.port.wake().awake();
                slept?;
            }
            _ if self.ring.wants_enter() => self.ring.enter()?,
            Step::Spin | Step::Block => std::hint::spin_loop(),
            Step::Yield => {
                std::thread::yield_now();
                self.stats.yields += 1;
                // Judged before anything is reaped: the yield that came late is most often the one that found something.
                let after_ns = clock::monotonic_ns();
                self.stats.yields_late += u64::from(self.waiter.yielded(after_ns, after_ns - now_ns));
                return Ok(after_ns);
            }
        }
        Ok(clock::monotonic_ns())
    }

    /// Queues what the reactor needs for itself: receives, the read of the eventfd, writes that did not happen.
    fn arm(&mut self) -> Result<(), IoError> {
        for index in 0..self.rx.len() {
            self.rx[index].publish();
            // With no buffer left a receive would end at once; it waits until the shard gave one back.
            if !self.rx[index].armed && self.rx[index].has_room() {
                let entry = self.receive(index);
                // SAFETY: buffers and message header outlive the ring.
                unsafe { self.push(&entry) }?;
                self.rx[index].armed = true;
            }
        }
        self.arm_wake()?;
        while let Some((place, write)) = self.writes.next_again() {
            self.stats.writes_retried += 1;
            self.start_write(place, write)?;
        }
        Ok(())
    }

    fn arm_wake(&mut self) -> Result<(), IoError> {
        if self.wake_armed {
            return Ok(());
        }
        let count = self.scratch.wake_count.get().cast();
        let entry = opcode::Read::new(FILE_WAKE, count, 8).build().user_data(complete::WAKE);
        // SAFETY: the counter's place outlives the ring and is used for nothing else.
        unsafe { self.push(&entry) }?;
        self.wake_armed = true;
        Ok(())
    }

    fn receive(&self, index: usize) -> Entry {
        let pool = &self.rx[index];
        let (file, about) = match pool.socket() {
            Socket::Peers => (FILE_PEERS, complete::RECEIVE_PEERS),
            Socket::Clients => (FILE_CLIENTS, complete::RECEIVE_CLIENTS),
        };
        let entry = match pool.has_header() {
            true => opcode::RecvMsgMulti::new(file, &raw const self.scratch.message, pool.group()).build(),
            false => opcode::RecvMulti::new(file, pool.group()).build(),
        };
        entry.user_data(about)
    }

    /// Makes room in the submission queue, entering the kernel if it is full.
    fn make_room(&mut self) -> Result<(), IoError> {
        while self.ring.is_full() {
            self.stats.submits_early += 1;
            self.ring.enter()?;
        }
        Ok(())
    }

    /// Enters the kernel until it took every submission.
    fn submit_all(&mut self) -> Result<(), IoError> {
        while self.ring.queued() > 0 {
            self.ring.enter()?;
        }
        self.trains.clear();
        Ok(())
    }

    /// Queues a submission.
    ///
    /// # Safety
    /// As [`Ring::push`].
    unsafe fn push(&mut self, entry: &Entry) -> Result<(), IoError> {
        self.make_room()?;
        // SAFETY: as the caller promised.
        unsafe { self.ring.push(entry) }.expect("room was made");
        Ok(())
    }

    fn queue_send(&mut self, socket: types::Fixed, to: *const libc::sockaddr_in, bytes: Slice<'_>) {
        let (address, len) = kept(bytes, &self.log, Some(&self.send));
        let entry = send_entry(socket, to, address, len);
        self.stats.sends += 1;
        // SAFETY: the bytes are kept (above) and unchanged until the next poll returned (the rule of `Io`), the address lies in
        // a table of the reactor; the kernel reads both before that poll returns, see the module.
        let pushed = unsafe { self.push(&entry) };
        self.note(pushed);
    }

    /// Makes room for a train and its submission.
    fn make_room_for_train(&mut self) -> Result<(), IoError> {
        if self.trains.is_full() {
            self.stats.submits_early += 1;
            self.submit_all()?;
        }
        self.make_room()
    }

    /// Queues a train; room was made.
    fn queue_train(&mut self, socket: Socket, to: *const libc::sockaddr_in, datagrams: &[Slice<'_>]) {
        let (log, send) = (&self.log, &self.send);
        let pieces = datagrams.iter().map(|bytes| kept(*bytes, log, Some(send)));
        let message = self.trains.couple(to, pieces);
        let file = if socket == Socket::Peers { FILE_PEERS } else { FILE_CLIENTS };
        let entry = opcode::SendMsg::new(file, message)
            .flags(libc::MSG_DONTWAIT as u32)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(complete::TRAIN | socket as u64);
        self.stats.sends += datagrams.len() as u64;
        self.stats.trains += 1;
        // SAFETY: as for a single datagram; the message and its lists lie in the table of trains, whose places are given out
        // again only once the kernel took every submission.
        let pushed = unsafe { self.push(&entry) };
        self.note(pushed);
    }

    /// Where a client's address stays until the kernel took the next submission, for which room was made: a queue with room has
    /// fewer submissions than the table has places.
    fn keep_client(&mut self, to: SocketAddrV4) -> *const libc::sockaddr_in {
        let place = self.clients_next;
        self.clients_next = (place + 1) % self.clients.len();
        self.clients[place] = sockaddr(to);
        &raw const self.clients[place]
    }

    /// Sends a write its way.
    fn start_write(&mut self, place: u8, write: Write) -> Result<(), IoError> {
        if write.route == Route::Thread {
            let file = self.files[usize::from(write.file.0)].clone().expect("checked when the write was asked for");
            self.writers.write(place, write, file);
            return Ok(());
        }
        let entry = write_entry(place, write, self.locked.is_ok());
        // SAFETY: the bytes lie in the log arena (checked when the write was asked for), which outlives the ring, and stay
        // unchanged until the completion (the rule of `Io`).
        unsafe { self.push(&entry) }
    }

    /// Keeps an error for the next poll to return. The first is the cause.
    fn note(&mut self, result: Result<(), IoError>) {
        if let Err(error) = result
            && self.failed.is_none()
        {
            self.failed = Some(error);
        }
    }
}

impl<J: Send, D: Send> Reactor for UringIo<J, D> {
    fn new(
        settings: Settings,
        receive: ReceiveMemory,
        log_arena: &Arena,
        send_arena: &Arena,
        port: Port<J, D>,
    ) -> Result<Self, IoError> {
        UringIo::new(settings, receive, log_arena, send_arena, port)
    }

    fn waker(&self) -> Waker {
        self.waker()
    }

    fn peers_address(&self) -> SocketAddrV4 {
        self.peers_address()
    }

    fn clients_address(&self) -> SocketAddrV4 {
        self.clients_address()
    }

    fn napi_busy_poll(&self) -> Result<(), i32> {
        self.napi_busy_poll()
    }

    fn receive_offload(&self) -> Result<(), i32> {
        self.receive_offload()
    }

    fn log_locked(&self) -> Result<(), i32> {
        self.log_locked()
    }

    fn log_thread(&self) -> Option<LogThreadGot> {
        self.log_thread()
    }

    fn close(self) -> Result<(), IoError> {
        self.close()
    }
}

impl<J, D> Io for UringIo<J, D> {
    type Job = J;
    type Done = D;

    fn poll(&mut self, deadline_ns: u64, eager: bool, events: &mut Vec<Event<D>>) -> Result<(), IoError> {
        self.stats.polls += 1;
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let result = self.turn(deadline_ns, eager, events);
        self.now_ns = clock::monotonic_ns();
        self.wall_ns = clock::wall_ns();
        result
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn stage_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn give_way(&mut self, parts: u64) {
        if self.waiter.shares_the_core() && self.way.look(parts) {
            self.stats.yields += 1;
        }
    }

    fn wall_ns(&self) -> u64 {
        self.wall_ns
    }

    fn datagram(&self, buf: &RxBuf) -> &[u8] {
        self.rx[buf.socket as usize].datagram(buf)
    }

    fn release(&mut self, buf: RxBuf) {
        self.rx[buf.socket as usize].release(buf);
    }

    fn set_peer(&mut self, peer: usize, address: SocketAddrV4) -> Result<(), IoError> {
        // Submissions that point into the old table must be gone.
        self.submit_all()?;
        let mut peers = std::mem::take(&mut self.peers).into_vec();
        assert!(peer <= peers.len(), "the peers' table has no gaps");
        match peers.get_mut(peer) {
            Some(place) => *place = sockaddr(address),
            None => peers.push(sockaddr(address)),
        }
        self.peers = peers.into_boxed_slice();
        Ok(())
    }

    fn send_peer(&mut self, peer: usize, bytes: Slice<'_>) {
        let to = &raw const self.peers[peer];
        self.queue_send(FILE_PEERS, to, bytes);
    }

    fn send_peer_train(&mut self, peer: usize, datagrams: &[Slice<'_>]) {
        if self.segmentation[Socket::Peers as usize] && datagrams.len() > 1 {
            let room = self.make_room_for_train();
            if room.is_err() {
                return self.note(room);
            }
            let to = &raw const self.peers[peer];
            return self.queue_train(Socket::Peers, to, datagrams);
        }
        for bytes in datagrams {
            self.send_peer(peer, *bytes);
        }
    }

    fn send_client(&mut self, to: SocketAddrV4, bytes: Slice<'_>) {
        // Room first: with the queue full, the place about to be written may belong to a submission that was not taken yet.
        let room = self.make_room();
        if room.is_err() {
            return self.note(room);
        }
        let to = self.keep_client(to);
        self.queue_send(FILE_CLIENTS, to, bytes);
    }

    fn send_client_train(&mut self, to: SocketAddrV4, datagrams: &[Slice<'_>]) {
        // To port 0, whence a client may well send, nothing can go; that must not look like a path that takes no trains.
        if self.segmentation[Socket::Clients as usize] && datagrams.len() > 1 && to.port() != 0 {
            let room = self.make_room_for_train();
            if room.is_err() {
                return self.note(room);
            }
            let to = self.keep_client(to);
            return self.queue_train(Socket::Clients, to, datagrams);
        }
        for bytes in datagrams {
            self.send_client(to, *bytes);
        }
    }

    /// # Panics
    /// If the slot's file has writes in flight: one that is to be submitted again would go to the new file.
    fn attach(&mut self, slot: FileSlot, file: Arc<dyn BlockFile>) -> Result<(), IoError> {
        assert!(slot.0 < FILE_SLOTS, "file slot {} of {FILE_SLOTS}", slot.0);
        assert!(!self.writes.uses(slot), "file slot {} has writes in flight", slot.0);
        let place = FILE_LOG_FIRST + u32::from(slot.0);
        let Some(descriptor) = file.descriptor() else {
            let source = std::io::Error::from_raw_os_error(libc::EBADF);
            return Err(IoError::System {
                call: "io_uring_register(FILES_UPDATE) of a file that the kernel does not know",
                source,
            });
        };
        self.ring
            .submitter()
            .register_files_update(place, &[descriptor.as_raw_fd()])
            .map_err(|source| IoError::System { call: "io_uring_register(FILES_UPDATE)", source })?;
        self.files[usize::from(slot.0)] = Some(file);
        Ok(())
    }

    fn write(&mut self, file: FileSlot, offset: u64, bytes: Slice<'_>, token: u64) {
        assert!(self.files[usize::from(file.0)].is_some(), "file slot {} has no file", file.0);
        let (address, len) = kept(bytes, &self.log, None);
        let (route, timed) = self.choice.next();
        let timed_from_ns = timed.then(clock::monotonic_ns);
        let write = Write { file, offset, address, len, token, route, timed_from_ns };
        let place = self.writes.begin(write);
        self.stats.writes += 1;
        self.stats.writes_by_thread += u64::from(route == Route::Thread);
        let started = self.start_write(place, write);
        self.note(started);
    }

    fn request(&mut self, job: J) -> Result<(), J> {
        let result = self.port.request(job);
        self.stats.requests_refused += u64::from(result.is_err());
        result
    }

    fn stats(&self) -> Stats {
        Stats { enters: self.ring.enters, blocks: self.ring.blocks, ..self.stats }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The word of a submission that holds an operation's own flags (`rw_flags`, `msg_flags`).
    fn operation_flags(entry: &Entry) -> i32 {
        assert_eq!(size_of::<Entry>(), 64);
        // SAFETY: a submission is 64 initialised bytes, and this word lies at 28 (`struct io_uring_sqe`).
        unsafe { std::ptr::from_ref(entry).cast::<u8>().add(28).cast::<i32>().read() }
    }

    /// No test can pull the plug, nor fill a loopback socket: what durability and the life of sent bytes rest on is checked
    /// where it is written.
    #[test]
    fn writes_are_synced_and_sends_never_wait() {
        let (route, timed_from_ns) = (Route::Ring, None);
        let address = std::ptr::null();
        let write = Write { file: FileSlot(1), offset: 0, address, len: 0, token: 0, route, timed_from_ns };
        for registered in [true, false] {
            assert_eq!(operation_flags(&write_entry(0, write, registered)), libc::RWF_DSYNC);
        }
        let send = send_entry(FILE_PEERS, std::ptr::null(), std::ptr::null(), 0);
        assert_eq!(operation_flags(&send), libc::MSG_DONTWAIT);
    }
}
