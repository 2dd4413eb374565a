//! Appends a stream of entries with many in flight, and measures what it gets: the common part of `synod append` and the
//! demo. One thread; touches the session's socket only.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use synod_client::{Ack, Appender, ClientError, Condition};

/// The longest latency that is told apart: beyond it the deadline has long passed.
const MAX_LATENCY_US: u64 = 3_600_000_000;

/// A session under load.
pub struct Pipeline {
    appender: Appender,
    /// When each entry in flight was offered, the oldest first: acknowledgements come in that order.
    offered: VecDeque<Instant>,
    measured: Measured,
}

/// What was measured since [`Pipeline::measure_anew`].
#[derive(Clone, Debug)]
pub struct Measured {
    /// From offer to acknowledgement, microseconds.
    pub latency_us: Histogram<u64>,
    /// Entries acknowledged.
    pub entries: u64,
    /// When measuring began.
    pub started: Instant,
    /// The last acknowledgement, or the start.
    pub last_ack: Instant,
    /// The longest time without an acknowledgement while entries were in flight.
    pub longest_gap: Duration,
}

/// How much was done, and how fast.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Entries acknowledged.
    pub entries: u64,
    /// From the start to the last acknowledgement.
    pub seconds: f64,
    /// Entries a second.
    pub entries_per_second: f64,
    /// How long they took.
    #[serde(flatten)]
    pub latency: Latency,
}

/// From offer to acknowledgement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// The median.
    pub p50_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The 99.9th percentile.
    pub p999_us: u64,
    /// The worst.
    pub max_us: u64,
}

impl Measured {
    fn new() -> Measured {
        let now = Instant::now();
        let latency_us = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("the bounds are valid");
        Measured { latency_us, entries: 0, started: now, last_ack: now, longest_gap: Duration::ZERO }
    }

    fn ack(&mut self, offered: Instant, now: Instant) {
        let waited = now.saturating_duration_since(offered);
        self.latency_us.saturating_record(waited.as_micros().max(1) as u64);
        self.entries += 1;
        // An entry that was offered after the last acknowledgement did not wait since then.
        self.longest_gap = self.longest_gap.max(now.saturating_duration_since(self.last_ack.max(offered)));
        self.last_ack = now;
    }

    /// Adds what was measured in another phase, which came later.
    pub fn absorb(&mut self, later: &Measured) {
        self.latency_us.add(&later.latency_us).expect("all histograms have the same bounds");
        self.entries += later.entries;
        self.last_ack = later.last_ack;
        self.longest_gap = self.longest_gap.max(later.longest_gap);
    }

    /// The numbers.
    pub fn summary(&self) -> Summary {
        let seconds = self.last_ack.saturating_duration_since(self.started).as_secs_f64();
        let entries_per_second = if seconds > 0.0 { self.entries as f64 / seconds } else { 0.0 };
        Summary { entries: self.entries, seconds, entries_per_second, latency: self.latency() }
    }

    /// The latency alone.
    pub fn latency(&self) -> Latency {
        let at = |quantile| self.latency_us.value_at_quantile(quantile);
        Latency { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), max_us: self.latency_us.max() }
    }
}

impl Pipeline {
    /// Over an open session.
    pub fn new(appender: Appender) -> Pipeline {
        Pipeline { appender, offered: VecDeque::new(), measured: Measured::new() }
    }

    /// The session.
    pub fn appender(&self) -> &Appender {
        &self.appender
    }

    /// What was measured so far.
    pub fn measured(&self) -> &Measured {
        &self.measured
    }

    /// Starts measuring anew; gives what was measured until now. A wait for an acknowledgement that spans the two counts
    /// whole in the second.
    pub fn measure_anew(&mut self) -> Measured {
        let last_ack = self.measured.last_ack;
        std::mem::replace(&mut self.measured, Measured { last_ack, ..Measured::new() })
    }

    /// Entries without an acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.offered.len()
    }

    /// Whether the session goes on after an error.
    pub fn is_open(&self) -> bool {
        self.appender.client().core().closed().is_none()
    }

    /// Offers an entry; waits only while the window is full.
    pub fn push(&mut self, entry: &[u8], on_ack: &mut dyn FnMut(Ack)) -> Result<u64, ClientError> {
        self.push_if(entry, Condition::default(), on_ack)
    }

    /// The same for an entry that is appended on a condition. That it was not is an error of a later call, behind which
    /// nothing is measured any more.
    pub fn push_if(
        &mut self,
        entry: &[u8],
        condition: Condition,
        on_ack: &mut dyn FnMut(Ack),
    ) -> Result<u64, ClientError> {
        let Pipeline { appender, offered, measured } = self;
        // Noted first: its acknowledgement can come only after this call, but those of others come within.
        let now = Instant::now();
        let client_seq = appender.push_if(entry, condition, &mut |ack| settle(offered, measured, on_ack, ack))?;
        offered.push_back(now);
        Ok(client_seq)
    }

    /// Sends and receives for at most `wait`, or until nothing is in flight.
    pub fn turn(&mut self, wait: Duration, on_ack: &mut dyn FnMut(Ack)) -> Result<(), ClientError> {
        let Pipeline { appender, offered, measured } = self;
        match appender.flush(wait, &mut |ack| settle(offered, measured, on_ack, ack)) {
            // The wait was the caller's, and the session goes on.
            Err(ClientError::Timeout { .. }) if appender.client().core().closed().is_none() => Ok(()),
            other => other,
        }
    }

    /// Waits until everything is acknowledged, or the session's deadline ends it.
    pub fn drain(&mut self, on_ack: &mut dyn FnMut(Ack)) -> Result<(), ClientError> {
        while self.in_flight() > 0 {
            self.turn(Duration::from_secs(60), on_ack)?;
        }
        Ok(())
    }
}

fn settle(offered: &mut VecDeque<Instant>, measured: &mut Measured, on_ack: &mut dyn FnMut(Ack), ack: Ack) {
    let since = offered.pop_front().expect("every acknowledgement is for an entry that was offered");
    measured.ack(since, Instant::now());
    on_ack(ack);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_only_while_something_waits() {
        let mut measured = Measured::new();
        let start = measured.started;
        let at = |ms| start + Duration::from_millis(ms);
        measured.ack(at(0), at(1));
        // Nothing was in flight from 1 to 500 ms.
        measured.ack(at(500), at(502));
        assert_eq!(measured.longest_gap, Duration::from_millis(2));
        measured.ack(at(501), at(590));
        assert_eq!(measured.longest_gap, Duration::from_millis(88));
        let summary = measured.summary();
        assert_eq!((summary.entries, summary.seconds), (3, 0.59));
        assert!(summary.latency.max_us >= 89_000 && summary.latency.p50_us <= 2_001);
    }
}
