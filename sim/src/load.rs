//! The clients in the engine: what they offer and read and when, what they send, and what they learnt. One client is in
//! `client.rs`. Called by the engine.

use crate::answers::request;
use crate::checks::{Checked, violated};
use crate::client::{Appender, Learnt, Outgoing, Reader};
use crate::node::{KV_LIMITS, node_at};
use crate::payload::{KEYS, Key};
use crate::sim::{Happening, Sim};
use crate::subscriber::Subscriber;
use crate::trace::{End, What};
use synod_client::Consistency;

/// What most reads begin within, from the tail.
const RECENT_ENTRIES: u64 = 300;
/// How much more load an overload is.
const OVERLOAD: u64 = 4;

/// A client of either kind.
pub(crate) enum Client {
    Appender(Box<Appender>),
    Reader(Reader),
    Subscriber(Subscriber),
}

impl Client {
    /// Whether it waits for no acknowledgement.
    pub(crate) fn is_drained(&self) -> bool {
        match self {
            Client::Appender(appender) => appender.is_drained(),
            Client::Reader(_) | Client::Subscriber(_) => true,
        }
    }
}

impl Sim {
    pub(crate) fn send_all(&mut self, client: usize, out: &mut Vec<Outgoing>) {
        for (to, bytes) in out.drain(..) {
            self.frames_sent.message(&bytes);
            if let Some(node) = node_at(to) {
                if let Some(asked) = request(&bytes) {
                    self.checks.asked(client, asked, node, self.now_ns);
                }
                self.transmit(End::Client(client), End::Node(node), false, 0, bytes);
            }
        }
    }

    /// Lets a client do what is due, and arranges for its next time.
    pub(crate) fn drive(&mut self, client: usize) -> Checked {
        let mut out = std::mem::take(&mut self.scratch.outgoing);
        let next_ns = match &mut self.clients[client] {
            Client::Appender(appender) => {
                let mut all = std::mem::take(&mut self.scratch.learnt);
                let client_id = appender.client_id;
                appender.drive(self.now_ns, &mut out, &mut all);
                let (offered, acked, conflicts) = (appender.offered, appender.acked, appender.conflicting_acks());
                let next_ns = appender.next_ns();
                if conflicts > 0 {
                    return violated(
                        "acknowledged entries survive",
                        format!("c{client} got contradicting acknowledgements"),
                    );
                }
                for learnt in all.drain(..) {
                    self.learnt(client, client_id, learnt, (offered, acked))?;
                }
                self.scratch.learnt = all;
                next_ns
            }
            Client::Reader(reader) => {
                let mut read = 0;
                while let Some(entry) = reader.next_entry() {
                    self.checks.reads.read(&self.checks.sessions, client, &entry)?;
                    read += 1;
                }
                self.operations += u64::from(read > 0);
                self.go_on_behind_trim(client)?;
                let Client::Reader(reader) = &mut self.clients[client] else { return Ok(()) };
                if reader.is_finished() && self.checks.reads.finished(client)? {
                    self.coverage.mark("a read ended");
                }
                reader.transmit(self.now_ns, &mut out);
                reader.next_ns()
            }
            Client::Subscriber(_) => self.drive_subscriber(client, &mut out)?,
        };
        self.send_all(client, &mut out);
        self.scratch.outgoing = out;
        if let Some(at_ns) = next_ns {
            let at_ns = at_ns.max(self.now_ns + 1_000);
            if at_ns < self.wakes[client].at_ns {
                self.wakes[client] = self.queue.due(at_ns);
            }
        }
        Ok(())
    }

    fn learnt(&mut self, client: usize, id: u128, learnt: Learnt, (offered, acked): (u64, u64)) -> Checked {
        match learnt {
            Learnt::Acked(client_seq, sequence, entries) => {
                self.note(What::Acked(client, client_seq, sequence, entries));
                for at in 0..u64::from(entries) {
                    let log = self.checks.sessions.entries();
                    self.checks.acked.acked(log, (id, client_seq + at), sequence + at, self.now_ns)?;
                }
                self.operations += u64::from(entries);
                Ok(())
            }
            Learnt::Again => {
                self.coverage.mark("a client that came back was told an old outcome again");
                Ok(())
            }
            Learnt::Opened(last) if last > offered => violated(
                "each entry once, first in first out",
                format!("c{client}: {last} committed, {offered} offered"),
            ),
            Learnt::Opened(last) if last < acked => violated(
                "acknowledged entries survive",
                format!("c{client}: {acked} was acknowledged, but its session says that {last} is the last"),
            ),
            Learnt::Opened(last) => self.checks.acked.opened(&self.checks.sessions, id, acked, last, self.now_ns),
            Learnt::NotAppended(client_seq, entries, unmet) => {
                self.note(What::World(format!("c{client}: {entries} from {client_seq} on not appended: {unmet}")));
                self.operations += u64::from(entries);
                self.checks.conditions.told(&self.checks.sessions, id, client_seq, u64::from(entries), unmet)
            }
            Learnt::Closed(reason, session) => {
                self.note(What::World(format!("c{client} closes: {reason:?}")));
                if reason == synod_client::CloseReason::SessionEvicted {
                    if session.is_none_or(|number| self.checks.sessions.has(id, number)) {
                        return violated(
                            "each entry once, first in first out",
                            format!("c{client} is told that its session is gone, but it is not"),
                        );
                    }
                    self.coverage.mark("a client was told that its session is gone");
                }
                Ok(())
            }
        }
    }

