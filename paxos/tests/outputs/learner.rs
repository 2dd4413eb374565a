//! What is chosen, delivery, and catch-up. Node 2 leads in ballot 1.2; its barrier took slot 1 and is delivered here.

use super::*;

const B: Ballot = Ballot { round: 1, node: TWO };

fn commit(ballot: Ballot, ranges: Ranges) -> Message {
    Message::Commit { ballot, ranges }
}

fn ack(ballot: Ballot, prefix: u64, probe: u64) -> Message {
    Message::HeartbeatAck { ballot, prefix: Slot(prefix), probe, lease_ns: 0 }
}

fn learnt(slot: u64, ballot: Ballot) -> Record {
    Record::Learnt { slot: Slot(slot), ballot, mark: Mark::Batch, epoch: Epoch(1) }
}

/// The Lsn after which this node's promise of ballot 1.2 is durable.
const PROMISE_LSN: Lsn = Lsn(3);

#[test]
fn evidence_makes_what_is_held_in_its_ballot_chosen() {
    let mut bench = Bench::led();
    bench.hear(TWO, accept(B, 2));
    bench.hear(TWO, accept(B, 3));
    let (lsn, ranges) = (bench.lsn().0, evidence(2, 3, B, &[TWO, THREE]));
    let wanted = [persist(lsn + 1, B, Record::Chosen(ranges)), deliver(2), deliver(3)];
    assert_eq!(bench.hear(TWO, commit(B, ranges)), wanted);
    assert_eq!(bench.hear(TWO, commit(B, ranges)), [], "once");
}

#[test]
fn evidence_of_an_older_ballot_is_as_good_for_what_is_held_in_that_ballot() {
    let mut bench = Bench::led();
    bench.hear(TWO, accept(B, 2));
    bench.hear(THREE, prepare(ballot(2, 3)));
    let ranges = evidence(2, 2, B, &[TWO, THREE]);
    let outputs = bench.hear(TWO, commit(B, ranges));
    assert_eq!(outputs.last(), Some(&deliver(2)));
    assert_eq!(bench.core.promised(), ballot(2, 3), "and the promise stands");
}

#[test]
fn a_value_of_an_older_ballot_is_not_taken_as_chosen_but_fetched() {
    let mut bench = Bench::led();
    bench.hear(TWO, accept(B, 2));
    bench.sync();
    let newer = ballot(2, 3);
    let outputs = bench.hear(THREE, commit(newer, evidence(2, 2, newer, &[TWO, THREE])));
    let lsn = bench.lsn();
    assert_eq!(outputs, [persist(lsn.0, newer, Record::Promised)], "node 3 leads, but slot 2 is not what it chose");
    let outputs = bench.hear(THREE, heartbeat(newer, 2, 5));
    let wanted = [send(&[THREE], ack(newer, 1, 5), lsn), send(&[THREE], fetch(2, 2), Lsn::ZERO)];
    assert_eq!(outputs, wanted, "nor by the watermark");
    let outputs = bench.hear(THREE, learn(2, newer));
    assert_eq!(outputs, [persist(lsn.0 + 1, newer, learnt(2, newer)), deliver(2)]);
}

#[test]
fn a_heartbeat_is_answered_and_its_watermark_taken() {
    let mut bench = Bench::led();
    bench.hear(TWO, accept(B, 2));
    let lsn = bench.lsn().0;
    let wanted = [
        persist(lsn + 1, B, chosen(2, 2, B, &[])),
        deliver(2),
        send(&[TWO], ack(B, 2, 77), PROMISE_LSN),
        send(&[TWO], fetch(3, 4), Lsn::ZERO),
    ];
    assert_eq!(bench.hear(TWO, heartbeat(B, 4, 77)), wanted);
}

#[test]
fn a_heartbeat_below_the_promise_is_refused() {
    let mut bench = Bench::led();
    bench.hear(THREE, prepare(ballot(2, 3)));
    let refused = Message::Refused { promised: ballot(2, 3) };
    let lsn = bench.lsn();
    assert_eq!(bench.hear(TWO, heartbeat(B, 1, 0)), [send(&[TWO], refused, lsn)]);
}

#[test]
fn a_heartbeat_keeps_a_follower_from_standing() {
    let mut bench = Bench::led();
    while bench.now_ns < 2_000 * MS {
        bench.now_ns += 140 * MS;
        bench.step(Input::Timeout);
        bench.hear(TWO, heartbeat(B, 1, 0));
        assert_eq!(bench.core.role(), Role::Follower);
    }
}

#[test]
fn catch_up_asks_for_the_next_half_while_one_is_on_its_way() {
    let mut bench = Bench::led();
    assert_eq!(bench.hear(TWO, heartbeat(B, 40, 0))[1..], [send(&[TWO], fetch(2, 17), Lsn::ZERO)]);
    let lsn = bench.lsn().0;
    let mut asked = Vec::new();
    for slot in 2..=40 {
        let outputs = bench.hear(TWO, learn(slot, B));
        assert_eq!(outputs[..2], [persist(lsn + slot - 1, B, learnt(slot, B)), deliver(slot)]);
        asked.extend(outputs[2..].iter().map(|output| (slot, output.clone())));
        assert_eq!(bench.hear(TWO, heartbeat(B, 40, 0)).len(), 1, "a heartbeat asks for nothing meanwhile");
    }
    let wanted = [(9, fetch(18, 25)), (17, fetch(26, 33)), (33, fetch(34, 40))];
    assert_eq!(asked, wanted.map(|(slot, fetch)| (slot, send(&[TWO], fetch, Lsn::ZERO))));
}

