//! One socket's receive buffers: their memory, and which of them the shard holds.
//!
//! A buffer is the kernel's, or the shard's: some of its datagrams are `out`. Bytes are handed out only from buffers that the shard
//! holds, so that the kernel never writes under a reference. How a buffer gets to the kernel is the reactor's matter. May touch: its
//! mapping. Called by: the reactors.
//!
//! # Several datagrams in one buffer
//! With receive offload ("GRO") the kernel hands out what it received from one sender in one piece, and how long each datagram in
//! it is. They lie one behind the other, and each is handed out as if it had come alone; the buffer goes back to the kernel with
//! the last of them. Only the first of a piece starts on a cache line: nothing rests on more than that, as frames are read by
//! unaligned accesses.
//!
//! Such a piece may be as long as an IP packet, whatever the datagrams in it are, and so must be each buffer.

use crate::arena::{Arena, Mapping};
use crate::settings::{Settings, Stats, receive_buffer_bytes, rx_header_bytes};
use crate::{Event, IoError, RxBuf, Socket};
use std::net::SocketAddrV4;
use std::sync::Arc;

/// What a reactor receives into. Made before it, with all its pages: by a thread that others need not wait for.
#[derive(Debug)]
pub struct ReceiveMemory(pub(crate) [Arc<Mapping>; 2]);

impl ReceiveMemory {
    /// As much as these settings ask for. Long work, which gives way.
    pub fn new(settings: &Settings) -> Result<ReceiveMemory, IoError> {
        let pool = |socket| {
            let bytes = receive_buffer_bytes(socket, settings.rx_buffer_bytes, settings.receive_offload);
            let failed = |call| move |source| IoError::System { call, source };
            let arena = Arena::of_huge_pages(usize::from(count(socket, settings)) * bytes).map_err(failed("mmap"))?;
            arena.populate().map_err(failed("madvise(MADV_POPULATE_WRITE)"))?;
            Ok(arena.mapping())
        };
        Ok(ReceiveMemory([pool(Socket::Peers)?, pool(Socket::Clients)?]))
    }
}

fn count(socket: Socket, settings: &Settings) -> u16 {
    match socket {
        Socket::Peers => settings.rx_buffers_peers,
        Socket::Clients => settings.rx_buffers_clients,
    }
}

pub(crate) struct Buffers {
    pub(crate) socket: Socket,
    memory: Arc<Mapping>,
    pub(crate) count: u16,
    pub(crate) stride: usize,
    /// Where datagrams start in a buffer.
    pub(crate) start: usize,
    datagram_bytes: usize,
    /// Of each buffer, the datagrams that the shard has, or is yet to get.
    out: Box<[u32]>,
    /// Buffers that have some.
    held: u16,
}

/// What a buffer was filled with and was not handed out yet: datagrams of one length, but for the last.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) socket: Socket,
    id: u16,
    next: usize,
    end: usize,
    /// The length of a datagram.
    segment: usize,
    /// All of them.
    pub(crate) datagrams: u32,
    /// Who sent them, where that was asked for.
    pub(crate) from: Option<SocketAddrV4>,
}

impl Buffers {
    /// In this socket's [`ReceiveMemory`].
    ///
    /// # Panics
    /// If that was made with other settings.
    pub(crate) fn new(socket: Socket, settings: &Settings, offload: bool, memory: Arc<Mapping>) -> Buffers {
        let count = count(socket, settings);
        let stride = receive_buffer_bytes(socket, settings.rx_buffer_bytes, offload);
        assert!(usize::from(count) * stride <= memory.len(), "memory for fewer or shorter datagrams");
        Buffers {
            socket,
            memory,
            count,
            stride,
            start: rx_header_bytes(socket, offload),
            datagram_bytes: settings.rx_buffer_bytes,
            out: vec![0; usize::from(count)].into_boxed_slice(),
            held: 0,
        }
    }

    /// Where a buffer starts, for the kernel.
    pub(crate) fn address(&self, id: u16) -> *mut u8 {
        assert!(id < self.count);
        // SAFETY: the mapping has `count` buffers of `stride` bytes.
        unsafe { self.memory.base().cast_mut().add(usize::from(id) * self.stride) }
    }

    /// The memory, to keep it alive beyond this.
    pub(crate) fn mapping(&self) -> Arc<Mapping> {
        self.memory.clone()
    }

    /// Buffers that the shard holds.
    pub(crate) fn held(&self) -> u16 {
        self.held
    }

    /// Whether the shard holds this one.
    pub(crate) fn is_held(&self, id: u16) -> bool {
        self.out[usize::from(id)] > 0
    }

