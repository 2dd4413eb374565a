//! The reactor on plain system calls: [`crate::Io`] where the kernel, or the container around it, refuses io_uring.
//!
//! The contract is the same as `uring`'s, and so are the buffers, the trains, the log-writer threads and the wakes; what differs is
//! how the kernel is asked. A turn sends all that was queued with one `sendmmsg` a socket, and takes what came with one `recvmmsg` a
//! socket, neither of which waits. To sleep it waits in `ppoll` for its two sockets and the eventfd of wakes. Log writes go to the
//! log-writer threads always ([`crate::writer`]): a core must not wait for a disk. So a turn costs three or four system calls where
//! the ring costs one, and one that only looks costs two where the ring costs none. Called by: the shard, through `Io`. May touch:
//! everything that a [`Settings`] names, and nothing else.
//!
//! # Who owns which bytes when
//! The kernel reads and writes memory of the reactor within its system calls only. Sent bytes are read in the poll after they were
//! queued, or before that if the table is full; log writes by threads that keep the arena mapped themselves. So going down needs no
//! more than to wait for those threads.

mod receive;
mod send;

use crate::arena::{Mapping, kept};
use crate::buffers::ReceiveMemory;
use crate::giveway::GiveWay;
use crate::port::Port;
use crate::settings::{LogThread, LogWriter, Settings, Stats};
use crate::socket::{self, UdpSocket, sockaddr};
use crate::wait::{Step, Waiter};
use crate::wake::{DONE, WOKEN, WRITER_GONE, WRITTEN, Waker};
use crate::writer::{LogThreadGot, Writers};
use crate::writes::{Ended, Route, Write, Writes};
use crate::{
    Arena, BlockFile, CLOSE_WAIT, Event, FILE_SLOTS, FileSlot, Io, IoError, Reactor, RxBuf, Slice, Socket, clock,
};
use receive::Receiver;
use send::Sender;
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::sync::Arc;

const SOCKETS: [Socket; 2] = [Socket::Peers, Socket::Clients];

/// Refusals of sends that wait to be told. Beyond, they are counted and not told: each is a datagram that is lost like any other.
const REFUSALS_MAX: usize = 1_024;

/// The longest sleep; nothing is asked of the kernel's arithmetic near the end of 64 bits, where "no deadline" lies.
const SLEEP_MAX_NS: u64 = 3_600_000_000_000;

/// The reactor. Lives and dies on the thread that made it.
pub struct SyscallIo<J, D> {
    sockets: [UdpSocket; 2],
    receivers: [Receiver; 2],
    senders: [Sender; 2],
    /// Which socket the next look begins with: in turns, so that none can starve the other.
    first: usize,
    peers: Vec<libc::sockaddr_in>,
    receive_offload: Result<(), i32>,
    napi: Result<(), i32>,
    locked: Result<(), i32>,
    /// Several datagrams to one receiver go to the kernel in one piece, from the members' socket and from the clients'.
    segmentation: [bool; 2],
    /// The errnos of sends that the kernel refused.
    refused: VecDeque<i32>,
    log: Arc<Mapping>,
    send: Arc<Mapping>,
    writes: Writes,
    writers: Writers,
    files: [Option<Arc<dyn BlockFile>>; FILE_SLOTS as usize],
    port: Port<J, D>,
    /// Answers may be waiting in the port.
    answers: bool,
    /// Ended writes may be waiting in the writers' ports.
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
}

