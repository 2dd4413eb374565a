//! The session against scripted replies, and against a simulated cluster and network.

use super::*;
use crate::testing::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use synod_wire::frame::Frames;

const A: u16 = 1;
const B: u16 = 2;
const C: u16 = 3;

fn core_with(options: Options) -> Core {
    let members = [A, B, C].map(|port| (NodeId(port as u8), address(port))).to_vec();
    Core::new(CLUSTER, GROUP, CLIENT, members, options, 0).unwrap()
}

/// What the core sends now: (port, request).
fn sent(core: &mut Core, now_ns: u64) -> Vec<(u16, Asked)> {
    let mut out = [0; 1_472];
    let mut all = Vec::new();
    while let Some((to, length)) = core.poll_transmit(now_ns, &mut out) {
        all.push((to.port(), parse_request(&out[..length])));
        assert!(all.len() < 10_000, "poll_transmit does not end");
    }
    all
}

fn events(core: &mut Core) -> Vec<Event> {
    std::iter::from_fn(|| core.poll_event()).collect()
}

fn append(first_seq: u64, entries: &[&[u8]]) -> Asked {
    Asked::Append { first_seq, entries: entries.iter().map(|entry| entry.to_vec()).collect() }
}

fn firsts(sent: &[(u16, Asked)]) -> Vec<(u16, u64)> {
    let first = |asked: &Asked| match asked {
        Asked::Append { first_seq, .. } => *first_seq,
        _ => 0,
    };
    sent.iter().map(|(port, asked)| (*port, first(asked))).collect()
}

/// A session that node A has opened at 1 ms.
fn open_core(options: Options, credit: u32) -> Core {
    let mut core = core_with(options);
    assert_eq!(sent(&mut core, 0), [(A, Asked::Open(CLIENT))]);
    core.handle(MS, address(A), &opened(0, credit));
    assert_eq!(
        events(&mut core),
        [Event::Opened { session: SESSION, last_committed: 0, credit, max_entry_bytes: 1_350 }]
    );
    core
}

/// Entries so long that each fills a datagram.
fn offer_long(core: &mut Core, count: usize, now_ns: u64) {
    for _ in 0..count {
        core.offer(&[7; 1_000], now_ns).unwrap();
    }
}

#[test]
fn entries_offered_before_the_session_is_open_follow_what_was_committed() {
    let mut core = core_with(Options::default());
    assert_eq!(core.offer(b"one", 0), Ok(1));
    assert_eq!(core.offer(b"two", 0), Ok(2));
    assert_eq!(sent(&mut core, 0), [(A, Asked::Open(CLIENT))]);
    core.handle(MS, address(A), &opened(40, 100));
    assert_eq!(core.offer(b"three", MS), Ok(43));
    assert_eq!(sent(&mut core, MS), [(A, append(41, &[b"one", b"two", b"three"]))]);
    core.handle(2 * MS, address(A), &appended(&[(41, 900, 5, 3)], 100));
    let acked = Event::Acked {
        client_seq: 41,
        sequence: Sequence(900),
        timestamp_ns: 5,
        durability: Durability::Disk,
        guarantee: Guarantee::COMMITTED,
        entries: 3,
    };
    assert_eq!(
        events(&mut core),
        [Event::Opened { session: SESSION, last_committed: 40, credit: 100, max_entry_bytes: 1_350 }, acked]
    );
    assert_eq!((core.outstanding(), core.poll_timeout(), core.leader()), (0, None, Some(address(A))));
}

#[test]
fn bad_entries_are_refused_by_kind() {
    let mut core = core_with(Options { window_entries: 2, ..Options::default() });
    assert_eq!(core.offer(b"", 0), Err(OfferError::Empty));
    assert_eq!(core.offer(&[0; 1_351], 0), Err(OfferError::TooLarge { limit_bytes: 1_350 }));
    core.offer(&[0; 1_350], 0).unwrap();
    core.offer(b"x", 0).unwrap();
    assert_eq!(core.offer(b"x", 0), Err(OfferError::Full));
}

#[test]
fn a_server_with_a_lower_limit_refuses_what_was_offered_before_it_was_known() {
    let mut core = core_with(Options::default());
    core.offer(&[0; 200], 0).unwrap();
    sent(&mut core, 0);
    core.handle(MS, address(A), &opened_with(0, 10, 100, 1_392));
    let refused = Event::Refused { refusal: Refusal::TooLarge, detail: 100 };
    assert_eq!(events(&mut core)[1..], [Event::Unknown { first: 1, last: 1 }, refused]);
    assert!(matches!(core.offer(b"x", MS), Err(OfferError::Closed(CloseReason::Refused { .. }))));
}

