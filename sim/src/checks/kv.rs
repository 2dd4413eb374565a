//! Every node's key-value map is the fold of the chosen commands, and what a map says to a client is what that fold is in the
//! state which the reply names (S4, S5).
//!
//! Source: Schneider, "Implementing fault-tolerant services using the state machine approach" (1990): replicas that start alike
//! and take the same commands in the same order are alike. With `fresh.rs`, which bounds from below the state that a reply may
//! name, and `heard` (no state beyond what was applied), this makes a get at read-index linearizable.
//!
//! The fold here is a second one, over what clients offered: it shares the outcomes' names with the product, and no code that
//! parses, applies or bounds. Nodes are compared by their snapshots, restored.

use super::sessions::Entry;
use super::{Checked, SIMULATOR, Violation, violated};
use crate::node::KV_LIMITS;
use crate::payload::{Effect, KEYS, Key, Payloads, VALUE_AT};
use crate::plan::Plan;
use std::collections::BTreeMap;
use synod::machine::StateMachine;
use synod::machine::kv::{ENTRY_OVERHEAD_BYTES, KvMap};
use synod_wire::frame::checksum;
use synod_wire::kv::{Answer, Outcome, Question};
use synod_wire::{Sequence, Slot};

const PROPERTY: &str = "maps are the fold of the log";

/// What a client asked a map.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Get(Key),
    Outcome(u64),
}

/// A key's value: the sequence that wrote it, and the checksum of its bytes.
type Value = Option<(u64, u32)>;

/// See the module.
pub(crate) struct Maps {
    kv: bool,
    /// For each key, what each command that changed it made of it, in order.
    history: Vec<Vec<(u64, Value)>>,
    /// Of every entry, from sequence 1.
    outcomes: Vec<Outcome>,
    /// What the values count.
    bytes: [usize; KEYS as usize],
    /// The last sequence after each slot, from slot 1.
    tails: Vec<u64>,
    asked: BTreeMap<(usize, u64), Asked>,
    /// Kept for its memory.
    snapshot: Vec<u8>,
}

impl Maps {
    pub(crate) fn new(plan: &Plan) -> Maps {
        Maps {
            kv: plan.kv,
            history: vec![Vec::new(); KEYS as usize],
            outcomes: Vec::new(),
            bytes: [0; KEYS as usize],
            tails: Vec::new(),
            asked: BTreeMap::new(),
            snapshot: Vec::new(),
        }
    }

    /// Folds the entries of the next slot.
    pub(crate) fn apply(&mut self, entries: &[Entry], payloads: &Payloads) {
        if !self.kv {
            return;
        }
        let mut bytes = Vec::new();
        for entry in entries {
            let sequence = self.outcomes.len() as u64 + 1;
            let outcome = match payloads.effect(entry.client_id, entry.client_seq) {
                Effect::Noise => Outcome::Malformed,
                Effect::Delete(key) => self.delete(sequence, key),
                Effect::Put(key) => {
                    payloads.write(entry.client_id, entry.client_seq, &mut bytes);
                    self.put(sequence, key, &bytes[VALUE_AT..])
                }
            };
            self.outcomes.push(outcome);
        }
        self.tails.push(self.outcomes.len() as u64);
    }

    fn put(&mut self, sequence: u64, key: Key, value: &[u8]) -> Outcome {
        let at = key.0 as usize;
        let counts = ENTRY_OVERHEAD_BYTES + key.bytes().len() + value.len();
        let others: usize = self.bytes.iter().sum::<usize>() - self.bytes[at];
        if others + counts > KV_LIMITS.state_bytes {
            return Outcome::Full;
        }
        let previous = self.value(key, sequence).map(|(version, _)| Sequence(version));
        self.bytes[at] = counts;
        self.history[at].push((sequence, Some((sequence, checksum(value)))));
        Outcome::Stored { previous }
    }

    fn delete(&mut self, sequence: u64, key: Key) -> Outcome {
        let at = key.0 as usize;
        let Some((version, _)) = self.value(key, sequence) else { return Outcome::Absent };
        self.bytes[at] = 0;
        self.history[at].push((sequence, None));
        Outcome::Deleted { previous: Sequence(version) }
    }

    /// The key's value after the entries up to `sequence`.
    fn value(&self, key: Key, sequence: u64) -> Value {
        let changes = &self.history[key.0 as usize];
        let before = changes.partition_point(|(at, _)| *at <= sequence);
        changes[..before].last().and_then(|(_, value)| *value)
    }

