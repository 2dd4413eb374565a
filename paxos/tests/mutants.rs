//! The scripts are tested too: with a known bug of the core put back, the script of the rule that it breaks must fail.
//! `cargo test -p synod-paxos --features mutants --test mutants`

mod common;

use std::panic::catch_unwind;
use std::path::Path;

/// Each bug, and the script that closes its schedule.
const KILLED_BY: &[(&str, &str)] = &[
    ("accepts_below_promise", "stale_leader"),
    ("ack_before_sync", "restarted_acceptor"),
    ("amnesiac_votes", "formatted_anew"),
    ("chosen_implies_all_below", "out_of_order"),
    ("chosen_recorded_when_proposed", "evidence_names_the_quorum"),
    ("counted_lsn_not_told", "rolled_back"),
    ("deaf_leader_goes_on", "isolated_leader_steps_down"),
    ("duplicate_ack_unsynced", "duplicate_waits_for_the_log"),
    ("lowest_ballot_adopted", "highest_ballot_wins"),
    ("fetched_taken_for_lost", "rolled_back_and_caught_up"),
    ("founded_by_some", "founding"),
    ("heartbeat_over_holes", "watermark_stops_at_a_hole"),
    ("handover_keeps_lease", "transfer_frees_the_lease"),
    ("higher_ballot_taken_for_duplicate", "new_leader_adopts"),
    ("holes_left_open", "hole_filled_with_noop"),
    ("leader_counts_unsynced_vote", "unsynced_leader_vote"),
    ("lease_from_answer", "lease_after_a_pause"),
    ("old_hello_ack_confirms", "old_hello_ack"),
    ("old_promise_counted", "ballot_not_reused"),
    ("old_release_frees", "transfer_old_release"),
    ("old_reply_counted", "old_reply_not_counted"),
    ("one_ballot_variable", "two_ballots"),
    ("own_vote_counted_twice", "duplicates"),
    ("partial_promise_counts", "promise_in_two_parts"),
    ("phase1_with_phase2_quorum", "flexible_quorums"),
    ("pre_vote_always_yes", "hears_all_but_the_leader"),
    ("pre_vote_not_awaited", "returns_from_isolation"),
    ("prefix_read_as_nothing", "lagging_candidate"),
    ("prepare_before_sync", "unsynced_ballot"),
    ("promise_before_sync", "promise_waits_for_the_log"),
    ("promises_within_lease", "lease_after_a_pause"),
    ("read_before_barrier", "read_before_the_barrier"),
    ("read_before_delivery", "read_index_round"),
    ("read_joins_earlier_round", "read_after_a_stall"),
    ("read_unconfirmed", "read_unconfirmed"),
    ("replayed_heartbeat_grants", "lease_replayed_heartbeat"),
    ("restart_forgets_lease", "lease_outlives_a_restart"),
    ("rolled_back_votes", "rolled_back"),
    ("serves_too_early", "serves_after_all_it_adopted"),
    ("stands_again_each_tick", "lost_promise"),
    ("step_down_clears_promise", "same_ballot_step_down"),
    ("take_over_within_lease", "transfer_overtakes_its_release"),
    ("unchosen_served_as_learnt", "holder_dies"),
    ("unknown_read_as_nothing", "damage_makes_the_candidate_wait"),
    ("votes_survive_reelection", "reelected_leader_counts_anew"),
    ("watermark_of_any_ballot", "watermark_of_another_ballot"),
    ("watermark_over_holes", "lost_and_reordered_accepts"),
    ("watermark_over_older_ballot", "commit_watermark_older_ballot"),
    ("window_unbounded", "window_is_bounded"),
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
    chaos_finds_each_bug_of_the_membership();
}

/// Bugs of the membership, which random runs find; `configuration_overtakes` takes the simulator's, and that of FAULTS 31 and
/// `lagging_learner_promoted` (nobody lags for long in random runs) take schedules of their own (`common/membership.rs`).
const KILLED_BY_CHAOS: &[&str] =
    &["earlier_life_counted", "non_voter_counted", "non_voter_stands", "overlapping_changes"];

/// Called by the one test.
fn chaos_finds_each_bug_of_the_membership() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut survived: Vec<&str> = Vec::new();
    for bug in KILLED_BY_CHAOS {
        synod_wire::mutant::switch_on(bug);
        let killer = (0..1_000).find(|seed| catch_unwind(|| common::chaos::Chaos::new(*seed).run()).is_err());
        println!("{bug}: {killer:?}");
        survived.extend(killer.is_none().then_some(*bug));
    }
    synod_wire::mutant::switch_on("chosen_above_configuration_is_final");
    if catch_unwind(common::membership::what_was_chosen_above_a_configuration_is_not_final).is_ok() {
        survived.push("chosen_above_configuration_is_final");
    }
    synod_wire::mutant::switch_on("lagging_learner_promoted");
    if catch_unwind(common::membership::a_learner_that_lags_is_not_promoted).is_ok() {
        survived.push("lagging_learner_promoted");
    }
    synod_wire::mutant::switch_on("");
    assert!(survived.is_empty(), "random runs do not find: {survived:?}");
}