impl<J: Send, D: Send> Reactor for SyscallIo<J, D> {
    fn new(
        settings: Settings,
        receive: ReceiveMemory,
        log_arena: &Arena,
        send_arena: &Arena,
        port: Port<J, D>,
    ) -> Result<Self, IoError> {
        settings.check()?;
        let thread = log_thread(&settings.log_writer)?;
        let open = |address| socket::open(address, settings.socket_buffer_bytes, settings.dont_fragment);
        let sockets = [open(settings.peers_listen)?, open(settings.clients_listen)?];
        let receive_offload = if settings.receive_offload { socket::receive_offload(&sockets) } else { Ok(()) };
        let offload = settings.receive_offload && receive_offload.is_ok();
        let receiver = |socket, memory| Receiver::new(socket, &settings, offload, memory);
        let ReceiveMemory([peers, clients]) = receive;
        let receivers = [receiver(Socket::Peers, peers), receiver(Socket::Clients, clients)];
        let (log, send) = (log_arena.mapping(), send_arena.mapping());
        let writers = Writers::start(settings.log_threads, thread, &log, &port)?;
        let stats = Stats {
            receive_buffer_bytes_peers: sockets[0].receive_buffer_bytes as u64,
            receive_buffer_bytes_clients: sockets[1].receive_buffer_bytes as u64,
            ..Stats::default()
        };
        let room = settings.sq_entries as usize;
        Ok(SyscallIo {
            sockets,
            receivers,
            senders: [Sender::new(room), Sender::new(room)],
            first: 0,
            peers: settings.peers.iter().map(|address| sockaddr(*address)).collect(),
            receive_offload,
            // What there is for sockets (SO_BUSY_POLL) is for calls that wait, and for a sysctl of the whole host.
            napi: if settings.napi_busy_poll_us == 0 { Ok(()) } else { Err(libc::EOPNOTSUPP) },
            locked: log.lock(),
            segmentation: [settings.segmentation; 2],
            refused: VecDeque::with_capacity(REFUSALS_MAX),
            log,
            send,
            writes: Writes::new(),
            writers,
            files: Default::default(),
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
        })
    }

    fn waker(&self) -> Waker {
        Waker::new(self.port.wake().clone())
    }

    fn peers_address(&self) -> SocketAddrV4 {
        self.sockets[0].address
    }

    fn clients_address(&self) -> SocketAddrV4 {
        self.sockets[1].address
    }

    fn napi_busy_poll(&self) -> Result<(), i32> {
        self.napi
    }

    fn receive_offload(&self) -> Result<(), i32> {
        self.receive_offload
    }

    fn log_locked(&self) -> Result<(), i32> {
        self.locked
    }

    fn log_thread(&self) -> Option<LogThreadGot> {
        self.writers.got()
    }

    fn close(mut self) -> Result<(), IoError> {
        self.shut_down()
    }
}

/// Which thread writes the log: one does in any case.
fn log_thread(writer: &LogWriter) -> Result<LogThread, IoError> {
    match writer {
        LogWriter::Thread(thread) | LogWriter::Auto(thread) => Ok(*thread),
        LogWriter::Ring => Err(IoError::Unsupported {
            reason: "the log is to be written through a ring, and this reactor has none".to_string(),
            mend: "Let a thread write it".to_string(),
        }),
    }
}

impl<J, D> SyscallIo<J, D> {
    /// Sends, waits if `deadline_ns` lets it, and takes what came, until there is something to tell or the time is over.
    fn turn(&mut self, deadline_ns: u64, eager: bool, events: &mut Vec<Event<D>>) -> Result<(), IoError> {
        let before = events.len();
        let limit = before + self.max_events;
        self.send_queued(Socket::Peers);
        self.send_queued(Socket::Clients);
        let begun_ns = clock::monotonic_ns();
        let mut now_ns = begun_ns;
        let mut has_looked = false;
        loop {
            self.write_again();
            let over = now_ns >= deadline_ns;
            let step = match self.waiter.step(now_ns, now_ns - begun_ns, eager) {
                _ if over || self.has_something() => Step::Spin,
                // To sleep is to look, too; to yield is not.
                Step::Yield if !has_looked => Step::Spin,
                step => step,
            };
            has_looked = true;
            let readable = self.pass(step, now_ns, deadline_ns)?;
            self.reap(readable, events, limit);
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if over || events.len() > before {
                return Ok(());
            }
            now_ns = clock::monotonic_ns();
        }
    }

    /// Whether there is something to tell without asking the kernel.
    fn has_something(&self) -> bool {
        let ready = self.receivers.iter().any(Receiver::has_ready);
        ready || self.answers || self.written || !self.refused.is_empty() || self.port.wake().has_reasons()
    }

