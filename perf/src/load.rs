//! Load on anything that takes entries and acknowledges them in order: the product's client and the skeleton's are driven
//! by the same code, so that what differs is what is measured.
//!
//! *Closed loop*: a fixed number of entries in flight; latency counts from the moment an entry was handed over. It says how
//! fast the system answers a client that waits, and nothing about one that does not.
//!
//! *Open loop*: entries are due at fixed times, whatever the system does, and latency counts from the due time. While the
//! system stalls, the entries that fall due meanwhile wait, and their wait is in the numbers (no coordinated omission). A
//! rate that was not kept is marked, because its percentiles then depend on how long one looks.
//!
//! Touches nothing but its target, whose clock it reads; called by `floor`, `bench` and `against`.

use crate::interrupt;
use crate::stats::Measured;
use anyhow::bail;
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

/// What load is put on.
pub(crate) trait Target {
    /// Hands one entry over; false if there is no room for it now.
    fn offer(&mut self) -> anyhow::Result<bool>;

    /// Sends what was offered, waits up to `max_wait` for acknowledgements, and tells how many entries they acknowledge.
    /// Acknowledgements come in the order of the offers.
    fn poll(&mut self, max_wait: Duration) -> anyhow::Result<u64>;

    /// The clock.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// When entries are offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// As soon as fewer than this many are in flight.
    Closed {
        /// Entries in flight.
        outstanding: usize,
    },
    /// At fixed times.
    Open {
        /// Entries a second.
        rate: u64,
        /// The most in flight; what is due beyond them waits in the generator.
        window: usize,
    },
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// When entries are offered.
    pub(crate) pace: Pace,
    /// Before this nothing counts.
    pub(crate) warm_up: Duration,
    /// How long it counts.
    pub(crate) measure: Duration,
}

/// A target that acknowledges nothing for this long has lost something, or died.
const STALL: Duration = Duration::from_secs(10);
/// After this part of the measured time, added to it, an open loop gives up on what it could not send.
const GRACE_DIVISOR: u32 = 10;
/// The share of its rate that an open loop must reach.
const KEPT: f64 = 0.99;
/// Not counted as time that it took: one stall at the very end delays the last entries, and says nothing about the rate.
const LAST_STALL: Duration = Duration::from_millis(50);

/// Runs one measurement.
pub(crate) fn run(target: &mut dyn Target, plan: &Plan) -> anyhow::Result<Measured> {
    let start = target.now();
    let from = start + plan.warm_up;
    let until = from + plan.measure;
    let load = Load {
        target,
        starts: VecDeque::new(),
        from,
        until,
        last_progress: start,
        ended_in_time: 0,
        last_counted: until,
        began: SystemTime::now() + plan.warm_up,
        measured: Measured::new(),
    };
    match plan.pace {
        Pace::Closed { outstanding } => load.closed(outstanding),
        Pace::Open { rate, window } => load.open(start, rate, window),
    }
}

/// A measurement under way.
struct Load<'a> {
    target: &'a mut dyn Target,
    /// When each entry in flight started, the oldest first.
    starts: VecDeque<Instant>,
    /// Entries count that start within `from..until`.
    from: Instant,
    until: Instant,
    last_progress: Instant,
    /// Acknowledgements within `from..until`.
    ended_in_time: u64,
    /// When the last entry that counts ended, if after `until`.
    last_counted: Instant,
    /// `from`, on the wall's clock.
    began: SystemTime,
    measured: Measured,
}

