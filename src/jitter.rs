//! `synod jitter`: a hiccup meter. A thread on each core does nothing but read the clock; what lies between two readings and is longer
//! than the work of reading it is time that the core did not have: an interrupt, another thread, the hypervisor, the firmware. A
//! pipeline pinned there would have had it neither.

use crate::measure::logs;
use crate::measure::stats::{INTERVAL, Interval, no_latencies};
use anyhow::{Context, anyhow, ensure};
use hdrhistogram::Histogram;
use quanta::Clock;
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// Gaps up to this are the meter's own work.
const THRESHOLD_NS: u64 = 1_000;
/// Readings between two looks at the signals and the second's end.
const READINGS_A_LOOK: u32 = 4_096;

/// Above how many nanoseconds hiccups are counted, and what is to be done about such ones.
pub const CLASSES_NS: [u64; 3] = [10_000, 100_000, 1_000_000];

/// The section of tuning.md that says what to do.
pub const SECTION: &str = "tuning.md, \"Hiccups of a core\"";

/// One core's hiccups.
#[derive(Clone, Debug, Serialize)]
pub struct Core {
    /// Its number.
    pub core: usize,
    /// How long it was watched.
    pub seconds: f64,
    /// The longest gap, microseconds.
    pub max_us: f64,
    /// Of moments that are 1 us apart, 99.99 % had to wait at most so long for the core, microseconds.
    pub p9999_us: f64,
    /// Gaps above 10 us, 100 us and 1 ms.
    pub above: [u64; 3],
    /// The part of the time that was lost in gaps above 1 us.
    pub lost: f64,
    /// How often the scheduler gave the core to another thread.
    pub preempted: u64,
    /// What stands out, and where it says what to mend.
    pub verdict: String,
    /// Gaps above 1 us, nanoseconds, second by second.
    #[serde(skip)]
    pub intervals: Vec<Interval>,
    /// All of them.
    #[serde(skip)]
    pub gaps_ns: Histogram<u64>,
}

/// Watches the cores, all at once, until `length` is over or `stop` is set.
pub fn run(cores: &[usize], length: Duration, stop: &AtomicBool) -> anyhow::Result<Vec<Core>> {
    ensure!(!cores.is_empty(), "there is no core to watch");
    // Calibrates itself once, for some milliseconds.
    let clock = Clock::new();
    let watch = |core: usize| {
        let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: core });
        ensure!(pinned, "cannot pin to core {core}: it does not exist or may not be used");
        meter(core, &clock, length, stop)
    };
    std::thread::scope(|scope| {
        let start = |core: &usize| {
            let (watch, core) = (&watch, *core);
            std::thread::Builder::new().name(format!("jitter-{core}")).spawn_scoped(scope, move || watch(core))
        };
        let threads = cores.iter().map(start).collect::<Result<Vec<_>, _>>().context("cannot start a thread")?;
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a meter panicked"))?).collect()
    })
}

fn meter(core: usize, clock: &Clock, length: Duration, stop: &AtomicBool) -> anyhow::Result<Core> {
    let preempted_before = preempted()?;
    let mut tally = Tally::new();
    let threshold = raw_of(clock, THRESHOLD_NS);
    let began = clock.raw();
    let mut last = began;
    loop {
        for _ in 0..READINGS_A_LOOK {
            let now = clock.raw();
            if now.saturating_sub(last) > threshold {
                tally.gap(clock.delta_as_nanos(last, now), clock.delta_as_nanos(began, now));
                // What the tally took is no gap.
                last = clock.raw();
            } else {
                last = now;
            }
        }
        let watched = Duration::from_nanos(clock.delta_as_nanos(began, last));
        if watched >= length || stop.load(Ordering::Relaxed) {
            return Ok(tally.finish(core, watched, preempted()?.saturating_sub(preempted_before)));
        }
    }
}

/// So many nanoseconds in the clock's own unit, to within a thousandth.
fn raw_of(clock: &Clock, nanos: u64) -> u64 {
    const UNITS: u64 = 1 << 30;
    let of_units = clock.delta_as_nanos(0, UNITS).max(1);
    (u128::from(nanos) * u128::from(UNITS) / u128::from(of_units)) as u64
}

/// How often the calling thread lost its core though it wanted to go on.
fn preempted() -> anyhow::Result<u64> {
    // SAFETY: all bytes zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes into a live local.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    ensure!(result == 0, "getrusage failed: {}", std::io::Error::last_os_error());
    Ok(usage.ru_nivcsw as u64)
}

/// What one core's meter has seen.
struct Tally {
    began: SystemTime,
    above: [u64; 3],
    lost_ns: u64,
    max_ns: u64,
    gaps_ns: Histogram<u64>,
    intervals: Vec<Interval>,
}

impl Tally {
    fn new() -> Tally {
        let gaps_ns = no_latencies();
        Tally { began: SystemTime::now(), above: [0; 3], lost_ns: 0, max_ns: 0, gaps_ns, intervals: Vec::new() }
    }

