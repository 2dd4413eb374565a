//! How a member that lags shares its core: no commit waits for what it learns, and the group's leader, or the one whose answer the
//! leader does wait for, may be a neighbour on that core. So it gives way, to neighbours that have much to do for nearly all of the
//! time at first, and for less the longer it lags: it is in step in the end, however much the others do.

/// It gives way so much for this long, and half as much each time that this has doubled.
const PATIENT_NS: u64 = 2_000_000_000;
/// It runs for one of so many parts of the time that others had: in the end, and at first.
const PARTS: std::ops::RangeInclusive<u64> = 1..=8;

/// Since when it lags.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lag {
    since_ns: Option<u64>,
}

impl Lag {
    /// Called once a turn, with whether it lags. Then: it runs for this part of the time that others had (one over it).
    pub(crate) fn look(&mut self, now_ns: u64, lags: bool) -> Option<u64> {
        let since_ns = if lags { Some(*self.since_ns.get_or_insert(now_ns)) } else { None };
        self.since_ns = since_ns;
        let lagged_ns = now_ns.saturating_sub(since_ns?);
        Some((PATIENT_NS * PARTS.end() / lagged_ns.max(1)).clamp(*PARTS.start(), *PARTS.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_way_for_less_the_longer_it_lags() {
        let mut lag = Lag::default();
        assert_eq!(lag.look(5, false), None);
        assert_eq!(lag.look(10, true), Some(8));
        assert_eq!(lag.look(10 + PATIENT_NS, true), Some(8));
        assert_eq!(lag.look(10 + 2 * PATIENT_NS, true), Some(4));
        assert_eq!(lag.look(10 + 100 * PATIENT_NS, true), Some(1));
        assert_eq!(lag.look(20 + 100 * PATIENT_NS, false), None);
        assert_eq!(lag.look(30 + 100 * PATIENT_NS, true), Some(8), "it was in step in between");
    }
}
