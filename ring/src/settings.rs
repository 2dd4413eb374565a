//! What a reactor is made from, checked before anything is opened, and what it counts.

use crate::wait::WaitMode;
use crate::{IoError, Socket};
use std::net::SocketAddrV4;

/// Log writes that one reactor may have in flight. Measured, more than one gains nothing on the disks seen so far.
pub const WRITES_MAX: usize = 64;

/// Receive buffers that the kernel takes in one pool.
const RX_BUFFERS_MAX: u16 = 32_768;

/// The longest UDP payload over IPv4.
const DATAGRAM_MAX_BYTES: usize = 65_507;

/// The sizes and addresses of a reactor. All memory that it ever uses follows from these.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where other members' datagrams come in, and from where those to them go out. Port 0: any free one.
    pub peers_listen: SocketAddrV4,
    /// Where clients' datagrams come in, and from where those to them go out.
    pub clients_listen: SocketAddrV4,
    /// Where each member listens; the index is [`crate::Io::send_peer`]'s. An entry for oneself may stand here unused.
    pub peers: Vec<SocketAddrV4>,
    /// Receive buffers for members' datagrams, a power of two.
    pub rx_buffers_peers: u16,
    /// Receive buffers for clients' datagrams, a power of two.
    pub rx_buffers_clients: u16,
    /// The longest datagram that is received whole. A longer one arrives cut to this and marked
    /// ([`crate::RxBuf::cut`]): each buffer is at least a byte larger, so that "longer" shows.
    pub rx_buffer_bytes: usize,
    /// Take several datagrams of one sender from the kernel in one piece (UDP receive offload, "GRO"). Each receive buffer
    /// then has the size of the largest such piece, 64 KiB, whatever [`Settings::rx_buffer_bytes`] says.
    pub receive_offload: bool,
    /// Submissions that fit between two entries of the kernel, rounded up to a power of two. More are submitted early.
    pub sq_entries: u32,
    /// Completions that fit, rounded up to a power of two; see [`Settings::cq_entries_min`].
    pub cq_entries: u32,
    /// Bytes that the kernel may queue on each socket, in and out, each.
    pub socket_buffer_bytes: usize,
    /// How to wait.
    pub wait: WaitMode,
    /// Refuse to fragment: a datagram beyond the path's MTU fails to send (EMSGSIZE) and is never cut up.
    pub dont_fragment: bool,
    /// Hand several datagrams to one receiver to the kernel in one piece (UDP segmentation offload).
    pub segmentation: bool,
    /// Log-writer threads, where a thread writes: so many of its writes are in flight at once. 1 to [`WRITES_MAX`].
    pub log_threads: usize,
    /// How long a wait in the kernel polls the network cards' queues before it sleeps, where their drivers have NAPI;
    /// microseconds, 0: not at all.
    pub napi_busy_poll_us: u32,
    /// Events that one poll appends at most.
    pub max_events: usize,
    /// How log writes go to the disk.
    pub log_writer: LogWriter,
}

/// How log writes go to the disk.
#[derive(Clone, Copy, Debug)]
pub enum LogWriter {
    /// Through the ring.
    Ring,
    /// By a thread of the reactor's own.
    Thread(LogThread),
    /// Whichever is faster at the time, by trials.
    Auto(LogThread),
}

/// Where the log-writer thread runs.
#[derive(Clone, Copy, Debug)]
pub struct LogThread {
    /// Its CPUs; left out: those of the thread that makes the reactor.
    pub cpus: Option<rustix::thread::CpuSet>,
}

impl LogThread {
    /// On one CPU.
    ///
    /// # Panics
    /// If no set of CPUs holds that number.
    pub fn on(cpu: usize) -> LogThread {
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(cpu);
        LogThread { cpus: Some(cpus) }
    }
}

impl Settings {
    /// The smallest completion queue that cannot overflow: each receive buffer's completion, each write's, one for each
    /// submission of a turn (a failed send's, or a receive's end), and the wake-up.
    pub fn cq_entries_min(&self) -> u32 {
        let receives = u32::from(self.rx_buffers_peers) + u32::from(self.rx_buffers_clients);
        receives.saturating_add(self.sq_entries.next_power_of_two()).saturating_add(WRITES_MAX as u32 + 1)
    }

