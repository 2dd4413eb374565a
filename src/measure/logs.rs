//! HdrHistogram's own file formats. Interval logs are in nanoseconds, as its tools expect; percentile files in
//! microseconds. `perf/check-hlog.py` reads both with the Python package and compares. [`write`] alone touches a file.

use super::stats::Interval;
use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The log shows the longest of each interval in milliseconds, as HdrHistogram's writers do; for people only.
const MAX_VALUE_DIVISOR: f64 = 1e6;
/// Lines of a percentile file between two halvings of the rest, HdrHistogram's default.
const TICKS_PER_HALF: u32 = 5;
const NS_PER_US: f64 = 1e3;

/// The intervals of one thing that was measured, and the tag that tells them from others in the same log.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    /// Without commas, spaces and line feeds; none where the log holds nothing else.
    pub tag: Option<&'a str>,
    /// In the order of their starts.
    pub intervals: &'a [Interval],
}

/// The interval log of what was measured, in the order in which the intervals began.
pub fn interval_log(title: &str, series: &[Series<'_>]) -> anyhow::Result<Vec<u8>> {
    let mut all: Vec<(Option<&str>, &Interval)> =
        series.iter().flat_map(|one| one.intervals.iter().map(|interval| (one.tag, interval))).collect();
    all.sort_by_key(|(_, interval)| interval.start);
    let start = all.first().map_or(SystemTime::UNIX_EPOCH, |(_, first)| first.start);
    let (mut bytes, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("[Histogram log format version 1.3]");
    builder.add_comment(&format!("{title}; values are nanoseconds"));
    builder.with_start_time(start).with_base_time(start).with_max_value_divisor(MAX_VALUE_DIVISOR);
    let mut log = builder.begin_log_with(&mut bytes, &mut serializer).context("cannot begin an interval log")?;
    for (tag, interval) in all {
        let since = interval.start.duration_since(start).unwrap_or(Duration::ZERO);
        let tag = tag.map(|tag| Tag::new(tag).with_context(|| format!("{tag:?} cannot be a tag"))).transpose()?;
        log.write_histogram(&interval.latency_ns, since, interval.length, tag)
            .map_err(|error| anyhow::anyhow!("cannot write an interval: {error:?}"))?;
    }
    Ok(bytes)
}

/// Writes what was measured into a file, in the form that the end of its name says: `.hlog` takes all series, `.hgrm` the
/// distribution `whole`.
pub fn write(file: &Path, title: &str, series: &[Series<'_>], whole: &Histogram<u64>) -> anyhow::Result<()> {
    let bytes = match file.extension().and_then(|end| end.to_str()) {
        Some("hlog") => interval_log(title, series)?,
        Some("hgrm") => percentiles(whole).into_bytes(),
        _ => bail!("{} ends neither in .hlog (all, interval by interval) nor in .hgrm (percentiles)", file.display()),
    };
    std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

/// The percentile file of a distribution, in HdrHistogram's text form.
pub fn percentiles(latency_ns: &Histogram<u64>) -> String {
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
    use super::*;
    use crate::measure::stats::Measured;
    use base64::prelude::{BASE64_STANDARD, Engine};
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn measured(micros: u64) -> Measured {
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut measured = Measured::new();
        for index in 0..2_000u64 {
            let latency = Duration::from_micros(micros + index % 100);
            measured.record_at(latency, began, Duration::from_millis(index));
        }
        measured.close(began, Duration::from_secs(2));
        measured
    }

    #[test]
    fn an_interval_log_reads_back_as_what_was_measured() {
        let measured = measured(500);
        let log = interval_log("a test", &[Series { tag: None, intervals: &measured.intervals }]).unwrap();
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
        let measured = measured(500);
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
    #[test]
    fn several_series_lie_in_one_log_by_their_tags_and_a_file_is_of_the_form_that_its_name_says() {
        let (one, other) = (measured(500), measured(900));
        let series = [
            Series { tag: Some("a"), intervals: &one.intervals },
            Series { tag: Some("b"), intervals: &other.intervals },
        ];
        let log = interval_log("a test", &series).unwrap();
        let tags: Vec<String> = IntervalLogIterator::new(&log)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => interval.tag().map(|tag| tag.as_str().to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(tags, ["a", "b", "a", "b"], "in the order of their starts");
        assert!(interval_log("a test", &[Series { tag: Some("a b"), intervals: &one.intervals }]).is_err());

        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        write(&file("x.hlog"), "a test", &series, &one.latency_ns).unwrap();
        assert_eq!(std::fs::read(file("x.hlog")).unwrap(), log);
        write(&file("x.hgrm"), "a test", &series, &one.latency_ns).unwrap();
        assert_eq!(std::fs::read_to_string(file("x.hgrm")).unwrap(), percentiles(&one.latency_ns));
        assert!(write(&file("x.txt"), "a test", &series, &one.latency_ns).unwrap_err().to_string().contains(".hgrm"));
    }
}
