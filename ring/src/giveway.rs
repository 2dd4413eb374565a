//! Giving way: long work that no commit waits for, on a core that others may want, lets them run every so often.
//!
//! The scheduler takes the core from a thread that never sleeps once in a slice (3 to 4 ms), and who shares it would have that in each
//! commit. [`GiveWay`] asks it earlier. With somebody who keeps the core for whole slices it would get hardly anything done; so it runs for
//! an eighth of the time that the others had before it gives way again: of what its priority would let it have, a ninth of the core stays.
//!
//! A pipeline that waits for its turn by yielding cannot take the core back: whoever runs then keeps it up to the scheduler's next tick,
//! whatever their priorities. So *all* long work asks, what a start does with its memory not less than what reads a log.
//!
//! Called by: the reactors ([`Io::give_way`](crate::Io::give_way)), and by [`give_way`] whoever reads long stretches of a log or goes
//! through a whole state (`synod_wal`, state machines).

use crate::clock;
use std::cell::Cell;

thread_local! {
    static WAY: Cell<GiveWay> = const { Cell::new(GiveWay { not_before_ns: None }) };
}

/// Gives way if this thread has run for long enough: called between small pieces of long work, of some microseconds each.
pub fn give_way() {
    WAY.with(|cell| {
        let mut way = cell.get();
        way.look();
        cell.set(way);
    });
}

/// It runs for at least so long before it gives way again.
const GIVE_WAY_NS: u64 = 100_000;
/// And for this part of the time that it was away.
const AWAY_DIVISOR: u64 = 8;

/// When a thread gives way next. See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct GiveWay {
    /// None: it has not begun.
    not_before_ns: Option<u64>,
}

impl GiveWay {
    /// Called between small pieces of the work: gives way if it is time to. Costs a reading of the clock. Whether it did.
    pub fn look(&mut self) -> bool {
        let now_ns = clock::monotonic_ns();
        if !self.is_due(now_ns) {
            return false;
        }
        std::thread::yield_now();
        self.gave_way(now_ns, clock::monotonic_ns());
        true
    }

    /// The first look begins it.
    fn is_due(&mut self, now_ns: u64) -> bool {
        now_ns >= *self.not_before_ns.get_or_insert(now_ns + GIVE_WAY_NS)
    }

    /// Others had the core in between.
    fn gave_way(&mut self, from_ns: u64, to_ns: u64) {
        self.not_before_ns = Some(to_ns + GIVE_WAY_NS.max((to_ns - from_ns) / AWAY_DIVISOR));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_way_after_a_while_and_to_a_hog_less_often() {
        let mut way = GiveWay::default();
        assert!(!way.is_due(1_000) && !way.is_due(1_000 + GIVE_WAY_NS - 1) && way.is_due(1_000 + GIVE_WAY_NS));
        let (back_ns, slice_ns) = (9_000_000, 4_000_000);
        way.gave_way(back_ns - 5_000, back_ns);
        assert!(!way.is_due(back_ns + GIVE_WAY_NS - 1) && way.is_due(back_ns + GIVE_WAY_NS), "nobody was there");
        way.gave_way(back_ns - slice_ns, back_ns);
        let own_ns = slice_ns / AWAY_DIVISOR;
        assert!(!way.is_due(back_ns + own_ns - 1) && way.is_due(back_ns + own_ns), "a ninth in front of a hog");
    }

    #[test]
    fn a_thread_that_works_on_gives_way_again_and_again() {
        let mut way = GiveWay::default();
        let end_ns = clock::monotonic_ns() + 5_000_000_000;
        let mut gave = 0;
        while gave < 3 && clock::monotonic_ns() < end_ns {
            gave += u32::from(way.look());
        }
        assert_eq!(gave, 3);
    }
}
