//! Latencies as histograms, whole and second by second, and what is told of them. Pure.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// The longest latency told apart, nanoseconds: a minute, beyond every deadline here.
const LONGEST_NS: u64 = 60_000_000_000;

/// How long one interval of a measurement is.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// The latencies that ended within one stretch of a measurement.
#[derive(Clone, Debug)]
pub struct Interval {
    /// When it began.
    pub start: SystemTime,
    /// [`INTERVAL`]; the last of a measurement ends with it.
    pub length: Duration,
    /// Nanoseconds. Its pages are the kernel's until a latency touches them: some 50 KiB are in use.
    pub latency_ns: Histogram<u64>,
}

/// What one measurement gave.
#[derive(Clone, Debug)]
pub struct Measured {
    /// From (intended) start to acknowledgement, nanoseconds.
    pub latency_ns: Histogram<u64>,
    /// Operations that ended within the measured time.
    pub ended: u64,
    /// The measured time.
    pub elapsed: Duration,
    /// Why an open loop did not keep its rate.
    pub missed: Option<String>,
    /// In the order of their starts; of several rounds, one after the other.
    pub intervals: Vec<Interval>,
}

impl Default for Measured {
    fn default() -> Measured {
        Measured::new()
    }
}

impl Measured {
    /// Nothing yet.
    pub fn new() -> Measured {
        Measured { latency_ns: no_latencies(), ended: 0, elapsed: Duration::ZERO, missed: None, intervals: Vec::new() }
    }

    /// Takes one latency in.
    pub fn record(&mut self, latency: Duration) {
        self.latency_ns.saturating_record(nanos(latency));
    }

    /// Takes one latency in that ended `at` after the measurement began, which was at `began`. A second in which nothing
    /// ended is an empty interval: a stall is seen as such.
    pub fn record_at(&mut self, latency: Duration, began: SystemTime, at: Duration) {
        self.record(latency);
        let index = at.as_secs() as usize;
        while self.intervals.len() <= index {
            let start = began + INTERVAL * self.intervals.len() as u32;
            self.intervals.push(Interval { start, length: INTERVAL, latency_ns: no_latencies() });
        }
        self.intervals[index].latency_ns.saturating_record(nanos(latency));
    }

    /// The measurement that began at `began` took `took`: its last interval ends with it.
    pub fn close(&mut self, began: SystemTime, took: Duration) {
        if let Some(last) = self.intervals.last_mut() {
            // Where the last second was silent the measurement ended before this interval; none is empty of time.
            let length = (began + took).duration_since(last.start).unwrap_or(Duration::ZERO);
            last.length = length.max(Duration::from_millis(1));
        }
    }

    /// Adds another round of the same thing.
    pub fn add(&mut self, other: &Measured) {
        self.latency_ns += &other.latency_ns;
        self.ended += other.ended;
        self.elapsed += other.elapsed;
        self.missed = self.missed.take().or_else(|| other.missed.clone());
        self.intervals.extend_from_slice(&other.intervals);
    }

    /// Adds what went on at the same time: its n-th interval is part of the n-th here.
    pub fn add_beside(&mut self, other: &Measured) {
        let (elapsed, mut intervals) = (self.elapsed.max(other.elapsed), std::mem::take(&mut self.intervals));
        for (mine, theirs) in intervals.iter_mut().zip(&other.intervals) {
            mine.latency_ns += &theirs.latency_ns;
            mine.length = mine.length.max(theirs.length);
        }
        intervals.extend(other.intervals.iter().skip(intervals.len()).cloned());
        self.add(other);
        (self.elapsed, self.intervals) = (elapsed, intervals);
    }

    /// The numbers.
    pub fn summary(&self) -> Summary {
        let at = |quantile| self.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        Summary {
            operations: self.latency_ns.len(),
            per_second: self.ended as f64 / self.elapsed.as_secs_f64().max(1e-9),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.latency_ns.max() as f64 / 1e3,
            missed: self.missed.clone(),
        }
    }
}

/// An empty histogram of latencies, nanoseconds.
pub fn no_latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid")
}

fn nanos(latency: Duration) -> u64 {
    (latency.as_nanos() as u64).max(1)
}

/// A measurement in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Operations whose latency was taken.
    pub operations: u64,
    /// Operations a second.
    pub per_second: f64,
    /// Median latency.
    pub p50_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// The 99.9th percentile.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// Why an open loop did not keep its rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<String>,
}

/// How far the rounds lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one (the mean of the two middle ones of an even number).
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        assert!(!sorted.is_empty(), "the spread of nothing");
        sorted.sort_by(f64::total_cmp);
        let upper = sorted.len() / 2;
        let lower = (sorted.len() - 1) / 2;
        Spread { min: sorted[0], median: (sorted[lower] + sorted[upper]) / 2.0, max: sorted[sorted.len() - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 8.0]), Spread { min: 1.0, median: 3.0, max: 8.0 });
        assert_eq!(Spread::of([5.0]), Spread { min: 5.0, median: 5.0, max: 5.0 });
    }

    #[test]
    fn what_goes_on_beside_adds_to_the_rate_and_not_to_the_time() {
        let mut all = Measured::new();
        for _ in 0..2 {
            let mut one = Measured::new();
            (one.ended, one.elapsed) = (10, Duration::from_secs(1));
            one.record_at(Duration::from_micros(100), SystemTime::now(), Duration::ZERO);
            all.add_beside(&one);
        }
        assert_eq!((all.summary().per_second, all.elapsed), (20.0, Duration::from_secs(1)));
        assert_eq!((all.intervals.len(), all.intervals[0].latency_ns.len(), all.latency_ns.len()), (1, 2, 2));
    }

    #[test]
    fn rounds_add_up_to_one_distribution() {
        let mut all = Measured::new();
        for micros in [100, 300] {
            let mut round = Measured::new();
            (0..10).for_each(|_| round.record(Duration::from_micros(micros)));
            round.ended = 10;
            round.elapsed = Duration::from_secs(1);
            all.add(&round);
        }
        let summary = all.summary();
        assert_eq!((summary.operations, summary.per_second), (20, 10.0));
        assert!((99.0..101.0).contains(&summary.p50_us) && (299.0..301.0).contains(&summary.p99_us), "{summary:?}");
    }

    #[test]
    fn intervals_hold_what_ended_in_them_and_a_silent_second_is_an_empty_one() {
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let mut measured = Measured::new();
        for (micros, at_ms) in [(100, 10), (200, 999), (300, 2_400)] {
            measured.record_at(Duration::from_micros(micros), began, Duration::from_millis(at_ms));
        }
        measured.close(began, Duration::from_millis(2_500));
        let counts: Vec<u64> = measured.intervals.iter().map(|interval| interval.latency_ns.len()).collect();
        assert_eq!(counts, [2, 0, 1]);
        assert_eq!(measured.latency_ns.len(), 3);
        assert_eq!(measured.intervals[2].start, began + Duration::from_secs(2));
        assert_eq!(measured.intervals[2].length, Duration::from_millis(500));
        let mut all = Measured::new();
        all.add(&measured);
        all.add(&measured);
        assert_eq!(all.intervals.len(), 6);
    }
}
