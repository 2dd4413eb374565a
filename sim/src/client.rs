//! Simulated clients around the production sans-I/O cores: appenders that resume under the same session after a crash or
//! a closed session, and readers. They decide nothing about time or the network; the engine drives them.

use crate::answers::questions;
use crate::checks::OWN_REQUESTS;
use crate::node::{CLUSTER, GROUP, node_address};
use crate::payload::Payloads;
use crate::plan::Plan;
use crate::rng::Rng;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU64;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;
use synod_client::{
    CloseReason, Condition, Consistency, Core, EntryRef, Event, NodeId, Options, ReadCore, ReadOptions, Resume,
    Sequence, Unmet,
};
use synod_wire::frame::{Header, Kind};
use synod_wire::{Ballot, Epoch, Lsn, Slot};

/// A datagram on its way out.
pub(crate) type Outgoing = (SocketAddrV4, Rc<[u8]>);

/// The longest datagram of a client.
pub(crate) const DATAGRAM_BYTES: usize = 1_472;
/// The first port of a client; each life has the next.
const FIRST_PORT: u16 = 20_000;

/// Entries of a burst that are offered on a condition, at most.
const MOST_CONDITIONAL: u64 = 2;

/// How long the clients' fencing tokens stay about the same.
const TOKEN_NS: u64 = 2_000_000_000;

/// What a client learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learnt {
    /// The session is open; the last client sequence committed.
    Opened(u64),
    /// Entries were not appended: client sequence, count, why.
    NotAppended(u64, u32, Unmet),
    /// Entries have their places: client sequence, sequence, count.
    Acked(u64, u64, u32),
    /// What was decided on before the client came back was told again.
    Again,
    /// The session of this number, if it was open once, is over; the client comes back by itself.
    Closed(CloseReason, Option<u64>),
}

/// A client that appends.
pub(crate) struct Appender {
    index: usize,
    core: Core,
    /// The session's id; a new one after an eviction.
    pub(crate) client_id: u128,
    /// The session's number, once it was told.
    session: Option<u64>,
    evictions: u64,
    life: u16,
    options: Options,
    members: usize,
    /// The highest client sequence ever offered under this id.
    pub(crate) offered: u64,
    /// The highest acknowledged.
    pub(crate) acked: u64,
    opened: bool,
    payloads: Payloads,
    entry: Vec<u8>,
    /// How many of a hundred bursts have entries that are offered on a condition, and what those are.
    conditional_percent: u64,
    conditions: Rng,
    datagram: Box<[u8; DATAGRAM_BYTES]>,
}

pub(crate) fn members(count: usize, first: usize) -> Vec<(NodeId, SocketAddrV4)> {
    (0..count).map(|at| (first + at) % count).map(|node| (NodeId(node as u8), node_address(node))).collect()
}

pub(crate) fn address(index: usize, life: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, index as u8), FIRST_PORT + life)
}

/// Which client, and which life of it, an address belongs to.
pub(crate) fn client_at(address: SocketAddrV4) -> Option<(usize, u16)> {
    let octets = address.ip().octets();
    (octets[1] == 1).then(|| (usize::from(octets[3]), address.port().wrapping_sub(FIRST_PORT)))
}

impl Appender {
    pub(crate) fn new(plan: &Plan, index: usize, now_ns: u64) -> Appender {
        let options = Options {
            window_entries: 128,
            window_bytes: 64 << 10,
            deadline: Duration::from_secs(5),
            seed: plan.seed,
            ..Options::default()
        };
        let client_id = 1 + index as u128;
        Appender {
            index,
            core: core(client_id, plan.machines(), 0, &options, now_ns),
            client_id,
            session: None,
            evictions: 0,
            life: 0,
            options,
            members: plan.machines(),
            offered: 0,
            acked: 0,
            opened: false,
            payloads: Payloads::new(plan),
            entry: Vec::new(),
            conditional_percent: plan.conditional_percent,
            conditions: Rng::new(plan.seed.wrapping_add(index as u64), "conditions"),
            datagram: Box::new([0; DATAGRAM_BYTES]),
        }
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        address(self.index, self.life)
    }

    /// The number of its session, if that is open as far as it knows.
    pub(crate) fn session(&self) -> Option<u64> {
        self.session.filter(|_| self.opened)
    }

