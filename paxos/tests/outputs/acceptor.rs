//! Prepare and accept, and the replies that rest on the log.

use super::*;

fn refused(promised: Ballot) -> Message {
    Message::Refused { promised }
}

#[test]
fn a_higher_prepare_is_promised_and_answered_after_the_promise_is_durable() {
    let mut bench = Bench::follower();
    let b = ballot(1, 2);
    let answer = send(&[TWO], promise(b, 0, vec![]), Lsn(3));
    assert_eq!(bench.hear(TWO, prepare(b)), [persist(3, b, Record::Promised), answer.clone()]);
    assert_eq!(bench.hear(TWO, prepare(b)), [answer], "an equal one is answered again, and waits as long");
}

#[test]
fn a_lower_prepare_is_refused_and_the_refusal_waits_for_the_promise_it_names() {
    let mut bench = Bench::follower();
    bench.hear(THREE, prepare(ballot(2, 3)));
    assert_eq!(bench.hear(TWO, prepare(ballot(1, 2))), [send(&[TWO], refused(ballot(2, 3)), Lsn(3))]);
}

#[test]
fn a_ballot_of_another_node_is_not_taken_from_its_sender() {
    let mut bench = Bench::follower();
    assert_eq!(bench.hear(TWO, prepare(ballot(1, 3))), []);
    assert_eq!(bench.hear(TWO, accept(ballot(1, 3), 1)), []);
    assert_eq!(bench.hear(TWO, heartbeat(ballot(1, 3), 0, 0)), []);
}

#[test]
fn a_promise_reports_what_is_held_and_waits_for_all_of_it() {
    let chosen = Held { chosen: Some(Epoch(1)), ..held(7, ballot(1, 3)) };
    let mut bench = Bench::follower_of(settings(1, 3), restart(ballot(2, 2), 4, vec![held(6, ballot(2, 2)), chosen]));
    bench.hear(TWO, accept(ballot(2, 2), 5));
    let reports = vec![
        report(5, ReportState::Accepted(ballot(2, 2))),
        report(6, ReportState::Accepted(ballot(2, 2))),
        report(7, ReportState::Chosen(ballot(1, 3))),
    ];
    let b = ballot(3, 3);
    let answer = send(&[THREE], promise(b, 4, reports), Lsn(22));
    assert_eq!(bench.hear(THREE, prepare(b)), [persist(22, b, Record::Promised), answer]);
}

#[test]
fn a_promise_told_again_waits_for_what_was_learnt_meanwhile() {
    let mut bench = Bench::follower();
    let b = ballot(1, 2);
    bench.hear(TWO, prepare(b));
    bench.sync();
    bench.hear(THREE, learn(2, ballot(0, 3)));
    let reports = vec![report(2, ReportState::Chosen(ballot(0, 3)))];
    assert_eq!(bench.hear(TWO, prepare(b)), [send(&[TWO], promise(b, 0, reports), Lsn(4))]);
}

#[test]
fn a_long_promise_goes_in_parts_of_fixed_ranges() {
    let all = (1..=PART_SLOTS + 2).filter(|slot| *slot != 3).map(|slot| held(slot, ballot(1, 2)));
    let mut bench = Bench::follower_of(settings(1, 3), restart(ballot(1, 2), 0, all.collect()));
    let b = ballot(2, 3);
    let part = |part, slots: core::ops::RangeInclusive<u64>| Message::Promise {
        ballot: b,
        prefix: Slot(0),
        part,
        parts: 2,
        unknown_all: false,
        reports: slots.filter(|s| *s != 3).map(|s| report(s, ReportState::Accepted(ballot(1, 2)))).collect(),
    };
    let parts = [part(0, 1..=PART_SLOTS), part(1, PART_SLOTS + 1..=PART_SLOTS + 2)];
    let parts = parts.map(|part| send(&[THREE], part, Lsn(21)));
    assert_eq!(bench.hear(THREE, prepare(b))[1..], parts);
}

#[test]
fn a_value_is_logged_under_its_promise_and_acknowledged_once_durable() {
    let mut bench = Bench::follower();
    let b = ballot(1, 2);
    let logged = [persist(3, b, Record::Promised), persist(4, b, record_of(1, b, Source::Message))];
    assert_eq!(bench.hear(TWO, accept(b, 1)), logged);
    assert_eq!(bench.step(Input::Persisted { upto: Lsn(3) }), [], "the promise alone is no vote");
    assert_eq!(bench.sync(), [send(&[TWO], accepted(b, 1, [0; 4]), Lsn(4))]);
}

#[test]
fn a_duplicate_is_answered_with_what_is_durable_and_nothing_else() {
    let mut bench = Bench::follower();
    let b = ballot(1, 2);
    bench.hear(TWO, accept(b, 1));
    assert_eq!(bench.hear(TWO, accept(b, 1)), [send(&[TWO], accepted(b, 0, [0; 4]), Lsn(3))]);
    bench.sync();
    assert_eq!(bench.hear(TWO, accept(b, 1)), [send(&[TWO], accepted(b, 1, [0; 4]), Lsn(4))]);
}

