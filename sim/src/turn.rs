//! A node's turn: when it comes, what the shard asked for in it, and what the checkers are shown when it is over.

use crate::checks::{Checked, Turn, hung_is_silent, leaves_within_lease, overwritten, status_told, violated};
use crate::client::client_at;
use crate::coverage;
use crate::disk::{InFlight, Logged};
use crate::history::KIND_OFFSET;
use crate::io::{MAX_EVENTS, Request, socket_index};
use crate::members::change_marks;
use crate::node::{Health, Node};
use crate::queue::NEVER;
use crate::sim::Sim;
use crate::trace::{End, What};
use std::borrow::Cow;
use synod::shard::Exit;
use synod_paxos::Role;
use synod_ring::Socket;
use synod_wire::Slot;
use synod_wire::client::Counter;
use synod_wire::frame::{HEADER_BYTES, Kind, frame_bytes, parse_header};

/// A turn does not follow the last one sooner than this.
const TURN_NS: u64 = 2_000;
/// A due time that a node does not act on is looked at again after this.
const RETRY_NS: u64 = 20_000;

/// A slot's value at any node that has applied it and still has its bytes.
fn held_elsewhere(nodes: [&[Node]; 2], slot: Slot) -> Option<&[u8]> {
    let applied = |shard: &&synod::shard::Shard<crate::io::SimIo>| shard.applied() >= slot;
    nodes
        .into_iter()
        .flatten()
        .filter_map(|node| node.shard.as_ref())
        .filter(applied)
        .find_map(|shard| shard.value(slot))
}

impl Sim {
    /// Sees to it that a node takes a turn soon.
    pub(crate) fn wake_node(&mut self, node: usize) {
        let slow = self.now_ns < self.nodes[node].slow_until_ns;
        let lag_ns = if slow { self.rng.exponential(3_000_000) } else { self.rng.below(20_000) };
        self.turn_at(node, self.now_ns + TURN_NS + lag_ns);
    }

    fn turn_at(&mut self, node: usize, at_ns: u64) {
        let this = &mut self.nodes[node];
        if at_ns < this.turn.at_ns {
            this.turn = self.queue.due(at_ns);
        }
    }

    /// Under memory durability a vote counts when it lies in memory: what the node holds above its prefix after a turn.
    fn observe_memory(&mut self, node: usize) -> Checked {
        let Some(shard) = self.nodes[node].shard.as_ref().filter(|_| self.plan.memory_durability) else {
            return Ok(());
        };
        let core = shard.core();
        for slot in (core.prefix().0 + 1..=core.highest_held().0).map(Slot) {
            if let (Some(ballot), Some(value)) = (core.held(slot), shard.value(slot)) {
                let crc = synod_wire::frame::checksum(value);
                self.checks.one_value.vote(&self.checks.configurations, node, (slot, ballot, crc))?;
            }
        }
        Ok(())
    }

