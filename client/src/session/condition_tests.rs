//! Sessions by number, and entries on a condition, against scripted replies.

use super::*;
use crate::options::Resume;
use crate::testing::*;
use std::num::NonZeroU64;
use synod_wire::batch::{self, CONDITION_BYTES, open};
use synod_wire::client::Decision;
use zerocopy::little_endian::U64;

const A: u16 = 1;

fn core_with(resume: Resume) -> Core {
    let options = Options { resume, ..Options::default() };
    Core::new(CLUSTER, GROUP, CLIENT, vec![(NodeId(1), address(A))], options, 0).unwrap()
}

fn sent(core: &mut Core, now_ns: u64) -> Vec<Asked> {
    let mut out = [0; 1_472];
    std::iter::from_fn(|| core.poll_transmit(now_ns, &mut out).map(|(_, length)| parse_request(&out[..length])))
        .collect()
}

fn events(core: &mut Core) -> Vec<Event> {
    std::iter::from_fn(|| core.poll_event()).collect()
}

/// A session that is open, and has nothing behind it.
fn open_core() -> Core {
    let mut core = core_with(Resume::OrCreate);
    sent(&mut core, 0);
    core.handle(MS, address(A), &opened(0, 100));
    assert!(matches!(events(&mut core)[..], [Event::Opened { session: SESSION, .. }]));
    core
}

fn token(token: u64) -> NonZeroU64 {
    NonZeroU64::new(token).unwrap()
}

fn wire(tail: u64, fence: u64) -> batch::Condition {
    batch::Condition { match_sequence: U64::new(tail), fence: U64::new(fence) }
}

/// A datagram with its session's number, at `at` in the body, changed.
fn of_another_session(datagram: &[u8], at: usize) -> Vec<u8> {
    let frame = synod_wire::frame::parse(datagram).unwrap();
    let mut payload = frame.payload.to_vec();
    payload[at..at + 8].copy_from_slice(&(SESSION - 1).to_le_bytes());
    crate::testing::datagram(&frame.header, &payload)
}

#[test]
fn a_client_that_comes_back_names_its_session_and_is_told_if_it_is_gone() {
    for (resume, asked) in [(Resume::Session(SESSION), SESSION), (Resume::Existing, open::EXISTING)] {
        let mut core = core_with(resume);
        assert_eq!(sent(&mut core, 0), [Asked::Resume(asked)]);
        core.handle(MS, address(A), &opened(41, 100));
        assert_eq!((core.session(), core.last_committed(), core.offer(b"x", MS)), (Some(SESSION), Some(41), Ok(42)));

        let mut late = core_with(resume);
        sent(&mut late, 0);
        let evicted = |detail| Refuse { detail, ..Refuse::with(Refusal::SessionEvicted) }.datagram();
        late.handle(MS, address(A), &evicted(SESSION - 1));
        assert_eq!((late.closed(), late.counters().stale), (None, 1), "another session of this client is gone");
        late.handle(MS, address(A), &evicted(asked));
        assert_eq!((events(&mut late), late.closed()), (vec![Event::SessionLost], Some(CloseReason::SessionEvicted)));
    }
    let mut new = core_with(Resume::OrCreate);
    assert_eq!(sent(&mut new, 0), [Asked::Open(CLIENT)]);
    new.handle(MS, address(A), &Refuse { detail: 0, ..Refuse::with(Refusal::SessionEvicted) }.datagram());
    assert_eq!(new.closed(), None, "a new session cannot be gone");
}

/// A session that comes back with `repeat_decided`, after `last_committed` entries, to a server that keeps `credit` outcomes.
fn repeating_core(last_committed: u64, credit: u32) -> Core {
    let options = Options { resume: Resume::Session(SESSION), repeat_decided: true, ..Options::default() };
    let mut core = Core::new(CLUSTER, GROUP, CLIENT, vec![(NodeId(1), address(A))], options, 0).unwrap();
    sent(&mut core, 0);
    core.handle(MS, address(A), &opened(last_committed, credit));
    assert!(matches!(events(&mut core)[..], [Event::Opened { last_committed: told, .. }] if told == last_committed));
    core
}