#[test]
fn a_redirect_is_followed_at_once_and_two_nodes_that_name_each_other_do_not_cause_a_storm() {
    let mut core = core_with(Options::default());
    assert_eq!(firsts(&sent(&mut core, 0)), [(A, 0)]);
    let to = |port: u16| Refuse { leader: Some(address(port)), ..Refuse::with(Refusal::NotLeader) }.datagram();
    core.handle(1, address(A), &to(C));
    assert_eq!(firsts(&sent(&mut core, 1)), [(C, 0)]);
    let mut datagrams = 0;
    for _ in 0..100 {
        core.handle(2, address(C), &to(A));
        datagrams += sent(&mut core, 2).len();
        core.handle(2, address(A), &to(C));
        datagrams += sent(&mut core, 2).len();
    }
    assert!(datagrams <= 4, "{datagrams} datagrams without a pause");
    let due_ns = core.poll_timeout().unwrap();
    assert!((1_000_000..=1_300_000).contains(&due_ns), "the pause that was asked for: {due_ns}");
    assert_eq!(sent(&mut core, due_ns).len(), 1);
    assert_eq!(core.last_refusal().unwrap().1, Refusal::NotLeader);
}

#[test]
fn nodes_without_a_leader_are_tried_in_turn_then_paused_for() {
    let mut core = core_with(Options::default());
    let mut asked = Vec::new();
    for refusal in [Refusal::NoLeader, Refusal::QuorumUnavailable, Refusal::Recovering, Refusal::ManualIntervention] {
        let round = sent(&mut core, 0);
        asked.push(round[0].0);
        core.handle(0, address(round[0].0), &Refuse::with(refusal).datagram());
    }
    assert_eq!(asked, [A, B, C, A]);
    assert!(sent(&mut core, 0).is_empty(), "a round in vain: now it waits");
    assert_eq!(core.last_refusal(), Some((address(A), Refusal::ManualIntervention)));
    assert_eq!(firsts(&sent(&mut core, 2 * MS)), [(B, 0)]);
}

#[test]
fn silence_is_answered_by_the_next_member() {
    let mut core = core_with(Options::default());
    let (mut asked, mut waits_ms, mut last_ns) = (Vec::new(), Vec::new(), 0);
    for _ in 0..10 {
        let now_ns = core.poll_timeout().unwrap();
        asked.extend(firsts(&sent(&mut core, now_ns)));
        waits_ms.push((now_ns - last_ns) / MS);
        last_ns = now_ns;
    }
    assert_eq!(asked, [A, B, C, A, B, C, A, B, C, A].map(|port| (port, 0)));
    assert_eq!(waits_ms, [0, 25, 25, 25, 25, 50, 50, 50, 50, 100], "a round in vain doubles the wait");
}

#[test]
fn no_more_than_the_credit_is_in_flight() {
    let mut core = open_core(Options::default(), 5);
    offer_long(&mut core, 12, MS);
    assert_eq!(firsts(&sent(&mut core, MS)), [1, 2, 3, 4, 5].map(|seq| (A, seq)));
    core.handle(2 * MS, address(A), &appended(&[(1, 1, 1, 2)], 3));
    assert!(sent(&mut core, 2 * MS).is_empty(), "three in flight, and the credit is three now");
    core.handle(3 * MS, address(A), &appended(&[(3, 3, 1, 3)], 3));
    assert_eq!(firsts(&sent(&mut core, 3 * MS)), [6, 7, 8].map(|seq| (A, seq)));
}

#[test]
fn a_gap_is_closed_at_once_and_once_in_a_round_trip() {
    let mut core = open_core(Options::default(), 100);
    offer_long(&mut core, 4, MS);
    assert_eq!(sent(&mut core, MS).len(), 4);
    let gap = |reference| Refuse { reference, detail: 2, ..Refuse::with(Refusal::ResendFrom) }.datagram();
    core.handle(2 * MS, address(A), &gap(3));
    assert_eq!(firsts(&sent(&mut core, 2 * MS)), [2, 3, 4].map(|seq| (A, seq)));
    core.handle(2 * MS, address(A), &gap(4));
    assert!(sent(&mut core, 2 * MS).is_empty(), "the same gap, reported by the next datagram");
    core.handle(4 * MS, address(A), &gap(3));
    assert_eq!(
        firsts(&sent(&mut core, 4 * MS)),
        [(A, 2)],
        "a round trip later it is a new loss: half as much in flight"
    );
    core.handle(5 * MS, address(A), &appended(&[(1, 1, 1, 4)], 100));
    core.handle(5 * MS, address(A), &gap(3));
    assert!(sent(&mut core, 5 * MS).is_empty(), "what is acknowledged is not sent again");
}

#[test]
fn a_gap_that_is_reported_too_soon_is_looked_at_again() {
    let mut core = open_core(Options::default(), 100);
    offer_long(&mut core, 4, MS);
    sent(&mut core, MS);
    let gap = |detail| Refuse { reference: 4, detail, ..Refuse::with(Refusal::ResendFrom) }.datagram();
    core.handle(2 * MS, address(A), &gap(2));
    assert_eq!(sent(&mut core, 2 * MS).len(), 3);
    core.handle(2 * MS, address(A), &gap(3));
    assert!(sent(&mut core, 2 * MS).is_empty(), "the second try may not have been there yet");
    let due_ns = core.poll_timeout().unwrap();
    assert!((3 * MS..10 * MS).contains(&due_ns), "sooner than the time-out: {due_ns}");
    assert_eq!(firsts(&sent(&mut core, due_ns)), [], "half of four are in flight already");
    core.handle(due_ns, address(A), &appended(&[(1, 1, 1, 2)], 100));
    assert_eq!(firsts(&sent(&mut core, due_ns)), [(A, 3), (A, 4)]);
}

