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
        let key = mix(client_id as u64 ^ client_seq.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let bytes = HEAD_BYTES + key % (self.max_bytes - HEAD_BYTES + 1);
        out.extend_from_slice(&client_id.to_le_bytes());
        out.extend_from_slice(&client_seq.to_le_bytes());
        let mut word = key;
        while (out.len() as u64) < bytes {
            word = mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15));
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.truncate(bytes as usize);
    }

    /// Whether `entry` is that entry, to the last byte.
    pub(crate) fn is(&self, client_id: u128, client_seq: u64, entry: &[u8]) -> bool {
        let mut expected = Vec::with_capacity(entry.len());
        self.write(client_id, client_seq, &mut expected);
        expected == entry
    }
}
