//! How fast each seed ran and how much its clients did: the floors hold for every seed, not on average. Fed by the
//! command line; decides nothing about a run.

use synod_sim::Outcome;

/// Simulated to processor time, user and kernel, of the one thread that runs a seed.
pub(crate) const SPEED_UP_FLOOR: f64 = 1_000.0;

/// Entries and reads that clients ask for in a simulated second of load.
pub(crate) const LOAD_FLOOR: f64 = 100.0;

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
    offered_per_second: f64,
}

impl Pace {
    /// A seed passed in `cpu_ns` of processor time.
    pub(crate) fn add(&mut self, seed: u64, outcome: &Outcome, cpu_ns: u64) {
        let load_seconds = outcome.load_ns.max(1) as f64 / 1e9;
        self.seeds.push(Figures {
            seed,
            speed_up: outcome.simulated_ns as f64 / cpu_ns.max(1) as f64,
            operations_per_second: outcome.operations as f64 / load_seconds,
            offered_per_second: outcome.offered as f64 / load_seconds,
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

    /// Seeds whose clients asked for less than [`LOAD_FLOOR`].
    fn idle(&self) -> usize {
        self.seeds.iter().filter(|figures| figures.offered_per_second < LOAD_FLOOR).count()
    }

    /// For people; empty without a seed.
    pub(crate) fn lines(&self) -> String {
        let speed = self.spread(|figures| figures.speed_up);
        let load = self.spread(|figures| figures.operations_per_second);
        let offered = self.spread(|figures| figures.offered_per_second);
        let Some(((slow_seed, slowest, speed), (idle_seed, fewest, load))) = speed.zip(load) else {
            return String::new();
        };
        let (_, least_offered, offered) = offered.unwrap_or_default();
        format!(
            "a seed on one core: {speed:.0}x in the middle, {slowest:.0}x the slowest (seed {slow_seed}), {} below {SPEED_UP_FLOOR}x\n\
             operations a simulated second of load: {load:.0} in the middle, {fewest:.0} the fewest (seed {idle_seed}); \
             asked for {offered:.0} in the middle, {least_offered:.0} the fewest, {} below {LOAD_FLOOR}\n",
            self.slow(),
            self.idle()
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
            "offered_per_simulated_second": spread(|figures| figures.offered_per_second),
            "seeds_below_load_floor": self.idle(),
        })
    }
}