/// A server that takes runs in order only, behind a network that keeps no order at all.
#[test]
fn a_network_that_reorders_does_not_cause_a_storm() {
    const ENTRIES: u64 = 256;
    let mut core = open_core(Options::default(), 1_000);
    offer_long(&mut core, ENTRIES as usize, MS);
    let (mut next, mut datagrams, mut now_ns) = (1, 0, MS);
    let mut random = Jitter::new(7);
    let mut under_way = Vec::new();
    while next <= ENTRIES {
        under_way.extend(firsts(&sent(&mut core, now_ns)));
        datagrams += under_way.len();
        let (first_new, mut refusals) = (next, Vec::new());
        while !under_way.is_empty() {
            let (_, first_seq) = under_way.swap_remove((random.stretch(1 << 20) % under_way.len() as u64) as usize);
            if first_seq == next {
                next += 1;
            } else if first_seq > next {
                refusals.push(Refuse { reference: first_seq, detail: next, ..Refuse::with(Refusal::ResendFrom) });
            }
        }
        for refusal in refusals {
            now_ns += MS / 100;
            core.handle(now_ns, address(A), &refusal.datagram());
            under_way.extend(firsts(&sent(&mut core, now_ns)));
        }
        now_ns += MS;
        if next > first_new {
            let entries = (next - first_new) as u32;
            core.handle(now_ns, address(A), &appended(&[(first_new, first_new, 1, entries)], 1_000));
        }
        events(&mut core);
        assert!(now_ns < 10_000 * MS, "no progress: {next} of {ENTRIES}");
    }
    assert!(datagrams < 8 * ENTRIES as usize, "{datagrams} datagrams for {ENTRIES} entries");
}

#[test]
fn what_is_acknowledged_is_left_out_when_the_rest_goes_again() {
    let mut core = open_core(Options::default(), 100);
    for entry in [b"1", b"2", b"3", b"4"] {
        core.offer(entry, MS).unwrap();
    }
    assert_eq!(sent(&mut core, MS), [(A, append(1, &[b"1", b"2", b"3", b"4"]))]);
    core.handle(2 * MS, address(A), &appended(&[(2, 20, 1, 2)], 100));
    let gap = Refuse { reference: 1, detail: 1, ..Refuse::with(Refusal::ResendFrom) };
    core.handle(2 * MS, address(A), &gap.datagram());
    assert_eq!(sent(&mut core, 2 * MS), [(A, append(1, &[b"1"])), (A, append(4, &[b"4"]))]);
    assert_eq!(core.counters().entries_resent, 2);
}

#[test]
fn a_lost_acknowledgement_is_asked_for_after_a_quarter_of_a_round_trip_and_nothing_else_goes_again() {
    let mut core = open_core(Options { retransmit_min_us: 10_000, ..Options::default() }, 1_024);
    let long = vec![7; 600];
    for _ in 0..6 {
        core.offer(&long, MS).unwrap();
    }
    assert_eq!(firsts(&sent(&mut core, MS)), [(A, 1), (A, 3), (A, 5)], "two entries fit a datagram");
    core.handle(2 * MS, address(A), &appended(&[(1, 10, 100, 2)], 1_024));
    assert_eq!(events(&mut core).len(), 1);
    // The second answer is lost; the third overtakes it.
    core.handle(2 * MS, address(A), &appended(&[(5, 14, 102, 2)], 1_024));
    let due_ns = core.poll_timeout().unwrap();
    assert_eq!(due_ns, 2 * MS + core.timeout.round_trip_ns() / 4, "far below the time-out");
    assert_eq!(sent(&mut core, due_ns - 1), [], "it may only be late");
    assert_eq!(sent(&mut core, due_ns), [(A, append(3, &[&long, &long]))]);
    assert_eq!(sent(&mut core, due_ns + MS), [], "the second try was not overtaken");
    core.handle(due_ns + MS, address(A), &appended(&[(3, 12, 101, 2)], 1_024));
    assert_eq!(events(&mut core).len(), 2);
    assert_eq!((core.counters().timeouts, core.counters().entries_resent, core.poll_timeout()), (0, 2, None));
}

