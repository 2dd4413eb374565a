//! Who may vote: founding, restarts, lost and rolled-back disks.

use super::*;

/// A directory fresh from `format`: its configuration record has Lsn 1.
fn fresh() -> Bench {
    Bench::new(settings(1, 3), Restart { last_lsn: Lsn(1), ..Restart::default() })
}

fn hello(incarnation: u64, fresh: bool) -> Message {
    Message::Hello { incarnation, fresh, start: START, prefix: Slot::ZERO }
}

#[test]
fn a_fresh_node_founds_the_group_once_every_member_has_confirmed_that_it_is_new() {
    let mut bench = fresh();
    assert_eq!(bench.timer(), [send(&[TWO, THREE], hello(101, true), Lsn::ZERO)]);
    assert_eq!(bench.hear(TWO, hello_ack(TWO, 0, Lsn::ZERO)), []);
    assert_eq!(bench.hear(TWO, hello_ack(TWO, 0, Lsn::ZERO)), [], "the same member twice is one member");
    let members = vec![(ME, 101), (TWO, 102), (THREE, 103)];
    let founded = persist(2, Ballot::ZERO, Record::Founded(members));
    assert_eq!(bench.hear(THREE, hello_ack(THREE, 0, Lsn::ZERO)), [founded]);
    assert_eq!(bench.core.role(), Role::Joining, "the founding record is not durable yet");
    assert_eq!(bench.sync(), [became(Role::Follower, Reason::Joined)]);
}

#[test]
fn a_fresh_node_that_misses_one_confirmation_keeps_asking() {
    let mut bench = fresh();
    bench.timer();
    bench.hear(TWO, hello_ack(TWO, 0, Lsn::ZERO));
    for _ in 0..3 {
        assert_eq!(bench.after(10), [send(&[TWO, THREE], hello(101, true), Lsn::ZERO)]);
    }
}

#[test]
fn a_founding_record_confirms_nothing_before_it_is_durable() {
    let mut bench = fresh();
    let ack = |founded_with| Message::HelloAck {
        incarnation: 101,
        to_incarnation: 103,
        to_start: START,
        founded_with,
        counted: Lsn(0),
        prefix: Slot::ZERO,
    };
    assert_eq!(bench.hear(THREE, hello(103, true)), [send(&[THREE], ack(0), Lsn::ZERO)]);
    bench.hear(TWO, hello_ack(TWO, 0, Lsn::ZERO));
    bench.hear(THREE, hello_ack(THREE, 0, Lsn::ZERO));
    assert_eq!(bench.hear(THREE, hello(103, true)), [send(&[THREE], ack(103), Lsn(2))]);
}

#[test]
fn a_restarted_node_joins_once_a_quorum_has_had_its_say() {
    let mut bench = Bench::new(settings(1, 3), founded());
    assert_eq!(bench.timer(), [send(&[TWO, THREE], hello(101, false), Lsn::ZERO)]);
    let joined = bench.hear(TWO, hello_ack(TWO, 101, FOUNDED_LSN));
    assert_eq!(joined, [became(Role::Follower, Reason::Joined)], "what was counted is on its disk");
}

#[test]
fn the_larger_quorum_decides_how_many_have_their_say() {
    let quorums = Quorums { phase1: 3, phase2: 1 };
    let mut bench = Bench::new(Settings { quorums, ..settings(1, 3) }, founded());
    assert_eq!(bench.hear(TWO, hello_ack(TWO, 101, Lsn::ZERO)), []);
    assert_eq!(bench.hear(THREE, hello_ack(THREE, 101, Lsn::ZERO)), [became(Role::Follower, Reason::Joined)]);
}

#[test]
fn a_node_behind_what_a_peer_counted_halts() {
    let halt = Halt::Behind { peer: TWO, counted: Lsn(3), durable: FOUNDED_LSN };
    let mut bench = Bench::new(settings(1, 3), founded());
    let outputs = bench.hear(TWO, hello_ack(TWO, 101, Lsn(3)));
    assert_eq!(outputs, [became(Role::Halted, Reason::Halted), Output::Halt(halt)]);
    assert_eq!((bench.core.halted(), bench.core.poll_timeout()), (Some(halt), u64::MAX));
    assert_eq!(bench.hear(TWO, prepare(ballot(1, 2))), [], "a halted node says nothing");
}