#[test]
fn a_client_that_repeats_its_entries_is_told_what_became_of_them() {
    let mut core = repeating_core(2, 100);
    for (seq, entry) in [(1, b"a"), (2, b"b"), (3, b"c")] {
        assert_eq!((core.next_client_seq(), core.offer_if(entry, Condition::fence(token(4)), MS)), (seq, Ok(seq)));
    }
    let run = |first_seq, entries: &[&[u8]]| Asked::AppendIf {
        condition: wire(batch::Condition::ANY_TAIL, 4),
        first_seq,
        entries: entries.iter().map(|entry| entry.to_vec()).collect(),
    };
    assert_eq!(sent(&mut core, MS), [run(1, &[b"a", b"b"]), run(3, &[b"c"])], "what is decided on goes by itself");
    core.handle(2 * MS, address(A), &appended(&[(1, 70, 7, 1)], 100));
    core.handle(2 * MS, address(A), &not_appended(2, Decision::Fenced, 8, 1));
    let told = events(&mut core);
    assert!(
        matches!(
            told[..],
            [
                Event::Acked { client_seq: 1, sequence: Sequence(70), entries: 1, .. },
                Event::NotAppended { client_seq: 2, unmet: Unmet::Fenced { highest: 8 }, entries: 1, .. }
            ]
        ),
        "{told:?}"
    );
    assert_eq!(core.outstanding(), 1);
}

#[test]
fn no_more_is_repeated_than_the_server_keeps() {
    assert_eq!(repeating_core(41, 10).next_client_seq(), 32);
    assert_eq!(repeating_core(10, 10).next_client_seq(), 1);
    assert_eq!(repeating_core(0, 10).next_client_seq(), 1);
    assert_eq!(open_core().next_client_seq(), 1);
}

#[test]
fn what_is_said_about_an_earlier_session_of_the_client_is_stale() {
    let mut core = core_with(Resume::Session(SESSION));
    sent(&mut core, 0);
    core.handle(MS, address(A), &of_another_session(&opened(9, 100), 40));
    assert!(!core.is_open());
    core.handle(MS, address(A), &opened(0, 100));
    core.offer(b"x", MS).unwrap();
    sent(&mut core, MS);
    let ack = appended(&[(1, 70, 7, 1)], 100);
    core.handle(2 * MS, address(A), &of_another_session(&ack, 24));
    core.handle(
        2 * MS,
        address(A),
        &Refuse { detail: SESSION - 1, ..Refuse::with(Refusal::SessionEvicted) }.datagram(),
    );
    assert_eq!((core.outstanding(), core.closed(), core.counters().stale), (1, None, 3));
    core.handle(2 * MS, address(A), &ack);
    assert!(matches!(events(&mut core)[..], [Event::Opened { .. }, Event::Acked { sequence: Sequence(70), .. }]));
}

#[test]
fn numbers_that_no_session_has_are_no_opening() {
    let mut core = core_with(Resume::OrCreate);
    sent(&mut core, 0);
    for number in [open::OR_CREATE, open::EXISTING] {
        let frame = opened(0, 100);
        let mut payload = synod_wire::frame::parse(&frame).unwrap().payload.to_vec();
        payload[40..48].copy_from_slice(&number.to_le_bytes());
        core.handle(MS, address(A), &datagram(&header(Kind::SessionOpened), &payload));
    }
    assert_eq!((core.is_open(), core.counters().malformed), (false, 2));
}

#[test]
fn entries_share_a_datagram_with_those_of_their_own_condition_and_none_that_match_a_tail() {
    let mut core = open_core();
    let fence = Condition::fence(token(4));
    core.offer(b"plain", MS).unwrap();
    core.offer(b"too", MS).unwrap();
    core.offer_if(b"fenced", fence, MS).unwrap();
    core.offer_if(b"as well", fence, MS).unwrap();
    core.offer_if(b"higher", Condition::fence(token(5)), MS).unwrap();
    core.offer_if(b"tail", Condition::tail(Sequence(9)), MS).unwrap();
    core.offer_if(b"tail again", Condition::tail(Sequence(9)), MS).unwrap();
    core.offer(b"plain again", MS).unwrap();
    let bytes = |entries: &[&[u8]]| entries.iter().map(|entry| entry.to_vec()).collect::<Vec<_>>();
    let on = |tail, fence, first_seq, entries: &[&[u8]]| Asked::AppendIf {
        condition: wire(tail, fence),
        first_seq,
        entries: bytes(entries),
    };
    let any = batch::Condition::ANY_TAIL;
    let expected = [
        Asked::Append { first_seq: 1, entries: bytes(&[b"plain", b"too"]) },
        on(any, 4, 3, &[b"fenced", b"as well"]),
        on(any, 5, 5, &[b"higher"]),
        on(9, 0, 6, &[b"tail"]),
        on(9, 0, 7, &[b"tail again"]),
        Asked::Append { first_seq: 8, entries: bytes(&[b"plain again"]) },
    ];
    assert_eq!(sent(&mut core, MS), expected);
}