#[test]
fn a_late_acknowledgement_costs_nothing() {
    let mut core = open_core(Options::default(), 1_024);
    let long = vec![7; 600];
    for _ in 0..6 {
        core.offer(&long, MS).unwrap();
    }
    sent(&mut core, MS);
    core.handle(2 * MS, address(A), &appended(&[(5, 14, 102, 2)], 1_024));
    core.handle(2 * MS + 1, address(A), &appended(&[(1, 10, 100, 2), (3, 12, 101, 2)], 1_024));
    assert_eq!(sent(&mut core, 3 * MS), []);
    assert_eq!(core.counters().entries_resent, 0);
}

#[test]
fn what_arrives_while_its_run_is_about_to_go_again_is_left_out() {
    let mut core = open_core(Options::default(), 1_024);
    let long = vec![7; 600];
    for _ in 0..8 {
        core.offer(&long, MS).unwrap();
    }
    sent(&mut core, MS);
    core.handle(2 * MS, address(A), &appended(&[(7, 16, 103, 2)], 1_024));
    let due_ns = core.poll_timeout().unwrap();
    let mut out = vec![0; core.options().max_datagram_bytes];
    assert!(core.poll_transmit(due_ns, &mut out).is_some(), "entries 1 and 2");
    core.handle(due_ns, address(A), &appended(&[(3, 12, 101, 2)], 1_024));
    assert_eq!(sent(&mut core, due_ns), [(A, append(5, &[&long, &long]))]);
}

#[test]
fn busy_waits_as_long_as_asked_halves_the_burst_and_loses_nothing() {
    let mut core = open_core(Options::default(), 100);
    offer_long(&mut core, 8, MS);
    assert_eq!(sent(&mut core, MS).len(), 8);
    let busy = Refuse { reference: 1, retry_after_us: 3_000, ..Refuse::with(Refusal::Busy) }.datagram();
    core.handle(2 * MS, address(A), &busy);
    assert!(sent(&mut core, 4 * MS).is_empty());
    let due_ns = core.poll_timeout().unwrap();
    assert!((5 * MS..6 * MS).contains(&due_ns), "{due_ns}");
    assert_eq!(firsts(&sent(&mut core, due_ns)), [1, 2, 3, 4].map(|seq| (A, seq)));
    core.handle(due_ns + MS, address(A), &appended(&[(1, 1, 1, 4)], 100));
    assert_eq!(firsts(&sent(&mut core, due_ns + MS)), [5, 6, 7, 8].map(|seq| (A, seq)));
}

#[test]
fn a_timeout_sends_one_datagram_first_and_the_second_goes_to_the_next_member() {
    let mut core = open_core(Options::default(), 100);
    offer_long(&mut core, 3, MS);
    assert_eq!(sent(&mut core, MS).len(), 3);
    let first_ns = core.poll_timeout().unwrap();
    assert_eq!(firsts(&sent(&mut core, first_ns)), [(A, 1)]);
    let second_ns = core.poll_timeout().unwrap();
    assert!(second_ns - first_ns > first_ns - MS, "the timeout doubles");
    assert_eq!(firsts(&sent(&mut core, second_ns)), [(B, 1)]);
    let redirect = Refuse { leader: Some(address(C)), ..Refuse::with(Refusal::NotLeader) }.datagram();
    core.handle(second_ns + 1, address(B), &redirect);
    assert_eq!(firsts(&sent(&mut core, second_ns + 1)), [(C, 1)]);
    core.handle(second_ns + MS, address(C), &appended(&[(1, 1, 1, 1)], 100));
    assert_eq!(firsts(&sent(&mut core, second_ns + MS)), [(C, 2), (C, 3)]);
    assert_eq!((core.leader(), core.counters().timeouts), (Some(address(C)), 2));
    core.handle(second_ns + MS, address(B), &redirect);
    assert!(sent(&mut core, second_ns + MS).is_empty(), "a node that was left has no say");
}

#[test]
fn an_eviction_ends_the_session_and_tells_apart_what_was_acknowledged() {
    let mut core = open_core(Options::default(), 100);
    offer_long(&mut core, 4, MS);
    sent(&mut core, MS);
    core.handle(2 * MS, address(A), &appended(&[(1, 10, 1, 1), (3, 12, 1, 1)], 100));
    let evicted = Refuse::with(Refusal::SessionEvicted).datagram();
    core.handle(2 * MS, address(B), &evicted);
    assert!(core.is_open(), "only the node that is asked can say so");
    core.handle(3 * MS, address(A), &evicted);
    let acked = |client_seq, sequence| Event::Acked {
        client_seq,
        sequence: Sequence(sequence),
        timestamp_ns: 1,
        durability: Durability::Disk,
        guarantee: Guarantee::COMMITTED,
        entries: 1,
    };
    let unknown = |seq| Event::Unknown { first: seq, last: seq };
    assert_eq!(events(&mut core), [acked(1, 10), unknown(2), acked(3, 12), unknown(4), Event::SessionLost]);
    assert_eq!(core.offer(b"x", 3 * MS), Err(OfferError::Closed(CloseReason::SessionEvicted)));
    assert_eq!((core.poll_timeout(), sent(&mut core, u64::MAX).len()), (None, 0));
}

