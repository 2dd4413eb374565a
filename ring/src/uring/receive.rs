//! One socket's receive buffers: a ring of them that the kernel takes from, and which of them the shard holds.
//!
//! A buffer is in one of three hands: the kernel's (published in the ring, or filled and not reaped), the shard's (`held`), or
//! between the two (given back, published with the next poll). Bytes are handed out only from buffers that the shard holds, so
//! that the kernel never writes under a reference. May touch: its two mappings. Called by: the reactor.

use crate::arena::{Arena, Mapping};
use crate::settings::Settings;
use crate::{IoError, RxBuf, Socket};
use io_uring::types::BufRingEntry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// What the kernel writes in front of a client's datagram: `struct io_uring_recvmsg_out` and room for the source address,
/// sized so that the datagram starts on a cache line like the buffer itself.
pub(super) const CLIENT_HEADER_BYTES: usize = 64;
/// `struct io_uring_recvmsg_out`: name length, control length, payload length, flags.
pub(super) const RECVMSG_OUT_BYTES: usize = 16;
/// Room for the source address (the kernel takes up to 128).
pub(super) const CLIENT_NAME_BYTES: usize = CLIENT_HEADER_BYTES - RECVMSG_OUT_BYTES;
/// Buffers start at multiples of this, and so do the frames in them.
const BUFFER_ALIGN: usize = 64;

pub(super) struct RxPool {
    pub(super) socket: Socket,
    /// What the kernel takes buffers from: an array of [`BufRingEntry`], its tail in the unused field of the first.
    ring: Arc<Mapping>,
    buffers: Arc<Mapping>,
    count: u16,
    stride: usize,
    /// Where datagrams start in a buffer.
    start: usize,
    datagram_bytes: usize,
    /// Buffers given to the kernel so far; what is beyond `published` it does not see yet.
    tail: u16,
    published: u16,
    held: Box<[bool]>,
    held_count: u16,
    /// Whether a receive is in flight.
    pub(super) armed: bool,
}

