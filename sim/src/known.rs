//! The bugs that the checkers are tested with: each stands behind a switch in the product's code, compiled out of every
//! build but the simulator's with its feature `mutants`. `sim/README.md` says what kills them, and which of the list are absent.

use crate::plan::Profile;

/// A known bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its number in the project's list of bugs, or none: it breaks a rule of the design that no bug of the list does.
    pub number: Option<u32>,
    /// The name of its switch.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// It takes too many seeds for the fast subset.
    pub slow: bool,
    /// What it is looked for in.
    pub ground: Ground,
}

/// Runs in which a mutant is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Seeds of a profile.
    Seeds(Profile),
    /// Seeds of a scenario: its name, and its text. Of a schedule that chance comes by in one of very many runs.
    Scenario(&'static str, &'static str),
}

const fn bug(number: u32, name: &'static str, what: &'static str) -> Mutant {
    Mutant { number: Some(number), name, what, slow: false, ground: Ground::Seeds(Profile::Mixed) }
}

const fn rule(name: &'static str, what: &'static str) -> Mutant {
    Mutant { number: None, name, what, slow: false, ground: Ground::Seeds(Profile::Mixed) }
}

impl Mutant {
    const fn slow(self) -> Mutant {
        Mutant { slow: true, ..self }
    }

    /// It takes a group whose members change.
    const fn members(self) -> Mutant {
        Mutant { ground: Ground::Seeds(Profile::Members), ..self }
    }
}

