//! Each (session, client sequence) takes effect once, in the session's order, with the bytes that were offered (S6, S7);
//! every node's state machine agrees with a second, simpler one that is fed the chosen values.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), 6.3, and SEMANTICS: an entry is sequenced if and
//! only if its session is open and its client sequence is the next.

use super::{Checked, violated};
use crate::payload::Payloads;
use std::collections::BTreeMap;
use synod::sequencer::{MAX_SESSIONS, Sequencer};
use synod_wire::Slot;
use synod_wire::batch::Batch;

const PROPERTY: &str = "each entry once, first in first out";

/// An entry of the total order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) client_id: u128,
    pub(crate) client_seq: u64,
    pub(crate) slot: Slot,
    pub(crate) timestamp_ns: u64,
}

#[derive(Clone, Copy)]
struct Session {
    last_seq: u64,
    last_used: Slot,
}

/// See the module.
pub(crate) struct Sessions {
    payloads: Payloads,
    sessions: BTreeMap<u128, Session>,
    entries: Vec<Entry>,
    /// The highest client sequence ever sequenced under an id, in whatever session of that id.
    sequenced: BTreeMap<u128, u64>,
    timestamp_ns: u64,
    /// The tail after each slot, from slot 1.
    tails: Vec<(u64, u64)>,
}

impl Sessions {
    pub(crate) fn new(payloads: Payloads) -> Sessions {
        Sessions {
            payloads,
            sessions: BTreeMap::new(),
            entries: Vec::new(),
            sequenced: BTreeMap::new(),
            timestamp_ns: 0,
            tails: Vec::new(),
        }
    }

    /// Feeds the model the next slot's value.
    pub(crate) fn apply(&mut self, slot: Slot, value: &[u8]) -> Checked {
        let Ok(batch) = Batch::parse(value) else {
            return violated(PROPERTY, format!("the value of slot {slot} is no batch"));
        };
        if !batch.is_noop() {
            self.timestamp_ns = self.timestamp_ns.max(batch.header.timestamp_ns.get());
        }
        for run in batch.runs() {
            let id = run.client_id();
            if run.opens_session() {
                self.open(slot, id);
                continue;
            }
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            session.last_used = slot;
            let highest = self.sequenced.entry(id).or_default();
            for (client_seq, entry) in (run.first_seq()..).zip(run.entries()) {
                if client_seq != session.last_seq + 1 {
                    continue;
                }
                session.last_seq = client_seq;
                // A session takes its entries one by one: what was not sequenced before lies above the highest.
                if std::mem::replace(highest, client_seq.max(*highest)) >= client_seq {
                    return violated(PROPERTY, format!("entry {client_seq} of session {id:x} was sequenced twice"));
                }
                if !self.payloads.is(id, client_seq, entry) {
                    return violated(
                        "nothing corrupt served",
                        format!("entry {client_seq} of session {id:x} is not what was offered (slot {slot})"),
                    );
                }
                self.entries.push(Entry { client_id: id, client_seq, slot, timestamp_ns: self.timestamp_ns });
            }
        }
        self.tails.push((self.entries.len() as u64, self.timestamp_ns));
        Ok(())
    }

    fn open(&mut self, slot: Slot, id: u128) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.last_used = slot;
            return;
        }
        if self.sessions.len() == MAX_SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(id, session)| (session.last_used, **id)).map(|(id, _)| *id);
            oldest.map(|id| self.sessions.remove(&id));
        }
        self.sessions.insert(id, Session { last_seq: 0, last_used: slot });
    }

    /// A node's state machine after `applied`.
    pub(crate) fn agrees(&self, node: usize, applied: Slot, machine: &Sequencer) -> Checked {
        let (tail, timestamp_ns) = match applied {
            Slot::ZERO => (0, 0),
            Slot(slot) => match self.tails.get(slot as usize - 1) {
                Some(state) => *state,
                None => {
                    return violated(PROPERTY, format!("n{node} has applied slot {slot}, which nobody saw applied"));
                }
            },
        };
        if (machine.tail().0, machine.last_timestamp_ns()) == (tail, timestamp_ns) {
            return Ok(());
        }
        let detail = format!(
            "n{node} after slot {applied}: tail {} at {} ns, expected {tail} at {timestamp_ns} ns",
            machine.tail(),
            machine.last_timestamp_ns()
        );
        violated(PROPERTY, detail)
    }

    /// The total order so far.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes of every entry.
    pub(crate) fn payloads(&self) -> &Payloads {
        &self.payloads
    }
}
