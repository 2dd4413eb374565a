//! The faults that strike: which, where, and for how long. Each is placed so that what the invariants rest on survives:
//! no more than the plan's victims lose state for good, and every slot keeps a good copy.

use crate::checks::Checked;

use crate::disk::{Flush, SECTOR_BYTES, is_there, place, segment_name};
use crate::fault::{Fault, Style};
use crate::history::Old;
use crate::load::Client;
use crate::node::{CLUSTER, GROUP, Health, SEGMENT_BYTES};
use crate::sim::{Happening, Sim};
use crate::storage::MemoryDir;
use crate::trace::{End, What};
use std::rc::Rc;
use synod::sequencer::SESSION_IDLE_NS;
use synod_paxos::Role;
use synod_wire::frame::{Header, Kind, frame_bytes, write_frame};
use synod_wire::peer::{AcceptedBody, HelloBody, Probe};
use synod_wire::{Ballot, ClusterId, Epoch, Lsn, NodeId, Slot};

/// How long a cut, a clog or a stall lasts, on average.
pub(crate) const SPELL_MEAN_NS: u64 = 1_500_000_000;
/// Datagrams of one flood.
const FLOOD: usize = 300;
/// A process that is killed at its work is so within so many sends and writes: a few turns.
const KILL_WITHIN_EFFECTS: u64 = 100;
/// At an election: a promise asked for, logged and given.
const KILL_WITHIN_ELECTION: u64 = 12;
/// Old datagrams that reach a node around its election, at most.
const LATE_ANSWERS: u64 = 60;
/// An hour.
const HOUR_NS: i64 = 3_600_000_000_000;