    /// Forgets everything but its session and what it has offered, and comes back.
    pub(crate) fn restart(&mut self, now_ns: u64) {
        self.options.resume = self.session.map_or(Resume::OrCreate, Resume::Session);
        // Every other life asks what became of its entries.
        self.options.repeat_decided = self.life.is_multiple_of(2);
        self.life += 1;
        self.opened = false;
        self.core = core(self.client_id, self.members, usize::from(self.life), &self.options, now_ns);
    }

    /// The session was evicted: a new one.
    fn renew(&mut self) {
        self.session = None;
        self.evictions += 1;
        self.client_id = 1 + self.index as u128 + (u128::from(self.evictions) << 32);
        (self.offered, self.acked) = (0, 0);
    }

    /// Offers up to `count` entries while the log ends at `tail`; `on_offer` gets each client sequence with its condition, and
    /// whether it is offered for the first time.
    pub(crate) fn offer(
        &mut self,
        count: u64,
        tail: u64,
        now_ns: u64,
        on_offer: &mut dyn FnMut(u128, u64, Condition, bool),
    ) {
        if !self.opened || self.core.closed().is_some() {
            return;
        }
        let conditional = self.conditional(count);
        for at in 0..count {
            let client_seq = self.core.next_client_seq();
            self.payloads.write(self.client_id, client_seq, &mut self.entry);
            let condition = if conditional.contains(&at) { self.condition(tail, now_ns) } else { Condition::default() };
            if self.core.offer_if(&self.entry, condition, now_ns) != Ok(client_seq) {
                // The window is full: the load is more than the cluster takes now. Or the entry has no room for a condition.
                return;
            }
            let is_new = client_seq > self.offered;
            self.offered = self.offered.max(client_seq);
            on_offer(self.client_id, client_seq, condition, is_new);
        }
    }

    /// Which entries of a burst are offered on a condition: a few at most, as each may take a datagram of its own.
    fn conditional(&mut self, count: u64) -> Range<u64> {
        if self.conditional_percent == 0 || !self.conditions.percent(self.conditional_percent) {
            return 0..0;
        }
        let first = self.conditions.below(count);
        first..first + MOST_CONDITIONAL
    }

    /// The condition of the next entry: often one that its predecessors make true, so that it hangs by a thread whether it is.
    fn condition(&mut self, tail: u64, now_ns: u64) -> Condition {
        let kind = self.conditions.below(3);
        let expected = Sequence(tail + self.core.outstanding());
        // All clients' tokens rise together; some lag behind.
        let token = NonZeroU64::new(1 + now_ns / TOKEN_NS + self.conditions.below(3));
        Condition { match_sequence: (kind != 0).then_some(expected), fence: token.filter(|_| kind != 1) }
    }

    pub(crate) fn handle(&mut self, now_ns: u64, from: SocketAddrV4, bytes: &[u8]) {
        self.core.handle(now_ns, from, bytes);
    }

    /// Does what is due: datagrams to send, and what was learnt.
    pub(crate) fn drive(&mut self, now_ns: u64, out: &mut Vec<Outgoing>, learnt: &mut Vec<Learnt>) {
        while let Some((to, bytes)) = self.core.poll_transmit(now_ns, &mut self.datagram[..]) {
            out.push((to, self.datagram[..bytes].into()));
        }
        let decided = self.core.last_committed().unwrap_or(0);
        while let Some(event) = self.core.poll_event() {
            if let Event::Acked { client_seq, .. } | Event::NotAppended { client_seq, .. } = event
                && client_seq <= decided
            {
                learnt.push(Learnt::Again);
            }
            match event {
                Event::Opened { session, last_committed, .. } => {
                    self.opened = true;
                    self.session = Some(session);
                    learnt.push(Learnt::Opened(last_committed));
                }
                Event::Acked { client_seq, sequence, entries, .. } => {
                    self.acked = self.acked.max(client_seq + u64::from(entries) - 1);
                    learnt.push(Learnt::Acked(client_seq, sequence.0, entries));
                }
                Event::NotAppended { client_seq, unmet, entries, .. } => {
                    self.acked = self.acked.max(client_seq + u64::from(entries) - 1);
                    learnt.push(Learnt::NotAppended(client_seq, entries, unmet));
                }
                // No receipt is asked for. What became of the others shows when the session is opened again.
                Event::Receipt(_) | Event::Unknown { .. } | Event::SessionLost | Event::Refused { .. } => {}
            }
        }
        if let Some(reason) = self.core.closed() {
            learnt.push(Learnt::Closed(reason, self.session));
            if reason == CloseReason::SessionEvicted {
                self.renew();
            }
            self.restart(now_ns);
        }
    }

    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.core.poll_timeout()
    }

    /// Acknowledgements that contradict earlier ones.
    pub(crate) fn conflicting_acks(&self) -> u64 {
        self.core.counters().conflicting_acks
    }

    /// Whether every entry offered is acknowledged.
    pub(crate) fn is_drained(&self) -> bool {
        self.opened && self.core.outstanding() == 0
    }

    pub(crate) fn life(&self) -> u16 {
        self.life
    }
}

