//! Phase 1, and what the leader makes of it.

use super::*;

const B: Ballot = Ballot { round: 1, node: ME };

fn elected() -> Output {
    became(Role::Preparing, Reason::Elected)
}

/// The first heartbeat of a ballot.
fn beat(ballot: Ballot, chosen: u64) -> Output {
    send(&[TWO, THREE], heartbeat(ballot, chosen, 1), Lsn::ZERO)
}

/// A proposal: its record and its accept request.
fn offer(lsn: u64, ballot: Ballot, slot: u64, source: Source) -> [Output; 2] {
    let request = send(&[TWO, THREE], accept(ballot, slot), Lsn::ZERO);
    [persist(lsn, ballot, record_of(slot, ballot, source)), request]
}

/// The barrier: its record and its accept request.
fn barrier(lsn: u64, ballot: Ballot, slot: u64) -> [Output; 2] {
    let request = Message::Accept { ballot, slot: Slot(slot), mark: Mark::Barrier };
    [persist(lsn, ballot, barrier_of(slot, ballot)), send(&[TWO, THREE], request, Lsn::ZERO)]
}

fn fetch_value(slot: u64, ballot: Ballot) -> Message {
    Message::FetchValue { slot: Slot(slot), ballot }
}

#[test]
fn the_prepare_waits_for_the_own_promise() {
    let mut bench = Bench::follower();
    let outputs = bench.election();
    let prepare = send(&[TWO, THREE], prepare(B), Lsn(3));
    let became = became(Role::Candidate, Reason::ElectionTimeout);
    assert_eq!(outputs, [became, persist(3, B, Record::Promised), prepare]);
}

#[test]
fn the_prepare_goes_again_to_those_that_have_not_promised() {
    let quorums = Quorums { phase1: 3, phase2: 1 };
    let mut bench = Bench::follower_of(Settings { quorums, ..settings(1, 3) }, founded());
    bench.election();
    assert_eq!(bench.after(10), [send(&[TWO, THREE], prepare(B), Lsn(3))]);
    bench.hear(TWO, promise(B, 0, vec![]));
    assert_eq!(bench.after(10), [send(&[THREE], prepare(B), Lsn(3))]);
}

#[test]
fn a_quorum_of_promises_elects_and_the_barrier_is_proposed() {
    let mut bench = Bench::candidate(founded());
    let outputs = bench.hear(TWO, promise(B, 0, vec![]));
    assert_eq!(outputs, [vec![elected(), beat(B, 0)], barrier(4, B, 1).to_vec()].concat());
    assert!(!bench.core.can_propose(), "nothing is served before the barrier is delivered");
    assert_eq!(bench.hear(TWO, accepted(B, 1, [0; 4])), []);
    assert_eq!(bench.sync(), [deliver(1), became(Role::Leader, Reason::BarrierChosen)]);
    assert!(bench.core.can_propose());
}

#[test]
fn the_own_promise_counts_once_it_is_durable() {
    let mut bench = Bench::follower();
    bench.election();
    assert_eq!(bench.hear(TWO, promise(B, 0, vec![])), []);
    assert_eq!(bench.sync()[0], elected());
}

#[test]
fn promises_of_another_ballot_or_another_time_do_not_count() {
    let mut bench = Bench::candidate(founded());
    assert_eq!(bench.hear(TWO, promise(ballot(0, 1), 0, vec![])), []);
    assert_eq!(bench.hear(TWO, promise(ballot(2, 1), 0, vec![])), []);
    let impossible =
        Message::Promise { ballot: B, prefix: Slot(0), part: 2, parts: 2, unknown_all: false, reports: vec![] };
    assert_eq!(bench.hear(TWO, impossible), []);
    let mut follower = Bench::follower();
    assert_eq!(follower.hear(TWO, promise(B, 0, vec![])), []);
}

#[test]
fn a_promise_counts_when_all_its_parts_have_come() {
    let part =
        |part, reports| Message::Promise { ballot: B, prefix: Slot(0), part, parts: 2, unknown_all: false, reports };
    let mut bench = Bench::candidate(founded());
    let last = vec![report(50, ReportState::Accepted(ballot(0, 2)))];
    assert_eq!(bench.hear(TWO, part(1, last.clone())), []);
    assert_eq!(bench.hear(TWO, part(1, last)), [], "the same part twice is one part");
    assert_eq!(bench.hear(TWO, part(0, vec![]))[0], elected());
}

