//! The key-value map: puts and deletes from the log, gets from the state. Commands, questions and answers are
//! [`synod_wire::kv`]'s; an entry that is no command changes nothing and has the outcome `malformed`.
//!
//! Bounded: keys and values by the format, the map by [`Limits`]: a put that would pass them has the outcome `full`, and the
//! map stays as it was. A value that is put again under its key takes its place in memory; a new key allocates. The index has its
//! full size from the start: a table that grows stands still meanwhile, and the group with it.
//!
//! Entries stand in an order that follows from the commands alone, the same at every member whatever its hashes are: a new key comes
//! last, and the last one takes the place of one that is deleted.
//!
//! # Snapshot
//! All little-endian: entries (u64), outcomes (u64); each entry: version (u64), key bytes (u16), value bytes (u16), key, value, in
//! their order in the map; each outcome: sequence (u64), number (u8), version (u64), in the order of the sequences.

use super::{BadQuestion, BadSnapshot, Entry, StateMachine};
use indexmap::IndexMap;
use indexmap::map::Entry as Place;
use std::collections::VecDeque;
use synod_ring::give_way;
use synod_wire::Sequence;
use synod_wire::kv::{Answer, Command, MAX_KEY_BYTES, MAX_VALUE_BYTES, Outcome, Question};
use zerocopy::IntoBytes;

/// What an entry of the map counts beyond its key and value: about what its place, its share of the index and two allocations take.
pub const ENTRY_OVERHEAD_BYTES: usize = 128;
/// What all entries may count together.
pub const MAX_STATE_BYTES: usize = 64 << 20;
/// Outcomes that are kept for those who ask: of the last so many entries. As many as four sessions may have in flight.
pub const MAX_OUTCOMES: usize = 4_096;

/// Entries that are restored, written or dropped before others may have the core.
const ENTRIES_AT_ONCE: usize = 64;

/// In a snapshot: what stands in front of a key and its value, and an outcome.
const ENTRY_HEAD_BYTES: usize = size_of::<u64>() + 2 * size_of::<u16>();
const OUTCOME_ROW_BYTES: usize = 2 * size_of::<u64>() + size_of::<u8>();

/// Bytes of one in memory.
pub const OUTCOME_BYTES: usize = size_of::<(Sequence, Outcome)>();

/// The bounds of a map. Part of the machine: all members of a group have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What all entries may count together: key, value and [`ENTRY_OVERHEAD_BYTES`] each.
    pub state_bytes: usize,
    /// Outcomes that are kept.
    pub outcomes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { state_bytes: MAX_STATE_BYTES, outcomes: MAX_OUTCOMES }
    }
}

/// A value and the sequence of the put that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    version: Sequence,
    bytes: Vec<u8>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvMap {
    limits: Limits,
    /// Hashed with the standard library's keyed function: clients choose the keys.
    entries: IndexMap<Box<[u8]>, Value>,
    /// What the entries count.
    state_bytes: usize,
    outcomes: VecDeque<(Sequence, Outcome)>,
}

impl Default for KvMap {
    fn default() -> KvMap {
        KvMap::with_limits(Limits::default())
    }
}

fn counted_bytes(key: &[u8], value: &[u8]) -> usize {
    ENTRY_OVERHEAD_BYTES + key.len() + value.len()
}

impl KvMap {
    /// An empty map with the bounds of a group whose configuration names it.
    pub fn new() -> KvMap {
        KvMap::default()
    }

    /// An empty map with other bounds, for a program that embeds it. Room for the index of all that may be held is taken here, some
    /// 75 bytes for each [`ENTRY_OVERHEAD_BYTES`] of `state_bytes`, most of it only as it is used.
    pub fn with_limits(limits: Limits) -> KvMap {
        let most = limits.state_bytes / counted_bytes(b"k", b"");
        let outcomes = VecDeque::with_capacity(limits.outcomes);
        KvMap { limits, entries: IndexMap::with_capacity(most), state_bytes: 0, outcomes }
    }

    /// The version and the value of a key.
    pub fn get(&self, key: &[u8]) -> Option<(Sequence, &[u8])> {
        self.entries.get(key).map(|value| (value.version, &value.bytes[..]))
    }

