//! Commits to be counted: three production shards and the production client in one thread, in virtual time, without faults,
//! checks or randomness. What runs is the same to the instruction each time, so that an instruction counter (callgrind)
//! tells what a change of the code costs, on any machine. `synod-sim drive` runs it; `synod-perf baseline` counts.
//!
//! Only [`leader_turn`] and [`follower_turn`] are to be counted. The [`LeanIo`] below them does next to nothing: datagrams
//! are copied and files written after the turn, as the kernel does it.

use crate::node::{GROUP, Node, maker, node_address, shard_settings, wal_settings};
use crate::plan::{Plan, Profile, Timing};
use serde::Serialize;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use synod::shard::jobs::{Done, Housekeeper, Job};
use synod::shard::{self, Exit, Fatal, OUTBOX_BYTES, Shard};
use synod_client::{Core, Event as ClientEvent, OfferError, Options};
use synod_ring::{Arena, BlockFile, Event, FileSlot, Io, IoError, Loan, RxBuf, Slice, Socket};
use synod_wire::NodeId;
use synod_wire::frame::HEADER_BYTES;

const NODES: usize = 3;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 0), 9_000);
/// The product's defaults.
const MAX_BATCH_BYTES: usize = 1_408;
const WINDOW_SLOTS: u64 = 1_024;
const MAX_EVENTS: usize = 256;
/// About what a datagram, and a durable write, take here; all delays are multiples of one step, so that under load several
/// things arrive in one turn.
const DATAGRAM_NS: u64 = 20_000;
const WRITE_NS: u64 = 100_000;
/// Entries that are committed before anything counts: memory is grown, segments are prepared.
const WARM_UP: u64 = 512;
/// Turns of one shard at one instant: a timer and a full window of datagrams take fewer.
const MAX_TURNS: u32 = 64;
/// Virtual time within which an entry must be committed; a drive that stands still is a fault.
const STALL_NS: u64 = 10_000_000_000;

/// What was driven, per entry where it says so.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Driven {
    /// Entries in flight.
    pub outstanding: usize,
    /// Entries committed, the warm-up included.
    pub entries: u64,
    /// Turns of the leader.
    pub leader_turns: u64,
    /// Turns of both followers.
    pub follower_turns: u64,
    /// Datagrams that the leader sent.
    pub leader_datagrams: u64,
    /// Log writes of the leader.
    pub leader_writes: u64,
    /// Virtual time.
    pub took_ns: u64,
}

/// A turn of the leader; what is counted for it.
#[inline(never)]
pub fn leader_turn(shard: &mut Shard<LeanIo>) -> Result<Option<Exit>, Fatal> {
    // Different code for either: a compiler may make one function of two that are alike.
    std::hint::black_box(1u8);
    shard.turn()
}

/// A turn of a follower; what is counted for it.
#[inline(never)]
pub fn follower_turn(shard: &mut Shard<LeanIo>) -> Result<Option<Exit>, Fatal> {
    std::hint::black_box(2u16);
    shard.turn()
}

/// What to drive.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Entries in flight.
    pub outstanding: usize,
    /// Bytes of an entry.
    pub size: usize,
    /// Entries to commit.
    pub entries: u64,
    /// Under memory durability.
    pub memory: bool,
}

/// Commits entries.
///
/// # Panics
/// If the group comes to a standstill, or an entry is refused: without faults neither happens.
pub fn drive(load: &Load) -> Driven {
    let Load { outstanding, size, entries, memory } = *load;
    let plan = Plan { memory_durability: memory, ..plan() };
    let mut world = World::new(&plan, outstanding, size);
    let from_ns = world.until(WARM_UP);
    world.until(WARM_UP + entries);
    let driven = Driven {
        outstanding,
        entries: world.acked,
        leader_turns: world.turns[0],
        follower_turns: world.turns[1],
        leader_datagrams: world.leader_datagrams,
        leader_writes: world.leader_writes,
        took_ns: world.now_ns - from_ns,
    };
    assert!(driven.entries >= WARM_UP + entries, "every entry was committed");
    driven
}