#[test]
fn a_promise_from_a_log_that_shrank_is_ignored() {
    let mut bench = Bench::follower();
    bench.hear_at(TWO, Lsn(60), Message::HeartbeatAck { ballot: Ballot::ZERO, prefix: Slot(0), probe: 0, lease_ns: 0 });
    bench.election();
    bench.sync();
    assert_eq!(bench.hear_at(TWO, Lsn(59), promise(B, 0, vec![])), []);
    assert_eq!(bench.hear_at(TWO, Lsn(60), promise(B, 0, vec![]))[0], elected());
}

#[test]
fn what_is_held_in_the_highest_ballot_reported_is_proposed_again() {
    let mut bench = Bench::candidate(restart(ballot(4, 1), 0, vec![held(1, ballot(4, 1))]));
    let b = ballot(5, 1);
    let outputs = bench.hear(TWO, promise(b, 0, vec![report(1, ReportState::Accepted(ballot(3, 3)))]));
    let wanted = [vec![elected(), beat(b, 0)], offer(22, b, 1, Source::Held).to_vec(), barrier(23, b, 2).to_vec()];
    assert_eq!(outputs, wanted.concat());
}

#[test]
fn a_value_that_another_holds_in_the_highest_ballot_is_fetched_from_it() {
    let mut bench = Bench::candidate(restart(ballot(2, 1), 0, vec![held(1, ballot(2, 1))]));
    let (b, higher) = (ballot(3, 1), ballot(2, 3));
    let outputs = bench.hear(TWO, promise(b, 0, vec![report(1, ReportState::Accepted(higher))]));
    let asked = send(&[TWO], fetch_value(1, higher), Lsn::ZERO);
    assert_eq!(outputs, [vec![elected(), beat(b, 0), asked.clone()], barrier(22, b, 2).to_vec()].concat());
    assert_eq!(bench.after(10)[0], asked, "asked again");
    let value = |ballot| Message::Value { slot: Slot(1), ballot, mark: Mark::Batch };
    assert_eq!(bench.hear(TWO, value(ballot(2, 1))), [], "not the ballot that was planned");
    assert_eq!(bench.hear(TWO, value(higher)), offer(23, b, 1, Source::Message));
    assert_eq!(bench.hear(TWO, value(higher)), [], "once");
}

#[test]
fn a_chosen_value_is_taken_whatever_the_ballot_it_is_held_in() {
    let mut bench = Bench::candidate(restart(ballot(4, 1), 0, vec![held(2, ballot(4, 1))]));
    let (b, chosen) = (ballot(5, 1), ballot(1, 3));
    let outputs = bench.hear(TWO, promise(b, 0, vec![report(2, ReportState::Chosen(chosen))]));
    assert_eq!(outputs[2], send(&[TWO], fetch_value(2, chosen), Lsn::ZERO));
}

#[test]
fn votes_for_what_is_not_proposed_yet_do_not_choose_what_is_held() {
    // Slot 1: node 1 holds a value of ballot 1.1, but another was chosen, which nodes 2 and 3 know.
    let mut bench = Bench::candidate(restart(ballot(4, 1), 0, vec![held(1, ballot(1, 1))]));
    let b = ballot(5, 1);
    bench.hear(TWO, promise(b, 0, vec![report(1, ReportState::Chosen(ballot(2, 2)))]));
    bench.sync();
    for peer in [TWO, THREE] {
        assert_eq!(bench.hear(peer, accepted(b, 2, [0; 4])), []);
    }
    assert_eq!(bench.core.prefix(), Slot(0));
    let learnt = Record::Learnt { slot: Slot(1), ballot: ballot(2, 2), mark: Mark::Batch, epoch: Epoch(1) };
    let outputs = bench.hear(TWO, learn(1, ballot(2, 2)));
    assert_eq!(outputs[..3], [persist(23, b, learnt), deliver(1), deliver(2)]);
}