#[test]
fn past_its_deadline_an_entry_is_unknown_once_and_the_session_is_over() {
    let mut core = open_core(Options { deadline: Duration::from_millis(100), ..Options::default() }, 100);
    core.offer(b"a", MS).unwrap();
    core.offer(b"b", 90 * MS).unwrap();
    while core.closed().is_none() {
        let now_ns = core.poll_timeout().unwrap();
        assert!(now_ns <= 101 * MS);
        sent(&mut core, now_ns);
    }
    assert_eq!(events(&mut core), [Event::Unknown { first: 1, last: 2 }]);
    core.handle(102 * MS, address(A), &appended(&[(1, 1, 1, 2)], 100));
    assert_eq!(events(&mut core), []);
    assert_eq!(core.closed(), Some(CloseReason::DeadlinePassed));
}

#[test]
fn receipts_come_before_their_acknowledgements_if_they_were_asked_for_and_make_no_sense_otherwise() {
    let mut core = open_core(Options { receipts: true, window_entries: 2, ..Options::default() }, 100);
    core.offer(b"one", MS).unwrap();
    core.offer(b"two", MS).unwrap();
    let mut out = [0; 1_472];
    let (_, length) = core.poll_transmit(MS, &mut out).unwrap();
    let request = Frames::new(&out[..length]).next().unwrap().unwrap();
    assert_eq!(request.header.flags, flags::RECEIPT);
    // Of nothing that was sent; impossible; of the run; and more than there can be.
    let receipts = [(3, 1), (0, 1), (1, 2), (1, 2), (1, 2)];
    core.handle(2 * MS, address(A), &appended_with(&[(1, 10, 1, 2)], 100, 1, &receipts));
    let stages_ns = [Some(5), Some(20), None, Some(300), Some(400)];
    let receipt = Event::Receipt(Receipt { client_seq: 1, entries: 2, stages_ns });
    let events = events(&mut core);
    assert_eq!(events[..2], [receipt, receipt]);
    assert!(matches!(events[2..], [Event::Acked { client_seq: 1, entries: 2, .. }]), "{events:?}");
    assert_eq!((core.counters().stale, core.counters().malformed), (2, 1));

    let mut silent = open_core(Options::default(), 100);
    silent.offer(b"one", MS).unwrap();
    let (_, length) = silent.poll_transmit(MS, &mut out).unwrap();
    assert_eq!(Frames::new(&out[..length]).next().unwrap().unwrap().header.flags, 0);
    silent.handle(2 * MS, address(A), &appended_with(&[(1, 10, 1, 1)], 100, 1, &[(1, 1)]));
    assert!(matches!(self::events(&mut silent)[..], [Event::Acked { .. }]), "nobody asked");
}

#[test]
fn an_acknowledgement_says_what_it_rests_on_and_one_that_does_not_is_none() {
    let mut core = open_core(Options::default(), 100);
    offer_long(&mut core, 2, MS);
    sent(&mut core, MS);
    core.handle(2 * MS, address(A), &appended_with(&[(1, 10, 1, 1)], 100, 3, &[]));
    assert_eq!((events(&mut core), core.counters().malformed), (vec![], 1));
    core.handle(2 * MS, address(A), &appended_with(&[(1, 10, 1, 1)], 100, Durability::Memory as u8, &[]));
    core.handle(2 * MS, address(A), &appended_with(&[(2, 11, 1, 1)], 100, Durability::Disk as u8, &[]));
    let rests_on = |event: &Event| match event {
        Event::Acked { durability, entries: 1, .. } => Some(*durability),
        _ => None,
    };
    let all: Vec<_> = events(&mut core).iter().map(rests_on).collect();
    assert_eq!(all, [Some(Durability::Memory), Some(Durability::Disk)]);
}

#[test]
fn a_contradicting_acknowledgement_is_counted_and_the_first_one_stands() {
    let mut core = open_core(Options::default(), 100);
    offer_long(&mut core, 2, MS);
    sent(&mut core, MS);
    core.handle(2 * MS, address(A), &appended(&[(2, 11, 1, 1)], 100));
    core.handle(2 * MS, address(A), &appended(&[(2, 99, 1, 1)], 100));
    core.handle(2 * MS, address(A), &appended(&[(1, 10, 1, 1)], 100));
    let both = Event::Acked {
        client_seq: 1,
        sequence: Sequence(10),
        timestamp_ns: 1,
        durability: Durability::Disk,
        guarantee: Guarantee::COMMITTED,
        entries: 2,
    };
    assert_eq!((events(&mut core), core.counters().conflicting_acks), (vec![both], 1));
}

#[test]
fn replies_of_others_are_counted_and_ignored() {
    let mut core = core_with(Options::default());
    sent(&mut core, 0);
    core.handle(1, address(77), &opened(0, 1));
    let mut foreign = header(Kind::SessionOpened);
    foreign.cluster = ClusterId(1);
    core.handle(1, address(A), &datagram(&foreign, &[]));
    core.handle(1, address(A), &datagram(&header(Kind::SessionOpened), &[]));
    core.handle(1, address(A), b"noise");
    let counters = core.counters();
    assert_eq!((core.is_open(), counters.foreign, counters.malformed), (false, 2, 2));
}

