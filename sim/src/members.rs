//! An operator who changes the members: now and then he looks at a node, and adds, promotes or removes it, has one that lost its disk
//! join again, or formats one that was removed. He knows what an operator must: he asks for a change only while none is under way,
//! and for none that would leave too few who can vote. From a stream of chance of its own. Used by the engine.

use crate::checks::{Changed, ChangedAt, Checked};
use crate::client::request_header;
use crate::fault::Fault;
use crate::history::KIND_OFFSET;
use crate::node::{Health, node_address};
use crate::rng::Rng;
use crate::sim::{Happening, Sim};
use crate::storage::MemoryDir;
use crate::trace::{End, What};
use std::rc::Rc;
use synod_paxos::Role;
use synod_wire::frame::{HEADER_BYTES, Kind, frame_bytes, write_frame};
use synod_wire::members::{ChangeBody, MembersReplyBody, change, outcome};
use synod_wire::{NodeId, Quorums};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Voters that he leaves, at the least: with one, every crash is a standstill.
const FEWEST_VOTERS: usize = 2;
/// A leader that dies in a change does so within so many sends and writes: those of the change and of the election behind it.
const KILL_WITHIN_CHANGE: u64 = 60;
/// How long a learner that is to lag is cut off, on average.
const LAG_MEAN_NS: u64 = 1_500_000_000;

/// What he asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Add(usize),
    Promote(usize),
    Remove(usize),
}

/// See the module.
pub(crate) struct Operator {
    rng: Rng,
    requests: u64,
    /// Whom he asked last, and in which life of its process.
    asked: Option<(usize, u64)>,
    /// Whether he can wait. A stream of its own: what else he does hangs on the other alone.
    impatience: Rng,
}

impl Operator {
    pub(crate) fn new(seed: u64) -> Operator {
        let (rng, impatience) = (Rng::new(seed, "operator of members"), Rng::new(seed, "impatience"));
        Operator { rng, requests: 0, asked: None, impatience }
    }
}

/// The places that the coverage lists for a change.
pub(crate) fn change_marks(changed: ChangedAt) -> impl Iterator<Item = &'static str> {
    let mark = match changed.what {
        Changed::Added(_) => "a node joined",
        Changed::Reborn(_) => "a node that lost its log joined again",
        Changed::Promoted(_) => "a learner may vote",
        Changed::Removed(_) => "a member was removed",
    };
    let voided = changed.voided.then_some("what was chosen above a configuration is open again");
    [mark].into_iter().chain(voided)
}

impl Sim {
    /// Whether a node is a member, as far as anybody has applied, and has not lost its log since.
    pub(crate) fn belongs(&self, node: usize) -> bool {
        let this = &self.nodes[node];
        self.plan.change_mean_ms == 0 || self.checks.configurations.has(node, this.incarnation) && !this.robbed
    }

    /// Whether it votes.
    pub(crate) fn votes(&self, node: usize) -> bool {
        self.plan.change_mean_ms == 0
            || self.belongs(node) && self.checks.configurations.votes(node, self.nodes[node].incarnation)
    }

    /// Voters that must be up for anything to be chosen.
    pub(crate) fn core_size(&self) -> usize {
        let Quorums { phase1, phase2 } = self.checks.configurations.latest().quorums;
        phase1.max(phase2)
    }

    /// Whether this life of a node's log was a member once, and is none any more.
    pub(crate) fn was_removed(&self, node: usize) -> bool {
        let incarnation = self.nodes[node].incarnation;
        self.checks.configurations.had(node, incarnation) && !self.checks.configurations.has(node, incarnation)
    }

    /// The operator looks at a node.
    pub(crate) fn on_change(&mut self) -> Checked {
        if !self.chaos_on {
            return Ok(());
        }
        let next_ns = self.operator.rng.exponential(self.plan.change_mean_ms * 1_000_000).max(10_000_000);
        self.after(next_ns, Happening::Change);
        self.ask_who_the_members_are();
        let node = self.operator.rng.below(self.plan.machines() as u64) as usize;
        let this = &self.nodes[node];
        let (up, has) = (this.health == Health::Up, self.checks.configurations.has(node, this.incarnation));
        let waits = this.shard.as_ref().is_some_and(|shard| shard.core().waits_to_be_added());
        if this.robbed {
            return self.join_anew(node);
        }
        match has {
            true if self.votes(node) => self.ask(Wanted::Remove(node)),
            true => {
                self.may_lag(node);
                self.ask(Wanted::Promote(node))
            }
            false if up && waits => self.ask(Wanted::Add(node)),
            false if self.was_removed(node) => self.removed_node_returns(node),
            false => Ok(()),
        }
    }