#[test]
fn a_hole_is_filled_with_a_no_op_and_a_chosen_slot_is_left_alone() {
    let known = Held { chosen: Some(Epoch(1)), ..held(3, ballot(1, 1)) };
    let mut bench = Bench::candidate(restart(ballot(1, 1), 1, vec![known, held(4, ballot(1, 1))]));
    let b = ballot(2, 1);
    let outputs = bench.hear(TWO, promise(b, 1, vec![]));
    let wanted = [
        vec![elected(), beat(b, 1)],
        offer(22, b, 2, Source::Noop).to_vec(),
        offer(23, b, 4, Source::Held).to_vec(),
        barrier(24, b, 5).to_vec(),
    ];
    assert_eq!(outputs, wanted.concat());
}

#[test]
fn a_prefix_reported_as_chosen_is_fetched_before_anything_is_proposed() {
    let mut bench = Bench::candidate(founded());
    let outputs = bench.hear(TWO, promise(B, 2, vec![report(3, ReportState::Accepted(ballot(0, 2)))]));
    assert_eq!(outputs, [send(&[TWO], fetch(1, 2), Lsn::ZERO)]);
    assert_eq!(bench.hear(TWO, learn(1, ballot(0, 2))).last(), Some(&deliver(1)));
    let outputs = bench.hear(TWO, learn(2, ballot(0, 2)));
    let asked = send(&[TWO], fetch_value(3, ballot(0, 2)), Lsn::ZERO);
    let learnt = Record::Learnt { slot: Slot(2), ballot: ballot(0, 2), mark: Mark::Batch, epoch: Epoch(1) };
    let wanted = [vec![persist(5, B, learnt), deliver(2), elected(), beat(B, 2), asked], barrier(6, B, 4).to_vec()];
    assert_eq!(outputs, wanted.concat(), "slots 1 and 2 are not holes");
}

#[test]
fn more_open_slots_than_one_burst_are_all_proposed() {
    let burst = BURST_SLOTS as u64;
    let all = (1..=burst + 3).map(|slot| held(slot, ballot(1, 1)));
    let mut bench = Bench::candidate(restart(ballot(1, 1), 0, all.collect()));
    let b = ballot(2, 1);
    let first = bench.hear(TWO, promise(b, 0, vec![]));
    assert_eq!(first.len(), 2 + 2 * BURST_SLOTS, "a step's outputs are bounded");
    bench.sync();
    let second = bench.hear(TWO, accepted(b, burst, [0; 4]));
    let rest = second.iter().filter(|output| matches!(output, Output::Send { message: Message::Accept { .. }, .. }));
    assert_eq!(rest.count(), 3 + 1, "what was chosen makes room for the rest and the barrier");
}

#[test]
fn a_leader_whose_first_burst_is_chosen_still_has_a_timer_for_the_rest() {
    let burst = BURST_SLOTS as u64;
    let all = (1..=burst + 3).map(|slot| held(slot, ballot(1, 1)));
    let mut bench = Bench::candidate(restart(ballot(1, 1), 0, all.collect()));
    bench.hear(TWO, promise(ballot(2, 1), 0, vec![]));
    // All of the burst turns out to be chosen: nothing is open, but the plan is not done.
    for slot in 1..=burst {
        bench.hear(TWO, learn(slot, ballot(1, 1)));
    }
    assert_eq!(bench.core.role(), Role::Preparing);
    assert!(bench.core.poll_timeout() <= bench.now_ns + 10 * MS);
}

#[test]
fn a_barrier_is_sent_again_though_many_values_below_it_are_still_being_fetched() {
    let mut bench = Bench::candidate(founded());
    let last = BURST_SLOTS as u64 + 4;
    let all = (1..=last).map(|slot| report(slot, ReportState::Accepted(ballot(0, 2))));
    bench.hear(TWO, promise(B, 0, all.collect()));
    let request = Message::Accept { ballot: B, slot: Slot(last + 1), mark: Mark::Barrier };
    assert_eq!(bench.after(10).last(), Some(&send(&[TWO, THREE], request, Lsn::ZERO)));
}

#[test]
fn a_value_that_no_one_hands_out_leads_to_a_new_phase_1() {
    let mut bench = Bench::candidate(founded());
    bench.hear(TWO, promise(B, 0, vec![report(1, ReportState::Accepted(ballot(0, 2)))]));
    let stood = loop {
        let outputs = bench.timer();
        bench.hear(THREE, Message::HeartbeatAck { ballot: B, prefix: Slot(0), probe: 0, lease_ns: 0 });
        if bench.core.role() != Role::Preparing {
            break outputs;
        }
    };
    let b = ballot(2, 1);
    let lsn = bench.lsn();
    let prepare = send(&[TWO, THREE], prepare(b), lsn);
    let became = became(Role::Candidate, Reason::QuorumLost);
    assert_eq!(stood, [became, persist(lsn.0, b, Record::Promised), prepare]);
    assert!(bench.now_ns < 1_000 * MS, "within the longest election time-out");
}