    /// All entries in their order in the map (see the module): key, version, value.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], Sequence, &[u8])> {
        self.entries.iter().map(|(key, value)| (&key[..], value.version, &value.bytes[..]))
    }

    /// The outcomes that are kept, in the order of their sequences.
    pub fn outcomes(&self) -> impl Iterator<Item = (Sequence, Outcome)> {
        self.outcomes.iter().copied()
    }

    /// What became of the command with this sequence, if that is still known.
    pub fn outcome(&self, sequence: Sequence) -> Option<Outcome> {
        let at = self.outcomes.binary_search_by_key(&sequence, |(of, _)| *of).ok()?;
        Some(self.outcomes[at].1)
    }

    /// What the entries count, of [`Limits::state_bytes`].
    pub fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    fn snapshot_bytes(&self) -> usize {
        let entries = self.state_bytes - self.entries.len() * ENTRY_OVERHEAD_BYTES;
        2 * size_of::<u64>() + entries + self.entries.len() * ENTRY_HEAD_BYTES + self.outcomes.len() * OUTCOME_ROW_BYTES
    }

    fn put(&mut self, sequence: Sequence, key: &[u8], value: &[u8]) -> Outcome {
        let before = self.entries.get_mut(key);
        let freed = before.as_ref().map_or(0, |old| counted_bytes(key, &old.bytes));
        let state_bytes = self.state_bytes - freed + counted_bytes(key, value);
        if state_bytes > self.limits.state_bytes {
            return Outcome::Full;
        }
        self.state_bytes = state_bytes;
        match before {
            Some(old) => {
                let previous = std::mem::replace(&mut old.version, sequence);
                old.bytes.clear();
                old.bytes.extend_from_slice(value);
                Outcome::Stored { previous: Some(previous) }
            }
            None => {
                self.entries.insert(key.into(), Value { version: sequence, bytes: value.to_vec() });
                Outcome::Stored { previous: None }
            }
        }
    }

    fn delete(&mut self, key: &[u8]) -> Outcome {
        let Some(old) = self.entries.swap_remove(key) else { return Outcome::Absent };
        self.state_bytes -= counted_bytes(key, &old.bytes);
        Outcome::Deleted { previous: old.version }
    }

    fn remember(&mut self, sequence: Sequence, outcome: Outcome) {
        if self.outcomes.len() >= self.limits.outcomes {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((sequence, outcome));
    }
}

impl StateMachine for KvMap {
    fn apply(&mut self, entry: &Entry<'_>) {
        let outcome = match Command::parse(entry.payload) {
            Ok(Command::Put { key, value }) => self.put(entry.sequence, key, value),
            Ok(Command::Delete { key }) => self.delete(key),
            Err(_) => Outcome::Malformed,
        };
        self.remember(entry.sequence, outcome);
    }

    fn query(&self, question: &[u8], answer: &mut Vec<u8>) -> Result<(), BadQuestion> {
        let told = match Question::parse(question).map_err(|_| BadQuestion)? {
            Question::Get(key) => {
                self.get(key).map_or(Answer::NoValue, |(version, bytes)| Answer::Value { version, bytes })
            }
            Question::Outcome(sequence) => self.outcome(sequence).map_or(Answer::NoOutcome, Answer::Outcome),
        };
        let (head, value) = told.encode();
        answer.extend_from_slice(head.as_bytes());
        answer.extend_from_slice(value);
        Ok(())
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.reserve(self.snapshot_bytes());
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.outcomes.len() as u64).to_le_bytes());
        for (number, (key, version, value)) in self.entries().enumerate() {
            if number.is_multiple_of(ENTRIES_AT_ONCE) {
                give_way();
            }
            out.extend_from_slice(&version.0.to_le_bytes());
            out.extend_from_slice(&(key.len() as u16).to_le_bytes());
            out.extend_from_slice(&(value.len() as u16).to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value);
        }
        for (sequence, outcome) in self.outcomes() {
            let (number, version) = outcome.encode();
            out.extend_from_slice(&sequence.0.to_le_bytes());
            out.push(number);
            out.extend_from_slice(&version.to_le_bytes());
        }
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), BadSnapshot> {
        *self = Restored { rest: snapshot }.map(self.limits).map_err(|what| BadSnapshot(what.to_owned()))?;
        Ok(())
    }
}

/// As it was restored: a piece at a time.
impl Drop for KvMap {
    fn drop(&mut self) {
        while !self.entries.is_empty() {
            self.entries.truncate(self.entries.len().saturating_sub(ENTRIES_AT_ONCE));
            give_way();
        }
    }
}

/// A snapshot that is being read.
struct Restored<'a> {
    rest: &'a [u8],
}

const CUT: &str = "it ends too soon";

