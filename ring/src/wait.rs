//! How a core passes the time until something happens, decided by numbers alone.
//!
//! Nothing here reads a clock or enters the kernel: the reactor tells how long it waited and how late a yield came back, and is
//! told what to do next. Called by: `uring` (each round of a wait).

/// How a reactor waits, when a poll finds nothing at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitMode {
    /// Watches the completion queue and never gives the core away. For a core that nobody else runs on.
    Spin,
    /// Watches, and lets others run between two looks, for up to `idle_us` (`durable_us` while a log write is in flight); then
    /// blocks. For more processes than cores, as long as they all behave like that.
    Yield {
        /// Microseconds of yielding while no log write is in flight.
        idle_us: u32,
        /// Microseconds of yielding while one is.
        durable_us: u32,
    },
    /// Blocks in the kernel at once. For cores that are shared with foreign work.
    Block,
    /// Like `Yield` while yields come back promptly; blocks for a while when they do not (see [`LATE_YIELD_NS`]).
    Auto {
        /// Microseconds of yielding while no log write is in flight.
        idle_us: u32,
        /// Microseconds of yielding while one is.
        durable_us: u32,
    },
}

/// A yield that takes this long gave the core to somebody who does not give it back: a co-operating process is done within
/// tens to hundreds of microseconds, a hog keeps it for a scheduler's slice of 3 to 4 ms.
pub const LATE_YIELD_NS: u64 = 1_000_000;
/// For how long a first late yield keeps `Auto` from yielding. Short: one hiccup of the host should cost little.
pub const BACK_OFF_MIN_NS: u64 = 10_000_000;
/// For how long at most. With a hog that stays, `Auto` loses one slice to it in such a time: 4 ms of 2 s.
pub const BACK_OFF_MAX_NS: u64 = 2_000_000_000;
/// By how much each further late yield lengthens it: the longest is reached after five slices, within a second.
const BACK_OFF_GROWTH: u64 = 4;
/// Prompt yields in a row that halve the back-off again.
pub const PROMPT_YIELDS: u32 = 256;

/// What to do in one round of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look again at once.
    Spin,
    /// Let others run, look again.
    Yield,
    /// Sleep in the kernel until a completion or the deadline.
    Block,
}

/// Decides each round of a wait.
#[derive(Debug)]
pub(crate) struct Waiter {
    mode: WaitMode,
    patience: Patience,
}

impl Waiter {
    pub(crate) fn new(mode: WaitMode) -> Waiter {
        Waiter { mode, patience: Patience::new() }
    }

    /// The next round, `waited_ns` after the wait began; `eager` while a log write is in flight.
    pub(crate) fn step(&self, now_ns: u64, waited_ns: u64, eager: bool) -> Step {
        let (idle_us, durable_us) = match self.mode {
            WaitMode::Spin => return Step::Spin,
            WaitMode::Block => return Step::Block,
            WaitMode::Auto { .. } if !self.patience.may_yield(now_ns) => return Step::Block,
            WaitMode::Yield { idle_us, durable_us } | WaitMode::Auto { idle_us, durable_us } => (idle_us, durable_us),
        };
        let budget_us = if eager { durable_us } else { idle_us };
        if waited_ns < u64::from(budget_us) * 1000 { Step::Yield } else { Step::Block }
    }

    /// A yield came back after `gap_ns`. Says whether it was late.
    pub(crate) fn yielded(&mut self, now_ns: u64, gap_ns: u64) -> bool {
        self.patience.yielded(now_ns, gap_ns)
    }

    /// Whether others may want the core.
    pub(crate) fn shares_the_core(&self) -> bool {
        self.mode != WaitMode::Spin
    }

    /// Whether `Auto` blocks at present because yields came back late.
    pub(crate) fn backs_off(&self, now_ns: u64) -> bool {
        matches!(self.mode, WaitMode::Auto { .. }) && !self.patience.may_yield(now_ns)
    }
}

/// What the automatic mode has learnt about yielding.
///
/// One late yield is enough to stop: it cost more than some milliseconds of blocking do. Each further late one makes the time
/// until the next try four times as long, a run of prompt ones halves it.
#[derive(Debug)]
struct Patience {
    back_off_ns: u64,
    blocks_until_ns: u64,
    prompt: u32,
}

impl Patience {
    fn new() -> Patience {
        Patience { back_off_ns: BACK_OFF_MIN_NS, blocks_until_ns: 0, prompt: 0 }
    }

    fn may_yield(&self, now_ns: u64) -> bool {
        now_ns >= self.blocks_until_ns
    }

