//! Phase 2, and the signs of life around it. The leader's ballot is 1.1; its barrier took slot 1.

use super::*;

const B: Ballot = Ballot { round: 1, node: ME };

/// Proposes `slots` from slot 2 on.
fn propose(bench: &mut Bench, slots: u64) {
    for _ in 0..slots {
        bench.step(Input::Propose);
    }
}

fn requests(outputs: &[Output]) -> Vec<(u64, NodeSet)> {
    let sent = outputs.iter().filter_map(|output| match output {
        Output::Send { to, message: Message::Accept { slot, .. }, .. } => Some((slot.0, *to)),
        _ => None,
    });
    sent.collect()
}

#[test]
fn a_proposal_is_logged_and_sent_at_once() {
    let mut bench = Bench::leader();
    let logged = persist(bench.lsn().0 + 1, B, record_of(2, B, Source::Proposal));
    let request = send(&[TWO, THREE], accept(B, 2), Lsn::ZERO);
    assert_eq!(bench.step(Input::Propose), [logged, request]);
}

#[test]
fn two_followers_choose_a_value_without_the_leaders_own_sync() {
    let mut bench = Bench::leader();
    propose(&mut bench, 1);
    assert_eq!(bench.hear(TWO, accepted(B, 2, [0; 4])), []);
    assert_eq!(bench.hear(TWO, accepted(B, 2, [0; 4])), [], "the same vote twice is one vote");
    assert_eq!(bench.hear(THREE, accepted(B, 2, [0; 4])), [deliver(2)]);
    let lsn = bench.lsn().0;
    let ranges = evidence(2, 2, B, &[TWO, THREE]);
    let told = send(&[TWO, THREE], Message::Commit { ballot: B, ranges }, Lsn::ZERO);
    assert_eq!(bench.after(1), [persist(lsn + 1, B, Record::Chosen(ranges)), told]);
}

#[test]
fn the_leaders_own_vote_counts_once_its_record_is_durable() {
    let mut bench = Bench::leader();
    propose(&mut bench, 1);
    assert_eq!(bench.hear(TWO, accepted(B, 2, [0; 4])), []);
    assert_eq!(bench.sync(), [deliver(2)]);
    assert_eq!(bench.after(1)[0], persist(bench.lsn().0, B, chosen(2, 2, B, &[ME, TWO])));
}

#[test]
fn the_own_vote_alone_chooses_nothing() {
    let mut bench = Bench::leader();
    propose(&mut bench, 1);
    assert_eq!(bench.sync(), []);
}

#[test]
fn votes_of_another_ballot_do_not_count() {
    let mut bench = Bench::leader();
    propose(&mut bench, 1);
    bench.sync();
    for other in [ballot(0, 1), ballot(1, 2), ballot(2, 1)] {
        assert_eq!(bench.hear(TWO, accepted(other, 2, [0; 4])), []);
    }
}

#[test]
fn a_vote_from_a_log_that_shrank_does_not_count() {
    let mut bench = Bench::leader();
    propose(&mut bench, 1);
    bench.sync();
    assert_eq!(bench.hear_at(TWO, Lsn(49), accepted(B, 2, [0; 4])), []);
    assert_eq!(bench.hear_at(TWO, Lsn(50), accepted(B, 2, [0; 4])), [deliver(2)]);
}

#[test]
fn slots_are_chosen_out_of_order_and_delivered_in_order() {
    let mut bench = Bench::leader();
    propose(&mut bench, 3);
    bench.sync();
    assert_eq!(bench.hear(TWO, accepted(B, 1, [0b110, 0, 0, 0])), [], "slots 3 and 4 are chosen, 2 is not");
    assert_eq!(bench.hear(TWO, accepted(B, 2, [0; 4])), [deliver(2), deliver(3), deliver(4)]);
}

#[test]
fn a_watermark_beyond_what_was_proposed_votes_for_nothing_else() {
    let mut bench = Bench::leader();
    propose(&mut bench, 1);
    bench.sync();
    assert_eq!(bench.hear(TWO, accepted(B, u64::MAX, [u64::MAX; 4])), [deliver(2)]);
}

#[test]
fn news_of_the_chosen_travels_with_the_next_proposal() {
    let mut bench = Bench::leader();
    propose(&mut bench, 1);
    bench.sync();
    bench.hear(THREE, accepted(B, 2, [0; 4]));
    let lsn = bench.lsn().0;
    let ranges = evidence(2, 2, B, &[ME, THREE]);
    let wanted = [
        persist(lsn + 1, B, record_of(3, B, Source::Proposal)),
        send(&[TWO, THREE], accept(B, 3), Lsn::ZERO),
        persist(lsn + 2, B, Record::Chosen(ranges)),
        send(&[TWO, THREE], Message::Commit { ballot: B, ranges }, Lsn::ZERO),
    ];
    assert_eq!(bench.step(Input::Propose), wanted);
}

