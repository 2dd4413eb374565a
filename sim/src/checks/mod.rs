//! What must hold, one property a file. The engine tells [`Checks`] what it sees; a checker answers with a [`Violation`].
//! None of them knows which faults were injected, but for nodes whose state was taken from them.

mod acked;
mod ballots;
mod bounds;
mod conditions;
mod configurations;
mod damage;
mod durable;
mod evidence;
mod fresh;
mod hung;
mod kv;
mod linear;
mod logs;
mod modes;
mod one_value;
mod order;
mod prefix;
mod prevotes;
mod reads;
mod sessions;
mod slow;
mod snapshots;
mod status;
mod streams;
mod told;
mod trims;
mod views;
mod zeros;

pub(crate) use bounds::Turn;
pub(crate) use configurations::{Changed, ChangedAt};
pub(crate) use damage::has_a_cause;
pub(crate) use fresh::leaves_within_lease;
pub(crate) use hung::hung_is_silent;
pub(crate) use logs::{applied_log, value_on_disk};
pub(crate) use status::told as status_told;
pub(crate) use views::OWN_REQUESTS;
pub(crate) use zeros::overwritten;

use crate::disk::Logged;
use crate::payload::Payloads;
use crate::plan::Plan;
use serde::{Deserialize, Serialize};
use synod_paxos::Replica;
use synod_paxos::invariants::{self, Before};
use synod_wire::client::Consistency;
use synod_wire::{Ballot, Lsn, Slot};

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which one.
    pub property: String,
    /// What was seen.
    pub detail: String,
}

/// The property of a violation that is the simulator's own fault: it demanded, or destroyed, too much.
pub const SIMULATOR: &str = "the simulator";

/// What a checker answers.
pub(crate) type Checked = Result<(), Violation>;

/// For checkers: the property does not hold.
pub(crate) fn violated<T>(property: &str, detail: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { property: property.to_owned(), detail: detail.into() })
}

/// All checkers of a run.
pub(crate) struct Checks {
    pub(crate) configurations: configurations::Configurations,
    pub(crate) one_value: one_value::OneValue,
    pub(crate) prefix: prefix::Prefix,
    pub(crate) sessions: sessions::Sessions,
    pub(crate) ballots: ballots::Ballots,
    pub(crate) acked: acked::Acked,
    pub(crate) conditions: conditions::Conditions,
    pub(crate) reads: reads::Reads,
    pub(crate) views: views::Views,
    pub(crate) fresh: fresh::Fresh,
    pub(crate) linear: linear::Linear,
    pub(crate) bounds: bounds::Bounds,
    pub(crate) evidence: evidence::Evidence,
    pub(crate) told: told::Told,
    pub(crate) modes: modes::Modes,
    pub(crate) kv: kv::Maps,
    pub(crate) snapshots: snapshots::Snapshots,
    pub(crate) streams: streams::Streams,
    pub(crate) trims: trims::Trims,
    pub(crate) prevotes: prevotes::PreVotes,
    pub(crate) slow: slow::Slow,
    durable: durable::Durable,
    before: Vec<Option<Before>>,
}

impl Checks {
    pub(crate) fn new(plan: &Plan) -> Checks {
        Checks {
            configurations: configurations::Configurations::new(plan),
            one_value: one_value::OneValue::default(),
            prefix: prefix::Prefix::new(plan.machines()),
            sessions: sessions::Sessions::new(Payloads::new(plan)),
            ballots: ballots::Ballots::new(plan.machines()),
            acked: acked::Acked::default(),
            conditions: conditions::Conditions::default(),
            reads: reads::Reads::default(),
            views: views::Views::new(plan.machines(), plan.clients + plan.readers),
            fresh: fresh::Fresh::default(),
            linear: linear::Linear::new(plan.seed, plan.machines()),
            bounds: bounds::Bounds::new(plan),
            evidence: evidence::Evidence::new(plan),
            told: told::Told::new(plan.machines()),
            modes: modes::Modes::new(plan.machines()),
            kv: kv::Maps::new(plan),
            snapshots: snapshots::Snapshots::default(),
            streams: streams::Streams::new(plan.machines()),
            trims: trims::Trims::new(plan.machines()),
            prevotes: prevotes::PreVotes::new(plan.machines()),
            slow: slow::Slow::new(plan),
            durable: durable::Durable::new(plan.machines()),
            before: vec![None; plan.machines()],
        }
    }

