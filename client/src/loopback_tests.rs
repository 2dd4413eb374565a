//! The drivers and the façade over real sockets, against small nodes on threads of their own.

use crate::testing::*;
use crate::*;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use synod_wire::Slot;
use synod_wire::client::{Counter, Decision, ReadBody, StatusBody, role};
use synod_wire::frame::Kind;
use synod_wire::picture::PictureBody;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const STOP: &[u8] = b"stop";

/// A node: answers each request with the datagrams that its closure yields, until it is dropped.
struct Node {
    address: SocketAddrV4,
    thread: Option<JoinHandle<()>>,
}

fn bind() -> (UdpSocket, SocketAddrV4) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let SocketAddr::V4(address) = socket.local_addr().unwrap() else { panic!("an IPv4 socket has an IPv4 address") };
    (socket, address)
}

impl Node {
    fn start(answer: impl FnMut(Asked) -> Vec<Vec<u8>> + Send + 'static) -> Node {
        Node::start_on(bind(), answer)
    }

    fn start_on(
        (socket, address): (UdpSocket, SocketAddrV4),
        mut answer: impl FnMut(Asked) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Node {
        let serve = move || {
            let mut buffer = [0; 2_048];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                if &buffer[..length] == STOP {
                    return;
                }
                for reply in answer(parse_request(&buffer[..length])) {
                    socket.send_to(&reply, from).unwrap();
                }
            }
        };
        Node { address, thread: Some(std::thread::spawn(serve)) }
    }

    fn member(&self, node: u8) -> (NodeId, SocketAddrV4) {
        (NodeId(node), self.address)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        bind().0.send_to(STOP, self.address).unwrap();
        let outcome = self.thread.take().expect("joined once").join();
        // A failed assertion of the node's fails the test, unless that is failing already.
        if !std::thread::panicking() {
            outcome.expect("the node's thread failed");
        }
    }
}

/// A leader that commits at once: client sequence n gets sequence 1000 + n.
fn prompt_leader() -> impl FnMut(Asked) -> Vec<Vec<u8>> + Send {
    let mut last = 0;
    move |asked| match asked {
        Asked::Open(client_id) => {
            assert_eq!(client_id, CLIENT);
            vec![opened(last, 64)]
        }
        Asked::Append { first_seq, entries } if first_seq <= last + 1 => {
            last = last.max(first_seq + entries.len() as u64 - 1);
            vec![appended(&[(first_seq, 1_000 + first_seq, 7, entries.len() as u32)], 64)]
        }
        Asked::Append { first_seq, .. } => {
            vec![Refuse { reference: first_seq, detail: last + 1, ..Refuse::with(Refusal::ResendFrom) }.datagram()]
        }
        other => panic!("unexpected {other:?}"),
    }
}

fn refuses(refusal: Refusal, leader: Option<SocketAddrV4>) -> Node {
    Node::start(move |asked| {
        let reference = match asked {
            Asked::Read(body) => body.request_id.get(),
            _ => 0,
        };
        vec![Refuse { leader, reference, ..Refuse::with(refusal) }.datagram()]
    })
}

fn connect(members: &[(NodeId, SocketAddrV4)], options: Options) -> Result<Appender, ClientError> {
    Appender::connect(CLUSTER, GROUP, members.to_vec(), CLIENT, options)
}

fn short() -> Options {
    Options { deadline: Duration::from_millis(80), ..Options::default() }
}

