//! Each (session, client sequence) takes effect once, in the session's order, with the bytes that were offered (S6, S7);
//! every node's state machine agrees with a second, simpler one that is fed the chosen values.
//!
//! Besides tail and timestamp the whole table of sessions is compared: nodes whose state machines drifted apart (44) would
//! say so nowhere else, as long as the product has no hash of its state.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), 6.3, and SEMANTICS: an entry is sequenced if and
//! only if its session, told from others of its client by the number of its opening, is open, its client sequence is the next,
//! and its condition, if it has one, is met at its place in the order.

use super::{Checked, violated};
use crate::payload::Payloads;
use std::collections::BTreeMap;
use synod::sequencer::{Answer, MAX_SESSIONS, SESSION_IDLE_NS, Sequencer, SessionRow};
use synod_wire::Slot;
use synod_wire::batch::{Batch, Run, open};
use synod_wire::client::Decision;

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

/// What was decided about an entry that was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) decision: Decision,
    pub(crate) value: u64,
    pub(crate) timestamp_ns: u64,
}

/// See the module.
pub(crate) struct Sessions {
    payloads: Payloads,
    sessions: BTreeMap<u128, SessionRow>,
    /// Sessions opened so far.
    opened: u64,
    /// Sessions that rested for too long.
    rested: u64,
    /// The highest token seen.
    fence: u64,
    /// Entries that were not appended, by session's id and client sequence.
    refused: BTreeMap<(u128, u64), Decided>,
    entries: Vec<Entry>,
    /// Entries below this sequence were trimmed.
    first: u64,
    /// The highest client sequence ever decided on under an id, in whatever session of that id: no client of the simulator uses
    /// the id of a session that is gone for anything else.
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
    fence: u64,
    opened: u64,
    first: u64,
    digest: u64,
}

