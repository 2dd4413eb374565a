//! How long a full leader takes to have room again: what BUSY tells a client to wait. Fed with how long each slot took from
//! its datagram to its delivery; Jacobson's smoothing (RFC 6298). Pure; called by `clients.rs` and `outputs.rs`.

/// The least that a client is told to wait: sooner, a turn has hardly passed.
const MIN_NS: u64 = 200_000;
/// The most: room comes back in an instant after a stall, and should be used.
const MAX_NS: u64 = 20_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Drain {
    commit_ns: u64,
}

impl Drain {
    pub(super) fn delivered(&mut self, took_ns: u64) {
        self.commit_ns = if self.commit_ns == 0 { took_ns } else { self.commit_ns / 8 * 7 + took_ns / 8 };
    }

    /// What a client that found no room should wait: until the oldest slot, of this age, is due. Nobody knows when one that is
    /// overdue comes; a quarter of its age keeps the retries of a stall few, and what they add to it small.
    pub(super) fn retry_after_us(&self, oldest_age_ns: u64) -> u32 {
        let left_ns = self.commit_ns.saturating_sub(oldest_age_ns).max(oldest_age_ns / 4);
        (left_ns.clamp(MIN_NS, MAX_NS) / 1_000) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_client_waits_until_the_oldest_slot_is_due_and_a_stall_makes_it_patient() {
        let mut drain = Drain::default();
        assert_eq!(drain.retry_after_us(0), 200, "nothing is known yet");
        for _ in 1..=64 {
            drain.delivered(8 * MS);
        }
        let waits = [0, 3, 7, 8, 40, 400].map(|age_ms| drain.retry_after_us(age_ms * MS));
        assert_eq!(waits[0], 8_000, "commits take 8 ms");
        assert_eq!(
            (waits[1], waits[2]),
            (5_000, 1_750),
            "what is left of them; or a quarter of the age, if that is more"
        );
        assert_eq!((waits[3], waits[4], waits[5]), (2_000, 10_000, 20_000), "overdue, and further and further");
        drain.delivered(9 * MS);
        assert!((3_000..3_300).contains(&drain.retry_after_us(5 * MS)), "the next one is younger");
    }
}