#[test]
fn a_refusal_ends_the_candidacy_and_the_next_ballot_is_above_it() {
    let mut bench = Bench::candidate(founded());
    let refused = Message::Refused { promised: ballot(7, 3) };
    assert_eq!(bench.hear(TWO, refused), [became(Role::Follower, Reason::HigherBallot)]);
    assert_eq!(bench.core.promised(), B, "a refusal is no promise");
    bench.election();
    assert_eq!(bench.core.promised(), ballot(8, 1));
}

#[test]
fn a_higher_prepare_ends_the_candidacy() {
    let mut bench = Bench::candidate(founded());
    let b = ballot(1, 2);
    let answer = send(&[TWO], promise(b, 0, vec![]), Lsn(4));
    let yielded = became(Role::Follower, Reason::HigherBallot);
    assert_eq!(bench.hear(TWO, prepare(b)), [yielded, persist(4, b, Record::Promised), answer]);
}

#[test]
fn lost_elections_back_off_up_to_eight_times_the_time_out() {
    let mut bench = Bench::follower();
    bench.election();
    let mut longest = 0;
    for lost in 0..8u32 {
        let since = bench.now_ns;
        // Node 2 is there, but promises nothing.
        bench.hear(TWO, Message::Refused { promised: Ballot::ZERO });
        bench.election();
        let waited = bench.now_ns - since;
        let shift = lost.min(3);
        assert!(((150 * MS) << shift..=(300 * MS) << shift).contains(&waited), "after {lost} lost: {waited} ns");
        longest = longest.max(waited);
    }
    assert!(longest > 300 * MS);
}

#[test]
fn a_candidate_that_hears_nobody_stays_in_its_ballot_and_does_not_back_off() {
    let mut bench = Bench::follower();
    bench.election();
    let until = bench.now_ns + 5_000 * MS;
    while bench.now_ns < until {
        bench.timer();
        assert_eq!((bench.core.role(), bench.core.promised()), (Role::Candidate, B));
    }
    // It is back, and hears of a higher ballot: it stands above that after one time-out.
    let since = bench.now_ns;
    bench.hear(TWO, Message::Refused { promised: ballot(7, 2) });
    bench.election();
    assert_eq!(bench.core.promised(), ballot(8, 1));
    let waited = bench.now_ns - since;
    assert!((150 * MS..=300 * MS).contains(&waited), "{waited} ns");
}

#[test]
fn a_node_with_damage_lets_the_others_stand_first() {
    let damaged = vec![LsnRun { first: Lsn(7), last: Lsn(9) }];
    let hidden = Restart { unknown: Unknown::All, damaged, ..restart(B, 0, vec![]) };
    let mut bench = Bench::follower_of(settings(1, 3), hidden);
    let since = bench.now_ns;
    bench.election();
    let waited = bench.now_ns - since;
    assert!((2 * 150 * MS..=2 * 300 * MS).contains(&waited), "{waited} ns");
}

#[test]
fn a_ballot_is_above_every_promise_found_by_recovery() {
    let mut bench = Bench::follower_of(settings(1, 3), restart(ballot(9, 3), 0, vec![]));
    bench.election();
    assert_eq!(bench.core.promised(), ballot(10, 1));
}

#[test]
fn a_single_node_leads_by_its_own_durable_promise_and_vote() {
    let alone = Settings { members: vec![ME], quorums: Quorums::majority(1), ..settings(1, 3) };
    let mut bench = Bench::new(alone, Restart { founded: None, last_lsn: Lsn(1), ..Restart::default() });
    bench.timer();
    bench.sync();
    bench.election();
    assert_eq!(bench.core.role(), Role::Candidate);
    bench.sync();
    assert_eq!(bench.core.role(), Role::Preparing);
    assert_eq!(bench.sync(), [deliver(1), became(Role::Leader, Reason::BarrierChosen)]);
}
