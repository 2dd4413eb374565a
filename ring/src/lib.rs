//! The reactor of one core: the [`Io`] trait that a shard is generic over, and its implementations on io_uring ([`UringIo`]) and on
//! plain system calls ([`SyscallIo`]).
//!
//! A shard's turn is: [`Io::poll`] (submit everything, wait, reap a bounded batch of [`Event`]s), handle them, queue
//! sends and log writes, poll again. Nothing here knows what a datagram or a log write means.
//!
//! # Who owns which bytes when
//! - **Received datagrams** lie in buffers of the reactor. An [`Event::Datagram`] hands out an [`RxBuf`]; its bytes are
//!   stable until the shard gives it back with [`Io::release`]. Each is released exactly once, in the turn it came.
//! - **Sent bytes** are a [`Slice`] of an [`Arena`]. They must not change until the next [`Io::poll`] returns: the kernel
//!   copies them into the socket during that call (sends never wait: MSG_DONTWAIT), and not after.
//! - **Log writes** are a [`Slice`] too. They must not change until their [`Event::Written`] came.
//! - **Arenas** are mapped once and shared by reference count with the reactor, which keeps them until its ring is closed:
//!   a write in flight never outlives its memory.
//!
//! [`BlockFile`] is a file as the log sees it, outside of a turn too.
#![cfg_attr(loom, allow(dead_code, reason = "only what meets other threads is modelled"))]

mod arena;
#[cfg(not(loom))]
mod backend;
#[cfg(not(loom))]
mod buffers;
#[cfg_attr(loom, allow(dead_code))]
mod clock;
#[cfg(not(loom))]
mod delay;
mod file;
mod giveway;
mod port;
mod removal;
mod settings;
#[cfg(not(loom))]
mod socket;
mod sync;
#[cfg(not(loom))]
mod syscall;
#[cfg(not(loom))]
mod trains;
#[cfg(not(loom))]
mod uring;
mod wait;
mod wake;
#[cfg(not(loom))]
mod writer;
#[cfg(not(loom))]
mod writes;

pub use arena::{Arena, Loan, Slice};
#[cfg(not(loom))]
pub use backend::{Backend, Choice, Reactor, Want};
#[cfg(not(loom))]
pub use buffers::ReceiveMemory;
pub use file::{BlockFile, Haste, View};
pub use giveway::give_way;
pub use port::{Doorbell, Ends, HousePort, Port, STOP_CHECK, port, port_at};
pub use removal::remove_file;
pub use settings::{LogThread, LogWriter, Settings, Stats, WRITES_MAX, receive_buffer_bytes};
#[cfg(not(loom))]
pub use syscall::SyscallIo;
#[cfg(not(loom))]
pub use uring::{Features, UringIo, probe};
pub use wait::{BACK_OFF_MAX_NS, BACK_OFF_MIN_NS, LATE_YIELD_NS, PROMPT_YIELDS, WaitMode};
pub use wake::Waker;
#[cfg(not(loom))]
pub use writer::{LOG_THREAD_PRIORITY, LogThreadGot};
#[cfg(not(loom))]
pub use writes::CLOSE_WAIT;

use std::net::SocketAddrV4;
use std::sync::Arc;

/// Which socket a datagram came in on, or goes out from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Socket {
    /// Consensus traffic between members; the sender stands in the frame.
    Peers,
    /// Clients; answered only at the address that the kernel saw.
    Clients,
}

/// A datagram in a receive buffer, which the shard holds. Give it back with [`Io::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a receive buffer must be released, or the pool runs dry"]
pub struct RxBuf {
    /// The buffer's number in its pool. Datagrams that came in one piece share a buffer; it is free with the last of them.
    pub id: u16,
    /// Which pool.
    pub socket: Socket,
    /// Where the datagram's bytes start in the buffer.
    pub start: u32,
    /// The datagram's bytes.
    pub len: u32,
    /// Whether the datagram was longer than the longest that is received whole, and was cut.
    pub cut: bool,
}

/// What [`Io::poll`] reaped. `D` is what the housekeeping thread answers with.
#[derive(Debug)]
pub enum Event<D> {
    /// A datagram. `from` is the kernel's source address on the clients' socket.
    Datagram {
        /// Its bytes: [`Io::datagram`].
        buf: RxBuf,
        /// The sender's address (clients' socket only).
        from: Option<SocketAddrV4>,
    },
    /// A log write and its sync ended: bytes written, or the errno. After an error the log must not be trusted.
    Written {
        /// As given to [`Io::write`].
        token: u64,
        /// Bytes, or the errno.
        result: Result<usize, i32>,
    },
    /// The housekeeping thread finished a job.
    Done(D),
    /// The receive buffers of a socket ran out for a while; datagrams may have been lost.
    Overrun(Socket),
    /// The kernel refused to send a datagram (errno); it is lost like any other.
    SendFailed(i32),
    /// Another thread woke this one ([`Waker`]).
    Woken,
}