#[test]
fn bad_parameters_are_typed_errors() {
    let make = |client_id, members: Vec<(NodeId, SocketAddrV4)>, options| {
        Core::new(CLUSTER, GROUP, client_id, members, options, 0).map(|_| ())
    };
    let one = vec![(NodeId(0), address(A))];
    assert_eq!(make(CLIENT, vec![], Options::default()), Err(OptionsError::NoMembers));
    assert_eq!(make(CLIENT, vec![one[0]; 65], Options::default()), Err(OptionsError::TooManyMembers(65)));
    assert_eq!(make(0, one.clone(), Options::default()), Err(OptionsError::ZeroClientId));
    let none = Options { window_entries: 0, ..Options::default() };
    assert!(matches!(make(CLIENT, one, none), Err(OptionsError::Range { name: "window_entries", .. })));
}

// ---- A simulated cluster ----

/// Three nodes with one replicated session table; the leader pipelines what it takes in and commits it later.
struct Cluster {
    leader: Option<u16>,
    opened: bool,
    /// In the leader's pipeline: lost or kept when the leader changes.
    pipeline: VecDeque<(u64, Vec<u8>)>,
    /// By client sequence: payload, sequence, timestamp.
    committed: BTreeMap<u64, (Vec<u8>, u64, u64)>,
    next_sequence: u64,
    credit: u32,
}

impl Cluster {
    fn last_taken(&self) -> u64 {
        self.pipeline.back().map_or(self.last_committed(), |(client_seq, _)| *client_seq)
    }

    fn last_committed(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(client_seq, _)| *client_seq)
    }

    /// A node's answers to a request.
    fn take(&mut self, node: u16, asked: Asked, busy: bool) -> Vec<Vec<u8>> {
        match self.leader {
            None => return vec![Refuse::with(Refusal::NoLeader).datagram()],
            Some(leader) if leader != node => {
                let leader = Some(address(leader));
                return vec![Refuse { leader, ..Refuse::with(Refusal::NotLeader) }.datagram()];
            }
            Some(_) => {}
        }
        match asked {
            Asked::Open(client_id) => {
                assert_eq!(client_id, CLIENT);
                self.opened = true;
                vec![opened(self.last_committed(), self.credit)]
            }
            Asked::Append { first_seq, .. } if busy => {
                vec![Refuse { reference: first_seq, ..Refuse::with(Refusal::Busy) }.datagram()]
            }
            Asked::Append { first_seq, entries } => self.take_run(first_seq, entries),
            other => panic!("a session does not ask {other:?}"),
        }
    }

    fn take_run(&mut self, first_seq: u64, entries: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        assert!(self.opened, "an append before the session was open");
        let mut replies = Vec::new();
        for (client_seq, entry) in (first_seq..).zip(entries) {
            if let Some((payload, sequence, timestamp_ns)) = self.committed.get(&client_seq) {
                assert_eq!(*payload, entry, "the same client sequence with other bytes");
                replies.push(appended(&[(client_seq, *sequence, *timestamp_ns, 1)], self.credit));
            } else if client_seq == self.last_taken() + 1 {
                self.pipeline.push_back((client_seq, entry));
                assert!(self.pipeline.len() <= self.credit as usize, "more in flight than the credit");
            } else if client_seq > self.last_taken() {
                let detail = self.last_taken() + 1;
                replies.push(Refuse { reference: first_seq, detail, ..Refuse::with(Refusal::ResendFrom) }.datagram());
                break;
            }
        }
        replies
    }

    /// Commits up to `count` entries of the pipeline; other clients' entries come between.
    fn commit(&mut self, count: usize, gap: u64, now_ns: u64) -> Option<Vec<u8>> {
        let count = count.min(self.pipeline.len());
        let mut runs = Vec::new();
        for (client_seq, entry) in self.pipeline.drain(..count) {
            self.next_sequence += gap;
            let sequence = self.next_sequence;
            self.next_sequence += 1;
            self.committed.insert(client_seq, (entry, sequence, now_ns));
            runs.push((client_seq, sequence, now_ns, 1));
        }
        (count > 0).then(|| appended(&runs, self.credit))
    }
}

enum Parcel {
    ToNode(u16, Vec<u8>),
    ToClient(u16, Vec<u8>),
}

struct World {
    random: Random,
    now_ns: u64,
    chaos_until_ns: u64,
    loss_percent: u64,
    network: BTreeMap<(u64, u64), Parcel>,
    parcels: u64,
    cluster: Cluster,
    core: Core,
    entries: Vec<Vec<u8>>,
    offered: usize,
    acked: Vec<u64>,
}

