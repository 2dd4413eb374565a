//! The bugs that the checkers are tested with: each stands behind a switch in the product's code, compiled out of every
//! build but the simulator's with its feature `mutants`.

/// A known bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its number in the project's list of bugs.
    pub number: u32,
    /// The name of its switch.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
}

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        number: 1,
        name: "duplicate_ack_unsynced",
        what: "a follower's acknowledgements do not wait for the log when an accept comes again",
    },
    Mutant {
        number: 2,
        name: "leader_counts_unsynced_vote",
        what: "the leader counts its own vote before its record is durable",
    },
    Mutant { number: 3, name: "ack_before_sync", what: "a follower acknowledges before its record is durable" },
    Mutant { number: 4, name: "promise_forgotten", what: "a restart forgets the promise, and ballots are used again" },
    Mutant { number: 4, name: "prepare_before_sync", what: "a candidate asks for promises before its own is durable" },
    Mutant { number: 5, name: "step_down_clears_promise", what: "a leader that steps down forgets its promise" },
    Mutant { number: 6, name: "old_reply_counted", what: "votes of another ballot of this leader are counted" },
    Mutant { number: 7, name: "one_ballot_variable", what: "one variable for the promised and the accepted ballot" },
    Mutant { number: 8, name: "amnesiac_votes", what: "a node that lost its disk votes" },
    Mutant {
        number: 9,
        name: "damage_truncated",
        what: "damage in the middle of the log is cut as if it were a torn tail",
    },
    Mutant {
        number: 9,
        name: "damage_reads_as_nothing",
        what: "slots that damage hides are reported as never accepted",
    },
    Mutant { number: 9, name: "unknown_read_as_nothing", what: "a candidate takes 'unknown' for 'accepted nothing'" },
    Mutant { number: 11, name: "write_error_ignored", what: "a failed log write is taken for a done one" },
    Mutant { number: 12, name: "failed_disk_goes_on", what: "a node with a failed disk goes on without it" },
    Mutant { number: 13, name: "restart_applies_unchosen", what: "a restart applies what is not known chosen" },
    Mutant { number: 14, name: "old_promise_counted", what: "promises of another ballot are counted" },
    Mutant { number: 14, name: "partial_promise_counts", what: "a part of a promise counts as the whole" },
    Mutant {
        number: 25,
        name: "watermark_over_older_ballot",
        what: "the leader's watermark makes values of older ballots chosen",
    },
    Mutant { number: 26, name: "serves_too_early", what: "a new leader serves before all it adopted is chosen" },
    Mutant {
        number: 27,
        name: "prefix_read_as_nothing",
        what: "a peer's delivered prefix is read as 'accepted nothing'",
    },
    Mutant {
        number: 28,
        name: "watermark_of_any_ballot",
        what: "an acknowledgement covers slots accepted in other ballots",
    },
    Mutant { number: 39, name: "duplicate_sequenced_again", what: "an entry that comes again is sequenced again" },
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