#[test]
fn an_unanswered_request_goes_to_the_next_peer() {
    let mut bench = Bench::led();
    bench.hear(TWO, heartbeat(B, 5, 0));
    for peer in [THREE, TWO, THREE] {
        bench.now_ns += 10 * MS;
        assert_eq!(bench.step(Input::Timeout), [send(&[peer], fetch(2, 5), Lsn::ZERO)]);
    }
    bench.now_ns += 9 * MS;
    bench.hear(THREE, learn(3, B));
    bench.now_ns += MS;
    assert_eq!(bench.step(Input::Timeout), [], "it is being answered");
}

#[test]
fn a_chunk_ends_where_the_window_does() {
    let narrow = Settings { window_slots: 2, ..settings(1, 3) };
    let mut bench = Bench::follower_of(narrow, founded());
    let outputs = bench.hear(TWO, heartbeat(B, 40, 0));
    assert_eq!(outputs.last(), Some(&send(&[TWO], fetch(1, 4), Lsn::ZERO)));
    assert_eq!(bench.hear(TWO, learn(5, B)), [], "beyond it nothing is kept");
}

#[test]
fn learnt_values_are_delivered_in_order_and_logged_once() {
    let mut bench = Bench::led();
    let lsn = bench.lsn().0;
    assert_eq!(bench.hear(TWO, learn(3, B)), [persist(lsn + 1, B, learnt(3, B))]);
    assert_eq!(bench.hear(TWO, learn(3, B)), []);
    assert_eq!(bench.hear(TWO, learn(2, B)), [persist(lsn + 2, B, learnt(2, B)), deliver(2), deliver(3)]);
    assert_eq!(bench.hear(TWO, learn(2, B)), []);
}

#[test]
fn a_learnt_value_replaces_one_that_was_only_accepted() {
    let mut bench = Bench::led();
    bench.hear(TWO, accept(B, 3));
    let lsn = bench.lsn().0;
    let older = ballot(1, 1);
    assert_eq!(bench.hear(THREE, learn(3, older)), [persist(lsn + 1, B, learnt(3, older))]);
    assert_eq!(bench.core.held(Slot(3)), Some(older));
    let duplicate = bench.hear(TWO, accept(B, 3));
    assert!(!duplicate.iter().any(|output| matches!(output, Output::Persist { .. })), "a chosen value stays");
}

#[test]
fn chosen_values_are_served_as_far_as_they_are_held() {
    let mut bench = Bench::follower_of(settings(1, 3), restart(B, 40, vec![]));
    let serve = |first, last| Output::ServeCatchUp { to: THREE, first: Slot(first), last: Slot(last) };
    assert_eq!(bench.hear(THREE, fetch(3, 10)), [serve(3, 10)]);
    assert_eq!(bench.hear(THREE, fetch(3, 30)), [serve(3, 18)], "a chunk at most");
    assert_eq!(bench.hear(THREE, fetch(38, 60)), [serve(38, 40)]);
    assert_eq!(bench.hear(THREE, fetch(41, 60)), []);
    assert_eq!(bench.hear(THREE, fetch(0, 5)), []);
    assert_eq!(bench.hear(THREE, fetch(9, 5)), []);
}

#[test]
fn a_joining_node_serves_and_learns() {
    let mut bench = Bench::new(settings(1, 3), restart(B, 4, vec![]));
    assert_eq!(bench.hear(THREE, fetch(1, 4)).len(), 1);
    assert_eq!(bench.hear(THREE, learn(5, B)), [persist(21, B, learnt(5, B)), deliver(5)]);
}

#[test]
fn recovered_values_that_are_known_chosen_are_delivered_when_the_hole_closes() {
    let known = |slot| Held { chosen: Some(Epoch(1)), ..held(slot, B) };
    let mut bench = Bench::follower_of(settings(1, 3), restart(B, 4, vec![known(6), known(7)]));
    assert_eq!(bench.hear(TWO, learn(5, B)), [persist(21, B, learnt(5, B)), deliver(5), deliver(6), deliver(7)]);
}

#[test]
fn the_state_is_told_as_it_is() {
    let mut bench = Bench::led();
    bench.hear(TWO, accept(B, 3));
    bench.hear(TWO, commit(B, evidence(5, 6, B, &[TWO, THREE])));
    let core = &bench.core;
    assert_eq!((core.prefix(), core.known_chosen(), core.highest_held()), (Slot(1), Slot(6), Slot(3)));
    assert_eq!((core.held(Slot(3)), core.held(Slot(2)), core.held(Slot(1))), (Some(B), None, None));
    assert_eq!((core.unknown_slots(), core.unknown().len(), core.halted()), (Some(0), 0, None));
}

#[test]
fn who_was_heard_and_when_is_told() {
    let mut bench = Bench::follower_of(settings(1, 3), restart(B, 0, vec![]));
    let (joined_ns, leads) = (bench.now_ns, B.node);
    assert_eq!(bench.core.leader_watermark(), None);
    bench.now_ns += 5 * MS;
    bench.hear(leads, heartbeat(B, 0, 1));
    let core = &bench.core;
    assert_eq!((core.leader(), core.leader_heard_ns()), (Some(leads), Some(joined_ns + 5 * MS)));
    assert_eq!(core.leader_watermark(), Some(Slot(0)));
    assert_eq!(core.quorum_heard_ns(), joined_ns + 5 * MS, "the leader and this node are a quorum of three");
    bench.now_ns += MS;
    bench.hear(leads, heartbeat(B, 4, 2));
    assert_eq!(bench.core.leader_watermark(), Some(Slot(4)));
}
