//! How many log writes in flight pay: found while the log is written, since it is a matter of the device, of what shares it, and of
//! the load. Devices that take synced writes one after the other gain nothing by a second one but smaller groups; others end
//! both in the time of one.
//!
//! From time to time, a trial: stretches of flushes are written with the preferred number in flight and with the next higher or
//! lower power of two in turn, so that both meet the same neighbours, and the ages of the flushes are compared: from the first
//! record that gathered until all of it is durable, for each record of the flush (or many small young flushes would speak for
//! the few that hold most). The other number takes over if it was clearly younger. Only flushes that met
//! another one in flight bring the next trial nearer: without them there is nothing to choose. Pure: numbers in, a number out.
//! Called by: `flush.rs`.

/// Flushes of a stretch, and those at its start that still stem from the one before it.
const STRETCH: usize = 24;
const SETTLING: usize = 8;
/// Stretches of a trial, half of them each way.
const STRETCHES: usize = 4;
/// The oldest flushes of each side that do not count: hiccups of the host decide nothing.
const HICCUPS: usize = 2;
const COUNTED: usize = STRETCHES / 2 * (STRETCH - SETTLING);
/// Flushes that met others before the first trial, and after a change; doubled by each trial that changes nothing.
const INTERVAL_MIN: u32 = 128;
const INTERVAL_MAX: u32 = 16_384;
/// The other number takes over if its flushes have less than this share of the age, in percent.
const CLEARLY_YOUNGER_PERCENT: u64 = 92;

/// The number of writes in flight, and how it is found.
#[derive(Debug)]
pub(crate) struct Depth {
    most: usize,
    preferred: usize,
    /// Whether the next trial is with more, or with fewer.
    upward: bool,
    interval: u32,
    until_next: u32,
    trial: Option<Trial>,
    /// Ages of the flushes of the trial, with the preferred number and with the other; room was made at the start.
    ages: [Vec<Age>; 2],
}

/// How old a flush became, and its records.
#[derive(Clone, Copy, Debug)]
struct Age {
    ns: u64,
    records: u64,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    other: usize,
    /// Flushes that ended since its start.
    ended: usize,
}

impl Trial {
    /// Which number its current stretch is for: 0 the preferred one, 1 the other.
    fn side(self) -> usize {
        self.ended / STRETCH % 2
    }
}

impl Depth {
    /// `most` in flight; as many always, or what is found to pay.
    pub(crate) fn new(most: usize, adapts: bool) -> Depth {
        let ages = || Vec::with_capacity(COUNTED);
        Depth {
            most,
            preferred: if adapts { 1 } else { most },
            upward: true,
            interval: INTERVAL_MIN,
            until_next: if adapts && most > 1 { INTERVAL_MIN } else { u32::MAX },
            trial: None,
            ages: [ages(), ages()],
        }
    }

    /// The most writes in flight now.
    pub(crate) fn limit(&self) -> usize {
        match self.trial {
            Some(trial) if trial.side() == 1 => trial.other,
            _ => self.preferred,
        }
    }

    /// A flush of so many records is durable; whether it met another one in flight, and how long after its first record.
    pub(crate) fn ended(&mut self, met_another: bool, records: u64, age_ns: u64) {
        if self.until_next == u32::MAX {
            return;
        }
        let Some(trial) = &mut self.trial else {
            self.until_next -= u32::from(met_another);
            if self.until_next == 0 {
                self.trial = Some(Trial { other: self.next_other(), ended: 0 });
            }
            return;
        };
        if trial.ended % STRETCH >= SETTLING {
            self.ages[trial.side()].push(Age { ns: age_ns, records });
        }
        trial.ended += 1;
        let Trial { other, ended } = *trial;
        if ended == STRETCHES * STRETCH {
            self.conclude(other);
        }
    }

    fn next_other(&self) -> usize {
        let (more, fewer) = ((self.preferred * 2).min(self.most), (self.preferred / 2).max(1));
        let wanted = if self.upward { more } else { fewer };
        if wanted != self.preferred { wanted } else { more + fewer - self.preferred }
    }