/// The product's settings, but for segments that fit in memory.
fn plan() -> Plan {
    Plan {
        nodes: NODES,
        phase1: 2,
        phase2: 2,
        window_slots: WINDOW_SLOTS,
        max_batch_bytes: MAX_BATCH_BYTES,
        max_in_flight: 1,
        kv: false,
        timing: Timing {
            heartbeat_ns: 20_000_000,
            election_min_ns: 150_000_000,
            election_max_ns: 300_000_000,
            retransmit_ns: 10_000_000,
            delay_min_ns: DATAGRAM_NS,
            delay_mean_ns: 0,
            sync_mean_ns: WRITE_NS,
            strike_mean_ns: u64::MAX,
        },
        ..Plan::new(1, Profile::Calm)
    }
}

/// What reaches a shard.
enum Arrival {
    Datagram { socket: Socket, from: Option<SocketAddrV4>, bytes: Vec<u8> },
    Written { token: u64, bytes: usize },
    Done(Done),
}

/// Where a datagram goes.
enum To {
    Peer(usize),
    Client(SocketAddrV4),
}

/// What lies between one shard and the rest of the world.
#[derive(Default)]
struct Link {
    now_ns: u64,
    inbox: VecDeque<Arrival>,
    sends: Vec<(To, Loan)>,
    writes: Vec<(u64, usize)>,
    jobs: Vec<Job>,
}

/// See the module.
pub struct LeanIo {
    link: Rc<RefCell<Link>>,
    now_ns: u64,
    buffers: Vec<Vec<u8>>,
    free: Vec<u16>,
}

impl LeanIo {
    fn new(link: Rc<RefCell<Link>>) -> LeanIo {
        let now_ns = link.borrow().now_ns;
        LeanIo { link, now_ns, buffers: vec![Vec::new(); MAX_EVENTS], free: (0..MAX_EVENTS as u16).collect() }
    }
}

impl Io for LeanIo {
    type Job = Job;
    type Done = Done;

