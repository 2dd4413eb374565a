//! Each (session, client sequence) takes effect once, in the session's order, with the bytes that were offered (S6, S7);
//! every node's state machine agrees with a second, simpler one that is fed the chosen values.
//!
//! Besides tail and timestamp the whole table of sessions is compared: nodes whose state machines drifted apart (44) would
//! say so nowhere else, as long as the product has no hash of its state.
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
/// A table of so many sessions is compared after every slot, a longer one now and then.
const FEW_SESSIONS: usize = 16;
/// How often then.
const SPARSE_SLOTS: u64 = 64;

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
    tails: Vec<After>,
    /// What the sessions add up to now.
    digest: u64,
}

/// The state after a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct After {
    tail: u64,
    timestamp_ns: u64,
    digest: u64,
}

/// What a session adds to the digest of all: they are combined by XOR, so their order does not matter.
fn digest(id: u128, last_seq: u64, last_used: Slot) -> u64 {
    let words = [id as u64, (id >> 64) as u64, last_seq, last_used.0];
    words.iter().fold(0x9e37_79b9_7f4a_7c15, |hash: u64, word| {
        let mixed = (hash ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 29)
    })
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
            digest: 0,
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
            self.digest ^= digest(id, session.last_seq, session.last_used);
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
            self.digest ^= digest(id, session.last_seq, session.last_used);
        }
        let tail = self.entries.len() as u64;
        self.tails.push(After { tail, timestamp_ns: self.timestamp_ns, digest: self.digest });
        Ok(())
    }

    fn open(&mut self, slot: Slot, id: u128) {
        if let Some(session) = self.sessions.get_mut(&id) {
            self.digest ^= digest(id, session.last_seq, session.last_used) ^ digest(id, session.last_seq, slot);
            session.last_used = slot;
            return;
        }
        if self.sessions.len() == MAX_SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(id, session)| (session.last_used, **id)).map(|(id, _)| *id);
            if let Some((id, evicted)) = oldest.and_then(|id| self.sessions.remove_entry(&id)) {
                self.digest ^= digest(id, evicted.last_seq, evicted.last_used);
            }
        }
        self.digest ^= digest(id, 0, slot);
        self.sessions.insert(id, Session { last_seq: 0, last_used: slot });
    }

    /// A node's state machine after `applied`.
    pub(crate) fn agrees(&self, node: usize, applied: Slot, machine: &Sequencer) -> Checked {
        let after = match applied {
            Slot::ZERO => After::default(),
            Slot(slot) => match self.tails.get(slot as usize - 1) {
                Some(state) => *state,
                None => {
                    return violated(PROPERTY, format!("n{node} has applied slot {slot}, which nobody saw applied"));
                }
            },
        };
        let mut is = After { tail: machine.tail().0, timestamp_ns: machine.last_timestamp_ns(), ..after };
        if machine.sessions() <= FEW_SESSIONS || applied.0.is_multiple_of(SPARSE_SLOTS) {
            is.digest = machine.table().fold(0, |sum, (id, last_seq, last_used)| sum ^ digest(id, last_seq, last_used));
        }
        if is == after {
            return Ok(());
        }
        violated("all apply the same", format!("n{node} after slot {applied}: {is:?}, expected {after:?}"))
    }

    /// Whether a session exists, after all that was applied anywhere.
    pub(crate) fn has(&self, id: u128) -> bool {
        self.sessions.contains_key(&id)
    }

    /// The answers that a node's state machine keeps are the true places of what they answer.
    pub(crate) fn answers_are_true(&self, node: usize, machine: &Sequencer) -> Checked {
        let mut ids: Vec<u128> = machine.table().map(|(id, ..)| id).collect();
        ids.sort_unstable();
        for id in ids {
            for answer in machine.answers(id, 1, u64::MAX) {
                for at in [0, answer.entries - 1] {
                    let entry = self.entries.get((answer.first_sequence.0 + at) as usize - 1);
                    let is = entry.map(|entry| (entry.client_id, entry.client_seq, entry.timestamp_ns));
                    if is != Some((id, answer.first_seq + at, answer.timestamp_ns)) {
                        return violated("all apply the same", format!("n{node} would answer {answer:?} to {id:x}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// The last client sequence of an open session that is applied.
    pub(crate) fn last_seq(&self, client_id: u128) -> Option<u64> {
        self.sessions.get(&client_id).map(|session| session.last_seq)
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
