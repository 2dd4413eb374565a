//! One socket's receive buffers: a ring of them that the kernel takes from, and which of them the shard holds.
//!
//! A buffer is in one of three hands: the kernel's (published in the ring, or filled and not reaped), the shard's (some of its
//! datagrams are `out`), or between the two (given back, published with the next poll). Bytes are handed out only from buffers
//! that the shard holds, so that the kernel never writes under a reference. May touch: its two mappings. Called by: the reactor.
//!
//! # Several datagrams in one buffer
//! With receive offload ("GRO") the kernel hands out what it received from one sender in one piece, and how long each datagram in
//! it is. They lie one behind the other, and each is handed out as if it had come alone; the buffer goes back to the kernel with
//! the last of them. Only the first of a piece starts on a cache line: nothing rests on more than that, as frames are read by
//! unaligned accesses.
//!
//! Such a piece may be as long as an IP packet, whatever the datagrams in it are, and so must be each buffer. The kernel takes
//! them in the order in which they were given back, so that all of them go through the cache in turn, but of each no more than
//! was received into it: few large buffers are kinder to it than many small ones.

use crate::arena::{Arena, Mapping};
use crate::settings::{RX_HEADER_BYTES as HEADER_BYTES, Settings, receive_buffer_bytes, rx_header_bytes};
use crate::{IoError, RxBuf, Socket};
use io_uring::types::BufRingEntry;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// `struct io_uring_recvmsg_out`: name length, control length, payload length, flags.
const RECVMSG_OUT_BYTES: usize = 16;
/// `CMSG_SPACE` of the length of a datagram, an int.
const CONTROL_BYTES: usize = 24;

/// Room for the control message and for the source address (the kernel takes up to 128): what to ask for.
pub(super) fn header_lengths(offload: bool) -> (usize, usize) {
    let control = if offload { CONTROL_BYTES } else { 0 };
    (control, HEADER_BYTES - RECVMSG_OUT_BYTES - control)
}

pub(super) struct RxPool {
    pub(super) socket: Socket,
    /// What the kernel takes buffers from: an array of [`BufRingEntry`], its tail in the unused field of the first.
    ring: Arc<Mapping>,
    buffers: Arc<Mapping>,
    count: u16,
    stride: usize,
    /// Where datagrams start in a buffer.
    start: usize,
    /// A buffer may hold several datagrams.
    offload: bool,
    datagram_bytes: usize,
    /// Buffers given to the kernel so far; what is beyond `published` it does not see yet.
    tail: u16,
    published: u16,
    /// Of each buffer, the datagrams that the shard has, or is yet to get.
    out: Box<[u32]>,
    /// Buffers that have some.
    held_count: u16,
    /// Whether a receive is in flight.
    pub(super) armed: bool,
}

/// What a buffer was filled with and was not handed out yet: datagrams of one length, but for the last.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) socket: Socket,
    id: u16,
    next: usize,
    end: usize,
    /// The length of a datagram.
    segment: usize,
    /// All of them.
    pub(super) datagrams: u32,
    /// Who sent them, where that was asked for.
    pub(super) from: Option<SocketAddrV4>,
}

impl RxPool {
    pub(super) fn new(socket: Socket, settings: &Settings, offload: bool) -> Result<RxPool, IoError> {
        let count = match socket {
            Socket::Peers => settings.rx_buffers_peers,
            Socket::Clients => settings.rx_buffers_clients,
        };
        let stride = receive_buffer_bytes(socket, settings.rx_buffer_bytes, offload);
        let failed = |source| IoError::System { call: "mmap", source };
        let mut pool = RxPool {
            socket,
            ring: Arena::new(usize::from(count) * size_of::<BufRingEntry>()).map_err(failed)?.mapping(),
            buffers: Arena::of_huge_pages(usize::from(count) * stride).map_err(failed)?.mapping(),
            count,
            stride,
            start: rx_header_bytes(socket, offload),
            offload,
            datagram_bytes: settings.rx_buffer_bytes,
            tail: 0,
            published: 0,
            out: vec![0; usize::from(count)].into_boxed_slice(),
            held_count: 0,
            armed: false,
        };
        // Now rather than under the first datagrams.
        pool.buffers.populate()?;
        for id in 0..count {
            pool.give(id);
        }
        pool.publish();
        Ok(pool)
    }

