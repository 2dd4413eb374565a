//! The closed loop, by the rules of `perf/src/load.rs`: a number of entries in flight; latency counts from the moment an
//! entry was handed over; entries count that start within the measured time, and what is in flight at its end is waited for.

use crate::contract::Level;
use anyhow::bail;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// The longest latency told apart.
const LONGEST_NS: u64 = 60_000_000_000;
/// A peer that acknowledges nothing for this long has died.
const STALL: Duration = Duration::from_secs(10);
/// The longest wait of one poll.
const POLL: Duration = Duration::from_millis(100);

/// What load is put on.
pub(crate) trait Target {
    /// Hands an entry over that starts at `start`. It may be sent by the next poll only.
    fn offer(&mut self, start: Instant) -> anyhow::Result<()>;

    /// Sends what was offered, waits up to `max_wait` for acknowledgements, and adds the start of each entry that they
    /// acknowledge to `ended`.
    fn poll(&mut self, max_wait: Duration, ended: &mut Vec<Instant>) -> anyhow::Result<()>;
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Entries in flight.
    pub(crate) outstanding: usize,
    /// Before this nothing counts.
    pub(crate) warm_up: Duration,
    /// How long it counts.
    pub(crate) measure: Duration,
}

/// Runs one measurement; tells how many entries were acknowledged in all, those of the warm-up included.
pub(crate) fn run(target: &mut dyn Target, plan: Plan) -> anyhow::Result<(Level, u64)> {
    let from = Instant::now() + plan.warm_up;
    let until = from + plan.measure;
    let mut latency = Histogram::<u64>::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid");
    let (mut in_flight, mut acknowledged, mut in_time) = (0, 0, 0);
    let mut last_progress = Instant::now();
    let mut ended = Vec::with_capacity(plan.outstanding);
    let mut offering = true;
    while offering || in_flight > 0 {
        while offering && in_flight < plan.outstanding {
            target.offer(Instant::now())?;
            in_flight += 1;
        }
        target.poll(POLL, &mut ended)?;
        let now = Instant::now();
        offering = now < until;
        match ended.len() {
            0 if now - last_progress > STALL => bail!("no acknowledgement for {STALL:?} with {in_flight} in flight"),
            0 => {}
            _ => last_progress = now,
        }
        for start in ended.drain(..) {
            in_flight -= 1;
            acknowledged += 1;
            in_time += u64::from(now >= from && now < until);
            if start >= from && start < until {
                latency.saturating_record((now - start).as_nanos() as u64);
            }
        }
    }
    let level = Level {
        outstanding: plan.outstanding,
        ended: in_time,
        elapsed_ns: plan.measure.as_nanos() as u64,
        latency_ns: latency.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect(),
    };
    Ok((level, acknowledged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Acknowledges the oldest entry at each poll.
    struct Fake {
        starts: VecDeque<Instant>,
        most: usize,
        dead: bool,
    }

    impl Target for Fake {
        fn offer(&mut self, start: Instant) -> anyhow::Result<()> {
            self.starts.push_back(start);
            self.most = self.most.max(self.starts.len());
            Ok(())
        }

        fn poll(&mut self, _max_wait: Duration, ended: &mut Vec<Instant>) -> anyhow::Result<()> {
            if self.dead {
                bail!("it died");
            }
            ended.extend(self.starts.pop_front());
            Ok(())
        }
    }

    const PLAN: Plan = Plan { outstanding: 4, warm_up: Duration::from_millis(5), measure: Duration::from_millis(20) };

    #[test]
    fn the_loop_keeps_its_number_in_flight_and_waits_for_all() {
        let mut fake = Fake { starts: VecDeque::new(), most: 0, dead: false };
        let (level, acknowledged) = run(&mut fake, PLAN).unwrap();
        assert_eq!((fake.most, fake.starts.len()), (4, 0));
        let counted: u64 = level.latency_ns.iter().map(|(_, count)| count).sum();
        assert!(
            counted > 0 && level.ended > 0 && acknowledged > counted,
            "the warm-up is not in the numbers: {level:?}"
        );
    }

    #[test]
    fn an_error_of_the_target_ends_it() {
        let mut fake = Fake { starts: VecDeque::new(), most: 0, dead: true };
        assert!(run(&mut fake, PLAN).unwrap_err().to_string().contains("died"));
    }
}
