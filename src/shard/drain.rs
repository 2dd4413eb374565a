//! How long a full leader takes to have room again: what BUSY tells a client to wait. Fed with each slot proposed and
//! delivered; Jacobson's smoothing (RFC 6298) of the time between the two. Pure; called by `clients.rs` and `outputs.rs`.

use std::collections::VecDeque;
use synod_wire::Slot;

/// The least that a client is told to wait: sooner, a turn has hardly passed.
const MIN_NS: u64 = 200_000;
/// The most: room comes back in an instant after a stall, and should be used.
const MAX_NS: u64 = 20_000_000;
/// Open slots that are measured, 16 KiB of them; in a larger window some are left out, which changes no average.
const MAX_OPEN: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub(super) struct Drain {
    /// This leader's open slots and when they were proposed.
    open: VecDeque<(Slot, u64)>,
    commit_ns: u64,
}

impl Drain {
    pub(super) fn new() -> Drain {
        Drain { open: VecDeque::with_capacity(MAX_OPEN), commit_ns: 0 }
    }

    /// This node leads no longer; how long commits took is still the best guess.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    pub(super) fn proposed(&mut self, slot: Slot, now_ns: u64) {
        if self.open.len() < MAX_OPEN {
            self.open.push_back((slot, now_ns));
        }
    }

    pub(super) fn delivered(&mut self, slot: Slot, now_ns: u64) {
        while let Some((_, at_ns)) = self.open.pop_front_if(|(open, _)| *open <= slot) {
            let took_ns = now_ns.saturating_sub(at_ns);
            self.commit_ns = if self.commit_ns == 0 { took_ns } else { self.commit_ns / 8 * 7 + took_ns / 8 };
        }
    }

    /// What a client that found no room should wait: until the oldest slot is due. Nobody knows when one that is overdue
    /// comes; a quarter of its age keeps the retries of a stall few, and what they add to it small.
    pub(super) fn retry_after_us(&self, now_ns: u64) -> u32 {
        let age_ns = self.open.front().map_or(0, |(_, at_ns)| now_ns.saturating_sub(*at_ns));
        let left_ns = self.commit_ns.saturating_sub(age_ns).max(age_ns / 4);
        (left_ns.clamp(MIN_NS, MAX_NS) / 1_000) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_client_waits_until_the_oldest_slot_is_due_and_a_stall_makes_it_patient() {
        let mut drain = Drain::new();
        assert_eq!(drain.retry_after_us(0), 200, "nothing is known yet");
        for slot in 1..=64 {
            drain.proposed(Slot(slot), slot * MS);
            drain.delivered(Slot(slot), slot * MS + 8 * MS);
        }
        drain.proposed(Slot(65), 100 * MS);
        drain.proposed(Slot(66), 104 * MS);
        let waits = [100, 103, 107, 108, 140, 500].map(|at_ms| drain.retry_after_us(at_ms * MS));
        assert_eq!(waits[0], 8_000, "commits take 8 ms");
        assert_eq!(
            (waits[1], waits[2]),
            (5_000, 1_750),
            "what is left of them; or a quarter of the age, if that is more"
        );
        assert_eq!((waits[3], waits[4], waits[5]), (2_000, 10_000, 20_000), "overdue, and further and further");
        drain.delivered(Slot(65), 109 * MS);
        assert!((3_000..3_300).contains(&drain.retry_after_us(109 * MS)), "the next one was proposed at 104 ms");
    }

    #[test]
    fn what_another_leader_delivers_is_not_ours_to_measure() {
        let mut drain = Drain::new();
        drain.proposed(Slot(5), MS);
        drain.clear();
        drain.delivered(Slot(5), 900 * MS);
        assert_eq!(drain.retry_after_us(900 * MS), 200);
    }
}
