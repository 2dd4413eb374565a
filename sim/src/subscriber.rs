//! Subscribers in the simulator: the production core, what it is handed, and those that never acknowledge (41). Used by the
//! engine.

use crate::checks::{Checked, violated};
use crate::client::{DATAGRAM_BYTES, Outgoing, address, members};
use crate::fault::Fault;
use crate::load::Client;
use crate::node::{CLUSTER, GROUP};
use crate::plan::Plan;
use crate::sim::Sim;
use std::net::SocketAddrV4;
use synod_client::{EntryRef, ReadOptions, Sequence, StreamEnd, SubscribeCore};

/// How long a subscriber is deaf, on average: many outlast what a node puts up with.
const DEAF_MEAN_NS: u64 = 5_000_000_000;

/// How a subscriber fails to acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deaf {
    /// It says nothing at all.
    Silent,
    /// It shows that it lives, and takes nothing.
    Stingy,
}

/// A client that subscribes to all of the log, from its start.
pub(crate) struct Subscriber {
    index: usize,
    core: SubscribeCore,
    deaf: Option<Deaf>,
    deaf_until_ns: u64,
    /// What the core had counted when the engine last looked.
    ends: u64,
    moves: u64,
    datagram: Box<[u8; DATAGRAM_BYTES]>,
}

impl Subscriber {
    pub(crate) fn new(plan: &Plan, index: usize) -> Subscriber {
        let options = ReadOptions { max_datagrams: 8, seed: plan.seed, ..ReadOptions::default() };
        let members = members(plan.machines(), index).into_iter().map(|(_, address)| address).collect();
        let stream = plan.seed.wrapping_mul(1_000).wrapping_add(index as u64);
        let core = SubscribeCore::new((CLUSTER, GROUP), members, options, stream, Sequence(1));
        Subscriber {
            index,
            core: core.expect("the options are valid"),
            deaf: None,
            deaf_until_ns: 0,
            ends: 0,
            moves: 0,
            datagram: Box::new([0; DATAGRAM_BYTES]),
        }
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        address(self.index, 0)
    }

    pub(crate) fn handle(&mut self, now_ns: u64, from: SocketAddrV4, bytes: &[u8]) {
        self.core.handle(now_ns, from, bytes);
    }

    fn deaf(&self, now_ns: u64) -> Option<Deaf> {
        self.deaf.filter(|_| now_ns < self.deaf_until_ns)
    }

    /// The next entry, unless it takes none now.
    pub(crate) fn next_entry(&mut self, now_ns: u64) -> Option<EntryRef<'_>> {
        if self.deaf(now_ns).is_some() { None } else { self.core.next_entry() }
    }

    pub(crate) fn transmit(&mut self, now_ns: u64, out: &mut Vec<Outgoing>) {
        while self.deaf(now_ns) != Some(Deaf::Silent)
            && let Some((to, bytes)) = self.core.poll_transmit(now_ns, &mut self.datagram[..])
        {
            out.push((to, self.datagram[..bytes].into()));
        }
    }

    pub(crate) fn next_ns(&self, now_ns: u64) -> Option<u64> {
        let own_ns = self.core.poll_timeout();
        match self.deaf(now_ns) {
            None => own_ns,
            Some(Deaf::Silent) => Some(self.deaf_until_ns),
            Some(Deaf::Stingy) => Some(own_ns.map_or(self.deaf_until_ns, |at_ns| at_ns.min(self.deaf_until_ns))),
        }
    }

    /// What it waits for was trimmed: the first sequence that is left, once it has all that came before.
    pub(crate) fn trimmed(&self) -> Option<u64> {
        self.core.trimmed().map(|first| first.0).filter(|_| !self.core.is_ready())
    }

    /// Subscribes anew, from this sequence on.
    pub(crate) fn begin_at(&mut self, first: u64, nodes: usize, seed: u64) {
        let options = self.core.options().clone();
        let members = members(nodes, self.index).into_iter().map(|(_, address)| address).collect();
        let stream = self.core.stream().wrapping_add(seed | 1).max(1);
        let core = SubscribeCore::new((CLUSTER, GROUP), members, options, stream, Sequence(first));
        self.core = core.expect("the options are valid");
        (self.ends, self.moves) = (0, 0);
    }

    /// The sequence that it waits for.
    pub(crate) fn next(&self) -> u64 {
        self.core.next_sequence().0
    }

    /// What is new since this was asked last: why a node ended the stream, and whether it went on elsewhere.
    pub(crate) fn news(&mut self) -> (Option<StreamEnd>, bool) {
        let counters = self.core.counters();
        let ended = std::mem::replace(&mut self.ends, counters.ends) != counters.ends;
        let moved = std::mem::replace(&mut self.moves, counters.moves) != counters.moves;
        (self.core.last_end().filter(|_| ended).map(|(_, reason)| reason), moved)
    }
}