    /// Passes the time, and returns which sockets are worth a look.
    fn pass(&mut self, step: Step, now_ns: u64, deadline_ns: u64) -> Result<[bool; 2], IoError> {
        match step {
            // If a reason to look came meanwhile, it does not sleep, but looks.
            Step::Block if self.port.wake().may_sleep() => {
                self.stats.blocks_backed_off += u64::from(self.waiter.backs_off(now_ns));
                let readable = self.sleep(deadline_ns.saturating_sub(now_ns));
                self.port.wake().awake();
                return readable;
            }
            Step::Spin | Step::Block => {}
            Step::Yield => {
                std::thread::yield_now();
                self.stats.yields += 1;
                let after_ns = clock::monotonic_ns();
                self.stats.yields_late += u64::from(self.waiter.yielded(after_ns, after_ns - now_ns));
            }
        }
        Ok([true; 2])
    }

    /// Sleeps until a socket has something, another thread woke this one, or the time is over; which sockets have something.
    fn sleep(&mut self, timeout_ns: u64) -> Result<[bool; 2], IoError> {
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // What waits for a free buffer would end each sleep at once.
        let socket = |at: usize| if self.receivers[at].ran_out() { -1 } else { self.sockets[at].fd.as_raw_fd() };
        let wake = self.port.wake().event();
        let mut watched = [watch(socket(0)), watch(socket(1)), watch(wake.as_raw_fd())];
        let timeout = clock::timespec(timeout_ns.min(SLEEP_MAX_NS));
        (self.stats.enters, self.stats.blocks) = (self.stats.enters + 1, self.stats.blocks + 1);
        // SAFETY: reads and writes three live entries, reads a live time.
        let found = unsafe { libc::ppoll(watched.as_mut_ptr(), 3, &raw const timeout, std::ptr::null()) };
        if found < 0 {
            let source = std::io::Error::last_os_error();
            // A signal: the caller looks, and sleeps again.
            let interrupted = source.raw_os_error() == Some(libc::EINTR);
            return if interrupted { Ok([false; 2]) } else { Err(IoError::System { call: "ppoll", source }) };
        }
        let [peers, clients, woken] = watched.map(|entry| entry.revents != 0);
        if woken {
            self.stats.enters += 1;
            wake.clear();
        }
        Ok([peers, clients])
    }

    /// Appends events until `limit` or until there is nothing more.
    fn reap(&mut self, readable: [bool; 2], events: &mut Vec<Event<D>>, limit: usize) {
        // What the last poll had no room for goes first, or datagrams could keep answers waiting for ever.
        self.take_answers(events, limit);
        self.take_reasons(events, limit);
        while events.len() < limit
            && let Some(errno) = self.refused.pop_front()
        {
            events.push(Event::SendFailed(errno));
        }
        self.first ^= 1;
        for at in [self.first, self.first ^ 1] {
            self.hand_out(at, events, limit);
            if readable[at] && events.len() < limit {
                self.receive(at, events, limit);
            }
        }
        self.take_answers(events, limit);
    }

    fn take_answers(&mut self, events: &mut Vec<Event<D>>, limit: usize) {
        while self.answers && events.len() < limit {
            match self.port.next_done() {
                Some(done) => events.push(Event::Done(done)),
                None => self.answers = false,
            }
        }
        while self.written && events.len() < limit {
            let Some(done) = self.writers.next_done() else {
                self.written = false;
                return;
            };
            if let Ended::Written { token, result } = self.writes.end(done.place, done.result) {
                events.push(Event::Written { token, result });
            }
        }
    }

    /// What other threads woke this one for. Taken before the queues are looked at: see [`crate::wake`].
    fn take_reasons(&mut self, events: &mut Vec<Event<D>>, limit: usize) {
        if events.len() == limit || !self.port.wake().has_reasons() {
            return;
        }
        self.stats.wakes += 1;
        let reasons = self.port.wake().take();
        self.answers |= reasons & DONE != 0;
        self.written |= reasons & WRITTEN != 0;
        if reasons & WRITER_GONE != 0 {
            let gone = self.writers.is_gone();
            self.note(gone);
        }
        if reasons & WOKEN != 0 {
            events.push(Event::Woken);
        }
    }

