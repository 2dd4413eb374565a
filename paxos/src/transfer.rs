//! Planned transfer: a leader hands over to a member that holds all that it proposed, without waiting for a time-out.
//!
//! The leader takes no more proposals, and waits until all that it proposed is chosen and the target holds it. Then it gives up its
//! lease, tells all so ([`Message::Release`]), and asks the target to stand ([`Message::TakeOver`]). What
//! follows is an election like any other, but that nobody waited for it, and that the winner has nothing to fetch. If no higher
//! ballot comes in an election time-out, the leader goes on, and asks for a lease anew: nothing that it did can hurt, whatever still
//! arrives of it.
//!
//! | schedule | closed by |
//! |---|---|
//! | the old leader answers a read by its lease while its successor commits | the lease is given up before anybody is told |
//! | a heartbeat that left before the release comes behind it, and binds its receiver | the release names the last number that asked; those up to it grant nothing any more |
//! | a release comes late, when the leader went on and was granted a lease anew | it frees from grants up to the number that it names |
//! | an acceptor that was granted anew starts again, forgets which number that was, and the release comes | what an earlier start may have granted is waited out, whatever is released |
//! | a release comes again when its sender leads in a later ballot | it is obeyed only in the ballot that is promised, and frees from no later number |
//! | an acceptor was bound by another, or cannot tell by whom | it frees from its sender's lease alone |
//! | the take-over overtakes the release | who is bound does not stand; both are sent again until a higher ballot appears |
//! | a take-over comes again later | it is obeyed only by a follower of that ballot that holds what it names: an election too many, nothing worse |

use crate::replica::Replica;
use crate::types::*;
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Lsn, NodeId, Slot};

/// How many of the longest election time-outs one that gave way waits for a successor, before it says that there is none.
const SUCCESSION_TIMEOUTS: u64 = 4;
/// A member that did not answer for so many heartbeats is no target.
const SILENT_HEARTBEATS: u64 = 3;

/// How far a hand-over has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until all is chosen, and the target holds it. `asked`: it was asked how far it is, since all is chosen here.
    Draining { asked: bool },
    /// Until a higher ballot comes. What the target must hold, and the last heartbeat that asked for a lease.
    Offered { upto: Slot, probe: u64 },
    /// Until somebody leads.
    Yielded,
}

/// A hand-over of this node's leadership.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    target: NodeId,
    /// The ballot that is to end.
    ballot: Ballot,
    stage: Stage,
    /// Up to here the target holds everything, as it said.
    holds: Slot,
    /// When the stage is given up.
    pub(crate) until_ns: u64,
    /// When the offer goes out again.
    again_ns: u64,
}

impl Replica {
    // As leader.

    /// To whom this node is handing over, from the request until a successor serves, or until it is given up.
    pub fn hands_over_to(&self) -> Option<NodeId> {
        self.transfer.map(|transfer| transfer.target)
    }