#[test]
fn entries_are_appended_through_a_redirect_blocking_and_spinning() {
    for spin in [Duration::ZERO, Duration::from_micros(200)] {
        let leader = Node::start(prompt_leader());
        let follower = refuses(Refusal::NotLeader, Some(leader.address));
        let options = Options { spin, window_entries: 16, ..Options::default() };
        let mut appender = connect(&[follower.member(0), leader.member(1)], options).unwrap();
        assert_eq!((appender.last_committed(), appender.max_entry_bytes()), (0, 1_350));
        let first = Ack {
            client_seq: 1,
            sequence: Sequence(1_001),
            timestamp_ns: 7,
            durability: Durability::Disk,
            guarantee: Guarantee::COMMITTED,
            receipt: None,
        };
        assert_eq!(appender.append(b"first").unwrap(), first);
        let mut acks = Vec::new();
        let count = appender.append_all((0..500u32).map(|i| i.to_le_bytes()), |ack| acks.push(ack)).unwrap();
        let expected = |i| Ack {
            client_seq: i,
            sequence: Sequence(1_000 + i),
            timestamp_ns: 7,
            durability: Durability::Disk,
            guarantee: Guarantee::COMMITTED,
            receipt: None,
        };
        assert_eq!((count, acks), (500, (2..=501).map(expected).collect::<Vec<_>>()));
        assert_eq!(appender.client().core().leader(), Some(leader.address));
        drop(appender);
        let resumed = connect(&[leader.member(1)], Options::default()).unwrap();
        assert_eq!(resumed.last_committed(), 501);
    }
}

#[test]
fn bad_entries_fail_alone() {
    let leader = Node::start(prompt_leader());
    let mut appender = connect(&[leader.member(0)], Options::default()).unwrap();
    assert!(matches!(appender.append(b""), Err(ClientError::EmptyEntry)));
    assert!(matches!(appender.append(&[0; 1_351]), Err(ClientError::TooLarge { limit_bytes: 1_350 })));
    assert_eq!(appender.append(&[0; 1_350]).unwrap().client_seq, 1);
}

#[test]
fn no_leader_no_quorum_and_nobody_there_are_told_apart() {
    let (_silent, silent) = bind();
    let nobody = connect(&[(NodeId(0), silent)], short()).unwrap_err();
    assert!(nobody.is_unavailable());
    assert!(matches!(&nobody, ClientError::NoLeader(cause) if !cause.answered && cause.last_refusal.is_none()));

    let follower = refuses(Refusal::NoLeader, None);
    let no_leader = connect(&[follower.member(0)], short()).unwrap_err();
    assert!(no_leader.is_unavailable() && no_leader.to_string().contains("NO_LEADER"), "{no_leader}");
    assert!(matches!(&no_leader, ClientError::NoLeader(cause) if cause.answered));

    let alone = refuses(Refusal::QuorumUnavailable, None);
    let no_quorum = connect(&[alone.member(0)], short()).unwrap_err();
    assert!(no_quorum.is_unavailable() && matches!(no_quorum, ClientError::NoQuorum(_)), "{no_quorum}");

    let nameless = connect(&[], short()).unwrap_err();
    assert!(matches!(nameless, ClientError::Options(OptionsError::NoMembers)));
}

#[test]
fn an_append_that_is_not_answered_has_an_unknown_outcome() {
    let mut leader = prompt_leader();
    let node = Node::start(move |asked| match asked {
        Asked::Append { first_seq, .. } if first_seq > 1 => Vec::new(),
        asked => leader(asked),
    });
    let mut appender = connect(&[node.member(0)], short()).unwrap();
    appender.append(b"answered").unwrap();
    let mut acks = 0;
    appender.push(b"in vain", &mut |_| acks += 1).unwrap();
    let impatient = appender.flush(Duration::from_millis(1), &mut |_| acks += 1).unwrap_err();
    assert!(matches!(impatient, ClientError::Timeout { first: 2, last: 2, .. }));
    let error = appender.append(b"in vain").unwrap_err();
    assert!(error.is_outcome_unknown() && matches!(error, ClientError::Timeout { first: 2, last: 3, .. }), "{error}");
    let closed = appender.append(b"too late").unwrap_err();
    assert!(matches!(closed, ClientError::Closed(CloseReason::DeadlinePassed)));
    assert_eq!(acks, 0);
}

#[test]
fn an_evicted_session_says_what_is_uncertain() {
    let mut leader = prompt_leader();
    let node = Node::start(move |asked| match asked {
        Asked::Append { .. } => vec![Refuse::with(Refusal::SessionEvicted).datagram()],
        asked => leader(asked),
    });
    let mut appender = connect(&[node.member(0)], Options::default()).unwrap();
    let error = appender.append(b"x").unwrap_err();
    assert!(matches!(error, ClientError::SessionEvicted { first: 1, last: 1 }), "{error}");
}

