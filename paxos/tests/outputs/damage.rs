//! Damaged records: what a promise says of them, how a candidate takes that, and what clears it.

use super::*;

const DAMAGED: LsnRun = LsnRun { first: Lsn(8), last: Lsn(9) };

/// A log of ballot 1.2 with a prefix of 4 slots, in which damage hides something.
fn damaged(unknown: Unknown, held: Vec<Held>) -> Restart {
    Restart { unknown, damaged: vec![DAMAGED], ..restart(ballot(1, 2), 4, held) }
}

fn slots(slots: &[u64]) -> Unknown {
    Unknown::Slots(slots.iter().copied().map(Slot).collect())
}

fn unknown_all(ballot: Ballot, prefix: u64) -> Message {
    Message::Promise { ballot, prefix: Slot(prefix), part: 0, parts: 1, unknown_all: true, reports: vec![] }
}

fn repaired(lsn: u64, promised: Ballot) -> [Output; 2] {
    [persist(lsn, promised, Record::Repaired(vec![DAMAGED])), Output::Repaired]
}

#[test]
fn a_promise_says_which_slots_damage_hides() {
    let hidden = Held { unknown: true, ..held(6, ballot(1, 2)) };
    let mut bench = Bench::follower_of(settings(1, 3), damaged(slots(&[3, 5]), vec![hidden, held(7, ballot(1, 2))]));
    assert_eq!((bench.core.unknown_slots(), bench.core.unknown()), (Some(2), vec![Slot(5), Slot(6)]));
    let reports = vec![
        report(5, ReportState::Unknown),
        report(6, ReportState::Unknown),
        report(7, ReportState::Accepted(ballot(1, 2))),
    ];
    let outputs = bench.hear(THREE, prepare(ballot(2, 3)));
    assert_eq!(outputs[1], send(&[THREE], promise(ballot(2, 3), 4, reports), Lsn(21)));
}

#[test]
fn what_is_known_chosen_is_not_unknown() {
    let known = Held { unknown: true, chosen: Some(Epoch(1)), ..held(6, ballot(1, 2)) };
    let bench = Bench::follower_of(settings(1, 3), damaged(Unknown::Slots(vec![]), vec![known]));
    assert_eq!(bench.core.unknown_slots(), Some(0));
}

#[test]
fn a_promise_says_that_damage_hides_everything_above_the_prefix() {
    let mut bench = Bench::follower_of(settings(1, 3), damaged(Unknown::All, vec![held(6, ballot(1, 2))]));
    assert_eq!(bench.core.unknown_slots(), None);
    let b = ballot(2, 3);
    let reports = vec![report(6, ReportState::Accepted(ballot(1, 2)))];
    let answer = Message::Promise { ballot: b, prefix: Slot(4), part: 0, parts: 1, unknown_all: true, reports };
    assert_eq!(bench.hear(THREE, prepare(b))[1], send(&[THREE], answer, Lsn(21)));
}

#[test]
fn a_promise_does_not_count_for_a_slot_that_damage_hides() {
    let mut bench = Bench::candidate(restart(ballot(1, 2), 4, vec![]));
    let b = ballot(2, 1);
    assert_eq!(bench.hear(TWO, promise(b, 4, vec![report(5, ReportState::Unknown)])), [], "waits for another");
    let outputs = bench.hear(THREE, promise(b, 4, vec![]));
    assert_eq!(outputs[0], became(Role::Preparing, Reason::Elected));
    assert_eq!(outputs[2], persist(22, b, record_of(5, b, Source::Noop)), "two that know say: nothing was accepted");
}

#[test]
fn no_no_op_goes_where_damage_may_hide_a_value() {
    // Node 1 and node 2 know nothing of slot 5; node 3 alone is no quorum.
    let mut bench = Bench::candidate(damaged(slots(&[5]), vec![]));
    let b = ballot(2, 1);
    assert_eq!(bench.hear(TWO, promise(b, 4, vec![report(5, ReportState::Unknown)])), []);
    assert_eq!(bench.hear(THREE, promise(b, 4, vec![])), []);
    assert_eq!(bench.core.role(), Role::Candidate);
}

