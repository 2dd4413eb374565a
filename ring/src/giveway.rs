//! Giving way: long work that no commit waits for, on a core that others may want, lets them run every so often.
//!
//! The scheduler takes the core from a thread that never sleeps once in a slice (3 to 4 ms), and who shares it would have that in each
//! commit. [`GiveWay`] asks it earlier. With somebody who keeps the core for whole slices it would get hardly anything done; so it runs for
//! a part of the time that the others had before it gives way again, an eighth, but for no longer than twice what it runs for otherwise:
//! where many wait for the core each comes to its turn late, and a commit would wait for all that each makes up for then.
//!
//! A pipeline that waits for its turn by yielding cannot take the core back: whoever runs then keeps it up to the scheduler's next tick,
//! whatever their priorities. So *all* long work asks, what a start does with its memory not less than what reads a log. What counts is
//! the time that it ran: who waits for a disk between two pieces has given the core away already.
//!
//! Called by: the reactors ([`Io::give_way`](crate::Io::give_way)), and by [`give_way`] whoever reads long stretches of a log or goes
//! through a whole state (`synod_wal`, state machines).

use crate::clock;
use std::cell::Cell;

thread_local! {
    static WAY: Cell<GiveWay> = const { Cell::new(GiveWay::new()) };
}

/// Gives way if this thread has run for long enough: called between small pieces of long work, of some microseconds each.
pub fn give_way() {
    WAY.with(|cell| {
        let mut way = cell.get();
        way.look(AWAY_PARTS);
        cell.set(way);
    });
}

/// It runs for at least so long before it gives way again.
const GIVE_WAY_NS: u64 = 100_000;
/// Or for one of so many parts of the time that it was away.
const AWAY_PARTS: u64 = 8;
/// And for one of as many parts of this at most.
const LONGEST_NS: u64 = 1_600_000;

/// When a thread gives way next: once it has *run* for a stint. What it slept for its disk is no reason to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GiveWay {
    /// Before this it cannot have run for its stint. None: it has not begun.
    look_at_ns: Option<u64>,
    /// Processor time when the stint began.
    begun_ran_ns: u64,
    stint_ns: u64,
}

impl GiveWay {
    /// Before the first look, which begins it.
    pub(crate) const fn new() -> GiveWay {
        GiveWay { look_at_ns: None, begun_ran_ns: 0, stint_ns: GIVE_WAY_NS }
    }

    /// Called between small pieces of the work: gives way if it is time to. Costs a reading of the clock. Whether it did. It comes back
    /// for one of so many `parts` of the time that it was away.
    pub(crate) fn look(&mut self, parts: u64) -> bool {
        let now_ns = clock::monotonic_ns();
        if self.look_at_ns.is_some_and(|at_ns| now_ns < at_ns) || !self.is_due(now_ns, clock::thread_ran_ns()) {
            return false;
        }
        std::thread::yield_now();
        self.begin(now_ns, clock::monotonic_ns(), clock::thread_ran_ns(), parts);
        true
    }

    /// Whether the stint is over; if not, when to look again.
    fn is_due(&mut self, now_ns: u64, ran_ns: u64) -> bool {
        if self.look_at_ns.is_none() {
            self.begin(now_ns, now_ns, ran_ns, AWAY_PARTS);
        }
        let left_ns = self.stint_ns.saturating_sub(ran_ns - self.begun_ran_ns);
        self.look_at_ns = Some(now_ns + left_ns);
        left_ns == 0
    }

    /// Others had the core in between.
    fn begin(&mut self, from_ns: u64, to_ns: u64, ran_ns: u64, parts: u64) {
        self.stint_ns = ((to_ns - from_ns).min(LONGEST_NS) / parts).max(GIVE_WAY_NS);
        self.look_at_ns = Some(to_ns + self.stint_ns);
        self.begun_ran_ns = ran_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_way_after_a_while_and_to_a_hog_less_often() {
        let mut way = GiveWay::new();
        assert!(!way.is_due(1_000, 500), "the first look begins it");
        assert!(
            !way.is_due(1_000 + GIVE_WAY_NS, 499 + GIVE_WAY_NS) && way.is_due(2_000 + GIVE_WAY_NS, 500 + GIVE_WAY_NS)
        );
        let (back_ns, slice_ns) = (9_000_000, 4_000_000);
        way.begin(back_ns - 5_000, back_ns, 7_000, AWAY_PARTS);
        assert!(!way.is_due(back_ns + GIVE_WAY_NS, 6_999 + GIVE_WAY_NS), "nobody was there");
        assert!(way.is_due(back_ns + GIVE_WAY_NS + 1, 7_000 + GIVE_WAY_NS));
        for (parts, own_ns) in [(AWAY_PARTS, 2 * GIVE_WAY_NS), (1, LONGEST_NS)] {
            way.begin(back_ns - slice_ns, back_ns, 0, parts);
            assert!(
                !way.is_due(back_ns + own_ns, own_ns - 1) && way.is_due(back_ns + own_ns, own_ns),
                "more in front of a hog"
            );
        }
        way.begin(back_ns - slice_ns / 4, back_ns, 0, AWAY_PARTS);
        let own_ns = slice_ns / 4 / AWAY_PARTS;
        assert!(
            !way.is_due(back_ns + own_ns, own_ns - 1) && way.is_due(back_ns + own_ns, own_ns),
            "an eighth of what others had"
        );
    }

    #[test]
    fn what_it_slept_does_not_count() {
        let mut way = GiveWay::new();
        assert!(!way.is_due(0, 0));
        assert!(!way.is_due(50 * GIVE_WAY_NS, GIVE_WAY_NS / 4), "it waited for its disk");
        assert_eq!(way.look_at_ns, Some(50 * GIVE_WAY_NS + GIVE_WAY_NS / 4 * 3), "it cannot be due sooner");
        assert!(way.is_due(51 * GIVE_WAY_NS, GIVE_WAY_NS));
    }

    #[test]
    fn a_thread_that_works_on_gives_way_again_and_again() {
        let mut way = GiveWay::new();
        let end_ns = clock::monotonic_ns() + 5_000_000_000;
        let mut gave = 0;
        while gave < 3 && clock::monotonic_ns() < end_ns {
            gave += u32::from(way.look(AWAY_PARTS));
        }
        assert_eq!(gave, 3);
    }
}