    fn conclude(&mut self, other: usize) {
        let means_ns = [0, 1].map(|side: usize| {
            let ages = &mut self.ages[side];
            ages.sort_unstable_by_key(|age| age.ns);
            let counted = &ages[..COUNTED - HICCUPS];
            let weighted: u128 = counted.iter().map(|age| u128::from(age.ns) * u128::from(age.records)).sum();
            let records: u64 = counted.iter().map(|age| age.records).sum();
            ages.clear();
            (weighted / u128::from(records.max(1))) as u64
        });
        self.trial = None;
        if means_ns[1].saturating_mul(100) < means_ns[0].saturating_mul(CLEARLY_YOUNGER_PERCENT) {
            self.upward = other > self.preferred;
            self.preferred = other;
            self.interval = INTERVAL_MIN;
        } else {
            self.upward = !self.upward;
            self.interval = (self.interval * 2).min(INTERVAL_MAX);
        }
        self.until_next = self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flushes whose age depends on how many are in flight.
    fn run(depth: &mut Depth, flushes: u32, met_another: bool, age_ns: impl Fn(usize) -> u64) {
        for _ in 0..flushes {
            let age_ns = age_ns(depth.limit());
            depth.ended(met_another, 1, age_ns);
        }
    }

    #[test]
    fn a_fixed_number_stays() {
        let mut depth = Depth::new(3, false);
        run(&mut depth, 100_000, true, |limit| 1_000 * limit as u64);
        assert_eq!(depth.limit(), 3);
        assert_eq!(Depth::new(1, true).limit(), 1);
    }

    #[test]
    fn a_parallel_device_is_given_more() {
        let mut depth = Depth::new(4, true);
        run(&mut depth, 2_000, true, |limit| 300_000 / limit as u64);
        assert_eq!(depth.preferred, 4);
    }

    #[test]
    fn a_device_that_takes_one_after_the_other_is_given_one() {
        let mut depth = Depth::new(4, true);
        run(&mut depth, 100_000, true, |limit| 100_000 + 50_000 * limit as u64);
        assert_eq!(depth.preferred, 1);
        // Trials touch a small part of the flushes.
        let mut tried = 0;
        for _ in 0..100_000 {
            tried += u32::from(depth.limit() != 1);
            depth.ended(true, 1, 150_000);
        }
        assert!((48..=8 * 48).contains(&tried), "{tried} of 100000");
    }

    #[test]
    fn what_a_neighbour_changes_is_noticed() {
        let mut depth = Depth::new(2, true);
        run(&mut depth, 50_000, true, |limit| 300_000 / limit as u64);
        assert_eq!(depth.preferred, 2);
        run(&mut depth, 50_000, true, |limit| 100_000 * limit as u64);
        assert_eq!(depth.preferred, 1);
    }

    #[test]
    fn without_flushes_that_meet_there_is_no_trial() {
        let mut depth = Depth::new(4, true);
        run(&mut depth, 100_000, false, |_| 200_000);
        assert!(depth.trial.is_none() && depth.until_next == INTERVAL_MIN);
    }

    #[test]
    fn few_flushes_that_hold_most_count_for_most() {
        let mut depth = Depth::new(2, true);
        // With two in flight every other flush is small and quick, and what gathers behind it is as old as ever.
        let mut small = false;
        for _ in 0..50_000 {
            small = !small;
            let (records, age_ns) = match depth.limit() {
                1 => (20, 300_000),
                _ if small => (1, 100_000),
                _ => (39, 300_000),
            };
            depth.ended(true, records, age_ns);
        }
        assert_eq!(depth.preferred, 1);
    }

    #[test]
    fn hiccups_decide_nothing() {
        let mut depth = Depth::new(2, true);
        run(&mut depth, INTERVAL_MIN, true, |_| 200_000);
        for ended in 0..STRETCHES * STRETCH {
            let hiccup = ended == SETTLING || ended == 2 * STRETCH + SETTLING;
            depth.ended(true, 1, if hiccup { 90_000_000 } else { 200_000 });
        }
        assert!(depth.trial.is_none());
        assert_eq!(depth.preferred, 1);
    }
}
