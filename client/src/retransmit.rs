//! When to send again: one adaptive timeout, and the jitter of pauses. Arithmetic only; used by both cores.

/// A retransmission timeout after Jacobson and Karels (RFC 6298): smoothed round trip plus four deviations, doubled by
/// each expiry, bounded on both sides.
#[derive(Clone, Debug)]
pub(crate) struct Timeout {
    smoothed_ns: Option<u64>,
    deviation_ns: u64,
    doublings: u32,
    initial_ns: u64,
    min_ns: u64,
    max_ns: u64,
}

impl Timeout {
    pub(crate) fn new(initial_us: u64, min_us: u64, max_us: u64) -> Timeout {
        Timeout {
            smoothed_ns: None,
            deviation_ns: 0,
            doublings: 0,
            initial_ns: initial_us * 1000,
            min_ns: min_us * 1000,
            max_ns: max_us * 1000,
        }
    }

    /// A round trip of something that was sent once only (Karn's rule is the caller's).
    pub(crate) fn sample(&mut self, round_trip_ns: u64) {
        self.doublings = 0;
        match self.smoothed_ns {
            None => {
                self.smoothed_ns = Some(round_trip_ns);
                self.deviation_ns = round_trip_ns / 2;
            }
            Some(smoothed) => {
                self.deviation_ns = self.deviation_ns / 4 * 3 + smoothed.abs_diff(round_trip_ns) / 4;
                self.smoothed_ns = Some(smoothed / 8 * 7 + round_trip_ns / 8);
            }
        }
    }

    /// The timeout as it stands.
    pub(crate) fn current_ns(&self) -> u64 {
        let base = match self.smoothed_ns {
            None => self.initial_ns,
            Some(_) => self.answer_within_ns().max(self.min_ns),
        };
        base.saturating_mul(1 << self.doublings).min(self.max_ns)
    }

    /// The typical round trip; before the first sample the initial timeout.
    pub(crate) fn round_trip_ns(&self) -> u64 {
        self.smoothed_ns.unwrap_or(self.initial_ns)
    }

    /// Within this an answer is there, or is not coming, going by the round trips alone.
    pub(crate) fn answer_within_ns(&self) -> u64 {
        self.round_trip_ns().saturating_add(self.deviation_ns.saturating_mul(4))
    }

    /// It expired.
    pub(crate) fn back_off(&mut self) {
        // 2^20 times the least timeout of 1 µs is beyond a second: more doublings would say nothing.
        self.doublings = (self.doublings + 1).min(20);
    }

    /// Something got through that was sent more than once: the network lives, but the round trip may be longer than it
    /// was, so one doubling stays until [`Timeout::sample`] says more.
    pub(crate) fn progress(&mut self) {
        self.doublings = self.doublings.min(1);
    }
}

/// SplitMix64: pauses need to differ between clients, no more.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `base_ns` and up to a quarter more: never less than the server asked for.
    pub(crate) fn stretch(&mut self, base_ns: u64) -> u64 {
        base_ns + self.next() % (base_ns / 4 + 1)
    }
}

/// A pause that a server asks for is honoured between these, so that neither a zero nor a garbled field can make the
/// client storm or sleep for an hour.
const MIN_PAUSE_NS: u64 = 200_000;
const MAX_PAUSE_NS: u64 = 1_000_000_000;

/// The pause for a `retry_after_us` of a refusal.
pub(crate) fn pause_ns(retry_after_us: u32, jitter: &mut Jitter) -> u64 {
    jitter.stretch((u64::from(retry_after_us) * 1000).clamp(MIN_PAUSE_NS, MAX_PAUSE_NS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_round_trip_and_stays_in_its_bounds() {
        let mut timeout = Timeout::new(25_000, 1_000, 250_000);
        assert_eq!(timeout.current_ns(), 25_000_000);
        for _ in 0..100 {
            timeout.sample(2_000_000);
        }
        assert!((2_000_000..2_200_000).contains(&timeout.current_ns()), "{}", timeout.current_ns());
        for _ in 0..100 {
            timeout.sample(20_000);
        }
        assert_eq!(timeout.current_ns(), 1_000_000, "the least");
        timeout.back_off();
        assert_eq!(timeout.current_ns(), 2_000_000);
        for _ in 0..100 {
            timeout.back_off();
        }
        assert_eq!(timeout.current_ns(), 250_000_000, "the most");
        timeout.progress();
        assert_eq!(timeout.current_ns(), 2_000_000, "one doubling stays");
        timeout.sample(u64::MAX);
        assert_eq!(timeout.current_ns(), 250_000_000, "no overflow");
    }

    #[test]
    fn pauses_are_bounded_never_shorter_than_asked_and_differ_between_seeds() {
        let mut jitter = Jitter::new(1);
        for asked_us in [0, 1, 1000, 999_999, u32::MAX] {
            let pause = pause_ns(asked_us, &mut jitter);
            assert!((MIN_PAUSE_NS..=MAX_PAUSE_NS + MAX_PAUSE_NS / 4).contains(&pause));
            assert!(asked_us > 1_000_000 || pause >= u64::from(asked_us) * 1000);
        }
        assert_ne!(Jitter::new(1).stretch(1 << 40), Jitter::new(2).stretch(1 << 40));
    }
}