impl Sim {
    /// A subscriber is handed what has come for it.
    pub(crate) fn drive_subscriber(
        &mut self,
        client: usize,
        out: &mut Vec<Outgoing>,
    ) -> Result<Option<u64>, crate::Violation> {
        let now_ns = self.now_ns;
        let Client::Subscriber(subscriber) = &mut self.clients[client] else { return Ok(None) };
        while let Some(entry) = subscriber.next_entry(now_ns) {
            self.checks.streams.delivered(&self.checks.sessions, client, &entry)?;
        }
        let (ended, moved) = subscriber.news();
        self.go_on_behind_trim(client)?;
        let Client::Subscriber(subscriber) = &mut self.clients[client] else { return Ok(None) };
        subscriber.transmit(now_ns, out);
        let next_ns = subscriber.next_ns(now_ns);
        match ended {
            Some(StreamEnd::Slow) => self.coverage.mark("a subscriber was dropped: SLOW"),
            Some(StreamEnd::TimedOut) => self.coverage.mark("a subscriber was dropped: TIMED_OUT"),
            Some(_) | None => {}
        }
        if moved {
            self.coverage.mark("a subscriber went on at another member");
        }
        Ok(next_ns)
    }

    fn subscribers(&self) -> std::ops::Range<usize> {
        let first = self.plan.clients + self.plan.readers;
        first..first + self.plan.subscribers
    }

    /// A subscriber acknowledges nothing for a while.
    pub(crate) fn deafen_a_subscriber(&mut self) -> Checked {
        if self.plan.subscribers == 0 {
            return Ok(());
        }
        let client = self.subscribers().start + self.chaos.below(self.plan.subscribers as u64) as usize;
        let deaf = self.chaos.pick(&[Deaf::Silent, Deaf::Stingy]);
        let span_ns = self.chaos.exponential(DEAF_MEAN_NS);
        self.struck(Fault::DeafSubscriber, format!("c{client} is {deaf:?} for {} ms", span_ns / 1_000_000));
        let until_ns = self.now_ns + span_ns;
        if let Client::Subscriber(subscriber) = &mut self.clients[client] {
            (subscriber.deaf, subscriber.deaf_until_ns) = (Some(deaf), until_ns);
        }
        self.drive(client)
    }

    /// All subscribers listen again.
    pub(crate) fn heal_subscribers(&mut self) -> Checked {
        for client in self.subscribers() {
            if let Client::Subscriber(subscriber) = &mut self.clients[client] {
                subscriber.deaf = None;
            }
            self.drive(client)?;
        }
        Ok(())
    }

    /// Every subscriber is handed all that was ever applied, now that every member has it.
    pub(crate) fn must_stream(&mut self, within_ns: u64) -> Checked {
        let all = |sim: &Sim| {
            let end = sim.checks.sessions.entries().len() as u64 + 1;
            sim.subscribers().all(|client| match &sim.clients[client] {
                Client::Subscriber(subscriber) => subscriber.next() == end,
                Client::Appender(_) | Client::Reader(_) => true,
            })
        };
        if self.plan.subscribers == 0 || self.run_while(within_ns, all)? {
            return Ok(());
        }
        let entries = self.checks.sessions.entries().len();
        let waits = |client: usize| match &self.clients[client] {
            Client::Subscriber(one) => format!("c{client} waits for {}: {:?}", one.next(), one.core),
            Client::Appender(_) | Client::Reader(_) => String::new(),
        };
        let all: Vec<String> = self.subscribers().map(waits).collect();
        violated("subscribers get all entries", format!("{entries} were applied; {}", all.join("; ")))
    }
}
