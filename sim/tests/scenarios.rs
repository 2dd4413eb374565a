//! The classic situations, as scripts under `scenarios/`, each with several seeds.

use std::path::Path;
use synod_sim::{run, scenario};

/// Seeds of each scenario: other timings, sizes and loads.
const SEEDS: u64 = 5;

#[test]
fn every_scenario_holds() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "scenarios are missing");
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        for seed in 0..SEEDS {
            let plan = scenario(&text, seed).unwrap_or_else(|error| panic!("{name}: {error}"));
            let outcome = run(&plan, false).unwrap_or_else(|failure| {
                panic!("{name}, seed {seed}: {:?}\n{}", failure.violation, failure.events.join("\n"));
            });
            assert!(outcome.operations > 0, "{name}, seed {seed}: nothing was done");
            if name == "amnesia_after_a_disk_swap" {
                assert!(outcome.coverage.marks.contains_key("a node that lost its state halted"), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_scenario_that_nobody_understands_is_refused() {
    assert!(scenario("at noon kill 1", 0).is_err());
    assert!(scenario("node 3", 0).is_err());
}
