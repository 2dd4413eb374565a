//! Which way a log write takes: the ring, or the log-writer thread. In the automatic mode the faster one, by measurement.
//!
//! From time to time, a trial: writes take the two ways in turn, so that both meet the same load, the same sizes and the same
//! neighbours, and their times from submission to reaping are compared. The other way takes over if it was clearly faster. Each
//! trial that confirms the choice doubles the number of writes until the next one: what does not change is asked rarely, and the
//! trials of a settled choice touch fewer writes than the 99th percentile shows. A trial in which one way takes several times as
//! long ends early, and then the next one is far: where others keep the ring's worker from its CPU, each write through the ring
//! costs milliseconds. For the same reason the thread comes first: at its worst it costs a wake-up. Pure: numbers in, a way out.
//! Called by: the reactor's `write`, and its completions.

use crate::settings::LogWriter;
use crate::writes::Route;

impl Route {
    fn other(self) -> Route {
        match self {
            Route::Ring => Route::Thread,
            Route::Thread => Route::Ring,
        }
    }
}

/// Writes that a trial sends each way.
const TRIAL_WRITES: usize = 16;
/// The slowest writes of each side that do not count: one hiccup of the host decides nothing.
const HICCUPS: usize = 1;
/// A trial is decided early, after so many writes of each way at least, if one takes so many times as long as the other.
const SURE_WRITES: usize = 3;
const SURE_FACTOR: u64 = 3;
/// How much further away the next trial is after one that confirmed the choice: by the length, or early.
const CONFIRMED: u32 = 2;
const SURELY_CONFIRMED: u32 = 8;
/// Writes before the first trial. A trial that changes the choice halves the distance to the next: two ways that are alike but for
/// noise are not to be tried all the time.
const INTERVAL_MIN: u32 = 64;
/// Writes between the trials of a settled choice: sixteen of these are one in 512.
const INTERVAL_MAX: u32 = 8_192;
/// The other way takes over if it takes less than this share of the time, in percent. Nothing is gained by going to and fro
/// between equals.
const CLEARLY_FASTER_PERCENT: u64 = 90;

/// Decides each write's way.
#[derive(Debug)]
pub(super) struct Choice {
    /// `None`: always the same way.
    trials: Option<Trials>,
    preferred: Route,
}

#[derive(Debug)]
struct Trials {
    interval: u32,
    until_next: u32,
    /// Writes of the running trial that were sent.
    sent: usize,
    /// Their times, by way; room was made at the start.
    took_ns: [Vec<u64>; 2],
}

impl Choice {
    pub(super) fn new(writer: &LogWriter) -> Choice {
        let (preferred, tries) = match writer {
            LogWriter::Ring => (Route::Ring, false),
            LogWriter::Thread(_) => (Route::Thread, false),
            LogWriter::Auto(_) => (Route::Thread, true),
        };
        Choice { trials: tries.then(Trials::new), preferred }
    }

    /// The way of the next write, and whether its time is wanted.
    pub(super) fn next(&mut self) -> (Route, bool) {
        let preferred = self.preferred;
        let Some(trials) = &mut self.trials else { return (preferred, false) };
        if trials.until_next > 0 {
            trials.until_next -= 1;
            return (preferred, false);
        }
        if trials.sent == 2 * TRIAL_WRITES {
            // Its last writes are on their way.
            return (preferred, false);
        }
        // In the order of Thue and Morse: of two writes that overlap the second waits for the first, and neither way is to be
        // the second one more often.
        let is_preferred = trials.sent.count_ones() % 2 == 0;
        trials.sent += 1;
        (if is_preferred { preferred } else { preferred.other() }, true)
    }

    /// A write whose time was wanted took this long. Says whether the choice changed.
    pub(super) fn took(&mut self, route: Route, took_ns: u64) -> bool {
        let Some(trials) = &mut self.trials else { return false };
        if trials.until_next > 0 {
            // On its way when the trial was decided.
            return false;
        }
        trials.took_ns[route as usize].push(took_ns);
        let Some(Verdict { took_ns, sure }) = trials.verdict() else { return false };
        let (ours, others) = (took_ns[self.preferred as usize], took_ns[self.preferred.other() as usize]);
        let changed = others * 100 < ours * CLEARLY_FASTER_PERCENT;
        let further = if sure { SURELY_CONFIRMED } else { CONFIRMED };
        let next = if changed { trials.interval / 2 } else { trials.interval.saturating_mul(further) };
        trials.end(next.clamp(INTERVAL_MIN, INTERVAL_MAX));
        if changed {
            self.preferred = self.preferred.other();
        }
        changed
    }
}

/// How a trial ended.
struct Verdict {
    /// By way.
    took_ns: [u64; 2],
    /// There was no need to go on to its full length.
    sure: bool,
}

impl Trials {
    fn new() -> Trials {
        let times = || Vec::with_capacity(TRIAL_WRITES);
        Trials { interval: INTERVAL_MIN, until_next: INTERVAL_MIN, sent: 0, took_ns: [times(), times()] }
    }