    pub(crate) fn on_offer(&mut self, client: usize) -> Checked {
        let busy = self.now_ns < self.overload_until_ns;
        let per_client =
            (self.plan.entries_per_second / self.plan.clients as u64).max(1) * if busy { OVERLOAD } else { 1 };
        let count = self.client_rng.between(1, self.plan.burst);
        let mean_ns = 1_000_000_000 / per_client * self.plan.burst.div_ceil(2);
        let next_ns = self.client_rng.exponential(mean_ns);
        if self.load_on {
            self.offered += count;
            self.after(next_ns, Happening::Offer { client });
        }
        self.offer_now(client, count)
    }

    /// A client offers up to `count` entries.
    pub(crate) fn offer_now(&mut self, client: usize, count: u64) -> Checked {
        let now_ns = self.now_ns;
        let tail = self.checks.sessions.entries().len() as u64;
        let (acked, conditions) = (&mut self.checks.acked, &mut self.checks.conditions);
        if let Client::Appender(appender) = &mut self.clients[client] {
            appender.offer(count, tail, now_ns, &mut |id, seq, condition, is_new| {
                conditions.offered(id, seq, condition);
                if is_new {
                    acked.offered(id, seq, now_ns);
                }
            });
        }
        self.drive(client)
    }

    fn some_consistency(&mut self) -> Consistency {
        let bound_ms = self.client_rng.pick(&[2, 20, 200, 2_000]);
        if self.plan.lease_ns > 0 && self.client_rng.percent(60) {
            return self.client_rng.pick(&[Consistency::Lease, Consistency::LeaseOrReadIndex]);
        }
        self.client_rng.pick(&[
            Consistency::Local,
            Consistency::Local,
            Consistency::Bounded(bound_ms),
            Consistency::ReadIndex,
            Consistency::ReadIndex,
        ])
    }

    pub(crate) fn on_read(&mut self, client: usize) -> Checked {
        let mean_ns = 1_000_000_000;
        let next_ns = self.client_rng.exponential(mean_ns);
        if self.load_on {
            self.offered += 1;
            self.after(next_ns, Happening::Read { client });
        }
        let tail = self.checks.sessions.entries().len() as u64;
        // Old entries come from disk, by way of housekeeping; recent ones from memory.
        let old = self.client_rng.percent(5);
        let from = self.client_rng.between(if old { 1 } else { tail.saturating_sub(RECENT_ENTRIES) + 1 }, tail + 1);
        let whole = self.client_rng.percent(40);
        let count = self.client_rng.between(1, 200);
        let consistency = self.some_consistency();
        // Not often: each of a large group's members asks the leader, who asks all of them.
        if self.client_rng.percent(15) {
            self.ask_tails(client, consistency);
        }
        if self.plan.lease_ns > 0 {
            // They cost nobody but who is asked.
            self.ask_tails(client, Consistency::Lease);
        }
        self.may_stall_the_leader(4);
        if self.plan.kv && self.client_rng.percent(60) {
            // The last entries' outcomes are kept, and older ones forgotten.
            let first = tail.saturating_sub(2 * KV_LIMITS.outcomes as u64).max(1);
            let outcome = tail > 0 && self.client_rng.percent(40);
            let sequence = outcome.then(|| self.client_rng.between(first, tail));
            let key = Key(self.client_rng.below(KEYS));
            self.ask_maps(client, consistency, sequence, key);
        }
        if tail > 0 && self.client_rng.percent(15) {
            // The last are asked for as well, which not every node has applied or written yet.
            let first = if self.client_rng.percent(20) { 1 } else { tail.saturating_sub(RECENT_ENTRIES).max(1) };
            let last = self.client_rng.percent(30);
            let sequence = if last { tail } else { self.client_rng.between(first, tail) };
            let by_slot = self.client_rng.percent(40);
            self.ask_evidence(client, sequence, by_slot);
        }
        if let Client::Reader(reader) = &mut self.clients[client] {
            let now_ns = self.now_ns;
            let (from, count) = if whole { (tail + 1, None) } else { (from, Some(count)) };
            reader.begin(from, count, consistency, now_ns);
            self.checks.reads.begun(client, from, count);
        }
        self.drive(client)
    }
}
