//! Where a turn's small datagrams are built. Emptied at the start of each turn: by then the kernel has copied them.
//!
//! Frames for the same members that lie one behind the other, here or in the log's arena, travel in one datagram. Datagrams of
//! one length for the same members that follow each other (accept requests of full batches, values for a laggard) are handed
//! over as a train; and so are those for one client (the entries that it reads, acknowledgements of many appends).

use std::net::{Ipv4Addr, SocketAddrV4};
use synod_ring::{Arena, Io, SEGMENTS_MAX, TRAIN_BYTES_MAX};
use synod_wal::{Log, Place};
use synod_wire::frame::aligned;
use synod_wire::mutant::mutant;
use synod_wire::{NodeId, NodeSet};

/// Bytes of the outbox: the replies and messages of the fullest turn, see `memory`.
pub const OUTBOX_BYTES: usize = 4 << 20;
/// Datagrams queued before they are handed on; more go out in between.
const MAX_QUEUED: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bytes {
    Outbox { start: usize, len: usize },
    Log(Place),
}

impl Bytes {
    fn len(self) -> usize {
        match self {
            Bytes::Outbox { len, .. } => len,
            Bytes::Log(place) => place.bytes as usize,
        }
    }
}

/// How many of the first of these datagrams make a train: for the same members, of one length but for a shorter last one.
fn train(queued: &[(NodeSet, Bytes)]) -> usize {
    let (to, first) = (queued[0].0, queued[0].1.len());
    let most = SEGMENTS_MAX.min(TRAIN_BYTES_MAX / first.max(1)).max(1);
    let alike = queued.iter().take(most).take_while(|(set, bytes)| *set == to && bytes.len() == first).count();
    let last = queued.get(alike).filter(|(set, bytes)| *set == to && bytes.len() < first && alike < most);
    alike + usize::from(last.is_some())
}

/// Whether a datagram of `len` bytes may follow these in a train.
fn joins(train: &[(usize, usize)], len: usize) -> bool {
    let (Some((_, first)), Some((_, last))) = (train.first(), train.last()) else { return false };
    let bytes = train.len() * first + len;
    last == first && len <= *first && train.len() < SEGMENTS_MAX && bytes <= TRAIN_BYTES_MAX
}

/// The datagrams that this turn sends.
#[derive(Debug)]
pub(crate) struct Outbox {
    arena: Arena,
    used: usize,
    /// Where the datagrams to one client lie that make a train so far, start and length.
    replies: Vec<(usize, usize)>,
    replies_to: SocketAddrV4,
    queued: Vec<(NodeSet, Bytes)>,
    max_datagram_bytes: usize,
    /// The peers' table of the reactor, by node number.
    index: [Option<u8>; NodeId::LIMIT as usize],
    /// Datagrams handed to the reactor.
    pub(crate) sent: u64,
    /// Datagrams dropped because the outbox was full.
    pub(crate) full: u64,
}

impl Outbox {
    pub(crate) fn new(arena: Arena, max_datagram_bytes: usize, peers: &[NodeId]) -> Outbox {
        let mut index = [None; NodeId::LIMIT as usize];
        for (at, node) in peers.iter().enumerate() {
            index[usize::from(node.0)] = Some(at as u8);
        }
        Outbox {
            arena,
            used: 0,
            replies: Vec::with_capacity(SEGMENTS_MAX),
            replies_to: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            queued: Vec::with_capacity(MAX_QUEUED),
            max_datagram_bytes,
            index,
            sent: 0,
            full: 0,
        }
    }

    /// A member that the table did not have is at this place of it.
    pub(crate) fn add_peer(&mut self, node: NodeId, at: usize) {
        self.index[usize::from(node.0)] = Some(at as u8);
    }

    /// A new turn: the last one's bytes are no longer needed.
    pub(crate) fn reset(&mut self) {
        assert!(self.queued.is_empty() && self.replies.is_empty(), "datagrams left unsent");
        self.used = 0;
    }

    /// Bytes of it that this turn has filled.
    pub(crate) fn built_bytes(&self) -> usize {
        self.used
    }

