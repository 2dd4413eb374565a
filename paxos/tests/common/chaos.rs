//! A group under random faults in simulated time: datagrams are lost, doubled, delayed and reordered, links are cut one way
//! or both, processes crash and freeze, disks are slow, lose what was not synced, and one of them is damaged.
//!
//! The run has two phases, as in TigerBeetle's simulator: chaos, in which only safety is checked, and calm, in which the
//! group has to converge and to commit something new within a bound. Everything follows from the seed.

use super::checks::Checks;
use super::disk::{Damage, Disk};
use super::node::{Node, Packet};
use super::random::Random;
use super::{MS, configuration_value, founding, settings};
use std::collections::{BTreeMap, BTreeSet};
use synod_paxos::{Change, Input, Replica, Role, Settings};
use synod_wire::{Configuration, Epoch, Lsn, Member, NodeId, Quorums, Slot};

/// How long the faults last.
const CHAOS_NS: u64 = 3_000 * MS;
/// How long the group may take to converge afterwards. A candidate's time-out has backed off to eight times the longest one
/// at most, and the election that it then starts may be lost once.
const CALM_NS: u64 = 12 * 300 * MS;
/// Values proposed at most while there is chaos: what a quiet run commits teaches nothing new after a while, and what one
/// node slept through has to be caught up within `CALM_NS`.
const MAX_PROPOSALS: u64 = 1_000;
/// About how often some node is read from.
const READ_EVERY_NS: u64 = 5 * MS;
/// Events that no run needs: the group talks without end.
const MAX_EVENTS: u64 = 2_000_000;

/// What a seed draws: some runs are nearly quiet, some nearly hopeless (swarm testing, Groce et al., 2012).
#[derive(Debug)]
struct Faults {
    loss_percent: u64,
    double_percent: u64,
    delay_ns: u64,
    late_percent: u64,
    sync_ns: u64,
    stall_percent: u64,
    crash_every_ns: u64,
    cut_every_ns: u64,
    freeze_every_ns: u64,
    damage_percent: u64,
    propose_every_ns: u64,
    burst: u64,
    /// About how often an operator changes the members; never: [`u64::MAX`].
    change_every_ns: u64,
}

impl Faults {
    fn draw(random: &mut Random) -> Faults {
        Faults {
            loss_percent: random.pick(&[0, 0, 1, 5, 15, 30]),
            double_percent: random.pick(&[0, 0, 2, 10, 30]),
            delay_ns: random.pick(&[MS / 10, MS, 5 * MS, 20 * MS]),
            late_percent: random.pick(&[0, 0, 1, 5, 20]),
            sync_ns: random.pick(&[MS / 10, MS, 10 * MS, 40 * MS]),
            stall_percent: random.pick(&[0, 0, 1, 5]),
            crash_every_ns: random.pick(&[u64::MAX, 1_000 * MS, 300 * MS, 100 * MS]),
            cut_every_ns: random.pick(&[u64::MAX, 500 * MS, 100 * MS]),
            freeze_every_ns: random.pick(&[u64::MAX, u64::MAX, 400 * MS]),
            damage_percent: random.pick(&[0, 0, 20, 60]),
            propose_every_ns: random.pick(&[MS, 5 * MS, 30 * MS]),
            burst: random.pick(&[1, 1, 4, 20]),
            change_every_ns: random.pick(&[u64::MAX, u64::MAX, 20 * MS, 100 * MS]),
        }
    }
}

#[derive(Debug)]
enum Event {
    Arrive(Packet),
    Synced { node: NodeId, life: u32, upto: Lsn },
    Crash,
    Start(NodeId),
    Cut,
    Heal,
    Freeze,
    Propose,
    Read,
    Change,
}

