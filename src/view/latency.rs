//! Percentiles of what is told as counts of buckets ([`synod_wire::picture`]): exact to the width of one, within which they are
//! interpolated. Pure.

use std::time::Duration;
use synod_wire::picture::{COMMIT_BUCKETS, commit_bucket_end_ns};

/// Counts of the buckets.
pub type Commits = [u64; COMMIT_BUCKETS];

/// The percentiles that are shown, of one span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// How many commits.
    pub count: u64,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The 99.9th percentile.
    pub p999: Duration,
}

impl Percentiles {
    /// `None`: there were no commits.
    pub fn of(commits: &Commits) -> Option<Percentiles> {
        let count = commits.iter().sum();
        let at = |thousandths| quantile(commits, thousandths);
        Some(Percentiles { count, p50: at(500)?, p99: at(990)?, p999: at(999)? })
    }
}

/// What came between two readings of the same node; `None`: it started anew between them.
pub fn between(earlier: &Commits, later: &Commits) -> Option<Commits> {
    let mut difference = [0; COMMIT_BUCKETS];
    for ((place, earlier), later) in difference.iter_mut().zip(earlier).zip(later) {
        *place = later.checked_sub(*earlier)?;
    }
    Some(difference)
}

/// Where a bucket begins.
pub fn start_ns(bucket: usize) -> u64 {
    bucket.checked_sub(1).map_or(0, commit_bucket_end_ns)
}

/// The time below which this share, in thousandths, of the commits lies.
fn quantile(commits: &Commits, thousandths: u64) -> Option<Duration> {
    let count: u64 = commits.iter().sum();
    let wanted = (u128::from(count) * u128::from(thousandths)).div_ceil(1_000) as u64;
    let mut below = 0;
    for (bucket, in_it) in commits.iter().enumerate().filter(|(_, in_it)| **in_it > 0) {
        if below + in_it >= wanted {
            let (from_ns, to_ns) = (start_ns(bucket), commit_bucket_end_ns(bucket));
            let width_ns = if to_ns == u64::MAX { 0 } else { to_ns - from_ns };
            let within_ns = u128::from(width_ns) * u128::from(wanted - below) / u128::from(*in_it);
            return Some(Duration::from_nanos(from_ns + within_ns as u64));
        }
        below += in_it;
    }
    None
}

/// A time with three figures and its unit.
pub fn short(time: Duration) -> String {
    let us = time.as_nanos() as f64 / 1e3;
    let (value, unit) = match us {
        us if us < 1_000.0 => (us, "µs"),
        us if us < 1_000_000.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_in_the_buckets_that_hold_them() {
        let mut commits = [0; COMMIT_BUCKETS];
        assert_eq!(Percentiles::of(&commits), None);
        (commits[4], commits[10], commits[39]) = (500, 490, 10);
        let all = Percentiles::of(&commits).expect("there are some");
        assert_eq!((all.count, all.p50.as_nanos()), (1_000, commit_bucket_end_ns(4).into()));
        assert_eq!(all.p99.as_nanos(), u128::from(commit_bucket_end_ns(10)));
        assert_eq!(all.p999.as_nanos(), u128::from(start_ns(39)), "what has no end is told by its beginning");
        let half = quantile(&commits, 250).expect("there are some");
        assert_eq!(half.as_nanos() as u64, (start_ns(4) + commit_bucket_end_ns(4)) / 2);
    }

    #[test]
    fn what_came_between_is_the_difference_unless_the_node_started_anew() {
        let (mut earlier, mut later) = ([0; COMMIT_BUCKETS], [0; COMMIT_BUCKETS]);
        (earlier[3], later[3], later[5]) = (2, 7, 1);
        assert_eq!(between(&earlier, &later).map(|commits| (commits[3], commits[5])), Some((5, 1)));
        assert_eq!(between(&later, &earlier), None);
    }

    #[test]
    fn times_have_three_figures() {
        let told = [1_234, 12_345, 123_456, 1_234_567, 2_000_000_000].map(|ns| short(Duration::from_nanos(ns)));
        assert_eq!(told, ["1.23 µs", "12.3 µs", "123 µs", "1.23 ms", "2.00 s"]);
    }
}