    /// Takes a buffer over that the kernel filled up to `end`. `segment`: how long each datagram in it is, if there are several. Each
    /// of them must be handed out ([`Buffers::hand_out`]) and released.
    pub(crate) fn filled(&mut self, id: u16, end: usize, segment: Option<usize>, from: Option<SocketAddrV4>) -> Piece {
        assert!(!self.is_held(id), "the kernel filled buffer {id} of {:?}, which the shard holds", self.socket);
        let len = end.checked_sub(self.start).expect("a datagram without the header that was asked for");
        let segment = segment.unwrap_or(len);
        // An empty datagram is one, too.
        let datagrams = len.div_ceil(segment.max(1)).max(1) as u32;
        self.out[usize::from(id)] = datagrams;
        self.held += 1;
        Piece { socket: self.socket, id, next: self.start, end, segment, datagrams, from }
    }

    /// Makes an event of each datagram of a piece, up to the bound; what is left of it.
    pub(crate) fn hand_out<D>(
        &self,
        mut piece: Piece,
        events: &mut Vec<Event<D>>,
        limit: usize,
        stats: &mut Stats,
    ) -> Option<Piece> {
        let count = match piece.socket {
            Socket::Peers => &mut stats.datagrams_peers,
            Socket::Clients => &mut stats.datagrams_clients,
        };
        while events.len() < limit {
            let (buf, last) = self.next_of(&mut piece);
            *count += 1;
            stats.datagrams_cut += u64::from(buf.cut);
            events.push(Event::Datagram { buf, from: piece.from });
            if last {
                return None;
            }
        }
        Some(piece)
    }

    /// The next datagram of a piece, and whether it was the last.
    fn next_of(&self, piece: &mut Piece) -> (RxBuf, bool) {
        let bytes = piece.segment.min(piece.end - piece.next);
        let (start, cut) = (piece.next as u32, bytes > self.datagram_bytes);
        piece.next += bytes;
        let len = bytes.min(self.datagram_bytes) as u32;
        (RxBuf { id: piece.id, socket: self.socket, start, len, cut }, piece.next == piece.end)
    }

    /// Takes a datagram back. Says whether its buffer is free now.
    pub(crate) fn release(&mut self, buf: &RxBuf) -> bool {
        let out = &mut self.out[usize::from(buf.id)];
        assert!(*out > 0, "buffer {} of {:?} is released more often than it was handed out", buf.id, self.socket);
        *out -= 1;
        let is_free = *out == 0;
        self.held -= u16::from(is_free);
        is_free
    }

    pub(crate) fn datagram(&self, buf: &RxBuf) -> &[u8] {
        assert!(self.is_held(buf.id), "buffer {} of {:?} is not the shard's", buf.id, self.socket);
        // SAFETY: the shard holds the buffer (above): the kernel writes to it only once it is free again, which needs all its
        // `RxBuf`s back and `&mut self`.
        unsafe { self.bytes(buf.id, buf.start as usize, buf.len as usize) }
    }

    /// Some of a buffer's bytes.
    ///
    /// # Safety
    /// The kernel does not write to this buffer while they are borrowed.
    pub(crate) unsafe fn bytes(&self, id: u16, start: usize, len: usize) -> &[u8] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.stride), "outside of a receive buffer");
        // SAFETY: in bounds (above, and `address` checks the number), zeroed by mmap, and not written meanwhile, as the caller promised.
        unsafe { std::slice::from_raw_parts(self.address(id).add(start), len) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{LogWriter, WaitMode};

    pub(crate) fn settings(offload: bool) -> Settings {
        let any = "127.0.0.1:0".parse().unwrap();
        Settings {
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
        }
    }

    pub(crate) fn memory(offload: bool) -> [Arc<Mapping>; 2] {
        ReceiveMemory::new(&settings(offload)).unwrap().0
    }

    fn buffers(socket: Socket, offload: bool) -> Buffers {
        Buffers::new(socket, &settings(offload), offload, memory(offload)[socket as usize].clone())
    }

    /// All datagrams of a piece.
    pub(crate) fn all_of(buffers: &Buffers, piece: Piece) -> Vec<RxBuf> {
        let (mut events, datagrams) = (Vec::<Event<()>>::new(), piece.datagrams as usize);
        assert!(buffers.hand_out(piece, &mut events, usize::MAX, &mut Stats::default()).is_none());
        assert_eq!(events.len(), datagrams);
        let buf = |event| if let Event::Datagram { buf, .. } = event { buf } else { panic!("{event:?}") };
        events.into_iter().map(buf).collect()
    }

    #[test]
    fn a_piece_that_does_not_fit_a_poll_goes_on_where_it_was_left() {
        let mut buffers = buffers(Socket::Clients, true);
        let from = Some("127.0.0.1:7400".parse().unwrap());
        let piece = buffers.filled(1, buffers.start + 250, Some(100), from);
        let (mut events, mut stats) = (Vec::<Event<()>>::new(), Stats::default());
        let rest = buffers.hand_out(piece, &mut events, 2, &mut stats).unwrap();
        assert_eq!((events.len(), stats.datagrams_clients), (2, 2));
        assert!(buffers.hand_out(rest, &mut events, 3, &mut stats).is_none());
        let last = events.pop();
        assert!(matches!(&last, Some(Event::Datagram { buf, from: of }) if buf.len == 50 && *of == from), "{last:?}");
    }
}
