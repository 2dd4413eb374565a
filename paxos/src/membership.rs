//! Who votes. The members change through the log: a configuration is the value of a slot, and governs the slots above it.
//!
//! It is proposed when everything below is chosen and delivered, and nothing above it until it is chosen and a phase 1 quorum of it
//! has promised: its leader stands again, in a ballot of its own, as soon as the configuration is delivered. A new leader that adopts
//! one proposes nothing above it, and does the same. So a slot is proposed only by a leader that knows which configuration governs
//! it, and that was elected by that configuration.
//!
//! | schedule | closed by |
//! |---|---|
//! | a slot above a configuration is chosen, out of order, by the members of the one before | it is final only when all below it is delivered; a configuration makes what earlier ones chose above it merely accepted (31) |
//! | a member says that it knows a configuration chosen, and forgets it with its process | what names its slot as delivered waits for the record that shows it chosen |
//! | two changes at once reach quorums that do not meet | one voter at a time, and the next only when a phase 2 quorum of the last durably knows it chosen (16) |
//! | a learner's vote is counted | votes, promises, leases and read rounds count members that vote now (15) |
//! | a member that lost its disk comes back under its number | its configuration names the life of its log; another joins as a learner, through the log (8) |
//! | what an earlier life of a member's log said is still under way | it says which configuration it knows, and never knew the one that brought the next life |
//! | a removed member returns with its old configuration | members answer it with the news that it is none; it votes in no election of theirs |
//! | a removed node hears no more of the group, and does not know why | who does not vote and hears no leader says hello: members answer that it is none |
//! | a leader that is removed goes before others know | it leads on, without proposals, reads or lease, until a phase 2 quorum of the rest durably knows |
//!
//! The rules are those of Lamport, Malkhi and Zhou ("Reconfiguring a State Machine", 2010) for a window that is drained: a change
//! of the members stops proposals for as long as its own slot takes to be chosen, and an election.

use crate::replica::Replica;
use crate::types::*;
use alloc::boxed::Box;
use synod_wire::configuration::{MAX_MEMBERS, MAX_VOTERS};
use synod_wire::mutant::mutant;
use synod_wire::{Configuration, Epoch, Member, NodeId, NodeSet, Quorums, Slot};

/// What an operator wants of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One more, which learns and does not vote. Or one that lost its log: the new life of it, which learns, in place of the
    /// old one, voter or not.
    Add(Member),
    /// A learner votes from now on.
    Promote(NodeId),
    /// A member is none any more.
    Remove(NodeId),
}

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// This node does not lead, or does not serve yet.
    NotLeader,
    /// Another change is under way, or too few of the members know the last one yet.
    Pending,
    /// The group has another configuration than the one that was to be changed.
    Stale {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The member is there already, in this very life of its log.
    AlreadyMember,
    /// There is no such member.
    NotMember,
    /// The learner lacks more than a leader may have open, or does not answer.
    NotCaughtUp {
        /// So many slots.
        behind: u64,
    },
    /// The group has as many voters, or members, as it may have.
    TooMany,
    /// Nobody would vote.
    LastVoter,
}

/// The members but one.
pub(crate) fn others(config: &Configuration, me: NodeId) -> NodeSet {
    config.nodes().iter().filter(|node| *node != me).collect()
}

