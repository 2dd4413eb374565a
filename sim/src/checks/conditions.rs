//! An entry that was offered on a condition is told what its place in the true order decides, always the same: by every node, to
//! every retry, across restarts and changes of leaders (S6). And the log holds it on no other condition than it was offered on.
//!
//! Source: SEMANTICS, "the outcome is stored under the client's sequence and survives a retry", and DESIGN, "Applying": a refusal
//! is decided where the entry is applied, like the answer of RIFL (Lee and others, "Implementing Linearizability at Large Scale
//! and Low Latency", 2015). What decides is [`super::sessions`]' model, fed with the chosen values in their order.

use super::sessions::{Decided, Sessions};
use super::{Checked, violated};
use std::collections::BTreeMap;
use synod_client::{Condition, Unmet};
use synod_wire::batch::Batch;
use synod_wire::client::Decision;

const PROPERTY: &str = "the outcome of a condition is that of the true order";

/// See the module.
#[derive(Default)]
pub(crate) struct Conditions {
    /// The conditions on which an entry was ever offered, where there were any but none: a client that comes back may ask for
    /// another, and whichever comes first counts.
    asked: BTreeMap<(u128, u64), Vec<Condition>>,
    told: u64,
}

impl Conditions {
    /// A client offers an entry, for the first time or again.
    pub(crate) fn offered(&mut self, id: u128, client_seq: u64, condition: Condition) {
        if !condition.is_none() || self.asked.contains_key(&(id, client_seq)) {
            self.asked.entry((id, client_seq)).or_default().push(condition);
        }
    }

    /// A value is applied for the first time.
    pub(crate) fn applied(&self, value: &[u8]) -> Checked {
        let Ok(batch) = Batch::parse(value) else { return violated(PROPERTY, "an applied value is no batch") };
        for run in batch.runs().filter(|run| !run.condition().is_none()) {
            for client_seq in run.first_seq()..run.first_seq() + run.len() {
                let condition = run.condition();
                let asked = self.asked.get(&(run.client_id(), client_seq)).map_or(&[][..], Vec::as_slice);
                let same = |asked: &Condition| {
                    asked.match_sequence.map(|tail| tail.0) == condition.matches()
                        && asked.fence.map(std::num::NonZeroU64::get) == condition.token()
                };
                if !asked.iter().any(same) {
                    let id = run.client_id();
                    return violated(
                        PROPERTY,
                        format!("{client_seq} of {id:x} is logged on {condition:?}, not as offered"),
                    );
                }
            }
        }
        Ok(())
    }

    /// Somebody is told that entries were not appended.
    pub(crate) fn told(&mut self, sessions: &Sessions, id: u128, first: u64, entries: u64, unmet: Unmet) -> Checked {
        let told = match unmet {
            Unmet::TailMoved { tail } => (Decision::TailMoved, tail.0),
            Unmet::Fenced { highest } => (Decision::Fenced, highest),
        };
        for client_seq in first..first + entries {
            let decided = sessions.decided(id, client_seq);
            if decided.map(|Decided { decision, value, .. }| (decision, value)) != Some(told) {
                return violated(
                    PROPERTY,
                    format!("{client_seq} of {id:x} is told {told:?}, but the order decided {decided:?}"),
                );
            }
        }
        self.told += entries;
        Ok(())
    }

    /// Entries whose refusal was told.
    pub(crate) fn count(&self) -> u64 {
        self.told
    }
}