    /// A node that was removed comes back as it was, or is formatted anew; or stays where it is. Its log may be needed until enough
    /// know that it was removed: an operator waits for the word of `synod member remove`.
    fn removed_node_returns(&mut self, node: usize) -> Checked {
        if self.happens(Fault::ReturnsRemoved) && self.nodes[node].health == Health::Down {
            self.coverage.fault(Fault::ReturnsRemoved);
            self.note(What::World(format!("n{node}, which was removed, comes back as it was")));
            return self.start(node);
        }
        if self.operator.rng.percent(50) && self.checks.configurations.is_known() {
            self.coverage.mark("a removed node was formatted anew");
            return self.join_anew(node);
        }
        Ok(())
    }

    /// A node gets an empty disk, and another life of its log on it, which waits to be added.
    pub(crate) fn join_anew(&mut self, node: usize) -> Checked {
        if self.nodes[node].health == Health::Up {
            self.stop(node, true)?;
        }
        let incarnation = self.operator.rng.word().max(1);
        let this = &mut self.nodes[node];
        (this.dir, this.store) = MemoryDir::dir(this.dir.path().to_path_buf());
        this.disk = crate::disk::Disk::default();
        (this.robbed, this.witness, this.write_failed, this.health) = (false, None, false, Health::Down);
        for other in (0..self.plan.machines()).filter(|other| *other != node) {
            self.net.link(End::Node(node), End::Node(other)).cut_until_ns = 0;
            self.net.link(End::Node(other), End::Node(node)).cut_until_ns = 0;
        }
        self.note(What::World(format!("n{node} is formatted to join")));
        self.format_node(node, incarnation, true);
        self.checks.reborn(node);
        self.after(10_000_000, Happening::Start { node });
        Ok(())
    }

    fn happens(&mut self, fault: Fault) -> bool {
        let rate = self.plan.rate(fault);
        rate > 0 && self.operator.rng.ppm(rate)
    }

    /// The leader whom everybody follows, if no change is under way, nor may still come to be.
    fn calm_leader(&self) -> Option<usize> {
        let cores = || self.nodes.iter().filter_map(|node| node.shard.as_ref().map(|shard| (node.index, shard.core())));
        let leads = |core: &synod_paxos::Replica| core.role() == Role::Leader;
        let (leader, core) = cores().filter(|(_, core)| leads(core)).max_by_key(|(_, core)| core.promised())?;
        let configurations = &self.checks.configurations;
        let asked = self.operator.asked.map(|(node, life)| (&self.nodes[node], life));
        let unread = asked.is_some_and(|(node, life)| node.life == life && !node.port.borrow().inbox.is_empty());
        let shards = || self.nodes.iter().filter_map(|node| node.shard.as_ref());
        let changing = shards().any(|shard| shard.changes_members() || shard.core().is_changing());
        let deposed = cores().any(|(_, other)| other.promised() > core.promised());
        let of_last = core.configuration().epoch == configurations.latest().epoch && core.is_settled();
        let calm = of_last && !changing && !deposed && !unread;
        (calm && !configurations.is_proposed(self.checks.prefix.end())).then_some(leader)
    }