impl Load<'_> {
    fn closed(mut self, outstanding: usize) -> anyhow::Result<Measured> {
        loop {
            while self.starts.len() < outstanding && self.offer(None)? {}
            if self.poll(Duration::from_millis(100))? >= self.until {
                break;
            }
        }
        self.drain()?;
        self.measured.ended = self.ended_in_time;
        self.measured.elapsed = self.plan_length();
        self.close();
        Ok(self.measured)
    }

    fn open(mut self, start: Instant, rate: u64, window: usize) -> anyhow::Result<Measured> {
        let due =
            |index: u64| start + Duration::from_nanos((u128::from(index) * 1_000_000_000 / u128::from(rate)) as u64);
        // What fell due in time may be sent a little later: the generator's own last wait is nobody's fault.
        let give_up = self.until + self.plan_length() / GRACE_DIVISOR;
        let mut next = 0;
        let mut now = start;
        while due(next) < self.until && now < give_up {
            while due(next) <= now && due(next) < self.until && self.starts.len() < window {
                if !self.offer(Some(due(next)))? {
                    break;
                }
                next += 1;
            }
            let wait = due(next).min(self.until).saturating_duration_since(now);
            // What is due and had no room waits for acknowledgements, not for the clock.
            now = self.poll(if wait.is_zero() { Duration::from_millis(1) } else { wait })?;
        }
        self.drain()?;
        self.measured.ended = self.measured.latency_ns.len();
        self.measured.elapsed = self.last_counted - self.from;
        let unsent = self.give_up(next, due);
        self.judge(rate, unsent);
        self.close();
        Ok(self.measured)
    }

    fn close(&mut self) {
        self.measured.close(self.began, self.last_counted - self.from);
    }

    fn plan_length(&self) -> Duration {
        self.until - self.from
    }

    /// What fell due and was never sent is in the numbers with the time that it had waited by then: a lower bound.
    fn give_up(&mut self, first: u64, due: impl Fn(u64) -> Instant) -> u64 {
        let mut next = first;
        while due(next) < self.until {
            if due(next) >= self.from {
                let at = self.plan_length() - Duration::from_nanos(1);
                self.measured.record_at(self.until - due(next), self.began, at);
            }
            next += 1;
        }
        next - first
    }

    fn judge(&mut self, rate: u64, unsent: u64) {
        let took = self.measured.elapsed.saturating_sub(LAST_STALL).max(self.plan_length());
        let achieved = self.measured.ended as f64 / took.as_secs_f64();
        if unsent > 0 || achieved < KEPT * rate as f64 {
            self.measured.missed = Some(format!("{achieved:.0} of {rate} a second, {unsent} never sent"));
        }
    }

    /// Hands an entry over whose latency counts from `due`, or from now.
    fn offer(&mut self, due: Option<Instant>) -> anyhow::Result<bool> {
        let now = self.target.now();
        if !self.target.offer()? {
            return Ok(false);
        }
        if self.starts.is_empty() {
            self.last_progress = now;
        }
        self.starts.push_back(due.unwrap_or(now));
        Ok(true)
    }

    fn poll(&mut self, max_wait: Duration) -> anyhow::Result<Instant> {
        interrupt::check()?;
        let acknowledged = self.target.poll(max_wait)?;
        let now = self.target.now();
        for _ in 0..acknowledged {
            let Some(start) = self.starts.pop_front() else { bail!("more acknowledgements than entries") };
            if start >= self.from && start < self.until {
                // What ended late belongs to the last interval, which lasts until then.
                let at = now.saturating_duration_since(self.from).min(self.plan_length() - Duration::from_nanos(1));
                self.measured.record_at(now.saturating_duration_since(start), self.began, at);
                self.last_counted = self.last_counted.max(now);
            }
            self.ended_in_time += u64::from(now >= self.from && now < self.until);
        }
        if acknowledged > 0 {
            self.last_progress = now;
        } else if !self.starts.is_empty() && now - self.last_progress > STALL {
            bail!(
                "nothing was acknowledged for {STALL:?} with {} entries in flight: a datagram was lost, or a process died",
                self.starts.len()
            );
        }
        Ok(now)
    }

    /// Waits for what is in flight: its latencies count too, or the slowest would be left out.
    fn drain(&mut self) -> anyhow::Result<()> {
        while !self.starts.is_empty() {
            self.poll(Duration::from_millis(100))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acknowledges each entry `service` after its offer, but nothing while it stalls; time passes in polls only.
    struct Fake {
        now: Instant,
        service: Duration,
        stall: std::ops::Range<Instant>,
        offered: VecDeque<Instant>,
    }

    impl Fake {
        fn new(service_us: u64, stall_ms: std::ops::Range<u64>) -> Fake {
            let now = Instant::now();
            let at = |ms| now + Duration::from_millis(ms);
            let stall = at(stall_ms.start)..at(stall_ms.end);
            Fake { now, service: Duration::from_micros(service_us), stall, offered: VecDeque::new() }
        }

        fn ready(&self, offered: Instant) -> Instant {
            let ready = offered + self.service;
            if self.stall.contains(&ready) { self.stall.end } else { ready }
        }
    }

    impl Target for Fake {
        fn offer(&mut self) -> anyhow::Result<bool> {
            self.offered.push_back(self.now);
            Ok(true)
        }

        fn poll(&mut self, max_wait: Duration) -> anyhow::Result<u64> {
            let first = self.offered.front().map(|offered| self.ready(*offered));
            self.now = first.map_or(self.now + max_wait, |ready| ready.min(self.now + max_wait).max(self.now));
            let mut acknowledged = 0;
            while self.offered.front().is_some_and(|offered| self.ready(*offered) <= self.now) {
                self.offered.pop_front();
                acknowledged += 1;
            }
            Ok(acknowledged)
        }

        fn now(&self) -> Instant {
            self.now
        }
    }

    fn plan(pace: Pace) -> Plan {
        Plan { pace, warm_up: Duration::from_millis(100), measure: Duration::from_secs(1) }
    }

    #[test]
    fn a_closed_loop_keeps_its_number_in_flight() {
        let measured = run(&mut Fake::new(1_000, 0..0), &plan(Pace::Closed { outstanding: 4 })).unwrap();
        assert_eq!(measured.intervals.iter().map(|each| each.latency_ns.len()).sum::<u64>(), measured.latency_ns.len());
        let summary = measured.summary();
        assert!((3_990.0..4_010.0).contains(&summary.per_second), "{summary:?}");
        assert!((999.0..1_001.0).contains(&summary.p50_us), "{summary:?}");
    }

    #[test]
    fn a_stall_shows_in_an_open_loop_and_not_in_a_closed_one() {
        let stall = 500..600;
        let closed = run(&mut Fake::new(100, stall.clone()), &plan(Pace::Closed { outstanding: 1 })).unwrap();
        assert!(closed.summary().p99_us < 101.0, "one entry of nine thousand met the stall");
        let open = run(&mut Fake::new(100, stall), &plan(Pace::Open { rate: 1_000, window: 1_024 })).unwrap();
        let summary = open.summary();
        assert_eq!(summary.missed, None);
        assert_eq!(summary.operations, 1_000);
        // A tenth of the entries fell due in the stall; the median of those waited half of it.
        let waited = open.latency_ns.value_at_quantile(0.95) as f64 / 1e6;
        assert!((49.0..52.0).contains(&waited), "{waited} ms");
        assert!((95_000.0..101_000.0).contains(&summary.max_us), "{summary:?}");
    }

    #[test]
    fn a_rate_that_is_not_kept_is_marked_and_what_was_never_sent_is_counted() {
        let open = run(&mut Fake::new(10_000, 0..0), &plan(Pace::Open { rate: 1_000, window: 1 })).unwrap();
        let summary = open.summary();
        assert!(summary.missed.is_some());
        assert_eq!(summary.operations, 1_000, "each entry that fell due is in the numbers: {summary:?}");
        assert!(summary.p50_us > 400_000.0, "{summary:?}");
    }

    #[test]
    fn a_stall_at_the_very_end_is_no_missed_rate_and_a_small_overload_is() {
        // The warm-up is 100 ms, so the measured time ends at 1,100 ms.
        let open = Pace::Open { rate: 1_000, window: 1_024 };
        let stalled = run(&mut Fake::new(100, 1_080..1_120), &plan(open)).unwrap().summary();
        assert_eq!((stalled.missed, stalled.operations), (None, 1_000));
        assert!(stalled.max_us > 35_000.0, "but it is in the latencies");
        // One entry at a time, each taking 1.1 ms: 909 a second.
        let slow = run(&mut Fake::new(1_100, 0..0), &plan(Pace::Open { rate: 1_000, window: 1 })).unwrap();
        assert!(slow.summary().missed.is_some());
    }

    #[test]
    fn silence_is_an_error() {
        let error = run(&mut Fake::new(60_000_000, 0..0), &plan(Pace::Closed { outstanding: 1 })).unwrap_err();
        assert!(error.to_string().contains("1 entries in flight"), "{error}");
    }
}
