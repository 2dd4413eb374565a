//! The reading core against scripted replies, and against a log behind a bad network.

use super::*;
use crate::testing::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use synod_wire::client::ReadBody;

const A: u16 = 1;
const B: u16 = 2;

fn reader_with(options: ReadOptions) -> ReadCore {
    ReadCore::new(CLUSTER, GROUP, [A, B].map(address).to_vec(), options).unwrap()
}

/// The request that the core sends now: (port, body).
fn asked(core: &mut ReadCore, now_ns: u64) -> Option<(u16, ReadBody)> {
    let mut out = [0; REQUEST_BYTES];
    let (to, length) = core.poll_transmit(now_ns, &mut out)?;
    match parse_request(&out[..length]) {
        Asked::Read(body) => Some((to.port(), body)),
        other => panic!("a reader does not ask {other:?}"),
    }
}

fn range(request: Option<(u16, ReadBody)>) -> (u16, u64, u32) {
    let (port, body) = request.expect("a request is due");
    (port, body.from_sequence.get(), body.max_entries.get())
}

fn payload(sequence: u64) -> Vec<u8> {
    format!("entry {sequence}").into_bytes()
}

/// A reply with the entries `first..=last` of a log where entry n says so.
fn reply(id: u64, first: u64, last_entry: u64, tail: u64, last: bool) -> Vec<u8> {
    let payloads: Vec<Vec<u8>> = (first..=last_entry).map(payload).collect();
    let entries: Vec<(u64, &[u8])> = (first..).map(|n| n * 10).zip(payloads.iter().map(Vec::as_slice)).collect();
    read_reply(id, first, tail, last, &entries)
}

/// Takes all entries that are ready; checks that each is what its number says.
fn taken(core: &mut ReadCore) -> Vec<u64> {
    let mut all = Vec::new();
    while let Some(entry) = core.next_entry() {
        assert_eq!(entry.payload, payload(entry.sequence.0));
        assert_eq!(entry.timestamp_ns, entry.sequence.0 * 10);
        all.push(entry.sequence.0);
    }
    all
}

#[test]
fn a_reader_that_wants_nothing_asks_nothing() {
    let mut core = reader_with(ReadOptions::default());
    assert!(core.is_finished() && asked(&mut core, 0).is_none() && core.poll_timeout().is_none());
    core.read(Sequence(5), 0, 0);
    assert!(core.is_finished() && core.poll_timeout().is_none());
}

#[test]
fn an_answer_that_is_not_as_recent_as_was_asked_for_is_none() {
    let mut core = reader_with(ReadOptions { consistency: Consistency::Bounded(20), ..ReadOptions::default() });
    core.read(Sequence(1), u64::MAX, 0);
    let (port, body) = asked(&mut core, 0).expect("a request is due");
    assert_eq!(body.consistency(), Some(Consistency::Bounded(20)));
    let id = body.request_id.get();
    let mut hear = |recency, tail| core.handle(MS, address(port), &recent_reply(1, recency, (id, 1, tail, true), &[]));
    hear(Recency::StalePossible, 9);
    hear(Recency::BoundedStale(21), 9);
    hear(Recency::BoundedStale(3), 0);
    assert_eq!((core.counters().malformed, core.recency()), (2, Some(Recency::BoundedStale(3))));
    assert!(core.is_finished(), "the log is empty, as far as the answer that counts says");
    core.set_consistency(Consistency::ReadIndex);
    core.read(Sequence(1), 1, 2 * MS);
    assert_eq!(core.recency(), None);
    let (_, body) = asked(&mut core, 2 * MS).expect("a request is due");
    assert_eq!(body.consistency(), Some(Consistency::ReadIndex));
}

#[test]
fn a_read_to_the_tail_ends_where_the_first_answer_says_that_it_is() {
    let mut core = reader_with(ReadOptions::default());
    core.read(Sequence(1), u64::MAX, 0);
    let request = asked(&mut core, 0);
    assert_eq!(range(request), (A, 1, u32::MAX));
    assert!(asked(&mut core, 0).is_none(), "one request at a time");
    core.handle(1, address(A), &reply(1, 1, 3, 5, false));
    core.handle(2, address(A), &reply(1, 4, 5, 9, true));
    assert_eq!(taken(&mut core), [1, 2, 3, 4, 5]);
    assert!(core.is_finished() && core.tail() == Some(Sequence(9)));
    assert_eq!(core.poll_timeout(), None);
}