    /// Voters whose logs live.
    fn living_voters(&self) -> impl Iterator<Item = usize> + '_ {
        let lives = |node: &usize| !matches!(self.nodes[*node].health, Health::Dead(_)) && self.votes(*node);
        (0..self.plan.machines()).filter(lives)
    }

    /// A voter that the group can spare, whose loss no change under way would make one too many.
    pub(crate) fn spare_voter(&mut self) -> Option<usize> {
        self.calm_leader()?;
        let living: Vec<usize> = self.living_voters().collect();
        (living.len() > self.core_size()).then(|| self.operator.rng.pick(&living))
    }

    /// Whether enough can vote once a change is made.
    fn leaves_enough(&self, wanted: Wanted) -> bool {
        let latest = self.checks.configurations.latest();
        let number = |node: usize| NodeId(node as u8);
        let (gone, comes) = match wanted {
            Wanted::Remove(node) | Wanted::Add(node) => (Some(node), None),
            Wanted::Promote(node) => (None, Some(node)),
        };
        let was = latest.voters().len();
        let voters =
            was - usize::from(gone.is_some_and(|node| latest.is_voter(number(node)))) + usize::from(comes.is_some());
        let living = self.living_voters().filter(|node| Some(*node) != gone).count() + usize::from(comes.is_some());
        let quorums = if voters == was { latest.quorums } else { Quorums::majority(voters) };
        voters >= FEWEST_VOTERS && living >= quorums.phase1.max(quorums.phase2)
    }

    fn ask(&mut self, wanted: Wanted) -> Checked {
        let Some(leader) = self.calm_leader().filter(|_| self.leaves_enough(wanted)) else { return Ok(()) };
        self.send_change(leader, wanted);
        if self.happens(Fault::OverlappingChanges) {
            self.coverage.fault(Fault::OverlappingChanges);
            let second = self.operator.rng.below(self.plan.machines() as u64) as usize;
            let learns = self.belongs(second) && !self.votes(second);
            let other = if learns { Wanted::Promote(second) } else { Wanted::Remove(second) };
            // Of the same members: only one of both can be made.
            if self.leaves_enough(other) {
                self.send_change(leader, other);
            }
        }
        if self.happens(Fault::LeaderDiesInChange) {
            self.coverage.fault(Fault::LeaderDiesInChange);
            self.kill_at_work(leader, KILL_WITHIN_CHANGE);
        }
        Ok(())
    }

    /// A node leads from now on: in some runs an operator who cannot wait asks it for a change while too few know the last one.
    pub(crate) fn hurry(&mut self, leader: usize) {
        if self.plan.change_mean_ms == 0 || !self.chaos_on {
            return;
        }
        let latest = self.checks.configurations.latest().epoch;
        let core = self.nodes[leader].shard.as_ref().map(|shard| shard.core());
        let is_early = core.is_some_and(|core| !core.is_settled() && core.configuration().epoch == latest);
        let rate = self.plan.rate(Fault::OverlappingChanges);
        if !is_early || rate == 0 || !self.operator.impatience.ppm(rate) {
            return;
        }
        let node = self.operator.impatience.below(self.plan.machines() as u64) as usize;
        let wanted = match self.votes(node) {
            true => Wanted::Remove(node),
            false if self.belongs(node) => Wanted::Promote(node),
            false => return,
        };
        if self.leaves_enough(wanted) {
            self.coverage.fault(Fault::OverlappingChanges);
            self.coverage.mark("a leader was asked for a change before enough knew the last one");
            self.send_change(leader, wanted);
        }
    }

    /// What a scenario asks for, by its word.
    pub(crate) fn ask_for(&mut self, change: &str, leader: usize, node: usize) {
        let wanted = match change {
            "add" => Wanted::Add(node),
            "promote" => Wanted::Promote(node),
            _ => Wanted::Remove(node),
        };
        self.send_change(leader, wanted);
    }

    /// A learner hears nothing for a while.
    fn may_lag(&mut self, learner: usize) {
        if !self.happens(Fault::LaggingLearner) {
            return;
        }
        self.coverage.fault(Fault::LaggingLearner);
        let until_ns = self.now_ns + self.operator.rng.exponential(LAG_MEAN_NS);
        for other in (0..self.plan.machines()).filter(|other| *other != learner) {
            self.net.cut(End::Node(other), End::Node(learner), until_ns);
        }
        self.note(What::World(format!("n{learner}, which learns, hears nothing")));
    }

    /// A request reaches the leader: the operator stands before it.
    fn send_change(&mut self, leader: usize, wanted: Wanted) {
        self.operator.requests += 1;
        let mut body = ChangeBody::new_zeroed();
        body.request_id = U64::new(self.operator.requests);
        body.epoch = U32::new(self.checks.configurations.latest().epoch.0);
        match wanted {
            Wanted::Add(node) => {
                let at = node_address(node);
                (body.change, body.node) = (change::ADD, node as u8);
                body.incarnation = U64::new(self.nodes[node].incarnation);
                (body.peer_ip, body.peer_port) = (at.ip().octets(), U16::new(at.port()));
                (body.client_ip, body.client_port) = (at.ip().octets(), U16::new(at.port()));
            }
            Wanted::Promote(node) => (body.change, body.node) = (change::PROMOTE, node as u8),
            Wanted::Remove(node) => (body.change, body.node) = (change::REMOVE, node as u8),
        }
        let bytes = self.operators_request(Kind::ChangeMembers, body.as_bytes());
        self.note(What::World(format!("n{leader} is asked for {wanted:?}")));
        self.operator.asked = Some((leader, self.nodes[leader].life));
        let (from, to) = (End::Stranger, End::Node(leader));
        self.after(0, Happening::Datagram { from, to, peers: false, life: 0, bytes });
    }

    /// Some node is asked who the members are.
    fn ask_who_the_members_are(&mut self) {
        self.operator.requests += 1;
        let node = self.operator.rng.below(self.plan.machines() as u64) as usize;
        let bytes = self.operators_request(Kind::Members, &[]);
        self.transmit(End::Stranger, End::Node(node), false, 0, bytes);
    }

    fn operators_request(&mut self, kind: Kind, body: &[u8]) -> Rc<[u8]> {
        let mut bytes = vec![0; frame_bytes(body.len())];
        let length = write_frame(&mut bytes, &request_header(kind, self.operator.requests), body);
        bytes.truncate(length);
        self.frames_sent.message(&bytes);
        bytes.into()
    }

    /// What the operator is told.
    pub(crate) fn change_told(&mut self, bytes: &[u8]) {
        debug_assert_eq!(bytes.get(KIND_OFFSET), Some(&(Kind::MembersReply as u8)));
        let told = bytes.get(HEADER_BYTES..).map(MembersReplyBody::read_from_prefix);
        if let Some(Ok((body, _))) = told
            && !matches!(body.outcome, outcome::BEGUN | outcome::TOLD)
        {
            self.coverage.mark("a change of the members was refused");
        }
    }
}
