//! The only source of chance: SplitMix64, split into one stream a purpose so that dropping a fault leaves the other
//! streams as they were. Used by everything in this crate; touches nothing.

/// A stream of pseudo-random numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream `purpose` of a seed.
    pub fn new(seed: u64, purpose: &str) -> Rng {
        let mut rng = Rng(seed);
        for byte in purpose.bytes() {
            rng.0 = rng.0.wrapping_add(u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        }
        rng.word();
        rng
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "an empty range");
        ((u128::from(self.word()) * u128::from(limit)) >> 64) as u64
    }

    /// A number of `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `parts` times in a million.
    pub fn ppm(&mut self, parts: u64) -> bool {
        parts > 0 && self.below(1_000_000) < parts
    }

    /// True `chance` times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// An exponentially distributed number with this mean: most are small, few are large.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        // 53 bits, never 0: the logarithm is finite.
        let unit = ((self.word() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        (-unit.ln() * mean as f64) as u64
    }

    /// An index below `len`, if there is one.
    pub fn pick_index(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.below(len as u64) as usize)
    }

    /// One of `all`, which is not empty.
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_repeat() {
        let draw = |purpose| (0..4).map(|_| 0).scan(Rng::new(7, purpose), |rng, _: i32| Some(rng.word())).collect();
        let (a, b): (Vec<u64>, Vec<u64>) = (draw("disk"), draw("network"));
        assert_ne!(a, b);
        assert_eq!(a, draw("disk"));
    }

    #[test]
    fn chances_are_about_right() {
        let mut rng = Rng::new(1, "chance");
        let hits = (0..100_000).filter(|_| rng.ppm(250_000)).count();
        assert!((24_000..26_000).contains(&hits), "{hits}");
        let sum: u64 = (0..100_000).map(|_| rng.exponential(1_000)).sum();
        assert!((97_000_000..103_000_000).contains(&sum), "{sum}");
        assert!((0..1_000).map(|_| rng.between(3, 5)).all(|n| (3..=5).contains(&n)));
    }
}