    /// Takes what waits in a socket, whose pieces were all handed out: there is room for events.
    fn receive(&mut self, at: usize, events: &mut Vec<Event<D>>, limit: usize) {
        let fd = self.sockets[at].fd.as_raw_fd();
        if self.receivers[at].has_room() {
            self.stats.enters += 1;
            match self.receivers[at].receive(fd, limit - events.len()) {
                Ok(trains) => {
                    self.stats.trains_received += trains;
                    self.hand_out(at, events, limit);
                }
                Err(errno) => self.receive_failed(errno),
            }
        }
        if self.receivers[at].has_room() || self.receivers[at].ran_out() || events.len() == limit {
            return;
        }
        // Whether anything was to come is to be known: a pool that was just large enough did not run out.
        self.stats.enters += 1;
        match receive::look(fd) {
            Ok(()) => {
                self.receivers[at].tell_that_it_ran_out();
                self.stats.overruns += 1;
                events.push(Event::Overrun(SOCKETS[at]));
            }
            Err(errno) => self.receive_failed(errno),
        }
    }

    /// Makes events of what a socket received, up to the bound.
    fn hand_out(&mut self, at: usize, events: &mut Vec<Event<D>>, limit: usize) {
        let receiver = &mut self.receivers[at];
        while events.len() < limit
            && let Some(piece) = receiver.next_ready()
        {
            if let Some(rest) = receiver.buffers().hand_out(piece, events, limit, &mut self.stats) {
                receiver.put_back(rest);
            }
        }
    }

    /// Nothing that the network does ends receiving: an ICMP error of an earlier send (ECONNREFUSED and its kin) surfaces here
    /// once and is over, and so is a shortage of memory. What says that the request itself is wrong ends the reactor.
    fn receive_failed(&mut self, errno: i32) {
        match errno {
            libc::EAGAIN | libc::EINTR => {}
            libc::EBADF | libc::EFAULT | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP => {
                let source = std::io::Error::from_raw_os_error(errno);
                self.note(Err(IoError::System { call: "recvmmsg on a UDP socket", source }));
            }
            _ => self.stats.receive_errors += 1,
        }
    }

    /// Sends all that is queued for a socket.
    fn send_queued(&mut self, socket: Socket) {
        let at = socket as usize;
        let (refused, segmentation) = (&mut self.refused, &mut self.segmentation[at]);
        let mut failures = 0;
        let calls = self.senders[at].send(self.sockets[at].fd.as_raw_fd(), |errno, is_train| {
            failures += 1;
            *segmentation &= !(is_train && socket::refuses_trains(errno));
            if refused.len() < REFUSALS_MAX {
                refused.push_back(errno);
            }
        });
        self.stats.enters += calls;
        self.stats.sends_failed += failures;
    }

    fn queue(&mut self, socket: Socket, to: libc::sockaddr_in, bytes: Slice<'_>) {
        let (address, len) = kept(bytes, &self.log, Some(&self.send));
        if self.senders[socket as usize].is_full() {
            self.stats.submits_early += 1;
            self.send_queued(socket);
        }
        self.stats.sends += 1;
        self.senders[socket as usize].queue(to, address, len);
    }

    fn queue_train(&mut self, socket: Socket, to: libc::sockaddr_in, datagrams: &[Slice<'_>]) {
        if self.senders[socket as usize].is_full_for_train() {
            self.stats.submits_early += 1;
            self.send_queued(socket);
        }
        self.stats.sends += datagrams.len() as u64;
        self.stats.trains += 1;
        let (log, send) = (&self.log, &self.send);
        let pieces = datagrams.iter().map(|bytes| kept(*bytes, log, Some(send)));
        self.senders[socket as usize].queue_train(to, pieces);
    }

    /// Hands writes over again that did not happen.
    fn write_again(&mut self) {
        while let Some((place, write)) = self.writes.next_again() {
            self.stats.writes_retried += 1;
            self.start_write(place, write);
        }
    }

    fn start_write(&mut self, place: u8, write: Write) {
        let file = self.files[usize::from(write.file.0)].clone().expect("checked when the write was asked for");
        self.writers.write(place, write, file);
    }

    /// Keeps an error for the next poll to return. The first is the cause.
    fn note(&mut self, result: Result<(), IoError>) {
        if let Err(error) = result
            && self.failed.is_none()
        {
            self.failed = Some(error);
        }
    }

    /// Sends what is queued, waits for what the log-writer threads have, and for their ends.
    fn shut_down(&mut self) -> Result<(), IoError> {
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        SOCKETS.into_iter().for_each(|socket| self.send_queued(socket));
        let deadline_ns = clock::monotonic_ns() + CLOSE_WAIT.as_nanos() as u64;
        let mut events = Vec::with_capacity(self.max_events);
        loop {
            self.write_again();
            // Errors of single requests have nobody to be told to any more.
            self.reap([false; 2], &mut events, self.max_events);
            events.clear();
            if self.writers.running()? == 0 && !self.writes.has_again() {
                return self.writers.stop();
            }
            let left_ns = deadline_ns.saturating_sub(clock::monotonic_ns());
            if left_ns == 0 {
                return Err(crate::writes::did_not_end(&self.writes));
            }
            if self.port.wake().may_sleep() {
                let slept = self.sleep(left_ns);
                self.port.wake().awake();
                slept?;
            }
        }
    }
}

impl<J, D> Io for SyscallIo<J, D> {
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
        self.receivers[buf.socket as usize].buffers().datagram(buf)
    }