impl<'a> Restored<'a> {
    fn map(mut self, limits: Limits) -> Result<KvMap, &'static str> {
        let mut map = KvMap::with_limits(limits);
        let (entries, outcomes) = (self.word()?, self.word()?);
        for number in 0..entries as usize {
            if number.is_multiple_of(ENTRIES_AT_ONCE) {
                give_way();
            }
            let version = Sequence(self.word()?);
            let (key_bytes, value_bytes) = (self.half()?, self.half()?);
            let (key, value) = (self.bytes(key_bytes)?, self.bytes(value_bytes)?);
            if !(1..=MAX_KEY_BYTES).contains(&key_bytes) || value_bytes > MAX_VALUE_BYTES {
                return Err("a key or value has not an allowed length");
            }
            map.state_bytes += counted_bytes(key, value);
            if map.state_bytes > limits.state_bytes {
                return Err("it holds more than this machine may");
            }
            match map.entries.entry(key.into()) {
                Place::Vacant(place) if version != Sequence::ZERO => {
                    place.insert(Value { version, bytes: value.to_vec() });
                }
                _ => return Err("a key stands in it twice, or has no version"),
            }
        }
        for _ in 0..outcomes {
            let sequence = Sequence(self.word()?);
            let number = self.bytes(1)?[0];
            let outcome = Outcome::decode(number, self.word()?).ok_or("an outcome has no name")?;
            let in_order = map.outcomes.back().is_none_or(|(last, _)| *last < sequence);
            if !in_order || map.outcomes.len() >= limits.outcomes {
                return Err("its outcomes are not in order, or too many");
            }
            map.outcomes.push_back((sequence, outcome));
        }
        if self.rest.is_empty() { Ok(map) } else { Err("something follows it") }
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(CUT)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn word(&mut self) -> Result<u64, &'static str> {
        let (word, rest) = self.rest.split_first_chunk().ok_or(CUT)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*word))
    }

    fn half(&mut self) -> Result<usize, &'static str> {
        let (half, rest) = self.rest.split_first_chunk().ok_or(CUT)?;
        self.rest = rest;
        Ok(usize::from(u16::from_le_bytes(*half)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use synod_wire::kv::{MAX_COMMAND_BYTES, QUESTION_HEAD_BYTES};

    fn command(command: Command<'_>) -> Vec<u8> {
        let mut out = [0; MAX_COMMAND_BYTES];
        let bytes = command.write(&mut out).expect("allowed lengths");
        out[..bytes].to_vec()
    }

    fn put(key: &[u8], value: &[u8]) -> Vec<u8> {
        command(Command::Put { key, value })
    }

    fn delete(key: &[u8]) -> Vec<u8> {
        command(Command::Delete { key })
    }

    /// Applies the next entry; its outcome.
    fn apply(map: &mut KvMap, payload: &[u8]) -> Outcome {
        let sequence = map.outcomes.back().map_or(Sequence::ZERO, |(last, _)| *last).next();
        map.apply(&Entry { sequence, timestamp_ns: 1, payload });
        map.outcome(sequence).expect("the last outcome is kept")
    }

    fn snapshot(map: &KvMap) -> Vec<u8> {
        let mut out = Vec::new();
        map.snapshot(&mut out);
        out
    }

    #[test]
    fn outcomes_name_what_was_there_before() {
        let mut map = KvMap::new();
        assert_eq!(apply(&mut map, &put(b"a", b"1")), Outcome::Stored { previous: None });
        assert_eq!(apply(&mut map, &put(b"a", b"22")), Outcome::Stored { previous: Some(Sequence(1)) });
        assert_eq!(map.get(b"a"), Some((Sequence(2), &b"22"[..])));
        assert_eq!(apply(&mut map, b"no command at all"), Outcome::Malformed);
        assert_eq!(apply(&mut map, &delete(b"a")), Outcome::Deleted { previous: Sequence(2) });
        assert_eq!(apply(&mut map, &delete(b"a")), Outcome::Absent);
        assert_eq!((map.get(b"a"), map.state_bytes()), (None, 0));
    }

    #[test]
    fn a_full_map_refuses_and_stays_as_it_was() {
        let limits = Limits { state_bytes: 2 * counted_bytes(b"a", b"1"), outcomes: 8 };
        let mut map = KvMap::with_limits(limits);
        apply(&mut map, &put(b"a", b"1"));
        apply(&mut map, &put(b"b", b"1"));
        assert_eq!(apply(&mut map, &put(b"c", b"1")), Outcome::Full);
        assert_eq!(apply(&mut map, &put(b"b", b"22")), Outcome::Full, "a longer value");
        assert_eq!(map.get(b"b"), Some((Sequence(2), &b"1"[..])));
        assert_eq!(apply(&mut map, &put(b"b", b"")), Outcome::Stored { previous: Some(Sequence(2)) }, "a shorter one");
        apply(&mut map, &delete(b"a"));
        assert_eq!(apply(&mut map, &put(b"c", b"1")), Outcome::Stored { previous: None });
        for _ in 0..20 {
            apply(&mut map, &delete(b"x"));
        }
        assert_eq!((map.outcomes.len(), map.outcome(Sequence(1))), (limits.outcomes, None));
    }

    #[test]
    fn questions_are_answered_and_others_refused() {
        let mut map = KvMap::new();
        apply(&mut map, &put(b"k", b"v"));
        let ask = |question: Question<'_>| {
            let mut out = [0; QUESTION_HEAD_BYTES + MAX_KEY_BYTES];
            let bytes = question.write(&mut out).expect("an allowed length");
            let mut answer = Vec::new();
            map.query(&out[..bytes], &mut answer).map(|()| answer)
        };
        let value = ask(Question::Get(b"k")).unwrap();
        assert_eq!(Answer::parse(&value), Ok(Answer::Value { version: Sequence(1), bytes: b"v" }));
        assert_eq!(Answer::parse(&ask(Question::Get(b"x")).unwrap()), Ok(Answer::NoValue));
        let stored = Answer::Outcome(Outcome::Stored { previous: None });
        assert_eq!(Answer::parse(&ask(Question::Outcome(Sequence(1))).unwrap()), Ok(stored));
        assert_eq!(Answer::parse(&ask(Question::Outcome(Sequence(2))).unwrap()), Ok(Answer::NoOutcome));
        assert_eq!(map.query(b"what?", &mut Vec::new()), Err(BadQuestion));
    }

    #[test]
    fn a_bad_snapshot_is_refused_and_changes_nothing() {
        let mut map = KvMap::new();
        for key in [b"a", b"b"] {
            apply(&mut map, &put(key, b"value"));
        }
        let (before, whole) = (map.clone(), snapshot(&map));
        for cut in 0..whole.len() {
            assert!(map.restore(&whole[..cut]).is_err(), "cut to {cut}");
        }
        assert!(map.restore(&[&whole[..], b"x"].concat()).is_err());
        let mut doubled = whole.clone();
        doubled[16 + 12] = b'b';
        assert!(map.restore(&doubled).unwrap_err().to_string().contains("twice"));
        let small = Limits { state_bytes: 200, ..Limits::default() };
        assert!(KvMap::with_limits(small).restore(&whole).unwrap_err().to_string().contains("more than"));
        assert_eq!(map, before);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, Vec<u8>),
        Delete(u8),
        Noise(Vec<u8>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..12u8, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(key, value)| Step::Put(key, value)),
            2 => (0..12u8).prop_map(Step::Delete),
            1 => prop::collection::vec(any::<u8>(), 1..20).prop_map(Step::Noise),
        ];
        prop::collection::vec(step, 0..80)
    }

    fn payload(step: &Step) -> Vec<u8> {
        match step {
            Step::Put(key, value) => put(&[*key], value),
            Step::Delete(key) => delete(&[*key]),
            Step::Noise(bytes) => bytes.clone(),
        }
    }

    proptest! {
        /// A machine that was restored half-way ends like one that saw everything, byte for byte.
        #[test]
        fn a_restored_map_goes_on_like_the_one_it_came_from(steps in steps(), at in 0usize..80) {
            let limits = Limits { state_bytes: 1_200, outcomes: 16 };
            let (before, after) = steps.split_at(at.min(steps.len()));
            let mut whole = KvMap::with_limits(limits);
            before.iter().for_each(|step| { apply(&mut whole, &payload(step)); });
            let mut restored = KvMap::with_limits(limits);
            restored.restore(&snapshot(&whole)).unwrap();
            prop_assert_eq!(&restored, &whole);
            for step in after {
                prop_assert_eq!(apply(&mut restored, &payload(step)), apply(&mut whole, &payload(step)));
                prop_assert!(whole.state_bytes() <= limits.state_bytes);
            }
            prop_assert_eq!(snapshot(&restored), snapshot(&whole));
            prop_assert_eq!(snapshot(&whole).len(), whole.snapshot_bytes(), "what it takes room for");
            let sum: usize = whole.entries().map(|(key, _, value)| counted_bytes(key, value)).sum();
            prop_assert_eq!(sum, whole.state_bytes());
        }

        #[test]
        fn no_bytes_make_restore_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _outcome: Result<(), BadSnapshot> = KvMap::new().restore(&bytes);
        }
    }
}
