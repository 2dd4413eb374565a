//! What holds of every state of a replica, and of every step. Run after each step in the tests and the simulator.

use crate::replica::Replica;
use crate::types::Role;

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
    }
    if replica.role == Role::Leader {
        assert!(replica.prefix >= replica.leading.barrier, "serves before its barrier is delivered");
    }
}

/// Panics if `new` cannot follow `old`.
pub fn check_step(old: &Replica, new: &Replica) {
    assert!(new.promised >= old.promised, "a promise regressed");
    assert!(new.prefix >= old.prefix, "the delivered prefix shrank");
    assert!(new.durable >= old.durable && new.last_lsn >= old.last_lsn, "the log shrank");
    assert!(old.role != Role::Halted || new.role == Role::Halted, "a halted replica went on");
    for (slot, before) in old.window.iter() {
        let Some(after) = new.window.get(slot) else { continue };
        assert!(!before.chosen || after.chosen, "{slot}: chosen no longer");
        if let (Some(was), Some(is)) = (before.accepted, after.accepted) {
            assert!(after.chosen || is.ballot >= was.ballot, "{slot}: an accepted ballot regressed");
        }
        assert!(before.accepted.is_none() || after.accepted.is_some(), "{slot}: an accepted value was dropped");
    }
}