    fn yielded(&mut self, now_ns: u64, gap_ns: u64) -> bool {
        if gap_ns >= LATE_YIELD_NS {
            self.prompt = 0;
            self.blocks_until_ns = now_ns.saturating_add(self.back_off_ns);
            self.back_off_ns = (self.back_off_ns * BACK_OFF_GROWTH).min(BACK_OFF_MAX_NS);
            return true;
        }
        self.prompt += 1;
        if self.prompt == PROMPT_YIELDS {
            self.prompt = 0;
            self.back_off_ns = (self.back_off_ns / 2).max(BACK_OFF_MIN_NS);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: WaitMode = WaitMode::Auto { idle_us: 50, durable_us: 500 };
    const PROMPT_NS: u64 = 30_000;
    const SLICE_NS: u64 = 4_000_000;

    /// Waits again and again for `for_ns`, each yield taking `gap_ns`; returns the time lost in late yields.
    fn lost_ns(waiter: &mut Waiter, now_ns: &mut u64, for_ns: u64, gap_ns: u64) -> u64 {
        let end_ns = *now_ns + for_ns;
        let mut lost_ns = 0;
        while *now_ns < end_ns {
            match waiter.step(*now_ns, 0, false) {
                Step::Yield => {
                    *now_ns += gap_ns;
                    if waiter.yielded(*now_ns, gap_ns) {
                        lost_ns += gap_ns;
                    }
                }
                Step::Block => *now_ns += 100_000,
                Step::Spin => panic!("the automatic mode never spins"),
            }
        }
        lost_ns
    }

    #[test]
    fn spin_never_blocks_and_block_never_waits_actively() {
        assert_eq!(Waiter::new(WaitMode::Spin).step(0, u64::MAX, false), Step::Spin);
        assert_eq!(Waiter::new(WaitMode::Block).step(0, 0, true), Step::Block);
    }

    #[test]
    fn yielding_ends_with_its_budget() {
        for mode in [AUTO, WaitMode::Yield { idle_us: 50, durable_us: 500 }] {
            let waiter = Waiter::new(mode);
            assert_eq!(waiter.step(0, 49_999, false), Step::Yield);
            assert_eq!(waiter.step(0, 50_000, false), Step::Block);
            assert_eq!(waiter.step(0, 499_999, true), Step::Yield);
            assert_eq!(waiter.step(0, 500_000, true), Step::Block);
        }
    }

    #[test]
    fn plain_yield_does_not_back_off() {
        let mut waiter = Waiter::new(WaitMode::Yield { idle_us: 50, durable_us: 500 });
        assert!(waiter.yielded(SLICE_NS, SLICE_NS));
        assert_eq!(waiter.step(SLICE_NS, 0, false), Step::Yield);
        assert!(!waiter.backs_off(SLICE_NS));
    }

    #[test]
    fn auto_keeps_yielding_while_yields_are_prompt() {
        let (mut waiter, mut now_ns) = (Waiter::new(AUTO), 0);
        for _ in 0..10_000 {
            now_ns += LATE_YIELD_NS - 1;
            assert!(!waiter.yielded(now_ns, LATE_YIELD_NS - 1));
            assert_eq!(waiter.step(now_ns, 0, false), Step::Yield);
        }
    }

    #[test]
    fn auto_blocks_after_one_late_yield_and_tries_again() {
        let mut waiter = Waiter::new(AUTO);
        assert!(waiter.yielded(SLICE_NS, SLICE_NS));
        assert!(waiter.backs_off(SLICE_NS));
        assert_eq!(waiter.step(SLICE_NS + BACK_OFF_MIN_NS - 1, 0, true), Step::Block);
        assert_eq!(waiter.step(SLICE_NS + BACK_OFF_MIN_NS, 0, true), Step::Yield);
    }

    #[test]
    fn a_hog_that_stays_costs_a_slice_every_two_seconds() {
        let (mut waiter, mut now_ns) = (Waiter::new(AUTO), 0);
        lost_ns(&mut waiter, &mut now_ns, 10_000_000_000, SLICE_NS);
        let lost = lost_ns(&mut waiter, &mut now_ns, 20_000_000_000, SLICE_NS);
        assert!((9 * SLICE_NS..=11 * SLICE_NS).contains(&lost), "lost {lost} ns of 20 s");
    }

    #[test]
    fn a_hog_is_known_for_one_within_a_second() {
        let (mut waiter, mut now_ns) = (Waiter::new(AUTO), 0);
        let lost = lost_ns(&mut waiter, &mut now_ns, 900_000_000, SLICE_NS);
        assert_eq!(lost, 5 * SLICE_NS);
        assert_eq!(lost_ns(&mut waiter, &mut now_ns, 1_900_000_000, SLICE_NS), 0);
    }

    #[test]
    fn auto_recovers_when_the_hog_leaves() {
        let (mut waiter, mut now_ns) = (Waiter::new(AUTO), 0);
        lost_ns(&mut waiter, &mut now_ns, 10_000_000_000, SLICE_NS);
        now_ns += BACK_OFF_MAX_NS;
        assert_eq!(lost_ns(&mut waiter, &mut now_ns, 1_000_000_000, PROMPT_NS), 0);
        assert!(waiter.yielded(now_ns, SLICE_NS), "a single hiccup after that");
        assert_eq!(waiter.step(now_ns + BACK_OFF_MIN_NS, 0, false), Step::Yield, "costs the shortest back-off only");
    }
}