#[test]
fn a_refusal_for_good_says_what_was_under_way() {
    let mut leads = prompt_leader();
    let leader = Node::start(move |asked| match &asked {
        Asked::Append { first_seq, .. } if *first_seq > 1 => {
            vec![Refuse { reference: *first_seq, detail: 100, ..Refuse::with(Refusal::TooLarge) }.datagram()]
        }
        _ => leads(asked),
    });
    let mut appender = connect(&[leader.member(0)], Options::default()).unwrap();
    appender.append(b"one").unwrap();
    for entry in [&[7; 50][..], &[7; 200]] {
        appender.push(entry, &mut |ack| panic!("{ack:?}")).unwrap();
    }
    let error = appender.flush(Duration::from_secs(5), &mut |ack| panic!("{ack:?}")).unwrap_err();
    let refusal = Refusal::TooLarge;
    assert!(
        matches!(error, ClientError::ClosedByRefusal { refusal: told, detail: 100, first: 2, last: 3 } if told == refusal),
        "{error}"
    );
    assert!(error.is_outcome_unknown() && error.to_string().contains("entries 2..=3 is unknown"), "{error}");
}

/// A leader whose log takes one entry, from whoever brings the highest token.
fn fencing_leader() -> impl FnMut(Asked) -> Vec<Vec<u8>> + Send {
    let mut tail = 0;
    move |asked| match asked {
        Asked::AppendIf { condition, first_seq, entries } if condition.matches() == Some(tail) => {
            tail += entries.len() as u64;
            vec![appended(&[(first_seq, tail, 7, entries.len() as u32)], 64)]
        }
        Asked::AppendIf { condition, first_seq, entries } => {
            let (decision, value) = match condition.matches() {
                Some(_) => (Decision::TailMoved, tail),
                None => (Decision::Fenced, 9),
            };
            vec![not_appended(first_seq, decision, value, entries.len() as u32)]
        }
        Asked::Open(_) => vec![opened(0, 64)],
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn a_condition_that_is_not_met_is_told_and_the_appender_goes_on() {
    let node = Node::start(fencing_leader());
    let mut appender = connect(&[node.member(0)], Options::default()).unwrap();
    assert_eq!(appender.session(), SESSION);
    let at = |tail| Condition::tail(Sequence(tail));
    assert_eq!(appender.append_if(b"first", at(0)).unwrap().sequence, Sequence(1));
    let error = appender.append_if(b"second", at(0)).unwrap_err();
    let moved = Unmet::TailMoved { tail: Sequence(1) };
    assert!(matches!(&error, ClientError::NotAppended { first: 2, last: 2, unmet, .. } if *unmet == moved), "{error}");
    assert!(!error.is_outcome_unknown() && !error.is_unavailable());
    assert_eq!(appender.append_if(b"third", at(1)).unwrap().sequence, Sequence(2));
    // Pushed together, and told one after the other.
    let fence = Condition::fence(std::num::NonZeroU64::new(1).unwrap());
    for entry in [&b"fourth"[..], b"fifth"] {
        appender.push_if(entry, fence, &mut |_| {}).unwrap();
    }
    let error = appender.flush(Duration::from_secs(10), &mut |_| {}).unwrap_err();
    assert!(
        matches!(error, ClientError::NotAppended { first: 4, last: 5, unmet: Unmet::Fenced { highest: 9 }, .. }),
        "{error}"
    );
    appender.flush(Duration::from_secs(10), &mut |_| {}).unwrap();
}

#[test]
fn a_client_that_lost_its_memory_asks_how_far_it_got() {
    let ask = |node: &Node, options| last_committed(CLUSTER, GROUP, vec![node.member(0)], CLIENT, options);
    let node = Node::start(|asked| {
        assert_eq!(asked, Asked::Resume(synod_wire::batch::open::EXISTING), "the question opens nothing");
        vec![opened(41, 64)]
    });
    let committed = ask(&node, Options::default()).unwrap();
    assert_eq!(committed, Some(Committed { session: SESSION, last_committed: 41 }));
    let gone = Node::start(|asked| {
        let Asked::Resume(detail) = asked else { panic!("unexpected {asked:?}") };
        vec![Refuse { detail, ..Refuse::with(Refusal::SessionEvicted) }.datagram()]
    });
    assert_eq!(ask(&gone, Options::default()).unwrap(), None);
    let named = Options { resume: Resume::Session(7), ..Options::default() };
    assert_eq!(ask(&gone, named).unwrap(), None);
    let error = ask(&refuses(Refusal::NoLeader, None), short()).unwrap_err();
    assert!(matches!(error, ClientError::NoLeader(_)), "{error}");
}

// ---- Reading ----

fn payload(sequence: u64) -> Vec<u8> {
    vec![sequence as u8; 1 + sequence as usize % 50]
}

/// The datagrams of a reply to `body` from a log of `tail` entries, ten a datagram.
fn serve(body: &ReadBody, tail: u64) -> Vec<Vec<u8>> {
    let (id, from) = (body.request_id.get(), body.from_sequence.get());
    let end = (tail + 1).min(from + u64::from(body.max_entries.get()));
    if from == 0 || from >= end {
        return vec![read_reply(id, from, tail, true, &[])];
    }
    let most = usize::from(body.max_datagrams.get());
    let firsts: Vec<u64> = (from..end).step_by(10).take(most).collect();
    let datagram = |first: &u64| {
        let payloads: Vec<Vec<u8>> = (*first..end.min(first + 10)).map(payload).collect();
        let entries: Vec<(u64, &[u8])> = payloads.iter().map(|bytes| (99, bytes.as_slice())).collect();
        read_reply(id, *first, tail, Some(first) == firsts.last(), &entries)
    };
    firsts.iter().map(datagram).collect()
}

fn reader(members: &[&Node]) -> Reader {
    let options = ReadOptions { deadline: Duration::from_secs(10), ..ReadOptions::default() };
    Reader::new(CLUSTER, GROUP, members.iter().map(|node| node.address).collect(), options).unwrap()
}

#[test]
fn lost_datagrams_are_asked_for_again_and_the_log_comes_complete() {
    let mut reads = 0;
    let node = Node::start(move |asked| {
        let Asked::Read(body) = asked else { panic!("unexpected {asked:?}") };
        let mut datagrams = serve(&body, 1_000);
        reads += 1;
        // Early answers lose their third, fourth and last datagram, and one of two comes twice.
        if reads <= 3 && datagrams.len() > 5 {
            datagrams.pop();
            datagrams.drain(2..4);
            datagrams.insert(1, datagrams[0].clone());
        }
        datagrams
    });
    let mut reader = reader(&[&node]);
    reader.read(Sequence(5), u64::MAX);
    let mut expected = 5;
    while let Some(entry) = reader.next_entry().unwrap() {
        assert_eq!((entry.sequence, entry.timestamp_ns), (Sequence(expected), 99));
        assert_eq!(entry.payload, payload(expected));
        expected += 1;
    }
    assert_eq!((expected, reader.known_tail()), (1_001, Some(Sequence(1_000))));
    let counters = reader.core().counters();
    assert!(counters.gaps_asked >= 2 && counters.timeouts >= 2, "{counters:?}");
    reader.read(Sequence(100), 3);
    let mut count = 0;
    while reader.next_entry().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 3);
}

#[test]
fn a_follower_of_the_tail_gets_what_comes_later() {
    let mut asked_at_tail = 0;
    let node = Node::start(move |asked| {
        let Asked::Read(body) = asked else { panic!("unexpected {asked:?}") };
        assert_eq!(body.wait_ms.get(), 20);
        asked_at_tail += u32::from(body.from_sequence.get() == 3);
        serve(&body, if asked_at_tail < 3 { 2 } else { 4 })
    });
    let mut reader = reader(&[&node]);
    reader.tail(Sequence(1), Duration::from_millis(20));
    let (mut sequences, mut pauses) = (Vec::new(), 0);
    while sequences.len() < 4 {
        match reader.next_entry().unwrap() {
            Some(entry) => sequences.push(entry.sequence.0),
            None => pauses += 1,
        }
        assert!(pauses < 1_000, "the node answers, but nothing comes");
    }
    assert_eq!(sequences, [1, 2, 3, 4]);
}

#[test]
fn a_reader_that_hears_nothing_gives_up_and_one_that_is_refused_says_so() {
    let (_silent, silent) = bind();
    let options = ReadOptions { deadline: Duration::from_millis(60), ..ReadOptions::default() };
    let mut reader = Reader::new(CLUSTER, GROUP, vec![silent], options.clone()).unwrap();
    reader.read(Sequence(1), 1);
    let start = Instant::now();
    let error = reader.next_entry().unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(60));
    assert!(matches!(&error, ClientError::NoAnswer(cause) if !cause.answered), "{error}");
    reader.tail(Sequence(1), Duration::from_millis(20));
    let mut waits = 0;
    let error = loop {
        match reader.next_entry() {
            Ok(entry) => assert_eq!((entry, waits < 100), (None, true)),
            Err(error) => break error,
        }
        waits += 1;
    };
    assert!(waits >= 3 && matches!(error, ClientError::NoAnswer(_)), "{waits} waits, then {error}");

    let node = refuses(Refusal::Recovering, None);
    let mut reader = Reader::new(CLUSTER, GROUP, vec![node.address], options).unwrap();
    reader.read(Sequence(1), 1);
    let error = reader.next_entry().unwrap_err();
    assert!(error.to_string().contains("RECOVERING"), "{error}");
}

