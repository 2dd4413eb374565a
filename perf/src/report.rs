//! Text for people: one line a measurement, in columns that stay where they are. Pure.

use crate::stats::{Spread, Summary};

/// How to read figures and ratios; for those who see nothing but a report.
pub(crate) const LEGEND: &str = "What is compared runs alternately, round by round; the ratio of each round counts, because a \
                                 shared machine drifts and neighbours drift alike. Closed loops: latency from the hand-over. \
                                 Open loops: from the time at which the operation was due.";

/// The heading over [`line`].
pub(crate) fn heading(first: &str) -> String {
    format!("{first:<44} {:>10} {:>10} {:>10} {:>12}", "p50 µs", "p99 µs", "p99.9 µs", "ops/s")
}

/// One measurement. A rate that was not kept is marked.
pub(crate) fn line(what: &str, summary: &Summary) -> String {
    let Summary { p50_us, p99_us, p999_us, per_second, missed, .. } = summary;
    let mark = missed.as_ref().map_or(String::new(), |why| format!("  FAIL: {why}"));
    format!("{what:<44} {p50_us:>10.1} {p99_us:>10.1} {p999_us:>10.1} {per_second:>12.0}{mark}")
}

/// How the rounds lie around their median.
pub(crate) fn spread(what: &str, spread: &Spread) -> String {
    format!("{what:<44} {:.2} (rounds {:.2} to {:.2})", spread.median, spread.min, spread.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_headings_and_a_missed_rate_is_marked() {
        let mut summary = Summary {
            operations: 10,
            per_second: 1234.4,
            p50_us: 300.04,
            p99_us: 1_000.0,
            p999_us: 2_000.0,
            max_us: 3_000.0,
            missed: None,
        };
        let (heading, kept) = (heading("what"), line("skeleton", &summary));
        assert_eq!(heading.chars().count(), kept.chars().count());
        assert!(kept.ends_with("1234") && kept.contains(" 300.0 "), "{kept}");
        summary.missed = Some("90 of 100 a second".into());
        assert!(line("skeleton", &summary).ends_with("FAIL: 90 of 100 a second"));
    }
}