impl World {
    fn new(seed: u64, loss_percent: u64, credit: u32, window_entries: usize, entries: usize) -> World {
        let mut random = Random(seed);
        let entries = (0..entries)
            .map(|i| {
                let longest = if random.percent(20) { 1_300 } else { 60 };
                let length = 8 + random.below(longest) as usize;
                let mut entry = vec![i as u8; length];
                entry[..8].copy_from_slice(&(i as u64).to_le_bytes());
                entry
            })
            .collect();
        let options =
            Options { window_entries, window_bytes: 8_192, deadline: Duration::from_secs(3_600), ..Options::default() };
        World {
            random,
            now_ns: 0,
            chaos_until_ns: 400 * MS,
            loss_percent,
            network: BTreeMap::new(),
            parcels: 0,
            cluster: Cluster {
                leader: Some(B),
                opened: false,
                pipeline: VecDeque::new(),
                committed: BTreeMap::new(),
                next_sequence: 1,
                credit,
            },
            core: core_with(options),
            entries,
            offered: 0,
            acked: Vec::new(),
        }
    }

    fn chaotic(&self) -> bool {
        self.now_ns < self.chaos_until_ns
    }

    fn post(&mut self, make: impl Fn() -> Parcel) {
        let copies = match self.chaotic() {
            true if self.random.percent(self.loss_percent) => 0,
            true if self.random.percent(10) => 2,
            _ => 1,
        };
        for _ in 0..copies {
            // A network without chaos from the start keeps the order, as one switch and one queue do.
            let most = match self.chaotic() {
                true if self.random.percent(20) => 20 * MS,
                _ if self.chaos_until_ns == 0 => 1,
                _ => MS / 5,
            };
            let at_ns = self.now_ns + 20_000 + self.random.below(most);
            self.parcels += 1;
            self.network.insert((at_ns, self.parcels), make());
        }
    }

    /// Offers, sends, takes events: all that the client does at one instant.
    fn client_turn(&mut self) {
        let mut out = [0; 1_472];
        while self.offered < self.entries.len() && self.random.percent(90) {
            match self.core.offer(&self.entries[self.offered], self.now_ns) {
                Ok(client_seq) => {
                    self.offered += 1;
                    assert_eq!(client_seq, self.offered as u64);
                }
                Err(OfferError::Full) => break,
                Err(error) => panic!("{error}"),
            }
        }
        while let Some((to, length)) = self.core.poll_transmit(self.now_ns, &mut out) {
            let datagram = out[..length].to_vec();
            self.post(|| Parcel::ToNode(to.port(), datagram.clone()));
        }
        while let Some(event) = self.core.poll_event() {
            match event {
                Event::Opened { last_committed, .. } => assert_eq!((last_committed, self.acked.len()), (0, 0)),
                Event::Acked { client_seq, sequence, timestamp_ns, entries, .. } => {
                    assert_eq!(client_seq, self.acked.len() as u64 + 1, "in order, without gap or repetition");
                    for i in 0..u64::from(entries) {
                        let (payload, known, known_ns) = &self.cluster.committed[&(client_seq + i)];
                        assert_eq!((*known, *known_ns), (sequence.0 + i, timestamp_ns));
                        assert_eq!(*payload, self.entries[self.acked.len()]);
                        self.acked.push(sequence.0 + i);
                    }
                }
                other => panic!("{other:?} in a cluster that loses no session"),
            }
        }
    }

    /// What the cluster does on its own: commits, and during the chaos changes its leader.
    fn cluster_turn(&mut self) {
        if self.chaotic() && self.random.percent(3) {
            let kept = self.random.below(self.cluster.pipeline.len() as u64 + 1) as usize;
            self.cluster.commit(kept, 0, self.now_ns);
            self.cluster.pipeline.clear();
            self.cluster.leader = [None, Some(A), Some(B), Some(C)][self.random.below(4) as usize];
        }
        if !self.chaotic() && self.cluster.leader.is_none() {
            self.cluster.leader = Some(C);
        }
        let Some(leader) = self.cluster.leader else {
            return;
        };
        let (count, gap) = (1 + self.random.below(8) as usize, self.random.below(3) / 2);
        if let Some(reply) = self.cluster.commit(count, gap, self.now_ns) {
            self.post(|| Parcel::ToClient(leader, reply.clone()));
        }
    }