impl Sim {
    /// One fault strikes, and the next is arranged for.
    pub(crate) fn strike(&mut self) -> Checked {
        if !self.chaos_on {
            return Ok(());
        }
        let mean_ns = self.plan.timing.strike_mean_ns;
        let next_ns = self.chaos.exponential(mean_ns).max(1_000_000);
        self.after(next_ns, Happening::Strike);
        let weights: Vec<(Fault, u64)> = self
            .plan
            .faults
            .iter()
            .filter(|(fault, _)| fault.style() == Style::Strike)
            .map(|(f, w)| (*f, *w))
            .collect();
        let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return Ok(());
        }
        let mut at = self.chaos.below(total);
        for (fault, weight) in weights {
            if at < weight {
                return self.strike_with(fault);
            }
            at -= weight;
        }
        Ok(())
    }

    fn strike_with(&mut self, fault: Fault) -> Checked {
        match fault {
            Fault::Partition | Fault::OneWay if self.aims_at_leases() => return self.cut_the_leader_off(fault),
            Fault::Partition | Fault::OneWay | Fault::Chained | Fault::Clog | Fault::MtuHole => {
                self.strike_links(fault)
            }
            Fault::Corruption
            | Fault::CorruptionEverywhere
            | Fault::Unreadable
            | Fault::Misdirected
            | Fault::PhantomWrite => {
                return self.damage(fault, false);
            }
            Fault::Amnesia => return self.amnesia(),
            Fault::Rollback => return self.rollback(),
            Fault::SyncError | Fault::NoSpace | Fault::DiskStall => self.strike_disk(fault),
            Fault::WallJump | Fault::Drift => self.strike_clock(fault),
            Fault::Pause | Fault::PauseLeader | Fault::SlowCore | Fault::Bunched => self.strike_process(fault),
            Fault::CatchUpStorm => return self.catch_up_storm(),
            Fault::Eviction => return self.crowd(),
            Fault::Kill => {
                return self.strike_kill();
            }
            Fault::PowerCut => {
                self.struck(fault, "the power fails".to_owned());
                return (0..self.plan.machines()).try_for_each(|node| self.kill(node, true));
            }
            Fault::WrongIdentity | Fault::Replay | Fault::Fuzz | Fault::Overrun => self.noise(fault),
            Fault::ClientRestart => return self.restart_client(),
            Fault::DeafSubscriber => return self.deafen_a_subscriber(),
            Fault::Overload => {
                self.overload_until_ns = self.now_ns + self.chaos.exponential(SPELL_MEAN_NS);
                self.struck(fault, "the load rises".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn struck(&mut self, fault: Fault, text: String) {
        self.coverage.fault(fault);
        self.note(What::World(format!("{fault}: {text}")));
    }

    fn some_node(&mut self) -> usize {
        self.chaos.below(self.plan.machines() as u64) as usize
    }

    fn two_nodes(&mut self) -> (usize, usize) {
        let from = self.some_node();
        let other = (from + 1 + self.chaos.below(self.plan.machines() as u64 - 1) as usize) % self.plan.machines();
        (from, other)
    }

    /// Whether clients are cut off too, as if they stood in the same rack as the other side.
    fn strike_links(&mut self, fault: Fault) {
        let until_ns = self.now_ns + 50_000_000 + self.chaos.exponential(SPELL_MEAN_NS);
        let nodes = self.plan.machines();
        match fault {
            Fault::Partition => {
                let side = self.chaos.between(1, (1 << nodes) - 2);
                for (a, b) in (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))) {
                    if (side >> a & 1) != (side >> b & 1) {
                        self.net.cut(End::Node(a), End::Node(b), until_ns);
                    }
                }
                self.struck(fault, format!("side {side:b} is cut off"));
            }
            Fault::OneWay => {
                let (a, b) = self.two_nodes();
                let all = self.chaos.percent(50);
                let deaf = self.chaos.percent(50);
                for other in (0..nodes).filter(|other| *other != a && (all || *other == b)) {
                    let (from, to) = if deaf { (other, a) } else { (a, other) };
                    self.net.cut(End::Node(from), End::Node(to), until_ns);
                }
                self.struck(
                    fault,
                    format!(
                        "n{a} is {} by {}",
                        if deaf { "not reached" } else { "not heard" },
                        if all { "all" } else { "one" }
                    ),
                );
            }
            Fault::Chained => {
                let shift = self.some_node();
                for (a, b) in (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))) {
                    if a.abs_diff(b) > 1 {
                        let (a, b) = ((a + shift) % nodes, (b + shift) % nodes);
                        self.net.cut(End::Node(a), End::Node(b), until_ns);
                    }
                }
                self.struck(fault, format!("the nodes stand in a chain that begins with n{shift}"));
            }
            Fault::Clog => {
                let (a, b) = self.two_nodes();
                self.net.link(End::Node(a), End::Node(b)).clogged_until_ns = until_ns;
                self.struck(fault, format!("n{a} -> n{b}"));
            }
            _ => {
                let (a, b) = self.two_nodes();
                self.net.link(End::Node(a), End::Node(b)).small_only_until_ns = until_ns;
                self.struck(fault, format!("n{a} -> n{b}"));
            }
        }
    }

    fn strike_disk(&mut self, fault: Fault) {
        let node = self.some_node();
        let spell_ns = self.chaos.exponential(SPELL_MEAN_NS);
        let until_ns = self.now_ns + spell_ns;
        let disk = &mut self.nodes[node].disk;
        match fault {
            Fault::SyncError => disk.fail_next = true,
            Fault::NoSpace => disk.no_space_until_ns = until_ns,
            // Slowness lasts: what is to yield to it must have the time to.
            _ if spell_ns.is_multiple_of(2) => disk.slow_until_ns = self.now_ns + 4 * spell_ns,
            _ => disk.stalled_until_ns = until_ns,
        }
        if fault == Fault::SyncError {
            // It counts when a write meets it.
            self.note(What::World(format!("{fault}: the next write of n{node} will fail")));
        } else {
            self.struck(fault, format!("n{node} for {} ms", spell_ns / 1_000_000));
        }
    }

    fn strike_clock(&mut self, fault: Fault) {
        let node = self.some_node();
        let now_ns = self.now_ns;
        if fault == Fault::WallJump {
            let near_ns = self.chaos.between(0, 2 * HOUR_NS as u64) as i64 - HOUR_NS;
            // Some clocks are set wrong by more than sessions may rest.
            let far = near_ns % 4 == 0;
            let by_ns = if far { near_ns + near_ns.signum() * SESSION_IDLE_NS as i64 } else { near_ns };
            self.nodes[node].clock.jump_wall(by_ns);
            self.struck(fault, format!("n{node} by {} s", by_ns / 1_000_000_000));
        } else {
            let most = self.plan.drift_ppm;
            let ppm = self.chaos.between(0, 2 * most) as i64 - most as i64;
            self.nodes[node].clock.set_drift(now_ns, ppm);
            self.struck(fault, format!("n{node} by {ppm} ppm"));
        }
    }

    fn strike_process(&mut self, fault: Fault) {
        let leader = self.nodes.iter().position(|node| node.role == Role::Leader && node.health == Health::Up);
        let node = match (fault, leader) {
            (Fault::PauseLeader, Some(leader)) => leader,
            _ => self.some_node(),
        };
        let at_least_ns = if fault == Fault::PauseLeader { 2 * self.plan.timing.election_max_ns } else { 1_000_000 };
        let until_ns = self.now_ns + at_least_ns + self.chaos.exponential(SPELL_MEAN_NS / 3);
        match fault {
            Fault::SlowCore => self.nodes[node].slow_until_ns = until_ns,
            Fault::Bunched => {
                self.nodes[node].withheld_until_ns = until_ns;
                self.overload_until_ns = self.overload_until_ns.max(until_ns);
            }
            _ => self.nodes[node].paused_until_ns = until_ns,
        }
        self.struck(fault, format!("n{node} for {} ms", (until_ns - self.now_ns) / 1_000_000));
    }

    /// A process ends at once, or in the middle of what it does next: most of the time a node does nothing, and what it
    /// has just sent, or is about to log, is what a crash makes interesting (FAULTS 27).
    fn strike_kill(&mut self) -> Checked {
        let leader = self.nodes.iter().position(|node| node.role == Role::Leader && node.health == Health::Up);
        let node = leader.filter(|_| self.chaos.percent(40)).unwrap_or_else(|| self.some_node());
        if self.chaos.percent(40) {
            self.struck(Fault::Kill, format!("kills n{node}"));
            return self.kill(node, false);
        }
        if self.chaos.percent(50) {
            self.kills_at_elections = self.chaos.between(1, 4);
            self.note(What::World(format!("{}: the next elections have their deaths", Fault::Kill)));
        } else {
            self.kill_at_work(node, KILL_WITHIN_EFFECTS);
        }
        Ok(())
    }

    pub(crate) fn kill_at_work(&mut self, node: usize, within: u64) {
        if self.nodes[node].effects_left == Some(0) {
            // It dies at the end of this turn: what it asked for last never happened.
            return;
        }
        let effects = self.chaos.between(1, within);
        self.nodes[node].effects_left = Some(effects);
        self.struck(Fault::Kill, format!("kills n{node} after {effects} more sends and writes"));
    }

    fn restart_client(&mut self) -> Checked {
        let client = self.chaos.below(self.plan.clients as u64) as usize;
        self.struck(Fault::ClientRestart, format!("c{client}"));
        let now_ns = self.now_ns;
        if let Client::Appender(appender) = &mut self.clients[client] {
            appender.restart(now_ns);
        }
        self.drive(client)
    }

    // Disks that lie, forget, or rot.

    /// A node that may lose its state, once the group is founded: before that every member is needed, by design.
    fn some_victim(&mut self) -> Option<usize> {
        if !self.nodes[..self.plan.nodes].iter().all(|node| node.founded) {
            return None;
        }
        if self.plan.change_mean_ms > 0 {
            return self.spare_voter();
        }
        let alive = |node: &&usize| !matches!(self.nodes[**node].health, Health::Dead(_));
        let victims: Vec<usize> = self.plan.victims.iter().filter(alive).copied().collect();
        (!victims.is_empty()).then(|| self.chaos.pick(&victims))
    }

    /// A disk is replaced by an empty one.
    pub(crate) fn amnesia(&mut self) -> Checked {
        let Some(node) = self.some_victim() else { return Ok(()) };
        self.struck(Fault::Amnesia, format!("n{node} gets a new disk"));
        // Who did not found the group is never formatted as if it had; nor is anybody by an operator who knows.
        if self.plan.change_mean_ms > 0 && (node >= self.plan.nodes || self.chaos.percent(50)) {
            return self.join_anew(node);
        }
        if self.nodes[node].health == Health::Up {
            self.stop(node, true)?;
        }
        let incarnation = self.chaos.word().max(1);
        let this = &mut self.nodes[node];
        (this.dir, this.store) = MemoryDir::dir(this.dir.path().to_path_buf());
        this.disk = crate::disk::Disk::default();
        this.robbed = true;
        self.format_node(node, incarnation, false);
        self.after(10_000_000, Happening::Start { node });
        Ok(())
    }

    /// Syncs become lies; when they are already, the power fails and shows it.
    pub(crate) fn rollback(&mut self) -> Checked {
        let Some(node) = self.some_victim() else { return Ok(()) };
        if self.nodes[node].health != Health::Up {
            return Ok(());
        }
        if !self.nodes[node].disk.lying {
            self.nodes[node].disk.lying = true;
            self.note(What::World(format!("{}: n{node}'s disk begins to lie", Fault::Rollback)));
            return Ok(());
        }
        self.note(What::World(format!("{}: n{node} loses power", Fault::Rollback)));
        self.stop(node, true)?;
        self.nodes[node].disk.settle();
        self.after(10_000_000, Happening::Start { node });
        Ok(())
    }

    /// A node that was robbed may start only if a peer remembers more than it does; then it hears that peer alone, until
    /// it has halted. Nothing can protect a group that nobody tells of the loss (DESIGN, "Membership").
    pub(crate) fn only_who_remembers(&mut self, node: usize) -> bool {
        let Some(shard) = &self.nodes[node].shard else { return false };
        let last = shard.core().last_lsn();
        let fresh = last <= Lsn(1);
        let id = NodeId(node as u8);
        let remembers = |other: &crate::node::Node| {
            let core = other.shard.as_ref().map(|shard| shard.core());
            other.index != node
                && !other.robbed
                && self.belongs(other.index)
                && core.is_some_and(|core| if fresh { core.is_founded() } else { core.counted(id) > last })
        };
        let Some(witness) = self.nodes.iter().position(remembers) else { return false };
        self.nodes[node].witness = Some(witness);
        for other in (0..self.plan.machines()).filter(|other| *other != witness && *other != node) {
            self.net.cut(End::Node(node), End::Node(other), u64::MAX);
            self.net.cut(End::Node(other), End::Node(node), u64::MAX);
        }
        true
    }

    /// Damages a flush that a later mark covers, so that it cannot be taken for a torn tail: any, or the newest.
    pub(crate) fn damage(&mut self, fault: Fault, newest: bool) -> Checked {
        let everywhere = fault == Fault::CorruptionEverywhere;
        let node = if everywhere { Some(self.some_node()) } else { self.some_victim() };
        let Some(node) = node.filter(|node| !self.nodes[*node].disk.lying && !self.nodes[*node].robbed) else {
            return Ok(());
        };
        let mut able = self.nodes[node].disk.damageable();
        if everywhere {
            let slots = |at: usize| -> Vec<Slot> {
                self.nodes[node].disk.flushes[at].records.iter().map(|(_, slot, ..)| *slot).collect()
            };
            able.retain(|at| self.may_damage(node, &slots(*at)));
        }
        let keeps_founding = self.plan.rate(Fault::Amnesia) + self.plan.rate(Fault::Rollback) > 0;
        if keeps_founding {
            // A member that cannot tell that it was founded needs all the others to say so.
            able.retain(|at| {
                !self.nodes[node].disk.flushes[*at].records.iter().any(|(kind, ..)| *kind == Kind::Founded)
            });
        }
        // What retention removed can rot no more.
        let this = &self.nodes[node];
        able.retain(|at| is_there(&this.dir, SEGMENT_BYTES, this.disk.flushes[*at].start));
        if able.is_empty() {
            return Ok(());
        }
        // The latest are the ones whose loss matters most.
        let recent = able.len().min(if newest { 1 } else { 8 }) as u64;
        let at = if newest || self.chaos.percent(70) {
            able[self.chaos.below(recent) as usize]
        } else {
            self.chaos.pick(&able)
        };
        let flush = self.nodes[node].disk.flushes[at].clone();
        if fault == Fault::Corruption && flush.start >= SEGMENT_BYTES && self.chaos.percent(20) {
            return self.damage_header(node, flush.start);
        }
        self.nodes[node].disk.flushes[at].damaged = true;
        (self.nodes[node].damaged, self.nodes[node].damaged_since_start) = (true, true);
        self.damaged_slots.extend(flush.records.iter().map(|(_, slot, ..)| (*slot, node)));
        self.damage_flush(node, &flush, fault);
        self.struck(fault, format!("n{node}: the flush at {} with records up to {}", flush.start, flush.last_lsn));
        if self.chaos.percent(60) {
            // Nobody reads it before the next start.
            self.kill(node, false)?;
            if self.chaos.percent(50) {
                let other =
                    (node + 1 + self.chaos.below(self.plan.machines() as u64 - 1) as usize) % self.plan.machines();
                self.isolate(other);
            }
        }
        Ok(())
    }

    /// The header of a segment goes bad that is not the only one: the others say the same, and no record is lost.
    fn damage_header(&mut self, node: usize, pos: u64) -> Checked {
        let (file, _) = place(&self.nodes[node].dir, SEGMENT_BYTES, pos);
        let mut header = [0; SECTOR_BYTES];
        file.read_at(&mut header, 0).expect("memory reads");
        let bit = self.chaos.below(8 * 64);
        header[(bit / 8) as usize] ^= 1 << (bit % 8);
        file.write_at(&header, 0).expect("memory takes writes");
        self.nodes[node].damaged = true;
        self.nodes[node].before.header_lost = true;
        self.struck(Fault::Corruption, format!("n{node}: the header of the segment at {pos}"));
        self.kill(node, false)
    }

    /// Cuts a node off from the others for a while: its copies are out of reach.
    fn isolate(&mut self, node: usize) {
        let until_ns = self.now_ns + self.chaos.exponential(2 * SPELL_MEAN_NS);
        for other in (0..self.plan.machines()).filter(|other| *other != node) {
            self.net.cut(End::Node(node), End::Node(other), until_ns);
            self.net.cut(End::Node(other), End::Node(node), until_ns);
        }
        self.note(What::World(format!("n{node} is cut off")));
    }

    /// Whether these slots' copies on `node` may go bad: it is a victim that nobody else's loss adds to, or each slot has
    /// its other copies.
    pub(crate) fn may_damage(&self, node: usize, slots: &[Slot]) -> bool {
        if self.plan.rate(Fault::CorruptionEverywhere) == 0 {
            return self.plan.victims.contains(&node);
        }
        let elsewhere = |slot: &Slot| self.damaged_slots.iter().any(|(damaged, at)| damaged == slot && *at != node);
        slots.iter().all(|slot| *slot == Slot::ZERO || !elsewhere(slot))
    }

    fn damage_flush(&mut self, node: usize, flush: &Flush, fault: Fault) {
        let (file, offset) = place(&self.nodes[node].dir, SEGMENT_BYTES, flush.start);
        if fault == Fault::Unreadable {
            let (_, _, start, _) = self.chaos.pick(&flush.records);
            let this = &mut self.nodes[node];
            this.store.spoil(&segment_name(SEGMENT_BYTES, flush.start), offset + start);
            this.before.unreadable = true;
            return;
        }
        let (from, bytes) = match fault {
            Fault::PhantomWrite => (0, flush.bytes as usize),
            Fault::Misdirected => (0, SECTOR_BYTES.min(flush.bytes as usize)),
            _ => {
                let (_, _, start, bytes) = self.chaos.pick(&flush.records);
                (start as usize, bytes)
            }
        };
        let mut damaged = vec![0; bytes];
        match fault {
            Fault::PhantomWrite => {}
            Fault::Misdirected => {
                // What belongs to the segment's front lies here now.
                if let Err(error) = file.read_at(&mut damaged, crate::disk::BLOCK_BYTES as u64) {
                    // Zeros will do: the front is a page that cannot be read.
                    assert_eq!(error.raw_os_error(), Some(crate::storage::EIO), "memory reads");
                }
            }
            _ => {
                file.read_at(&mut damaged, offset + from as u64).expect("memory reads");
                let bit = self.chaos.below(8 * 64);
                damaged[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
        }
        file.write_at(&damaged, offset + from as u64).expect("memory takes writes");
    }

    // Datagrams of nobody.

    fn noise(&mut self, fault: Fault) {
        let node = self.some_node();
        let count = match fault {
            Fault::Overrun => FLOOD,
            _ => self.chaos.between(1, 20) as usize,
        };
        for _ in 0..count {
            let Some((from, to, peers, bytes)) = self.noise_datagram(fault, node) else { continue };
            let delay_ns = self.chaos.below(if fault == Fault::Overrun { 1_000 } else { 5_000_000 });
            self.after(delay_ns, Happening::Datagram { from, to, peers, life: 0, bytes });
        }
        if fault == Fault::Overrun {
            self.note(What::World(format!("{fault}: {count} datagrams at once to n{node}")));
        } else {
            self.struck(fault, format!("{count} datagrams"));
        }
    }

    /// A change of leaders is when late answers to an earlier ballot are dangerous, and what a crash forgets.
    pub(crate) fn role_changed(&mut self, node: usize) {
        let answers = match self.nodes[node].role {
            Role::Candidate if self.chaos_on => Kind::Promise,
            Role::Preparing if self.chaos_on => Kind::Accepted,
            _ => return,
        };
        if self.plan.rate(Fault::Replay) > 0 {
            self.replay_answers(node, answers);
        }
        if self.kills_at_elections > 0 {
            self.kills_at_elections -= 1;
            let victim = self.some_node();
            self.kill_at_work(victim, KILL_WITHIN_ELECTION);
        }
    }

    /// The start of a node that lost its state is when answers to an earlier start are.
    pub(crate) fn robbed_node_starts(&mut self, node: usize) {
        if self.chaos_on && self.plan.rate(Fault::Replay) > 0 {
            self.replay_answers(node, Kind::HelloAck);
        }
    }

    fn replay_answers(&mut self, node: usize, kind: Kind) {
        let count = self.chaos.between(1, LATE_ANSWERS);
        // About as long as the true answers take.
        let late_ns = self.plan.timing.sync_mean_ns + self.plan.timing.delay_mean_ns;
        for _ in 0..count {
            let Some(Old { from, to, peers, bytes }) =
                self.net.history.pick_answer(node, kind, &mut self.chaos).cloned()
            else {
                return;
            };
            let delay_ns = self.chaos.exponential(late_ns);
            self.after(delay_ns, Happening::Datagram { from, to, peers, life: 0, bytes });
        }
        self.struck(Fault::Replay, format!("{count} old answers to n{node}"));
    }

    fn noise_datagram(&mut self, fault: Fault, node: usize) -> Option<(End, End, bool, Rc<[u8]>)> {
        let to = End::Node(node);
        match fault {
            Fault::Replay => {
                let Old { from, to, peers, bytes } = self.net.history.pick(&mut self.chaos)?.clone();
                match (from, to) {
                    (End::Node(_), End::Client(_)) => None,
                    (End::Client(_), _) if self.chaos.percent(50) => Some((End::Stranger, to, peers, bytes)),
                    _ => Some((from, to, peers, bytes)),
                }
            }
            Fault::WrongIdentity => Some((End::Stranger, to, true, self.foreign_frame(node))),
            _ => {
                let peers = self.chaos.percent(50);
                Some((End::Stranger, to, peers, self.garbage()))
            }
        }
    }

    /// A well-made frame of a node that has no say here: another cluster's, a stranger's, or one with this node's number.
    fn foreign_frame(&mut self, node: usize) -> Rc<[u8]> {
        let which = self.chaos.below(3);
        let kind = self.chaos.pick(&[Kind::Prepare, Kind::Heartbeat, Kind::Accepted, Kind::Hello]);
        let other = NodeId(((node + 1) % self.plan.machines()) as u8);
        let from = [other, NodeId(40), NodeId(node as u8)][which as usize];
        let cluster = if which == 0 { ClusterId(CLUSTER.0 + 1) } else { CLUSTER };
        let ballot = Ballot { round: 1 << 40, node: from };
        let header = Header {
            kind,
            flags: 0,
            from,
            group: GROUP,
            cluster,
            epoch: Epoch(1),
            slot: Slot(1 << 20),
            ballot,
            promised: ballot,
            lsn: Lsn(1 << 40),
        };
        let payload = vec![
            0xff;
            match kind {
                Kind::Heartbeat => size_of::<Probe>(),
                Kind::Accepted => size_of::<AcceptedBody>(),
                Kind::Hello => size_of::<HelloBody>(),
                _ => 0,
            }
        ];
        let mut bytes = vec![0; frame_bytes(payload.len())];
        write_frame(&mut bytes, &header, &payload);
        bytes.into()
    }

    /// Noise, or an old datagram that is cut and scratched so that no checksum fits.
    fn garbage(&mut self) -> Rc<[u8]> {
        let old = self.net.history.pick(&mut self.chaos).cloned().filter(|_| self.chaos.percent(60));
        let mut bytes = match old {
            Some(old) => old.bytes.to_vec(),
            None => {
                let count = self.chaos.below(1_600) as usize;
                (0..count).map(|_| self.chaos.word() as u8).collect()
            }
        };
        if self.chaos.percent(50) {
            let keep = self.chaos.below(bytes.len() as u64 + 1) as usize;
            bytes.truncate(keep);
        }
        if let Some(byte) = bytes.get_mut(20) {
            // Within the header's checksum.
            *byte ^= 0x5a;
        }
        bytes.into()
    }
}
