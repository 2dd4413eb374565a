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
//! Touches nothing but its target, whose clock it reads; called by `floor`, `bench`, `against` and the scenarios.

use crate::interrupt;
use crate::stats::Measured;
use anyhow::{bail, ensure};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// What a scene tells the load beside it.
#[derive(Debug, Default)]
pub(crate) struct Cues {
    stop: AtomicBool,
    part: AtomicUsize,
}

impl Cues {
    /// The next part of the scene begins: what ends from now on is told apart from what ended before.
    pub(crate) fn next_part(&self) {
        self.part.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs one measurement.
pub(crate) fn run(target: &mut dyn Target, plan: &Plan) -> anyhow::Result<Measured> {
    Ok(run_until(target, plan, &Cues::default())?.whole)
}

/// What was measured beside a scene.
pub(crate) struct Beside {
    /// All of it.
    pub(crate) whole: Measured,
    /// Each part of the scene, without intervals. An entry belongs to the part in which it ended.
    pub(crate) parts: Vec<Measured>,
}

/// Runs load beside `scene`, on a thread of its own, and ends it when that has ended. `plan` bounds it: load that ends
/// before its scene is an error.
pub(crate) fn beside<T>(
    target: &mut (dyn Target + Send),
    plan: &Plan,
    scene: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Measured, T)> {
    let (beside, played) = beside_parts(target, plan, |_| scene())?;
    Ok((beside.whole, played))
}

/// The same with a scene that says when a part of it ends.
pub(crate) fn beside_parts<T>(
    target: &mut (dyn Target + Send),
    plan: &Plan,
    scene: impl FnOnce(&Cues) -> anyhow::Result<T>,
) -> anyhow::Result<(Beside, T)> {
    let cues = Cues::default();
    let (loaded, played) = std::thread::scope(|scope| {
        let load = scope.spawn(|| run_until(target, plan, &cues));
        let played = scene(&cues);
        let ended = load.is_finished();
        cues.stop.store(true, Ordering::Relaxed);
        let loaded = load.join().expect("a load that panics ends the program");
        (loaded.map(|measured| (measured, ended)), played)
    });
    // A load that failed is the cause of a scene that waited in vain.
    let ((measured, ended), played) = (loaded?, played?);
    ensure!(!ended, "the load ended after {:?}, before the scene beside it", plan.measure);
    Ok((measured, played))
}

/// Runs the same measurement on several targets at once, each on a thread of its own; their sum.
pub(crate) fn run_beside<T: Target + Send>(targets: &mut [T], plan: &Plan) -> anyhow::Result<Measured> {
    if let [target] = targets {
        return run(target, plan);
    }
    let all = std::thread::scope(|scope| {
        let running: Vec<_> = targets.iter_mut().map(|target| scope.spawn(|| run(target, plan))).collect();
        let joined = running.into_iter().map(|load| load.join().expect("a load that panics ends the program"));
        joined.collect::<Result<Vec<Measured>, _>>()
    })?;
    let mut sum = Measured::new();
    all.iter().for_each(|measured| sum.add_beside(measured));
    Ok(sum)
}

/// Runs one measurement, which ends early once it is told to: what is due by then counts.
fn run_until(target: &mut dyn Target, plan: &Plan, cues: &Cues) -> anyhow::Result<Beside> {
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
        last_counted: from,
        began: SystemTime::now() + plan.warm_up,
        measured: Measured::new(),
        parts: vec![Measured::new()],
        part_from: from,
        cues,
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
    /// When the last entry that counts ended.
    last_counted: Instant,
    /// `from`, on the wall's clock.
    began: SystemTime,
    measured: Measured,
    /// The last one goes on.
    parts: Vec<Measured>,
    part_from: Instant,
    cues: &'a Cues,
}

impl Load<'_> {
    fn closed(mut self, outstanding: usize) -> anyhow::Result<Beside> {
        loop {
            while self.starts.len() < outstanding && self.offer(None)? {}
            if self.poll(Duration::from_millis(100))? >= self.until {
                break;
            }
        }
        self.drain()?;
        self.measured.ended = self.ended_in_time;
        self.measured.elapsed = self.plan_length();
        Ok(self.close())
    }

    fn open(mut self, start: Instant, rate: u64, window: usize) -> anyhow::Result<Beside> {
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
        self.measured.elapsed = self.last_counted.max(self.until) - self.from;
        let unsent = self.give_up(next, due);
        self.judge(rate, unsent);
        Ok(self.close())
    }

    fn close(mut self) -> Beside {
        self.measured.close(self.began, self.last_counted.max(self.until) - self.from);
        self.end_part(self.until);
        Beside { whole: self.measured, parts: self.parts }
    }

    /// The part that goes on ends.
    fn end_part(&mut self, at: Instant) {
        let part = self.parts.last_mut().expect("there is always one");
        part.ended = part.latency_ns.len();
        part.elapsed = at.saturating_duration_since(self.part_from);
        self.part_from = self.part_from.max(at);
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
        if self.cues.stop.load(Ordering::Relaxed) {
            self.until = self.until.min(now.max(self.from));
        }
        while self.parts.len() <= self.cues.part.load(Ordering::Relaxed) {
            self.end_part(now);
            self.parts.push(Measured::new());
        }
        for _ in 0..acknowledged {
            let Some(start) = self.starts.pop_front() else { bail!("more acknowledgements than entries") };
            if start >= self.from && start < self.until {
                // What ended late belongs to the last interval, which lasts until then.
                let at = now.saturating_duration_since(self.from).min(self.plan_length() - Duration::from_nanos(1));
                let latency = now.saturating_duration_since(start);
                self.measured.record_at(latency, self.began, at);
                self.parts.last_mut().expect("there is always one").record(latency);
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
        /// The next part begins, or the load ends, at the instant.
        next_part: Option<(Instant, std::sync::Arc<Cues>)>,
        ends: Option<(Instant, std::sync::Arc<Cues>)>,
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
            Fake {
                next_part: None,
                ends: None,
                now,
                service: Duration::from_micros(service_us),
                stall,
                offered: VecDeque::new(),
            }
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
            if let Some((_, cues)) = self.next_part.take_if(|(at, _)| *at <= self.now) {
                cues.next_part();
            }
            if let Some((_, cues)) = self.ends.as_ref().filter(|(at, _)| *at <= self.now) {
                cues.stop.store(true, Ordering::Relaxed);
            }
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
    fn an_open_loop_that_is_ended_early_is_judged_by_the_time_until_then() {
        let mut fake = Fake::new(100, 0..0);
        let cues = std::sync::Arc::new(Cues::default());
        fake.ends = Some((fake.now + Duration::from_millis(600), cues.clone()));
        let long = Plan { measure: Duration::from_secs(1_000), ..plan(Pace::Open { rate: 1_000, window: 64 }) };
        let summary = run_until(&mut fake, &long, &cues).unwrap().whole.summary();
        assert_eq!(summary.missed, None);
        assert!((495..=501).contains(&summary.operations), "half a second after the warm-up: {summary:?}");
    }

    #[test]
    fn the_parts_of_a_scene_are_told_apart() {
        // The warm-up is 100 ms; the second part has the stall.
        let mut fake = Fake::new(1_000, 500..550);
        let cues = std::sync::Arc::new(Cues::default());
        fake.next_part = Some((fake.now + Duration::from_millis(400), cues.clone()));
        fake.ends = Some((fake.now + Duration::from_millis(600), cues.clone()));
        let Beside { whole, parts } = run_until(&mut fake, &plan(Pace::Closed { outstanding: 1 }), &cues).unwrap();
        let [first, second] = &parts[..] else { panic!("{} parts", parts.len()) };
        assert_eq!(first.latency_ns.len() + second.latency_ns.len(), whole.latency_ns.len());
        let (first, second) = (first.summary(), second.summary());
        assert!((298..=301).contains(&first.operations) && first.max_us < 1_100.0, "{first:?}");
        assert!((148..=152).contains(&second.operations) && second.max_us > 49_000.0, "{second:?}");
        assert!((995.0..1_005.0).contains(&first.per_second), "{first:?}");
        assert!((740.0..760.0).contains(&second.per_second), "{second:?}");
    }

    #[test]
    fn load_beside_a_scene_ends_with_it_and_a_failed_scene_is_told() {
        let mut fake = Fake::new(100, 0..0);
        let long = Plan { measure: Duration::from_secs(1_000_000_000), ..plan(Pace::Closed { outstanding: 1 }) };
        let (measured, played) = beside(&mut fake, &long, || Ok(7)).unwrap();
        assert_eq!((played, measured.missed), (7, None));
        let failed = beside(&mut Fake::new(100, 0..0), &long, || -> anyhow::Result<()> { bail!("the scene") });
        assert!(failed.unwrap_err().to_string().contains("the scene"));
    }

    #[test]
    fn silence_is_an_error() {
        let error = run(&mut Fake::new(60_000_000, 0..0), &plan(Pace::Closed { outstanding: 1 })).unwrap_err();
        assert!(error.to_string().contains("1 entries in flight"), "{error}");
    }
}