// ---- Questions ----

fn status_reply(node: u8, request_id: u64, role: u8, round: u64, tail: u64, counters: &[u64]) -> Vec<u8> {
    let mut head = header(Kind::StatusReply);
    head.from = NodeId(node);
    datagram(&head, &status_payload(request_id, role, round, tail, counters))
}

fn status_payload(request_id: u64, role: u8, round: u64, tail: u64, counters: &[u64]) -> Vec<u8> {
    let mut body = StatusBody::new_zeroed();
    body.request_id = U64::new(request_id);
    body.role = role;
    body.promised = U64::new(synod_wire::Ballot { round, node: NodeId(2) }.pack());
    body.tail = U64::new(tail);
    body.uptime_ns = U64::new(1_500_000_000);
    body.core = U32::new(u32::MAX);
    body.counters = counters.len() as u8;
    let mut payload = body.as_bytes().to_vec();
    counters.iter().for_each(|value| payload.extend_from_slice(&value.to_le_bytes()));
    payload
}

#[test]
fn a_picture_is_read_whole_or_not_at_all_and_who_is_silent_keeps_no_other_answer_back() {
    let mut body = PictureBody::new_zeroed();
    (body.members, body.voters, body.phase1, body.phase2) = (2, U64::new(0b101), 2, 2);
    body.nodes[1] = 2;
    body.delivered[1] = U64::new(43);
    (body.first_slot, body.p999_ns, body.commits[3]) = (U64::new(9), U32::new(1_500), U64::new(7));
    let told = move |bytes: usize| {
        let mut payload = status_payload(1, role::LEADER, 4, 77, &[]);
        payload.extend_from_slice(&body.as_bytes()[..bytes]);
        let head = synod_wire::frame::Header { from: NodeId(2), ..header(Kind::StatusReply) };
        datagram(&head, &payload)
    };
    let all = size_of::<PictureBody>();
    let node = Node::start(move |_| vec![told(all - 1), told(all)]);
    let (_silent, silent) = bind();
    let asked = [(GROUP, silent), (GROUP, node.address)];
    let mut answers = statuses(&asked, CLUSTER, Duration::from_millis(150)).unwrap().into_iter();
    assert!(matches!(answers.next(), Some(Err(ClientError::NoAnswer(_)))));
    let picture = answers.next().unwrap().unwrap().picture.expect("it is whole");
    assert_eq!((picture.first_slot, picture.snapshot, picture.voters.len()), (Slot(9), None, 2));
    assert_eq!(picture.positions, [(NodeId(0), None), (NodeId(2), Some(Slot(42)))]);
    assert_eq!((picture.p999, picture.commits[3]), (Duration::from_nanos(1_500), 7));
}