    /// The group of buffers that receives on this socket take from.
    pub(super) fn group(&self) -> u16 {
        self.socket as u16
    }

    pub(super) fn ring_address(&self) -> u64 {
        self.ring.base() as u64
    }

    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Whether the kernel writes a header in front of what it receives.
    pub(super) fn has_header(&self) -> bool {
        self.start > 0
    }

    /// Whether the kernel has a buffer to receive into.
    pub(super) fn has_room(&self) -> bool {
        self.held_count < self.count
    }

    /// Both mappings, to keep them alive beyond this pool.
    pub(super) fn mappings(&self) -> [Arc<Mapping>; 2] {
        [self.ring.clone(), self.buffers.clone()]
    }

    /// Takes a buffer over that the kernel filled with `bytes` in all, header included. Each datagram of the piece must be
    /// handed out ([`RxPool::next_of`]) and released.
    pub(super) fn filled(&mut self, id: u16, bytes: usize) -> Piece {
        let out = &mut self.out[usize::from(id)];
        assert_eq!(*out, 0, "the kernel filled buffer {id} of {:?}, which the shard holds", self.socket);
        *out = 1;
        self.held_count += 1;
        let len = bytes.checked_sub(self.start).expect("a datagram without the header that was asked for");
        let header = Header(self.bytes(id, 0, self.start));
        let from = (self.socket == Socket::Clients).then(|| header.source());
        let segment = self.offload.then(|| header.segment()).flatten().unwrap_or(len);
        // An empty datagram is one, too.
        let datagrams = len.div_ceil(segment.max(1)).max(1) as u32;
        self.out[usize::from(id)] = datagrams;
        Piece { socket: self.socket, id, next: self.start, end: self.start + len, segment, datagrams, from }
    }

    /// The next datagram of a piece, and whether it was the last.
    pub(super) fn next_of(&self, piece: &mut Piece) -> (RxBuf, bool) {
        let bytes = piece.segment.min(piece.end - piece.next);
        let (start, cut) = (piece.next as u32, bytes > self.datagram_bytes);
        piece.next += bytes;
        let len = bytes.min(self.datagram_bytes) as u32;
        (RxBuf { id: piece.id, socket: self.socket, start, len, cut }, piece.next == piece.end)
    }

    /// Takes a buffer back that an error left unused.
    pub(super) fn give_back(&mut self, id: u16) {
        assert_eq!(
            self.out[usize::from(id)],
            0,
            "the kernel chose buffer {id} of {:?}, which the shard holds",
            self.socket
        );
        self.give(id);
    }

    pub(super) fn release(&mut self, buf: RxBuf) {
        let out = &mut self.out[usize::from(buf.id)];
        assert!(*out > 0, "buffer {} of {:?} is released more often than it was handed out", buf.id, self.socket);
        *out -= 1;
        if *out == 0 {
            self.held_count -= 1;
            self.give(buf.id);
        }
    }

    pub(super) fn datagram(&self, buf: &RxBuf) -> &[u8] {
        self.bytes(buf.id, buf.start as usize, buf.len as usize)
    }

    fn bytes(&self, id: u16, start: usize, len: usize) -> &[u8] {
        assert!(self.out[usize::from(id)] > 0, "buffer {id} of {:?} is not the shard's", self.socket);
        assert!(start.checked_add(len).is_some_and(|end| end <= self.stride), "outside of a receive buffer");
        // SAFETY: in bounds (`id` indexed `out`, and above), zeroed by mmap, and the shard's: the kernel writes to a buffer
        // only once it is published again, which needs all its `RxBuf`s back and `&mut self`.
        unsafe { std::slice::from_raw_parts(self.buffers.base().add(usize::from(id) * self.stride + start), len) }
    }

    /// Puts a buffer at the end of the ring. The kernel sees it once published.
    fn give(&mut self, id: u16) {
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the ring has `count` entries, a power of two, and `id` is below `count`. This entry is not the kernel's: it
        // reads between its head and the published tail, and no more than `count` buffers are out.
        unsafe {
            let entry = &mut *self.ring.base().cast_mut().cast::<BufRingEntry>().add(index);
            entry.set_addr(self.buffers.base().add(usize::from(id) * self.stride) as u64);
            entry.set_len(self.stride as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see all buffers given since the last call.
    pub(super) fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        // SAFETY: the ring starts with an initialised entry, whose unused field is the tail; it is aligned for an `AtomicU16`,
        // lives as long as `self`, and the kernel accesses it atomically too.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.base().cast()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
    }
}

/// What the kernel wrote in front of what it received.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn source(&self) -> SocketAddrV4 {
        let from = crate::socket::parse_sockaddr(&self.0[RECVMSG_OUT_BYTES..]);
        from.expect("an IPv4 socket received from another family")
    }

