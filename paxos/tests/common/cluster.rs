//! A group under a script's hand: nothing arrives, passes or is synced (on a slow disk) before the script says so.

use super::checks::Checks;
use super::disk::Disk;
use super::node::{Node, Packet};
use super::{MS, Value, founding, settings};
use std::collections::{BTreeMap, BTreeSet};
use synod_paxos::{Input, Lease, Message, Role};
use synod_wire::{Ballot, Lsn, NodeId, Quorums};

/// More deliveries than any scenario needs: the group talks to itself for ever.
const MAX_DELIVERIES: usize = 100_000;

/// What a `group` command asks for.
pub(crate) struct Shape {
    pub(crate) nodes: u8,
    pub(crate) quorums: Quorums,
    pub(crate) window_slots: u64,
    /// Freshly formatted, not founded.
    pub(crate) fresh: bool,
    pub(crate) lease: Option<Lease>,
    /// Nodes whose clock is not true, and by how much it is fast.
    pub(crate) drifts: Vec<(NodeId, i64)>,
}

/// See the module.
pub(crate) struct Cluster {
    pub(crate) now_ns: u64,
    pub(crate) nodes: Vec<Node>,
    /// Datagrams under way, oldest first.
    pub(crate) net: Vec<Packet>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    slow: BTreeSet<NodeId>,
    images: BTreeMap<NodeId, Disk>,
    checks: Checks,
}

