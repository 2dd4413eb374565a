//! Where a turn's small datagrams are built. Emptied at the start of each turn: by then the kernel has copied them.
//!
//! Frames for the same members that lie one behind the other, here or in the log's arena, travel in one datagram.

use std::net::SocketAddrV4;
use synod_ring::{Arena, Io, Slice};
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
        for (to, bytes) in self.queued.drain(..) {
            let slice: Option<Slice<'_>> = match bytes {
                Bytes::Outbox { start, len } => Some(self.arena.slice(start, len)),
                Bytes::Log(place) => log.frame(place),
            };
            let Some(slice) = slice else { continue };
            for node in to.iter() {
                if let Some(peer) = self.index[usize::from(node.0)] {
                    io.send_peer(peer.into(), slice);
                    self.sent += 1;
                }
            }
        }
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