#[test]
fn an_empty_log_is_read_at_once() {
    let mut core = reader_with(ReadOptions::default());
    core.read(Sequence(1), u64::MAX, 0);
    asked(&mut core, 0).unwrap();
    core.handle(1, address(A), &read_reply(1, 1, 0, true, &[]));
    assert!(core.is_finished() && core.next_entry().is_none());
}

#[test]
fn a_gap_is_asked_for_alone_and_nothing_comes_twice() {
    let mut core = reader_with(ReadOptions::default());
    core.read(Sequence(10), 9, 0);
    assert_eq!(range(asked(&mut core, 0)), (A, 10, 9));
    core.handle(1, address(A), &reply(1, 10, 11, 100, false));
    core.handle(2, address(A), &reply(1, 15, 16, 100, false));
    core.handle(3, address(A), &reply(1, 17, 18, 100, true));
    assert_eq!(taken(&mut core), [10, 11]);
    assert_eq!(range(asked(&mut core, 3)), (A, 12, 3), "the gap and no more, without waiting for a timeout");
    // The late original comes after all, packed otherwise than the repair.
    core.handle(4, address(A), &reply(1, 12, 13, 100, false));
    core.handle(5, address(A), &reply(2, 12, 14, 100, true));
    core.handle(6, address(A), &reply(2, 12, 14, 100, true));
    assert_eq!(taken(&mut core), [12, 13, 14, 15, 16, 17, 18]);
    assert!(core.is_finished() && core.counters().gaps_asked == 1 && core.counters().duplicates == 1);
}

