//! A histogram of times for the hot path: log-linear buckets in an array, nothing else. One thread records, any reads (`board.rs`).
//!
//! The hdrhistogram crate takes about 50 instructions for a record (callgrind, release build: range check, total, minimum,
//! saturation of each), five times a commit; this adds to one bucket and keeps the maximum. Count and quantiles are summed up when
//! somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of each power of two: a bucket is at most 1/64 of its value wide.
const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
/// Times from here on (69 s) count in the last bucket; the maximum is exact.
const LIMIT_BITS: u32 = 36;
const BUCKETS: usize = (LIMIT_BITS - SUB_BITS + 1) as usize * SUB;

/// See the module.
#[derive(Debug)]
pub struct Histogram {
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

fn get(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

/// By the only writer: as cheap as a plain addition.
fn add(cell: &AtomicU64, value: u64) {
    cell.store(get(cell).wrapping_add(value), Ordering::Relaxed);
}

impl Histogram {
    /// Bytes on the heap.
    pub(super) const BYTES: usize = BUCKETS * size_of::<u64>();

    pub(super) fn new() -> Histogram {
        let counts = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Histogram { counts, sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }

    /// One more. By one thread alone.
    pub(super) fn record(&self, value: u64) {
        add(&self.counts[bucket(value)], 1);
        add(&self.sum, value);
        self.max.store(get(&self.max).max(value), Ordering::Relaxed);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(get).sum()
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        get(&self.sum)
    }

    /// The largest.
    pub fn max(&self) -> u64 {
        get(&self.max)
    }

    /// How many lie at or below each of these values (ascending), as exactly as the buckets tell: one counts as a whole for the bound
    /// that its upper end is nearest below.
    pub fn at_or_below<const N: usize>(&self, bounds: [u64; N]) -> [u64; N] {
        let mut counts = [0; N];
        self.count_at_or_below(&bounds, &mut counts);
        counts
    }

    /// The same into `counts`, over slices by a loop: as `bounds.map`, a loop of its own for each bound, LLVM 22 takes hours to optimize what calls it.
    pub fn count_at_or_below(&self, bounds: &[u64], counts: &mut [u64]) {
        let (mut at, mut below) = (0, 0);
        for (bound, count) in bounds.iter().zip(counts) {
            while at < BUCKETS && upper_end(at) <= *bound {
                below += get(&self.counts[at]);
                at += 1;
            }
            *count = below;
        }
    }

    /// The values below or at which these shares (ascending, in thousandths) of `count` lie; the upper ends of their buckets.
    pub fn quantiles<const N: usize>(&self, count: u64, thousandths: [u64; N]) -> [u64; N] {
        let (mut at, mut below) = (0, 0);
        thousandths.map(|share| {
            let wanted = (u128::from(count) * u128::from(share)).div_ceil(1_000) as u64;
            while at < BUCKETS && below < wanted {
                below += get(&self.counts[at]);
                at += 1;
            }
            upper_end(at.saturating_sub(1)).min(self.max())
        })
    }
}

/// Values below 64 have a bucket each; each power of two above has 64.
fn bucket(value: u64) -> usize {
    let value = value.min((1 << LIMIT_BITS) - 1);
    let power = (value | (SUB as u64 - 1)).ilog2() + 1 - SUB_BITS;
    match power {
        0 => value as usize,
        _ => (power as usize) * SUB + ((value >> (power - 1)) as usize - SUB),
    }
}

/// The largest value of a bucket.
fn upper_end(bucket: usize) -> u64 {
    match bucket / SUB {
        0 => bucket as u64,
        power => (((SUB + bucket % SUB) as u64 + 1) << (power - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_dense_ascending_and_narrow() {
        let mut last = 0;
        for value in (0..5_000u64).chain((5_000..1 << 37).step_by(99_999_989)).chain([(1 << 36) - 1, 1 << 36, u64::MAX])
        {
            let at = bucket(value);
            assert!(at < BUCKETS && at >= last, "{value}");
            assert!(at == last || value >= 5_000 || at == last + 1, "{value}: every bucket is used");
            last = at;
            let capped = value.min((1 << LIMIT_BITS) - 1);
            assert!(upper_end(at) >= capped && upper_end(at) - capped <= capped / 64, "{value} in {at}");
        }
        assert_eq!(last, BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let histogram = Histogram::new();
        assert_eq!((histogram.count(), histogram.quantiles(0, [500, 990]), histogram.max()), (0, [0, 0], 0));
        for value in 1..=10_000u64 {
            histogram.record(value * 100);
        }
        let [p50, p99] = histogram.quantiles(histogram.count(), [500, 990]);
        assert!((500_000..=508_000).contains(&p50) && (990_000..=1_000_000).contains(&p99), "{p50} {p99}");
        histogram.record(1 << 50);
        assert_eq!((histogram.count(), histogram.max()), (10_001, 1 << 50));
        assert_eq!(histogram.sum(), 100 * 10_000 * 10_001 / 2 + (1 << 50));
    }

    #[test]
    fn how_many_lie_at_or_below_a_bound_is_exact_to_a_bucket() {
        let histogram = Histogram::new();
        for value in 1..=10_000u64 {
            histogram.record(value * 100);
        }
        let below = histogram.at_or_below([0, 50_000, 500_000, 1 << 36]);
        assert!(below[0] == 0 && below[3] == 10_000, "{below:?}");
        assert!((490..=500).contains(&below[1]) && (4_920..=5_000).contains(&below[2]), "{below:?}");
    }
}
