//! The classic situations, as scripts under `scenarios/`, each with several seeds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use synod_sim::{Outcome, run, scenario, sights};

/// Seeds of each scenario: other timings, sizes and loads.
const SEEDS: u64 = 5;

fn scripts(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    all.sort();
    all
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

fn saw(outcome: &Outcome, sight: &str) -> bool {
    match sight.strip_prefix("fault ") {
        Some(fault) => outcome.coverage.faults.keys().any(|seen| seen.name() == fault),
        None => outcome.coverage.marks.contains_key(sight),
    }
}

#[test]
fn every_scenario_holds() {
    let files = scripts("scenarios");
    assert!(files.len() >= 8, "scenarios are missing");
    for file in files {
        let name = name(&file);
        let text = std::fs::read_to_string(&file).unwrap();
        for seed in 0..SEEDS {
            let plan = scenario(&text, seed).unwrap_or_else(|error| panic!("{name}: {error}"));
            let outcome = run(&plan, false).unwrap_or_else(|failure| {
                panic!("{name}, seed {seed}: {:?}\n{}", failure.violation, failure.events.join("\n"));
            });
            assert!(outcome.operations > 0, "{name}, seed {seed}: nothing was done");
            for sight in sights(&text) {
                assert!(saw(&outcome, &sight), "{name}, seed {seed}: never saw {sight:?}");
            }
        }
    }
}

/// The table of the protocol's rules names each script, here and of the core, and no other.
#[test]
fn the_table_of_rules_names_every_script() {
    let table = include_str!("../scenarios/README.md");
    let links = table.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let named: BTreeSet<String> = links.filter(|link| link.ends_with(".txt")).map(str::to_owned).collect();
    let here = scripts("scenarios").iter().map(|path| format!("{}.txt", name(path))).collect::<Vec<_>>();
    let core = scripts("../paxos/tests/scenarios");
    let core = core.iter().map(|path| format!("../../paxos/tests/scenarios/{}.txt", name(path)));
    let there: BTreeSet<String> = here.into_iter().chain(core).collect();
    assert_eq!(named, there);
}

#[test]
fn a_scenario_that_nobody_understands_is_refused() {
    assert!(scenario("at noon kill 1", 0).is_err());
    assert!(scenario("node 3", 0).is_err());
}