impl RxPool {
    pub(super) fn new(socket: Socket, settings: &Settings) -> Result<RxPool, IoError> {
        let (count, start) = match socket {
            Socket::Peers => (settings.rx_buffers_peers, 0),
            Socket::Clients => (settings.rx_buffers_clients, CLIENT_HEADER_BYTES),
        };
        // One byte more than the longest datagram, at least: what reaches into it was longer.
        let stride = (start + settings.rx_buffer_bytes + 1).next_multiple_of(BUFFER_ALIGN);
        let map = |bytes| Arena::new(bytes).map_err(|source| IoError::System { call: "mmap", source });
        let mut pool = RxPool {
            socket,
            ring: map(usize::from(count) * size_of::<BufRingEntry>())?.mapping(),
            buffers: map(usize::from(count) * stride)?.mapping(),
            count,
            stride,
            start,
            datagram_bytes: settings.rx_buffer_bytes,
            tail: 0,
            published: 0,
            held: vec![false; usize::from(count)].into_boxed_slice(),
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

    /// Whether the kernel has a buffer to receive into.
    pub(super) fn has_room(&self) -> bool {
        self.held_count < self.count
    }

    /// Both mappings, to keep them alive beyond this pool.
    pub(super) fn mappings(&self) -> [Arc<Mapping>; 2] {
        [self.ring.clone(), self.buffers.clone()]
    }

    /// The shard has a buffer that the kernel filled with `bytes` in all, header included.
    pub(super) fn hold(&mut self, id: u16, bytes: usize) -> RxBuf {
        let held = &mut self.held[usize::from(id)];
        assert!(!*held, "the kernel filled buffer {id} of {:?}, which the shard holds", self.socket);
        *held = true;
        self.held_count += 1;
        let bytes = bytes.checked_sub(self.start).expect("a datagram without the header that was asked for");
        let len = bytes.min(self.datagram_bytes);
        RxBuf { id, socket: self.socket, start: self.start as u32, len: len as u32, cut: bytes > self.datagram_bytes }
    }

    /// Takes a buffer back that an error left unused.
    pub(super) fn give_back(&mut self, id: u16) {
        assert!(
            !self.held[usize::from(id)],
            "the kernel chose buffer {id} of {:?}, which the shard holds",
            self.socket
        );
        self.give(id);
    }

    pub(super) fn release(&mut self, buf: RxBuf) {
        let held = &mut self.held[usize::from(buf.id)];
        assert!(*held, "buffer {} of {:?} is released twice", buf.id, self.socket);
        *held = false;
        self.held_count -= 1;
        self.give(buf.id);
    }

    pub(super) fn datagram(&self, buf: &RxBuf) -> &[u8] {
        self.bytes(buf.id, buf.start as usize, buf.len as usize)
    }

    /// What the kernel wrote in front of a datagram.
    pub(super) fn header(&self, buf: &RxBuf) -> &[u8] {
        self.bytes(buf.id, 0, self.start)
    }

    fn bytes(&self, id: u16, start: usize, len: usize) -> &[u8] {
        assert!(self.held[usize::from(id)], "buffer {id} of {:?} is not the shard's", self.socket);
        assert!(start.checked_add(len).is_some_and(|end| end <= self.stride), "outside of a receive buffer");
        // SAFETY: in bounds (`id` indexed `held`, and above), zeroed by mmap, and the shard's: the kernel writes to a buffer
        // only once it is published again, which needs the `RxBuf` back and `&mut self`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogWriter, WaitMode};

    fn pool(socket: Socket) -> RxPool {
        let any = "127.0.0.1:0".parse().unwrap();
        let settings = Settings {
            peers_listen: any,
            clients_listen: any,
            peers: Vec::new(),
            rx_buffers_peers: 4,
            rx_buffers_clients: 4,
            rx_buffer_bytes: 127,
            sq_entries: 8,
            cq_entries: 128,
            socket_buffer_bytes: 1 << 16,
            wait: WaitMode::Block,
            dont_fragment: false,
            max_events: 8,
            log_writer: LogWriter::Ring,
            napi_busy_poll_us: 0,
            segmentation: true,
        };
        RxPool::new(socket, &settings).unwrap()
    }

    #[test]
    fn a_datagram_beyond_the_longest_is_cut() {
        let mut pool = pool(Socket::Peers);
        let whole = pool.hold(0, 127);
        assert_eq!((whole.len, whole.cut), (127, false));
        let cut = pool.hold(1, 128);
        assert_eq!((cut.len, cut.cut), (127, true));
        assert_eq!(pool.datagram(&cut).len(), 127);
    }

    #[test]
    fn clients_datagrams_start_after_the_header() {
        let mut pool = pool(Socket::Clients);
        let buf = pool.hold(3, CLIENT_HEADER_BYTES + 5);
        assert_eq!((buf.start, buf.len, buf.cut), (64, 5, false));
        assert_eq!(pool.header(&buf).len(), 64);
    }

    #[test]
    fn room_ends_when_all_are_held() {
        let mut pool = pool(Socket::Peers);
        let mut held: Vec<RxBuf> = (0..4).map(|id| pool.hold(id, 1)).collect();
        assert!(!pool.has_room());
        pool.release(held.pop().unwrap());
        assert!(pool.has_room());
    }

    #[test]
    #[should_panic(expected = "is released twice")]
    fn a_second_release_is_a_bug() {
        let mut pool = pool(Socket::Peers);
        let buf = pool.hold(2, 1);
        let forged = RxBuf { ..pool.hold(1, 1) };
        pool.release(buf);
        pool.release(RxBuf { id: 2, ..forged });
    }

    #[test]
    #[should_panic(expected = "is not the shard's")]
    fn bytes_of_a_buffer_that_the_kernel_has_are_not_shown() {
        let mut pool = pool(Socket::Peers);
        let buf = pool.hold(2, 1);
        let stale = RxBuf { ..pool.hold(1, 1) };
        pool.release(buf);
        pool.datagram(&RxBuf { id: 2, ..stale });
    }
}
