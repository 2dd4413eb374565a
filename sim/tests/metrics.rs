//! The metrics that only faults move, which no test of real processes makes happen for sure: each of them moves in runs of the simulator.
//! The shards are the product's, and so are the boards that are read. `tests/metrics.txt` says which metric that is for.

use synod_sim::{Coverage, Plan, Profile, run};

/// The table: a metric, and what moves it.
const TABLE: &str = include_str!("../../tests/metrics.txt");
/// Runs that may be made before everything must have moved; they end as soon as it has.
const MOST_SEEDS: u64 = 300;

/// What the table leaves to the simulator, by the names that the product's code has for it.
fn wanted() -> Vec<&'static str> {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| line.split_once(" sim:")).map(|(_, name)| name.trim()).collect()
}

#[test]
fn what_the_table_leaves_to_the_simulator_moves_in_some_run() {
    let wanted = wanted();
    assert!(!wanted.is_empty(), "the table names the simulator");
    let mut coverage = Coverage::default();
    let still = |coverage: &Coverage| -> Vec<&str> {
        wanted.iter().copied().filter(|name| !coverage.metrics.contains_key(*name)).collect()
    };
    for seed in 0..MOST_SEEDS {
        // Members change in every other run, which that profile does more of.
        let profile = if seed % 2 == 0 { Profile::Mixed } else { Profile::Members };
        let outcome = run(&Plan::new(seed, profile), false);
        let outcome = outcome.unwrap_or_else(|failure| panic!("seed {seed}: {:?}", failure.violation));
        coverage.absorb(&outcome.coverage);
        if still(&coverage).is_empty() {
            return;
        }
    }
    panic!("{:?} moved in none of {MOST_SEEDS} runs; these did: {:#?}", still(&coverage), coverage.metrics);
}