    fn poll(&mut self, _deadline_ns: u64, _eager: bool, events: &mut Vec<Event<Done>>) -> Result<(), IoError> {
        let mut link = self.link.borrow_mut();
        self.now_ns = link.now_ns;
        for _ in 0..MAX_EVENTS {
            let Some(arrival) = link.inbox.pop_front() else { break };
            events.push(match arrival {
                Arrival::Datagram { socket, from, bytes } => {
                    let id = self.free.pop().expect("a turn gives back what it got");
                    let buf = RxBuf { id, socket, start: 0, len: bytes.len() as u32, cut: false };
                    self.buffers[usize::from(id)] = bytes;
                    Event::Datagram { buf, from }
                }
                Arrival::Written { token, bytes } => Event::Written { token, result: Ok(bytes) },
                Arrival::Done(done) => Event::Done(done),
            });
        }
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn wall_ns(&self) -> u64 {
        self.now_ns
    }

    fn datagram(&self, buf: &RxBuf) -> &[u8] {
        &self.buffers[usize::from(buf.id)]
    }

    fn release(&mut self, buf: RxBuf) {
        self.free.push(buf.id);
    }

    fn send_peer(&mut self, peer: usize, bytes: Slice<'_>) {
        self.link.borrow_mut().sends.push((To::Peer(peer), bytes.lend()));
    }

    fn send_client(&mut self, to: SocketAddrV4, bytes: Slice<'_>) {
        self.link.borrow_mut().sends.push((To::Client(to), bytes.lend()));
    }

    fn attach(&mut self, _slot: FileSlot, _file: Arc<dyn BlockFile>) -> Result<(), IoError> {
        Ok(())
    }

    /// Nothing here reads a log back: what was written is forgotten.
    fn write(&mut self, _file: FileSlot, _offset: u64, bytes: Slice<'_>, token: u64) {
        self.link.borrow_mut().writes.push((token, bytes.bytes().len()));
    }

    fn request(&mut self, job: Job) -> Result<(), Job> {
        self.link.borrow_mut().jobs.push(job);
        Ok(())
    }
}

/// Something under way.
struct Due {
    at_ns: u64,
    /// In the order of their making where they are due at once.
    order: u64,
    what: What,
}

enum What {
    ToNode(usize, Arrival),
    ToClient { from: usize, bytes: Vec<u8> },
}

impl Due {
    fn key(&self) -> (u64, u64) {
        (self.at_ns, self.order)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

struct World {
    now_ns: u64,
    shards: Vec<Shard<LeanIo>>,
    keepers: Vec<Housekeeper>,
    links: Vec<Rc<RefCell<Link>>>,
    queue: BinaryHeap<Reverse<Due>>,
    made: u64,
    client: Core,
    entry: Vec<u8>,
    datagram: Vec<u8>,
    outstanding: u64,
    offered: u64,
    acked: u64,
    /// Of the leader, and of the others.
    turns: [u64; 2],
    leader_datagrams: u64,
    leader_writes: u64,
}

impl World {
    fn new(plan: &Plan, outstanding: usize, size: usize) -> World {
        let (mut shards, mut keepers, mut links) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..NODES {
            let link = Rc::default();
            shards.push(start(plan, index, &link).expect("a new log can be read"));
            keepers.push(Housekeeper::new(maker(plan, NodeId(index as u8), 1 + index as u64)));
            links.push(link);
        }
        let options = Options {
            window_entries: outstanding,
            window_bytes: (outstanding * size).max(MAX_BATCH_BYTES + HEADER_BYTES),
            deadline: Duration::from_secs(30),
            ..Options::default()
        };
        let members = (0..NODES).map(|node| (NodeId(node as u8), node_address(node))).collect();
        let client = Core::new(crate::node::CLUSTER, GROUP, 1, members, options, 0).expect("the options are valid");
        World {
            now_ns: 0,
            shards,
            keepers,
            links,
            queue: BinaryHeap::new(),
            made: 0,
            client,
            entry: vec![0xA5; size],
            datagram: vec![0; MAX_BATCH_BYTES + HEADER_BYTES],
            outstanding: outstanding as u64,
            offered: 0,
            acked: 0,
            turns: [0; 2],
            leader_datagrams: 0,
            leader_writes: 0,
        }
    }

    /// Goes on until so many entries are committed; tells when that was.
    fn until(&mut self, acked: u64) -> u64 {
        let (mut last, mut last_ns) = (self.acked, self.now_ns);
        while self.acked < acked {
            self.step();
            if self.acked > last {
                (last, last_ns) = (self.acked, self.now_ns);
            }
            assert!(self.now_ns - last_ns < STALL_NS, "nothing is committed any more");
        }
        self.now_ns
    }

    /// The next instant at which something happens: all of it, then the turns of those whom it reached.
    fn step(&mut self) {
        let timers = self.shards.iter().map(Shard::deadline_ns).chain(self.client.poll_timeout());
        let first = self.queue.peek().map(|Reverse(due)| due.at_ns);
        let next_ns = timers.chain(first).min().expect("a shard always has a timer");
        self.now_ns = self.now_ns.max(next_ns);
        while self.queue.peek().is_some_and(|Reverse(due)| due.at_ns <= self.now_ns) {
            let Some(Reverse(due)) = self.queue.pop() else { break };
            match due.what {
                What::ToNode(node, arrival) => self.links[node].borrow_mut().inbox.push_back(arrival),
                What::ToClient { from, bytes } => self.client.handle(self.now_ns, node_address(from), &bytes),
            }
        }
        for node in 0..NODES {
            // What a turn leaves in the inbox has the next one.
            let mut turns = 0;
            while !self.links[node].borrow().inbox.is_empty() || self.shards[node].deadline_ns() <= self.now_ns {
                self.turn(node);
                turns += 1;
                assert!(turns < MAX_TURNS, "a shard never comes to rest");
            }
        }
        self.drive_client();
    }

    fn turn(&mut self, node: usize) {
        self.links[node].borrow_mut().now_ns = self.now_ns;
        let leads = self.shards[node].core().role() == synod_paxos::Role::Leader;
        let shard = &mut self.shards[node];
        let ended = if leads { leader_turn(shard) } else { follower_turn(shard) };
        assert!(matches!(ended, Ok(None)), "no shard ends: {ended:?}");
        self.turns[usize::from(!leads)] += 1;
        self.carry_out(node, leads);
    }

    fn carry_out(&mut self, node: usize, leads: bool) {
        let (sends, writes, jobs) = {
            let mut link = self.links[node].borrow_mut();
            (std::mem::take(&mut link.sends), std::mem::take(&mut link.writes), std::mem::take(&mut link.jobs))
        };
        if leads {
            self.leader_datagrams += sends.len() as u64;
            self.leader_writes += writes.len() as u64;
        }
        for (to, loan) in sends {
            // SAFETY: the shard, in this thread, is between two turns, and holds no borrow of its arenas.
            let bytes = unsafe { loan.bytes() }.to_vec();
            let what = match to {
                To::Peer(peer) => What::ToNode(peer, Arrival::Datagram { socket: Socket::Peers, from: None, bytes }),
                To::Client(address) => {
                    assert_eq!(address, CLIENT, "there is one client");
                    What::ToClient { from: node, bytes }
                }
            };
            self.after(DATAGRAM_NS, what);
        }
        for (token, bytes) in writes {
            self.after(WRITE_NS, What::ToNode(node, Arrival::Written { token, bytes }));
        }
        for job in jobs {
            let done = self.keepers[node].perform(job);
            self.after(WRITE_NS, What::ToNode(node, Arrival::Done(done)));
        }
    }

    fn after(&mut self, ns: u64, what: What) {
        self.made += 1;
        self.queue.push(Reverse(Due { at_ns: self.now_ns + ns, order: self.made, what }));
    }

    fn drive_client(&mut self) {
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Opened { .. } => {}
                ClientEvent::Acked { entries, .. } => self.acked += u64::from(entries),
                other => panic!("the session ended: {other:?}"),
            }
        }
        while self.client.is_open() && self.offered - self.acked < self.outstanding {
            match self.client.offer(&self.entry, self.now_ns) {
                Ok(_) => self.offered += 1,
                Err(OfferError::Full) => break,
                Err(error) => panic!("an entry is refused: {error}"),
            }
        }
        while let Some((to, bytes)) = self.client.poll_transmit(self.now_ns, &mut self.datagram) {
            let bytes = self.datagram[..bytes].to_vec();
            let node = crate::node::node_at(to).expect("a node's address");
            let from = Some(CLIENT);
            self.after(DATAGRAM_NS, What::ToNode(node, Arrival::Datagram { socket: Socket::Clients, from, bytes }));
        }
    }
}

/// Formats a node and starts its shard.
fn start(plan: &Plan, index: usize, link: &Rc<RefCell<Link>>) -> Result<Shard<LeanIo>, Fatal> {
    let mut node = Node::new(index);
    node.format(plan, 1 + index as u64, false)?;
    let me = NodeId(index as u8);
    let found = shard::recover(&node.dir, &maker(plan, me, 1 + index as u64), &wal_settings(plan), 0)?;
    let arena = Arena::new(OUTBOX_BYTES).expect("memory for an outbox");
    Shard::new(shard_settings(plan, me, false, &node.dir), LeanIo::new(link.clone()), arena, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_the_same_each_time_and_batches_under_load() {
        let one = Load { outstanding: 1, size: 256, entries: 300, memory: false };
        let alone = drive(&one);
        assert_eq!(alone, drive(&one));
        // Two followers and the answer; heartbeats and elections come on top.
        let datagrams = alone.leader_datagrams as f64 / alone.entries as f64;
        assert!((3.0..3.2).contains(&datagrams), "{alone:?}");
        assert!((0.99..1.1).contains(&(alone.leader_writes as f64 / alone.entries as f64)), "{alone:?}");
        let many = drive(&Load { outstanding: 256, entries: 3_000, ..one });
        assert!(many.leader_writes * 10 < many.entries, "writes are shared: {many:?}");
        let behind = drive(&Load { memory: true, ..one });
        assert!(behind.leader_writes * 10 < behind.entries, "nobody waits for a write: {behind:?}");
    }
}
