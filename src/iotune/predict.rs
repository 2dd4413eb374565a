//! What a commit is to take, from the distribution of durable writes and the round trip. Pure.
//!
//! A slot is chosen with the q-th of n durable votes: the leader's own, when its write S0 is done, and those of the n - 1 followers,
//! each a round trip R and a write Si after. The disks are taken to be alike and independent, so that with F the distribution that
//! was measured
//!
//! ```text
//! P(T <= t) = F(t) P[at least q-1 of n-1 at F(t-R)] + (1 - F(t)) P[at least q of n-1 at F(t-R)]
//! ```
//!
//! and the client, a round trip away as well, hears of it after R + T. The time of the program itself is not in it.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// Beyond this no commit is looked for, nanoseconds: what the histograms hold at most, and a round trip of a minute.
const LONGEST_NS: u64 = 120_000_000_000;

/// The prediction, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Members that may vote.
    pub members: usize,
    /// Votes that choose.
    pub votes: usize,
    /// R.
    pub round_trip_us: f64,
    /// It was measured on the loopback, where there is no network.
    pub round_trip_on_loopback: bool,
    /// A durable write, S.
    pub sync_p50_us: f64,
    /// The same.
    pub sync_p99_us: f64,
    /// The same.
    pub sync_p999_us: f64,
    /// The longest one.
    pub sync_max_us: f64,
    /// R + T.
    pub commit_p50_us: f64,
    /// The same.
    pub commit_p99_us: f64,
    /// The same.
    pub commit_p999_us: f64,
}

/// Predicts from the latencies of writes, one in flight.
pub fn of(
    sync_ns: &Histogram<u64>,
    members: usize,
    votes: usize,
    round_trip: Duration,
    round_trip_on_loopback: bool,
) -> Prediction {
    let trip_ns = round_trip.as_nanos() as u64;
    let us = |ns: u64| ns as f64 / 1e3;
    let sync = |quantile| us(sync_ns.value_at_quantile(quantile));
    let commit = |quantile| us(trip_ns + chosen_at_ns(sync_ns, members, votes, trip_ns, quantile));
    Prediction {
        members,
        votes,
        round_trip_us: us(trip_ns),
        round_trip_on_loopback,
        sync_p50_us: sync(0.5),
        sync_p99_us: sync(0.99),
        sync_p999_us: sync(0.999),
        sync_max_us: us(sync_ns.max()),
        commit_p50_us: commit(0.5),
        commit_p99_us: commit(0.99),
        commit_p999_us: commit(0.999),
    }
}

/// The least t with P(T <= t) >= `quantile`.
fn chosen_at_ns(sync_ns: &Histogram<u64>, members: usize, votes: usize, trip_ns: u64, quantile: f64) -> u64 {
    let (mut low, mut high) = (0, LONGEST_NS);
    while low < high {
        let middle = low + (high - low) / 2;
        if chosen_by(sync_ns, members, votes, trip_ns, middle) >= quantile {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

fn chosen_by(sync_ns: &Histogram<u64>, members: usize, votes: usize, trip_ns: u64, at_ns: u64) -> f64 {
    let done_by = |ns: u64| sync_ns.quantile_below(ns);
    let (own, other) = (done_by(at_ns), at_ns.checked_sub(trip_ns).map_or(0.0, done_by));
    let followers = members - 1;
    own * at_least(votes - 1, followers, other) + (1.0 - own) * at_least(votes, followers, other)
}

/// The chance that at least `least` of `count` happen that happen with `chance` each.
fn at_least(least: usize, count: usize, chance: f64) -> f64 {
    (least..=count)
        .map(|hits| choose(count, hits) * chance.powi(hits as i32) * (1.0 - chance).powi((count - hits) as i32))
        .sum()
}

fn choose(of: usize, take: usize) -> f64 {
    (0..take).map(|index| (of - index) as f64 / (index + 1) as f64).product()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::stats::no_latencies;

    fn always(us: u64) -> Histogram<u64> {
        let mut all = no_latencies();
        all.record_n(us * 1_000, 1_000).unwrap();
        all
    }

    fn near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.01
    }

    #[test]
    fn of_a_steady_disk_a_commit_is_the_round_trips_and_one_write() {
        let found = of(&always(100), 3, 2, Duration::from_micros(50), true);
        assert!(near(found.commit_p50_us, 50.0 + 50.0 + 100.0) && near(found.commit_p999_us, 200.0), "{found:?}");
        let alone = of(&always(100), 1, 1, Duration::from_micros(50), true);
        assert!(near(alone.commit_p50_us, 50.0 + 100.0), "a node alone waits for no other: {alone:?}");
        // One vote of three: the leader's own, which is there first.
        assert!(near(of(&always(100), 3, 1, Duration::from_micros(50), true).commit_p50_us, 150.0));
        // Three of three: the slowest.
        assert!(near(of(&always(100), 3, 3, Duration::from_micros(50), true).commit_p50_us, 200.0));
    }

    /// Writes that take 100 us, and 1 in 10 of them 1,000; no round trip: two of three choose, so that a slow commit takes two slow
    /// writes: 3 * 0.01 * 0.9 + 0.001 = 2.8 %.
    #[test]
    fn the_slowest_disk_does_not_count() {
        let mut sync = always(100);
        sync.record_n(1_000_000, 111).unwrap();
        let found = of(&sync, 3, 2, Duration::ZERO, false);
        assert!(near(found.sync_p99_us, 1_000.0) && near(found.commit_p50_us, 100.0), "{found:?}");
        let slow = 1.0 - chosen_by(&sync, 3, 2, 0, 500_000);
        assert!((slow - 0.028).abs() < 0.001, "{slow}");
        assert!(near(found.commit_p99_us, 1_000.0), "2.8 % are more than 1 %");
        assert!(near(at_least(0, 4, 0.3), 1.0));
    }
}