#[test]
fn a_value_reported_as_chosen_ends_the_wait() {
    let mut bench = Bench::candidate(damaged(slots(&[5]), vec![]));
    let b = ballot(2, 1);
    let outputs = bench.hear(TWO, promise(b, 4, vec![report(5, ReportState::Chosen(ballot(1, 2)))]));
    assert_eq!(outputs[0], became(Role::Preparing, Reason::Elected));
}

#[test]
fn a_hidden_value_is_not_taken_for_the_highest() {
    let hidden = Held { unknown: true, ..held(5, ballot(1, 2)) };
    let mut bench = Bench::candidate(damaged(Unknown::Slots(vec![]), vec![hidden]));
    let b = ballot(2, 1);
    bench.hear(TWO, promise(b, 4, vec![report(5, ReportState::Accepted(ballot(1, 1)))]));
    assert_eq!(bench.core.role(), Role::Candidate, "one that knows is no quorum");
    let outputs = bench.hear(THREE, promise(b, 4, vec![]));
    assert_eq!(outputs[2], send(&[TWO], Message::FetchValue { slot: Slot(5), ballot: ballot(1, 1) }, Lsn::ZERO));
}

#[test]
fn a_promise_that_hides_everything_counts_for_nothing() {
    let mut bench = Bench::candidate(restart(ballot(1, 2), 4, vec![]));
    let b = ballot(2, 1);
    assert_eq!(bench.hear(TWO, unknown_all(b, 4)), []);
    assert_eq!(bench.hear(THREE, promise(b, 4, vec![]))[0], became(Role::Preparing, Reason::Elected));
}

#[test]
fn a_new_accept_clears_a_slot_and_the_repair_is_logged_when_nothing_is_hidden() {
    let mut bench = Bench::follower_of(settings(1, 3), damaged(slots(&[5, 6]), vec![]));
    let b = ballot(2, 2);
    bench.hear(TWO, accept(b, 5));
    assert_eq!(bench.core.unknown(), [Slot(6)]);
    bench.hear(TWO, accept(b, 6));
    assert_eq!(bench.core.unknown(), []);
    let lsn = bench.lsn().0;
    let ranges = evidence(5, 6, b, &[TWO, THREE]);
    let wanted =
        [vec![persist(lsn + 1, b, Record::Chosen(ranges)), deliver(5), deliver(6)], repaired(lsn + 2, b).to_vec()];
    assert_eq!(bench.hear(TWO, Message::Commit { ballot: b, ranges }), wanted.concat());
}

#[test]
fn a_value_learnt_as_chosen_clears_a_slot() {
    let mut bench = Bench::follower_of(settings(1, 3), damaged(slots(&[5]), vec![]));
    let b = ballot(1, 2);
    let learnt = Record::Learnt { slot: Slot(5), ballot: b, mark: Mark::Batch, epoch: Epoch(1) };
    let outputs = bench.hear(TWO, learn(5, b));
    assert_eq!(outputs, [vec![persist(21, b, learnt), deliver(5)], repaired(22, b).to_vec()].concat());
}

#[test]
fn a_peers_unchosen_value_clears_nothing() {
    let mut bench = Bench::follower_of(settings(1, 3), damaged(slots(&[5]), vec![]));
    assert_eq!(bench.hear(TWO, Message::Value { slot: Slot(5), ballot: ballot(1, 2), mark: Mark::Batch }), []);
    assert_eq!(bench.core.unknown(), [Slot(5)]);
}

#[test]
fn a_delivered_barrier_above_the_recovered_promise_ends_all_doubt() {
    for (barrier, ends) in [(ballot(2, 3), true), (ballot(1, 2), false)] {
        let mut bench = Bench::follower_of(settings(1, 3), damaged(Unknown::All, vec![]));
        let learnt = Message::Learn { slot: Slot(5), ballot: barrier, mark: Mark::Barrier };
        let outputs = bench.hear(TWO, learnt);
        assert_eq!(outputs.contains(&Output::Repaired), ends, "a barrier of {barrier}");
        assert_eq!(bench.core.unknown_slots().is_some(), ends);
    }
}

#[test]
fn an_ordinary_value_does_not_end_the_doubt_about_everything() {
    let mut bench = Bench::follower_of(settings(1, 3), damaged(Unknown::All, vec![]));
    let outputs = bench.hear(TWO, learn(5, ballot(2, 3)));
    assert!(!outputs.contains(&Output::Repaired));
    assert_eq!(bench.core.unknown_slots(), None);
}
