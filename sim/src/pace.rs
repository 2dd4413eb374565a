//! How fast each seed ran and how much its clients did: the floors hold for every seed, not on average. Fed by the
//! command line; decides nothing about a run.

use synod_sim::Outcome;

/// Simulated to processor time, user and kernel, of the one thread that runs a seed.
pub(crate) const SPEED_UP_FLOOR: f64 = 1_000.0;

/// The figures of many seeds.
#[derive(Default)]
pub(crate) struct Pace {
    seeds: Vec<Figures>,
}

#[derive(Clone, Copy)]
struct Figures {
    seed: u64,
    speed_up: f64,
    operations_per_second: f64,
}

impl Pace {
    /// A seed passed in `cpu_ns` of processor time.
    pub(crate) fn add(&mut self, seed: u64, outcome: &Outcome, cpu_ns: u64) {
        let seconds = outcome.simulated_ns as f64 / 1e9;
        self.seeds.push(Figures {
            seed,
            speed_up: seconds * 1e9 / cpu_ns.max(1) as f64,
            operations_per_second: outcome.operations as f64 / seconds.max(1e-9),
        });
    }

    /// The seed with the least of something, the least, and the middle.
    fn spread(&self, of: impl Fn(&Figures) -> f64) -> Option<(u64, f64, f64)> {
        let mut all: Vec<(f64, u64)> = self.seeds.iter().map(|figures| (of(figures), figures.seed)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (least, seed) = *all.first()?;
        Some((seed, least, all[all.len() / 2].0))
    }

    /// Seeds that ran slower than [`SPEED_UP_FLOOR`].
    fn slow(&self) -> usize {
        self.seeds.iter().filter(|figures| figures.speed_up < SPEED_UP_FLOOR).count()
    }

    /// For people; empty without a seed.
    pub(crate) fn lines(&self) -> String {
        let speed = self.spread(|figures| figures.speed_up);
        let load = self.spread(|figures| figures.operations_per_second);
        let Some(((slow_seed, slowest, speed), (idle_seed, fewest, load))) = speed.zip(load) else {
            return String::new();
        };
        format!(
            "a seed on one core: {speed:.0}x in the middle, {slowest:.0}x the slowest (seed {slow_seed}), {} below {SPEED_UP_FLOOR}x\n\
             operations a simulated second: {load:.0} in the middle, {fewest:.0} the fewest (seed {idle_seed})\n",
            self.slow()
        )
    }

    /// For programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let spread = |of: fn(&Figures) -> f64| {
            self.spread(of).map(
                |(seed, least, middle)| serde_json::json!({ "seed_of_least": seed, "least": least, "median": middle }),
            )
        };
        serde_json::json!({
            "speed_up_on_one_core": spread(|figures| figures.speed_up),
            "seeds_below_speed_up_floor": self.slow(),
            "operations_per_simulated_second": spread(|figures| figures.operations_per_second),
        })
    }
}