    fn release(&mut self, buf: RxBuf) {
        self.receivers[buf.socket as usize].release(&buf);
    }

    fn set_peer(&mut self, peer: usize, address: SocketAddrV4) -> Result<(), IoError> {
        assert!(peer <= self.peers.len(), "the peers' table has no gaps");
        match self.peers.get_mut(peer) {
            Some(place) => *place = sockaddr(address),
            None => self.peers.push(sockaddr(address)),
        }
        Ok(())
    }

    fn send_peer(&mut self, peer: usize, bytes: Slice<'_>) {
        self.queue(Socket::Peers, self.peers[peer], bytes);
    }

    fn send_peer_train(&mut self, peer: usize, datagrams: &[Slice<'_>]) {
        if self.segmentation[Socket::Peers as usize] && datagrams.len() > 1 {
            return self.queue_train(Socket::Peers, self.peers[peer], datagrams);
        }
        for bytes in datagrams {
            self.send_peer(peer, *bytes);
        }
    }

    fn send_client(&mut self, to: SocketAddrV4, bytes: Slice<'_>) {
        self.queue(Socket::Clients, sockaddr(to), bytes);
    }

    fn send_client_train(&mut self, to: SocketAddrV4, datagrams: &[Slice<'_>]) {
        // To port 0, whence a client may well send, nothing can go; that must not look like a path that takes no trains.
        if self.segmentation[Socket::Clients as usize] && datagrams.len() > 1 && to.port() != 0 {
            return self.queue_train(Socket::Clients, sockaddr(to), datagrams);
        }
        for bytes in datagrams {
            self.send_client(to, *bytes);
        }
    }

    /// # Panics
    /// If the slot's file has writes in flight: one that is to be handed over again would go to the new file.
    fn attach(&mut self, slot: FileSlot, file: Arc<dyn BlockFile>) -> Result<(), IoError> {
        assert!(slot.0 < FILE_SLOTS, "file slot {} of {FILE_SLOTS}", slot.0);
        assert!(!self.writes.uses(slot), "file slot {} has writes in flight", slot.0);
        if file.descriptor().is_none() {
            let source = std::io::Error::from_raw_os_error(libc::EBADF);
            return Err(IoError::System { call: "taking a file that the kernel does not know", source });
        }
        self.files[usize::from(slot.0)] = Some(file);
        Ok(())
    }

    fn write(&mut self, file: FileSlot, offset: u64, bytes: Slice<'_>, token: u64) {
        assert!(self.files[usize::from(file.0)].is_some(), "file slot {} has no file", file.0);
        let (address, len) = kept(bytes, &self.log, None);
        let write = Write { file, offset, address, len, token, route: Route::Thread, timed_from_ns: None };
        let place = self.writes.begin(write);
        self.stats.writes += 1;
        self.stats.writes_by_thread += 1;
        self.start_write(place, write);
    }

    fn request(&mut self, job: J) -> Result<(), J> {
        let result = self.port.request(job);
        self.stats.requests_refused += u64::from(result.is_err());
        result
    }

    fn stats(&self) -> Stats {
        self.stats
    }
}

impl<J, D> Drop for SyscallIo<J, D> {
    fn drop(&mut self) {
        // Who wants to know calls `close`. A write whose end nobody waited for was never reported durable.
        let _told_by_close = self.shut_down();
    }
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