/// A node that answers for its tail, as recently as this; the first `deaf` datagrams get no answer.
fn informant(node: u8, tail: u64, recency: Recency, mut deaf: u32) -> Node {
    Node::start(move |asked| {
        let Asked::Read(body) = asked else { panic!("unexpected {asked:?}") };
        if deaf > 0 {
            deaf -= 1;
            return Vec::new();
        }
        vec![recent_reply(node, recency, (body.request_id.get(), 0, tail, true), &[])]
    })
}

#[test]
fn status_names_what_it_knows_and_keeps_what_it_does_not() {
    let more = Counter::ALL.len() as u64 + 2;
    let counters: Vec<u64> = (0..more).map(|i| i * 3).collect();
    let mut asked = 0;
    let node = Node::start(move |request| {
        let Asked::Status { request_id } = request else { panic!("unexpected {request:?}") };
        asked += 1;
        // The first question is lost, the second gets an answer to another one.
        match asked {
            1 => Vec::new(),
            2 => vec![status_reply(2, request_id + 1, role::HALTED, 9, 9, &[])],
            _ => vec![status_reply(2, request_id, role::LEADER, 4, 77, &counters)],
        }
    });
    let status = status(node.address, CLUSTER, GROUP, Duration::from_secs(10)).unwrap();
    assert_eq!((status.node, status.role_name(), status.tail), (NodeId(2), "leader", Sequence(77)));
    assert_eq!((status.core, status.leader, status.uptime), (None, None, Duration::from_millis(1_500)));
    assert_eq!(status.counters.len() as u64, more);
    assert_eq!(status.counter(Counter::Flushes), Some(Counter::Flushes as u64 * 3));
    assert_eq!(status.named_counters().count(), Counter::ALL.len());
    assert_eq!(status.named_counters().next(), Some(("turns", 0)));
}