/// Where the log's file is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileSlot(pub u8);

/// Log files that can be registered at once: the one that is written, the next, and one that still has writes in flight.
pub const FILE_SLOTS: u8 = 4;

/// Datagrams of one train, see [`Io::send_peer_train`] and [`Io::send_client_train`]: half of what the oldest kernels take.
pub const SEGMENTS_MAX: usize = 32;

/// Bytes of one train: the longest UDP payload is 65,507.
pub const TRAIN_BYTES_MAX: usize = 65_000;

/// Everything that a shard may ask of the world. One thread, no locks.
pub trait Io {
    /// A request to the housekeeping thread.
    type Job;
    /// Its answer.
    type Done;

    /// Submits what was queued, waits until something happened or `deadline_ns` (of [`Io::now_ns`]) passed, and appends at
    /// most a bounded number of events. Reads the clock once, after it reaped. `eager` says that a log write is in flight,
    /// so that waiting actively pays for longer.
    fn poll(&mut self, deadline_ns: u64, eager: bool, events: &mut Vec<Event<Self::Done>>) -> Result<(), IoError>;

    /// Monotonic nanoseconds, as read at the end of the last [`Io::poll`].
    fn now_ns(&self) -> u64;

    /// The clock of [`Io::now_ns`], read now: to measure what happens within a turn. It decides nothing but that a lease has run
    /// out meanwhile. A reactor whose time stands still within a turn has no other.
    fn stage_ns(&self) -> u64 {
        self.now_ns()
    }

    /// In the middle of work that no commit waits for: lets others run that share the core, where the wait mode is one of a shared core.
    /// In between this thread runs for a short while, or for one of so many `parts` of the time that the others had if that is longer.
    fn give_way(&mut self, parts: u64) {
        debug_assert!(parts > 0, "whoever gives way comes back");
    }

    /// Nanoseconds since the Unix epoch, as read at the end of the last [`Io::poll`].
    fn wall_ns(&self) -> u64;

    /// The bytes of a received datagram.
    fn datagram(&self, buf: &RxBuf) -> &[u8];

    /// Gives a receive buffer back.
    fn release(&mut self, buf: RxBuf);

    /// Puts a member at this index of the peers' table: the next free one, or one that is taken.
    fn set_peer(&mut self, peer: usize, address: SocketAddrV4) -> Result<(), IoError> {
        unreachable!("the peers' table of this reactor is fixed: {peer} is to be {address}")
    }
    /// Queues a datagram to the member with this index in the peers' table.
    fn send_peer(&mut self, peer: usize, bytes: Slice<'_>);

    /// Queues several datagrams to the member, one for each slice. All are as long as the first but the last, which may be
    /// shorter; at most [`SEGMENTS_MAX`] and [`TRAIN_BYTES_MAX`]. To the receiver they are as if sent one by one; where the
    /// kernel refuses one of them, it refuses all.
    fn send_peer_train(&mut self, peer: usize, datagrams: &[Slice<'_>]) {
        for bytes in datagrams {
            self.send_peer(peer, *bytes);
        }
    }

    /// Queues a datagram to a client.
    fn send_client(&mut self, to: SocketAddrV4, bytes: Slice<'_>);

    /// Queues several datagrams to a client, as [`Io::send_peer_train`] does to a member.
    fn send_client_train(&mut self, to: SocketAddrV4, datagrams: &[Slice<'_>]) {
        for bytes in datagrams {
            self.send_client(to, *bytes);
        }
    }

    /// Registers a log file, opened O_DIRECT, under `slot`, in place of what was there.
    fn attach(&mut self, slot: FileSlot, file: Arc<dyn BlockFile>) -> Result<(), IoError>;

    /// Queues a durable write: when its [`Event::Written`] comes without an error, the bytes are on stable storage.
    fn write(&mut self, file: FileSlot, offset: u64, bytes: Slice<'_>, token: u64);

    /// Hands a job to the housekeeping thread; gives it back if the queue is full.
    fn request(&mut self, job: Self::Job) -> Result<(), Self::Job>;

    /// What the reactor counted so far; all zero where nothing enters a kernel.
    fn stats(&self) -> Stats {
        Stats::default()
    }
}

/// A reactor that cannot be set up, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// io_uring is switched off or lacks something; the text names the sysctl or the feature.
    #[error("io_uring cannot be used: {reason}. {mend}")]
    Unsupported {
        /// What the kernel said.
        reason: String,
        /// What to do about it.
        mend: String,
    },
    /// A socket cannot be opened.
    #[error("cannot listen on {address}: {source}. {mend}")]
    Listen {
        /// The address.
        address: SocketAddrV4,
        /// Why.
        source: std::io::Error,
        /// What to do about it.
        mend: String,
    },
    /// A system call failed that should not.
    #[error("{call} failed: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        source: std::io::Error,
    },
}
