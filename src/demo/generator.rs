//! Generated order messages, for a demo without an input: the same seed gives the same messages. Pure.

use std::io::Write;

/// The shortest message.
pub(super) const MIN_BYTES: usize = 32;
/// The longest message.
pub(super) const MAX_BYTES: usize = 288;

const SYMBOLS: [&str; 8] = ["ALPH", "BETA", "GAMA", "DELT", "EPSI", "ZETA", "ETAX", "THET"];
const KINDS: [&str; 4] = ["NEW", "MOD", "CXL", "EXE"];

/// An endless row of messages.
#[derive(Clone, Debug)]
pub(super) struct Generator {
    state: u64,
    order: u64,
    message: Vec<u8>,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Generator {
        Generator { state: seed, order: 0, message: Vec::with_capacity(MAX_BYTES) }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): every state gives a well-mixed number.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next message.
    pub(super) fn advance(&mut self) -> &[u8] {
        self.order += 1;
        let (pick, length) = (self.draw(), self.draw());
        let kind = KINDS[(pick % 4) as usize];
        let symbol = SYMBOLS[(pick >> 8) as usize % SYMBOLS.len()];
        let side = if pick & (1 << 16) == 0 { 'B' } else { 'S' };
        let (quantity, price) = ((pick >> 20) % 9_900 + 100, (pick >> 34) % 90_000 + 10_000);
        let order = self.order % 1_000_000_000;
        self.message.clear();
        let fields = write!(self.message, "{kind}|{order:09}|{symbol}|{side}|{quantity:04}|{price:05}|");
        fields.expect("writing to memory does not fail");
        let wanted = MIN_BYTES + (length % (MAX_BYTES - MIN_BYTES + 1) as u64) as usize;
        // What is left is free text, as orders carry it: printable, and different each time.
        while self.message.len() < wanted {
            let letters = self.draw().to_le_bytes().map(|byte| b'a' + byte % 26);
            let room = wanted - self.message.len();
            self.message.extend_from_slice(&letters[..room.min(letters.len())]);
        }
        &self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_promised_lengths_and_repeat_with_their_seed() {
        let (mut one, mut two) = (Generator::new(1), Generator::new(1));
        let mut lengths = Vec::new();
        for _ in 0..20_000 {
            let message = one.advance().to_vec();
            assert_eq!(message, two.advance());
            assert!(message.is_ascii() && !message.contains(&b'\n'));
            lengths.push(message.len());
        }
        assert_eq!((lengths.iter().min(), lengths.iter().max()), (Some(&MIN_BYTES), Some(&MAX_BYTES)));
        assert_ne!(Generator::new(1).advance(), Generator::new(2).advance());
    }
}