/// One run.
pub(crate) struct Chaos {
    /// What the seed drew, for the report of a failure.
    pub(crate) drawn: String,
    random: Random,
    faults: Faults,
    calm: bool,
    now_ns: u64,
    nodes: Vec<Node>,
    checks: Checks,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    syncing: BTreeSet<NodeId>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    frozen_until_ns: BTreeMap<NodeId, u64>,
    /// The one node whose disk may be damaged, if the others suffice.
    fragile: Option<NodeId>,
    /// How many nodes either quorum can do without.
    spare: usize,
    /// Whether the group can be expected to go on without the spare ones.
    quorum_suffices: bool,
    /// Nodes that stay down when all is calm.
    absent: BTreeSet<NodeId>,
    proposed: u64,
    /// The first slot that may be chosen after the last fault.
    fresh_slot: Slot,
    steps: u64,
    founders: u8,
    /// A change that an operator asked a leader for.
    wanted: Option<(NodeId, Configuration)>,
    /// A voter that lost its disk, until it votes again.
    lost: Option<NodeId>,
}

/// A node that may join a group, as `format` leaves it.
fn joining(me: u8, founders: u8, like: &Settings) -> Node {
    let mut settings = settings(me, founders);
    (settings.joins, settings.quorums) = (true, like.quorums);
    (settings.window_slots, settings.fetch_slots) = (like.window_slots, like.fetch_slots);
    settings.seed = like.seed.rotate_left(me.into());
    Node::new(settings, Disk::default())
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) steps: u64,
    pub(crate) chosen: u64,
    pub(crate) simulated_ns: u64,
    /// From the last fault to convergence.
    pub(crate) calm_ns: u64,
}

impl Chaos {
    /// The group that the seed draws.
    pub(crate) fn new(seed: u64) -> Chaos {
        let mut random = Random::new(seed);
        let size = random.pick(&[3u8, 3, 5]);
        let majority = Quorums::majority(size.into());
        let read_heavy = Quorums { phase1: majority.phase1 + 1, phase2: majority.phase2 - 1 };
        let quorums = random.pick(&[majority, majority, majority, read_heavy]);
        let window_slots = random.pick(&[2, 8, 64]);
        let fetch_slots = random.pick(&[4, 16]);
        let fresh = random.chance(20);
        let faults = Faults::draw(&mut random);
        let changes = faults.change_every_ns != u64::MAX;
        // A disk that is lost takes a vote with it: as many members must have had it as there are majorities.
        let (quorums, fresh) = if changes { (majority, false) } else { (quorums, fresh) };
        let faults = Faults { damage_percent: if changes { 0 } else { faults.damage_percent }, ..faults };
        let mut checks = Checks::new(founding(size, quorums));
        let nodes = (1..=size).map(|me| {
            let mut settings = settings(me, size);
            settings.quorums = quorums;
            settings.window_slots = window_slots;
            settings.fetch_slots = fetch_slots;
            settings.seed = random.word();
            let disk = if fresh { Disk::default() } else { Node::founded_disk(&settings) };
            let mut node = Node::new(settings, disk);
            node.start(0, &mut checks);
            node
        });
        let mut nodes: Vec<Node> = nodes.collect();
        if changes {
            let joins = (size + 1..=size + 2).map(|me| joining(me, size, &nodes[0].settings));
            nodes.extend(joins.collect::<Vec<_>>());
        }
        let spare = usize::from(size) - quorums.phase1.max(quorums.phase2);
        let fragile = Some(NodeId(random.between(1, size.into()) as u8)).filter(|_| spare > 0);
        let quorum_suffices = !fresh && !changes && faults.damage_percent == 0;
        let drawn =
            format!("{size} nodes, {quorums:?}, window {window_slots}, fetch {fetch_slots}, fresh {fresh}, {faults:?}");
        let mut chaos = Chaos {
            drawn,
            random,
            faults,
            calm: false,
            now_ns: 0,
            nodes,
            checks,
            events: BTreeMap::new(),
            scheduled: 0,
            syncing: BTreeSet::new(),
            cuts: BTreeSet::new(),
            frozen_until_ns: BTreeMap::new(),
            fragile,
            spare,
            quorum_suffices,
            absent: BTreeSet::new(),
            proposed: 0,
            fresh_slot: Slot(u64::MAX),
            steps: 0,
            founders: size,
            wanted: None,
            lost: None,
        };
        chaos.schedule(MS, Event::Propose);
        chaos.schedule(MS, Event::Read);
        chaos.again(chaos.faults.crash_every_ns, Event::Crash);
        chaos.again(chaos.faults.cut_every_ns, Event::Cut);
        chaos.again(chaos.faults.freeze_every_ns, Event::Freeze);
        chaos.again(chaos.faults.change_every_ns, Event::Change);
        chaos
    }

