#!/usr/bin/env python3
"""Reads a report's interval logs and percentile files with HdrHistogram's Python package and compares them.

    perf/check-hlog.py DIR        a directory that --report wrote; needs `pip install hdrhistogram`

Both files of a series must tell the same: the intervals added up are the whole distribution.
Exit code 0: they agree; 1: they do not; 2: nothing was checked.
"""

import bisect
import sys
from pathlib import Path

try:
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogReader
except ImportError as error:
    print(f"hdrhistogram is not installed ({error}): pip install hdrhistogram", file=sys.stderr)
    sys.exit(2)

# As the programs record: nanoseconds up to a minute, three digits.
LONGEST_NS, DIGITS = 60_000_000_000, 3


def intervals(path):
    """The sum of a log's intervals, and how many there are."""
    total, count = HdrHistogram(1, LONGEST_NS, DIGITS), 0
    reader = HistogramLogReader(str(path), HdrHistogram(1, LONGEST_NS, DIGITS))
    while (interval := reader.get_next_interval_histogram()) is not None:
        if interval.get_end_time_stamp() < interval.get_start_time_stamp():
            raise ValueError(f"{path.name}: an interval ends before it starts")
        total.add(interval)
        count += 1
    return total, count


def steps(histogram):
    """Upper ends of the steps that hold something, nanoseconds, and the operations up to each."""
    found = [(step.value_iterated_to, step.total_count_to_this_value) for step in histogram.get_recorded_iterator()]
    return [value for value, _ in found], [count for _, count in found]


def percentiles(path):
    """The rows (value in nanoseconds, operations up to it) of a percentile file, and its total."""
    rows, total = [], None
    for line in path.read_text().splitlines()[2:]:
        if line.startswith("#[Max"):
            total = int(line.rsplit("=", 1)[1].strip(" ]"))
        elif not line.startswith("#"):
            value_us, _quantile, seen = line.split()[:3]
            rows.append((round(float(value_us) * 1e3), int(seen)))
    return rows, total


def check(log):
    total, count = intervals(log)
    rows, told = percentiles(log.with_suffix(".hgrm"))
    if total.get_total_count() != told:
        raise ValueError(f"{log.name}: {total.get_total_count()} operations in the intervals, {told} in the percentiles")
    values, counts = steps(total)
    for value_ns, seen in rows:
        at = bisect.bisect_right(values, value_ns)
        below = counts[at - 1] if at else 0
        if below != seen:
            raise ValueError(f"{log.name}: up to {value_ns} ns {below} operations in the intervals, {seen} in the percentiles")
    return f"{log.name}: {count} intervals, {told} operations, p50 {total.get_value_at_percentile(50) / 1e3:.1f} µs"


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    logs = sorted(Path(sys.argv[1]).glob("*.hlog"))
    if not logs:
        print(f"no interval logs in {sys.argv[1]}", file=sys.stderr)
        return 2
    try:
        for log in logs:
            print(check(log))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