    /// A node's log is made anew, for another life of it: nothing that it said binds that one.
    pub(crate) fn born(&mut self, node: usize, incarnation: u64) {
        self.configurations.born(node, incarnation);
    }

    /// And its operator had it join the group so: it votes no more until it is promoted.
    pub(crate) fn reborn(&mut self, node: usize) {
        self.ballots.reborn(node);
        self.told.reborn(node);
    }

    /// A node has a new core: nothing links it to the last one but what it said.
    pub(crate) fn restarted(
        &mut self,
        node: usize,
        core: &Replica,
        applied: Slot,
        excused: bool,
        now_ns: u64,
    ) -> Checked {
        self.streams.restarted(node);
        self.views.restarted(node, now_ns);
        self.linear.restarted(node, now_ns);
        self.before[node] = Some(Before::of(core));
        self.prefix.restarted(node, applied);
        self.told.restarted(node, core.promised());
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

    /// A recovery found these records, which the node had not been told to be durable.
    pub(crate) fn survived(&mut self, node: usize, records: &[Logged], durable: Lsn) -> Checked {
        self.durable.restarted(node, durable);
        self.on_disk(node, records, durable)
    }

    /// A node has taken a turn, after which it calls its log durable up to here: the records on its disk that it did not
    /// before.
    pub(crate) fn logged(&mut self, node: usize, records: &[Logged], durable: Lsn) -> Checked {
        self.durable.advanced(node, records, durable)?;
        self.on_disk(node, records, durable)?;
        self.evidence.check(&self.one_value)?;
        self.told.check(&self.one_value)
    }

    fn on_disk(&mut self, node: usize, records: &[Logged], durable: Lsn) -> Checked {
        self.ballots.durable(node, durable);
        records.iter().try_for_each(|record| {
            self.told.logged(node, record);
            self.configurations.logged(record, self.prefix.end())?;
            self.one_value.logged(&self.configurations, node, record)
        })
    }

    /// A node has applied a slot. If it is the first to: what became of the members, if anything.
    pub(crate) fn applied(
        &mut self,
        node: usize,
        slot: Slot,
        value: &[u8],
    ) -> Result<Option<Option<ChangedAt>>, Violation> {
        let crc = synod_wire::frame::checksum(value);
        self.one_value.applied(node, slot, crc)?;
        let first = self.prefix.applied(node, slot, crc)?;
        if !first {
            return Ok(None);
        }
        {
            let before = self.sessions.entries().len();
            self.sessions.apply(slot, value)?;
            self.kv.apply(&self.sessions.entries()[before..], self.sessions.payloads());
            self.conditions.applied(value)?;
        }
        let Some(changed) = self.configurations.applied(slot, value)? else { return Ok(Some(None)) };
        let voided = self.one_value.reconfigured(&self.configurations, slot, changed)?;
        Ok(Some(Some(ChangedAt { what: changed, voided })))
    }

    /// A client hears a node acknowledge the entry at a place. False: there is none, or nobody offered it.
    pub(crate) fn node_acked(&mut self, node: usize, sequence: u64, now_ns: u64) -> bool {
        let entry = (sequence as usize).checked_sub(1).and_then(|at| self.sessions.entries().get(at));
        let Some(times) = entry.and_then(|entry| self.acked.order.times(entry)) else { return false };
        let offered_ns = times.offered_ns;
        self.views.acked(node, sequence, offered_ns);
        self.fresh.known(sequence, now_ns);
        self.linear.acked(node, sequence, offered_ns, now_ns);
        true
    }

    /// A reader sends a request to a node.
    pub(crate) fn asked(
        &mut self,
        reader: usize,
        (request_id, consistency): (u64, Consistency),
        node: usize,
        now_ns: u64,
    ) {
        self.views.asked(reader, (request_id, consistency), node, now_ns);
        self.reads.asked(reader, request_id);
    }

    /// What clients saw of the whole run keeps real time: see `order.rs` and `linear.rs`. The latter's numbers.
    pub(crate) fn real_time(&mut self) -> Result<(usize, usize), Violation> {
        self.acked.order.check(self.sessions.entries())?;
        self.linear.check(&self.acked.order, self.sessions.entries())
    }

    /// The highest ballot in which a slot is known chosen.
    pub(crate) fn highest_chosen(&self) -> (Slot, Ballot) {
        self.one_value.highest()
    }
}
