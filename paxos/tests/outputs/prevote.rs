//! Who hears no leader asks before it stands, and is asked.

use super::*;

const QUESTION: Message = Message::PreVote { start: 9, round: 4 };

fn answer(granted: bool, promised: Ballot) -> Message {
    Message::PreVoteAck { start: 9, round: 4, granted, promised }
}

#[test]
fn a_time_out_raises_no_ballot_before_a_quorum_hears_no_leader_either() {
    let mut bench = Bench::follower();
    let question = bench.pre_vote();
    assert_eq!((bench.core.role(), bench.core.promised(), bench.lsn()), (Role::Follower, Ballot::ZERO, FOUNDED_LSN));
    let Message::PreVote { start: START, round } = question else { panic!("{question:?}") };
    let no = Message::PreVoteAck { start: START, round, granted: false, promised: ballot(7, 3) };
    assert_eq!(bench.hear(THREE, no), []);
    assert_eq!(bench.hear(TWO, yes(&question))[0], became(Role::Candidate, Reason::ElectionTimeout));
    assert_eq!(bench.core.promised(), ballot(8, 1), "above what the one who said no has promised");
}

#[test]
fn it_asks_again_those_who_have_not_said_yes() {
    let quorums = Quorums { phase1: 3, phase2: 1 };
    let mut bench = Bench::follower_of(Settings { quorums, ..settings(1, 3) }, founded());
    let question = bench.pre_vote();
    assert_eq!(bench.hear(TWO, yes(&question)), []);
    assert_eq!(bench.hear(TWO, yes(&question)), [], "one voter is one, however often it says so");
    assert_eq!(bench.after(10), [send(&[THREE], question, Lsn::ZERO)]);
}

#[test]
fn answers_to_another_round_or_another_start_do_not_count() {
    let mut bench = Bench::follower();
    let first = bench.pre_vote();
    let second = std::iter::repeat_with(|| bench.pre_vote()).take(100).find(|question| *question != first);
    let Some(Message::PreVote { round, .. }) = second else { panic!("{second:?}") };
    assert_eq!(bench.hear(TWO, yes(&first)), []);
    assert_eq!(bench.hear(TWO, yes(&Message::PreVote { start: START + 1, round })), []);
    assert_eq!(bench.core.role(), Role::Follower);
}

#[test]
fn a_leader_that_is_heard_ends_the_question() {
    let mut bench = Bench::follower();
    let question = bench.pre_vote();
    bench.hear(TWO, heartbeat(ballot(1, 2), 0, 1));
    bench.sync();
    assert_eq!(bench.hear(THREE, yes(&question)), []);
    assert_eq!((bench.core.leader(), bench.core.promised()), (Some(TWO), ballot(1, 2)));
}

#[test]
fn who_hears_a_leader_says_no_to_all_but_the_leader() {
    let mut bench = Bench::led();
    let no = |from| send(&[from], answer(false, ballot(1, 2)), Lsn::ZERO);
    assert_eq!(bench.hear(THREE, QUESTION), [no(THREE)]);
    let yes = send(&[TWO], answer(true, ballot(1, 2)), Lsn::ZERO);
    assert_eq!(bench.hear(TWO, QUESTION), [yes], "a leader that asks leads no longer");
    assert_eq!(bench.core.leader(), None);
}

#[test]
fn half_the_shortest_time_out_without_a_leader_is_enough_for_a_yes() {
    let mut bench = Bench::led();
    let half_ms = settings(1, 3).election_min_ns / MS / 2;
    bench.now_ns += (half_ms - 1) * MS;
    assert_eq!(bench.hear(THREE, QUESTION), [send(&[THREE], answer(false, ballot(1, 2)), Lsn::ZERO)]);
    bench.now_ns += MS;
    assert_eq!(bench.hear(THREE, QUESTION), [send(&[THREE], answer(true, ballot(1, 2)), Lsn::ZERO)]);
}

#[test]
fn who_has_just_promised_to_a_candidate_says_no_to_another() {
    let mut bench = Bench::follower();
    bench.hear(TWO, prepare(ballot(1, 2)));
    bench.sync();
    assert_eq!(bench.hear(THREE, QUESTION), [send(&[THREE], answer(false, ballot(1, 2)), Lsn::ZERO)]);
}

#[test]
fn a_leader_says_no_and_a_candidate_yes() {
    let mut bench = Bench::leader();
    let outputs = bench.hear(THREE, QUESTION);
    assert!(matches!(outputs[..], [Output::Send { message: Message::PreVoteAck { granted: false, .. }, .. }]));
    let mut bench = Bench::candidate(founded());
    let outputs = bench.hear(THREE, QUESTION);
    assert!(matches!(outputs[..], [Output::Send { message: Message::PreVoteAck { granted: true, .. }, .. }]));
}
