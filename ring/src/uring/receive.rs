//! One socket's receive buffers, and the ring in which the kernel finds them.
//!
//! A buffer is in one of three hands: the kernel's (published in the ring, or filled and not reaped), the shard's (see
//! [`crate::buffers`]), or between the two (given back, published with the next poll). May touch: its two mappings. Called by: the
//! reactor.
//!
//! The kernel takes buffers in the order in which they were given back, so that all of them go through the cache in turn, but of
//! each no more than was received into it: few large buffers, as receive offload needs them, are kinder to it than many small ones.

use crate::arena::{Arena, Mapping};
use crate::buffers::{Buffers, Piece};
use crate::settings::{RX_HEADER_BYTES as HEADER_BYTES, Settings};
use crate::socket::{CONTROL_BYTES, segment_of};
use crate::{IoError, RxBuf, Socket};
use io_uring::types::BufRingEntry;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// `struct io_uring_recvmsg_out`: name length, control length, payload length, flags.
const RECVMSG_OUT_BYTES: usize = 16;
/// Room for the control message and for the source address (the kernel takes up to 128): what to ask for.
pub(super) fn header_lengths(offload: bool) -> (usize, usize) {
    let control = if offload { CONTROL_BYTES } else { 0 };
    (control, HEADER_BYTES - RECVMSG_OUT_BYTES - control)
}

pub(super) struct RxPool {
    pub(super) buffers: Buffers,
    /// What the kernel takes buffers from: an array of [`BufRingEntry`], its tail in the unused field of the first.
    ring: Arc<Mapping>,
    /// A buffer may hold several datagrams.
    offload: bool,
    /// Buffers given to the kernel so far; what is beyond `published` it does not see yet.
    tail: u16,
    published: u16,
    /// Whether a receive is in flight.
    pub(super) armed: bool,
}

impl RxPool {
    pub(super) fn new(
        socket: Socket,
        settings: &Settings,
        offload: bool,
        memory: Arc<Mapping>,
    ) -> Result<RxPool, IoError> {
        let buffers = Buffers::new(socket, settings, offload, memory);
        let failed = |source| IoError::System { call: "mmap", source };
        let ring = Arena::new(usize::from(buffers.count) * size_of::<BufRingEntry>()).map_err(failed)?.mapping();
        let mut pool = RxPool { buffers, ring, offload, tail: 0, published: 0, armed: false };
        for id in 0..pool.count() {
            pool.give(id);
        }
        pool.publish();
        Ok(pool)
    }

    pub(super) fn socket(&self) -> Socket {
        self.buffers.socket
    }

    /// The group of buffers that receives on this socket take from.
    pub(super) fn group(&self) -> u16 {
        self.socket() as u16
    }

    pub(super) fn ring_address(&self) -> u64 {
        self.ring.base() as u64
    }

    pub(super) fn count(&self) -> u16 {
        self.buffers.count
    }

    /// Whether the kernel writes a header in front of what it receives.
    pub(super) fn has_header(&self) -> bool {
        self.buffers.start > 0
    }

    /// Whether the kernel has a buffer to receive into.
    pub(super) fn has_room(&self) -> bool {
        self.buffers.held() < self.count()
    }

    /// Both mappings, to keep them alive beyond this pool.
    pub(super) fn mappings(&self) -> [Arc<Mapping>; 2] {
        [self.ring.clone(), self.buffers.mapping()]
    }

    /// Takes a buffer over that the kernel filled with `bytes` in all, header included. Each datagram of the piece must be
    /// handed out and released.
    pub(super) fn filled(&mut self, id: u16, bytes: usize) -> Piece {
        // SAFETY: the kernel has filled this buffer, and writes to it again only once it is published anew.
        let header = Header(unsafe { self.buffers.bytes(id, 0, self.buffers.start) });
        let from = (self.socket() == Socket::Clients).then(|| header.source());
        let segment = self.offload.then(|| header.segment()).flatten();
        self.buffers.filled(id, bytes, segment, from)
    }

    /// Takes a buffer back that an error left unused.
    pub(super) fn give_back(&mut self, id: u16) {
        let socket = self.socket();
        assert!(!self.buffers.is_held(id), "the kernel chose buffer {id} of {socket:?}, which the shard holds");
        self.give(id);
    }

    pub(super) fn release(&mut self, buf: RxBuf) {
        if self.buffers.release(&buf) {
            self.give(buf.id);
        }
    }

    pub(super) fn datagram(&self, buf: &RxBuf) -> &[u8] {
        self.buffers.datagram(buf)
    }

    /// Puts a buffer at the end of the ring. The kernel sees it once published.
    fn give(&mut self, id: u16) {
        let index = usize::from(self.tail & (self.count() - 1));
        // SAFETY: the ring has `count` entries, a power of two, and `id` is below `count`. This entry is not the kernel's: it
        // reads between its head and the published tail, and no more than `count` buffers are out.
        unsafe {
            let entry = &mut *self.ring.base().cast_mut().cast::<BufRingEntry>().add(index);
            entry.set_addr(self.buffers.address(id) as u64);
            entry.set_len(self.buffers.stride as u32);
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
        // `struct io_uring_recvmsg_out`: the second word is the length of the control data.
        let has_control = self.0[4..8] != [0; 4];
        has_control.then(|| segment_of(&self.0[HEADER_BYTES - CONTROL_BYTES..])).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffers::tests::{all_of, memory, settings};

    fn pool(socket: Socket, offload: bool) -> RxPool {
        let [peers, clients] = memory(offload);
        let memory = if socket == Socket::Peers { peers } else { clients };
        RxPool::new(socket, &settings(offload), offload, memory).unwrap()
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
        // SAFETY: in bounds of the mapping, and no reference to it exists: `pool` is borrowed exclusively.
        unsafe { pool.buffers.address(id).copy_from(header.as_ptr(), HEADER_BYTES) };
    }

    fn datagrams(pool: &mut RxPool, id: u16, bytes: usize) -> Vec<RxBuf> {
        let piece = pool.filled(id, bytes);
        all_of(&pool.buffers, piece)
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
            let buf = all_of(&pool.buffers, piece).remove(0);
            assert_eq!((buf.start, buf.len, buf.cut), (64, 5, false));
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
            assert_eq!((pool.tail, pool.buffers.held()), (given, 1));
            assert_eq!(pool.datagram(&all[0]).len(), 100);
            pool.release(all.remove(0));
            assert_eq!((pool.tail, pool.buffers.held()), (given.wrapping_add(1), 0));
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