/// All of them: the list's bugs in its order, then the rules by place.
pub const MUTANTS: &[Mutant] = &[
    bug(
        1,
        "duplicate_ack_unsynced",
        "a follower's acknowledgements do not wait for the log when an accept comes again",
    ),
    bug(2, "leader_counts_unsynced_vote", "the leader counts its own vote before its record is durable"),
    bug(3, "ack_before_sync", "a follower acknowledges before its record is durable"),
    bug(3, "any_sync_releases_all", "any write that ends releases every reply that waits for the log"),
    bug(4, "promise_forgotten", "a restart forgets the promise, and ballots are used again"),
    bug(4, "prepare_before_sync", "a candidate asks for promises before its own is durable"),
    bug(4, "promise_before_sync", "an acceptor promises before its record is durable"),
    bug(5, "step_down_clears_promise", "a leader that steps down forgets its promise"),
    bug(6, "old_reply_counted", "votes of another ballot of this leader are counted").slow(),
    bug(7, "one_ballot_variable", "one variable for the promised and the accepted ballot"),
    bug(8, "amnesiac_votes", "a node that lost its disk votes"),
    bug(8, "old_hello_ack_confirms", "an answer that an earlier start was owed lets a rolled back node vote").slow(),
    bug(8, "rolled_back_votes", "a node votes though a peer counted more from it than its log holds"),
    bug(8, "counted_lsn_not_told", "peers do not tell a node what they counted from it"),
    bug(9, "damage_truncated", "damage in the middle of the log is cut as if it were a torn tail"),
    bug(9, "damage_reads_as_nothing", "slots that damage hides are reported as never accepted").slow(),
    bug(9, "unknown_read_as_nothing", "a candidate takes 'unknown' for 'accepted nothing', and puts a no-op there")
        .slow(),
    bug(10, "torn_tail_not_cut", "a torn tail is not cut: what is appended stands behind it, where no recovery looks"),
    bug(10, "cut_not_zeroed", "a torn tail is cut, but its bytes stay"),
    bug(11, "write_error_ignored", "a failed log write is taken for a done one, as a repeated fsync does"),
    bug(12, "failed_disk_goes_on", "a node with a failed disk goes on without it"),
    bug(13, "restart_applies_unchosen", "a restart applies what is not known chosen"),
    bug(14, "old_promise_counted", "promises of another ballot are counted"),
    bug(14, "partial_promise_counts", "a part of a promise counts as the whole").slow(),
    bug(14, "votes_survive_reelection", "votes of an earlier leadership of this node count in the next").slow(),
    bug(15, "non_voter_counted", "a learner's vote and promise are counted").members(),
    bug(15, "non_voter_stands", "a learner stands for election").members(),
    bug(15, "lagging_learner_promoted", "a learner votes however far it is behind").members(),
    bug(16, "overlapping_changes", "a change is made before enough members know the last one").members(),
    bug(17, "sessions_missing_from_snapshot", "a snapshot lacks the sessions"),
    bug(18, "restored_state_applied_again", "a restored snapshot's last slot is applied once more"),
    bug(19, "lease_on_wall_clock", "a lease is read off the wall clock"),
    bug(19, "lease_checked_before_pause", "a lease is read off a clock that was read before the request came"),
    bug(19, "lease_checked_once", "a lease is read off the clock of the turn, and the process stood still since"),
    bug(20, "replayed_heartbeat_grants", "an answer to a heartbeat that came again makes the lease longer"),
    bug(21, "stands_again_each_tick", "a candidate takes a new ballot instead of asking again in its own"),
    bug(22, "outbox_reused_in_turn", "bytes of a datagram are used again in the turn that sends it").slow(),
    bug(22, "rx_buffer_released_early", "a receive buffer goes back before its datagram is read"),
    bug(23, "read_before_barrier", "a new leader answers reads before all it adopted is chosen"),
    bug(24, "restart_forgets_lease", "an acceptor that starts again promises within a lease that it granted"),
    bug(25, "watermark_over_older_ballot", "the leader's watermark makes values of older ballots chosen"),
    bug(26, "serves_too_early", "a new leader serves before all it adopted is chosen"),
    bug(27, "prefix_read_as_nothing", "a peer's delivered prefix is read as 'accepted nothing'"),
    bug(
        27,
        "trimmed_prefix_read_as_nothing",
        "a promise reports the prefix whose log was removed as 'accepted nothing'",
    ),
    bug(28, "watermark_of_any_ballot", "an acknowledgement covers slots accepted in other ballots"),
    bug(29, "read_joins_earlier_round", "a read is confirmed by answers to heartbeats that left before it came"),
    bug(30, "retry_opens_evicted_session", "an append of an unknown session opens it"),
    bug(30, "return_opens_evicted_session", "a client that comes back to an evicted session gets a new, empty one")
        .slow(),
    bug(30, "session_number_ignored", "a session takes what was meant for an earlier one of its client"),
    Mutant {
        ground: Ground::Scenario(
            "chosen_above_a_configuration",
            include_str!("../scenarios/chosen_above_a_configuration.txt"),
        ),
        ..bug(
            31,
            "chosen_above_configuration_is_final",
            "what an earlier configuration chose out of order above a later one is taken as final",
        )
    },
    // Votes and ballots.
    rule("accepts_below_promise", "an acceptor accepts in a ballot below its promise"),
    rule(
        "higher_ballot_taken_for_duplicate",
        "an accept in a higher ballot is taken for a duplicate of the held value",
    ),
    rule("own_vote_counted_twice", "the leader's own vote counts twice"),
    rule("watermark_over_holes", "an acknowledgement's watermark is the highest slot, not the contiguous one"),
    rule("heartbeat_over_holes", "a heartbeat's watermark is the highest chosen slot, not the contiguous one"),
    rule("chosen_recorded_when_proposed", "a slot's chosen record is written before its quorum"),
    rule("chosen_implies_all_below", "a value is delivered because a higher slot is chosen"),
    rule("restart_discards_accepted", "a restart drops what it accepted and does not know chosen"),
    rule("unchosen_served_as_learnt", "a request for chosen values is answered with accepted ones"),
    rule("window_unbounded", "the leader proposes beyond its window").slow(),
    // A new leader.
    rule("phase1_with_phase2_quorum", "a candidate takes the smaller phase 2 quorum for that of phase 1"),
    rule("lowest_ballot_adopted", "a new leader adopts the value of the lowest ballot reported, not of the highest")
        .slow(),
    rule("holes_left_open", "a new leader leaves holes open").slow(),
    rule("deaf_leader_goes_on", "a leader that hears no quorum does not step down").slow(),
    // Membership.
    rule("founded_by_some", "a fresh node votes before every founding member has confirmed").slow(),
    rule("foreign_cluster_heard", "messages of another cluster are heard"),
    rule("later_revision_refused", "frames of a later revision of the format are refused"),
    rule("earlier_life_counted", "what an earlier life of a member's log said is counted").members(),
    Mutant {
        ground: Ground::Scenario("all_others_replaced", include_str!("../scenarios/all_others_replaced.txt")),
        ..rule("whereabouts_not_said", "a member that was away cannot answer those who came meanwhile")
    },
    rule("evidence_of_last_known_members", "evidence of a slot not reached yet names the members of an earlier one")
        .members(),
    rule("configuration_overtakes", "a configuration is proposed before all below it is chosen"),
    // Damage.
    rule("payload_checksum_ignored", "payloads are not checked against their checksum"),
    rule("torn_flush_called_damage", "a torn last flush is called damage"),
    Mutant {
        ground: Ground::Scenario("marks_outlive_the_cut", include_str!("../scenarios/marks_outlive_the_cut.txt")),
        ..rule("cut_takes_the_marks", "a cut that is interrupted leaves nothing that tells damage from a torn tail")
    },
    rule("mark_covers_own_flush", "a flush claims that it was durable before it was written"),
    // The log's way to the disk.
    rule("short_write_taken_for_whole", "a write done in part counts as done"),
    rule("completion_covers_earlier_writes", "the end of a write stands for those before it"),
    // Applying.
    rule("duplicate_sequenced_again", "an entry that comes again is sequenced again"),
    rule("gap_sequenced", "an entry is sequenced though those before it in its session are missing"),
    rule("reopened_session_forgets", "opening a session again forgets what it committed"),
    rule("timestamp_runs_back", "an entry's timestamp is the leader's clock, though it ran back"),
    rule("answer_of_the_run", "a duplicate is answered with the place of the first entry beside it"),
    rule("refusal_not_stored", "a condition that is not met leaves no trace: a retry is decided on anew"),
    rule("pre_vote_not_awaited", "who hears no leader stands before the others say that they hear none"),
    rule("pre_vote_always_yes", "who hears a leader tells another to stand"),
    rule("hung_disk_votes", "a node whose disk hangs goes on to answer and to vote"),
    rule("fail_slow_never_yields", "a leader whose log is much slower than the others' leads on"),
    rule("fence_lost_at_restart", "a restart forgets the highest fencing token"),
    rule("match_at_admission", "a tail is matched when an entry is admitted, not when it is applied"),
    rule("evidence_names_all", "evidence names all members instead of those that voted"),
    // State machines.
    rule("kv_applies_twice", "a restart feeds the state machine each entry twice"),
    rule("kv_forgets_at_restart", "a restart does not feed the state machine what the log holds"),
    rule("kv_answers_before_applied", "a question is answered though the state lacks what it is to hold"),
    // Reads.
    rule("read_unconfirmed", "a leader answers reads without asking whether it still leads"),
    rule("read_before_delivery", "a replica answers a read before it has delivered the watermark"),
    rule("bounded_from_answer", "a bounded read counts from the leader's answer, not from the question").slow(),
    rule("lease_from_answer", "a lease counts from the answer to its heartbeat"),
    rule("promises_within_lease", "an acceptor promises within a lease that it granted"),
    rule("handover_keeps_lease", "a leader that hands over keeps its lease"),
    rule("old_release_frees", "a lease that was given up in an older ballot frees who granted one in this").slow(),
    rule("take_over_within_lease", "a member takes over within the lease that it granted"),
    rule("snapshot_drops_later_votes", "a recovery from a snapshot does not read the votes above it").slow(),
    rule("snapshot_install_lowers_promise", "an installed snapshot's promise replaces the node's own"),
    rule("chunk_checksum_skipped", "an installed snapshot is not held to the checksum of the whole").slow(),
    rule("reads_beyond_applied", "a read returns what is held beyond what is applied"),
    // Streams.
    rule("stream_ignores_going_back", "a subscriber that misses something is sent what comes next all the same"),
    rule("stream_beyond_applied", "subscribers are sent what is held beyond what is applied"),
    rule("subscriber_never_dropped", "a subscriber keeps its place though it is silent and acknowledges nothing"),
    rule("subscriber_dropped_silently", "a subscriber is dropped without a word"),
    Mutant {
        ground: Ground::Scenario(
            "subscribers_leave_who_was_left_behind",
            include_str!("../scenarios/subscribers_leave_who_was_left_behind.txt"),
        ),
        ..rule(
            "subscriber_stays_with_a_node_cut_off",
            "a subscriber waits for ever at a node that learns of nothing new",
        )
    },
    // Trims.
    rule("trim_runs_back", "a trim takes back what an earlier one gave up"),
    rule("trim_ignores_members", "the leader trims what members lack that it hears"),
    rule("trimmed_entries_read", "entries that were trimmed are read as long as they are on disk"),
    rule("removal_ignores_snapshots", "segments are removed that the recovery from a kept snapshot begins with"),
    // Modes.
    rule("degraded_serves_appends", "a node that hears no quorum takes appends"),
    rule("stale_read_called_fresh", "a read is called fresh without evidence, in every mode"),
];

/// Whether this build can put them back.
pub const fn has_mutants() -> bool {
    cfg!(feature = "mutants")
}

/// Puts a bug back, or none.
pub(crate) fn switch_on(name: Option<&str>) {
    #[cfg(feature = "mutants")]
    synod_wire::mutant::switch_on(name.unwrap_or(""));
    #[cfg(not(feature = "mutants"))]
    assert!(name.is_none(), "this build has no mutants: build with --features mutants");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_bugs_stand_in_the_lists_order() {
        let names: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), MUTANTS.len());
        let numbers: Vec<u32> = MUTANTS.iter().map_while(|mutant| mutant.number).collect();
        assert!(numbers.is_sorted() && MUTANTS[numbers.len()..].iter().all(|mutant| mutant.number.is_none()));
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn no_two_switches_are_one() {
        let switches: BTreeSet<u64> = MUTANTS.iter().map(|mutant| synod_wire::mutant::number(mutant.name)).collect();
        assert!(switches.len() == MUTANTS.len() && !switches.contains(&0));
    }
}