    /// Room for a datagram of the largest size; `None` (counted) if this turn has filled the outbox.
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        if self.used + self.max_datagram_bytes > self.arena.len() {
            self.full += 1;
            return None;
        }
        Some(self.arena.get_mut(self.used, self.max_datagram_bytes))
    }

    /// The frame of `len` bytes just built in [`Outbox::room`] goes to these members.
    pub(crate) fn push(&mut self, to: NodeSet, len: usize) {
        let start = self.used;
        self.used += aligned(len);
        if let Some((set, Bytes::Outbox { start: first, len: bytes })) = self.queued.last_mut() {
            let end = *first + aligned(*bytes);
            if *set == to && end == start && start + len - *first <= self.max_datagram_bytes {
                *bytes = start + len - *first;
                return;
            }
        }
        self.queued.push((to, Bytes::Outbox { start, len }));
    }

    /// A frame of the log goes to these members.
    pub(crate) fn push_record(&mut self, to: NodeSet, place: Place) {
        if let Some((set, Bytes::Log(first))) = self.queued.last_mut() {
            // What is sent again may lie below what was queued before it.
            let follows = first.pos + aligned(first.bytes as usize) as u64 == place.pos;
            let joined = aligned(first.bytes as usize) + place.bytes as usize;
            if *set == to && follows && joined <= self.max_datagram_bytes {
                first.bytes = joined as u32;
                return;
            }
        }
        self.queued.push((to, Bytes::Log(place)));
    }

    /// Hands what is queued to the reactor.
    pub(crate) fn send<I: Io>(&mut self, io: &mut I, log: &Log) {
        self.send_replies(io);
        let mut from = 0;
        while from < self.queued.len() {
            let train = train(&self.queued[from..]);
            let (to, _) = self.queued[from];
            let mut slices = [self.arena.slice(0, 0); SEGMENTS_MAX];
            let mut count = 0;
            for (_, bytes) in &self.queued[from..from + train] {
                let slice = match *bytes {
                    Bytes::Outbox { start, len } => Some(self.arena.slice(start, len)),
                    Bytes::Log(place) => log.frame(place),
                };
                if let Some(slice) = slice {
                    slices[count] = slice;
                    count += 1;
                }
            }
            for peer in to.iter().filter_map(|node| self.index[usize::from(node.0)]) {
                io.send_peer_train(peer.into(), &slices[..count]);
                self.sent += count as u64;
            }
            from += train;
        }
        self.queued.clear();
        if mutant("outbox_reused_in_turn") {
            self.used = 0;
        }
    }

    /// Whether the queue should be handed on before more is added.
    pub(crate) fn crowded(&self) -> bool {
        self.queued.len() >= MAX_QUEUED - 8
    }

    /// The datagram of `len` bytes just built in [`Outbox::room`] goes to a client: with the next ones to it, or before those to
    /// another.
    pub(crate) fn send_client<I: Io>(&mut self, io: &mut I, to: SocketAddrV4, len: usize) {
        if to != self.replies_to || !joins(&self.replies, len) {
            self.send_replies(io);
            self.replies_to = to;
        }
        self.replies.push((self.used, len));
        self.used += aligned(len);
        self.sent += 1;
    }

    fn send_replies<I: Io>(&mut self, io: &mut I) {
        match self.replies[..] {
            [] => return,
            [(start, len)] => io.send_client(self.replies_to, self.arena.slice(start, len)),
            _ => {
                let mut slices = [self.arena.slice(0, 0); SEGMENTS_MAX];
                for ((start, len), slice) in self.replies.iter().zip(&mut slices) {
                    *slice = self.arena.slice(*start, *len);
                }
                io.send_client_train(self.replies_to, &slices[..self.replies.len()]);
            }
        }
        self.replies.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use synod_ring::{BlockFile, Event, FileSlot, IoError, RxBuf, Slice};

    fn queue(datagrams: &[(u8, usize)]) -> Vec<(NodeSet, Bytes)> {
        let one =
            |(node, len): &(u8, usize)| ([NodeId(*node)].into_iter().collect(), Bytes::Outbox { start: 0, len: *len });
        datagrams.iter().map(one).collect()
    }

    #[test]
    fn a_train_is_of_one_length_and_ends_with_a_shorter_one() {
        assert_eq!(train(&queue(&[(1, 100)])), 1);
        assert_eq!(train(&queue(&[(1, 100), (1, 100), (1, 60), (1, 60)])), 3);
        assert_eq!(train(&queue(&[(1, 100), (1, 101)])), 1, "a longer one begins the next");
        assert_eq!(train(&queue(&[(1, 100), (2, 100)])), 1, "other members");
    }

    #[test]
    fn a_full_outbox_is_counted() {
        let arena = Arena::new(4_096).expect("memory");
        let mut outbox = Outbox::new(arena, 1_500, &[NodeId(0)]);
        let to = [NodeId(0)].into_iter().collect();
        for _ in 0..2 {
            assert!(outbox.room().is_some());
            outbox.push(to, 1_500);
        }
        assert!(outbox.room().is_none());
        assert_eq!((outbox.full, outbox.built_bytes()), (1, 2 * aligned(1_500)));
    }

    /// Counts what it is asked to send to clients.
    #[derive(Default)]
    struct Sent(Vec<(SocketAddrV4, Vec<Vec<u8>>)>);

    impl Io for Sent {
        type Job = ();
        type Done = ();

        fn poll(&mut self, _: u64, _: bool, _: &mut Vec<Event<()>>) -> Result<(), IoError> {
            unreachable!("the outbox does not wait")
        }

        fn now_ns(&self) -> u64 {
            0
        }

        fn wall_ns(&self) -> u64 {
            0
        }

        fn datagram(&self, _: &RxBuf) -> &[u8] {
            unreachable!("the outbox receives nothing")
        }

        fn release(&mut self, _: RxBuf) {
            unreachable!("the outbox receives nothing")
        }

        fn send_peer(&mut self, _: usize, _: Slice<'_>) {
            unreachable!("nothing is for members here")
        }

        fn send_client(&mut self, to: SocketAddrV4, bytes: Slice<'_>) {
            self.0.push((to, vec![bytes.bytes().to_vec()]));
        }

        fn send_client_train(&mut self, to: SocketAddrV4, datagrams: &[Slice<'_>]) {
            self.0.push((to, datagrams.iter().map(|slice| slice.bytes().to_vec()).collect()));
        }

        fn attach(&mut self, _: FileSlot, _: Arc<dyn BlockFile>) -> Result<(), IoError> {
            unreachable!("the outbox has no files")
        }

        fn write(&mut self, _: FileSlot, _: u64, _: Slice<'_>, _: u64) {
            unreachable!("the outbox has no files")
        }

        fn request(&mut self, _: ()) -> Result<(), ()> {
            unreachable!("the outbox asks nothing")
        }
    }

    #[test]
    fn replies_to_one_client_leave_as_trains_in_their_order() {
        let client = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let mut outbox = Outbox::new(Arena::new(1 << 20).unwrap(), 1_472, &[]);
        let mut io = Sent::default();
        let replies = [(1, 300), (1, 300), (1, 200), (1, 300), (2, 300), (2, 400), (1, 100)];
        let crowd = std::iter::repeat_n((3, 64), SEGMENTS_MAX + 1);
        for (number, (port, len)) in replies.into_iter().chain(crowd).enumerate() {
            outbox.room().unwrap()[..len].fill(number as u8);
            outbox.send_client(&mut io, client(port), len);
        }
        outbox.send_replies(&mut io);
        let trains: Vec<_> = io.0.iter().map(|(to, all)| (to.port(), all.len())).collect();
        let crowd = [(3, SEGMENTS_MAX), (3, 1)];
        assert_eq!(trains, [&[(1, 3), (1, 1), (2, 1), (2, 1), (1, 1)][..], &crowd].concat());
        let bytes: Vec<u8> = io.0.iter().flat_map(|(_, all)| all.iter().map(|datagram| datagram[0])).collect();
        assert_eq!(bytes, (0..outbox.sent as u8).collect::<Vec<_>>());
        outbox.reset();
    }

    #[test]
    fn a_train_keeps_its_bounds() {
        assert_eq!(train(&queue(&[(1, 100); 40])), SEGMENTS_MAX);
        assert_eq!(train(&queue(&[(1, 30_000); 4])), 2);
        assert_eq!(train(&queue(&[(1, 65_400); 2])), 1);
    }
}