fn core(client_id: u128, nodes: usize, first: usize, options: &Options, now_ns: u64) -> Core {
    let core = Core::new(CLUSTER, GROUP, client_id, members(nodes, first), options.clone(), now_ns);
    core.expect("the options are valid")
}

/// A client that reads: pieces of the log from anywhere, or its tail.
pub(crate) struct Reader {
    index: usize,
    core: ReadCore,
    /// The number of the next question of its own.
    next_question: u64,
    datagram: Box<[u8; DATAGRAM_BYTES]>,
}

impl Reader {
    pub(crate) fn new(plan: &Plan, index: usize) -> Reader {
        let options = ReadOptions { max_datagrams: 8, seed: plan.seed, ..ReadOptions::default() };
        let members = members(plan.machines(), index).into_iter().map(|(_, address)| address).collect();
        let core = ReadCore::new(CLUSTER, GROUP, members, options).expect("the options are valid");
        Reader { index, core, next_question: OWN_REQUESTS, datagram: Box::new([0; DATAGRAM_BYTES]) }
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        address(self.index, 0)
    }

    /// Reads `count` entries from `from` on, or follows the tail.
    pub(crate) fn begin(&mut self, from: u64, count: Option<u64>, consistency: Consistency, now_ns: u64) {
        self.core.set_consistency(consistency);
        match count {
            Some(count) => self.core.read(Sequence(from), count, now_ns),
            None => self.core.follow(Sequence(from), 50, now_ns),
        }
    }

    pub(crate) fn handle(&mut self, now_ns: u64, from: SocketAddrV4, bytes: &[u8]) {
        self.core.handle(now_ns, from, bytes);
    }

    pub(crate) fn transmit(&mut self, now_ns: u64, out: &mut Vec<Outgoing>) {
        while let Some((to, bytes)) = self.core.poll_transmit(now_ns, &mut self.datagram[..]) {
            out.push((to, self.datagram[..bytes].into()));
        }
    }

    /// The number of the next question of its own.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.next_question += 1;
        self.next_question - 1
    }

    /// Asks a node how far its log reaches, in both ways there are.
    pub(crate) fn ask_tail(&mut self, node: usize, consistency: Consistency) -> [Outgoing; 2] {
        let (status_id, read_id) = (self.next_id(), self.next_id());
        questions(node, status_id, read_id, consistency)
    }

    /// Whether it has all that it wanted, as far as it exists.
    pub(crate) fn is_finished(&self) -> bool {
        self.core.is_finished()
    }

    pub(crate) fn next_entry(&mut self) -> Option<EntryRef<'_>> {
        self.core.next_entry()
    }

    /// What it wanted was trimmed: the first sequence that is left, once it has all that came before.
    pub(crate) fn trimmed(&self) -> Option<u64> {
        self.core.trimmed().map(|first| first.0).filter(|_| !self.core.is_ready())
    }

    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.core.poll_timeout()
    }
}

/// The header of a client's request.
pub(crate) fn request_header(kind: Kind, request_id: u64) -> Header {
    Header {
        kind,
        flags: 0,
        from: NodeId(0),
        group: GROUP,
        cluster: CLUSTER,
        epoch: Epoch(0),
        slot: Slot(request_id),
        ballot: Ballot::ZERO,
        promised: Ballot::ZERO,
        lsn: Lsn::ZERO,
    }
}
