//! What holds of every state of a replica, and of every step. Run after each step in the tests and the simulator.

use crate::leases::Bound;
use crate::replica::Replica;
use crate::types::Role;
use crate::window::{SlotState, Window};
use synod_wire::{Ballot, Epoch, Lsn, NodeId, Slot};

/// The lowest ballot in which anybody can lead.
const ONE: Ballot = Ballot { round: 1, node: NodeId(0) };

/// Panics if the state breaks a rule.
pub fn check_state(replica: &Replica) {
    assert!(replica.durable <= replica.last_lsn, "durable beyond what was logged");
    assert!(replica.promise_lsn <= replica.last_lsn, "a promise that was never logged");
    assert_eq!(replica.window.base(), replica.prefix.next(), "the window starts above the prefix");
    for (slot, state) in replica.window.iter() {
        if let Some(held) = state.accepted {
            let learnt = state.chosen;
            assert!(learnt || held.ballot <= replica.promised, "{slot}: accepted above the promise");
            assert!(held.lsn <= replica.last_lsn, "{slot}: accepted without a record");
        }
        assert!(!state.chosen || state.accepted.is_some(), "{slot}: chosen, but nothing is held");
        assert!(!(state.chosen && state.unknown), "{slot}: chosen and unknown");
    }
    if replica.leads() {
        assert_eq!(replica.promised.node, replica.settings.me, "leads in another's ballot");
        assert!(replica.leading.barrier < replica.leading.next_slot, "proposes at or below its barrier");
        assert!(replica.durable >= replica.promise_lsn, "leads on a promise that is not durable");
        assert!(replica.config.is_sound(), "a configuration whose quorums do not meet");
        for slot in (replica.prefix.0 + 1..=replica.leading.barrier.0).map(Slot) {
            assert!(is_taken_over(replica, slot), "{slot}: neither planned nor proposed by the new leader");
        }
    }
    assert!(!replica.leases.is_given_up() || replica.lease_until_ns() == 0, "a lease that was given up");
    if replica.role == Role::Leader {
        assert!(replica.prefix >= replica.leading.barrier, "serves before its barrier is delivered");
    }
}

/// Whether a new leader does something about a slot up to its barrier: nothing above one that it leaves out can be delivered.
fn is_taken_over(replica: &Replica, slot: Slot) -> bool {
    let held =
        |state: &SlotState| state.chosen || state.accepted.is_some_and(|accepted| accepted.ballot == replica.promised);
    replica.leading.plan.contains_key(&slot) || replica.window.get(slot).is_some_and(held)
}

/// Panics if `new` cannot follow `old`.
pub fn check_step(old: &Replica, new: &Replica) {
    Before::of(old).check_step(new);
}

/// What a step must respect of the state before it. Much less than the state: a simulator keeps one for each node, and
/// takes the next without allocating.
#[derive(Clone, Debug)]
pub struct Before {
    promised: Ballot,
    prefix: Slot,
    durable: Lsn,
    last_lsn: Lsn,
    role: Role,
    window: Window,
    bound: Bound,
    epoch: Epoch,
}

impl Before {
    /// Of this state.
    pub fn of(replica: &Replica) -> Before {
        Before {
            promised: replica.promised,
            prefix: replica.prefix,
            durable: replica.durable,
            last_lsn: replica.last_lsn,
            role: replica.role,
            window: replica.window.clone(),
            bound: replica.leases.bound,
            epoch: replica.config.epoch,
        }
    }

    /// Takes this state for the next step.
    pub fn follow(&mut self, replica: &Replica) {
        self.promised = replica.promised;
        self.prefix = replica.prefix;
        self.durable = replica.durable;
        self.last_lsn = replica.last_lsn;
        self.role = replica.role;
        self.window.copy_from(&replica.window);
        self.bound = replica.leases.bound;
        self.epoch = replica.config.epoch;
    }

    /// Panics if `new` cannot follow.
    pub fn check_step(&self, new: &Replica) {
        assert!(new.promised >= self.promised, "a promise regressed");
        let rose = new.promised > self.promised;
        assert!(
            // Its holder may have given it up meanwhile.
            !rose || !self.bound.binds(new.now_ns, new.promised.node) || new.leases.freed >= self.promised.max(ONE),
            "a promise rose within a lease that was granted"
        );
        assert!(new.prefix >= self.prefix, "the delivered prefix shrank");
        assert!(new.config.epoch >= self.epoch, "an earlier configuration governs again");
        assert!(new.durable >= self.durable && new.last_lsn >= self.last_lsn, "the log shrank");
        assert!(self.role != Role::Halted || new.role == Role::Halted, "a halted replica went on");
        for (slot, before) in self.window.iter() {
            let Some(after) = new.window.get(slot) else { continue };
            let final_still = before.epoch >= new.config.epoch;
            assert!(!before.chosen || after.chosen || !final_still, "{slot}: chosen no longer");
            if let (Some(was), Some(is)) = (before.accepted, after.accepted) {
                assert!(after.chosen || is.ballot >= was.ballot, "{slot}: an accepted ballot regressed");
            }
            assert!(before.accepted.is_none() || after.accepted.is_some(), "{slot}: an accepted value was dropped");
        }
    }
}