#[test]
fn a_peer_that_answers_late_still_halts_a_node_that_is_behind() {
    let mut bench = Bench::follower();
    let outputs = bench.hear(THREE, hello_ack(THREE, 101, Lsn(9)));
    let halt = Halt::Behind { peer: THREE, counted: Lsn(9), durable: FOUNDED_LSN };
    assert_eq!(outputs, [became(Role::Halted, Reason::Halted), Output::Halt(halt)]);
}

#[test]
fn a_node_formatted_after_the_founding_halts() {
    let mut bench = fresh();
    let outputs = bench.hear(TWO, hello_ack(TWO, 77, Lsn::ZERO));
    let halt = Halt::FormattedAnew { peer: TWO };
    assert_eq!(outputs, [became(Role::Halted, Reason::Halted), Output::Halt(halt)]);
}

#[test]
fn an_answer_to_another_incarnation_counts_for_nothing() {
    let mut bench = Bench::new(settings(1, 3), founded());
    let stray = Message::HelloAck {
        incarnation: 102,
        to_incarnation: 1,
        to_start: START,
        founded_with: 1,
        counted: Lsn(900),
        prefix: Slot::ZERO,
    };
    assert_eq!(bench.hear(TWO, stray), []);
    assert_eq!(bench.core.role(), Role::Joining);
}

#[test]
fn an_answer_to_another_start_confirms_nothing_and_still_halts() {
    let mut bench = Bench::new(settings(1, 3), founded());
    let late = |counted| Message::HelloAck {
        incarnation: 102,
        to_incarnation: founding_incarnation(1),
        to_start: START + 1,
        founded_with: founding_incarnation(1),
        counted,
        prefix: Slot::ZERO,
    };
    assert_eq!(bench.hear(TWO, late(Lsn::ZERO)), []);
    assert_eq!(bench.core.role(), Role::Joining);
    bench.hear(TWO, late(Lsn(900)));
    assert_eq!(bench.core.role(), Role::Halted);
}

#[test]
fn a_joining_node_neither_promises_nor_votes_nor_follows() {
    let mut bench = Bench::new(settings(1, 3), founded());
    assert_eq!(bench.hear(TWO, prepare(ballot(1, 2))), []);
    assert_eq!(bench.hear(TWO, accept(ballot(1, 2), 1)), []);
    assert_eq!(bench.hear(TWO, heartbeat(ballot(1, 2), 0, 0)), []);
    assert_eq!(bench.core.promised(), Ballot::ZERO);
}

/// All whom it knew were replaced while it was away; who starts up waits for its word, and it for the configuration that says so.
#[test]
fn a_hello_from_a_later_configuration_is_answered_and_what_it_knows_is_fetched() {
    const FOUR: NodeId = NodeId(4);
    let mut bench = Bench::follower();
    let hello = Message::Hello { incarnation: 104, fresh: false, start: START, prefix: Slot(9) };
    let told = Input::Message { from: FOUR, epoch: Epoch(2), lsn: Lsn(50), message: hello };
    let outputs = bench.step(told);
    let asks = |output: &Output, of: NodeId| *output == send(&[of], fetch(1, 9), Lsn::ZERO);
    assert!(matches!(&outputs[0], Output::Send { message: Message::HelloAck { founded_with: NOT_A_MEMBER, .. }, .. }));
    assert!(outputs.len() == 2 && asks(&outputs[1], FOUR), "{outputs:?}");
    // What is lost is asked for again: of those it knew, and of the one that it did not know.
    let mut asked = NodeSet::EMPTY;
    while asked != set(&[TWO, THREE, FOUR]) {
        let again = bench.timer();
        for of in [TWO, THREE, FOUR].into_iter().filter(|of| again.iter().any(|output| asks(output, *of))) {
            asked.insert(of);
        }
    }
    let early = Message::Hello { incarnation: 102, fresh: false, start: START, prefix: Slot(9) };
    assert_eq!(
        Bench::follower().hear(TWO, early).len(),
        1,
        "who knows no more than this node is answered, and that is all"
    );
}

#[test]
fn a_stranger_is_not_heard() {
    let mut bench = Bench::follower();
    assert_eq!(bench.hear(NodeId(4), prepare(ballot(1, 4))), []);
    assert_eq!(bench.hear(ME, prepare(ballot(1, 1))), []);
}
