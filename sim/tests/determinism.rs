//! A seed gives the same run, bit for bit: each of a hundred is run twice, and the hashes of all that happened compared.

use synod_sim::{Plan, Profile, run};

/// Simulated milliseconds of chaos: long enough for crashes, damage and elections, short enough for two hundred runs.
const SAFETY_MS: u64 = 4_000;

#[test]
fn a_hundred_seeds_give_the_same_run_twice() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let plan = Plan { safety_ms: SAFETY_MS, ..Plan::new(seed, Profile::Mixed) };
        let (first, again) = (run(&plan, false), run(&plan, false));
        let first = first.unwrap_or_else(|failure| panic!("seed {seed}: {:?}", failure.violation));
        assert_eq!(Ok(&first), again.as_ref(), "seed {seed}");
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len(), 100, "and every seed another run");
}