    /// Whether it takes no proposals for that reason.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.transfer.is_some_and(|transfer| transfer.stage != Stage::Yielded)
    }

    /// Hands over, or says why not. One hand-over at a time: another one that is under way goes on.
    pub(crate) fn transfer(&mut self, target: Option<NodeId>) {
        if self.transfer.is_some() {
            return;
        }
        let chosen = match target {
            // While the members change, who is to lead is asked for anew when they have.
            _ if self.role != Role::Leader || self.leading.changing => Err(Transferred::NotThatLeader),
            Some(node) if !self.peers.contains(node) || !self.config.is_voter(node) => Err(Transferred::NoTarget),
            Some(node) if !self.is_near(node) => Err(Transferred::Silent),
            Some(node) => Ok(node),
            None if self.peers.0 & self.config.voters().0 == 0 => Err(Transferred::NoTarget),
            None => self.furthest_near().ok_or(Transferred::Silent),
        };
        match chosen {
            Ok(target) => {
                let until_ns = self.now_ns + self.settings.election_max_ns;
                let holds = self.peer_prefix(target);
                let (ballot, stage, again_ns) = (self.promised, Stage::Draining { asked: false }, self.now_ns);
                self.transfer = Some(Transfer { target, ballot, stage, holds, until_ns, again_ns });
            }
            Err(outcome) => self.out.push_back(Output::Transferred(outcome)),
        }
    }

    /// Whether a member answered in this ballot of late.
    fn is_near(&self, node: NodeId) -> bool {
        let horizon_ns = SILENT_HEARTBEATS * self.settings.heartbeat_ns;
        self.leading.answered_ns.get(&node).is_some_and(|answered| answered + horizon_ns >= self.now_ns)
    }

    /// Of the members that answered of late the one that has delivered most.
    fn furthest_near(&self) -> Option<NodeId> {
        let near = self.peers.iter().filter(|peer| self.config.is_voter(*peer) && self.is_near(*peer));
        near.max_by_key(|peer| (self.peer_prefix(*peer), core::cmp::Reverse(*peer)))
    }

    /// A member says how far it holds everything: votes of this ballot, or what it delivered.
    pub(crate) fn note_held(&mut self, from: NodeId, upto: Slot) {
        if let Some(transfer) = self.transfer.as_mut().filter(|transfer| transfer.target == from) {
            transfer.holds = transfer.holds.max(upto);
        }
    }

    /// Takes the next stage of a hand-over if it is time. Run after each step.
    pub(crate) fn settle_transfer(&mut self) {
        let Some(transfer) = self.transfer else { return };
        let leads = self.role == Role::Leader && self.promised == transfer.ballot;
        match transfer.stage {
            Stage::Draining { .. } | Stage::Offered { .. } if !leads => {
                let until_ns = self.now_ns + SUCCESSION_TIMEOUTS * self.settings.election_max_ns;
                self.transfer = Some(Transfer { stage: Stage::Yielded, until_ns, ..transfer });
            }
            Stage::Draining { asked } => self.drain(transfer, asked),
            Stage::Offered { .. } if self.now_ns >= transfer.until_ns => {
                self.leases.take_up();
                self.end_transfer(Transferred::NotTaken);
            }
            Stage::Offered { upto, .. } if self.now_ns >= transfer.again_ns => self.offer_leadership(transfer, upto),
            Stage::Yielded if self.now_ns >= transfer.until_ns => self.end_transfer(Transferred::NoLeader),
            Stage::Offered { .. } | Stage::Yielded => {}
        }
    }

    /// When a hand-over goes on by itself.
    pub(crate) fn transfer_due_ns(&self) -> u64 {
        match self.transfer {
            None => u64::MAX,
            Some(Transfer { stage: Stage::Yielded, until_ns, .. }) => until_ns,
            Some(Transfer { until_ns, again_ns, .. }) => until_ns.min(again_ns),
        }
    }

    fn drain(&mut self, transfer: Transfer, asked: bool) {
        let last = Slot(self.leading.next_slot.0 - 1);
        if self.prefix == last && transfer.holds >= last {
            return self.offer_leadership(transfer, last);
        }
        if self.now_ns >= transfer.until_ns {
            return self.end_transfer(Transferred::Lags);
        }
        let all_chosen = self.prefix == last;
        if self.now_ns >= transfer.again_ns || (all_chosen && !asked) {
            // Its answer says how far the target is, and what it carries gets the target there.
            self.emit_chosen();
            self.probe();
            let again_ns = self.now_ns + self.settings.retransmit_ns;
            let stage = Stage::Draining { asked: all_chosen };
            self.transfer = Some(Transfer { stage, again_ns, ..transfer });
        }
    }

    fn offer_leadership(&mut self, transfer: Transfer, upto: Slot) {
        let Transfer { target, ballot, .. } = transfer;
        // Said again it is the same word: heartbeats since then asked for no lease.
        let (until_ns, probe) = match transfer.stage {
            Stage::Offered { probe, .. } => (transfer.until_ns, probe),
            _ => (self.now_ns + self.settings.election_max_ns, self.last_probe()),
        };
        let (stage, again_ns) = (Stage::Offered { upto, probe }, self.now_ns + self.settings.retransmit_ns);
        self.transfer = Some(Transfer { stage, until_ns, again_ns, ..transfer });
        if self.settings.lease.is_some() {
            if !mutant("handover_keeps_lease") {
                self.leases.give_up();
            }
            self.send(self.peers, Message::Release { ballot, probe }, Lsn::ZERO);
        }
        self.send_to(target, Message::TakeOver { ballot, upto }, Lsn::ZERO);
    }

    /// Somebody's barrier is delivered: whose ballot this is serves, unless there is a higher one.
    pub(crate) fn note_successor(&mut self, ballot: Ballot) {
        let current = ballot == self.promised;
        let Some(transfer) = self.transfer.filter(|transfer| current && ballot > transfer.ballot) else { return };
        let to_target = ballot.node == transfer.target;
        self.end_transfer(if to_target { Transferred::Done } else { Transferred::Elsewhere });
    }

    fn end_transfer(&mut self, outcome: Transferred) {
        self.transfer = None;
        self.out.push_back(Output::Transferred(outcome));
    }

    // As the others.

    /// The leader gave up its lease: a grant to it binds this node no longer.
    pub(crate) fn on_release(&mut self, from: NodeId, ballot: Ballot, probe: u64) {
        let current = ballot == self.promised || mutant("old_release_frees");
        if ballot.node == from && current {
            self.leases.free(ballot, probe);
        }
    }

    /// The leader asks this node to stand.
    pub(crate) fn on_take_over(&mut self, from: NodeId, ballot: Ballot, upto: Slot) {
        let follows = self.role == Role::Follower && self.votes() && ballot == self.promised && ballot.node == from;
        let free = !self.is_bound(self.settings.me) || mutant("take_over_within_lease");
        if follows && free && self.damaged.is_empty() && self.holds_all(upto) {
            self.stand(Reason::HandedOver);
        }
    }

    /// Whether all slots up to this one are here, accepted in the promised ballot or known chosen.
    fn holds_all(&self, upto: Slot) -> bool {
        let held = |slot| {
            self.window.get(Slot(slot)).is_some_and(|state| {
                state.chosen || state.accepted.is_some_and(|accepted| accepted.ballot == self.promised)
            })
        };
        // What is far above all that may be held is no slot of this ballot.
        upto <= self.window.last() && (self.prefix.0 + 1..=upto.0).all(held)
    }
}