/// What a session adds to the digest of all: they are combined by XOR, so their order does not matter.
fn digest(row: &SessionRow) -> u64 {
    let id = row.client_id;
    let words = [id as u64, (id >> 64) as u64, row.number, row.last_seq, row.last_used.0, row.last_used_ns];
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
            opened: 0,
            rested: 0,
            fence: 0,
            refused: BTreeMap::new(),
            entries: Vec::new(),
            first: 1,
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
            self.rest();
        }
        for run in batch.runs() {
            if let Some(before) = run.trims_before() {
                self.first = before.0.clamp(self.first, self.first.max(self.entries.len() as u64 + 1));
            } else if run.opens_session() {
                self.open(slot, &run);
            } else {
                self.append(slot, &run)?;
            }
        }
        let (tail, timestamp_ns) = (self.entries.len() as u64, self.timestamp_ns);
        self.tails.push(After {
            tail,
            timestamp_ns,
            fence: self.fence,
            opened: self.opened,
            first: self.first,
            digest: self.digest,
        });
        Ok(())
    }

    /// Sessions that were last used too long ago by the log's time are gone.
    fn rest(&mut self) {
        let is_over = |row: &&SessionRow| row.last_used_ns + SESSION_IDLE_NS < self.timestamp_ns;
        let over: Vec<SessionRow> = self.sessions.values().filter(is_over).copied().collect();
        for row in over {
            self.remove(&row);
            self.rested += 1;
        }
    }

    fn remove(&mut self, row: &SessionRow) {
        self.digest ^= digest(row);
        self.sessions.remove(&row.client_id);
    }

    /// A session as it is now, used or not.
    fn put(&mut self, row: SessionRow) {
        if let Some(before) = self.sessions.insert(row.client_id, row) {
            self.digest ^= digest(&before);
        }
        self.digest ^= digest(&row);
    }

    fn open(&mut self, slot: Slot, run: &Run<'_>) {
        let (client_id, wanted) = (run.client_id(), run.session());
        let row = self.sessions.get(&client_id).copied();
        let found = row.filter(|row| wanted == open::OR_CREATE || wanted == open::EXISTING || wanted == row.number);
        if let Some(row) = found {
            return self.put(SessionRow { last_used: slot, last_used_ns: self.timestamp_ns, ..row });
        }
        if wanted != open::OR_CREATE {
            return;
        }
        if self.sessions.len() == MAX_SESSIONS {
            let oldest = self.sessions.values().min_by_key(|row| (row.last_used, row.client_id)).copied();
            oldest.iter().for_each(|row| self.remove(row));
        }
        self.opened += 1;
        let (number, last_used_ns) = (self.opened, self.timestamp_ns);
        self.put(SessionRow { client_id, number, last_seq: 0, last_used: slot, last_used_ns });
    }

    fn append(&mut self, slot: Slot, run: &Run<'_>) -> Checked {
        let id = run.client_id();
        let row = self.sessions.get(&id).filter(|row| row.number == run.session()).copied();
        let Some(mut row) = row else { return Ok(()) };
        (row.last_used, row.last_used_ns) = (slot, self.timestamp_ns);
        for (client_seq, entry) in (run.first_seq()..).zip(run.entries()) {
            if client_seq != row.last_seq + 1 {
                continue;
            }
            row.last_seq = client_seq;
            self.take(slot, run, client_seq, entry)?;
        }
        self.put(row);
        Ok(())
    }

    /// The next entry of a session: it gets a place, or is refused.
    fn take(&mut self, slot: Slot, run: &Run<'_>, client_seq: u64, entry: &[u8]) -> Checked {
        let id = run.client_id();
        // A session takes its entries one by one: what was not decided on before lies above the highest.
        let highest = self.sequenced.entry(id).or_default();
        if std::mem::replace(highest, client_seq.max(*highest)) >= client_seq {
            return violated(PROPERTY, format!("entry {client_seq} of session {id:x} was sequenced twice"));
        }
        if !self.payloads.is(id, client_seq, entry) {
            return violated(
                "nothing corrupt served",
                format!("entry {client_seq} of session {id:x} is not what was offered (slot {slot})"),
            );
        }
        let (condition, tail, timestamp_ns) = (run.condition(), self.entries.len() as u64, self.timestamp_ns);
        let token = condition.token().unwrap_or(u64::MAX);
        if token < self.fence {
            let fenced = Decided { decision: Decision::Fenced, value: self.fence, timestamp_ns };
            self.refused.insert((id, client_seq), fenced);
            return Ok(());
        }
        self.fence = condition.token().unwrap_or(self.fence);
        if condition.matches().is_some_and(|wanted| wanted != tail) {
            let moved = Decided { decision: Decision::TailMoved, value: tail, timestamp_ns };
            self.refused.insert((id, client_seq), moved);
            return Ok(());
        }
        self.entries.push(Entry { client_id: id, client_seq, slot, timestamp_ns });
        Ok(())
    }

    /// The tail after a slot that somebody has applied.
    pub(crate) fn tail_after(&self, slot: Slot) -> Option<u64> {
        self.tails.get(slot.0.checked_sub(1)? as usize).map(|after| after.tail)
    }

    /// The first sequence that was not trimmed.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// A node's state machine after `applied`.
    pub(crate) fn agrees(&self, node: usize, applied: Slot, machine: &Sequencer) -> Checked {
        let after = match applied {
            Slot::ZERO => After { first: 1, ..After::default() },
            Slot(slot) => match self.tails.get(slot as usize - 1) {
                Some(state) => *state,
                None => {
                    return violated(PROPERTY, format!("n{node} has applied slot {slot}, which nobody saw applied"));
                }
            },
        };
        let (tail, timestamp_ns) = (machine.tail().0, machine.last_timestamp_ns());
        let mut is = After {
            tail,
            timestamp_ns,
            fence: machine.fence(),
            opened: machine.opened(),
            first: machine.first().0,
            ..after
        };
        if machine.sessions() <= FEW_SESSIONS || applied.0.is_multiple_of(SPARSE_SLOTS) {
            is.digest = machine.table().fold(0, |sum, row| sum ^ digest(&row));
        }
        if is == after {
            return Ok(());
        }
        violated("all apply the same", format!("n{node} after slot {applied}: {is:?}, expected {after:?}"))
    }

    /// Whether a client's session of this number exists, after all that was applied anywhere.
    pub(crate) fn has(&self, id: u128, number: u64) -> bool {
        self.sessions.get(&id).is_some_and(|row| row.number == number)
    }

    /// What was decided about an entry, if it was not appended.
    pub(crate) fn decided(&self, id: u128, client_seq: u64) -> Option<Decided> {
        self.refused.get(&(id, client_seq)).copied()
    }

    /// Sessions that rested for too long by the log's time.
    pub(crate) fn rested(&self) -> u64 {
        self.rested
    }

    /// The answers that a node's state machine keeps are the true places of what they answer.
    pub(crate) fn answers_are_true(&self, node: usize, machine: &Sequencer) -> Checked {
        let mut ids: Vec<u128> = machine.table().map(|row| row.client_id).collect();
        ids.sort_unstable();
        for id in ids {
            for answer in machine.answers(id, 1, u64::MAX) {
                if ![0, answer.entries - 1].iter().all(|at| self.is_true(id, &answer, *at)) {
                    return violated("all apply the same", format!("n{node} would answer {answer:?} to {id:x}"));
                }
            }
        }
        Ok(())
    }

    /// Whether an answer says of one of its entries what was decided.
    fn is_true(&self, id: u128, answer: &Answer, at: u64) -> bool {
        let client_seq = answer.first_seq + at;
        if let Some(first) = answer.first_sequence() {
            let entry = self.entries.get((first.0 + at) as usize - 1);
            let is = entry.map(|entry| (entry.client_id, entry.client_seq, entry.timestamp_ns));
            return is == Some((id, client_seq, answer.timestamp_ns));
        }
        let Answer { decision, value, timestamp_ns, .. } = *answer;
        self.decided(id, client_seq) == Some(Decided { decision, value, timestamp_ns })
    }

    /// The highest client sequence that was decided on under an id: what an answer may say that was sent before its session went.
    pub(crate) fn last_seq(&self, client_id: u128) -> Option<u64> {
        self.sequenced.get(&client_id).copied()
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
