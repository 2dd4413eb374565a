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

/// What is wrong with a scenario under a seed, if anything.
fn fault_of(text: &str, seed: u64, mutant: Option<&str>) -> Option<String> {
    let mut plan = scenario(text, seed).unwrap_or_else(|error| panic!("{error}"));
    plan.mutant = mutant.map(str::to_owned);
    let outcome = match run(&plan, false) {
        Ok(outcome) => outcome,
        Err(failure) => return Some(format!("{:?}\n{}", failure.violation, failure.events.join("\n"))),
    };
    if outcome.operations == 0 {
        return Some("nothing was done".to_owned());
    }
    sights(text).iter().find(|sight| !saw(&outcome, sight)).map(|sight| format!("never saw {sight:?}"))
}

/// Bugs are switched on for the whole process: one test at a time.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn every_scenario_holds() {
    let _alone = ONE_AT_A_TIME.lock();
    let files = scripts("scenarios");
    assert!(files.len() >= 20, "scenarios are missing");
    let mut failed = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let faults = (0..SEEDS).filter_map(|seed| Some((seed, fault_of(&text, seed, None)?)));
        failed.extend(faults.map(|(seed, fault)| format!("{}, seed {seed}: {fault}", name(&file))));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// With the bug of a rule put back, the script of the rule fails under some of its seeds.
#[cfg(feature = "mutants")]
#[test]
fn each_bug_fails_the_script_of_its_rule() {
    let _alone = ONE_AT_A_TIME.lock();
    const KILLED_BY: &[(&str, &str)] = &[
        ("ack_before_sync", "failed_sync_ends_the_process"),
        ("amnesiac_votes", "amnesia_after_a_disk_swap"),
        ("chosen_above_configuration_is_final", "chosen_above_a_configuration"),
        ("counted_lsn_not_told", "rolled_back_disk"),
        ("cut_takes_the_marks", "marks_outlive_the_cut"),
        ("damage_truncated", "phantom_write_is_damage"),
        ("duplicate_sequenced_again", "retry_at_another_node"),
        ("earlier_parts_let_go", "snapshots_overtake_one_that_is_sent"),
        ("fence_lost_at_restart", "conditions_outlive_their_leader"),
        ("gap_sequenced", "retry_at_another_node"),
        ("held_snapshot_forgotten", "snapshots_overtake_one_that_is_sent"),
        ("leader_counts_unsynced_vote", "leader_returns_from_a_long_sync"),
        ("match_at_admission", "conditions_outlive_their_leader"),
        ("memory_restart_votes", "memory_durability"),
        ("promise_forgotten", "full_power_cut"),
        ("refusal_not_stored", "conditions_outlive_their_leader"),
        ("reopened_session_forgets", "retry_at_another_node"),
        ("retry_opens_evicted_session", "evicted_session_is_told"),
        ("rolled_back_votes", "rolled_back_disk"),
        ("step_down_clears_promise", "split_brain"),
        ("subscriber_stays_with_a_node_cut_off", "subscribers_leave_who_was_left_behind"),
        ("timestamp_runs_back", "wall_clock_jumps"),
        ("torn_tail_not_cut", "phantom_write_is_damage"),
        ("watermark_over_holes", "lost_commits"),
        ("whereabouts_not_said", "all_others_replaced"),
        ("write_error_ignored", "failed_sync_ends_the_process"),
    ];
    for (bug, script) in KILLED_BY {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let text = std::fs::read_to_string(folder.join(format!("{script}.txt"))).unwrap();
        // An assertion of the product is as good as a checker.
        let fails = |seed| !matches!(std::panic::catch_unwind(|| fault_of(&text, seed, Some(bug))), Ok(None));
        assert!((0..SEEDS).any(fails), "{script} holds with {bug}");
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