#[test]
fn runs_of_slots_chosen_by_the_same_votes_share_their_evidence() {
    let mut bench = Bench::leader();
    propose(&mut bench, 4);
    bench.hear(TWO, accepted(B, 5, [0; 4]));
    bench.hear(THREE, accepted(B, 4, [0; 4]));
    bench.sync();
    let ranges: Ranges = [
        Evidence { first: Slot(2), last: Slot(4), ballot: B, acceptors: set(&[TWO, THREE]), epoch: Epoch(1) },
        Evidence { first: Slot(5), last: Slot(5), ballot: B, acceptors: set(&[ME, TWO]), epoch: Epoch(1) },
    ]
    .into_iter()
    .collect();
    assert_eq!(bench.after(1)[0], persist(bench.lsn().0, B, Record::Chosen(ranges)));
}

#[test]
fn evidence_that_does_not_fit_one_record_goes_in_several() {
    let mut bench = Bench::leader();
    propose(&mut bench, 5);
    // Alternating pairs of acceptors: no two neighbours merge, and a record holds four ranges.
    bench.hear(TWO, accepted(B, 1, [0b10101, 0, 0, 0]));
    bench.hear(THREE, accepted(B, 1, [0b11111, 0, 0, 0]));
    let outputs = bench.sync();
    let records = outputs.iter().filter(|output| matches!(output, Output::Persist { record: Record::Chosen(_), .. }));
    assert_eq!(records.count() + usize::from(matches!(bench.after(1)[0], Output::Persist { .. })), 2);
    assert_eq!(bench.core.prefix(), Slot(6));
}

#[test]
fn the_leader_shows_that_it_lives() {
    let mut bench = Bench::leader();
    let mut number = 1;
    while bench.now_ns < 2_000 * MS {
        let outputs = bench.timer();
        number += 1;
        let beat = send(&[TWO, THREE], heartbeat(B, 1, number), Lsn::ZERO);
        assert_eq!(outputs, [beat], "nothing but heartbeats while nothing is open");
        let at = bench.now_ns;
        bench.hear(TWO, Message::HeartbeatAck { ballot: B, prefix: Slot(1), probe: number, lease_ns: 0 });
        assert_eq!(bench.core.poll_timeout(), at + 20 * MS);
    }
}

#[test]
fn an_open_slot_is_sent_again_to_those_that_have_not_voted_ever_more_slowly() {
    let quorums = Quorums { phase1: 1, phase2: 3 };
    let mut bench = Bench::follower_of(Settings { quorums, ..settings(1, 3) }, founded());
    bench.election();
    bench.sync();
    bench.sync();
    assert_eq!(bench.core.role(), Role::Preparing);
    bench.hear(TWO, accepted(B, 1, [0; 4]));
    let since = bench.now_ns;
    let mut resent = Vec::new();
    while resent.len() < 7 {
        let outputs = bench.timer();
        for (slot, to) in requests(&outputs) {
            assert_eq!((slot, to), (1, set(&[THREE])));
            resent.push((bench.now_ns - since) / MS);
        }
        for peer in [TWO, THREE] {
            bench.hear(peer, Message::HeartbeatAck { ballot: B, prefix: Slot(0), probe: 0, lease_ns: 0 });
        }
    }
    assert_eq!(resent, [10, 30, 70, 150, 310, 470, 630], "10 ms, doubled up to 160 ms");
}

#[test]
fn one_retransmission_is_bounded() {
    let mut bench = Bench::leader();
    let burst = BURST_SLOTS as u64;
    propose(&mut bench, burst + 5);
    let mut resent = |ms| requests(&bench.after(ms)).into_iter().map(|(slot, _)| slot).collect::<Vec<_>>();
    assert_eq!(resent(10), (2..2 + burst).collect::<Vec<_>>());
    assert_eq!(resent(10), (2 + burst..2 + burst + 5).collect::<Vec<_>>(), "the rest with the next tick");
}

#[test]
fn a_peer_that_misses_slots_gets_the_open_ones_again_and_the_chosen_ones_as_catch_up() {
    let mut bench = Bench::leader();
    propose(&mut bench, 2);
    let outputs = bench.hear(THREE, missing(B, 1, 2));
    let served = Output::ServeCatchUp { to: THREE, first: Slot(1), last: Slot(1) };
    assert_eq!(outputs, [served, send(&[THREE], accept(B, 2), Lsn::ZERO)]);
    assert_eq!(bench.hear(THREE, missing(ballot(0, 1), 1, 2)), [], "a ballot that is over");
    assert_eq!(bench.hear(THREE, missing(B, 3, 2)), [], "an empty range");
    let all = bench.hear(THREE, missing(B, 0, u64::MAX));
    assert_eq!(requests(&all), [(2, set(&[THREE])), (3, set(&[THREE]))], "there is no slot 0, and no more than these");
}