/// The configuration after a change: quorums stay as far from majorities as they were chosen only while the number of voters
/// does; else they are majorities.
fn after(config: &Configuration, change: Change) -> Result<Configuration, ChangeError> {
    let (node, member) = match change {
        Change::Add(member) => (member.node, Some(Member { voter: false, since: Epoch(config.epoch.0 + 1), ..member })),
        Change::Promote(node) => {
            let member = config.member(node).ok_or(ChangeError::NotMember)?;
            (node, Some(Member { voter: true, ..*member }))
        }
        Change::Remove(node) => {
            config.member(node).ok_or(ChangeError::NotMember)?;
            (node, None)
        }
    };
    let same = |new: &Member| config.member(node).is_some_and(|old| old.incarnation == new.incarnation);
    let is_same = match change {
        Change::Add(member) => same(&member),
        Change::Promote(_) => config.is_voter(node),
        Change::Remove(_) => false,
    };
    if is_same {
        return Err(ChangeError::AlreadyMember);
    }
    let rest = config.members().iter().copied().filter(|other| other.node != node);
    if rest.clone().count() + usize::from(member.is_some()) > MAX_MEMBERS {
        return Err(ChangeError::TooMany);
    }
    let members = rest.chain(member);
    let voters = members.clone().filter(|member| member.voter).count();
    if voters == 0 {
        return Err(ChangeError::LastVoter);
    }
    if voters > MAX_VOTERS {
        return Err(ChangeError::TooMany);
    }
    let quorums = if voters == config.voters().len() { config.quorums } else { Quorums::majority(voters) };
    Ok(Configuration::new(Epoch(config.epoch.0 + 1), config.epoch, quorums, members))
}

impl Replica {
    /// Whether this life of this node's log votes, going by the configuration that it knows.
    pub fn votes(&self) -> bool {
        self.is_voter || mutant("non_voter_stands")
    }

    /// A configuration came to govern.
    pub(crate) fn note_standing(&mut self) {
        self.is_voter = self.standing(&self.config).is_some_and(|member| member.voter);
    }

    /// Whether it is a member, going by the configuration that it knows.
    pub fn is_member(&self) -> bool {
        self.standing(&self.config).is_some()
    }