#[test]
fn the_next_request_fetches_ahead_while_there_is_room() {
    let mut core = reader_with(ReadOptions { max_datagrams: 2, ..ReadOptions::default() });
    core.read(Sequence(1), 100, 0);
    asked(&mut core, 0).unwrap();
    core.handle(1, address(A), &reply(1, 1, 2, 1_000, false));
    core.handle(1, address(A), &reply(1, 3, 4, 1_000, true));
    assert_eq!(range(asked(&mut core, 1)), (A, 5, 96), "nothing was taken yet");
    core.handle(2, address(A), &reply(2, 5, 6, 1_000, false));
    core.handle(2, address(A), &reply(2, 7, 8, 1_000, true));
    assert!(asked(&mut core, 2).is_none(), "four datagrams are held");
    assert_eq!(core.poll_timeout(), None, "and nothing is due until some are taken");
    assert_eq!(taken(&mut core), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(range(asked(&mut core, 3)), (A, 9, 92));
    core.handle(4, address(A), &reply(3, 9, 10, 1_000, true));
    assert_eq!(taken(&mut core), [9, 10], "what was handed out makes room");
    assert_eq!(core.counters().overruns, 0);
}

#[test]
fn what_is_furthest_ahead_gives_way() {
    let mut core = reader_with(ReadOptions { max_datagrams: 1, ..ReadOptions::default() });
    core.read(Sequence(1), 100, 0);
    asked(&mut core, 0).unwrap();
    core.handle(1, address(A), &reply(1, 5, 6, 1_000, false));
    core.handle(1, address(A), &reply(1, 7, 8, 1_000, true));
    assert_eq!(
        range(asked(&mut core, MS)),
        (A, 1, 4),
        "what the caller waits for is asked for in spite of a full buffer"
    );
    core.handle(2 * MS, address(A), &reply(2, 1, 4, 1_000, true));
    assert_eq!(core.counters().overruns, 1);
    assert_eq!(taken(&mut core), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn datagrams_that_overlap_do_not_fill_the_buffer_for_good() {
    let mut core = reader_with(ReadOptions { max_datagrams: 1, ..ReadOptions::default() });
    core.read(Sequence(1), 100, 0);
    asked(&mut core, 0).unwrap();
    core.handle(1, address(A), &reply(1, 2, 3, 1_000, false));
    core.handle(1, address(A), &reply(1, 1, 3, 1_000, true));
    assert_eq!(taken(&mut core), [1, 2, 3]);
    assert_eq!(range(asked(&mut core, 1)), (A, 4, 97));
    core.handle(2, address(A), &reply(2, 4, 5, 1_000, true));
    assert_eq!((taken(&mut core), core.counters().overruns), (vec![4, 5], 0));
}

#[test]
fn silence_goes_to_the_next_member_the_second_time_and_an_answer_that_breaks_off_does_not() {
    let mut core = reader_with(ReadOptions::default());
    core.read(Sequence(1), 10, 0);
    let mut ports = Vec::new();
    for _ in 0..4 {
        let now_ns = core.poll_timeout().unwrap();
        ports.push(asked(&mut core, now_ns).unwrap().0);
    }
    assert_eq!(ports, [A, A, B, A]);
    let now_ns = core.poll_timeout().unwrap() - 1;
    core.handle(now_ns, address(A), &reply(4, 1, 3, 100, false));
    let now_ns = core.poll_timeout().unwrap();
    assert_eq!(range(asked(&mut core, now_ns)), (A, 4, 7));
}

#[test]
fn refusals_lead_to_the_next_member_or_the_leader_and_then_to_a_pause() {
    let mut core = reader_with(ReadOptions::default());
    core.read(Sequence(1), 10, 0);
    assert_eq!(asked(&mut core, 0).unwrap().0, A);
    core.handle(0, address(A), &Refuse { reference: 99, ..Refuse::with(Refusal::Recovering) }.datagram());
    assert!(asked(&mut core, 0).is_none(), "not about the request under way");
    core.handle(0, address(A), &Refuse { reference: 1, ..Refuse::with(Refusal::Recovering) }.datagram());
    assert_eq!(asked(&mut core, 0).unwrap().0, B);
    let leader = Some(address(9));
    core.handle(0, address(B), &Refuse { reference: 2, leader, ..Refuse::with(Refusal::NotLeader) }.datagram());
    assert_eq!(asked(&mut core, 0).unwrap().0, 9);
    core.handle(0, address(9), &Refuse { reference: 3, ..Refuse::with(Refusal::NoLeader) }.datagram());
    assert!(asked(&mut core, 0).is_none());
    assert_eq!(core.last_refusal(), Some((address(9), Refusal::NoLeader)));
    let due_ns = core.poll_timeout().unwrap();
    assert!((MS..2 * MS).contains(&due_ns));
    assert!(asked(&mut core, due_ns).is_some());
}

#[test]
fn a_read_ends_where_its_entries_were_trimmed_after_those_that_came() {
    let mut core = reader_with(ReadOptions::default());
    core.read(Sequence(1), 9, 0);
    asked(&mut core, 0).unwrap();
    core.handle(MS, address(1), &reply(1, 1, 2, 50, true));
    assert_eq!(range(asked(&mut core, MS)).1, 3);
    let refuse = |id, detail| Refuse { reference: id, detail, ..Refuse::with(Refusal::Trimmed) }.datagram();
    core.handle(MS, address(1), &refuse(2, 3));
    assert_eq!(core.trimmed(), None, "the next one is there");
    let (port, body) = asked(&mut core, MS).expect("it asks again");
    core.handle(MS, address(port), &refuse(body.request_id.get(), 7));
    assert_eq!((core.trimmed(), asked(&mut core, u64::MAX), core.poll_timeout()), (Some(Sequence(7)), None, None));
    core.handle(2 * MS, address(1), &reply(2, 3, 9, 50, true));
    assert_eq!(taken(&mut core), [1, 2], "what is late does not make it go on");
    core.read(Sequence(7), 1, 3 * MS);
    assert_eq!(core.trimmed(), None);
    assert_eq!(range(asked(&mut core, 3 * MS)).1, 7);
}

#[test]
fn a_follower_waits_at_the_tail_and_asks_again() {
    let mut core = reader_with(ReadOptions::default());
    core.follow(Sequence(3), 1_000, 0);
    let (_, body) = asked(&mut core, 0).unwrap();
    assert_eq!(body.wait_ms.get(), 1_000);
    assert!(core.poll_timeout().unwrap() > 1_000 * MS, "no retransmission while the node may hold the request");
    core.handle(1_000 * MS, address(A), &read_reply(1, 3, 2, true, &[]));
    assert_eq!((core.is_finished(), core.last_progress_ns()), (false, 1_000 * MS));
    assert_eq!(range(asked(&mut core, 1_000 * MS)).1, 3);
    core.handle(1_001 * MS, address(A), &reply(2, 3, 4, 4, true));
    assert_eq!(taken(&mut core), [3, 4]);
    assert_eq!(range(asked(&mut core, 1_001 * MS)).1, 5);
    core.handle(1_001 * MS, address(A), &read_reply(3, 5, 4, true, &[]));
    assert!(asked(&mut core, 1_001 * MS).is_none(), "a node that does not hold requests is not flooded");
    assert!(core.poll_timeout().unwrap() >= 1_003 * MS);
}

#[test]
fn a_follower_leaves_a_node_that_has_more_and_cannot_show_it() {
    let mut core = reader_with(ReadOptions::default());
    core.follow(Sequence(3), 1_000, 0);
    asked(&mut core, 0).unwrap();
    core.handle(MS, address(A), &read_reply(1, 3, 9, true, &[]));
    let due_ns = core.poll_timeout().unwrap();
    assert_eq!(range(asked(&mut core, due_ns)).0, B);
}

#[test]
fn a_node_that_lags_behind_the_tail_that_was_told_is_left() {
    let mut core = reader_with(ReadOptions::default());
    core.read(Sequence(1), u64::MAX, 0);
    asked(&mut core, 0).unwrap();
    core.handle(1, address(A), &reply(1, 1, 2, 4, true));
    asked(&mut core, 1).unwrap();
    core.handle(2, address(A), &read_reply(2, 3, 2, true, &[]));
    assert!(!core.is_finished());
    let due_ns = core.poll_timeout().unwrap();
    assert_eq!(range(asked(&mut core, due_ns)), (B, 3, 2));
}

#[test]
fn a_new_read_forgets_the_old_one() {
    let mut core = reader_with(ReadOptions::default());
    core.read(Sequence(1), 10, 0);
    asked(&mut core, 0).unwrap();
    core.handle(1, address(A), &reply(1, 1, 2, 4, false));
    core.read(Sequence(3), 2, 2);
    assert_eq!(range(asked(&mut core, 2)), (A, 3, 2));
    core.handle(3, address(A), &reply(1, 3, 4, 4, true));
    assert_eq!((taken(&mut core), core.counters().foreign), (vec![], 1));
    core.handle(4, address(A), &reply(2, 3, 4, 4, true));
    assert_eq!(taken(&mut core), [3, 4]);
}

/// Answers `body` from a log of `tail` entries, `per_datagram` a datagram.
fn serve(body: &ReadBody, tail: u64, per_datagram: u64) -> Vec<Vec<u8>> {
    let (id, mut at) = (body.request_id.get(), body.from_sequence.get());
    let end = (tail + 1).min(at + u64::from(body.max_entries.get()));
    if at >= end {
        return vec![read_reply(id, at, tail, true, &[])];
    }
    let mut datagrams = Vec::new();
    while at < end && datagrams.len() < usize::from(body.max_datagrams.get()) {
        let last_entry = (at + per_datagram).min(end) - 1;
        let last = last_entry + 1 == end || datagrams.len() + 1 == usize::from(body.max_datagrams.get());
        datagrams.push(reply(id, at, last_entry, tail, last));
        at = last_entry + 1;
    }
    datagrams
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Loss, duplication, reordering, changing sizes of datagrams: the entries come complete, in order, once.
    #[test]
    fn a_bad_network_changes_nothing_about_what_is_read(
        seed: u64,
        loss_percent in 0u64..50,
        max_datagrams in 1u16..12,
        tail in 1u64..600,
        eager in 1u64..100,
    ) {
        let mut random = Random(seed);
        let mut core = reader_with(ReadOptions { max_datagrams, ..ReadOptions::default() });
        let from = 1 + random.below(tail);
        core.read(Sequence(from), u64::MAX, 0);
        let mut network: BTreeMap<(u64, u64), (u16, Vec<u8>)> = BTreeMap::new();
        let (mut now_ns, mut parcels, mut all) = (0, 0, Vec::new());
        while !core.is_finished() {
            prop_assert!(now_ns < 600_000 * MS, "stalled at {:?}", all.last());
            if let Some((port, body)) = asked(&mut core, now_ns) {
                let per_datagram = 1 + random.below(9);
                for datagram in serve(&body, tail, per_datagram) {
                    let copies = if random.percent(loss_percent) { 0 } else { 1 + u64::from(random.percent(10)) };
                    for _ in 0..copies {
                        parcels += 1;
                        let late_ns = if random.percent(10) { 40 * MS } else { MS };
                        network.insert((now_ns + 1 + random.below(late_ns), parcels), (port, datagram.clone()));
                    }
                }
            }
            let parcel_ns = network.first_key_value().map_or(u64::MAX, |((at_ns, _), _)| *at_ns);
            let due_ns = core.poll_timeout().unwrap_or(u64::MAX).max(now_ns + 1);
            if parcel_ns <= due_ns && parcel_ns < u64::MAX {
                let ((at_ns, _), (port, datagram)) = network.pop_first().unwrap();
                now_ns = now_ns.max(at_ns);
                core.handle(now_ns, address(port), &datagram);
            } else if due_ns < u64::MAX {
                now_ns = due_ns;
            } else {
                prop_assert!(core.is_ready(), "nothing to wait for, and nothing to take");
            }
            if random.percent(eager) || due_ns == u64::MAX {
                all.extend(taken(&mut core));
            }
        }
        all.extend(taken(&mut core));
        prop_assert_eq!(all, (from..=tail).collect::<Vec<_>>());
        prop_assert_eq!(core.counters().malformed, 0);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(
        datagrams in proptest::collection::vec((1u16..4, proptest::collection::vec(any::<u8>(), 0..300)), 0..50),
    ) {
        let mut core = reader_with(ReadOptions::default());
        core.read(Sequence(1), 100, 0);
        asked(&mut core, 0).unwrap();
        for (i, (port, datagram)) in datagrams.iter().enumerate() {
            core.handle(i as u64, address(*port), datagram);
        }
        prop_assert!(!core.is_finished());
    }

    /// Frames with valid checksums: numbers near the edges, bodies of any bytes.
    #[test]
    fn no_body_makes_a_reader_panic(
        frames in proptest::collection::vec((1u16..4, hostile_reply()), 0..80),
        max_datagrams in 1u16..5,
        from in prop_oneof![0u64..40, any::<u64>(), Just(u64::MAX)],
        count: u64,
        follows: bool,
    ) {
        let mut core = reader_with(ReadOptions { max_datagrams, ..ReadOptions::default() });
        match follows {
            true => core.follow(Sequence(from), 1_000, 0),
            false => core.read(Sequence(from), count, 0),
        }
        let (mut now_ns, mut expected) = (0, from.max(1));
        for (port, datagram) in frames {
            asked(&mut core, now_ns);
            core.handle(now_ns, address(port), &datagram);
            if now_ns % 3 == 0 {
                while let Some(entry) = core.next_entry() {
                    prop_assert_eq!(entry.sequence.0, expected);
                    expected += 1;
                }
            }
            prop_assert!(core.held.len() <= 2 * usize::from(max_datagrams));
            now_ns = core.poll_timeout().unwrap_or(now_ns).clamp(now_ns + MS, now_ns + 100 * MS);
        }
    }
}

fn hostile_reply() -> impl Strategy<Value = Vec<u8>> {
    let edge = || prop_oneof![0u64..40, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()];
    let entries = proptest::collection::vec((any::<u64>(), proptest::collection::vec(any::<u8>(), 0..20)), 0..6);
    let leader = proptest::option::of((1u16..6).prop_map(address));
    prop_oneof![
        4 => (1u64..60, edge(), edge(), any::<bool>(), entries).prop_map(|(id, first, tail, last, entries)| {
            let entries: Vec<(u64, &[u8])> = entries.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
            read_reply(id, first, tail, last, &entries)
        }),
        1 => (0usize..9, 1u64..60, any::<u32>(), leader).prop_map(|(which, reference, retry_after_us, leader)| {
            Refuse { refusal: Refusal::ALL[which], reference, detail: 0, retry_after_us, leader }.datagram()
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..120)
            .prop_map(|payload| datagram(&header(Kind::ReadReply), &payload)),
    ]
}
