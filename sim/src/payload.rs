//! The bytes of every entry: a function of session and client sequence, so that any entry can be recognised, checked and
//! offered again, and none needs to be kept. Pure.

use crate::plan::Plan;

/// Makes and recognises entries.
#[derive(Clone, Debug)]
pub(crate) struct Payloads {
    max_bytes: u64,
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
        Payloads { max_bytes: plan.max_entry_bytes.max(HEAD_BYTES) }
    }

    /// Writes the entry into `out`, from its start.
    pub(crate) fn write(&self, client_id: u128, client_seq: u64, out: &mut Vec<u8>) {
        out.clear();
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
        let payloads = Payloads { max_bytes: 1_300 };
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
}