    pub(crate) fn on_turn(&mut self, node: usize) -> Checked {
        let this = &mut self.nodes[node];
        this.turn = NEVER;
        if this.health != Health::Up {
            return Ok(());
        }
        if self.now_ns < this.paused_until_ns {
            let until_ns = this.paused_until_ns;
            self.checks.slow.interrupted(node);
            self.turn_at(node, until_ns);
            return Ok(());
        }
        let (local_ns, wall_ns) = (this.clock.monotonic_ns(self.now_ns), this.clock.wall_ns(self.now_ns));
        let withheld = self.now_ns < this.withheld_until_ns;
        let asked = !withheld && this.port.borrow().waiting[socket_index(Socket::Clients)] > 0;
        let stalled_ns = if asked { std::mem::take(&mut this.stalls_ns) } else { 0 };
        if stalled_ns > 0 {
            this.paused_until_ns = self.now_ns + stalled_ns;
            self.coverage.mark("a process stood still between reading the clock and using it");
        }
        {
            let mut port = this.port.borrow_mut();
            (port.now_ns, port.wall_ns, port.withheld) = (local_ns, wall_ns, withheld);
            port.stalled_ns = this.clock.monotonic_ns(self.now_ns + stalled_ns) - local_ns;
            if !withheld && std::mem::take(&mut this.withheld_until_ns) > 0 && port.inbox.len() > MAX_EVENTS {
                self.coverage.mark("a bunch of completions took more than one turn");
            }
        }
        let shard = this.shard.as_ref().expect("the process runs");
        let latest_ns = local_ns + this.port.borrow().stalled_ns;
        self.checks.prevotes.begins(node, shard.core(), latest_ns);
        let lease_until_ns = shard.core().lease_until_ns();
        let result = this.shard.as_mut().expect("the process runs").turn();
        let sent = self.carry_out(node, lease_until_ns)?;
        self.observe_memory(node)?;
        // What the turn found durable counts, even if it was the last: replies that rest on it have left.
        self.observe_log(node)?;
        let exit = match result {
            Err(fatal) => return self.ended(node, fatal),
            Ok(exit) => exit,
        };
        let role = self.nodes[node].role;
        self.observe(node, sent)?;
        let shard = self.nodes[node].shard.as_ref().expect("the process runs");
        self.checks.prevotes.turned(node, shard.core(), local_ns)?;
        self.checks.slow.turned(node, shard.core(), shard.counter(Counter::SlowDiskYields), local_ns)?;
        self.observe_trims(node)?;
        if exit == Some(Exit::Recover) {
            return self.recover_anew(node);
        }
        if self.nodes[node].role != role {
            if self.nodes[node].role == Role::Leader {
                self.hurry(node);
            }
            if self.nodes[node].role == Role::Preparing {
                self.nobody_else_holds_a_lease(node)?;
            }
            self.role_changed(node);
        }
        if self.nodes[node].role == Role::Halted && role != Role::Halted {
            if role == Role::Leader && self.was_removed(node) {
                self.coverage.mark("a leader was removed");
            }
            self.halted(node)?;
        }
        if self.nodes[node].effects_left == Some(0) {
            self.coverage.mark("a process was killed in the middle of a turn");
            return self.kill(node, false);
        }
        let this = &self.nodes[node];
        let due = this.shard.as_ref().expect("the process runs").deadline_ns();
        let held_until_ns = this.withheld_until_ns;
        if withheld {
            self.turn_at(node, held_until_ns);
        }
        let this = &self.nodes[node];
        if !withheld && !this.port.borrow().inbox.is_empty() {
            self.wake_node(node);
        } else if due != u64::MAX {
            let at_ns = this.clock.when(self.now_ns, due).max(self.now_ns + RETRY_NS);
            self.turn_at(node, at_ns);
        }
        Ok(())
    }

    /// A shard cannot deliver from memory; a recovery in the same process does it from the log, which must get it further.
    fn recover_anew(&mut self, node: usize) -> Checked {
        let applied = |sim: &Sim| sim.nodes[node].shard.as_ref().map(|shard| shard.applied());
        // What rotted meanwhile may be what was to be delivered.
        let before = applied(self).filter(|_| !self.nodes[node].damaged_since_start);
        self.coverage.mark("a shard asked to be recovered anew");
        self.note(What::Node(node, "recovers anew".to_owned()));
        self.stop(node, false)?;
        self.start(node)?;
        match applied(self) {
            Some(after) if Some(after) <= before => violated(
                "a recovery makes progress",
                format!("n{node} recovered anew to deliver more than slot {after}, and applied no more"),
            ),
            _ => Ok(()),
        }
    }

