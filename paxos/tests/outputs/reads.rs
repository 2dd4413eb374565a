//! Rounds of reads: what the asker and the leader put out. Node 1 is under test, as leader in ballot 1.1 or as follower of
//! node 2.

use super::*;

const B: Ballot = Ballot { round: 1, node: ME };

fn question(start: u64, round: u64) -> Message {
    Message::ReadIndex { start, round }
}

fn answer(start: u64, round: u64, index: u64) -> Message {
    Message::ReadIndexAck { start, round, index: Slot(index) }
}

fn ack(probe: u64) -> Message {
    Message::HeartbeatAck { ballot: B, prefix: Slot(1), probe, lease_ns: 0 }
}

fn beat(chosen: u64, probe: u64) -> Output {
    send(&[TWO, THREE], heartbeat(B, chosen, probe), Lsn::ZERO)
}

fn ready(round: u64) -> Output {
    Output::ReadsReady { round }
}

#[test]
fn a_leader_confirms_that_it_leads_before_it_answers() {
    let mut bench = Bench::leader();
    assert_eq!(bench.core.read_round(), 1);
    let began_ns = bench.now_ns;
    assert_eq!(bench.step(Input::Read), [beat(1, 2)]);
    assert_eq!(bench.core.read_round(), 2, "what comes now waits for the next round");
    assert_eq!(bench.hear(TWO, ack(1)), [], "an answer to the heartbeat before");
    assert!(bench.core.current_at_ns() < Some(began_ns), "the state is as old as that heartbeat");
    bench.now_ns += MS;
    assert_eq!(bench.hear(TWO, ack(2)), [ready(1)]);
    assert_eq!(bench.core.current_at_ns(), Some(began_ns), "when it began, not when it was answered");
    assert_eq!(bench.hear(THREE, ack(2)), []);
}

#[test]
fn a_leader_dates_its_state_by_the_heartbeats_that_a_quorum_has_answered() {
    let mut bench = Bench::leader();
    bench.hear(TWO, ack(1));
    let first = bench.core.current_at_ns();
    let left_ns = bench.now_ns + 19 * MS;
    assert_eq!(bench.after(19), [beat(1, 2)], "the regular one, 20 ms after the first");
    assert_eq!(bench.core.current_at_ns(), first, "nobody has answered it");
    bench.now_ns += 5 * MS;
    assert_eq!(bench.hear(THREE, ack(2)), []);
    assert_eq!(bench.core.current_at_ns(), Some(left_ns));
    bench.hear(TWO, ack(1));
    assert_eq!(bench.core.current_at_ns(), Some(left_ns), "an older one takes nothing back");
}

#[test]
fn a_follower_that_nobody_reads_from_asks_by_itself_once_in_an_election_time_out() {
    let mut bench = Bench::led();
    let beats = |bench: &mut Bench, count: u64| -> Vec<Output> {
        (0..count)
            .flat_map(|_| {
                bench.now_ns += 20 * MS;
                bench.hear(TWO, heartbeat(ballot(1, 2), 1, bench.now_ns / MS))
            })
            .filter(|output| matches!(output, Output::Send { message: Message::ReadIndex { .. }, .. }))
            .collect()
    };
    let began_ns = bench.now_ns;
    let asked = beats(&mut bench, 15);
    assert_eq!(asked.len(), 1, "in 300 ms: {asked:?}");
    assert_eq!(bench.core.current_at_ns(), None, "the leader has not answered");
    bench.hear(TWO, answer(1, 1, 1));
    assert!(bench.core.current_at_ns() > Some(began_ns));
    // Whoever is read from all the time needs no round more.
    bench.step(Input::Read);
    assert_eq!(beats(&mut bench, 14), []);
}

#[test]
fn reads_that_come_meanwhile_wait_for_the_next_round_together() {
    let mut bench = Bench::leader();
    bench.step(Input::Read);
    assert_eq!(bench.step(Input::Read), []);
    assert_eq!(bench.hear(THREE, question(9, 4)), []);
    assert_eq!(
        bench.hear(TWO, ack(2)),
        [beat(1, 3), ready(1)],
        "node 3 begins the next, this node's reads join it too late"
    );
    let outputs = bench.hear(TWO, ack(3));
    assert_eq!(outputs, [send(&[THREE], answer(9, 4, 1), Lsn::ZERO), beat(1, 4)]);
    assert_eq!(bench.hear(THREE, ack(4)), [ready(2)]);
}