    /// What each way took for the same number of writes, without its hiccups; `None` while that decides nothing.
    fn verdict(&mut self) -> Option<Verdict> {
        let count = self.took_ns.iter().map(Vec::len).min().unwrap_or(0);
        if count < SURE_WRITES {
            return None;
        }
        let took_ns = [0, 1].map(|way: usize| {
            // Sorting them in place is no harm: their order means nothing.
            let times = &mut self.took_ns[way];
            times.sort_unstable();
            times[..count - HICCUPS].iter().sum::<u64>()
        });
        let (least, most) = (took_ns[0].min(took_ns[1]), took_ns[0].max(took_ns[1]));
        let sure = most > least.saturating_mul(SURE_FACTOR);
        (sure || count == TRIAL_WRITES).then_some(Verdict { took_ns, sure })
    }

    /// The trial is over; the next one comes after so many writes.
    fn end(&mut self, interval: u32) {
        (self.interval, self.until_next, self.sent) = (interval, interval, 0);
        self.took_ns.iter_mut().for_each(Vec::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::LogThread;

    fn auto() -> Choice {
        Choice::new(&LogWriter::Auto(LogThread { cpus: None }))
    }

    /// Writes one after the other, each taking what its way takes; returns how many went through the thread.
    fn run(choice: &mut Choice, writes: u32, mut took_ns: impl FnMut(Route) -> u64) -> u32 {
        let mut by_thread = 0;
        for _ in 0..writes {
            let (route, wanted) = choice.next();
            by_thread += u32::from(route == Route::Thread);
            if wanted {
                choice.took(route, took_ns(route));
            }
        }
        by_thread
    }

    fn ring_slower(route: Route) -> u64 {
        if route == Route::Ring { 900_000 } else { 200_000 }
    }

    fn ring_faster(route: Route) -> u64 {
        if route == Route::Ring { 100_000 } else { 120_000 }
    }

    #[test]
    fn a_fixed_way_is_never_left() {
        let mut thread = Choice::new(&LogWriter::Thread(LogThread { cpus: None }));
        assert_eq!(run(&mut thread, 10_000, |_| panic!("no time is wanted")), 10_000);
        assert_eq!(run(&mut Choice::new(&LogWriter::Ring), 10_000, |_| panic!("no time is wanted")), 0);
    }

    #[test]
    fn the_faster_way_takes_over_after_the_first_trial() {
        let mut choice = auto();
        let first = INTERVAL_MIN + 2 * TRIAL_WRITES as u32;
        assert_eq!(run(&mut choice, first, ring_faster), INTERVAL_MIN + TRIAL_WRITES as u32);
        assert_eq!(choice.next(), (Route::Ring, false));
        let by_thread = run(&mut choice, 100_000, ring_faster);
        assert!(by_thread < 300, "{by_thread} of 100000");
    }

    #[test]
    fn a_way_that_is_far_slower_is_given_few_writes() {
        let mut choice = auto();
        let by_thread = run(&mut choice, 9_000, ring_slower);
        // Three trials: after 64 writes, 512 and 4,096 more.
        assert_eq!(9_000 - by_thread, 3 * SURE_WRITES as u32);
    }

    #[test]
    fn between_equals_nothing_changes_and_trials_grow_rare() {
        let mut choice = auto();
        run(&mut choice, 20_000, |_| 200_000);
        let tried = 100_000 - run(&mut choice, 100_000, |_| 200_000);
        assert!(
            (TRIAL_WRITES as u32..=13 * TRIAL_WRITES as u32).contains(&tried),
            "{tried} writes tried the other way"
        );
    }

    #[test]
    fn one_hiccup_decides_nothing_and_two_ways_alike_do_not_either() {
        let mut choice = auto();
        let mut first = true;
        let hiccup = |route| {
            let slow = route == Route::Ring && std::mem::take(&mut first);
            if slow { 50_000_000 } else { 200_000 }
        };
        let tried = 1_000 - run(&mut choice, 1_000, hiccup);
        assert_eq!(tried, 3 * TRIAL_WRITES as u32, "three trials, no change");
    }

    #[test]
    fn a_change_of_the_neighbours_is_noticed_and_its_end_too() {
        let mut choice = auto();
        run(&mut choice, 100_000, ring_faster);
        assert_eq!(choice.next().0, Route::Ring);
        run(&mut choice, INTERVAL_MAX + 2 * TRIAL_WRITES as u32, ring_slower);
        assert_eq!(choice.next().0, Route::Thread);
        run(&mut choice, 100_000, ring_faster);
        assert_eq!(choice.next().0, Route::Ring);
    }

    #[test]
    fn times_that_come_late_end_the_trial_that_asked_for_them_and_no_other() {
        let mut choice = auto();
        let mut wanted = Vec::new();
        for _ in 0..INTERVAL_MIN as usize + 4 * TRIAL_WRITES {
            let (route, timed) = choice.next();
            wanted.extend(timed.then_some(route));
        }
        assert_eq!(wanted.len(), 2 * TRIAL_WRITES, "no second trial before the first has ended");
        let changed = wanted.into_iter().filter(|route| choice.took(*route, ring_faster(*route))).count();
        assert_eq!((changed, choice.next().0), (1, Route::Ring));
        assert!(!choice.took(Route::Thread, 1), "nobody asks any more");
        run(&mut choice, INTERVAL_MAX, ring_faster);
        assert_eq!(choice.next().0, Route::Ring);
    }
}