    /// Runs both phases.
    pub(crate) fn run(mut self) -> Summary {
        self.advance(CHAOS_NS, |_| false);
        self.become_calm();
        let calm_since_ns = self.now_ns;
        self.advance(calm_since_ns + CALM_NS, Chaos::converged);
        assert!(self.converged(), "no convergence within {} ms of the last fault:\n{}", CALM_NS / MS, self.describe());
        Summary {
            steps: self.steps,
            chosen: self.checks.last_chosen().0,
            simulated_ns: self.now_ns,
            calm_ns: self.now_ns - calm_since_ns,
        }
    }

    fn describe(&self) -> String {
        let nodes = self.nodes.iter().filter(|node| node.replica.is_some()).map(|node| {
            let core = node.core();
            format!(
                "node {}: {:?} in {}, leader {:?}, prefix {}, known chosen {}, held up to {}, unknown {:?} {:?}, {:?}, epoch {} of {:?} learners {:?}, inc {}\n",
                node.settings.me,
                core.role(),
                core.promised(),
                core.leader(),
                core.prefix(),
                core.known_chosen(),
                core.highest_held(),
                core.unknown_slots(),
                core.unknown(),
                core.halted(),
                core.configuration().epoch.0,
                core.configuration().voters().iter().map(|n| n.0).collect::<Vec<_>>(),
                core.configuration().members().iter().filter(|m| !m.voter).map(|m| (m.node.0, m.incarnation)).collect::<Vec<_>>(),
                node.settings.incarnation,
            )
        });
        nodes.collect()
    }