#[test]
fn a_member_has_one_question_its_newest() {
    let mut bench = Bench::leader();
    assert_eq!(bench.hear(THREE, question(9, 1)), [beat(1, 2)]);
    assert_eq!(bench.hear(THREE, question(9, 1)), [], "under way");
    bench.hear(THREE, question(9, 3));
    bench.hear(THREE, question(9, 2));
    assert_eq!(bench.hear(TWO, ack(2)), [send(&[THREE], answer(9, 1, 1), Lsn::ZERO), beat(1, 3)]);
    assert_eq!(bench.hear(TWO, ack(3)), [send(&[THREE], answer(9, 3, 1), Lsn::ZERO)]);
}

#[test]
fn so_many_answers_that_no_other_leader_had_a_quorum() {
    let quorums = Quorums { phase1: 1, phase2: 3 };
    let mut bench = Bench::follower_of(Settings { quorums, ..settings(1, 3) }, founded());
    bench.election();
    bench.sync();
    bench.sync();
    for peer in [TWO, THREE] {
        bench.hear(peer, accepted(B, 1, [0; 4]));
    }
    assert_eq!(bench.core.role(), Role::Leader);
    bench.step(Input::Read);
    assert_eq!(bench.hear(TWO, ack(2)), []);
    assert_eq!(bench.hear(TWO, ack(2)), [], "one member, twice");
    assert_eq!(bench.hear(THREE, ack(2)), [ready(1)], "one promise would have made another leader: all must answer");
}

#[test]
fn a_lost_heartbeat_is_sent_again_and_any_later_one_counts() {
    let mut bench = Bench::leader();
    bench.step(Input::Read);
    assert_eq!(bench.after(9), []);
    assert_eq!(bench.after(1), [beat(1, 3)]);
    assert_eq!(bench.hear(TWO, ack(3)), [ready(1)]);
}

#[test]
fn a_leader_that_steps_down_answers_no_one() {
    let mut bench = Bench::leader();
    bench.step(Input::Read);
    bench.hear(THREE, question(9, 1));
    bench.hear(TWO, prepare(ballot(2, 2)));
    assert_eq!(bench.core.role(), Role::Follower);
    assert_eq!(bench.hear(TWO, ack(2)), []);
    assert_eq!(bench.hear(THREE, question(9, 2)), [], "nor one that asks now");
}

#[test]
fn a_follower_asks_the_leader_and_answers_when_it_has_delivered_so_far() {
    let mut bench = Bench::led();
    let ask = |round| send(&[TWO], question(START, round), Lsn::ZERO);
    assert_eq!(bench.step(Input::Read), [ask(1)]);
    assert_eq!(bench.step(Input::Read), [], "one round at a time");
    assert_eq!(bench.hear(TWO, answer(START + 1, 1, 1)), [], "an answer to an earlier life");
    assert_eq!(bench.hear(TWO, answer(START, 2, 1)), [], "to no question");
    assert_eq!(bench.hear(TWO, answer(START, 1, 2)), [send(&[TWO], fetch(2, 2), Lsn::ZERO)]);
    assert!(bench.core.read_awaits_delivery());
    let outputs = bench.hear(TWO, learn(2, ballot(1, 2)));
    assert_eq!(outputs[1..], [deliver(2), ready(1), ask(2)]);
    assert_eq!(bench.hear(TWO, answer(START, 2, 2)), [ready(2)]);
}

#[test]
fn an_unanswered_question_is_put_again_and_to_a_new_leader_at_once() {
    let mut bench = Bench::led();
    bench.step(Input::Read);
    assert_eq!(bench.after(9), []);
    assert_eq!(bench.after(1), [send(&[TWO], question(START, 1), Lsn::ZERO)]);
    let newer = ballot(2, 3);
    let outputs = bench.hear(THREE, heartbeat(newer, 1, 1));
    assert!(outputs.contains(&send(&[THREE], question(START, 1), Lsn::ZERO)), "{outputs:?}");
}

#[test]
fn a_leader_that_is_asked_and_heard_by_no_one_steps_down_all_the_same() {
    let mut bench = Bench::leader();
    bench.step(Input::Read);
    let since = bench.now_ns;
    while bench.core.role() == Role::Leader {
        bench.timer();
        assert!(bench.now_ns - since <= 321 * MS, "its heartbeats for the read put off its end");
    }
}
