//! The bytes of every entry: a function of session and client sequence, so that any entry can be recognised, checked and
//! offered again, and none needs to be kept. Where nodes keep a key-value map, most entries are its commands. Pure.

use crate::plan::Plan;
use synod_wire::kv::{COMMAND_HEAD_BYTES, Command, MAX_COMMAND_BYTES, MAX_VALUE_BYTES};

/// Makes and recognises entries.
#[derive(Clone, Debug)]
pub(crate) struct Payloads {
    max_bytes: u64,
    kv: bool,
}

/// What an entry does to a key-value map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It puts a value, which is what follows [`VALUE_AT`].
    Put(Key),
    /// It deletes.
    Delete(Key),
    /// It is no command.
    Noise,
}

/// A key, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) u64);

/// How many keys there are: few, so that puts and deletes meet.
pub(crate) const KEYS: u64 = 12;
/// Bytes of a key.
const KEY_BYTES: usize = 8;
/// Where the value of a put begins in its entry.
pub(crate) const VALUE_AT: usize = COMMAND_HEAD_BYTES + KEY_BYTES;

impl Key {
    /// Its bytes.
    pub(crate) fn bytes(self) -> [u8; KEY_BYTES] {
        self.0.to_be_bytes()
    }
}

/// What of an entry begins with its identity; `None`: a delete, which has none.
pub(crate) fn identified(entry: &[u8]) -> Option<&[u8]> {
    match Command::parse(entry) {
        Ok(Command::Put { value, .. }) => Some(value),
        Ok(Command::Delete { .. }) => None,
        Err(_) => Some(entry),
    }
}

/// The identity in front of each entry: session and client sequence.
const HEAD_BYTES: u64 = 24;
/// Most entries are no longer than this, so that several share a datagram and a slot;
const SHORT_BYTES: u64 = 64;
/// one in so many takes any length that the plan allows.
const LONG_EVERY: u64 = 8;

