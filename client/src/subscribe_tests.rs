//! A subscriber against a node that is told what to say; and against one that pushes over a network that loses, doubles and
//! reorders.

use super::*;
use crate::testing::{CLUSTER, GROUP, MS, Random, address, datagram, header};
use synod_wire::Slot;
use synod_wire::client::ReadEntry;
use synod_wire::frame::{Header, parse};
use zerocopy::FromBytes;
use zerocopy::FromZeros;
use zerocopy::little_endian::U16;

const STREAM: u64 = 77;

fn core(window: u16) -> SubscribeCore {
    let options = ReadOptions { max_datagrams: window, ..ReadOptions::default() };
    SubscribeCore::new((CLUSTER, GROUP), vec![address(1), address(2)], options, STREAM, Sequence(1)).unwrap()
}

/// What the core sends now, if anything.
fn said(core: &mut SubscribeCore, now_ns: u64) -> Option<(SocketAddrV4, SubscribeBody)> {
    let mut out = [0; SUBSCRIBE_BYTES];
    let (to, bytes) = core.poll_transmit(now_ns, &mut out)?;
    let frame = parse(&out[..bytes]).unwrap();
    assert_eq!(frame.header.kind, Kind::Subscribe);
    Some((to, SubscribeBody::parse(frame.payload).unwrap()))
}

fn data(cookie: u64, round: u32, position: u64, first: u64, count: u16) -> Vec<u8> {
    data_of((first + u64::from(count), Mode::Target), cookie, round, position, first, count)
}

/// Entries of a node in this mode that has applied up to `tail`.
fn data_of((tail, mode): (u64, Mode), cookie: u64, round: u32, position: u64, first: u64, count: u16) -> Vec<u8> {
    let head = StreamHead { cookie: U64::new(cookie), position: U64::new(position) };
    let body = ReadReplyBody {
        request_id: U64::new(STREAM),
        first_sequence: U64::new(first),
        tail: U64::new(tail),
        entries: U16::new(count),
        mode: mode as u8,
        ..ReadReplyBody::new_zeroed()
    };
    let mut payload = [head.as_bytes(), body.as_bytes()].concat();
    for sequence in first..first + u64::from(count) {
        let entry = sequence.to_string();
        let head = ReadEntry { timestamp_ns: U64::new(sequence), length: U16::new(entry.len() as u16) };
        payload.extend([head.as_bytes(), entry.as_bytes()].concat());
    }
    datagram(&Header { slot: Slot(round.into()), ..header(Kind::StreamData) }, &payload)
}

fn end(round: u32, reason: StreamEnd) -> Vec<u8> {
    let body = StreamEndBody {
        stream: U64::new(STREAM),
        round: U32::new(round),
        reason: reason as u8,
        ..StreamEndBody::new_zeroed()
    };
    datagram(&header(Kind::StreamEnd), body.as_bytes())
}

fn taken(core: &mut SubscribeCore) -> Vec<u64> {
    let mut taken = Vec::new();
    while let Some(entry) = core.next_entry() {
        assert_eq!(entry.payload, entry.sequence.to_string().as_bytes());
        taken.push(entry.sequence.0);
    }
    taken
}

#[test]
fn the_cookie_is_shown_and_credit_is_renewed_as_entries_are_taken() {
    let mut core = core(4);
    let (to, first) = said(&mut core, 0).unwrap();
    assert_eq!((to, first.cookie.get(), first.next.get(), first.credit.get()), (address(1), 0, 1, 4));
    assert!(said(&mut core, 0).is_none(), "once");
    core.handle(MS, address(1), &data(9, 1, 0, 1, 0));
    let (_, second) = said(&mut core, MS).unwrap();
    assert_eq!((second.cookie.get(), second.round.get()), (9, 1));
    for position in 1..=4 {
        core.handle(2 * MS, address(1), &data(9, 1, position, position, 1));
    }
    assert!(said(&mut core, 2 * MS).is_none(), "nothing was taken: no credit");
    assert_eq!(taken(&mut core), [1, 2, 3, 4]);
    let (_, renewed) = said(&mut core, 2 * MS).unwrap();
    assert_eq!((renewed.next.get(), renewed.received.get(), renewed.credit.get()), (5, 4, 8));
}

#[test]
fn a_gap_that_stays_begins_a_round_and_what_was_overtaken_does_not() {
    let mut core = core(8);
    said(&mut core, 0);
    core.handle(MS, address(1), &data(9, 1, 2, 3, 2));
    assert_eq!(taken(&mut core), []);
    core.handle(MS, address(1), &data(9, 1, 1, 1, 2));
    assert_eq!(taken(&mut core), [1, 2, 3, 4], "overtaken");
    core.handle(2 * MS, address(1), &data(9, 1, 4, 7, 2));
    let (_, before) = said(&mut core, 2 * MS).unwrap();
    assert_eq!((before.round.get(), before.next.get()), (1, 5), "the cookie is shown");
    let (_, again) = said(&mut core, 2 * MS + GAP_NS).unwrap();
    assert_eq!((again.round.get(), again.next.get(), again.received.get()), (2, 5, 4));
    core.handle(5 * MS, address(1), &data(9, 2, 5, 5, 4));
    core.handle(5 * MS, address(1), &data(9, 1, 3, 5, 2));
    assert_eq!(taken(&mut core), [5, 6, 7, 8]);
    assert_eq!((core.counters().gaps, core.counters().duplicates), (1, 1));
}

