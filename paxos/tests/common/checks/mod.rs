//! The checkers, one safety property a file. They see what the nodes log, sync, send and deliver, and nothing of the core.

mod agreement;
mod ballots;
mod durability;
mod fresh;

use super::Value;
use super::disk::{Disk, Logged};
use agreement::Agreement;
use ballots::Ballots;
use durability::check_reply;
use fresh::Fresh;
use synod_paxos::Message;
use synod_wire::{Configuration, NodeId, Slot};

/// All checkers of one run.
pub(crate) struct Checks {
    agreement: Agreement,
    ballots: Ballots,
    fresh: Fresh,
}

impl Checks {
    /// Checkers for a group that begins with this configuration.
    pub(crate) fn new(founding: Configuration) -> Checks {
        Checks { agreement: Agreement::new(founding), ballots: Ballots::default(), fresh: Fresh::default() }
    }

    pub(crate) fn on_logged(&mut self, node: NodeId, logged: &Logged) {
        self.agreement.on_logged(node, logged);
    }

    pub(crate) fn on_durable(&mut self, node: NodeId, life: u64, logged: &Logged) {
        self.agreement.on_durable(node, life, logged);
    }

    pub(crate) fn on_deliver(&mut self, node: NodeId, slot: Slot, value: &Value) {
        self.agreement.on_deliver(node, slot, value);
        self.fresh.on_deliver(slot);
    }

    pub(crate) fn on_send(&mut self, node: NodeId, life: u32, message: &Message, disk: &mut Disk) {
        self.ballots.on_send(node, life, message);
        check_reply(node, message, disk, &self.agreement);
    }

    pub(crate) fn on_start(&mut self, node: NodeId) {
        self.fresh.on_start(node);
    }

    /// What follows happens at this time.
    pub(crate) fn at(&mut self, now_ns: u64) {
        self.fresh.at(now_ns);
    }

    /// A read joins a round of a node.
    pub(crate) fn on_read(&mut self, node: NodeId, round: u64) {
        self.fresh.on_read(node, round);
    }

    /// A node answers the reads up to a round from what it has delivered.
    pub(crate) fn on_reads_ready(&mut self, node: NodeId, round: u64, delivered: Slot) {
        self.fresh.on_ready(node, round, delivered);
    }

    /// A node says that it has delivered all that was delivered anywhere at this moment.
    pub(crate) fn on_current(&self, node: NodeId, at_ns: u64, delivered: Slot) {
        self.fresh.on_current(node, at_ns, delivered);
    }

    /// A node lost its log.
    pub(crate) fn on_lost(&mut self, node: NodeId) {
        self.ballots.on_lost(node);
    }

    /// The configuration that governs what is not chosen yet.
    pub(crate) fn configuration(&self) -> &Configuration {
        self.agreement.configuration()
    }

    /// The highest slot in which a value was chosen.
    pub(crate) fn last_chosen(&self) -> Slot {
        self.agreement.last_chosen()
    }
}