#[test]
fn an_accept_below_the_promise_is_refused() {
    let mut bench = Bench::follower();
    bench.hear(THREE, prepare(ballot(2, 3)));
    assert_eq!(bench.hear(TWO, accept(ballot(1, 2), 1)), [send(&[TWO], refused(ballot(2, 3)), Lsn(3))]);
}

#[test]
fn an_accept_above_the_promise_is_a_promise_too() {
    let mut bench = Bench::led();
    let (b, lsn) = (ballot(2, 3), bench.lsn().0);
    let logged = [persist(lsn + 1, b, Record::Promised), persist(lsn + 2, b, record_of(2, b, Source::Message))];
    assert_eq!(bench.hear(THREE, accept(b, 2)), logged);
    assert_eq!(bench.core.leader(), Some(THREE));
}

#[test]
fn a_vote_covers_only_the_ballot_it_names() {
    let mut bench = Bench::led();
    bench.hear(TWO, accept(ballot(1, 2), 2));
    bench.sync();
    let (b, lsn) = (ballot(2, 3), bench.lsn().0);
    let asked = send(&[THREE], missing(b, 2, 2), Lsn::ZERO);
    let outputs = bench.hear(THREE, accept(b, 3));
    assert_eq!(outputs[2..], [asked], "slot 2 is held, but in another ballot");
    let vote = accepted(b, 1, [1 << 1, 0, 0, 0]);
    assert_eq!(bench.sync(), [send(&[THREE], vote, Lsn(lsn + 2))], "slot 3 is, slot 2 is not in this ballot");
}

#[test]
fn a_gap_is_asked_for_at_once_and_once() {
    let mut bench = Bench::led();
    let (b, lsn) = (ballot(1, 2), bench.lsn().0);
    let logged = persist(lsn + 1, b, record_of(4, b, Source::Message));
    assert_eq!(bench.hear(TWO, accept(b, 4)), [logged, send(&[TWO], missing(b, 2, 3), Lsn::ZERO)]);
    let logged = persist(lsn + 2, b, record_of(5, b, Source::Message));
    assert_eq!(bench.hear(TWO, accept(b, 5)), [logged]);
    assert_eq!(bench.sync(), [send(&[TWO], accepted(b, 1, [0b1100, 0, 0, 0]), Lsn(lsn + 2))]);
}

#[test]
fn slots_beyond_the_window_are_not_taken() {
    let mut bench = Bench::led();
    assert_eq!(bench.hear(TWO, accept(ballot(1, 2), 1 + 128 + 1)), []);
    assert_eq!(bench.hear(TWO, accept(ballot(1, 2), 1 + 128)).len(), 2, "the record, and the gap");
}

#[test]
fn bits_reach_as_far_as_the_message_has_room() {
    let wide = Settings { window_slots: 200, ..settings(1, 3) };
    let mut bench = Bench::follower_of(wide, founded());
    let b = ballot(1, 2);
    for slot in 2..=300 {
        bench.hear(TWO, accept(b, slot));
    }
    // Slot 1 is open, so bit 0; the bits end with slot 256.
    let vote = accepted(b, 0, [u64::MAX - 1, u64::MAX, u64::MAX, u64::MAX]);
    assert_eq!(bench.sync(), [send(&[TWO], vote, Lsn(3 + 255))], "it waits for slot 256's record, and not for more");
}

#[test]
fn what_was_delivered_before_it_was_durable_is_vouched_for_only_once_it_is() {
    let mut bench = Bench::led();
    let (b, lsn) = (ballot(1, 2), bench.lsn().0);
    bench.hear(TWO, accept(b, 2));
    let ranges = evidence(2, 2, b, &[TWO, THREE]);
    let delivered = [persist(lsn + 2, b, Record::Chosen(ranges)), deliver(2)];
    assert_eq!(bench.hear(TWO, Message::Commit { ballot: b, ranges }), delivered);
    let vote = accepted(b, 2, [0; 4]);
    assert_eq!(bench.hear(TWO, accept(b, 2)), [send(&[TWO], vote, Lsn(lsn + 1))]);
}

#[test]
fn an_accepted_value_is_handed_out_once_durable_and_only_in_its_ballot() {
    let mut bench = Bench::led();
    let (b, lsn) = (ballot(1, 2), bench.lsn().0);
    bench.hear(TWO, accept(b, 2));
    let wanted = |slot, ballot| Message::FetchValue { slot: Slot(slot), ballot };
    let value = Message::Value { slot: Slot(2), ballot: b, mark: Mark::Batch };
    assert_eq!(bench.hear(THREE, wanted(2, b)), [send(&[THREE], value, Lsn(lsn + 1))]);
    assert_eq!(bench.hear(THREE, wanted(2, ballot(1, 3))), []);
    let served = Output::ServeCatchUp { to: THREE, first: Slot(1), last: Slot(1) };
    assert_eq!(bench.hear(THREE, wanted(1, b)), [served], "chosen and delivered meanwhile");
}

#[test]
fn a_node_that_promised_another_has_no_leader_to_answer() {
    let mut bench = Bench::led();
    bench.hear(TWO, accept(ballot(1, 2), 2));
    let upto = bench.lsn();
    bench.hear(THREE, prepare(ballot(2, 3)));
    assert_eq!(bench.step(Input::Persisted { upto }), [], "slot 2 is durable, in a ballot that is over");
}