    /// The length of each datagram, if there are several: the control message UDP_GRO, behind the room for the address.
    fn segment(&self) -> Option<usize> {
        let word = |at: usize| i32::from_ne_bytes(self.0[at..at + 4].try_into().expect("four bytes"));
        // `struct io_uring_recvmsg_out`: the second word is the length of the control data.
        let control_bytes = word(4);
        // `struct cmsghdr`: a length of 64 bits, the level, the type; then the number.
        let at = HEADER_BYTES - CONTROL_BYTES;
        let is_segment = control_bytes > 0 && word(at + 8) == libc::SOL_UDP && word(at + 12) == libc::UDP_GRO;
        is_segment.then(|| usize::try_from(word(at + 16)).ok()).flatten().filter(|bytes| *bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogWriter, WaitMode};

    fn pool(socket: Socket, offload: bool) -> RxPool {
        let any = "127.0.0.1:0".parse().unwrap();
        let settings = Settings {
            peers_listen: any,
            clients_listen: any,
            peers: Vec::new(),
            rx_buffers_peers: 4,
            rx_buffers_clients: 4,
            rx_buffer_bytes: 127,
            receive_offload: offload,
            sq_entries: 8,
            cq_entries: 128,
            socket_buffer_bytes: 1 << 16,
            wait: WaitMode::Block,
            dont_fragment: false,
            max_events: 8,
            log_writer: LogWriter::Ring,
            log_threads: 1,
            napi_busy_poll_us: 0,
            segmentation: true,
        };
        RxPool::new(socket, &settings, offload).unwrap()
    }

    /// Writes what the kernel writes in front of a piece.
    fn write_header(pool: &mut RxPool, id: u16, control: Option<(i32, i32, i32)>) {
        let mut header = [0; HEADER_BYTES];
        header[16..18].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        header[18..20].copy_from_slice(&7_400u16.to_be_bytes());
        header[20..24].copy_from_slice(&[127, 0, 0, 1]);
        if let Some((level, kind, value)) = control {
            header[4..8].copy_from_slice(&24u32.to_ne_bytes());
            header[40..48].copy_from_slice(&20u64.to_ne_bytes());
            header[48..52].copy_from_slice(&level.to_ne_bytes());
            header[52..56].copy_from_slice(&kind.to_ne_bytes());
            header[56..60].copy_from_slice(&value.to_ne_bytes());
        }
        let to = usize::from(id) * pool.stride;
        // SAFETY: in bounds of the mapping, and no reference to it exists: `pool` is borrowed exclusively.
        unsafe { pool.buffers.base().cast_mut().add(to).copy_from(header.as_ptr(), HEADER_BYTES) };
    }

    fn datagrams(pool: &mut RxPool, id: u16, bytes: usize) -> Vec<RxBuf> {
        let mut piece = pool.filled(id, bytes);
        let mut all = Vec::new();
        loop {
            let (buf, last) = pool.next_of(&mut piece);
            all.push(buf);
            if last {
                assert_eq!(all.len(), piece.datagrams as usize);
                return all;
            }
        }
    }

    fn one(pool: &mut RxPool, id: u16, bytes: usize) -> RxBuf {
        let mut all = datagrams(pool, id, bytes);
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn the_control_message_fits_its_room() {
        // SAFETY: takes no pointer.
        assert_eq!(unsafe { libc::CMSG_SPACE(4) } as usize, CONTROL_BYTES);
        assert_eq!(header_lengths(true), (24, 24));
        assert!(header_lengths(true).1 >= size_of::<libc::sockaddr_in>());
    }

    #[test]
    fn a_datagram_beyond_the_longest_is_cut() {
        let mut pool = pool(Socket::Peers, false);
        let whole = one(&mut pool, 0, 127);
        assert_eq!((whole.len, whole.cut), (127, false));
        let cut = one(&mut pool, 1, 128);
        assert_eq!((cut.len, cut.cut), (127, true));
        assert_eq!(pool.datagram(&cut).len(), 127);
    }

    #[test]
    fn clients_datagrams_start_after_the_header() {
        for offload in [false, true] {
            let mut pool = pool(Socket::Clients, offload);
            write_header(&mut pool, 3, None);
            let piece = pool.filled(3, HEADER_BYTES + 5);
            assert_eq!(piece.from, Some("127.0.0.1:7400".parse().unwrap()));
            let (buf, last) = pool.next_of(&mut { piece });
            assert_eq!((buf.start, buf.len, buf.cut, last), (64, 5, false, true));
        }
    }

    #[test]
    fn a_piece_is_cut_where_the_kernel_says_and_its_buffer_comes_back_with_the_last() {
        for socket in [Socket::Peers, Socket::Clients] {
            let mut pool = pool(socket, true);
            write_header(&mut pool, 2, Some((libc::SOL_UDP, libc::UDP_GRO, 100)));
            let mut all = datagrams(&mut pool, 2, HEADER_BYTES + 230);
            let places: Vec<_> = all.iter().map(|buf| (buf.start, buf.len, buf.cut)).collect();
            assert_eq!(places, [(64, 100, false), (164, 100, false), (264, 30, false)]);
            let given = pool.tail;
            // In any order.
            pool.release(all.remove(1));
            pool.release(all.remove(1));
            assert_eq!((pool.tail, pool.held_count), (given, 1));
            assert_eq!(pool.datagram(&all[0]).len(), 100);
            pool.release(all.remove(0));
            assert_eq!((pool.tail, pool.held_count), (given.wrapping_add(1), 0));
        }
    }

    #[test]
    fn each_datagram_of_a_piece_beyond_the_longest_is_cut() {
        let mut pool = pool(Socket::Peers, true);
        write_header(&mut pool, 0, Some((libc::SOL_UDP, libc::UDP_GRO, 128)));
        let places: Vec<_> =
            datagrams(&mut pool, 0, HEADER_BYTES + 2 * 128 + 127).iter().map(|buf| (buf.len, buf.cut)).collect();
        assert_eq!(places, [(127, true), (127, true), (127, false)]);
    }

    #[test]
    fn what_no_length_of_datagrams_came_with_is_one() {
        let mut pool = pool(Socket::Peers, true);
        for (id, control) in [
            (0, None),
            (1, Some((libc::SOL_UDP, libc::UDP_GRO, 0))),
            (2, Some((libc::SOL_UDP, libc::UDP_GRO, -4))),
            (3, Some((libc::SOL_SOCKET, libc::UDP_GRO, 10))),
        ] {
            write_header(&mut pool, id, control);
            let buf = one(&mut pool, id, HEADER_BYTES + 100);
            assert_eq!((buf.start, buf.len, buf.cut), (64, 100, false));
        }
    }

    #[test]
    fn an_empty_datagram_is_one() {
        let mut pool = pool(Socket::Peers, true);
        write_header(&mut pool, 0, None);
        assert_eq!(one(&mut pool, 0, HEADER_BYTES).len, 0);
    }

    #[test]
    fn room_ends_when_all_are_held() {
        let mut pool = pool(Socket::Peers, false);
        let mut held: Vec<RxBuf> = (0..4).map(|id| one(&mut pool, id, 1)).collect();
        assert!(!pool.has_room());
        pool.release(held.pop().unwrap());
        assert!(pool.has_room());
    }

    #[test]
    #[should_panic(expected = "is released more often than it was handed out")]
    fn a_second_release_is_a_bug() {
        let mut pool = pool(Socket::Peers, false);
        let buf = one(&mut pool, 2, 1);
        let forged = RxBuf { ..one(&mut pool, 1, 1) };
        pool.release(buf);
        pool.release(RxBuf { id: 2, ..forged });
    }

    #[test]
    #[should_panic(expected = "is not the shard's")]
    fn bytes_of_a_buffer_that_the_kernel_has_are_not_shown() {
        let mut pool = pool(Socket::Peers, false);
        let buf = one(&mut pool, 2, 1);
        let stale = RxBuf { ..one(&mut pool, 1, 1) };
        pool.release(buf);
        pool.datagram(&RxBuf { id: 2, ..stale });
    }
}
