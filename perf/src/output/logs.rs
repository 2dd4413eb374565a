//! HdrHistogram's own file formats. Interval logs are in nanoseconds, as its tools expect; percentile files in
//! microseconds. `perf/check-hlog.py` reads both with the Python package and compares. Pure.

use crate::stats::Measured;
use anyhow::Context;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// The log shows the longest of each interval in milliseconds, as HdrHistogram's writers do; for people only.
const MAX_VALUE_DIVISOR: f64 = 1e6;
/// Lines of a percentile file between two halvings of the rest, HdrHistogram's default.
const TICKS_PER_HALF: u32 = 5;
const NS_PER_US: f64 = 1e3;

/// The interval log of a measurement.
pub(super) fn interval_log(title: &str, measured: &Measured) -> anyhow::Result<Vec<u8>> {
    let start = measured.intervals.first().map_or(SystemTime::UNIX_EPOCH, |first| first.start);
    let (mut bytes, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("[Histogram log format version 1.3]");
    builder.add_comment(&format!("{title}; values are nanoseconds"));
    builder.with_start_time(start).with_base_time(start).with_max_value_divisor(MAX_VALUE_DIVISOR);
    let mut log = builder.begin_log_with(&mut bytes, &mut serializer).context("cannot begin an interval log")?;
    for interval in &measured.intervals {
        let since = interval.start.duration_since(start).unwrap_or(Duration::ZERO);
        log.write_histogram(&interval.latency_ns, since, interval.length, None)
            .map_err(|error| anyhow::anyhow!("cannot write an interval: {error:?}"))?;
    }
    Ok(bytes)
}

/// The percentile file of a distribution, in HdrHistogram's text form.
pub(super) fn percentiles(latency_ns: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut seen = 0;
    for step in latency_ns.iter_quantiles(TICKS_PER_HALF) {
        seen += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / NS_PER_US, step.quantile_iterated_to());
        line(&mut text, &format!("{value:12.3} {quantile:14.12} {seen:10}"));
        if quantile < 1.0 {
            text.pop();
            line(&mut text, &format!(" {:14.2}", 1.0 / (1.0 - quantile)));
        }
    }
    let us = |ns: f64| ns / NS_PER_US;
    let (mean, deviation) = (us(latency_ns.mean()), us(latency_ns.stdev()));
    line(&mut text, &format!("#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]"));
    let (max, total) = (us(latency_ns.max() as f64), latency_ns.len());
    line(&mut text, &format!("#[Max     = {max:12.3}, Total count    = {total:12}]"));
    // Of each bucket but the first only the upper half is in use, so the slots are this many halves.
    let sub_buckets = 2 * latency_ns.distinct_values() / (usize::from(latency_ns.buckets()) + 1);
    line(&mut text, &format!("#[Buckets = {:12}, SubBuckets     = {sub_buckets:12}]", latency_ns.buckets()));
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use base64::prelude::{BASE64_STANDARD, Engine};
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn an_interval_log_reads_back_as_what_was_measured() {
        let measured = samples::measured(500);
        let log = interval_log("a test", &measured).unwrap();
        let entries: Vec<LogEntry> = IntervalLogIterator::new(&log).map(|entry| entry.unwrap()).collect();
        let intervals: Vec<_> = entries
            .iter()
            .filter_map(|entry| match entry {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .collect();
        assert_eq!(intervals.len(), 2);
        assert_eq!(intervals[1].start_timestamp(), Duration::from_secs(1));
        let mut all = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        for interval in intervals {
            let bytes = BASE64_STANDARD.decode(interval.encoded_histogram()).unwrap();
            all += Deserializer::new().deserialize::<u64, _>(&mut bytes.as_slice()).unwrap();
        }
        assert_eq!(all, measured.latency_ns);
    }

    #[test]
    fn a_percentile_file_has_the_form_that_others_parse() {
        let measured = samples::measured(500);
        let text = percentiles(&measured.latency_ns);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
        );
        assert_eq!(lines[1], "");
        let rows = lines.iter().filter(|line| !line.starts_with('#')).skip(2);
        let rows: Vec<Vec<f64>> =
            rows.map(|row| row.split_whitespace().map(|cell| cell.parse().unwrap()).collect()).collect();
        assert!(rows.is_sorted_by(|left, right| left[0] <= right[0] && left[1] <= right[1]), "{text}");
        let last = rows.last().unwrap();
        assert_eq!((last.len(), last[1], last[2]), (3, 1.0, 2_000.0));
        assert!((598.0..601.0).contains(&last[0]), "microseconds: {last:?}");
        assert!(text.contains("SubBuckets     =         2048]"), "{text}");
    }
}
