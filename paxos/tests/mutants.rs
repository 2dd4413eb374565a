//! The scripts are tested too: with a known bug of the core put back, the script of the rule that it breaks must fail.
//! `cargo test -p synod-paxos --features mutants --test mutants`

mod common;

use std::panic::catch_unwind;
use std::path::Path;

/// Each bug, and the script that closes its schedule.
const KILLED_BY: &[(&str, &str)] = &[
    ("ack_before_sync", "restarted_acceptor"),
    ("amnesiac_votes", "formatted_anew"),
    ("amnesiac_votes", "rolled_back"),
    ("duplicate_ack_unsynced", "duplicate_waits_for_the_log"),
    ("leader_counts_unsynced_vote", "unsynced_leader_vote"),
    ("old_promise_counted", "ballot_not_reused"),
    ("old_reply_counted", "old_reply_not_counted"),
    ("one_ballot_variable", "two_ballots"),
    ("partial_promise_counts", "promise_in_two_parts"),
    ("prefix_read_as_nothing", "lagging_candidate"),
    ("prepare_before_sync", "unsynced_ballot"),
    ("serves_too_early", "serves_after_all_it_adopted"),
    ("step_down_clears_promise", "same_ballot_step_down"),
    ("unknown_read_as_nothing", "damage_makes_the_candidate_wait"),
    ("watermark_of_any_ballot", "watermark_of_another_ballot"),
    ("watermark_over_older_ballot", "commit_watermark_older_ballot"),
];

/// One test, because the switch is the whole process's.
#[test]
fn each_bug_fails_the_script_of_its_rule() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut survived = Vec::new();
    for (bug, script) in KILLED_BY {
        let path = folder.join(format!("{script}.txt"));
        synod_wire::mutant::switch_on("");
        common::script::run(&path);
        synod_wire::mutant::switch_on(bug);
        if catch_unwind(|| common::script::run(&path)).is_ok() {
            survived.push((bug, script));
        }
    }
    synod_wire::mutant::switch_on("");
    assert!(survived.is_empty(), "these scripts hold though their rule is broken: {survived:#?}");
}