    fn deliver(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::ToClient(from, datagram) => self.core.handle(self.now_ns, address(from), &datagram),
            Parcel::ToNode(node, datagram) => {
                let busy = self.chaotic() && self.random.percent(5);
                for reply in self.cluster.take(node, parse_request(&datagram), busy) {
                    self.post(|| Parcel::ToClient(node, reply.clone()));
                }
            }
        }
    }

    /// Runs until every entry is acknowledged. The client acts only when a datagram comes or its own timeout is due, so
    /// that a forgotten timer shows as a stall.
    fn run(&mut self) {
        let mut tick_ns = 0;
        self.client_turn();
        while self.acked.len() < self.entries.len() {
            assert!(self.now_ns < 60_000 * MS, "stalled: {} of {} acknowledged", self.acked.len(), self.entries.len());
            let parcel_ns = self.network.first_key_value().map_or(u64::MAX, |((at_ns, _), _)| *at_ns);
            let client_ns = self.core.poll_timeout().unwrap_or(u64::MAX).max(self.now_ns + 1);
            let idle = self.offered < self.entries.len() && self.core.outstanding() == 0;
            let client_ns = if idle { self.now_ns + 1_000 } else { client_ns };
            let next_ns = tick_ns.min(parcel_ns).min(client_ns);
            assert!(next_ns >= self.now_ns);
            self.now_ns = next_ns;
            if next_ns == tick_ns {
                self.cluster_turn();
                tick_ns += 300_000;
            } else if next_ns == parcel_ns {
                let (_, parcel) = self.network.pop_first().expect("it was seen just now");
                let to_client = matches!(parcel, Parcel::ToClient(..));
                self.deliver(parcel);
                if to_client {
                    self.client_turn();
                }
            } else {
                self.client_turn();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Loss, duplication, reordering, BUSY, changes of leader: every entry is acknowledged once, in order, with the
    /// sequence under which the cluster holds exactly its bytes.
    #[test]
    fn every_entry_is_sequenced_once_and_in_order_if_the_network_is_eventually_fair(
        seed: u64,
        loss_percent in 0u64..60,
        credit in 1u32..200,
        window_entries in 1usize..300,
    ) {
        let mut world = World::new(seed, loss_percent, credit, window_entries, 400);
        world.run();
        prop_assert_eq!(world.cluster.committed.len(), 400);
        prop_assert!(world.acked.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(world.core.counters().conflicting_acks, 0);
        prop_assert_eq!(world.core.counters().malformed, 0);
    }

    /// However long the queue before the leader's disk, progress holds the timer off.
    #[test]
    fn without_loss_nothing_is_sent_twice(seed: u64) {
        let mut world = World::new(seed, 0, 4_000, 1_000, 400);
        world.chaos_until_ns = 0;
        world.run();
        let counters = world.core.counters();
        prop_assert_eq!((counters.timeouts, counters.entries_resent), (0, 0));
    }

    #[test]
    fn no_bytes_make_a_session_panic(
        datagrams in proptest::collection::vec((1u16..5, proptest::collection::vec(any::<u8>(), 0..300)), 0..50),
    ) {
        let mut core = open_core(Options::default(), 10);
        for (i, (port, datagram)) in datagrams.iter().enumerate() {
            core.handle(i as u64, address(*port), datagram);
        }
        prop_assert!(core.is_open());
    }

    /// Frames with valid checksums and arbitrary bodies, in every phase of a session that goes on offering.
    #[test]
    fn no_body_makes_a_session_panic(
        frames in proptest::collection::vec((1u16..4, hostile_reply()), 0..60),
        window_entries in 1usize..20,
        opens: bool,
    ) {
        let mut core = core_with(Options { window_entries, ..Options::default() });
        let mut now_ns = 0;
        if opens {
            core.handle(0, address(A), &opened(0, 10));
        }
        for (port, datagram) in frames {
            now_ns += MS / 3;
            let _full_or_closed = core.offer(&[1; 40], now_ns);
            sent(&mut core, now_ns);
            core.handle(now_ns, address(port), &datagram);
            if now_ns % 2 == 0 {
                events(&mut core);
            }
            if let Some(due_ns) = core.poll_timeout() {
                now_ns = now_ns.max(due_ns.min(now_ns + 20 * MS));
            }
        }
        // Whatever happened, each entry ends in one event, by its deadline at the latest.
        sent(&mut core, now_ns + 10_000 * MS);
        events(&mut core);
        prop_assert_eq!(core.outstanding(), 0);
    }
}

/// Replies whose fields are near the edges where arithmetic breaks.
fn hostile_reply() -> impl Strategy<Value = Vec<u8>> {
    let edge = || prop_oneof![0u64..30, Just(u64::MAX), Just(u64::MAX - 1), Just(1 << 62), any::<u64>()];
    let count = || prop_oneof![0u32..30, Just(u32::MAX), any::<u32>()];
    let leader = proptest::option::of((1u16..6).prop_map(address));
    prop_oneof![
        (edge(), count(), count(), count())
            .prop_map(|(last, credit, entry, run)| opened_with(last, credit, entry, run)),
        (proptest::collection::vec((edge(), edge(), edge(), count()), 0..4), count())
            .prop_map(|(runs, credit)| appended(&runs, credit)),
        (0..Refusal::ALL.len(), edge(), edge(), count(), leader).prop_map(
            |(which, reference, detail, retry_after_us, leader)| {
                Refuse { refusal: Refusal::ALL[which], reference, detail, retry_after_us, leader }.datagram()
            }
        ),
        (0usize..Kind::ALL.len(), proptest::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(kind, payload)| datagram(&header(Kind::ALL[kind]), &payload)),
    ]
}
