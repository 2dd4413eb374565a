//! What must hold, one property a file. The engine tells [`Checks`] what it sees; a checker answers with a [`Violation`].
//! None of them knows which faults were injected, but for nodes whose state was taken from them.

mod acked;
mod ballots;
mod bounds;
mod logs;
mod one_value;
mod order;
mod prefix;
mod reads;
mod sessions;
mod status;

pub(crate) use bounds::Turn;
pub(crate) use logs::applied_log;
pub(crate) use status::told as status_told;

use crate::disk::Logged;
use crate::payload::Payloads;
use crate::plan::Plan;
use serde::{Deserialize, Serialize};
use synod_paxos::Replica;
use synod_paxos::invariants::{self, Before};
use synod_wire::{Ballot, Lsn, Slot};

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which one.
    pub property: String,
    /// What was seen.
    pub detail: String,
}

/// What a checker answers.
pub(crate) type Checked = Result<(), Violation>;

/// For checkers: the property does not hold.
pub(crate) fn violated<T>(property: &str, detail: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { property: property.to_owned(), detail: detail.into() })
}

/// All checkers of a run.
pub(crate) struct Checks {
    pub(crate) one_value: one_value::OneValue,
    pub(crate) prefix: prefix::Prefix,
    pub(crate) sessions: sessions::Sessions,
    pub(crate) ballots: ballots::Ballots,
    pub(crate) acked: acked::Acked,
    pub(crate) reads: reads::Reads,
    pub(crate) bounds: bounds::Bounds,
    before: Vec<Option<Before>>,
}

impl Checks {
    pub(crate) fn new(plan: &Plan) -> Checks {
        Checks {
            one_value: one_value::OneValue::new(plan.phase2),
            prefix: prefix::Prefix::new(plan.nodes),
            sessions: sessions::Sessions::new(Payloads::new(plan)),
            ballots: ballots::Ballots::new(plan.nodes),
            acked: acked::Acked::default(),
            reads: reads::Reads,
            bounds: bounds::Bounds::new(plan),
            before: vec![None; plan.nodes],
        }
    }

    /// A node has a new core: nothing links it to the last one but what it said.
    pub(crate) fn restarted(&mut self, node: usize, core: &Replica, applied: Slot, excused: bool) -> Checked {
        self.before[node] = Some(Before::of(core));
        self.prefix.restarted(node, applied);
        self.ballots.restarted(node, core, excused)
    }

    /// A node has taken a turn. The core's own invariants panic.
    pub(crate) fn stepped(&mut self, node: usize, core: &Replica) {
        invariants::check_state(core);
        match &mut self.before[node] {
            Some(before) => {
                before.check_step(core);
                before.follow(core);
            }
            none => *none = Some(Before::of(core)),
        }
    }

    /// Records of a node became durable, and it knows.
    pub(crate) fn logged(&mut self, node: usize, records: &[Logged], durable: Lsn) -> Checked {
        self.ballots.durable(node, durable);
        records.iter().try_for_each(|record| self.one_value.logged(node, record))
    }

    /// A node has applied a slot. True: it is the first to.
    pub(crate) fn applied(&mut self, node: usize, slot: Slot, value: &[u8]) -> Result<bool, Violation> {
        let crc = synod_wire::frame::checksum(value);
        self.one_value.applied(node, slot, crc)?;
        let first = self.prefix.applied(node, slot, crc)?;
        if first {
            self.sessions.apply(slot, value)?;
        }
        Ok(first)
    }

    /// The highest ballot in which a slot is known chosen.
    pub(crate) fn highest_chosen(&self) -> (Slot, Ballot) {
        self.one_value.highest()
    }
}