    /// What this life of this node's log is in a configuration.
    fn standing<'a>(&self, config: &'a Configuration) -> Option<&'a Member> {
        let member = config.member(self.settings.me)?;
        let is_me = if member.incarnation == 0 {
            !self.settings.joins
        } else {
            member.incarnation == self.settings.incarnation
        };
        is_me.then_some(member)
    }

    /// Whether it was not one of those who founded the group.
    pub(crate) fn joins(&self) -> bool {
        self.settings.joins
    }

    /// What a member is told of itself ([`Message::HelloAck`]).
    pub(crate) fn standing_of(&self, node: NodeId) -> u64 {
        let Some(founded) = &self.founded else { return 0 };
        let founder = || founded.iter().find(|(member, _)| *member == node).map(|(_, incarnation)| *incarnation);
        match self.config.member(node) {
            None => NOT_A_MEMBER,
            Some(member) if member.incarnation == 0 => founder().unwrap_or(NOT_A_MEMBER),
            Some(member) => member.incarnation,
        }
    }

    // As leader.

    /// What the members are after a change of the configuration `of`.
    pub fn plan_change(&self, of: Epoch, change: Change) -> Result<Configuration, ChangeError> {
        if self.role != Role::Leader {
            return Err(ChangeError::NotLeader);
        }
        let pending =
            self.leading.changing || self.leading.proposed.is_some() || self.transfer.is_some() || !self.is_settled();
        if pending && !mutant("overlapping_changes") {
            return Err(ChangeError::Pending);
        }
        if of != self.config.epoch {
            return Err(ChangeError::Stale { epoch: self.config.epoch });
        }
        if let Change::Promote(node) = change
            && self.config.member(node).is_some_and(|member| !member.voter)
        {
            let prefix = self.prefixes.get(&node).map_or(Slot::ZERO, |(prefix, _)| *prefix);
            let behind = self.prefix.0.saturating_sub(prefix.0);
            let horizon_ns = self.now_ns.saturating_sub(self.settings.election_max_ns);
            let answers = self.leading.answered_ns.get(&node).is_some_and(|heard| *heard >= horizon_ns);
            // What it says counts only once it knows the configuration that brought it.
            let knows = prefix >= self.config_slot;
            if (behind > self.settings.window_slots || !answers || !knows) && !mutant("lagging_learner_promoted") {
                return Err(ChangeError::NotCaughtUp { behind });
            }
        }
        after(&self.named(), change)
    }

    /// The configuration with the founders' lives named: those who join later do not have the founding record.
    fn named(&self) -> Configuration {
        let config = &self.config;
        let named = config.members().iter().map(|member| {
            let life = if member.incarnation == 0 { self.standing_of(member.node) } else { member.incarnation };
            Member { incarnation: life, ..*member }
        });
        Configuration::new(config.epoch, config.parent, config.quorums, named)
    }

    /// Batches wait from now on.
    pub(crate) fn begin_change(&mut self) {
        assert!(self.role == Role::Leader, "only a leader changes the members");
        self.leading.changing = true;
    }

    /// Whether batches wait for a change.
    pub fn is_changing(&self) -> bool {
        self.leading.changing
    }

    /// Whether everything below is chosen and delivered, and the new configuration can be proposed.
    pub fn can_propose_configuration(&self) -> bool {
        let waits = self.role == Role::Leader && self.leading.changing && self.leading.proposed.is_none();
        waits && (self.leading.next_slot == self.prefix.next() || mutant("configuration_overtakes"))
    }

    /// Proposes the configuration of this step in the next slot.
    pub(crate) fn propose_configuration(&mut self) {
        assert!(self.can_propose_configuration(), "proposed without leave");
        let slot = self.leading.next_slot;
        self.leading.next_slot = slot.next();
        self.leading.proposed = Some(slot);
        self.offer(slot, Mark::Configuration, Source::Configuration);
        if !self.chosen_pending.is_empty() {
            self.emit_chosen();
        }
    }

    /// A peer has delivered so much.
    pub(crate) fn hear_prefix(&mut self, from: NodeId, prefix: Slot) {
        // An answer that comes late, or again, takes nothing back of what a later one named.
        let known = self.prefixes.get(&from).map_or(Slot::ZERO, |(known, _)| *known);
        self.prefixes.insert(from, (prefix.max(known), self.now_ns));
        self.note_held(from, prefix);
        self.leave_when_known();
    }

    /// Whether a phase 2 quorum of the members durably knows the configuration chosen. Until then a removed member must not be
    /// taken away: the others may need it to find out.
    pub fn is_settled(&self) -> bool {
        let knows = |node: NodeId| self.prefixes.get(&node).is_some_and(|(prefix, _)| *prefix >= self.config_slot);
        let mine = self.votes() && self.knows_configuration_for_good();
        let others = self.config.voters().iter().filter(|node| *node != self.settings.me && knows(*node)).count();
        others + usize::from(mine) >= self.config.quorums.phase2
    }

    /// Whether what shows the configuration chosen is durable here.
    pub fn knows_configuration_for_good(&self) -> bool {
        self.durable >= self.config_lsn
    }

    /// A leader that is no voter any more ends when the others can do without it.
    fn leave_when_known(&mut self) {
        if self.leads() && !self.votes() && self.is_settled() {
            self.halt(Halt::Removed { epoch: self.config.epoch });
        }
    }

    // As anyone.

    /// The driver says what the slot holds that was delivered last: it governs from the next one on.
    pub(crate) fn on_configured(&mut self, configuration: Configuration) {
        let slot = self.awaited.take().expect("a configuration was delivered");
        let before = self.named();
        let (was, is) = (self.is_member(), self.standing(&configuration).is_some());
        self.config = configuration;
        self.removed = was && !is;
        self.note_standing();
        self.config_slot = slot;
        self.peers = others(&configuration, self.settings.me);
        self.strangers = NodeSet::EMPTY;
        // To the new members: the removed ones hear of it when the others know.
        self.emit_chosen();
        if !mutant("chosen_above_configuration_is_final") {
            self.window.void_chosen_before(configuration.epoch);
        }
        self.forget_lives(&before);
        self.config_lsn = self.last_lsn;
        self.prefix_lsn = self.prefix_lsn.max(self.config_lsn);
        self.out.push_back(Output::Configured(Box::new(configuration)));
        match self.role {
            Role::Joining | Role::Halted => {}
            Role::Follower if was && !is => return self.halt(Halt::Removed { epoch: configuration.epoch }),
            Role::Follower => self.expect_leader(),
            Role::Candidate | Role::Preparing | Role::Leader if self.votes() => self.stand(Reason::Reconfigured),
            Role::Candidate => self.become_role(Role::Follower, Reason::Reconfigured),
            Role::Preparing | Role::Leader => self.leads_on(),
        }
        self.delivered();
    }

    /// A leader without a vote tells the others what is chosen, and then ends.
    fn leads_on(&mut self) {
        self.leading.changing = true;
        self.leading.proposed = None;
        self.leases.reset_leading();
        self.leave_when_known();
    }

    /// What was counted from an earlier life of a member's log says nothing of this one's.
    fn forget_lives(&mut self, before: &Configuration) {
        let life = |config: &Configuration, node| config.member(node).map(|member| member.incarnation);
        let config = self.config;
        let other = |node: &NodeId| life(before, *node) != life(&config, *node);
        let count = self.counted.len();
        self.counted.retain(|node, _| !other(node));
        self.prefixes.retain(|node, _| !other(node));
        self.promises.retain(|node, _| !other(node));
        if self.counted.len() != count || self.marked.keys().any(other) {
            self.marked = self.counted.clone();
            self.persist(Record::PeerMarks);
        }
    }

    /// Whether what a member says may be counted: an earlier life of its log, of which something may still be under way, has never
    /// known the configuration that brought this one.
    pub(crate) fn is_of_this_life(&self, from: NodeId, epoch: Epoch) -> bool {
        self.config.member(from).is_none_or(|member| epoch >= member.since) || mutant("earlier_life_counted")
    }

    /// A node that is no member here speaks. True: it knows a later configuration, and is heard; else it is told that it is none.
    pub(crate) fn hear_stranger(&mut self, from: NodeId, epoch: Epoch, message: &Message) -> bool {
        // A leader that its own configuration leaves out leads on until the others know of it.
        let leaves = epoch == self.config.epoch && from == self.promised.node && self.leader == Some(from);
        if epoch > self.config.epoch || leaves {
            return true;
        }
        match message {
            Message::Hello { incarnation, start, prefix, .. } => {
                self.on_hello((from, epoch), *incarnation, *start, *prefix);
            }
            Message::PreVote { .. } | Message::Prepare { .. } | Message::Heartbeat { .. } | Message::Accept { .. }
                if epoch < self.config.epoch =>
            {
                self.send_to(from, Message::NotMember, self.config_lsn);
            }
            _ => {}
        }
        false
    }

    /// A member that knows a later configuration says that this node is none.
    pub(crate) fn on_not_member(&mut self, epoch: Epoch) {
        if epoch > self.config.epoch && self.is_member() {
            self.halt(Halt::Removed { epoch });
        }
    }

    /// The slot of the configuration that governs.
    pub fn configured_at(&self) -> Slot {
        self.config_slot
    }

    /// The prefix that a member told last, as far as this node has heard as leader.
    pub fn peer_prefix(&self, node: NodeId) -> Slot {
        if node == self.settings.me {
            self.prefix
        } else {
            self.prefixes.get(&node).map_or(Slot::ZERO, |(prefix, _)| *prefix)
        }
    }

    /// Which life of this node's log this is.
    pub fn incarnation(&self) -> u64 {
        self.settings.incarnation
    }

    /// When a member was heard last, on this node's clock.
    pub fn heard_ns(&self, node: NodeId) -> Option<u64> {
        self.heard_ns.get(&node).copied()
    }

    /// This node's settings name where it starts; what it waits for when it is no founder and no member knows it.
    pub fn waits_to_be_added(&self) -> bool {
        self.role == Role::Joining && self.founded.is_none() && self.joins()
    }
}
