//! A leader whose log is much slower than the others' does not lead on for long (L1).
//!
//! Source: SEMANTICS, "Failure handling": a leader whose own sync latency stays far above its peers' hands leadership over. Seen from
//! outside: when its accept requests left, when its prefix had their slots, when its own records of them were durable. What
//! is demanded is half of what the product promises: twice the factor, in twice the time.

use super::{Checked, violated};
use crate::plan::Plan;
use std::collections::BTreeMap;
use synod_paxos::{Replica, Role};
use synod_wire::{Ballot, Slot};

/// A leader that is slow for so long, and has not tried to hand over, leads on.
const TOO_LONG_NS: u64 = 2_000_000_000;
/// Between two slots that say so at most.
const GAP_NS: u64 = 500_000_000;
/// After a hand-over that nobody took.
const PATIENCE_NS: u64 = 11_000_000_000;
/// Slots that are followed at most: those of the largest window, twice.
const MOST_SLOTS: usize = 512;

/// What is known of a proposal, by the leader's clock.
#[derive(Clone, Copy, Default)]
struct Proposal {
    sent_ns: u64,
    chosen_ns: Option<u64>,
    durable_ns: Option<u64>,
}

/// One node as a leader.
#[derive(Clone, Default)]
struct Leader {
    ballot: Ballot,
    proposals: BTreeMap<Slot, Proposal>,
    prefix: Slot,
    /// The first and the last of the slots in a row that were slow.
    slow_ns: Option<(u64, u64)>,
    exempt_until_ns: u64,
    yields: u64,
}

/// See the module.
pub(crate) struct Slow {
    factor: u64,
    min_ns: u64,
    leaders: Vec<Leader>,
}

impl Slow {
    pub(crate) fn new(plan: &Plan) -> Slow {
        // Under memory durability nobody waits for a disk.
        let factor = if plan.memory_durability { 0 } else { plan.fail_slow_factor };
        Slow { factor, min_ns: plan.fail_slow_min_ns, leaders: vec![Leader::default(); plan.machines()] }
    }

    /// A node stood still, or its process ended: its clock says nothing of its disk.
    pub(crate) fn interrupted(&mut self, node: usize) {
        self.leaders[node] = Leader { exempt_until_ns: self.leaders[node].exempt_until_ns, ..Leader::default() };
    }

    /// An accept request leaves its leader.
    pub(crate) fn sent(&mut self, node: usize, slot: Slot, ballot: Ballot, local_ns: u64) {
        let leader = &mut self.leaders[node];
        if leader.ballot == ballot && leader.proposals.len() < MOST_SLOTS {
            leader.proposals.entry(slot).or_insert(Proposal { sent_ns: local_ns, ..Proposal::default() });
        }
    }

    /// The node's own record of a vote is durable.
    pub(crate) fn durable(&mut self, node: usize, slot: Slot, ballot: Ballot, local_ns: u64) {
        let leader = &mut self.leaders[node];
        if leader.ballot == ballot
            && let Some(proposal) = leader.proposals.get_mut(&slot)
        {
            proposal.durable_ns.get_or_insert(local_ns);
        }
    }

    /// A node's turn is over, which has tried to hand over so many times for its disk.
    pub(crate) fn turned(&mut self, node: usize, core: &Replica, yields: u64, local_ns: u64) -> Checked {
        if self.factor == 0 {
            return Ok(());
        }
        let leader = &mut self.leaders[node];
        if core.role() != Role::Leader || core.promised() != leader.ballot {
            *leader = Leader { ballot: core.promised(), prefix: core.prefix(), yields, ..Leader::default() };
            return Ok(());
        }
        if core.hands_over_to().is_some() || core.is_changing() || yields != leader.yields {
            leader.yields = yields;
            leader.exempt_until_ns = local_ns + PATIENCE_NS;
        }
        for (_, proposal) in leader.proposals.range_mut(leader.prefix.next()..=core.prefix().max(leader.prefix.next()))
        {
            if core.prefix() > leader.prefix {
                proposal.chosen_ns.get_or_insert(local_ns);
            }
        }
        leader.prefix = core.prefix();
        let (factor, min_ns) = (self.factor, self.min_ns);
        let mut slow_ns = leader.slow_ns;
        leader.proposals.retain(|_, proposal| {
            let (Some(chosen_ns), Some(durable_ns)) = (proposal.chosen_ns, proposal.durable_ns) else { return true };
            let (own_ns, quorum_ns) = (durable_ns - proposal.sent_ns, chosen_ns - proposal.sent_ns);
            let is_slow = own_ns >= 2 * min_ns && own_ns >= 2 * factor * quorum_ns;
            let goes_on = |last_ns: u64| local_ns < last_ns + GAP_NS;
            slow_ns = match slow_ns {
                _ if !is_slow => None,
                Some((first_ns, last_ns)) if goes_on(last_ns) => Some((first_ns, local_ns)),
                _ => Some((local_ns, local_ns)),
            };
            false
        });
        leader.slow_ns = slow_ns;
        match slow_ns {
            Some((first_ns, last_ns)) if last_ns > first_ns + TOO_LONG_NS && local_ns >= leader.exempt_until_ns => {
                let ms = (last_ns - first_ns) / 1_000_000;
                let detail = format!(
                    "n{node} leads on in {}, though its log is {factor} times slower for {ms} ms",
                    leader.ballot
                );
                violated("a slow leader hands over", detail)
            }
            _ => Ok(()),
        }
    }
}