fn mix(word: u64) -> u64 {
    let z = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

impl Payloads {
    pub(crate) fn new(plan: &Plan) -> Payloads {
        Payloads { max_bytes: plan.max_entry_bytes.max(HEAD_BYTES), kv: plan.kv }
    }

    /// What the entry does to a map.
    pub(crate) fn effect(&self, client_id: u128, client_seq: u64) -> Effect {
        let word = mix(self.words(client_id, client_seq).word.wrapping_add(1));
        let key = Key(word / 16 % KEYS);
        match word % 16 {
            _ if !self.kv => Effect::Noise,
            0 => Effect::Noise,
            1..4 => Effect::Delete(key),
            _ => Effect::Put(key),
        }
    }

    /// Writes the entry into `out`, from its start.
    pub(crate) fn write(&self, client_id: u128, client_seq: u64, out: &mut Vec<u8>) {
        out.clear();
        let effect = self.effect(client_id, client_seq);
        let mut plain = Vec::new();
        let (key, value) = match effect {
            Effect::Noise => return self.write_plain(client_id, client_seq, out),
            Effect::Delete(key) => (key.bytes(), None),
            Effect::Put(key) => {
                self.write_plain(client_id, client_seq, &mut plain);
                // The command's head and key stand in front, and take their share of the length.
                plain.truncate((self.max_bytes as usize - VALUE_AT).min(MAX_VALUE_BYTES));
                (key.bytes(), Some(&plain[..]))
            }
        };
        let command = match value {
            Some(value) => Command::Put { key: &key, value },
            None => Command::Delete { key: &key },
        };
        let mut written = [0; MAX_COMMAND_BYTES];
        let bytes = command.write(&mut written).expect("keys and values are short enough");
        out.extend_from_slice(&written[..bytes]);
    }

    fn write_plain(&self, client_id: u128, client_seq: u64, out: &mut Vec<u8>) {
        let mut words = self.words(client_id, client_seq);
        let bytes = words.bytes;
        out.extend_from_slice(&client_id.to_le_bytes());
        out.extend_from_slice(&client_seq.to_le_bytes());
        while out.len() < bytes {
            out.extend_from_slice(&words.next().to_le_bytes());
        }
        out.truncate(bytes);
    }

    /// Whether `entry` is that entry, to the last byte.
    pub(crate) fn is(&self, client_id: u128, client_seq: u64, entry: &[u8]) -> bool {
        if self.kv {
            let mut expected = Vec::new();
            self.write(client_id, client_seq, &mut expected);
            return expected == entry;
        }
        let mut words = self.words(client_id, client_seq);
        if entry.len() != words.bytes {
            return false;
        }
        let (head, rest) = entry.split_at(HEAD_BYTES as usize);
        let (id, seq) = head.split_at(size_of::<u128>());
        if id != client_id.to_le_bytes() || seq != client_seq.to_le_bytes() {
            return false;
        }
        rest.chunks(size_of::<u64>()).all(|chunk| chunk == &words.next().to_le_bytes()[..chunk.len()])
    }

    fn words(&self, client_id: u128, client_seq: u64) -> Words {
        let key = mix(client_id as u64 ^ client_seq.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let most = if key.is_multiple_of(LONG_EVERY) { self.max_bytes } else { self.max_bytes.min(SHORT_BYTES) };
        let bytes = HEAD_BYTES + key / LONG_EVERY % (most - HEAD_BYTES + 1);
        Words { bytes: bytes as usize, word: key }
    }
}

/// What follows the identity, and how long the entry is.
struct Words {
    bytes: usize,
    word: u64,
}

impl Words {
    fn next(&mut self) -> u64 {
        self.word = mix(self.word.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_recognised_to_the_last_byte_and_lengths_vary() {
        let payloads = Payloads { max_bytes: 1_300, kv: false };
        let mut entry = Vec::new();
        let (mut short, mut long) = (0, 0);
        for seq in 1..2_000 {
            payloads.write(7, seq, &mut entry);
            assert!((HEAD_BYTES as usize..=1_300).contains(&entry.len()));
            (short, long) = (short + usize::from(entry.len() <= 64), long + usize::from(entry.len() > 650));
            assert!(payloads.is(7, seq, &entry) && !payloads.is(7, seq + 1, &entry) && !payloads.is(8, seq, &entry));
            let last = entry.len() - 1;
            assert!(!payloads.is(7, seq, &entry[..last]));
            entry[last] ^= 1;
            assert!(!payloads.is(7, seq, &entry));
        }
        assert!(short > 1_500 && long > 50, "{short} short ones, {long} long ones");
    }

    #[test]
    fn commands_do_what_they_are_said_to_and_keep_their_identity() {
        let payloads = Payloads { max_bytes: 64, kv: true };
        let (mut entry, mut seen) = (Vec::new(), [0; 3]);
        for seq in 1..1_000 {
            payloads.write(7, seq, &mut entry);
            assert!(entry.len() <= 64 && payloads.is(7, seq, &entry) && !payloads.is(7, seq + 1, &entry));
            let identity = [&7u128.to_le_bytes()[..], &seq.to_le_bytes()].concat();
            let effect = payloads.effect(7, seq);
            match (effect, Command::parse(&entry)) {
                (Effect::Put(key), Ok(Command::Put { key: bytes, value })) => {
                    assert!(key.bytes() == bytes && value == &entry[VALUE_AT..]);
                    seen[0] += 1;
                }
                (Effect::Delete(key), Ok(Command::Delete { key: bytes })) if key.bytes() == bytes => seen[1] += 1,
                (Effect::Noise, Err(_)) => seen[2] += 1,
                other => panic!("{other:?}"),
            }
            let begins = identified(&entry).is_none_or(|bytes| bytes.starts_with(&identity));
            assert!(begins && identified(&entry).is_none() == matches!(effect, Effect::Delete(_)));
        }
        assert!(seen.iter().all(|count| *count > 30), "{seen:?}");
    }
}