    /// A gap that ended `at_ns` after the beginning.
    fn gap(&mut self, gap_ns: u64, at_ns: u64) {
        self.gaps_ns.saturating_record(gap_ns);
        self.lost_ns += gap_ns;
        self.max_ns = self.max_ns.max(gap_ns);
        for (count, class) in self.above.iter_mut().zip(CLASSES_NS) {
            *count += u64::from(gap_ns > class);
        }
        let second = Duration::from_nanos(at_ns).as_secs() as usize;
        while self.intervals.len() <= second {
            let start = self.began + INTERVAL * self.intervals.len() as u32;
            self.intervals.push(Interval { start, length: INTERVAL, latency_ns: no_latencies() });
        }
        self.intervals[second].latency_ns.saturating_record(gap_ns);
    }

    fn finish(self, core: usize, watched: Duration, preempted: u64) -> Core {
        let max_us = self.max_ns as f64 / 1e3;
        Core {
            core,
            seconds: watched.as_secs_f64(),
            max_us,
            p9999_us: waited_ns(&self.gaps_ns, watched, 0.9999) as f64 / 1e3,
            above: self.above,
            lost: self.lost_ns as f64 / watched.as_nanos().max(1) as f64,
            preempted,
            verdict: verdict(&self.above, preempted),
            intervals: self.intervals,
            gaps_ns: self.gaps_ns,
        }
    }
}

/// How long the core makes who comes at any moment wait, at this quantile of the moments: they are taken to come each
/// [`THRESHOLD_NS`], so that one within a gap waits for what is left of it, and all others not at all.
fn waited_ns(gaps_ns: &Histogram<u64>, watched: Duration, quantile: f64) -> u64 {
    let mut waits = gaps_ns.clone_correct(THRESHOLD_NS);
    let moments = watched.as_nanos() as u64 / THRESHOLD_NS;
    waits.saturating_record_n(1, moments.saturating_sub(waits.len()));
    match waits.value_at_quantile(quantile) {
        ns if ns <= THRESHOLD_NS => 0,
        ns => ns,
    }
}

fn verdict(above: &[u64; 3], preempted: u64) -> String {
    let [tens, hundreds, thousands] = *above;
    let what = if thousands > 0 && preempted > 0 {
        "another thread gets the core: isolate it"
    } else if thousands > 0 {
        "the core stands still for more than 1 ms: the hypervisor, or the firmware"
    } else if hundreds > 0 {
        "interrupts with long work, or sleep states: move and forbid them"
    } else if tens > 0 {
        "interrupts and the timer: move them, nohz_full"
    } else {
        return "fit for wait = \"spin\"".into();
    };
    format!("{what} ({SECTION})")
}

/// Writes all cores' gaps in HdrHistogram's form.
pub fn write_histogram(cores: &[Core], file: &Path) -> anyhow::Result<()> {
    let tags: Vec<String> = cores.iter().map(|core| format!("core-{}", core.core)).collect();
    let series: Vec<logs::Series<'_>> = cores
        .iter()
        .zip(&tags)
        .map(|(core, tag)| logs::Series { tag: Some(tag), intervals: &core.intervals })
        .collect();
    let mut all = no_latencies();
    cores.iter().for_each(|core| all += &core.gaps_ns);
    logs::write(file, "synod jitter: gaps above 1 us", &series, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_by_class_and_weigh_by_their_time() {
        let mut tally = Tally::new();
        for (gap_us, at_ms) in [(5, 1), (50, 2), (500, 3), (5_000, 2_100)] {
            tally.gap(gap_us * 1_000, at_ms * 1_000_000);
        }
        let core = tally.finish(3, Duration::from_secs(4), 1);
        assert_eq!((core.core, core.above, core.max_us), (3, [3, 2, 1], 5_000.0));
        let counts: Vec<u64> = core.intervals.iter().map(|interval| interval.latency_ns.len()).collect();
        assert_eq!(counts, [3, 0, 1], "a second without a gap is an empty interval");
        assert!((core.lost - 0.005555 / 4.0).abs() < 1e-6, "{}", core.lost);
        // One moment in 10,000 of four seconds is 400 of 4,000,000: those that come in the first 400 us of the 5 ms have to wait
        // for more than 4.6 ms.
        assert!((4_550.0..4_650.0).contains(&core.p9999_us), "{}", core.p9999_us);
        assert!(core.verdict.contains("isolate") && core.verdict.contains(SECTION), "{}", core.verdict);
    }

    #[test]
    fn a_quiet_core_is_called_fit() {
        let core = Tally::new().finish(0, Duration::from_secs(1), 0);
        assert_eq!((core.above, core.max_us, core.p9999_us), ([0; 3], 0.0, 0.0));
        assert!(core.verdict.contains("spin"));
        assert!(verdict(&[1, 0, 0], 0).contains("nohz_full") && verdict(&[9, 9, 1], 0).contains("hypervisor"));
    }

    #[test]
    fn the_clock_s_unit_is_converted() {
        let clock = Clock::new();
        let raw = raw_of(&clock, 1_000_000);
        let nanos = clock.delta_as_nanos(0, raw);
        assert!((990_000..=1_010_000).contains(&nanos), "{nanos}");
    }
}
