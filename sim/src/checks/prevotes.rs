//! A leader whom a quorum hears is let alone: who stands for election was told by a phase 1 quorum that it hears no leader, or was
//! asked to by the leader; and who hears a leader does not say that it hears none (L1).
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), 9.6; SEMANTICS, "Failure handling": pre-vote before a ballot is raised.

use super::{Checked, violated};
use std::collections::{BTreeMap, BTreeSet};
use synod_paxos::{Replica, Role};
use synod_wire::frame::{Header, Kind};
use synod_wire::peer::{PreVoteAckBody, Round};
use synod_wire::{Ballot, Epoch, NodeId, NodeSet};
use zerocopy::FromBytes;

const PROPERTY: &str = "a leader whom a quorum hears is let alone";
/// Rounds whose answers are kept for each node: older ones are answered to nobody.
const ROUNDS_KEPT: usize = 16;

/// What a node was when its turn began.
#[derive(Clone, Copy)]
struct Standing {
    role: Role,
    leader: Option<NodeId>,
    promised: Ballot,
    phase1: usize,
    epoch: Epoch,
    quiet: bool,
}

impl Standing {
    fn of(core: &Replica, local_ns: u64) -> Standing {
        Standing {
            role: core.role(),
            leader: core.leader(),
            promised: core.promised(),
            phase1: core.quorums().phase1,
            epoch: core.configuration().epoch,
            quiet: core.hears_no_leader(local_ns),
        }
    }
}

/// See the module.
pub(crate) struct PreVotes {
    before: Vec<Option<Standing>>,
    /// The round that each node asked last: its start and its number.
    asked: Vec<(u64, u64)>,
    /// By asker, start and round: who said yes.
    granted: BTreeMap<(usize, u64, u64), NodeSet>,
    /// To whom the node whose turn it is said yes.
    said_yes: Vec<usize>,
    /// Which leaders asked a node to take over.
    handed_over: BTreeSet<(usize, Ballot)>,
}

impl PreVotes {
    pub(crate) fn new(nodes: usize) -> PreVotes {
        PreVotes {
            before: vec![None; nodes],
            asked: vec![(0, 0); nodes],
            granted: BTreeMap::new(),
            said_yes: Vec::new(),
            handed_over: BTreeSet::new(),
        }
    }

    /// A node's turn begins; by its clock it ends no later than this.
    pub(crate) fn begins(&mut self, node: usize, core: &Replica, local_ns: u64) {
        self.before[node] = Some(Standing::of(core, local_ns));
        self.said_yes.clear();
    }

    /// A frame leaves a node for another.
    pub(crate) fn sent(&mut self, (node, peer): (usize, usize), header: &Header, payload: &[u8]) {
        match header.kind {
            Kind::PreVote => {
                if let Ok((round, _)) = Round::read_from_prefix(payload) {
                    self.asked[node] = (round.start.get(), round.round.get());
                }
            }
            Kind::PreVoteAck => {
                if let Ok((PreVoteAckBody { asked, granted: 1, .. }, _)) = PreVoteAckBody::read_from_prefix(payload) {
                    self.said_yes.push(peer);
                    let round = (peer, asked.start.get(), asked.round.get());
                    self.granted.entry(round).or_default().insert(NodeId(node as u8));
                    self.forget(peer);
                }
            }
            Kind::TakeOver => {
                self.handed_over.insert((peer, header.ballot));
            }
            _ => {}
        }
    }

    fn forget(&mut self, asker: usize) {
        let mut of_asker = self.granted.range((asker, 0, 0)..(asker + 1, 0, 0)).map(|(round, _)| *round);
        let oldest = of_asker.next();
        if of_asker.count() >= ROUNDS_KEPT {
            // A start is a number that was drawn: what is least may be the newest, which is kept.
            let newest = (asker, self.asked[asker].0, self.asked[asker].1);
            if let Some(oldest) = oldest.filter(|round| *round != newest) {
                self.granted.remove(&oldest);
            }
        }
    }

    /// The turn is over.
    pub(crate) fn turned(&self, node: usize, core: &Replica, local_ns: u64) -> Checked {
        let Some(before) = self.before[node] else { return Ok(()) };
        let after = Standing::of(core, local_ns);
        self.stands(node, &before, &after)?;
        let same = (before.role, before.leader, before.promised) == (after.role, after.leader, after.promised);
        let led = after.leader.is_some() && !before.quiet && !after.quiet;
        for asker in self.said_yes.iter().filter(|asker| after.leader != Some(NodeId(**asker as u8))) {
            if same && led && !matches!(after.role, Role::Joining | Role::Halted | Role::Candidate) {
                let detail =
                    format!("n{node} follows {:?} in {}, and tells n{asker} to stand", after.leader, after.promised);
                return violated(PROPERTY, detail);
            }
        }
        Ok(())
    }

    fn stands(&self, node: usize, before: &Standing, after: &Standing) -> Checked {
        let me = NodeId(node as u8);
        let stood = after.role == Role::Candidate && after.promised.node == me && after.promised > before.promised;
        // Who leads already and begins phase 1 anew, for a value that nobody hands out, deposes itself.
        let led = matches!(before.role, Role::Preparing | Role::Leader);
        // Who stands already begins anew for the members that have come to govern.
        let led = led || before.role == Role::Candidate && before.epoch != after.epoch;
        if !stood || led || self.handed_over.contains(&(node, before.promised)) {
            return Ok(());
        }
        let (start, round) = self.asked[node];
        let mut granted = self.granted.get(&(node, start, round)).copied().unwrap_or_default();
        granted.insert(me);
        if granted.len() < before.phase1.min(after.phase1) {
            let detail = format!("n{node} stands in {} though {granted:?} alone hear no leader", after.promised);
            return violated(PROPERTY, detail);
        }
        Ok(())
    }
}