#[test]
fn status_of_a_node_that_is_silent_or_refuses_is_an_error() {
    let (_silent, silent) = bind();
    let wait = Duration::from_millis(60);
    let error = status(silent, CLUSTER, GROUP, wait).unwrap_err();
    assert!(matches!(error, ClientError::NoAnswer(_)) && error.is_unavailable());
    let node = refuses(Refusal::ManualIntervention, None);
    let error = status(node.address, CLUSTER, GROUP, Duration::from_secs(10)).unwrap_err();
    assert!(matches!(error, ClientError::Refused { refusal: Refusal::ManualIntervention, .. }), "{error}");
}

#[test]
fn the_tail_is_the_first_word_that_is_recent_enough_or_the_highest() {
    let long = Duration::from_secs(10);
    let fresh = informant(1, 60, Recency::FreshReadIndex, 3);
    let stale = informant(0, 50, Recency::StalePossible, 0);
    let bounded = informant(2, 58, Recency::BoundedStale(20), 0);
    let all = |nodes: &[&Node]| nodes.iter().map(|node| node.address).collect::<Vec<_>>();
    let ask = |nodes: &[&Node], consistency| check_tail(all(nodes), CLUSTER, GROUP, long, consistency).unwrap();
    let tail = ask(&[&stale, &bounded, &fresh], Consistency::ReadIndex);
    assert_eq!(tail, Tail { sequence: Sequence(60), node: NodeId(1), recency: Recency::FreshReadIndex });
    assert_eq!(ask(&[&stale, &bounded], Consistency::Bounded(20)).sequence, Sequence(58));
    assert_eq!(ask(&[&stale, &bounded], Consistency::Local).node, NodeId(2), "the highest");

    let (_silent, silent) = bind();
    let soon = Duration::from_millis(150);
    let members = vec![stale.address, silent];
    let tail = check_tail(members.clone(), CLUSTER, GROUP, soon, Consistency::Local).unwrap();
    assert_eq!(tail, Tail { sequence: Sequence(50), node: NodeId(0), recency: Recency::StalePossible });
    for consistency in [Consistency::ReadIndex, Consistency::Bounded(19)] {
        let error = check_tail(all(&[&stale, &bounded]), CLUSTER, GROUP, soon, consistency).unwrap_err();
        assert!(matches!(error, ClientError::NoAnswer(_)), "none of the answers is what was asked for: {error}");
    }
    let refusing = refuses(Refusal::QuorumUnavailable, None);
    let error = check_tail(vec![refusing.address], CLUSTER, GROUP, soon, Consistency::ReadIndex).unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("QUORUM_UNAVAILABLE"), "{error}");
}