#[test]
fn what_was_not_appended_is_told_in_its_place_and_the_session_goes_on() {
    let mut core = open_core();
    core.offer(b"a", MS).unwrap();
    core.offer_if(b"b", Condition::tail(Sequence::ZERO), MS).unwrap();
    for entry in [b"c", b"d"] {
        core.offer_if(entry, Condition::fence(token(1)), MS).unwrap();
    }
    core.offer(b"e", MS).unwrap();
    sent(&mut core, MS);
    // The answers come out of order; an empty log is a tail like any other.
    core.handle(2 * MS, address(A), &not_appended(3, Decision::Fenced, 8, 2));
    core.handle(2 * MS, address(A), &not_appended(2, Decision::TailMoved, 0, 1));
    assert_eq!(events(&mut core), []);
    core.handle(2 * MS, address(A), &appended(&[(1, 1, 7, 1), (5, 2, 7, 1)], 100));
    let (durability, guarantee) = (Durability::Disk, Guarantee::COMMITTED);
    let acked = |client_seq, sequence| Event::Acked {
        client_seq,
        sequence: Sequence(sequence),
        timestamp_ns: 7,
        durability,
        guarantee,
        entries: 1,
    };
    let not = |client_seq, unmet, entries| Event::NotAppended {
        client_seq,
        unmet,
        timestamp_ns: 7,
        durability,
        guarantee,
        entries,
    };
    let moved = Unmet::TailMoved { tail: Sequence::ZERO };
    let fenced = Unmet::Fenced { highest: 8 };
    assert_eq!(events(&mut core), [acked(1, 1), not(2, moved, 1), not(3, fenced, 2), acked(5, 2)]);
    assert_eq!((core.outstanding(), core.poll_timeout(), core.closed()), (0, None, None));
}

#[test]
fn a_decision_that_nobody_knows_is_malformed_and_one_that_changes_is_a_conflict() {
    let mut core = open_core();
    core.offer_if(b"x", Condition::fence(token(1)), MS).unwrap();
    sent(&mut core, MS);
    let good = not_appended(1, Decision::Fenced, 8, 1);
    let frame = synod_wire::frame::parse(&good).unwrap();
    let mut payload = frame.payload.to_vec();
    payload[32 + 26] = 3;
    core.handle(2 * MS, address(A), &datagram(&frame.header, &payload));
    assert_eq!((core.outstanding(), core.counters().malformed), (1, 1));
    core.handle(2 * MS, address(A), &good);
    core.handle(2 * MS, address(A), &good);
    assert_eq!(core.counters().conflicting_acks, 0);
    assert!(matches!(events(&mut core)[..], [Event::NotAppended { client_seq: 1, .. }]));

    let mut core = open_core();
    core.offer(b"w", MS).unwrap();
    core.offer_if(b"x", Condition::fence(token(1)), MS).unwrap();
    sent(&mut core, MS);
    core.handle(2 * MS, address(A), &not_appended(2, Decision::Fenced, 8, 1));
    core.handle(2 * MS, address(A), &appended(&[(2, 8, 7, 1)], 100));
    assert_eq!(core.counters().conflicting_acks, 1);
}

#[test]
fn a_condition_takes_its_room_from_the_entry() {
    let mut core = open_core();
    let limit_bytes = core.max_entry_bytes() - CONDITION_BYTES;
    let long = vec![7; limit_bytes + 1];
    assert_eq!(core.offer_if(&long, Condition::tail(Sequence(1)), MS), Err(OfferError::TooLarge { limit_bytes }));
    assert_eq!(core.offer_if(&long[1..], Condition::tail(Sequence(1)), MS), Ok(1));
    assert_eq!(core.offer(&long, MS), Ok(2));
    assert_eq!(sent(&mut core, MS).len(), 2);

    // Offered before the server's limit was known, which leaves no room for the condition.
    let mut core = core_with(Resume::OrCreate);
    core.offer_if(&[7; 90], Condition::tail(Sequence(1)), 0).unwrap();
    sent(&mut core, 0);
    core.handle(MS, address(A), &opened_with(0, 10, 100, 1_392));
    assert!(matches!(events(&mut core).last(), Some(Event::Refused { refusal: Refusal::TooLarge, detail: 100 })));
}