#[test]
fn the_last_datagrams_loss_is_seen_by_the_next_word() {
    let mut core = core(8);
    said(&mut core, 0);
    core.handle(MS, address(1), &data(9, 1, 0, 1, 0));
    said(&mut core, MS).unwrap();
    core.handle(2 * MS, address(1), &data(9, 1, 0, 1, 0));
    let (_, alive) = said(&mut core, MS + KEEP_ALIVE_NS).unwrap();
    assert_eq!(alive.round.get(), 1);
    // One datagram of three entries was sent meanwhile.
    core.handle(2 * MS + KEEP_ALIVE_NS, address(1), &data(9, 1, 1, 4, 0));
    let (_, again) = said(&mut core, 2 * MS + KEEP_ALIVE_NS + GAP_NS).unwrap();
    assert_eq!((again.round.get(), again.next.get()), (2, 1));
}

#[test]
fn a_silent_node_is_left_and_the_stream_goes_on_where_it_was() {
    let mut core = core(8);
    said(&mut core, 0);
    core.handle(MS, address(1), &data(9, 1, 1, 1, 3));
    assert_eq!(taken(&mut core), [1, 2, 3]);
    let mut asked = Vec::new();
    while asked.last() != Some(&address(2)) {
        let now_ns = core.poll_timeout().unwrap();
        let Some((to, body)) = said(&mut core, now_ns) else { continue };
        assert_eq!(body.next.get(), 4);
        assert_eq!(body.cookie.get(), if to == address(1) { 9 } else { 0 });
        asked.push(to);
        assert!(asked.len() < 10, "it stays with a silent node: {asked:?}");
    }
    assert_eq!(core.counters().moves, 1);
    core.handle(1_000 * MS, address(1), &data(9, 2, 2, 4, 1));
    assert_eq!(taken(&mut core), [], "it is no longer the one that serves");
}

#[test]
fn a_node_that_is_cut_off_is_left_once_it_has_nothing_more() {
    let mut core = core(8);
    said(&mut core, 0);
    let says = |core: &mut SubscribeCore, now_ns, first, count, tail, mode| {
        core.handle(now_ns, address(1), &data_of((tail, mode), 9, 1, 1, first, count));
        core.serving() == address(1)
    };
    assert!(says(&mut core, MS, 1, 2, 9, Mode::Degraded));
    assert!(says(&mut core, 2 * MS + CUT_OFF_NS, 3, 0, 9, Mode::Degraded), "it has more for us");
    assert!(says(&mut core, 3 * MS + CUT_OFF_NS, 3, 7, 9, Mode::Degraded), "now it has not");
    assert!(says(&mut core, 2 * MS + 2 * CUT_OFF_NS, 10, 0, 9, Mode::Election));
    assert!(says(&mut core, 3 * MS + 2 * CUT_OFF_NS, 10, 0, 9, Mode::Target), "it is back");
    assert!(says(&mut core, 4 * MS + 2 * CUT_OFF_NS, 10, 0, 9, Mode::Degraded));
    assert!(!says(&mut core, 4 * MS + 3 * CUT_OFF_NS, 10, 0, 9, Mode::Degraded), "it hears of nothing new");
    let (to, body) = said(&mut core, 4 * MS + 3 * CUT_OFF_NS).unwrap();
    assert_eq!((to, body.next.get(), core.counters().moves), (address(2), 10, 1));
}

#[test]
fn a_reason_is_told_and_decides_what_comes_next() {
    let mut core = core(2);
    said(&mut core, 0);
    for position in 1..=2 {
        core.handle(MS, address(1), &data(9, 1, position, position, 1));
    }
    core.handle(2 * MS, address(1), &end(7, StreamEnd::Slow));
    assert_eq!(core.last_end(), None, "another round's");
    core.handle(2 * MS, address(1), &end(1, StreamEnd::Slow));
    assert_eq!(core.last_end(), Some((address(1), StreamEnd::Slow)));
    assert_eq!((said(&mut core, 9_000 * MS), core.poll_timeout()), (None, None), "there is no room yet");
    assert_eq!(taken(&mut core), [1, 2]);
    let (to, back) = said(&mut core, 9_000 * MS).unwrap();
    assert_eq!((to, back.round.get(), back.next.get(), back.credit.get()), (address(1), 2, 3, 4));
    core.handle(9_001 * MS, address(1), &end(2, StreamEnd::Shutdown));
    let (to, elsewhere) = said(&mut core, 9_001 * MS).unwrap();
    assert_eq!((to, elsewhere.round.get(), elsewhere.cookie.get()), (address(2), 3, 0));
    core.handle(9_002 * MS, address(2), &end(3, StreamEnd::Unreadable));
    let (to, back) = said(&mut core, 9_002 * MS).unwrap();
    assert_eq!((to, back.round.get(), back.next.get()), (address(1), 4, 3), "another member may have it");
    core.leave();
    assert_eq!(said(&mut core, 9_002 * MS).unwrap().1.leaves, 1);
}