#[test]
fn a_leader_that_too_few_answer_steps_down() {
    let mut bench = Bench::leader();
    let since = bench.now_ns;
    let last = loop {
        let outputs = bench.timer();
        if bench.core.role() != Role::Leader {
            break outputs;
        }
    };
    assert_eq!(last, [became(Role::Follower, Reason::QuorumLost)]);
    let waited = bench.now_ns - since;
    assert!((300 * MS..=321 * MS).contains(&waited), "the longest election time-out, seen with a heartbeat: {waited}");
    assert!(!bench.core.can_propose() && bench.core.leader().is_none());
}

#[test]
fn acknowledgements_of_another_ballot_do_not_keep_a_leader() {
    let mut bench = Bench::leader();
    while bench.core.role() == Role::Leader {
        bench.timer();
        bench.hear(TWO, Message::HeartbeatAck { ballot: ballot(0, 1), prefix: Slot(1), probe: 0, lease_ns: 0 });
        assert!(bench.now_ns < 5_000 * MS);
    }
}

#[test]
fn a_refusal_names_the_ballot_that_deposes() {
    let mut bench = Bench::leader();
    assert_eq!(bench.hear(TWO, Message::Refused { promised: ballot(0, 3) }), []);
    assert_eq!(bench.hear(TWO, Message::Refused { promised: B }), []);
    let outputs = bench.hear(TWO, Message::Refused { promised: ballot(1, 2) });
    assert_eq!(outputs, [became(Role::Follower, Reason::HigherBallot)]);
}

#[test]
fn a_deposed_leader_logs_the_evidence_it_has_and_tells_no_one() {
    let mut bench = Bench::leader();
    propose(&mut bench, 1);
    bench.sync();
    bench.hear(TWO, accepted(B, 2, [0; 4]));
    let lsn = bench.lsn().0;
    let outputs = bench.hear(TWO, Message::Refused { promised: ballot(1, 2) });
    let logged = persist(lsn + 1, B, chosen(2, 2, B, &[ME, TWO]));
    assert_eq!(outputs, [logged, became(Role::Follower, Reason::HigherBallot)]);
}

#[test]
fn a_deposed_leaders_late_sync_votes_for_nothing() {
    let mut bench = Bench::leader();
    propose(&mut bench, 1);
    bench.hear(TWO, accepted(B, 2, [0; 4]));
    bench.hear(THREE, prepare(ballot(2, 3)));
    assert_eq!(bench.sync(), []);
    assert_eq!(bench.core.prefix(), Slot(1));
}

#[test]
fn the_window_is_as_long_as_configured() {
    let mut bench = Bench::leader();
    propose(&mut bench, 64);
    assert!(!bench.core.can_propose());
    bench.sync();
    assert_eq!(bench.hear(TWO, accepted(B, 2, [0; 4])), [deliver(2)]);
    assert!(bench.core.can_propose());
}

#[test]
#[should_panic(expected = "proposed without leave")]
fn a_follower_that_is_made_to_propose_is_a_bug() {
    Bench::follower().step(Input::Propose);
}

#[test]
fn a_leader_that_learns_what_it_never_proposed_is_superseded() {
    let mut bench = Bench::leader();
    let (b, lsn) = (ballot(4, 3), bench.lsn().0);
    let learnt = Record::Learnt { slot: Slot(2), ballot: b, mark: Mark::Batch, epoch: Epoch(1) };
    let outputs = bench.hear(TWO, learn(2, b));
    assert_eq!(outputs, [became(Role::Follower, Reason::HigherBallot), persist(lsn + 1, B, learnt), deliver(2)]);
    bench.election();
    assert_eq!(bench.core.promised(), ballot(5, 1));
}

#[test]
fn what_was_counted_from_peers_is_noted_now_and_then() {
    let mut bench = Bench::leader();
    bench.hear_at(TWO, Lsn(255), Message::HeartbeatAck { ballot: B, prefix: Slot(1), probe: 0, lease_ns: 0 });
    assert_eq!(bench.timer().len(), 1, "a heartbeat");
    bench.hear_at(TWO, Lsn(256), Message::HeartbeatAck { ballot: B, prefix: Slot(1), probe: 0, lease_ns: 0 });
    let outputs = bench.timer();
    assert_eq!(outputs[1..], [persist(bench.lsn().0, B, Record::PeerMarks)]);
    assert_eq!(bench.core.peer_marks().collect::<Vec<_>>(), [(TWO, Lsn(256))]);
    assert_eq!(bench.timer().len(), 1, "and not again before it has grown as much");
}