    /// What is known of an entry's outcome after the entries up to `applied`.
    fn outcome(&self, sequence: u64, applied: u64) -> Option<Outcome> {
        let oldest = applied.saturating_sub(KV_LIMITS.outcomes as u64);
        let kept = oldest < sequence && sequence <= applied;
        kept.then(|| self.outcomes[sequence as usize - 1])
    }

    /// A node's machine after `applied`.
    pub(crate) fn agrees(&mut self, node: usize, applied: Slot, machine: Option<&dyn StateMachine>) -> Checked {
        if !self.kv {
            return Ok(());
        }
        let Some(machine) = machine else { return violated(SIMULATOR, format!("n{node} has no map")) };
        let Some(tail) = applied.0.checked_sub(1).map_or(Some(0), |at| self.tails.get(at as usize).copied()) else {
            return violated(PROPERTY, format!("n{node} has applied slot {applied}, which nobody saw applied"));
        };
        self.snapshot.clear();
        machine.snapshot(&mut self.snapshot);
        let mut map = KvMap::with_limits(KV_LIMITS);
        if let Err(error) = map.restore(&self.snapshot) {
            return violated(PROPERTY, format!("n{node} after slot {applied}: {error}"));
        }
        let mut is: Vec<(&[u8], u64, u32)> =
            map.entries().map(|(key, version, value)| (key, version.0, checksum(value))).collect();
        is.sort_unstable();
        let keys: Vec<[u8; 8]> = (0..KEYS).map(|key| Key(key).bytes()).collect();
        let expected = (0..KEYS).filter_map(|key| {
            let (version, crc) = self.value(Key(key), tail)?;
            Some((&keys[key as usize][..], version, crc))
        });
        let expected: Vec<(&[u8], u64, u32)> = expected.collect();
        if is != expected {
            return violated(PROPERTY, format!("n{node} after slot {applied}: {is:?}, expected {expected:?}"));
        }
        let first = tail.saturating_sub(KV_LIMITS.outcomes as u64) + 1;
        let kept = (first..=tail).map(|sequence| (Sequence(sequence), self.outcomes[sequence as usize - 1]));
        if map.outcomes().eq(kept) {
            return Ok(());
        }
        let is: Vec<_> = map.outcomes().collect();
        violated(
            PROPERTY,
            format!("n{node} after slot {applied}: outcomes {is:?}, expected those from {first} to {tail}"),
        )
    }

    /// A client asks a node's map.
    pub(crate) fn asked(&mut self, request: (usize, u64), question: &Question<'_>) {
        let asked = match *question {
            Question::Get(key) => {
                let number = key.try_into().map(u64::from_be_bytes).expect("a key of this run");
                Asked::Get(Key(number))
            }
            Question::Outcome(sequence) => Asked::Outcome(sequence.0),
        };
        self.asked.insert(request, asked);
    }

    /// A node answers it from the state that `applied` names. True: it was asked for an outcome.
    pub(crate) fn told(
        &self,
        (log, payloads): (&[Entry], &Payloads),
        request: (usize, u64),
        node: usize,
        applied: u64,
        answer: &[u8],
    ) -> Result<bool, Violation> {
        let Some(asked) = self.asked.get(&request).copied() else {
            return violated("answers have questions", format!("n{node} answers {request:?}, which nobody asked"));
        };
        let said = Answer::parse(answer);
        let (right, is_outcome) = match (asked, said) {
            (Asked::Get(key), Ok(Answer::NoValue)) => (self.value(key, applied).is_none(), false),
            (Asked::Get(key), Ok(Answer::Value { version, bytes })) => {
                let is = self.value(key, applied) == Some((version.0, checksum(bytes)));
                (is && is_value_of(log, payloads, version, bytes), false)
            }
            // It was to be asked of a state that holds the entry.
            (Asked::Outcome(sequence), Ok(Answer::Outcome(outcome))) => {
                (self.outcome(sequence, applied) == Some(outcome), true)
            }
            (Asked::Outcome(sequence), Ok(Answer::NoOutcome)) => {
                (sequence <= applied && self.outcome(sequence, applied).is_none(), true)
            }
            _ => (false, false),
        };
        if right {
            return Ok(is_outcome);
        }
        violated("maps say what they hold", format!("n{node} answers {asked:?} after sequence {applied} with {said:?}"))
    }
}

/// Whether these bytes are what the entry with that sequence put.
fn is_value_of(log: &[Entry], payloads: &Payloads, version: Sequence, bytes: &[u8]) -> bool {
    let entry = (version.0 as usize).checked_sub(1).and_then(|at| log.get(at));
    entry.is_some_and(|entry| {
        let mut written = Vec::new();
        payloads.write(entry.client_id, entry.client_seq, &mut written);
        written.get(VALUE_AT..) == Some(bytes)
    })
}