impl Cluster {
    /// All nodes up. A founded group has exchanged its hellos.
    pub(crate) fn new(shape: &Shape) -> Cluster {
        let nodes = (1..=shape.nodes).map(|me| {
            let mut settings = settings(me, shape.nodes);
            settings.quorums = shape.quorums;
            settings.window_slots = shape.window_slots;
            settings.lease = shape.lease;
            let disk = if shape.fresh { Disk::default() } else { Node::founded_disk(&settings) };
            let mut node = Node::new(settings, disk);
            let drift = shape.drifts.iter().find(|(id, _)| id.0 == me);
            node.drift_ppm = drift.map_or(0, |(_, drift_ppm)| *drift_ppm);
            node
        });
        let mut cluster = Cluster {
            now_ns: MS,
            nodes: nodes.collect(),
            net: Vec::new(),
            cuts: BTreeSet::new(),
            slow: BTreeSet::new(),
            images: BTreeMap::new(),
            checks: Checks::new(founding(shape.nodes, shape.quorums)),
        };
        for id in cluster.ids() {
            cluster.start(id);
        }
        if !shape.fresh {
            cluster.run(0);
        }
        cluster
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.settings.me).collect()
    }

    pub(crate) fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(id.0) - 1]
    }

    /// Feeds an input; a fast disk syncs at once.
    pub(crate) fn step(&mut self, id: NodeId, input: Input, value: Option<Value>) {
        let node = &mut self.nodes[usize::from(id.0) - 1];
        let sent = node.step(self.now_ns, input, value, &mut self.checks);
        self.send(sent);
        if !self.slow.contains(&id) {
            self.sync(id, u64::MAX);
        }
    }

    fn send(&mut self, sent: Vec<Packet>) {
        self.net.extend(sent.into_iter().filter(|packet| !self.cuts.contains(&(packet.from, packet.to))));
    }

    /// Syncs up to `records` more of the node's log, and what follows from that if the disk is fast.
    pub(crate) fn sync(&mut self, id: NodeId, records: u64) {
        loop {
            let node = &mut self.nodes[usize::from(id.0) - 1];
            let upto = Lsn(node.disk.durable().0.saturating_add(records)).min(node.disk.last());
            if node.replica.is_none() || upto == node.disk.durable() {
                return;
            }
            let sent = node.synced(self.now_ns, upto, &mut self.checks);
            self.send(sent);
            if self.slow.contains(&id) {
                return;
            }
        }
    }

    /// Makes a disk slow (synced on demand) or fast.
    pub(crate) fn set_slow(&mut self, id: NodeId, slow: bool) {
        if slow {
            self.slow.insert(id);
        } else {
            self.slow.remove(&id);
            self.sync(id, u64::MAX);
        }
    }

    /// Delivers a datagram. One to a node that is down is lost.
    pub(crate) fn deliver(&mut self, packet: Packet) {
        let Packet { from, to, epoch, lsn, message, value } = packet;
        self.step(to, Input::Message { from, epoch, lsn, message }, value);
    }

    /// Delivers until nothing is under way.
    pub(crate) fn deliver_all(&mut self) {
        for _ in 0..MAX_DELIVERIES {
            if self.net.is_empty() {
                return;
            }
            let packet = self.net.remove(0);
            self.deliver(packet);
        }
        panic!("still talking after {MAX_DELIVERIES} datagrams");
    }

    /// Lets `elapsed_ns` pass: every timer fires when due, every datagram arrives at once.
    pub(crate) fn run(&mut self, elapsed_ns: u64) {
        let end = self.now_ns + elapsed_ns;
        loop {
            self.deliver_all();
            let due = |node: &Node| (node.due_ns(), node.settings.me);
            let Some((at, id)) = self.nodes.iter().map(due).min().filter(|(at, _)| *at <= end) else { break };
            self.now_ns = self.now_ns.max(at);
            self.step(id, Input::Timeout, None);
        }
        self.now_ns = end;
    }

    /// Lets `elapsed_ns` pass in which only this node's timers fire; what it sends stays under way.
    pub(crate) fn run_timers(&mut self, id: NodeId, elapsed_ns: u64) {
        let end = self.now_ns + elapsed_ns;
        loop {
            let at = self.node(id).due_ns();
            if at > end {
                break;
            }
            self.now_ns = self.now_ns.max(at);
            self.step(id, Input::Timeout, None);
        }
        self.now_ns = end;
    }

    /// Lets this node's election time-out pass: it stands in a new ballot.
    pub(crate) fn campaign(&mut self, id: NodeId) -> Result<(), String> {
        let before = self.node(id).core().promised();
        for _ in 0..1_000 {
            let core = self.node(id).core();
            if core.role() == Role::Candidate && core.promised() > before {
                return Ok(());
            }
            let at = self.node(id).due_ns();
            if at == u64::MAX {
                break;
            }
            self.now_ns = self.now_ns.max(at);
            let node = &mut self.nodes[usize::from(id.0) - 1];
            let sent = node.step(self.now_ns, Input::Timeout, None, &mut self.checks);
            let (asked, sent) = sent.into_iter().partition(|packet| matches!(packet.message, Message::PreVote { .. }));
            self.send(sent);
            self.say_yes(asked);
            if !self.slow.contains(&id) {
                self.sync(id, u64::MAX);
            }
        }
        Err(format!("node {id} does not stand for election"))
    }

    /// Pre-votes are answered for those who were asked, as if they heard no leader either.
    fn say_yes(&mut self, asked: Vec<Packet>) {
        for Packet { from, to, epoch, lsn, message, .. } in asked {
            let Message::PreVote { start, round } = message else { continue };
            let message = Message::PreVoteAck { start, round, granted: true, promised: Ballot::ZERO };
            self.step(from, Input::Message { from: to, epoch, lsn, message }, None);
        }
    }

    /// Cuts the link from one node to another.
    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    /// Ends all cuts.
    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Stops a node; what its disk has not synced is gone.
    pub(crate) fn crash(&mut self, id: NodeId) {
        let node = &mut self.nodes[usize::from(id.0) - 1];
        let durable = node.disk.durable();
        node.crash(durable, &mut self.checks);
    }

    /// Starts a node from its disk.
    pub(crate) fn start(&mut self, id: NodeId) {
        self.nodes[usize::from(id.0) - 1].start(self.now_ns, &mut self.checks);
    }

    /// Keeps an image of the node's disk.
    pub(crate) fn keep_image(&mut self, id: NodeId) {
        let image = self.node(id).disk.clone();
        self.images.insert(id, image);
    }

    /// Puts the kept image in the place of a stopped node's disk.
    pub(crate) fn roll_back(&mut self, id: NodeId) -> Result<(), String> {
        let image = self.images.get(&id).cloned().ok_or("no image was kept")?;
        self.node(id).disk = image;
        Ok(())
    }

    /// Gives a stopped node an empty directory.
    pub(crate) fn format(&mut self, id: NodeId) {
        let node = self.node(id);
        node.disk = Disk::default();
        node.settings.incarnation += 100;
    }
}
