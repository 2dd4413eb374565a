//! Random runs of the whole group, checked after every step. A failure names its seed:
//! `SYNOD_SEEDS=4711..4712 cargo test -p synod-paxos --test random` runs it again.

mod common;

use common::chaos::{Chaos, Summary};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds of an ordinary run.
const SEEDS: Range<u64> = 0..300;

fn seeds() -> Range<u64> {
    let Ok(range) = std::env::var("SYNOD_SEEDS") else { return SEEDS };
    let bounds = range.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    bounds.unwrap_or_else(|| panic!("SYNOD_SEEDS is a range such as 0..300, not {range}"))
}

#[test]
fn chaos_forks_nothing_and_calm_converges() {
    let mut total = Summary::default();
    let mut failed = Vec::new();
    for seed in seeds() {
        let chaos = Chaos::new(seed);
        let drawn = chaos.drawn.clone();
        match catch_unwind(AssertUnwindSafe(|| chaos.run())) {
            Ok(run) => {
                total.steps += run.steps;
                total.chosen += run.chosen;
                total.simulated_ns += run.simulated_ns;
                total.calm_ns = total.calm_ns.max(run.calm_ns);
            }
            Err(_) => {
                println!("^ seed {seed}: {drawn}");
                failed.push(seed);
            }
        }
    }
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
    println!("{} seeds, {total:?} (calm_ns: the longest)", seeds().count());
    assert!(total.chosen > 20 * seeds().count() as u64, "the runs choose too little to show anything: {total:?}");
}

#[test]
fn what_was_chosen_above_a_configuration_is_not_final() {
    common::membership::what_was_chosen_above_a_configuration_is_not_final();
}

#[test]
fn who_names_a_configuration_delivered_has_it_on_disk() {
    common::membership::who_names_a_configuration_delivered_has_it_on_disk();
}

#[test]
fn a_learner_that_lags_is_not_promoted() {
    common::membership::a_learner_that_lags_is_not_promoted();
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let runs = [(); 2].map(|()| format!("{:?}", Chaos::new(7).run()));
    assert_eq!(runs[0], runs[1]);
}
