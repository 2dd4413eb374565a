//! The checkers, one safety property a file. They see what the nodes log, sync, send and deliver, and nothing of the core.

mod agreement;
mod ballots;
mod durability;

use super::Value;
use super::disk::{Disk, Logged};
use agreement::Agreement;
use ballots::Ballots;
use durability::check_reply;
use synod_paxos::Message;
use synod_wire::{NodeId, Slot};

/// All checkers of one run.
pub(crate) struct Checks {
    agreement: Agreement,
    ballots: Ballots,
}

impl Checks {
    /// Checkers for a group in which `phase2` durable votes choose a value.
    pub(crate) fn new(phase2: usize) -> Checks {
        Checks { agreement: Agreement::new(phase2), ballots: Ballots::default() }
    }

    pub(crate) fn on_logged(&mut self, node: NodeId, logged: &Logged) {
        self.agreement.on_logged(node, logged);
    }

    pub(crate) fn on_durable(&mut self, node: NodeId, logged: &Logged) {
        self.agreement.on_durable(node, logged);
    }

    pub(crate) fn on_deliver(&mut self, node: NodeId, slot: Slot, value: &Value) {
        self.agreement.on_deliver(node, slot, value);
    }

    pub(crate) fn on_send(&mut self, node: NodeId, life: u32, message: &Message, disk: &mut Disk) {
        self.ballots.on_send(node, life, message);
        check_reply(node, message, disk, &self.agreement);
    }

    /// The highest slot in which a value was chosen.
    pub(crate) fn last_chosen(&self) -> Slot {
        self.agreement.last_chosen()
    }
}