    /// Carries out what a turn asked for: datagrams sent, and the longest. `lease_until_ns`: as it was before the turn.
    fn carry_out(&mut self, node: usize, lease_until_ns: u64) -> Result<Turn, crate::checks::Violation> {
        let mut requests = std::mem::take(&mut self.scratch.requests);
        std::mem::swap(&mut requests, &mut self.nodes[node].port.borrow_mut().requests);
        let mut turn = Turn::default();
        for request in requests.drain(..) {
            if let Some(left) = &mut self.nodes[node].effects_left {
                if *left == 0 {
                    break;
                }
                *left -= 1;
            }
            match request {
                Request::Peer { peer, bytes } => {
                    (turn.datagrams, turn.longest) = (turn.datagrams + 1, turn.longest.max(bytes.len()));
                    self.check_sent((node, peer), &bytes)?;
                    self.transmit(End::Node(node), End::Node(peer), true, 0, bytes);
                }
                Request::Client { to, bytes } => {
                    (turn.datagrams, turn.longest) = (turn.datagrams + 1, turn.longest.max(bytes.len()));
                    self.frames_sent.message(&bytes);
                    match bytes.get(KIND_OFFSET).copied() {
                        Some(kind) if kind == Kind::TransferReply as u8 => self.transfer_told(&bytes),
                        Some(kind) if kind == Kind::MembersReply as u8 => self.change_told(&bytes),
                        _ => {}
                    }
                    let shard = self.nodes[node].shard.as_ref().expect("the process runs");
                    // What this turn delivered is counted when it is over.
                    let delivered = self.checks.prefix.end().max(shard.applied());
                    status_told(node, self.plan.memory_durability, shard, delivered, &bytes)?;
                    self.checks.configurations.told(node, shard.core(), &bytes)?;
                    self.checks.modes.told(node, shard.modes(), &bytes)?;
                    self.checks.streams.sent(node, shard.machine().tail().0, &bytes)?;
                    self.checks.trims.sent(node, &bytes, shard.machine().first().0, self.now_ns)?;
                    let this = &self.nodes[node];
                    let local_ns = this.clock.monotonic_ns(self.now_ns) + this.port.borrow().stalled_ns;
                    // What was answered by it leaves, though the turn went on to give it up, or to win more of it.
                    let lease_until_ns = lease_until_ns.max(shard.core().lease_until_ns());
                    leaves_within_lease(node, (local_ns, lease_until_ns), &bytes)?;
                    if let Some((client, life)) = client_at(to) {
                        self.transmit(End::Node(node), End::Client(client), false, life, bytes);
                    }
                }
                Request::Write { file, offset, bytes, token } => {
                    overwritten(node, &*file, offset, bytes.len())?;
                    let since_ns = self.nodes[node].clock.monotonic_ns(self.now_ns);
                    self.begin_write(node, InFlight { file, offset, bytes, token, since_ns })
                }
                Request::Job(job) => self.begin_job(node, job),
            }
        }
        self.scratch.requests = requests;
        Ok(turn)
    }

    fn check_sent(&mut self, (node, peer): (usize, usize), bytes: &[u8]) -> Checked {
        let mut at = 0;
        while let Ok((header, _, payload_bytes)) = parse_header(bytes.get(at..).unwrap_or(&[])) {
            self.frames_sent.kind(header.kind);
            self.checks.ballots.sent(node, &header)?;
            let payload = bytes.get(at + HEADER_BYTES..at + HEADER_BYTES + payload_bytes).unwrap_or(&[]);
            self.checks.evidence.sent(node, &header, payload);
            self.checks.prevotes.sent((node, peer), &header, payload);
            if header.kind == Kind::Accept {
                let local_ns = self.nodes[node].clock.monotonic_ns(self.now_ns);
                self.checks.slow.sent(node, header.slot, header.ballot, local_ns);
            }
            if !self.plan.memory_durability {
                let this = &self.nodes[node];
                hung_is_silent(node, self.plan.hung_ns, this.clock.monotonic_ns(self.now_ns), &this.disk, &header)?;
            }
            if !self.plan.memory_durability {
                self.checks.told.sent(node, &header, payload);
            }
            at += frame_bytes(payload_bytes);
        }
        Ok(())
    }

    /// Lets the checkers see what became durable in a node's turn.
    fn observe_log(&mut self, node: usize) -> Checked {
        let this = &mut self.nodes[node];
        let durable = this.shard.as_ref().expect("the process runs").log().durable_lsn();
        let records = this.disk.reported(durable);
        let local_ns = this.clock.monotonic_ns(self.now_ns);
        for Logged { header, .. } in records.iter().filter(|record| record.header.kind == Kind::Accept) {
            self.checks.slow.durable(node, header.slot, header.ballot, local_ns);
        }
        self.checks.logged(node, &records, durable)
    }

