//! Where a turn's small datagrams are built. Emptied at the start of each turn: by then the kernel has copied them.
//!
//! Frames for the same members that lie one behind the other, here or in the log's arena, travel in one datagram. Datagrams of
//! one length for the same members that follow each other (accept requests of full batches, values for a laggard) are handed
//! over as a train.

use std::net::SocketAddrV4;
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

/// The datagrams that this turn sends.
#[derive(Debug)]
pub(crate) struct Outbox {
    arena: Arena,
    used: usize,
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
        Outbox { arena, used: 0, queued: Vec::with_capacity(MAX_QUEUED), max_datagram_bytes, index, sent: 0, full: 0 }
    }

    /// A new turn: the last one's bytes are no longer needed.
    pub(crate) fn reset(&mut self) {
        assert!(self.queued.is_empty(), "datagrams left unsent");
        self.used = 0;
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

    /// Hands what is queued for the members to the reactor.
    pub(crate) fn send<I: Io>(&mut self, io: &mut I, log: &Log) {
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

    /// The datagram of `len` bytes just built in [`Outbox::room`] goes to a client, now.
    pub(crate) fn send_client<I: Io>(&mut self, io: &mut I, to: SocketAddrV4, len: usize) {
        io.send_client(to, self.arena.slice(self.used, len));
        self.used += aligned(len);
        self.sent += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_train_keeps_its_bounds() {
        assert_eq!(train(&queue(&[(1, 100); 40])), SEGMENTS_MAX);
        assert_eq!(train(&queue(&[(1, 30_000); 4])), 2);
        assert_eq!(train(&queue(&[(1, 65_400); 2])), 1);
    }
}