    fn schedule(&mut self, after_ns: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now_ns + after_ns, self.scheduled), event);
    }

    /// Schedules a fault that comes about every `every_ns`, while there is chaos.
    fn again(&mut self, every_ns: u64, event: Event) {
        if every_ns != u64::MAX && !self.calm {
            let after = self.random.between(every_ns / 2, every_ns * 3 / 2);
            self.schedule(after, event);
        }
    }

    /// Runs events and timers up to `end`, or until `done`.
    fn advance(&mut self, end: u64, done: impl Fn(&Chaos) -> bool) {
        while !done(self) {
            let event = self.events.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            let timer = self.next_timer();
            let timer_at = timer.map_or(u64::MAX, |(at, _)| at);
            if event.min(timer_at) > end {
                break;
            }
            self.now_ns = self.now_ns.max(event.min(timer_at));
            match timer {
                Some((at, node)) if at < event => self.step(node, Input::Timeout, None),
                _ => {
                    let (_, event) = self.events.pop_first().expect("an event is due");
                    self.happen(event);
                }
            }
            self.steps += 1;
            assert!(self.steps < MAX_EVENTS, "{MAX_EVENTS} events without an end");
        }
    }

    fn next_timer(&self) -> Option<(u64, NodeId)> {
        let due = self.nodes.iter().filter_map(|node| {
            let at = node.replica.as_ref().map(Replica::poll_timeout)?;
            let me = node.settings.me;
            Some((at.max(self.frozen_until_ns.get(&me).copied().unwrap_or_default()), me))
        });
        due.min()
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(id.0) - 1]
    }

    fn any_node(&mut self) -> NodeId {
        NodeId(self.random.between(1, self.nodes.len() as u64) as u8)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(packet) => self.arrive(packet),
            Event::Synced { node, life, upto } => self.synced(node, life, upto),
            Event::Crash => {
                self.crash();
                self.again(self.faults.crash_every_ns, Event::Crash);
            }
            Event::Start(id) => self.start(id),
            Event::Cut => {
                self.cut();
                self.again(self.faults.cut_every_ns, Event::Cut);
            }
            Event::Heal => self.cuts.clear(),
            Event::Freeze => {
                let (id, until) = (self.any_node(), self.now_ns + self.random.between(MS, 500 * MS));
                self.frozen_until_ns.insert(id, until);
                self.again(self.faults.freeze_every_ns, Event::Freeze);
            }
            Event::Propose => self.propose(),
            Event::Read => self.read(),
            Event::Change => {
                self.change();
                self.again(self.faults.change_every_ns, Event::Change);
            }
        }
    }

    fn arrive(&mut self, packet: Packet) {
        let until = self.frozen_until_ns.get(&packet.to).copied().unwrap_or_default();
        if until > self.now_ns {
            return self.schedule(until - self.now_ns, Event::Arrive(packet));
        }
        let Packet { from, to, epoch, lsn, message, value } = packet;
        self.step(to, Input::Message { from, epoch, lsn, message }, value);
    }

    fn step(&mut self, id: NodeId, input: Input, value: Option<super::Value>) {
        let node = &mut self.nodes[usize::from(id.0) - 1];
        let sent = node.step(self.now_ns, input, value, &mut self.checks);
        self.send(sent);
        self.sync(id);
    }

    /// Starts a sync of all that is logged, unless one is under way (group commit).
    fn sync(&mut self, id: NodeId) {
        let (faults, calm) = (&self.faults, self.calm);
        let node = &self.nodes[usize::from(id.0) - 1];
        if node.replica.is_none() || node.disk.last() == node.disk.durable() || self.syncing.contains(&id) {
            return;
        }
        let (life, upto) = (node.life, node.disk.last());
        let usual = if calm { MS } else { faults.sync_ns };
        let stalls = !calm && self.random.chance(faults.stall_percent);
        let after = self.random.between(usual / 10, if stalls { 500 * MS } else { usual });
        self.syncing.insert(id);
        self.schedule(after, Event::Synced { node: id, life, upto });
    }

    fn synced(&mut self, id: NodeId, life: u32, upto: Lsn) {
        let node = &mut self.nodes[usize::from(id.0) - 1];
        if node.life != life || node.replica.is_none() {
            return;
        }
        self.syncing.remove(&id);
        let sent = node.synced(self.now_ns, upto, &mut self.checks);
        self.send(sent);
        self.sync(id);
    }

    fn send(&mut self, sent: Vec<Packet>) {
        for packet in sent {
            let lost = !self.calm && self.random.chance(self.faults.loss_percent);
            if lost || self.cuts.contains(&(packet.from, packet.to)) {
                continue;
            }
            let copies = 1 + u64::from(!self.calm && self.random.chance(self.faults.double_percent));
            for _ in 0..copies {
                let late = !self.calm && self.random.chance(self.faults.late_percent);
                let longest = match (self.calm, late) {
                    (true, _) => MS,
                    (false, true) => 600 * MS,
                    (false, false) => self.faults.delay_ns,
                };
                let after = self.random.between(longest / 10, longest);
                self.schedule(after, Event::Arrive(packet.clone()));
            }
        }
    }

    /// A crash loses a random part of what is not synced, and the fragile disk may be damaged meanwhile.
    fn crash(&mut self) {
        let id = self.any_node();
        if self.node(id).replica.is_none() {
            return;
        }
        self.stop(id);
        if self.fragile == Some(id) && self.random.chance(self.faults.damage_percent) {
            self.damage(id);
        }
        let after = self.random.between(MS, 400 * MS);
        self.schedule(after, Event::Start(id));
    }

    fn stop(&mut self, id: NodeId) {
        let node = &mut self.nodes[usize::from(id.0) - 1];
        let survive = Lsn(self.random.between(node.disk.durable().0, node.disk.last().0));
        node.crash(survive, &mut self.checks);
        self.syncing.remove(&id);
    }

    fn damage(&mut self, id: NodeId) {
        let slots = self.node(id).disk.slots();
        let recent = &slots[slots.len().saturating_sub(20)..];
        for _ in 0..self.random.between(1, 4) {
            if recent.is_empty() {
                return;
            }
            let (slot, how) = (self.random.pick(recent), self.random.pick(&[Damage::Named, Damage::Nameless]));
            self.node(id).disk.damage_slot(slot, how);
        }
    }

    fn start(&mut self, id: NodeId) {
        if self.node(id).replica.is_none() && !self.absent.contains(&id) {
            self.nodes[usize::from(id.0) - 1].start(self.now_ns, &mut self.checks);
        }
    }

    /// Cuts a link one way or both, or a node from all others; all cuts heal together.
    fn cut(&mut self) {
        let (a, b) = (self.any_node(), self.any_node());
        match self.random.between(0, 2) {
            0 => {
                self.cuts.insert((a, b));
            }
            1 => self.cuts.extend([(a, b), (b, a)]),
            _ => {
                let others: Vec<NodeId> = self.nodes.iter().map(|node| node.settings.me).collect();
                self.cuts.extend(others.iter().flat_map(|other| [(a, *other), (*other, a)]));
            }
        }
        let after = self.random.between(10 * MS, 800 * MS);
        self.schedule(after, Event::Heal);
    }

    /// An operator formats a node that is none of the members, lets a voter lose its disk, or asks the leader for a change.
    fn change(&mut self) {
        let leads = |node: &Node| node.replica.as_ref().is_some_and(|replica| replica.role() == Role::Leader);
        let Some(leader) = self.nodes.iter().find(|node| leads(node)).map(|node| node.settings.me) else { return };
        let config = *self.node(leader).core().configuration();
        let latest = *self.checks.configuration();
        if self.lost.is_some_and(|node| latest.is_voter(node) && self.is_known(&latest, node)) {
            self.lost = None;
        }
        let node = self.any_node();
        let voters = latest.voters().len();
        let may_change = self.node(leader).core().plan_change(config.epoch, Change::Remove(leader)).is_ok();
        let calm = may_change && config == latest;
        match latest.member(node) {
            None if calm => {
                let waits = self.node(node).replica.as_ref().is_some_and(Replica::waits_to_be_added);
                if !waits {
                    return self.format(node);
                }
                let member = Member { incarnation: self.node(node).settings.incarnation, ..Member::founding(node) };
                self.ask(leader, config.epoch, Change::Add(member));
            }
            None => {}
            Some(_) if !self.is_known(&latest, node) => {
                let member = Member { incarnation: self.node(node).settings.incarnation, ..Member::founding(node) };
                self.ask(leader, config.epoch, Change::Add(member));
            }
            Some(member) if !member.voter => self.ask(leader, config.epoch, Change::Promote(node)),
            Some(_) if self.lost.is_none() && voters > 2 && node != leader && calm && self.random.chance(30) => {
                self.lost = Some(node);
                self.format(node);
            }
            Some(_) if self.lost.is_none() => self.ask(leader, config.epoch, Change::Remove(node)),
            Some(_) => {}
        }
    }

    /// Whether the configuration means this life of the node's log.
    fn is_known(&self, config: &Configuration, node: NodeId) -> bool {
        let settings = &self.nodes[usize::from(node.0) - 1].settings;
        let founder = !settings.joins;
        config.member(node).is_some_and(|member| match member.incarnation {
            0 => founder,
            incarnation => incarnation == settings.incarnation,
        })
    }

    fn ask(&mut self, leader: NodeId, of: Epoch, change: Change) {
        if let Ok(configuration) = self.node(leader).core().plan_change(of, change) {
            self.wanted = Some((leader, configuration));
            self.step(leader, Input::BeginChange, None);
        }
    }

    /// An empty disk under the same number, to join the group with.
    fn format(&mut self, id: NodeId) {
        self.stop(id);
        let founders = self.founders;
        let node = &mut self.nodes[usize::from(id.0) - 1];
        let incarnation = node.settings.incarnation + 1_000;
        let (seed, life) = (node.settings.seed, node.life);
        *node = joining(id.0, founders, &node.settings);
        (node.settings.incarnation, node.settings.seed, node.life) = (incarnation, seed, life);
        self.checks.on_lost(id);
        self.start(id);
    }

    /// A leader that was asked for a change proposes it when the slots below are chosen.
    fn propose_change(&mut self) {
        let Some((leader, configuration)) = self.wanted else { return };
        let core = self.nodes[usize::from(leader.0) - 1].replica.as_ref();
        let frozen = self.frozen_until_ns.get(&leader).is_some_and(|until| *until > self.now_ns);
        match core {
            Some(core) if core.can_propose_configuration() && !frozen => {
                let value = configuration_value(&configuration);
                if configuration.parent == core.configuration().epoch {
                    self.step(leader, Input::ProposeConfiguration, Some(value));
                }
                self.wanted = None;
            }
            Some(core) if core.role() == Role::Leader => {}
            _ => self.wanted = None,
        }
    }

    /// Every node that may proposes a few values.
    fn propose(&mut self) {
        self.propose_change();
        let burst = if self.calm { 1 } else { self.faults.burst };
        for id in (1..=self.nodes.len() as u8).map(NodeId) {
            for _ in 0..burst {
                let frozen = self.frozen_until_ns.get(&id).is_some_and(|until| *until > self.now_ns);
                let may = |node: &Node| node.replica.as_ref().is_some_and(Replica::can_propose);
                let enough = !self.calm && self.proposed >= MAX_PROPOSALS;
                if frozen || enough || !may(self.node(id)) {
                    break;
                }
                self.proposed += 1;
                let value = format!("v{}", self.proposed).into();
                self.step(id, Input::Propose, Some(value));
            }
        }
        let after = if self.calm { 50 * MS } else { self.faults.propose_every_ns };
        self.schedule(after, Event::Propose);
    }

    /// Some node gets a read.
    fn read(&mut self) {
        let id = self.any_node();
        if self.frozen_until_ns.get(&id).is_none_or(|until| *until <= self.now_ns) {
            self.step(id, Input::Read, None);
        }
        let after = self.random.between(MS, 2 * READ_EVERY_NS);
        self.schedule(after, Event::Read);
    }

    /// No more faults. Whoever is down is started, but where a quorum suffices (nothing is damaged, and the group is
    /// founded) some runs leave as many nodes down as they can spare.
    fn become_calm(&mut self) {
        self.calm = true;
        self.fresh_slot = self.checks.last_chosen().next();
        self.cuts.clear();
        self.frozen_until_ns.clear();
        let spare = if self.quorum_suffices && self.random.chance(50) { self.spare } else { 0 };
        let mut absent = BTreeSet::new();
        while absent.len() < spare {
            absent.insert(self.any_node());
        }
        for id in (1..=self.nodes.len() as u8).map(NodeId) {
            if absent.contains(&id) {
                self.stop(id);
            } else {
                self.start(id);
            }
        }
        self.absent = absent;
    }

    /// Whether it is down, or no member.
    fn is_away(&self, node: &Node) -> bool {
        node.replica.is_none() || !self.is_known(self.checks.configuration(), node.settings.me)
    }

    /// Something new was chosen since the last fault, one node leads, and all that was chosen is delivered everywhere.
    fn converged(&self) -> bool {
        let last = self.checks.last_chosen();
        let leads = |node: &&Node| node.replica.as_ref().is_some_and(|replica| replica.role() == Role::Leader);
        last >= self.fresh_slot
            && self.nodes.iter().all(|node| self.is_away(node) || node.applied.len() as u64 >= last.0)
            && self.nodes.iter().filter(leads).count() == 1
    }
}