#[test]
fn a_stream_whose_next_entries_were_trimmed_ends_after_those_that_came() {
    let mut core = core(2);
    said(&mut core, 0);
    core.handle(MS, address(1), &data(9, 1, 1, 1, 2));
    let trimmed = |round, next| {
        let body = StreamEndBody {
            stream: U64::new(STREAM),
            round: U32::new(round),
            next: U64::new(next),
            reason: StreamEnd::Trimmed as u8,
            mode: 0,
            reserved: [0; 2],
        };
        datagram(&header(Kind::StreamEnd), body.as_bytes())
    };
    core.handle(2 * MS, address(1), &trimmed(1, 3));
    assert_eq!(core.trimmed(), None, "what comes next is there");
    assert_eq!(said(&mut core, 2 * MS).unwrap().1.round.get(), 2, "it begins another round");
    core.handle(3 * MS, address(1), &trimmed(2, 9));
    assert_eq!((core.trimmed(), core.poll_timeout()), (Some(Sequence(9)), None));
    assert_eq!(said(&mut core, u64::MAX), None);
    core.handle(4 * MS, address(1), &data(9, 2, 2, 3, 1));
    assert_eq!(taken(&mut core), [1, 2], "what is late does not make it go on");
    core.leave();
    assert_eq!(said(&mut core, 5 * MS).unwrap().1.leaves, 1);
}

/// A node that pushes: the rule of `streams.rs` in a few lines.
#[derive(Default)]
struct Pusher {
    round: u32,
    next: u64,
    sent: u64,
    credit: u64,
}

impl Pusher {
    fn hear(&mut self, body: &SubscribeBody, tail: u64) -> Vec<Vec<u8>> {
        if body.cookie.get() != 9 {
            return vec![data(9, body.round.get(), body.received.get(), body.next.get(), 0)];
        }
        if body.round.get() < self.round {
            return Vec::new();
        }
        if body.round.get() > self.round {
            *self = Pusher { round: body.round.get(), next: body.next.get(), sent: body.received.get(), credit: 0 };
        }
        self.credit = self.credit.max(body.credit.get());
        let mut out = Vec::new();
        while self.sent < self.credit && self.next <= tail {
            self.sent += 1;
            let count = (tail + 1 - self.next).min(3);
            out.push(data(9, self.round, self.sent, self.next, count as u16));
            self.next += count;
        }
        out.push(data(9, self.round, self.sent, self.next, 0));
        out
    }
}

#[test]
fn over_a_bad_network_every_entry_comes_once_and_in_order() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let (mut core, mut node) = (core(4), Pusher::default());
        let (mut wire, mut next, tail): (Vec<(u64, Vec<u8>)>, u64, u64) = (Vec::new(), 1, 300);
        let mut now_ns = 0;
        while next <= tail {
            now_ns += 500_000;
            assert!(now_ns < 120_000 * MS, "seed {seed} stands still at {next}: {core:?}");
            let (due, later) = wire.into_iter().partition(|(at_ns, _)| *at_ns <= now_ns);
            wire = later;
            let due: Vec<(u64, Vec<u8>)> = due;
            for (_, bytes) in due {
                core.handle(now_ns, core.serving(), &bytes);
                assert!(core.held.len() <= 4, "the buffer is bounded");
            }
            while random.percent(70)
                && let Some(entry) = core.next_entry()
            {
                assert_eq!(entry.sequence.0, next);
                next += 1;
            }
            if let Some((_, body)) = said(&mut core, now_ns).filter(|_| random.percent(80)) {
                for bytes in node.hear(&body, tail) {
                    let copies = [0, 1, 1, 1, 1, 2][random.below(6) as usize];
                    for _ in 0..copies {
                        wire.push((now_ns + random.below(4) * MS, bytes.clone()));
                    }
                }
            }
        }
    }
}

#[test]
fn noise_is_counted_and_changes_nothing() {
    let mut core = core(4);
    said(&mut core, 0);
    core.handle(MS, address(2), &data(9, 1, 1, 1, 1));
    core.handle(MS, address(1), &[0; 128]);
    core.handle(MS, address(1), &data(9, 2, 1, 1, 1));
    core.handle(MS, address(1), &data(9, 1, 1, 0, 0));
    assert_eq!((core.counters().foreign, core.counters().malformed), (2, 2));
    assert_eq!(taken(&mut core), []);
    let body = SubscribeBody::read_from_bytes(&[0; size_of::<SubscribeBody>()]).unwrap();
    assert_eq!(body.stream.get(), 0);
}