    pub(crate) fn check(&self) -> Result<(), IoError> {
        for (name, count) in
            [("rx_buffers_peers", self.rx_buffers_peers), ("rx_buffers_clients", self.rx_buffers_clients)]
        {
            if !count.is_power_of_two() || count > RX_BUFFERS_MAX {
                return refuse(
                    format!("{name} is {count}"),
                    format!("Choose a power of two, at most {RX_BUFFERS_MAX}"),
                );
            }
        }
        if !(1..=DATAGRAM_MAX_BYTES).contains(&self.rx_buffer_bytes) {
            return refuse(
                format!("rx_buffer_bytes is {}", self.rx_buffer_bytes),
                format!("Choose the longest datagram in use, at most {DATAGRAM_MAX_BYTES}"),
            );
        }
        if !(8..=32_768).contains(&self.sq_entries) {
            return refuse(format!("sq_entries is {}", self.sq_entries), "Choose 8 to 32768".to_string());
        }
        if self.cq_entries < self.cq_entries_min() || self.cq_entries > 65_536 {
            return refuse(
                format!("cq_entries is {}", self.cq_entries),
                format!(
                    "Choose {} (all receive buffers, writes and submissions of a turn) to 65536; fewer receive buffers \
                     need fewer",
                    self.cq_entries_min()
                ),
            );
        }
        if self.max_events == 0 {
            return refuse("max_events is 0".to_string(), "Choose at least 1".to_string());
        }
        Ok(())
    }
}

/// What the kernel writes in front of what it received, where it is asked for more than the bytes: a fixed head (`struct
/// io_uring_recvmsg_out`), the source address, and with receive offload a control message; sized so that the first datagram
/// starts on a cache line like its buffer.
pub(crate) const RX_HEADER_BYTES: usize = 64;
/// What an IP packet carries at most, and so what comes in one piece, rounded up.
const PIECE_BYTES: usize = 1 << 16;
/// Receive buffers start at multiples of this.
const RX_BUFFER_ALIGN: usize = 64;

/// The memory of one receive buffer with these [`Settings::rx_buffer_bytes`] and [`Settings::receive_offload`].
pub fn receive_buffer_bytes(socket: Socket, rx_buffer_bytes: usize, receive_offload: bool) -> usize {
    // One byte more than the longest datagram, at least: what reaches into it was longer.
    let room = if receive_offload { PIECE_BYTES } else { rx_buffer_bytes + 1 };
    // With the header, large buffers are no power of two apart: that would leave them a few sets of the cache to share.
    (rx_header_bytes(socket, receive_offload) + room).next_multiple_of(RX_BUFFER_ALIGN)
}

/// Where datagrams start in a receive buffer.
pub(crate) fn rx_header_bytes(socket: Socket, receive_offload: bool) -> usize {
    if receive_offload || socket == Socket::Clients { RX_HEADER_BYTES } else { 0 }
}

fn refuse(reason: String, mend: String) -> Result<(), IoError> {
    Err(IoError::Unsupported { reason, mend })
}

/// Counters since the reactor was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Polls.
    pub polls: u64,
    /// System calls: `io_uring_enter`, or those of the sockets and of waiting.
    pub enters: u64,
    /// Those of them that could wait.
    pub blocks: u64,
    /// `sched_yield` calls.
    pub yields: u64,
    /// Yields that came back after [`crate::LATE_YIELD_NS`] or more.
    pub yields_late: u64,
    /// Times that the automatic mode blocked because a yield had come back late.
    pub blocks_backed_off: u64,
    /// Submissions that a full queue forced between two polls.
    pub submits_early: u64,
    /// Datagrams from members.
    pub datagrams_peers: u64,
    /// Datagrams from clients.
    pub datagrams_clients: u64,
    /// Datagrams that were longer than [`Settings::rx_buffer_bytes`].
    pub datagrams_cut: u64,
    /// Times that a socket's receive buffers ran out.
    pub overruns: u64,
    /// Receives that had to be armed anew.
    pub receives_rearmed: u64,
    /// Errors that the kernel reported on a receive; it goes on.
    pub receive_errors: u64,
    /// Datagrams queued for sending.
    pub sends: u64,
    /// Submissions that carried several datagrams.
    pub trains: u64,
    /// Completions that brought several datagrams.
    pub trains_received: u64,
    /// Submissions that the kernel refused.
    pub sends_failed: u64,
    /// Log writes queued.
    pub writes: u64,
    /// Those of them that the log-writer thread carried out, or shall.
    pub writes_by_thread: u64,
    /// Times that the automatic choice of how to write changed.
    pub writer_changes: u64,
    /// Log writes submitted again, because the kernel said that nothing had happened (EAGAIN, EINTR).
    pub writes_retried: u64,
    /// Wake-ups from other threads.
    pub wakes: u64,
    /// Jobs refused because too many were outstanding.
    pub requests_refused: u64,
    /// What the kernel granted as receive buffer of the members' socket.
    pub receive_buffer_bytes_peers: u64,
    /// What the kernel granted as receive buffer of the clients' socket.
    pub receive_buffer_bytes_clients: u64,
}