    /// Lets the checkers see a node after its turn.
    fn observe(&mut self, node: usize, mut turn: Turn) -> Checked {
        let (before, after) = self.nodes.split_at_mut(node);
        let (this, after) = after.split_first_mut().expect("the node exists");
        let others: [&[Node]; 2] = [before, after];
        let shard = this.shard.as_ref().expect("the process runs");
        let core = shard.core();
        let role = core.role();
        if role != this.role {
            self.coverage.role(this.role, role);
            let reconfigured = this.epoch != core.configuration().epoch;
            if !coverage::is_legal(this.role, role, reconfigured) {
                return violated("roles change as they may", format!("n{node}: {:?} -> {role:?}", this.role));
            }
            self.trace
                .note(self.now_ns, What::Node(node, format!("{:?} -> {role:?} in {}", this.role, core.promised())));
            this.role = role;
        }
        this.epoch = core.configuration().epoch;
        for change in self.checks.modes.turned(node, shard.modes())? {
            let text = format!("{} -> {}: {}", change.from.name(), change.to.name(), change.reason.name());
            self.coverage.mode(change.from, change.to);
            self.trace.note(self.now_ns, What::Node(node, text));
        }
        if this.robbed && !matches!(role, Role::Joining | Role::Halted) {
            // Source: FAULTS 21 and 22, "S3 or H".
            return violated(
                "who lost its state does not vote",
                format!("n{node} is a {role:?} after its disk was taken"),
            );
        }
        this.founded |= role != Role::Joining;
        self.checks.stepped(node, core);
        self.checks.evidence.counted(&self.checks.one_value, node, core)?;
        let applied = shard.applied();
        let from = self.checks.prefix.last_of(node).next();
        for slot in (from.0..=applied.0).map(Slot) {
            // Behind a hole that was open for long the bytes may have left memory since.
            let held = shard.value(slot).or_else(|| held_elsewhere(others, slot));
            if held.is_none() && slot <= self.checks.prefix.end() {
                self.checks.prefix.unseen(node, slot);
                continue;
            }
            let value = held.map_or_else(|| this.value_on_disk(slot).map(Cow::from), |value| Ok(Cow::from(value)))?;
            if let Some(changed) = self.checks.applied(node, slot, &value)? {
                self.trace.note(self.now_ns, What::Applied(node, slot.0));
                changed.into_iter().flat_map(change_marks).for_each(|mark| self.coverage.mark(mark));
            }
        }
        self.checks.configurations.turned(node, core, applied)?;
        if from <= applied {
            self.checks.sessions.agrees(node, applied, shard.machine())?;
            self.checks.kv.agrees(node, applied, shard.embedded())?;
        }
        turn.writes_in_flight = this.disk.in_flight.len();
        turn.jobs_out = this.port.borrow().jobs_out;
        turn.sessions = shard.machine().sessions();
        // A process that dies within its turn says no more, whatever it was about to say.
        if self.plan.subscribers > 0 && this.effects_left != Some(0) {
            let reads_all = this.port.borrow().waiting[socket_index(Socket::Clients)] == 0;
            self.checks.streams.turned(node, shard.streams(), reads_all, self.now_ns)?;
        }
        // A recovery may hold more above the prefix than a window: what was chosen there is not known chosen yet. Damage
        // makes this happen to others, too, which take it over.
        let open_slots = core.highest_held().0.saturating_sub(core.prefix().0);
        this.open_at_start = this.open_at_start.min(open_slots);
        let damaged = this.damaged || others.iter().flat_map(|nodes| nodes.iter()).any(|node| node.damaged);
        turn.open_slots = if damaged { 0 } else { open_slots - this.open_at_start };
        self.checks.bounds.turn(node, &turn)
    }
}
